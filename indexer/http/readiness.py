"""Is this daemon ready? A pure judgement on the status document and what the process knows beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypedDict

from indexer.store.reader import ChainStatus, StatusDocument

PUBLISHER_FAILING: Final = "publisher failing"
_TOLERATED: Final = frozenset({"gaps"})
"""A new contract's own backfill is a gap; the chain keeps up meanwhile, and `status` tells of it."""


class ChainReadiness(TypedDict):
    """One chain: ready where there is no reason against it. `chain_id` is null for one without a row yet."""

    chain: str
    chain_id: int | None
    ready: bool
    reasons: list[str]


class Readiness(TypedDict):
    """The body of `/ready`; `reasons` is every reason in one list, each with its chain's name."""

    ready: bool
    database: str
    reasons: list[str]
    chains: list[ChainReadiness]


def judge(document: StatusDocument, problems: Mapping[str, Sequence[str]]) -> Readiness:
    """Say whether every chain keeps up; no chain at all is not ready. `problems` is by chain name."""
    chains = [
        _chain(chain["chain"], chain["chain_id"], [*_reasons(chain), *problems.get(chain["chain"], ())])
        for chain in document["chains"]
    ]
    reasons = [] if document["chains"] else [document.get("hint", "no chain is indexed yet")]
    return _verdict("up", reasons, [*chains, *_without_row(document, problems)])


def judge_without_database(fault: str, problems: Mapping[str, Sequence[str]]) -> Readiness:
    """Say what can be said while the database is away: `fault`, and what the process knows of its chains."""
    return _verdict("down", [fault], _without_row(None, problems))


def _reasons(chain: ChainStatus) -> list[str]:
    reasons = [str(problem) for problem in chain["problems"] if problem not in _TOLERATED]
    if (chain["publisher"] or {}).get("error"):
        reasons.append(PUBLISHER_FAILING)
    return reasons


def _without_row(document: StatusDocument | None, problems: Mapping[str, Sequence[str]]) -> list[ChainReadiness]:
    known = {chain["chain"] for chain in document["chains"]} if document else set()
    return [_chain(name, None, reasons) for name, reasons in problems.items() if name not in known and reasons]


def _chain(name: str, chain_id: int | None, reasons: Sequence[str]) -> ChainReadiness:
    return {"chain": name, "chain_id": chain_id, "ready": not reasons, "reasons": list(dict.fromkeys(reasons))}


def _verdict(database: str, faults: Sequence[str], chains: Sequence[ChainReadiness]) -> Readiness:
    reasons = [*faults, *(f"{chain['chain']}: {reason}" for chain in chains for reason in chain["reasons"])]
    return {"ready": not reasons, "database": database, "reasons": reasons, "chains": list(chains)}
