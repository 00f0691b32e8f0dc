"""Answers bent as bad nodes bend them (faults F2 to F10): each lie takes an answer and returns another, or None.

None: the answer gives no room for that lie, or it would not be fair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, Literal

from simulator.chain import SimChain

Lie = Literal[
    "drops_logs",
    "drops_blocks",
    "removed",
    "repeats",
    "contradicts",
    "outside",
    "foreign",
    "wrong_hash",
    "wrong_index",
    "alters",
    "invents",
    "null",
    "no_block",
    "other_block",
    "bad_header",
    "low_head",
    "no_final",
    "no_receipts",
    "receipts_lack",
    "receipts_alter",
]
Log = dict[str, Any]


@dataclass(slots=True)
class Fairness:
    """What all providers of a world may lie about, so that the truth can be found.

    `proven`: receipts are asked for, and every lie about logs can be found out. Otherwise one can be that a header
    shows, which is fetched for blocks above the finalized one, and no block is lied about twice.
    """

    proven: bool
    final: int = -1  # highest finalized block that any provider may have told
    told: set[str] = field(default_factory=set)  # hashes of the blocks that were lied about

    def allows(self, block_hash: str, *, once: bool) -> bool:
        """Say whether a lie about that block's logs is fair, and remember it."""
        if (once or not self.proven) and block_hash in self.told:
            return False
        self.told.add(block_hash)
        return True


@dataclass(frozen=True, slots=True)
class Situation:
    """Who lies, and what was asked. `alone`: no other provider tells the truth."""

    random: Random
    chain: SimChain
    fairness: Fairness
    alone: bool
    params: list[Any]

    def pick(self, logs: Iterable[Log], *, above_final: bool) -> str | None:
        """Choose a block to lie about: its hash; at `logs` only one whose header will be looked at."""
        hashes = {
            log["blockHash"]: int(log["blockNumber"], 16)
            for log in logs
            if self.fairness.proven or not above_final or int(log["blockNumber"], 16) > self.fairness.final
        }
        if not hashes:
            return None
        block_hash = self.random.choice(list(hashes))
        return block_hash if self.fairness.allows(block_hash, once=self.alone) else None


def _drops_logs(at: Situation, logs: list[Log]) -> list[Log] | None:
    """F2: some logs of a block are missing, its hash is right. Only its receipts show it."""
    block_hash = at.pick(logs, above_final=True) if at.fairness.proven else None
    own = [log for log in logs if log["blockHash"] == block_hash]
    if not own:
        return None
    gone = at.random.sample(own, at.random.randrange(1, len(own) + 1))
    return [log for log in logs if log not in gone]


def _drops_blocks(at: Situation, logs: list[Log]) -> list[Log] | None:
    """F3: nothing of a block, though its bloom speaks for something."""
    block_hash = at.pick(logs, above_final=True)
    return None if block_hash is None else [log for log in logs if log["blockHash"] != block_hash]


def _removed(at: Situation, logs: list[Log]) -> list[Log] | None:
    """F7: a log that a reorg took away, marked so."""
    if not logs:
        return None
    log = at.random.choice(logs)
    gone = {**log, "removed": True, "blockHash": _other(log["blockHash"])}
    return at.random.choice(([*logs, gone], [gone, *logs], [{**one, "removed": one is log} for one in logs]))


def _repeats(at: Situation, logs: list[Log]) -> list[Log] | None:
    """F8: the same logs twice, in no order."""
    return at.random.sample([*logs, *logs], 2 * len(logs)) if logs else None


def _contradicts(at: Situation, logs: list[Log]) -> list[Log] | None:
    """F8: two logs at one position."""
    if not logs:
        return None
    log = at.random.choice(logs)
    return [*logs, {**log, "data": log["data"] + "00"}]


def _outside(at: Situation, logs: list[Log]) -> list[Log] | None:
    """F9: a log of a block that was not asked for."""
    if not logs:
        return None
    last = at.random.choice(logs)
    number = int(at.params[0].get("toBlock", last["blockNumber"]), 16) + at.random.choice((1, 7, 10**9))
    return [*logs, {**last, "blockNumber": hex(number), "blockHash": _other(last["blockHash"])}]


def _foreign(at: Situation, logs: list[Log]) -> list[Log] | None:
    """F9: a log of a contract that was not asked for."""
    return [*logs, {**at.random.choice(logs), "address": "0x" + "66" * 20}] if logs else None


def _wrong_hash(at: Situation, logs: list[Log]) -> list[Log] | None:
    """F10: a block's logs, or one of them, name another block hash than its header."""
    block_hash = at.pick(logs, above_final=True)
    if block_hash is None:
        return None
    own = [log for log in logs if log["blockHash"] == block_hash]
    bent = own if at.random.random() < 0.5 else own[:1]
    return [{**log, "blockHash": _other(block_hash)} if log in bent else log for log in logs]


def _wrong_index(at: Situation, logs: list[Log]) -> list[Log] | None:
    """F10: a log names another transaction's index."""
    return _bend(at, logs, lambda log: {**log, "transactionIndex": hex(int(log["transactionIndex"], 16) + 1)})


def _alters(at: Situation, logs: list[Log]) -> list[Log] | None:
    """F2: a log says something else than it did."""
    return _bend(at, logs, lambda log: {**log, "data": _other(log["data"]) if len(log["data"]) > 2 else "0xff"})


def _invents(at: Situation, logs: list[Log]) -> list[Log] | None:
    """F2 the other way round: a log that never was, in a block that speaks for its like."""
    block_hash = at.pick(logs, above_final=True) if at.fairness.proven else None
    own = [log for log in logs if log["blockHash"] == block_hash]
    return [*logs, {**own[-1], "logIndex": hex(int(own[-1]["logIndex"], 16) + 50)}] if own else None


def _bend(at: Situation, logs: list[Log], bend: Callable[[Log], Log]) -> list[Log] | None:
    block_hash = at.pick(logs, above_final=True) if at.fairness.proven else None
    own = [log for log in logs if log["blockHash"] == block_hash]
    if not own:
        return None
    one = at.random.choice(own)
    return [bend(log) if log is one else log for log in logs]


def _other(text: str) -> str:
    """Return hex of the same length that says something else."""
    return text[:-1] + ("0" if text[-1] != "0" else "1")


def _other_block(at: Situation, header: dict[str, Any]) -> dict[str, Any] | None:
    """F10: a true block, but not the one that was asked for."""
    block = at.chain.block(max(0, int(header["number"], 16) - at.random.choice((1, 2, 5))))
    if block is None or block.header["hash"] == header["hash"] or at.params[0] in {"latest", "finalized", "safe"}:
        return None
    return {**block.header, "transactions": [], "uncles": []}


def _bad_header(at: Situation, header: dict[str, Any]) -> dict[str, Any] | None:
    """Change a header, so that it does not have its hash."""
    name = at.random.choice(("stateRoot", "receiptsRoot", "gasUsed", "parentHash", "timestamp"))
    return {**header, name: _other(header[name])}


def _low_head(at: Situation, header: dict[str, Any]) -> dict[str, Any] | None:
    """F4: the head goes backwards."""
    if at.params[0] != "latest":
        return None
    block = at.chain.block(max(0, int(header["number"], 16) - at.random.randrange(1, 30)))
    return None if block is None else {**block.header, "transactions": [], "uncles": []}


def _receipts_lack(at: Situation, receipts: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """F2 in receipts: one is missing, or a log in one; the root shows it."""
    if not receipts:
        return None
    one = at.random.choice(receipts)
    if one["logs"] and at.random.random() < 0.5:
        return [{**receipt, "logs": receipt["logs"][1:]} if receipt is one else receipt for receipt in receipts]
    return [receipt for receipt in receipts if receipt is not one]


def _receipts_alter(at: Situation, receipts: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """F2 in receipts: a figure or a log says something else."""
    if not receipts:
        return None
    one = at.random.choice(receipts)
    gas = hex(int(one["cumulativeGasUsed"], 16) + 1)
    return [{**receipt, "cumulativeGasUsed": gas} if receipt is one else receipt for receipt in receipts]


_LOGS: Final = frozenset({"eth_getLogs"})
_BY_NUMBER: Final = frozenset({"eth_getBlockByNumber"})
_HEADERS: Final = frozenset({"eth_getBlockByNumber", "eth_getBlockByHash"})
_RECEIPTS: Final = frozenset({"eth_getBlockReceipts"})

BENDS: Final[dict[Lie, tuple[frozenset[str], Callable[[Situation, Any], Any]]]] = {
    "drops_logs": (_LOGS, _drops_logs),
    "drops_blocks": (_LOGS, _drops_blocks),
    "removed": (_LOGS, _removed),
    "repeats": (_LOGS, _repeats),
    "contradicts": (_LOGS, _contradicts),
    "outside": (_LOGS, _outside),
    "foreign": (_LOGS, _foreign),
    "wrong_hash": (_LOGS, _wrong_hash),
    "wrong_index": (_LOGS, _wrong_index),
    "alters": (_LOGS, _alters),
    "invents": (_LOGS, _invents),
    "other_block": (_BY_NUMBER, _other_block),
    "bad_header": (_HEADERS, _bad_header),
    "low_head": (_BY_NUMBER, _low_head),
    "receipts_lack": (_RECEIPTS, _receipts_lack),
    "receipts_alter": (_RECEIPTS, _receipts_alter),
}
NULLS: Final[dict[Lie, frozenset[str]]] = {  # answered with null: faults F6 and F24
    "null": _LOGS,
    "no_block": _HEADERS,
    "no_receipts": _RECEIPTS,
}
NEED_RECEIPTS: Final = frozenset({"drops_logs", "alters", "invents", "wrong_index"})  # nothing else shows them


def tell(lie: Lie, at: Situation, method: str, answer: Any) -> Any:
    """Return the answer bent; the answer itself where the lie does not fit."""
    if lie in NULLS:
        return None if method in NULLS[lie] else answer
    if lie == "no_final":
        return None if at.params[:1] == ["finalized"] else answer
    methods, bend = BENDS[lie]
    if method not in methods or answer is None:
        return answer
    bent = bend(at, answer)
    return answer if bent is None else bent
