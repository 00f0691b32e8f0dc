"""Answers that are read in another process: the same logs, and the same words where they are wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from indexing import grown
from simulator import SimChain, SimNode
from workload import DEPLOYMENT

from indexer import apart as module
from indexer.apart import Apart
from indexer.chain.refusals import Inconsistent
from indexer.chain.source import Source
from indexer.core.types import Batch, BlockRange, RawLog


@pytest.fixture(scope="module")
def chain() -> SimChain:
    return grown(8, 40)[0]


@pytest.fixture(params=["in another process", "where there is none"])
async def apart(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Apart]:
    monkeypatch.setattr(module, "_WORTH_IT", 0)
    monkeypatch.setattr("indexer.chain.questions.LARGE", 1)
    async with Apart(enabled=request.param == "in another process") as found:
        yield found


@asynccontextmanager
async def asked(
    chain: SimChain, apart: Apart | None, **options: Any
) -> AsyncIterator[tuple[SimNode, Source, list[int]]]:
    """Yield a node, a source of it, and how many logs each answer had that was read elsewhere; -1 for none."""
    read: list[int] = []

    async def far(result: msgspec.Raw) -> list[RawLog] | None:
        assert apart is not None
        logs = await apart.logs(result)
        read.append(-1 if logs is None else len(logs))
        return logs

    async with (
        SimNode(chain, **options) as node,
        Source.open([node.url], far=None if apart is None else far) as source,
    ):
        yield node, source, read


async def fetched(chain: SimChain, apart: Apart | None, **options: Any) -> Batch:
    async with asked(chain, apart, **options) as (_, source, read):
        batch = await source.fetch(BlockRange(0, chain.head.number), DEPLOYMENT.addresses)
        assert apart is None or read == [len(batch.logs)]
        return batch


@pytest.mark.parametrize("block_timestamp", [True, False], ids=["with times", "without times"])
async def test_the_logs_are_the_same(chain: SimChain, apart: Apart, block_timestamp: bool) -> None:
    here = await fetched(chain, None, block_timestamp=block_timestamp)
    there = await fetched(chain, apart, block_timestamp=block_timestamp)

    assert there == here
    assert apart._losses == 0
    assert (apart._helper is not None) == apart.enabled
    assert len(here.logs) > 50


def first_changed(**changes: Any) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    return lambda logs: [{**logs[0], **changes}, *logs[1:]]


@pytest.mark.parametrize(
    "lie",
    [
        lambda _: None,
        lambda _: {"not": "a list"},
        lambda logs: [*logs, {}],
        first_changed(data="0x0"),
        first_changed(data="zz"),
        first_changed(transactionHash="0x12"),
        first_changed(topics=["0x" + "00" * 32] * 5),
        first_changed(logIndex="0x" + "f" * 20),
        first_changed(removed=True),
    ],
)
async def test_a_wrong_answer_is_refused_in_the_same_words(
    chain: SimChain, apart: Apart, lie: Callable[[list[dict[str, Any]]], Any]
) -> None:
    words = []
    for reader in (None, apart):
        async with asked(chain, reader) as (node, source, read):
            node.intercept = lambda method, _, answer: lie(answer) if method == "eth_getLogs" else answer
            with pytest.raises(Inconsistent) as refused:
                await source.fetch(BlockRange(0, chain.head.number), DEPLOYMENT.addresses)
            words.append(refused.value.text)
            assert set(read) <= {-1}
            assert reader is None or read

    assert words[0] == words[1]
    assert apart._losses == 0
    assert (apart._helper is not None) == apart.enabled
