"""The publisher against a real PostgreSQL and a real Valkey: after catching up, every key equals what SQL says."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import trustme
from ledger import CHAIN_ID, Ledger, decoder
from published import IDENTITY, PREFIX, assert_equal, exact, fetch, is_equal, text
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import ConnectionError as RedisConnectionError
from simulator.chain import SimChain
from simulator.logs import form_log
from structlog.testing import capture_logs
from workload import DEPLOYMENT, Workload

from indexer.core.rows import RowBuilder
from indexer.core.types import ChainId, Deployment
from indexer.embedded.programs import valkey_program
from indexer.errors import SettingsError
from indexer.publisher import Publisher, ValkeyUnavailable
from indexer.publisher.feed import Head
from indexer.publisher.keys import layout_of, member, uuid_of
from indexer.publisher.step import Extend, Rebuild, judge
from indexer.publisher.target import Published
from indexer.store.database import Database
from indexer.store.rebuild import rebuild

OTHER = Deployment(b"\x90" * 20, b"\x91" * 20, (), 0)
DEADLINE_S = 20.0

CHANGES_SQL = """
SELECT cursor, kind, event, block_number, block_hash, log_index, agent_id::text AS agent_id, registry,
       args::text AS args
FROM erc8004.erc8004_changes WHERE chain_id = $1 ORDER BY cursor
"""


@pytest.fixture
async def ledger(database: Database) -> Ledger:
    return await Ledger.open(database)


@pytest.fixture
async def valkey(valkey_url: str) -> AsyncIterator[Redis]:
    client = Redis.from_url(valkey_url, decode_responses=True)
    yield client
    await client.aclose()


@asynccontextmanager
async def publishing(database: Database, url: str, **options: Any) -> AsyncIterator[Publisher]:
    async with Publisher(database, url, chain_ids=[CHAIN_ID], **{"poll_interval_s": 0.02, **options}) as publisher:
        yield publisher


@pytest.fixture
async def publisher(database: Database, valkey_url: str) -> AsyncIterator[Publisher]:
    async with publishing(database, valkey_url) as publisher:
        yield publisher


@asynccontextmanager
async def running(publisher: Publisher) -> AsyncIterator[None]:
    task = asyncio.create_task(publisher.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not await holds():
        assert time.monotonic() < deadline, "the condition did not come true"
        await asyncio.sleep(0.01)


def history(seed: int, blocks: int = 25) -> tuple[SimChain, Workload]:
    workload = Workload(seed)
    chain = SimChain(seed=seed)
    for _ in range(blocks):
        chain.mine(workload.block())
    return chain, workload


async def stream(valkey: Redis) -> list[dict[str, str]]:
    entries = await valkey.xrange(f"{PREFIX}changes")
    assert [entry for entry, _ in entries] == [f"{fields['cursor']}-0" for _, fields in entries]
    return [fields for _, fields in entries]


async def told(database: Database) -> list[dict[str, str]]:
    return [{name: text(value) for name, value in row.items()} for row in await fetch(database, CHANGES_SQL)]


@pytest.mark.parametrize("announce", [True, False], ids=["live", "backfill"])
@pytest.mark.parametrize("stretch", [3, 2000])
async def test_valkey_equals_the_database_after_every_catch_up(
    database: Database, valkey_url: str, ledger: Ledger, valkey: Redis, stretch: int, announce: bool
) -> None:
    chain, workload = history(1)
    async with publishing(database, valkey_url, stretch=stretch) as publisher:
        await ledger.index(chain, (5,), announce=announce)
        await publisher.catch_up(CHAIN_ID)
        await assert_equal(database, valkey)

        for depth in (1, 7, 12):
            await ledger.rollback(chain.reorg(depth, [workload.block() for _ in range(depth + 1)]))
            await publisher.catch_up(CHAIN_ID)
            await assert_equal(database, valkey)
            await ledger.index(chain, (3,), announce=announce)
            await publisher.catch_up(CHAIN_ID)
            await assert_equal(database, valkey)

        assert await stream(valkey) == await told(database)
        assert publisher.state(CHAIN_ID).cursor == await publisher.catch_up(CHAIN_ID) > 0


async def test_stretches_publish_what_one_go_does(
    database: Database, valkey_url: str, ledger: Ledger, valkey: Redis
) -> None:
    chain, _ = history(2)
    async with publishing(database, valkey_url, stretch=4) as publisher:
        await publisher.catch_up(CHAIN_ID)  # so that all of it is followed, not rebuilt

        await ledger.index(chain, (10, 1, 2), announce=True)
        await publisher.catch_up(CHAIN_ID)

        await assert_equal(database, valkey)
        assert await stream(valkey) == await told(database)


async def test_blocks_are_vouched_for_only_when_all_their_changes_are_there(
    database: Database, valkey_url: str, ledger: Ledger, valkey: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, _ = history(2)
    seen: list[tuple[str, int]] = []
    execute = Pipeline.execute

    async def watch(pipe: Any, *args: Any, **options: Any) -> Any:
        answer = await execute(pipe, *args, **options)
        fields = await valkey.hgetall(f"{PREFIX}checkpoint")
        seen.append((fields.get("block_hash", ""), int(fields.get("cursor", -1))))
        return answer

    async with publishing(database, valkey_url, stretch=4) as publisher:
        await publisher.catch_up(CHAIN_ID)
        await ledger.index(chain, announce=True)
        monkeypatch.setattr(Pipeline, "execute", watch)
        end = await publisher.catch_up(CHAIN_ID)

    head = f"0x{chain.head.hash.hex()}"
    assert len({cursor for _, cursor in seen}) > 4
    assert all((block == head) == (cursor == end) for block, cursor in seen)


async def test_a_live_event_brings_its_entry_and_a_reorg_takes_it_back(
    database: Database, ledger: Ledger, publisher: Publisher, valkey: Redis
) -> None:
    chain = SimChain()
    await ledger.index(chain)
    chain.mine([form_log(DEPLOYMENT.identity, "identity/registered", 7, "ipfs://x", b"\xaa" * 20)])
    await ledger.index(chain, announce=True)
    await publisher.catch_up(CHAIN_ID)
    assert await valkey.hget(f"{PREFIX}agent:7", "uri") == "ipfs://x"
    assert await valkey.zrange(f"{PREFIX}top:feedback_count", 0, -1) == ["7"]

    await ledger.rollback(chain.reorg(1))
    await publisher.catch_up(CHAIN_ID)

    event, revert = await stream(valkey)
    assert (event["kind"], revert["kind"]) == ("event", "revert")
    assert {**event, "kind": "", "cursor": ""} == {**revert, "kind": "", "cursor": ""}
    assert json.loads(event["args"]) == {"agentId": "7", "agentURI": "ipfs://x", "owner": "0x" + "aa" * 20}
    assert not await valkey.exists(f"{PREFIX}agent:7", f"{PREFIX}top:feedback_count")
    await assert_equal(database, valkey)


async def test_backfilled_history_stays_out_of_the_stream(ledger: Ledger, publisher: Publisher, valkey: Redis) -> None:
    chain, _ = history(3)
    await publisher.catch_up(CHAIN_ID)
    await ledger.index(chain, (4,))
    await publisher.catch_up(CHAIN_ID)

    assert await stream(valkey) == []
    assert await valkey.exists(f"{PREFIX}agent:1")


async def test_an_empty_block_moves_the_checkpoint_alone(
    database: Database, ledger: Ledger, publisher: Publisher, valkey: Redis
) -> None:
    chain, _ = history(3)
    await ledger.index(chain)
    await publisher.catch_up(CHAIN_ID)
    before = await valkey.hgetall(f"{PREFIX}checkpoint")

    chain.mine()
    await ledger.index(chain, announce=True)
    async with database.transaction() as connection:
        await connection.execute("UPDATE heads SET head_block = $1", chain.head.number + 5)
    await publisher.catch_up(CHAIN_ID)

    after = await valkey.hgetall(f"{PREFIX}checkpoint")
    assert after["block_hash"] == f"0x{chain.head.hash.hex()}"
    assert (after["lag_blocks"], after["cursor"]) == ("5", before["cursor"])
    await assert_equal(database, valkey)


async def test_subscribers_hear_of_each_published_batch_once(
    database: Database, ledger: Ledger, publisher: Publisher, valkey: Redis
) -> None:
    chain, workload = history(3)
    async with valkey.pubsub() as listener:
        await listener.subscribe("erc8004:checkpoints")
        await listener.get_message(timeout=DEADLINE_S)
        for _ in range(2):
            chain.mine(workload.block())
            await ledger.index(chain, announce=True)
            await publisher.catch_up(CHAIN_ID)
            await publisher.catch_up(CHAIN_ID)

            heard = await listener.get_message(ignore_subscribe_messages=True, timeout=DEADLINE_S)
            assert heard is not None
            message = json.loads(heard["data"])
            stored = await valkey.hgetall(f"{PREFIX}checkpoint")
            assert message.pop("chain_id") == CHAIN_ID
            assert isinstance(message["block_number"], int)
            assert float(stored.pop("updated_at")) == message.pop("updated_at")
            assert {name: text(value) for name, value in message.items()} == stored
        async with database.transaction() as connection:
            await connection.execute("UPDATE heads SET head_block = $1", chain.head.number + 1)
        await publisher.catch_up(CHAIN_ID)
        assert await valkey.hget(f"{PREFIX}checkpoint", "lag_blocks") == "1"
        await valkey.publish("erc8004:checkpoints", "nothing in between")
        heard = await listener.get_message(ignore_subscribe_messages=True, timeout=DEADLINE_S)
        assert heard is not None
        assert heard["data"] == "nothing in between"


async def test_an_emptied_valkey_is_filled_again_without_a_new_block(
    database: Database, ledger: Ledger, publisher: Publisher, valkey: Redis
) -> None:
    chain, _ = history(4)
    await ledger.index(chain, (3,), announce=True)
    async with running(publisher):
        await until(lambda: is_equal(database, valkey))

        await valkey.flushall()

        await until(lambda: is_equal(database, valkey))
    assert await stream(valkey) == await told(database)


async def test_a_poke_publishes_at_once(database: Database, valkey_url: str, ledger: Ledger, valkey: Redis) -> None:
    chain, _ = history(4)
    async with publishing(database, valkey_url, poll_interval_s=3600) as publisher, running(publisher):
        await until(lambda: is_equal(database, valkey))
        await ledger.index(chain, announce=True)
        publisher.poke(CHAIN_ID)
        await until(lambda: is_equal(database, valkey))


async def test_another_database_takes_over_and_leaves_nothing_of_the_first(
    database: Database, another_database_url: str, valkey_url: str, ledger: Ledger, valkey: Redis
) -> None:
    chain, workload = history(5)
    for agent in range(50, 60):
        chain.mine([form_log(DEPLOYMENT.identity, "identity/registered", agent, "", b"\xaa" * 20)])
    await ledger.index(chain, announce=True)
    second = await Database.open(another_database_url, size=2)
    other = SimChain(seed=6)
    other.mine(workload.block())
    await (await Ledger.open(second)).index(other, announce=True)

    async with publishing(database, valkey_url) as publisher:
        await publisher.catch_up(CHAIN_ID)
    await valkey.hset(f"{PREFIX}agent:not-a-number", "x", "y")
    async with publishing(second, valkey_url) as publisher:
        await publisher.catch_up(CHAIN_ID)

    await assert_equal(second, valkey)
    assert await stream(valkey) == await told(second)
    await second.close()


async def test_a_checkpoint_ahead_of_a_restored_database_is_not_believed(
    database: Database, ledger: Ledger, publisher: Publisher, valkey: Redis
) -> None:
    chain, workload = history(5)
    await ledger.index(chain, announce=True)
    await publisher.catch_up(CHAIN_ID)
    cursor = ledger.committed[-1].cursor
    lost = {"cursor": str(cursor + 3), "kind": "event"}
    await valkey.xadd(f"{PREFIX}changes", lost, id=f"{cursor + 3}-0")
    await valkey.hset(f"{PREFIX}checkpoint", "cursor", cursor + 3)
    await valkey.hset(f"{PREFIX}agent:4711", "owner", "nobody")

    await publisher.catch_up(CHAIN_ID)
    chain.mine(workload.block())
    await ledger.index(chain, announce=True)
    await publisher.catch_up(CHAIN_ID)

    await assert_equal(database, valkey)
    assert await stream(valkey) == await told(database)


async def test_changes_that_were_deleted_meanwhile_are_made_up_for(
    database: Database, ledger: Ledger, publisher: Publisher, valkey: Redis
) -> None:
    chain, workload = history(5, blocks=5)
    await ledger.index(chain, announce=True)
    await publisher.catch_up(CHAIN_ID)
    published = await stream(valkey)
    chain.mine([*workload.block(), *workload.block(), *workload.block()])
    await ledger.index(chain, announce=True)
    async with database.transaction() as connection:
        await connection.execute("DELETE FROM changes WHERE cursor <= $1", len(published) + 2)

    await publisher.catch_up(CHAIN_ID)

    await assert_equal(database, valkey)
    assert await stream(valkey) == published + await told(database)


@pytest.mark.parametrize("applied", [False, True], ids=["before EXEC", "before its answer"])
@pytest.mark.parametrize("stretch", [4, 2000])
async def test_a_crash_repeats_and_never_loses(
    database: Database,
    valkey_url: str,
    ledger: Ledger,
    valkey: Redis,
    monkeypatch: pytest.MonkeyPatch,
    applied: bool,
    stretch: int,
) -> None:
    chain, workload = history(7, blocks=12)
    await ledger.index(chain, (2,), announce=True)
    execute, random = Pipeline.execute, Random(7)

    async def break_down(pipe: Any, *args: Any, **options: Any) -> Any:
        breaks = random.random() < 0.3
        answer = await execute(pipe, *args, **options) if applied or not breaks else None
        if breaks:
            raise RedisConnectionError("broken off")
        return answer

    async with publishing(database, valkey_url, stretch=stretch) as publisher:
        faults = 0
        if stretch < 10:  # a rebuild begins anew after each fault, and in so many parts would hardly come to its end
            await publisher.catch_up(CHAIN_ID)
        monkeypatch.setattr(Pipeline, "execute", break_down)
        for _ in range(5):
            await ledger.rollback(chain.reorg(4, [workload.block() for _ in range(6)]))
            await ledger.index(chain, (2,), announce=True)
            while True:
                try:
                    await publisher.catch_up(CHAIN_ID)
                except ValkeyUnavailable:
                    faults += 1
                else:
                    break
    assert faults > 2
    await assert_equal(database, valkey)
    assert await stream(valkey) == await told(database)


@pytest.mark.parametrize("moment", ["watch", "execute"], ids=["between two writes", "within a write"])
async def test_emptying_valkey_in_the_middle_of_a_rebuild_begins_it_again(
    database: Database, valkey_url: str, ledger: Ledger, valkey: Redis, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    chain, _ = history(7, blocks=6)
    await ledger.index(chain, announce=True)
    act = getattr(Pipeline, moment)
    turn = steps = 0

    async def empty(pipe: Any, *args: Any, **options: Any) -> Any:
        nonlocal turn
        turn += 1
        if turn == steps:
            await valkey.flushall()
        return await act(pipe, *args, **options)

    monkeypatch.setattr(Pipeline, moment, empty)
    async with publishing(database, valkey_url, stretch=20) as publisher:
        while turn >= steps:
            await valkey.flushall()
            turn, steps = 0, steps + 1
            await publisher.catch_up(CHAIN_ID)
            await assert_equal(database, valkey)
    assert steps > 5


async def test_a_rebuild_that_broke_off_leaves_no_entry_twice(
    database: Database, ledger: Ledger, publisher: Publisher, valkey: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, workload = history(7)
    await ledger.index(chain, announce=True)
    await publisher.catch_up(CHAIN_ID)
    chain.mine([*workload.block(), *workload.block()])
    await ledger.index(chain, announce=True)
    execute = Pipeline.execute

    async def break_down(pipe: Any, *args: Any, **options: Any) -> Any:
        if len(await valkey.xrange(f"{PREFIX}changes")) == ledger.committed[-1].cursor:
            raise RedisConnectionError("broken off")
        return await execute(pipe, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, "execute", break_down)
        with pytest.raises(ValkeyUnavailable):
            await publisher.rebuild(CHAIN_ID)
    await publisher.catch_up(CHAIN_ID)

    assert await stream(valkey) == await told(database)
    assert await valkey.hget(f"{PREFIX}checkpoint", "cursor") == str(ledger.committed[-1].cursor)


async def test_a_rebuild_of_another_publisher_is_waited_for_while_it_lives(
    ledger: Ledger, publisher: Publisher, valkey: Redis
) -> None:
    await ledger.index(history(7)[0])
    await valkey.set(f"{PREFIX}rebuild", "another", px=300)
    began = time.monotonic()

    await publisher.catch_up(CHAIN_ID)

    assert time.monotonic() - began >= 0.25
    assert await valkey.exists(f"{PREFIX}agent:1")


async def test_two_publishers_at_once_agree(database: Database, valkey_url: str, ledger: Ledger, valkey: Redis) -> None:
    chain, workload = history(8)
    await ledger.index(chain, announce=True)
    async with (
        publishing(database, valkey_url, stretch=5) as first,
        publishing(database, valkey_url, stretch=3) as second,
        running(first),
        running(second),
    ):
        for _ in range(6):
            await ledger.rollback(chain.reorg(2, [workload.block() for _ in range(4)]))
            await ledger.index(chain, (1,), announce=True)
            first.poke()
            second.poke()
        await until(lambda: is_equal(database, valkey))
    assert await stream(valkey) == await told(database)


async def test_a_rebuild_mends_what_someone_altered(
    database: Database, ledger: Ledger, publisher: Publisher, valkey: Redis
) -> None:
    chain, _ = history(9)
    await ledger.index(chain, announce=True)
    await publisher.catch_up(CHAIN_ID)
    published = await stream(valkey)
    await valkey.hset(f"{PREFIX}agent:1", mapping={"owner": "0xdead", "more": "fields"})
    await valkey.delete(f"{PREFIX}agent:2", f"{PREFIX}stats")
    await valkey.zadd(f"{PREFIX}top:average_score", {"99": 100})
    await valkey.set(f"{PREFIX}agent:3", "of another type", keepttl=False)

    await publisher.rebuild(CHAIN_ID)

    await assert_equal(database, valkey)
    assert await stream(valkey) == published


async def test_a_rebuild_can_be_asked_of_another_process(
    database: Database, valkey_url: str, ledger: Ledger, publisher: Publisher, valkey: Redis
) -> None:
    chain, _ = history(9)
    await ledger.index(chain, announce=True)
    async with running(publisher), publishing(database, valkey_url) as asking:
        await until(lambda: is_equal(database, valkey))
        await valkey.delete(f"{PREFIX}agent:2")

        await asking.request_rebuild(CHAIN_ID)

        await until(lambda: asking.is_rebuilt(CHAIN_ID))
        await assert_equal(database, valkey)


async def test_rows_that_were_computed_anew_are_followed(
    database: Database, ledger: Ledger, publisher: Publisher, valkey: Redis
) -> None:
    chain, _ = history(4)
    await ledger.index(chain, announce=True)
    async with database.transaction() as connection:
        await connection.execute("UPDATE agent_stats SET feedback = feedback + 7, clients = clients + 1")
    await publisher.catch_up(CHAIN_ID)
    damaged = await valkey.hget(f"{PREFIX}agent:1", "feedback_count")

    await rebuild(database, CHAIN_ID, ledger.builder)
    await publisher.catch_up(CHAIN_ID)

    await assert_equal(database, valkey)
    assert await valkey.hget(f"{PREFIX}agent:1", "feedback_count") == str(int(damaged) - 7)


async def test_agents_of_a_further_deployment_bear_its_registry(
    database: Database, ledger: Ledger, publisher: Publisher, valkey: Redis
) -> None:
    rows = [(OTHER.identity, "identity"), (OTHER.reputation, "reputation")]
    async with database.transaction() as connection:
        for address, kind in rows:
            await connection.execute(
                "INSERT INTO registries VALUES ($1, $2, $3, $4, 5, 0)", CHAIN_ID, address, kind, OTHER.identity
            )
    ledger.builder = RowBuilder(ChainId(CHAIN_ID), [DEPLOYMENT, OTHER], decoder())
    chain = SimChain()
    for deployment in (DEPLOYMENT, OTHER):
        chain.mine([form_log(deployment.identity, "identity/registered", 7, "ipfs://x", b"\xaa" * 20)])
    await ledger.index(chain, announce=True)
    await publisher.catch_up(CHAIN_ID)
    name = f"7:0x{OTHER.identity.hex()}"
    assert sorted(await valkey.zrange(f"{PREFIX}top:feedback_count", 0, -1)) == ["7", name]
    assert await valkey.exists(f"{PREFIX}agent:{name}")
    await assert_equal(database, valkey)

    async with database.transaction() as connection:  # the further one comes first now
        await connection.execute("UPDATE registries SET position = -1 WHERE identity = $1", OTHER.identity)
    await publisher.catch_up(CHAIN_ID)

    assert sorted(await valkey.zrange(f"{PREFIX}top:feedback_count", 0, -1)) == ["7", f"7:{IDENTITY}"]
    assert not await valkey.exists(f"{PREFIX}agent:{name}")


async def test_the_stream_is_capped(database: Database, valkey_url: str, ledger: Ledger, valkey: Redis) -> None:
    chain, workload = history(10, blocks=5)
    async with publishing(database, valkey_url, stream_maxlen=10) as publisher:
        await publisher.catch_up(CHAIN_ID)
        for _ in range(20):
            chain.mine([log for _ in range(6) for log in workload.block()])
        await ledger.index(chain, announce=True)
        await publisher.catch_up(CHAIN_ID)
        following = await told(database)
        assert len(following) > 400
        assert await valkey.xlen(f"{PREFIX}changes") < 200  # whole nodes of 100 entries are cut off

        await valkey.flushall()
        await publisher.catch_up(CHAIN_ID)
        assert await stream(valkey) == following[-10:]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A Valkey of the test's own on a TCP port."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self.folder = folder
        self.options = options
        self.start()

    def start(self) -> None:
        command = [valkey_program(), "--port", str(self.port), "--save", "", "--dir", str(self.folder), *self.options]
        self.process = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            with socket.socket() as knock:
                if knock.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.01)
        raise TimeoutError("Valkey does not answer")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)


@pytest.fixture
def own_valkey(tmp_path: Path) -> Any:
    started: list[Server] = []

    def start(*options: str) -> Server:
        started.append(Server(tmp_path, *options))
        return started[-1]

    yield start
    for server in started:
        server.kill()


async def test_a_valkey_that_dies_and_comes_back_empty_disturbs_nobody(
    database: Database, ledger: Ledger, own_valkey: Callable[..., Server]
) -> None:
    server = own_valkey()
    chain, workload = history(11)
    await ledger.index(chain, announce=True)
    client = Redis.from_url(f"redis://127.0.0.1:{server.port}", decode_responses=True)
    with capture_logs() as logs:
        async with publishing(database, f"redis://u:secret@127.0.0.1:{server.port}") as broken:
            with pytest.raises(SettingsError):
                await broken.catch_up(CHAIN_ID)
        async with publishing(database, f"redis://127.0.0.1:{server.port}") as publisher, running(publisher):
            await until(lambda: is_equal(database, client))
            server.kill()
            chain.mine(workload.block())
            await ledger.index(chain, announce=True)
            publisher.poke()

            async def has_failed_twice() -> bool:
                return publisher.state(CHAIN_ID).failures >= 2

            await until(has_failed_twice)
            assert "127.0.0.1" in (publisher.state(CHAIN_ID).error or "")

            server.start()
            await client.connection_pool.disconnect()
            await until(lambda: is_equal(database, client))
            assert publisher.state(CHAIN_ID).error is None
    events = [entry["event"] for entry in logs]
    assert (events.count("publisher_failed"), events.count("publisher_recovered")) == (1, 1)
    assert "secret" not in str(logs)
    await client.aclose()


async def test_refused_credentials_are_told_without_them(database: Database, own_valkey: Callable[..., Server]) -> None:
    server = own_valkey("--requirepass", "right")
    for account in ("", ":wrong@"):
        async with publishing(database, f"redis://{account}127.0.0.1:{server.port}") as publisher:
            with pytest.raises(SettingsError, match=r"VALKEY_URL: the server at 127\.0\.0\.1 refuses") as refusal:
                await publisher.check()
            assert "wrong" not in str(refusal.value)
    async with publishing(database, f"redis://:right@127.0.0.1:{server.port}") as publisher:
        await publisher.check()


@pytest.mark.parametrize("url", ["redis://h:port", "http://h", "redis://:secret@h?no_such_option=1"])
def test_an_address_that_cannot_be_read_is_a_mistake_in_the_settings(url: str) -> None:
    with pytest.raises(SettingsError, match="VALKEY_URL") as mistake:
        Publisher(None, url, chain_ids=[])  # type: ignore[arg-type]  # the database is not reached
    assert "secret" not in str(mistake.value)


async def test_a_cluster_is_found_out_and_served(
    database: Database, ledger: Ledger, own_valkey: Callable[..., Server]
) -> None:
    server = own_valkey("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    client = Redis.from_url(f"redis://127.0.0.1:{server.port}", decode_responses=True)
    chain, workload = history(12)
    await ledger.index(chain, announce=True)
    async with publishing(database, f"redis://127.0.0.1:{server.port}") as publisher:
        with pytest.raises(ValkeyUnavailable):  # nobody holds the slots yet
            await publisher.catch_up(CHAIN_ID)
        await client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)

        async def catches_up() -> bool:
            with suppress(ValkeyUnavailable):
                return await publisher.catch_up(CHAIN_ID) > 0
            return False

        await until(catches_up)
        chain.mine(workload.block())
        await ledger.index(chain, announce=True)
        await publisher.catch_up(CHAIN_ID)
    await assert_equal(database, client)
    assert await stream(client) == await told(database)
    await client.aclose()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def tls_front(authority: trustme.CA, path: str) -> AsyncIterator[int]:
    """Put TLS before the server at a unix socket."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind = await asyncio.open_unix_connection(path)
        await asyncio.gather(pump(reader, behind[1]), pump(behind[0], writer))

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_tls_is_used_and_the_certificate_judged(
    database: Database, ledger: Ledger, valkey_url: str, valkey: Redis, tmp_path: Path
) -> None:
    chain, _ = history(13)
    await ledger.index(chain, announce=True)
    authority, certificate = trustme.CA(), tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(certificate))
    async with tls_front(authority, unquote(urlsplit(valkey_url).path)) as port:
        async with publishing(database, f"rediss://127.0.0.1:{port}") as publisher:
            with pytest.raises(ValkeyUnavailable, match="certificate"):
                await publisher.catch_up(CHAIN_ID)
        async with publishing(database, f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate}") as publisher:
            await publisher.catch_up(CHAIN_ID)
    assert parse_qs(urlsplit(valkey_url).query) == {"db": ["0"]}
    await assert_equal(database, valkey)


HEAD = Head(10, "0xaa", 0, 500, 10, 5, 0, "here", IDENTITY, held=100, backfilling=False)
OURS = Published({"cursor": "400", "database": "here"}, "", layout_of(IDENTITY), 400)


@pytest.mark.parametrize(
    ("published", "plan"),
    [
        (OURS, Extend(400)),
        (Published(), Rebuild("missing", keep_feed=False)),
        (Published({"cursor": "odd", "database": "here"}), Rebuild("missing", keep_feed=False)),
        (Published({"cursor": "400", "database": "there"}), Rebuild("foreign", keep_feed=False)),
        (Published({"cursor": "501", "database": "here"}), Rebuild("ahead", keep_feed=False)),
        (Published(OURS.fields, "", OURS.layout, 501), Rebuild("ahead", keep_feed=False)),
        (Published(OURS.fields, "", "", 400), Rebuild("layout", keep_feed=True)),
        (Published({**OURS.fields, "cursor": "300"}, "", OURS.layout, 300), Rebuild("pruned", keep_feed=True)),
    ],
    ids=["ours", "missing", "unreadable", "foreign", "ahead", "stream ahead", "other layout", "pruned"],
)
def test_what_valkey_says_decides_how_it_is_brought_up(published: Published, plan: Extend | Rebuild) -> None:
    assert judge(published, HEAD, 2000) == plan


@pytest.mark.parametrize("registry", [IDENTITY, "0x" + "90" * 20])
def test_an_agents_name_leads_back_to_it(registry: str) -> None:
    name = member(str(2**256 - 1), registry, IDENTITY)

    assert uuid_of(name, CHAIN_ID, IDENTITY) == uuid_of(f"{2**256 - 1}:{registry}", CHAIN_ID, None)


@pytest.mark.parametrize("name", ["", "x", "07", "-1", "7:0xAB", "7:", "9" * 79])
def test_no_agent_bears_an_odd_name(name: str) -> None:
    assert uuid_of(name, CHAIN_ID, IDENTITY) is None


def test_amounts_are_written_out_exactly() -> None:
    assert [exact(Decimal(n), d) for n, d in ((-5, 2), (0, 1), (12345, 3), (7, 0))] == ["-0.05", "0.0", "12.345", "7"]
