"""A long, plain history in blocks of ten logs, made from templates: any block can be drawn by its number alone.

All of it is text of one length a log and form, so that a node that serves it has nothing to do but to cut.

Each block registers an agent (Transfer, Registered, MetadataSet of the wallet), gives six feedback and has one other
log. Feedback 0 goes to the new agent, feedback 1 is the second of a pair of client and agent of some blocks before, the
others go to a hundred busy agents, each from a client of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Final

from eth_hash.auto import keccak
from simulator.logs import SimLog, form_log
from workload import IDENTITY, REPUTATION, VALIDATIONS

from indexer.core.types import BlockRef

LOGS_A_BLOCK: Final = 10
FEEDBACK_A_BLOCK: Final = 6
FIRST_BLOCK: Final = 0x1000000  # quantities of one length
FIRST_TIME: Final = 0x60000000
BLOCK_TIME_S: Final = 2
CHAIN_ID: Final = 31337
_BUSY_AGENTS: Final = 100
_PEOPLE: Final = 5_000
_BEFORE: Final = 10  # blocks between a feedback and what is said of it
_ZERO: Final = bytes(20)
_TEXTS: Final = ("quality", "quality", "latency", "https://agent.example/x")
_URI: Final = "ipfs://bafybeigdyrzt5sfp7udm7hu76uh7y26nf3"

# Values that stand for something else in the templates: each encodes to a word that nothing else does.
_MARKS: Final = {name: 0xFEEDC0DE00 + number for number, name in enumerate(("agent", "index", "value"))}
_PERSON: Final = bytes.fromhex("feedfacefeedfacefeedfacefeedfacefeedface")
_HASH: Final = bytes.fromhex("feedbeef" * 8)

_FORMS: Final[Mapping[str, SimLog]] = {
    "transfer": form_log(IDENTITY, "identity/transfer", _ZERO, _PERSON, _MARKS["agent"]),
    "registered": form_log(IDENTITY, "identity/registered", _MARKS["agent"], _URI, _PERSON),
    "wallet": form_log(IDENTITY, "identity/metadata_set", _MARKS["agent"], "agentWallet", "agentWallet", _PERSON),
    "feedback": form_log(
        REPUTATION, "reputation/new_feedback", _MARKS["agent"], _PERSON, _MARKS["index"], _MARKS["value"], 0,
        *_TEXTS, _URI, _HASH,
    ),
    "feedback2": form_log(
        REPUTATION, "reputation/new_feedback", _MARKS["agent"], _PERSON, _MARKS["index"], _MARKS["value"], 2,
        *_TEXTS, _URI, _HASH,
    ),
    "response": form_log(
        REPUTATION, "reputation/response_appended", _MARKS["agent"], _PERSON, _MARKS["index"], _PERSON, _URI, _HASH
    ),
    "revocation": form_log(REPUTATION, "reputation/feedback_revoked", _MARKS["agent"], _PERSON, _MARKS["index"]),
    "request": form_log(VALIDATIONS[0], "validation/validation_request", _PERSON, _MARKS["agent"], _URI, _HASH),
    "answer": form_log(
        VALIDATIONS[0], "validation/validation_response", _PERSON, _MARKS["agent"], _HASH, 77, _URI, _HASH,
        "quality",
    ),
}  # fmt: skip


def _person(number: int) -> int:
    """Return an address, as a number that is not short."""
    return (0xA0 << 152) + number


@cache
def _template(form: str, *, timed: bool) -> str:
    """Write the JSON of a log with the places that vary from log to log left open."""
    log = _FORMS[form]
    time = ',"blockTimestamp":"0x%(time)x"' if timed else ""
    topics = ",".join(f'"0x{topic.hex()}"' for topic in log.topics)
    text = (
        f'{{"address":"0x{log.address.hex()}","topics":[{topics}],"data":"0x{log.data.hex()}",'
        '"blockNumber":"0x%(block)x","blockHash":"0x%(block_hash)s","transactionHash":"0x%(tx)064x",'
        f'"transactionIndex":"0x%(place)x","logIndex":"0x%(place)x","removed":false{time}}}'
    )
    for name, mark in _MARKS.items():
        text = text.replace(f"{mark:064x}", f"%({name})064x")
    return text.replace(_PERSON.hex(), "%(person)040x").replace(_HASH.hex(), "%(hash)064x")


def _feedback(n: int, k: int) -> tuple[int, int, int]:
    """Return agent, client and index of a block's k-th feedback."""
    if k == 0:
        return n, _person(n % _PEOPLE), 1
    if k == 1 and n >= _BEFORE:
        return n - _BEFORE // 2, _person((n - _BEFORE // 2) % _PEOPLE), 2
    return (n * 5 + k) % min(_BUSY_AGENTS, n + 1), _person(_PEOPLE + n * FEEDBACK_A_BLOCK + k), 1


def _value(n: int, k: int) -> int:
    return (n * 7 + k * 13) % 101


def _other(n: int) -> tuple[str, dict[str, int]]:
    """Return the tenth log: a response, a revocation, a validation request or its answer."""
    before = n - _BEFORE if n >= _BEFORE else n
    agent, client, index = _feedback(before, 0)
    match n % 4:
        case 0:
            return "response", {"agent": agent, "person": client, "index": index, "hash": n}
        case 1:
            return "revocation", {"agent": agent, "person": client, "index": index}
        case 2:
            return "request", {"agent": n, "person": _person(n % 97), "hash": n}
        case _:
            asked = n - 1
            return "answer", {"agent": asked, "person": _person(asked % 97), "hash": asked}


def _content(n: int) -> Iterator[tuple[str, dict[str, int]]]:
    owner = _person(n % _PEOPLE)
    for form in ("transfer", "registered", "wallet"):
        yield form, {"agent": n, "person": owner}
    for k in range(FEEDBACK_A_BLOCK):
        agent, client, index = _feedback(n, k)
        form = "feedback" if k < FEEDBACK_A_BLOCK - 2 else "feedback2"
        yield form, {"agent": agent, "person": client, "index": index, "value": _value(n, k), "hash": 0}
    yield _other(n)


def block_logs(number: int, block_hash: str, *, timed: bool) -> str:
    """Write the logs of a block as JSON objects with commas between; `block_hash` is hex without 0x."""
    n = number - FIRST_BLOCK
    shared = {"block": number, "block_hash": block_hash, "time": block_time(number)}
    return ",".join(
        _template(form, timed=timed) % {**shared, **values, "place": place, "tx": (0xF << 252) + n * 16 + place}
        for place, (form, values) in enumerate(_content(n))
    )


def block_time(number: int) -> int:
    """Return a block's time in seconds since 1970."""
    return FIRST_TIME + BLOCK_TIME_S * (number - FIRST_BLOCK)


_HEADER: Final = (
    '{"number":"0x%(number)x","hash":"0x%(hash)s","parentHash":"0x%(parent)s","timestamp":"0x%(time)x",'
    f'"logsBloom":"0x{"ff" * 256}","sha3Uncles":"0x{"11" * 32}","miner":"0x{"22" * 20}","stateRoot":"0x{"33" * 32}",'
    f'"transactionsRoot":"0x{"44" * 32}","receiptsRoot":"0x{"55" * 32}","difficulty":"0x0","gasLimit":"0x1",'
    f'"gasUsed":"0x1","extraData":"0x","mixHash":"0x{"66" * 32}","nonce":"0x0000000000000000","baseFeePerGas":"0x1"}}'
)


def header_json(number: int, block_hash: str, parent_hash: str) -> str:
    """Write a block's header; its bloom is full, so that it excludes nothing."""
    return _HEADER % {"number": number, "hash": block_hash, "parent": parent_hash, "time": block_time(number)}


def _rlp(payload: bytes, offset: int) -> bytes:
    size = len(payload)
    if size < 56:
        return bytes((offset + size,)) + payload
    length = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes((offset + 55 + len(length),)) + length + payload


def block_hashes(count: int) -> list[str]:
    """Return the hashes of `count` blocks, hex without 0x, each of its header, after the first one's parent."""
    before = b"".join(_rlp(bytes([mark]) * size, 0x80) for mark, size in ((0x11, 32), (0x22, 20), (0x33, 32)))
    roots = b"".join(_rlp(bytes([mark]) * 32, 0x80) for mark in (0x44, 0x55))
    middle = before + roots + _rlp(b"\xff" * 256, 0x80) + b"\x80"
    end = b"\x80" + _rlp(b"\x66" * 32, 0x80) + _rlp(bytes(8), 0x80) + b"\x01"
    parent = bytes(32)
    hashes = [parent.hex()]
    for number in range(FIRST_BLOCK, FIRST_BLOCK + count):
        time = block_time(number)
        numbers = _rlp(number.to_bytes(4), 0x80) + b"\x01\x01" + _rlp(time.to_bytes(4), 0x80)
        parent = keccak(_rlp(b"\xa0" + parent + middle + numbers + end, 0xC0))
        hashes.append(parent.hex())
    return hashes


def block_ref(hashes: list[str], number: int) -> BlockRef:
    """Return a block's place in the chain; `hashes` as `block_hashes` gives them."""
    n = number - FIRST_BLOCK
    return BlockRef(number, bytes.fromhex(hashes[n + 1]), bytes.fromhex(hashes[n]), block_time(number))


def expected(blocks: int) -> dict[str, int]:
    """Count and sum what the tables have to say of the first `blocks` blocks."""
    asked = range(blocks)
    scores = sum(_value(n, k) for n in asked for k in range(FEEDBACK_A_BLOCK))
    revoked = len(range(1, blocks, 4))
    requests = len(range(2, blocks, 4))
    return {
        "logs": LOGS_A_BLOCK * blocks,
        "agents": blocks,
        "feedback": FEEDBACK_A_BLOCK * blocks,
        "feedback_sum": scores,
        "revoked": revoked,
        "standing": FEEDBACK_A_BLOCK * blocks - revoked,
        "responses": len(range(0, blocks, 4)),
        "validations": requests,
        "answered": len(range(3, blocks, 4)),
        "undecodable": 0,
    }
