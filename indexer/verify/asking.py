"""Ask the contracts, a bounded number of calls at a time: each is answered, or there is a reason why not."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, Protocol, TypeVar

from indexer.chain.refusals import CallFailed, Inconsistent, MethodMissing, PastHead, Pruned
from indexer.errors import RpcError
from indexer.store.difference import Difference
from indexer.verify.views import GET_VERSION, OWNER_OF, Question, UnreadableError

T = TypeVar("T")

IN_FLIGHT: Final = 16  # calls at a time: what free plans bear, and enough to hide the way to the node and back
_PATIENCE: Final = 32  # calls in a row that a node leaves unanswered before it is asked no more
_VERSION: Final = b"2."  # of the contracts whose views are known here; erc-8004-contracts at b9e466c says 2.0.0
# What is left of a revert's text once the fixed words are gone: a reason, or the data of a custom error.
_FIXED_WORDS: Final = re.compile(
    r"execution|reverted|revert|vm exception while processing transaction|0x\b|[\W_]", re.IGNORECASE
)

NO_STATE: Final = "no archive state"
NO_BLOCK: Final = "block not known"
NO_CALL: Final = "call not served"
OUT_OF_GAS: Final = "out of gas"
NO_FUNCTION: Final = "no such function"
OTHER_VERSION: Final = "other version"
NO_ANSWER: Final = "no answer"
NO_RPC: Final = "no RPC configured"


_REASONS: Final[dict[type[RpcError], str]] = {
    Pruned: NO_STATE,
    PastHead: NO_BLOCK,
    MethodMissing: NO_CALL,
}


class Caller(Protocol):
    """Who calls contracts on the state after a block; raises errors of `indexer.chain.refusals`."""

    async def call(self, to: bytes, data: bytes, block_hash: bytes) -> bytes:
        """Return what the contract at `to` answers, undecoded."""
        ...


@dataclass(slots=True)
class Answers:
    """What came of the questions: `checked` were answered, the others count by their reason."""

    checked: int = 0
    differences: list[Difference] = field(default_factory=list)
    unchecked: Counter[str] = field(default_factory=Counter)


Outcome = list[Difference] | str | RpcError
"""Answered, with what differs; cannot be asked, with the reason; or the node failed."""


def leave_unasked(questions: Sequence[Question], reason: str) -> Answers:
    """Count all questions as unchecked."""
    return Answers(unchecked=Counter({reason: len(questions)} if questions else {}))


async def ask(caller: Caller, questions: Sequence[Question], block_hash: bytes) -> Answers:
    """Put all questions to the contracts as they stood after that block.

    Raises RpcError where the node cannot be reached, or stops answering on the way.
    """
    answers = Answers()
    versions = {to: await _version(caller, to, block_hash) for to in dict.fromkeys(one.to for one in questions)}
    silent: list[str | RpcError] = []  # what the node failed to do, in a row
    for chunk in _chunks(questions, IN_FLIGHT):
        if len(silent) >= _PATIENCE:
            outcomes: list[Outcome] = [_given_up(silent[-1])] * len(chunk)
        else:
            outcomes = await asyncio.gather(*(_outcome(caller, one, block_hash, versions[one.to]) for one in chunk))
        for outcome in outcomes:
            _count(answers, outcome, silent)
    return answers


def _given_up(last: str | RpcError) -> str:
    if isinstance(last, RpcError):
        raise last
    return last


def _count(answers: Answers, outcome: Outcome, silent: list[str | RpcError]) -> None:
    match outcome:
        case list():
            answers.checked += 1
            answers.differences += outcome
            silent.clear()
        case str():
            answers.unchecked[outcome] += 1
            if outcome in {NO_STATE, NO_BLOCK, NO_CALL}:
                silent.append(outcome)
        case RpcError():
            answers.unchecked[NO_ANSWER] += 1
            silent.append(outcome)


async def _version(caller: Caller, to: bytes, block_hash: bytes) -> bytes | None:
    """Ask a contract for its version; None where it does not say. Raises RpcError where the node does not answer."""
    try:
        (version,) = GET_VERSION.read(await caller.call(to, GET_VERSION.call_data(()), block_hash))
    except (CallFailed, Pruned, PastHead, MethodMissing, Inconsistent, UnreadableError):
        return None
    assert isinstance(version, bytes)
    return version


async def _outcome(caller: Caller, question: Question, block_hash: bytes, version: bytes | None) -> Outcome:
    if question.doubt is not None:
        return question.doubt
    if question.view.versioned and not (version or b"").startswith(_VERSION):
        return OTHER_VERSION
    try:
        return question.differences(await caller.call(question.to, question.data, block_hash))
    except CallFailed as error:
        return _failed(question, error, version)
    except UnreadableError:
        return NO_FUNCTION
    except RpcError as error:
        return next((reason for kind, reason in _REASONS.items() if isinstance(error, kind)), error)


def _failed(question: Question, error: CallFailed, version: bytes | None) -> Outcome:
    """Tell a contract that says no from one that lacks the function: that reverts without a reason."""
    if error.out_of_gas:
        return OUT_OF_GAS
    says_no = bool(_FIXED_WORDS.sub("", error.text))
    if says_no or (question.view is OWNER_OF and version is not None):  # every ERC-721 has ownerOf
        return [question.refused("reverts")]
    return NO_FUNCTION


def _chunks(items: Sequence[T], size: int) -> Iterator[list[T]]:
    remaining = iter(items)
    while chunk := list(islice(remaining, size)):
        yield chunk
