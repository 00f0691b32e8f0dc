"""Work in a process of its own: it gives what is made here, and whatever becomes of the process, the work is done."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from indexing import grown
from ledger import CHAIN_ID, Ledger, decoder
from structlog.testing import capture_logs
from workload import DEPLOYMENT

from indexer import apart as module
from indexer.apart import Apart, BuildRows, Chain, fingerprint, receive, send, serve
from indexer.core.rows import RowBuilder
from indexer.core.types import BlockRange, ChainId, RawLog
from indexer.store.copying import copy_out
from indexer.store.database import Database
from indexer.store.encoding import Encoded, encode_rows
from indexer.store.queries import queries
from indexer.store.rereading import reread


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
    if not Path("/proc/self").exists():
        return not subprocess.run(["kill", "-0", str(pid)], check=False, capture_output=True).returncode
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
        assert receive(ours) == (fingerprint(), b"")
        for part in (logs[:9], logs):
            send(ours, module._PACK(BuildRows(Chain(CHAIN_ID, (DEPLOYMENT,)), part)))
            rows = module.msgspec.msgpack.decode(receive(ours)[0], type=Encoded)
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
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    monkeypatch.setattr(module, "_EXIT_S", 10.0)

    with capture_logs() as logged:
        for _ in range(5):
            assert said(await apart.rows(builder, logs)) == said(encode_rows(builder.build(logs)))
        assert [(one["event"], one["exit_code"]) for one in logged] == [("decoder_lost", 1)] * 3

        monkeypatch.undo()
        monkeypatch.setattr(module, "_WORTH_IT", 1)
        apart._paused_until = 0.0
        await apart.rows(builder, logs)

    assert pid_of(apart)


async def test_another_program_on_the_disk_is_not_asked(builder: RowBuilder, logs: list[RawLog]) -> None:
    async with Apart(enabled=True, _program=b"that of before the upgrade") as apart:
        rows = await apart.rows(builder, logs)

        assert said(rows) == said(encode_rows(builder.build(logs)))
        assert not apart.enabled
        assert apart._helper is None


async def test_a_slice_of_the_ledger_is_read_again_as_here(apart: Apart, database: Database) -> None:
    chain, _ = grown(8, 60)
    ledger = await Ledger.open(database)
    await ledger.index(chain, (60,))
    async with database.transaction() as connection:
        for change in (
            "args = args || 'x' WHERE log_index % 5 = 0",
            "args = args::jsonb::text WHERE log_index % 5 = 1 AND args IS NOT NULL",
            "block_timestamp = block_timestamp + interval '1 ms' WHERE block_number = 7",
            "block_timestamp = 'infinity' WHERE block_number = 8",
            "tx_hash = '\\x01' WHERE log_index = 2",
            "address = '\\x02' WHERE block_number = 9",
        ):
            await connection.execute(f"UPDATE logs SET {change}")
        data = await copy_out(connection, queries()["ledger_slice"], CHAIN_ID, -1, chain.head.number)
    known = frozenset(DEPLOYMENT.addresses)

    there, here = await apart.reread(ledger.builder, known, data), reread(ledger.builder, known, data)

    assert pid_of(apart)
    assert there.doubts == here.doubts
    assert {one.column for one in here.doubts} >= {"address", "tx_hash"}
    assert here.otherwise is not None
    assert (there.logs, there.ledger, there.otherwise) == (here.logs, here.ledger, here.otherwise)
    assert said(there.rows) == said(here.rows)


async def test_bytes_that_end_early_are_refused(database: Database, builder: RowBuilder) -> None:
    ledger = await Ledger.open(database)
    await ledger.index(grown(8, 9)[0], (9,))
    async with database.transaction() as connection:
        data = await copy_out(connection, queries()["ledger_slice"], CHAIN_ID, -1, 9)
    known = frozenset(DEPLOYMENT.addresses)
    assert reread(builder, known, data).logs > 0

    for cut in (b"", data[:15], data[:40], b"PGCOPX" + data[6:]):
        with pytest.raises(ValueError, match="COPY"):
            reread(builder, known, cut)


async def test_without_a_program_the_work_is_done_here(
    apart: Apart, builder: RowBuilder, logs: list[RawLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")

    assert said(await apart.rows(builder, logs)) == said(encode_rows(builder.build(logs)))


async def test_an_idle_process_is_ended_and_another_begun_when_there_is_work(
    apart: Apart, builder: RowBuilder, logs: list[RawLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    apart.warm()
    await until(lambda: apart._helper is not None)
    idle = pid_of(apart)
    monkeypatch.setattr(module, "_IDLE_S", 0.05)
    apart.warm()
    await until(lambda: apart._helper is None and not is_there(idle))

    assert said(await apart.rows(builder, logs)) == said(encode_rows(builder.build(logs)))
    assert apart._losses == 0


async def test_leaving_ends_the_process_at_once_and_the_work_under_way_is_done_here(
    builder: RowBuilder, logs: list[RawLog]
) -> None:
    async with asyncio.timeout(10), Apart(enabled=True) as apart:
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


async def test_what_nobody_waits_for_any_more_is_not_done_here(
    builder: RowBuilder, logs: list[RawLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[object] = []
    async with Apart(enabled=True) as apart:
        await apart.rows(builder, logs[:1])
        os.kill(pid_of(apart), signal.SIGSTOP)
        monkeypatch.setattr(module, "encode_rows", done.append)
        work = asyncio.create_task(apart.rows(builder, logs))
        await asyncio.sleep(0)
        await until(apart._thread._work_queue.empty)
        work.cancel()
        await asyncio.wait([work])

    assert work.cancelled()
    assert done == []


@pytest.mark.parametrize(
    ("limit", "processors"), [("max 100000", 2), ("100000 100000", 1), ("150000 100000", 1.5), ("", 2)]
)
def test_processors_are_those_of_the_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, processors: float
) -> None:
    (tmp_path / "cpu.max").write_text(limit)
    monkeypatch.setattr(module, "_CPU_LIMIT", tmp_path / "cpu.max")
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)

    assert module._processors() == processors
