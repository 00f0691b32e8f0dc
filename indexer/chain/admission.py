"""What a provider must show before its answers count: the right chain, that it is in sync, and our own branch of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from indexer.chain import codec
from indexer.chain.codec import ANY_JSON, HEADER, QUANTITY, quantity
from indexer.chain.provider import Call, Provider
from indexer.chain.refusals import Inconsistent, OtherBranch, PastHead, ProviderError, WrongChain
from indexer.core.types import BlockRef

GRACE_S: Final = 2.0  # for the slower providers to show their chain, once one has


async def admit(provider: Provider, expected_chain: int | None, anchor: BlockRef | None) -> None:
    """Ask for what the provider has not shown yet (fault F5). Raises WrongChain, OtherBranch, or what asking raises.

    `anchor` is a block that is final here; None, or no expected chain, asks nothing of that kind.
    """
    if not provider.admitted and expected_chain is not None:
        found, syncing = await identity(provider)
        if found != expected_chain:
            raise WrongChain(provider.host, f"serves chain {found}, not {expected_chain}")
        if syncing:
            raise WrongChain(provider.host, "is still syncing")
        provider.admitted = True
    if not provider.anchored and anchor is not None:
        # One answer alone condemns nobody: behind one address may stand several nodes.
        if not (await _has(provider, anchor) or await _has(provider, anchor)):
            raise OtherBranch(provider.host, f"has another block {anchor.number} than the one that is final here")
        provider.anchored = True


async def identity(provider: Provider) -> tuple[int, bool]:
    """Ask a provider for its chain id and whether it is still syncing. Raises ProviderError."""
    calls: list[Call[Any]] = [Call("eth_chainId", [], QUANTITY), Call("eth_syncing", [], ANY_JSON)]
    chain_id, syncing = await provider.batch(calls)
    if isinstance(chain_id, ProviderError):
        raise chain_id
    try:
        found = quantity(chain_id)
    except ValueError as error:
        raise Inconsistent(provider.host, "answered eth_chainId with something malformed") from error
    return found, isinstance(syncing, dict)  # false, or an error where the method is not served


async def _has(provider: Provider, block: BlockRef) -> bool:
    answer = await provider.call(Call("eth_getBlockByNumber", [hex(block.number), False], HEADER))
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
