"""Work in a process of its own: it gives what is made here, and whatever becomes of the process, the work is done."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from indexing import grown
from ledger import CHAIN_ID, decoder
from workload import DEPLOYMENT

from indexer import apart as module
from indexer.apart import Apart, Chain, Fetched, receive, send, serve
from indexer.core.rows import RowBuilder
from indexer.core.types import BlockRange, ChainId, RawLog
from indexer.store.encoding import Encoded, encode_rows


@pytest.fixture(scope="module")
def logs() -> list[RawLog]:
    chain, _ = grown(8, 120)
    return list(chain.logs(within=BlockRange(0, chain.head.number)))


@pytest.fixture
def builder() -> RowBuilder:
    return RowBuilder(ChainId(CHAIN_ID), [DEPLOYMENT], decoder())


@pytest.fixture(autouse=True)
def worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WORTH_IT", 1)


@pytest.fixture
async def apart() -> AsyncIterator[Apart]:
    async with Apart(enabled=True) as found:
        yield found


def said(rows: Encoded) -> tuple[object, ...]:
    tables = {table: bytes(data) for table, data in rows.tables.items()}
    return tables, list(tables), rows.agents, rows.undecodable, rows.undecoded


def pid_of(apart: Apart) -> int:
    helper = apart._helper
    assert helper is not None
    return helper.process.pid


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_rows_are_those_that_are_made_here(apart: Apart, builder: RowBuilder, logs: list[RawLog]) -> None:
    rows = await apart.rows(builder, logs)

    assert pid_of(apart) != os.getpid()
    assert rows.undecodable > 0
    assert said(rows) == said(encode_rows(builder.build(logs)))


async def test_what_it_serves_is_what_is_made_here(builder: RowBuilder, logs: list[RawLog]) -> None:
    ours, theirs = socket.socketpair()
    server = threading.Thread(target=serve, args=(theirs,))
    server.start()
    with ours, theirs:
        for part in (logs[:9], logs):
            send(ours, module._PACK(Fetched(Chain(CHAIN_ID, (DEPLOYMENT,)), part)))
            rows = module.msgspec.msgpack.decode(receive(ours), type=Encoded)
            assert said(rows) == said(encode_rows(builder.build(part)))
        ours.close()
        server.join(10)
    assert not server.is_alive()


async def test_few_logs_are_not_sent_away(
    apart: Apart, builder: RowBuilder, logs: list[RawLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_WORTH_IT", len(logs) + 1)

    await apart.rows(builder, logs)

    assert apart._helper is None


async def test_a_lost_process_is_made_up_for_and_begun_again(
    apart: Apart, builder: RowBuilder, logs: list[RawLog]
) -> None:
    await apart.rows(builder, logs)
    lost = pid_of(apart)
    os.kill(lost, signal.SIGKILL)

    rows = await apart.rows(builder, logs)
    again = await apart.rows(builder, logs)

    assert said(rows) == said(again) == said(encode_rows(builder.build(logs)))
    assert pid_of(apart) != lost
    assert not is_there(lost)


async def test_a_process_that_hangs_is_given_up(apart: Apart, builder: RowBuilder, logs: list[RawLog]) -> None:
    await apart.rows(builder, logs[:1])
    stopped = pid_of(apart)
    apart._helper.line.settimeout(0.5)  # type: ignore[union-attr]
    os.kill(stopped, signal.SIGSTOP)

    assert said(await apart.rows(builder, logs)) == said(encode_rows(builder.build(logs)))
    assert not is_there(stopped)


async def test_one_that_is_always_lost_is_not_begun_any_more(
    apart: Apart, builder: RowBuilder, logs: list[RawLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")

    for _ in range(5):
        assert said(await apart.rows(builder, logs)) == said(encode_rows(builder.build(logs)))

    assert not apart.enabled
    assert apart._losses == 3


async def test_without_a_program_the_work_is_done_here(
    apart: Apart, builder: RowBuilder, logs: list[RawLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")

    assert said(await apart.rows(builder, logs)) == said(encode_rows(builder.build(logs)))


async def test_an_idle_process_is_ended_and_another_begun_when_there_is_work(
    apart: Apart, builder: RowBuilder, logs: list[RawLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_IDLE_S", 0.05)
    apart.warm()
    await until(lambda: apart._helper is not None)
    idle = pid_of(apart)
    await until(lambda: apart._helper is None and not is_there(idle))

    assert said(await apart.rows(builder, logs)) == said(encode_rows(builder.build(logs)))
    assert apart._losses == 0


async def test_leaving_ends_the_process_at_once_and_the_work_under_way_is_done_here(
    builder: RowBuilder, logs: list[RawLog]
) -> None:
    async with Apart(enabled=True) as apart:
        await apart.rows(builder, logs[:1])
        pid = pid_of(apart)
        os.kill(pid, signal.SIGSTOP)
        work = asyncio.create_task(apart.rows(builder, logs))
        await asyncio.sleep(0)

    assert not is_there(pid)
    assert said(await work) == said(encode_rows(builder.build(logs)))
    assert said(await apart.rows(builder, logs)) == said(encode_rows(builder.build(logs)))
    assert apart._helper is None


_BEGINNER = """
import asyncio, sys, time
from indexer.apart import Apart

async def main():
    async with Apart(enabled=True) as apart:
        apart.warm()
        while apart._helper is None:
            await asyncio.sleep(0.01)
        print(apart._helper.process.pid, flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
async def test_the_process_ends_with_whoever_began_it(end: signal.Signals) -> None:
    words = [sys.executable, "-c", _BEGINNER]
    beginner = await asyncio.create_subprocess_exec(
        *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    assert beginner.stdout is not None
    pid = int(await beginner.stdout.readline())
    assert is_there(pid)
    beginner.send_signal(end)
    await beginner.wait()

    await until(lambda: not is_there(pid))
