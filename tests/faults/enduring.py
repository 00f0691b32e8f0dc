"""What the tests of the faults share: workers that are begun again as the supervisor has it, and nodes that lie."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from indexing import open_worker
from simulator.chain import SimChain
from simulator.node import Intercept, SimNode

from indexer.errors import Retryable
from indexer.store.database import Database
from indexer.worker import Worker

DEADLINE_S: Final = 20.0
_PAUSE_S: Final = 0.02
ELSEWHERE: Final = 5
"""The id of a second chain."""

Logs = list[dict[str, Any]]


async def endure(worker: Worker) -> None:
    """Run the worker to its end; after an error that passes it begins again from what is stored."""
    while True:
        try:
            await worker.run()
        except Retryable:
            await asyncio.sleep(_PAUSE_S)
        else:
            return


async def index_enduring(database: Database, urls: Sequence[str], **options: Any) -> Worker:
    """Index up to the head, or to `until`, whatever passes; return the worker for what it counted."""
    async with asyncio.timeout(DEADLINE_S), open_worker(database, urls, **options) as worker:
        await endure(worker)
    return worker


@asynccontextmanager
async def following(worker: Worker) -> AsyncIterator[None]:
    """Have the worker follow its chain while the body runs; an error that does not pass fails the test."""
    task = asyncio.create_task(endure(worker))
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield
        assert not task.done()
    finally:
        task.cancel()
        outcome = (await asyncio.gather(task, return_exceptions=True))[0]
    assert isinstance(outcome, asyncio.CancelledError), outcome


async def until(holds: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(DEADLINE_S):
        while not holds():  # noqa: ASYNC110 - what is waited for sets no event
            await asyncio.sleep(0.01)


async def caught_up(worker: Worker, chain: SimChain) -> None:
    """Wait until the worker is at the chain's head."""
    await until(lambda: worker.progress.block_hash == chain.head.hash)


def lying(bend: Callable[[Logs], Logs | None], *, times: int | None = None) -> Intercept:
    """Bend the answers of eth_getLogs, `times` of them where that is given; what becomes None or stays is no lie."""
    left = times

    def intercept(method: str, _params: list[Any], answer: Any) -> Any:
        nonlocal left
        if method != "eth_getLogs" or left == 0:
            return answer
        bent = bend([dict(log) for log in answer])
        if left is not None and bent != answer:
            left -= 1
        return bent

    return intercept


def number_of(log: dict[str, Any]) -> int:
    """Return a log's block number."""
    return int(log["blockNumber"], 16)


def other_hash(log: dict[str, Any]) -> dict[str, Any]:
    """Return the log as if its block had another hash."""
    return {**log, "blockHash": "0x" + "13" * 32}


def ranges_asked(node: SimNode) -> list[tuple[int, int]]:
    """Note from now on which ranges of logs the node is asked for, first and last block, refused ones too."""
    asked: list[tuple[int, int]] = []
    answer = node.answer

    def noting(method: str, params: list[Any]) -> Any:
        if method == "eth_getLogs" and "fromBlock" in params[0]:
            asked.append((int(params[0]["fromBlock"], 16), int(params[0]["toBlock"], 16)))
        return answer(method, params)

    node.answer = noting  # type: ignore[method-assign]  # in place of the real one
    return asked
