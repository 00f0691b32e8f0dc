"""`python -m bench.proof` (with PYTHONPATH=tests): what proof costs, in CPU and in calls a block; one JSON line each.

CPU is what happens to the bytes of an answer: JSON, the receipts root, our logs. Calls are counted at a simulated node,
over a chain in which every tenth block has logs of ours and every other one has transactions.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Final

import msgspec
from simulator import SimChain, SimLog, SimNode, event_log
from simulator.receipts import ETHEREUM_KINDS

from indexer.chain import codec
from indexer.chain.receipts import proven_logs
from indexer.chain.source import Source
from indexer.core.proof import header_hash
from indexer.core.ranges import start_span
from indexer.core.types import Proof
from indexer.fetching import Fetcher

OURS, OTHERS = b"\x11" * 20, [bytes([index]) * 20 for index in range(0x20, 0x70)]
TRANSFER: Final = "Transfer(address indexed from, address indexed to, uint256 value)"
LOGS_A_RECEIPT: Final = 3
BLOCKS: Final = 1_000
TIP_BLOCKS: Final = 200
LEVELS: Final[tuple[Proof, ...]] = ("off", "logs", "receipts")


def transfer(seed: int, address: bytes | None = None, tx_hash: bytes | None = None) -> SimLog:
    """Make a log as most on any chain are: three topics, one word of data."""
    parties = [(seed * factor % 997).to_bytes(20) for factor in (7, 13)]
    return event_log(address or OTHERS[seed % len(OTHERS)], TRANSFER, *parties, seed, tx_hash=tx_hash)


async def cpu(receipts: int) -> None:
    """Prove one block again and again."""
    chain = SimChain(seed=1, receipt_kinds=ETHEREUM_KINDS)
    logs = [transfer(index, tx_hash=(1 + index // LOGS_A_RECEIPT).to_bytes(32)) for index in range(3 * receipts - 3)]
    chain.mine([*logs, *[transfer(0, OURS, b"\xff" * 32)] * LOGS_A_RECEIPT])
    async with SimNode(chain) as node:
        body = msgspec.json.encode(node.answer("eth_getBlockReceipts", ["0x1"]))
        block = msgspec.json.encode(node.answer("eth_getBlockByNumber", ["0x1", False]))
    header_json = codec.HEADER.decode(block)
    assert header_json is not None
    header = codec.header(header_json)
    rounds = 2_000 // receipts + 20
    began = time.process_time()
    for _ in range(rounds):
        answer = codec.RECEIPTS.decode(body)
        assert answer is not None
        assert len(proven_logs("node", header, answer, frozenset({OURS}))) == LOGS_A_RECEIPT
    spent = (time.process_time() - began) / rounds
    began = time.process_time()
    for _ in range(rounds):
        header_hash(header.fields)
    told = {"receipts": receipts, "logs": LOGS_A_RECEIPT * receipts, "json_kb": round(len(body) / 1000)}
    report(
        "cpu_a_block",
        **told,
        ms=round(spent * 1e3, 2),
        header_ms=round((time.process_time() - began) / rounds * 1e3, 3),
    )


def content(number: int) -> list[SimLog]:
    """Return the logs of a block: every tenth has one of ours, every other one of others."""
    ours = [transfer(number, OURS)] if number % 10 == 0 else []
    return [*ours, *([transfer(number)] if number % 2 == 0 else [])]


async def calls_backfilling(level: Proof) -> None:
    """Fetch a final stretch as a backfill does."""
    chain = SimChain(seed=2)
    for number in range(BLOCKS):
        chain.mine(content(number))
    async with SimNode(chain) as node, Source.open([node.url], proof=level) as source:
        await source.tip()
        node.forget_counts()
        fetcher = Fetcher(source, (OURS,), 4, start_span(BLOCKS), final=BLOCKS)
        async for batch in fetcher.batches(chain.head, 0, BLOCKS - 1):
            assert batch.proof == level
        report("calls_a_block", level=level, phase="backfill", **counted(node, BLOCKS))


async def calls_at_the_tip(level: Proof) -> None:
    """Follow block by block."""
    chain = SimChain(seed=3)
    async with SimNode(chain) as node, Source.open([node.url], proof=level) as source:
        await source.tip()
        node.forget_counts()
        for number in range(TIP_BLOCKS):
            chain.mine(content(number))
            tip = await source.tip()
            assert (await source.fetch_block(tip.head, [OURS])).proof == level
        report("calls_a_block", level=level, phase="tip", **counted(node, TIP_BLOCKS))


def counted(node: SimNode, blocks: int) -> dict[str, float]:
    """Divide what the node was asked by the blocks."""
    methods = {method: round(count / blocks, 3) for method, count in sorted(node.calls.items())}
    return {"http": round(node.http_requests / blocks, 3), "calls": round(node.calls.total() / blocks, 3), **methods}


def report(what: str, **figures: object) -> None:
    """Print one measurement."""
    print(json.dumps({"what": what, **figures}))


async def main() -> None:
    """Measure all."""
    for receipts in (1, 50, 250):
        await cpu(receipts)
    for level in LEVELS:
        await calls_backfilling(level)
        await calls_at_the_tip(level)


if __name__ == "__main__":
    asyncio.run(main())
