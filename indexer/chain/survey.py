"""What a provider says of the newest and the final block, asked for now and then in the background."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog

from indexer.chain import codec
from indexer.chain.codec import HEADER, HeaderJson
from indexer.chain.provider import Call, Provider
from indexer.chain.refusals import Billing, Inconsistent, ProviderError, RateLimited, TimedOut
from indexer.core.types import BlockRef

TIMEOUT_S: Final = 5.0

log = structlog.get_logger()


def heads_calls() -> list[Call[HeaderJson | None]]:
    """Return the calls for `latest` and `finalized`, to be sent as one batch."""
    params: list[list[Any]] = [["latest", False], ["finalized", False]]
    return [Call("eth_getBlockByNumber", each, HEADER) for each in params]


async def heads_of(
    provider: Provider, admit: Callable[[Provider], Awaitable[None]]
) -> tuple[BlockRef, int | None] | ProviderError:
    """Ask for the newest block and the number of the newest final one, None where that tag is not served.

    Every error is returned, that it takes too long too. Nothing is proven: it serves to compare providers.
    """
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await admit(provider)
            return await _ask(provider)
    except TimeoutError:
        return TimedOut(provider.host, f"no answer within {TIMEOUT_S:g} s")
    except ProviderError as error:
        return error


async def _ask(provider: Provider) -> tuple[BlockRef, int | None]:
    latest, final = await provider.batch(heads_calls())
    head = _block(provider, latest)
    if head is None:
        raise Inconsistent(provider.host, "has no latest block")
    if isinstance(final, (RateLimited, Billing)):
        raise final
    finalized = None if isinstance(final, ProviderError) else _block(provider, final)
    return head, None if finalized is None else finalized.number


def _block(provider: Provider, answer: HeaderJson | ProviderError | None) -> BlockRef | None:
    if isinstance(answer, ProviderError):
        raise answer
    if answer is None:
        return None
    try:
        return codec.header(answer).ref
    except ValueError as error:
        raise Inconsistent(provider.host, f"a malformed header: {error}") from error


class Routine:
    """Does the same thing again and again in a task of its own, whatever fails, from the first `begun` to `aclose`."""

    def __init__(self, work: Callable[[], Awaitable[None]], every_s: float) -> None:
        self._work = work
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None
        self._done_once = asyncio.Event()

    async def begun(self) -> None:
        """Return when the work was done once."""
        if self._task is None:
            self._task = asyncio.create_task(self._keep_on(), name="survey")
        await self._done_once.wait()

    async def aclose(self) -> None:
        """End the task."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _keep_on(self) -> None:
        while True:
            try:
                await self._work()
            except Exception:
                log.exception("survey_failed")  # the next one may tell more; nobody else begins it anew
            finally:
                self._done_once.set()
            await asyncio.sleep(self._every_s)
