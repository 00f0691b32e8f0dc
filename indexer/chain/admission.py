"""What a provider must show before its answers count: the right chain, that it is in sync, and our own branch of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from indexer.chain import codec
from indexer.chain.codec import ANY_JSON, HEADER, QUANTITY, HeaderJson, quantity
from indexer.chain.provider import Call, Provider
from indexer.chain.refusals import Inconsistent, OtherBranch, PastHead, ProviderError, WrongChain
from indexer.core.types import BlockRef

SHOWN_FOR_S: Final = 60.0  # that is one request more a minute
GRACE_S: Final = 2.0  # for the slower providers to show their chain, once one has


async def admit(provider: Provider, expected_chain: int | None, anchor: BlockRef | None, now: float) -> None:
    """Ask for what the provider has not shown yet, or not of late (fault F5).

    `anchor` is a block that is final here; None, or no expected chain, asks nothing of that kind. Raises WrongChain,
    OtherBranch, or what asking raises.
    """
    if (provider.admitted or provider.anchored) and now - provider.shown_at >= SHOWN_FOR_S and not provider.is_showing:
        await _look_again(provider, expected_chain, anchor, now)
    if not provider.admitted and expected_chain is not None:
        found, syncing = await identity(provider)
        if found != expected_chain:
            raise WrongChain(provider.host, f"serves chain {found}, not {expected_chain}")
        if syncing:
            raise WrongChain(provider.host, "is still syncing")
        provider.admitted, provider.shown_at = True, now
    if not provider.anchored and anchor is not None:
        # One answer alone condemns nobody: behind one address may stand several nodes.
        if not (await _has(provider, anchor) or await _has(provider, anchor)):
            raise OtherBranch(provider.host, f"has another block {anchor.number} than the one that is final here")
        provider.anchored = True
        if not provider.admitted:
            provider.shown_at = now


async def _look_again(provider: Provider, expected_chain: int | None, anchor: BlockRef | None, now: float) -> None:
    """Have it shown anew, all in one request: the node behind an address may be exchanged without a fault.

    Who fails is asked once more, as at the first time. What else is under way there meanwhile is not kept waiting.
    """
    provider.is_showing = True
    try:
        still = await _still_shows(provider, expected_chain, anchor)
    finally:
        provider.is_showing = False
    provider.admitted, provider.anchored = still and expected_chain is not None, still and anchor is not None
    provider.shown_at = now


async def _still_shows(provider: Provider, expected_chain: int | None, anchor: BlockRef | None) -> bool:
    asked = [*(_IDENTITY if expected_chain is not None else ()), *([] if anchor is None else [_header_call(anchor)])]
    answers = await provider.batch(asked) if asked else []
    if expected_chain is not None and _identity(provider, *answers[:2]) != (expected_chain, False):
        return False
    return anchor is None or _is(provider, anchor, answers[-1])


async def identity(provider: Provider) -> tuple[int, bool]:
    """Ask a provider for its chain id and whether it is still syncing. Raises ProviderError."""
    return _identity(provider, *await provider.batch(_IDENTITY))


_IDENTITY: Final[Sequence[Call[Any]]] = (Call("eth_chainId", [], QUANTITY), Call("eth_syncing", [], ANY_JSON))


def _identity(provider: Provider, chain_id: Any, syncing: Any) -> tuple[int, bool]:
    if isinstance(chain_id, ProviderError):
        raise chain_id
    try:
        found = quantity(chain_id)
    except ValueError as error:
        raise Inconsistent(provider.host, "answered eth_chainId with something malformed") from error
    return found, isinstance(syncing, dict)  # false, or an error where the method is not served


async def _has(provider: Provider, block: BlockRef) -> bool:
    answer = await provider.call(_header_call(block))
    return _is(provider, block, answer)


def _header_call(block: BlockRef) -> Call[HeaderJson | None]:
    return Call("eth_getBlockByNumber", [hex(block.number), False], HEADER)


def _is(provider: Provider, block: BlockRef, answer: HeaderJson | ProviderError | None) -> bool:
    if isinstance(answer, ProviderError):
        raise answer
    if answer is None:
        raise PastHead(provider.host, f"does not have block {block.number}, which is final here")
    try:
        return codec.header(answer).ref.hash == block.hash
    except ValueError as error:
        raise Inconsistent(provider.host, f"a malformed header: {error}") from error


async def identities(
    providers: Sequence[Provider], expected_chain: int
) -> dict[Provider, tuple[int, bool] | ProviderError]:
    """Ask all for `identity` at once; after one showed the right chain, the others have but little time left.

    Whoever did not answer in that time is not in the result.
    """
    tasks = {asyncio.ensure_future(_outcome(provider)): provider for provider in providers}
    pending, timeout_s = set(tasks), None
    try:
        while pending:
            done, pending = await asyncio.wait(pending, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                break
            if any(task.result() == (expected_chain, False) for task in done):
                timeout_s = GRACE_S
        return {provider: task.result() for task, provider in tasks.items() if task.done()}
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)


async def _outcome(provider: Provider) -> tuple[int, bool] | ProviderError:
    try:
        return await identity(provider)
    except ProviderError as error:
        return error
