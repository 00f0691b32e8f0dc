"""The verbs as a shell sees them: what they print, how they end, and how the daemon bears what it cannot reach."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from ledger import CHAIN_ID, Ledger, tables_of
from processes import Link, Program, Programs, chain_table, until, with_key
from redis.asyncio import Redis
from simulator.chain import SimChain
from simulator.node import SimNode, SimRpcError
from workload import Workload

from indexer.core.types import Deployment
from indexer.embedded.postgres import EmbeddedPostgres
from indexer.embedded.server import Server
from indexer.embedded.valkey import EmbeddedValkey
from indexer.store.database import Database

DEAD = "http://127.0.0.1:9"  # the port of discard: nothing listens there
OTHER = Deployment(b"\x90" * 20, b"\x91" * 20, (b"\x92" * 20,), 0)


def grown(seed: int, blocks: int = 80, *, chain_id: int = CHAIN_ID) -> tuple[SimChain, Workload]:
    workload, chain = Workload(seed), SimChain(seed=seed, chain_id=chain_id)
    for _ in range(blocks):
        chain.mine(workload.block(4))
    return chain, workload


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    database = await Database.open(url, size=2)
    try:
        yield database
    finally:
        await database.close()


async def tables_at(url: str) -> dict[str, list[object]]:
    async with opened(url) as database:
        return await tables_of(database)


async def expect_truth(url: str, clean_url: str, chain: SimChain, last: int | None = None) -> None:
    """Compare every table with those of a straight run over the chain as it is now, up to block `last`."""
    async with opened(clean_url) as clean:
        straight = await Ledger.open(clean)
        await straight.commit(chain, 0, chain.head.number if last is None else last)
        expected = await straight.tables()
    assert await tables_at(url) == expected


async def ready(program: Program) -> None:
    async def answers() -> bool:
        status, _ = await program.get("/ready")
        return status == 200

    await until(answers, f"/ready, logged {program.stderr[-5:]}")


def expect_one_message(program: Program, pattern: str) -> None:
    """One line for a person, the expected one; no traceback anywhere."""
    assert len(program.messages) == 1, program.stderr
    assert re.search(pattern, program.messages[0]), program.messages
    assert "Traceback" not in "".join(program.stderr)


# --- run --until ----------------------------------------------------------------------------------------------------


async def test_until_head_prints_one_document_and_leaves_the_truth(
    programs: Programs, database_url: str, another_database_url: str
) -> None:
    chain, _ = grown(1)
    async with SimNode(chain) as node:
        programs.configure(chain_table("local", with_key(node.url)))
        code, program = await programs.run("run", "--until", "head", "--json")

    assert code == 0, program.stderr
    [one] = program.document["chains"]
    seconds, rate = one.pop("seconds"), one.pop("logs_per_second")
    assert 0 < seconds < 20
    assert rate > 0
    assert one == {
        "chain_id": CHAIN_ID,
        "name": "local",
        "from_block": 0,
        "to_block": chain.head.number,
        "block_hash": f"0x{chain.head.hash.hex()}",
        "logs": len(chain.logs()),
        "reorgs": 0,
        "halted": None,
    }
    assert not program.messages
    await expect_truth(database_url, another_database_url, chain)


async def test_a_provider_of_logs_alone_is_enough(programs: Programs) -> None:
    chain, _ = grown(1)

    def answer(method: str, _params: list[object], given: object) -> object:
        if method == "eth_getCode":
            raise SimRpcError(-32601, "the method eth_getCode does not exist/is not available")
        return given

    async with SimNode(chain) as node:
        node.intercept = answer
        programs.configure(chain_table("local", node.url))
        code, program = await programs.run("run", "--until", "head", "--json")

    assert code == 0, program.stderr
    assert program.document["chains"][0]["to_block"] == chain.head.number


async def test_until_a_block_stops_there_and_the_next_run_goes_on(
    programs: Programs, database_url: str, another_database_url: str
) -> None:
    chain, _ = grown(2)
    async with SimNode(chain) as node:
        programs.configure(chain_table("local", node.url))
        _, first = await programs.run("run", "--until", "33", "--json")
        code, second = await programs.run("run", "--until", "60", "--json")

    assert (first.document["chains"][0]["from_block"], first.document["chains"][0]["to_block"]) == (0, 33)
    assert code == 0
    assert (second.document["chains"][0]["from_block"], second.document["chains"][0]["to_block"]) == (34, 60)
    await expect_truth(database_url, another_database_url, chain, 60)


async def test_until_head_bears_a_chain_that_is_reorganised_all_the_while(
    programs: Programs, database_url: str, another_database_url: str
) -> None:
    chain, workload = grown(3, 100)
    async with SimNode(chain, latency_s=0.01) as node:
        programs.configure(chain_table("local", node.url, max_block_range=10))
        program = await programs.start("run", "--until", "head", "--json")
        while program.process.returncode is None:
            chain.reorg(5, [workload.block(2) for _ in range(5)])
            await asyncio.sleep(0.05)
        assert await program.ended() == 0, program.stderr[-5:]
        code, _ = await programs.run("run", "--until", "head", "--json")

    assert code == 0
    await expect_truth(database_url, another_database_url, chain)


# --- the other verbs ------------------------------------------------------------------------------------------------


async def test_status_and_verify_tell_of_a_chain_that_was_indexed(programs: Programs, database_url: str) -> None:
    chain, _ = grown(4)
    async with SimNode(chain) as node:
        programs.configure(chain_table("local", with_key(node.url)))
        before = await programs.run("status", "--json")
        await programs.run("run", "--until", "head")
        after = await programs.run("status", "--json")
        same = await programs.run("verify", "--sample", "0", "--json")
        async with opened(database_url) as database, database.transaction() as connection:
            await connection.execute("UPDATE agents SET token_uri = 'altered' WHERE agent_id = 1")
        differs = await programs.run("verify", "--sample", "0", "--json")
        lagging = await programs.run("status", "--json", ERC8004_MAX_LAG_S="1")

    assert before[0] == 1
    assert before[1].document["hint"]
    assert after[0] == 0
    assert after[1].document["chains"][0]["checkpoint_block"] == chain.head.number
    assert after[1].document["chains"][0]["publisher"]["backlog"] == 0
    assert after[1].document["chains"][0]["publisher"]["cursor"] > 0
    assert same[0] == 0, same[1].stdout
    assert differs[0] == 1
    assert "altered" in differs[1].stdout
    assert lagging[0] == 0  # the daemon's setting counts, not the asker's


async def test_status_is_bad_once_nobody_keeps_a_chain_up(programs: Programs) -> None:
    chain, _ = grown(5, 20)
    async with SimNode(chain) as node:
        programs.configure(chain_table("local", node.url))
        await programs.run("run", "--until", "head", ERC8004_STALL_AFTER_S="0.01")
    code, program = await programs.run("status", "--json")

    assert code == 1
    assert program.document["chains"][0]["problems"] == ["stalled"]


@pytest.mark.parametrize("running", [True, False], ids=["by a running daemon", "without a daemon"])
async def test_publish_rebuild_fills_an_emptied_valkey(programs: Programs, valkey_url: str, running: bool) -> None:
    chain, _ = grown(6, 30)
    async with SimNode(chain) as node, Redis.from_url(valkey_url) as valkey:
        programs.configure(chain_table("local", node.url))
        daemon = await programs.start("run") if running else None
        if daemon is None:
            await programs.run("run", "--until", "head")
        else:
            await ready(daemon)
        await until(lambda: published(valkey, chain), "all of the chain in Valkey")
        keys = sorted(await valkey.keys("*:agent:*"))
        await valkey.delete(*keys)
        code, program = await programs.run("publish", "--rebuild")
        again = sorted(await valkey.keys("*:agent:*"))

    assert code == 0, program.stderr
    assert keys
    assert again == keys
    assert bool(daemon and daemon.count("publisher_rebuilt", reason="layout")) == running


async def published(valkey: Redis, chain: SimChain) -> bool:
    """Say whether Valkey vouches for all that the chain has; an empty chain is published too."""
    block = await valkey.hget(f"erc8004:{{{CHAIN_ID}}}:checkpoint", "block_number")
    return block is not None and int(block) == chain.head.number


async def test_migrate_makes_the_schema_and_does_nothing_the_second_time(
    programs: Programs, empty_database_url: str
) -> None:
    first = await programs.run("migrate", DATABASE_URL=empty_database_url)
    second = await programs.run("migrate", DATABASE_URL=empty_database_url)

    assert (first[0], second[0]) == (0, 0)
    assert first[1].count("migrated", name="views") == 1
    assert second[1].events == []
    connection = await asyncpg.connect(empty_database_url)
    assert await connection.fetchval("SELECT count(*) FROM erc8004.erc8004_agents") == 0
    await connection.close()


async def test_url_prints_addresses_that_work(programs: Programs, database_url: str) -> None:
    chain, _ = grown(7, 10)
    no_daemon = await programs.run("url", "http")
    async with SimNode(chain) as node:
        programs.configure(chain_table("local", node.url))
        daemon = await programs.start("run")
        await ready(daemon)
        http = await programs.run("url", "http")
        database = await programs.run("url", "database")
        await daemon.kill()
        after_a_kill = await programs.run("url", "http")

    assert no_daemon[0] == after_a_kill[0] == 2
    expect_one_message(no_daemon[1], "none runs here")
    expect_one_message(after_a_kill[1], "none runs here")
    port = (await daemon.logged("http_started"))["port"]
    assert http[1].stdout == f"http://127.0.0.1:{port}\n"
    assert database[1].stdout == f"{database_url}\n"


async def test_config_shows_every_setting_and_no_secret(programs: Programs) -> None:
    programs.configure(chain_table("local", with_key(DEAD)))
    code, program = await programs.run("config", "--json")

    assert code == 0
    lines = {line["key"]: line for line in program.document["settings"]}
    assert lines["chain.local.rpc"]["value"] == "127.0.0.1"
    assert lines["ERC8004_HTTP_BIND"]["origin"] == "environment"
    assert lines["DATABASE_URL"]["value"].startswith("postgresql://")


# --- stopping -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
async def test_a_signal_during_backfill_leaves_whole_batches(
    programs: Programs, database_url: str, another_database_url: str, number: signal.Signals
) -> None:
    chain, _ = grown(8, 200)
    async with SimNode(chain, latency_s=0.02) as node:
        programs.configure(chain_table("local", node.url, max_block_range=5, finality_blocks=10))
        program = await programs.start("run")
        await program.logged("batch_committed", from_block=49)
        code = await program.stop(number)

    assert code == 0
    assert program.messages == []
    async with opened(database_url) as database, database.transaction() as connection:
        checkpoint = await connection.fetchval("SELECT checkpoint_block FROM chains")
        held = await connection.fetchval("SELECT count(*) FROM leases WHERE expires_at > clock_timestamp()")
    assert 53 <= checkpoint < chain.head.number
    assert held == 0
    await expect_truth(database_url, another_database_url, chain, checkpoint)


async def test_sigterm_while_live_ends_cleanly_and_removes_the_address(programs: Programs) -> None:
    chain, _ = grown(9, 30)
    async with SimNode(chain) as node:
        programs.configure(chain_table("local", node.url))
        program = await programs.start("run")
        await ready(program)
        code = await program.stop()

    assert code == 0
    assert program.stdout == ""
    assert not (programs.folder / "data" / "http.url").exists()
    bad = {one["event"] for one in program.events if one["level"] in {"warning", "error", "critical"}}
    assert bad <= {"log_undecodable"}


async def test_sigterm_with_until_prints_how_far_it_came(programs: Programs) -> None:
    chain, _ = grown(10, 100)
    async with SimNode(chain, latency_s=0.05) as node:
        programs.configure(chain_table("local", node.url, max_block_range=5, finality_blocks=10))
        program = await programs.start("run", "--until", "head", "--json")
        await program.logged("batch_committed", from_block=9)
        code = await program.stop()

    assert code == 0
    assert 13 <= program.document["chains"][0]["to_block"] < chain.head.number


async def test_sigterm_while_the_rpc_is_away_or_hangs(programs: Programs) -> None:
    chain, _ = grown(11, 10)
    async with SimNode(chain, latency_s=60) as node:
        programs.configure(chain_table("away", DEAD), chain_table("hangs", node.url, chain_id=5, deployment=OTHER))
        program = await programs.start("run")
        await program.logged("provider_failed", chain="away")
        assert node.http_requests > 0
        code = await program.stop()

    assert code == 0
    assert program.messages == []


@pytest.mark.parametrize("moment", ["while connecting", "while indexing"])
async def test_sigterm_while_the_database_hangs(programs: Programs, database_url: str, moment: str) -> None:
    chain, workload = grown(12, 10)
    parts = urlsplit(database_url)
    async with SimNode(chain) as node, Link(str(parts.hostname), parts.port or 5432) as link:
        through = urlunsplit(parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{link.port}"))
        programs.configure(chain_table("local", node.url))
        if moment == "while connecting":
            link.freeze()
        program = await programs.start("run", DATABASE_URL=through)
        await program.logged("http_started")
        if moment == "while indexing":
            await ready(program)
            link.freeze()
            chain.mine(workload.block(4))
            assert (await program.get("/ready"))[0] == 503
        code = await program.stop()
        link.thaw()

    assert code == 0
    assert "Traceback" not in "".join(program.stderr)


async def test_sigterm_while_the_embedded_servers_start_leaves_none_behind(embedded_folder: Path) -> None:
    async with Programs(embedded_folder) as programs:
        programs.configure(chain_table("local", DEAD))
        for event, pause_s in [("settings_loaded", 0.0), ("settings_loaded", 0.3), ("embedded_started", 0.0)]:
            program = await programs.start("run")
            await program.logged(event)
            await asyncio.sleep(pause_s)  # into the middle of the start
            code = await program.stop()

            assert code == 0, program.stderr
            assert program.messages == []
            data = embedded_folder / "data"
            assert not [one.name for one in (EmbeddedPostgres(data), EmbeddedValkey(data)) if is_alive(one)]


def is_alive(server: Server) -> bool:
    return server.folder.exists() and server.alive()


# --- what cannot work: exit 2, one message --------------------------------------------------------------------------


async def test_another_chain_id_than_set(programs: Programs) -> None:
    chain, _ = grown(13, 5, chain_id=5)
    async with SimNode(chain) as node:
        programs.configure(chain_table("local", with_key(node.url)))
        code, program = await programs.run("run")

    assert code == 2
    expect_one_message(program, r"chain id 31337 is set.*chain 5")


async def test_credentials_that_every_provider_refuses(programs: Programs) -> None:
    chain, _ = grown(14, 5)
    async with SimNode(chain) as one, SimNode(chain) as two:
        one.fail(100, "401")
        two.fail(100, "401")
        programs.configure(chain_table("local", [with_key(one.url), with_key(two.url)]))
        code, program = await programs.run("run")

    assert code == 2
    expect_one_message(program, "refuses the credentials")


async def test_a_wrong_database_password(programs: Programs, database_url: str) -> None:
    parts = urlsplit(database_url)
    wrong = urlunsplit(parts._replace(netloc=f"{parts.username}:wr0ngS3cret@{parts.hostname}:{parts.port}"))
    programs.configure(chain_table("local", DEAD))
    for words in (["run"], ["status"]):
        code, program = await programs.run(*words, DATABASE_URL=wrong)

        assert code == 2
        expect_one_message(program, r"DATABASE_URL.*refuses.*password")


async def test_a_wrong_valkey_password(programs: Programs, valkey_url: str) -> None:
    programs.configure(chain_table("local", DEAD))
    code, program = await programs.run("run", VALKEY_URL=valkey_url.replace("unix://", "unix://guest:wr0ngS3cret@"))

    assert code == 2
    expect_one_message(program, r"VALKEY_URL.*refuses")


async def test_a_database_that_is_not_utf8(programs: Programs, postgres_url: str) -> None:
    connection = await asyncpg.connect(postgres_url)
    await connection.execute("DROP DATABASE IF EXISTS ascii")
    await connection.execute("CREATE DATABASE ascii TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'")
    try:
        programs.configure(chain_table("local", DEAD))
        url = urlunsplit(urlsplit(postgres_url)._replace(path="/ascii"))
        code, program = await programs.run("run", DATABASE_URL=url)
    finally:
        await connection.execute("DROP DATABASE ascii WITH (FORCE)")
        await connection.close()

    assert code == 2
    expect_one_message(program, r"encoded in SQL_ASCII; UTF8 is needed")


async def test_a_port_in_use(programs: Programs) -> None:
    programs.configure(chain_table("local", DEAD))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, program = await programs.run("run", ERC8004_HTTP_BIND=f"127.0.0.1:{taken.getsockname()[1]}")

    assert code == 2
    expect_one_message(program, "is in use: .*port")


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ('[[chain]]\nname = "nowhere"\nrpc = ["http://127.0.0.1:9"]', "nowhere"),
        (f'[[chain]]\nname = "local"\nid = 1\nrpcs = ["{DEAD}"]', "rpcs.*did you mean rpc"),
        ("[[chain]\n", "TOML"),
    ],
    ids=["unknown chain", "unknown key", "not TOML"],
)
async def test_bad_settings_are_told_with_the_key(programs: Programs, text: str, pattern: str) -> None:
    programs.configure(text)
    code, program = await programs.run("run")

    assert code == 2
    assert any(re.search(pattern, line) for line in program.messages), program.messages
    assert "Traceback" not in "".join(program.stderr)


@pytest.mark.parametrize(
    ("words", "pattern"),
    [
        (["rum"], "No such command 'rum'"),
        (["run", "--untill", "head"], "No such option"),
        (["run", "--until", "yesterday"], "neither `head` nor a block number"),
        (["run", "--chain", "bas"], "bas"),
        (["run", "--rpc", DEAD], "--chain"),
        (["publish"], "--rebuild"),
        (["url", "postgres"], "database"),
        (["verify", "--chain", "nowhere"], "nowhere"),
    ],
    ids=lambda value: "-".join(value).strip("-") if isinstance(value, list) else "",
)
async def test_a_misspelt_command_line(programs: Programs, words: list[str], pattern: str) -> None:
    programs.configure(chain_table("local", DEAD))
    code, program = await programs.run(*words)

    assert code == 2
    assert re.search(re.escape(pattern), " ".join(program.messages)), program.messages
    assert program.stdout == ""
    assert "Traceback" not in "".join(program.stderr)


@pytest.mark.parametrize("words", [["run", "--until", "head"], ["verify"]], ids=lambda words: words[0])
async def test_an_rpc_out_of_reach_ends_what_shall_end(programs: Programs, words: list[str]) -> None:
    programs.configure(chain_table("local", with_key(DEAD)))
    code, program = await programs.run(*words)

    assert code == 2
    expect_one_message(program, "no RPC can be reached.*127.0.0.1")


@pytest.mark.parametrize(
    "words",
    [["run", "--until", "head"], ["status"], ["verify"]],
    ids=lambda words: words[0],
)
async def test_a_database_out_of_reach_ends_what_shall_end(programs: Programs, words: list[str]) -> None:
    chain, _ = grown(15, 5)
    async with SimNode(chain) as node:
        programs.configure(chain_table("local", node.url))
        code, program = await programs.run(*words, DATABASE_URL="postgresql://me:s3cretWord@127.0.0.1:9/none")

    assert code == 2
    expect_one_message(program, "database at 127.0.0.1 does not answer")


# --- what passes by waiting -----------------------------------------------------------------------------------------


async def test_a_daemon_waits_for_its_rpc_and_leaves_the_other_chain_alone(programs: Programs) -> None:
    chain, _ = grown(16, 30)
    other, _ = grown(17, 30, chain_id=5)
    absent = SimNode(other)
    await absent.start()
    await absent.stop()
    async with SimNode(chain) as node:
        programs.configure(
            chain_table("local", node.url),
            chain_table("absent", with_key(absent.url), chain_id=5, deployment=OTHER),
        )
        program = await programs.start("run")
        await program.logged("provider_failed", chain="absent")
        await until(lambda: reached(program, "local", chain.head.number), "the other chain is at its head")
        status, verdict = await program.get("/ready")
        health, _ = await program.get("/health")
        by_chain = {one["chain"]: one for one in verdict["chains"]}

        assert (status, health) == (503, 200)
        assert by_chain["local"]["ready"]
        assert "no RPC can be reached" in " ".join(by_chain["absent"]["reasons"])

        try:
            await absent.start()
            await program.logged("provider_recovered", chain="absent")
            await ready(program)
        finally:
            await absent.stop()
        assert await program.stop() == 0

    assert program.count("provider_failed", chain="absent") == 1
    assert not program.count("provider_failed", chain="local")


async def reached(program: Program, chain: str, block: int) -> bool:
    status, document = await program.get("/status")
    at = {one["chain"]: one["checkpoint_block"] for one in document["chains"]}
    return status == 200 and at.get(chain) == block


async def test_a_daemon_waits_for_its_database(programs: Programs, database_url: str) -> None:
    chain, _ = grown(18, 30)
    parts = urlsplit(database_url)
    async with SimNode(chain) as node, Link(str(parts.hostname), parts.port or 5432) as link:
        await link.cut()
        through = urlunsplit(parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{link.port}"))
        programs.configure(chain_table("local", node.url))
        program = await programs.start("run", DATABASE_URL=through)
        await program.logged("database_lost")
        status, verdict = await program.get("/ready")
        health, _ = await program.get("/health")

        assert (status, health) == (503, 200)
        assert verdict["database"] == "down"

        await link.mend()
        await ready(program)
        for _ in range(2):
            await link.cut()
            before = program.count("database_recovered")
            await asyncio.sleep(1)
            await link.mend()
            await ready(program)
            del before
        assert await program.stop() == 0

    assert program.count("database_lost") == program.count("database_recovered")
    assert "Traceback" not in "".join(program.stderr)


async def test_a_database_that_hangs_for_a_while_is_waited_for(programs: Programs, database_url: str) -> None:
    chain, workload = grown(19, 10)
    parts = urlsplit(database_url)
    async with SimNode(chain) as node, Link(str(parts.hostname), parts.port or 5432) as link:
        through = urlunsplit(parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{link.port}"))
        programs.configure(chain_table("local", node.url))
        program = await programs.start("run", DATABASE_URL=through)
        await ready(program)
        link.freeze()
        chain.mine(workload.block(4))
        status, _ = await program.get("/ready")
        health, _ = await program.get("/health")
        await program.logged("lease_lost")  # whoever cannot renew it must not believe in it
        link.thaw()
        await until(lambda: reached(program, "local", chain.head.number), "the new block is indexed")
        assert await program.stop() == 0

    assert (status, health) == (503, 200)


async def test_a_peer_that_vanishes_without_a_word_is_noticed_by_the_system(database_url: str) -> None:
    async with opened(database_url) as database, database.transaction() as connection:
        peer: socket.socket = connection._transport.get_extra_info("socket")  # type: ignore[attr-defined]  # the driver's own

        assert peer.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0


async def test_valkey_out_of_reach_stops_no_indexing(
    programs: Programs, database_url: str, another_database_url: str
) -> None:
    chain, _ = grown(20, 30)
    async with SimNode(chain) as node:
        programs.configure(chain_table("local", node.url))
        code, program = await programs.run("run", "--until", "head", VALKEY_URL="redis://:s3cretWord@127.0.0.1:9")
        daemon = await programs.start("run", VALKEY_URL="redis://:s3cretWord@127.0.0.1:9")
        await daemon.logged("publisher_failed")

        async def told() -> bool:
            status, verdict = await daemon.get("/ready")
            return status == 503 and "publisher" in json.dumps(verdict)

        await until(told, "/ready names the publisher")
        assert await daemon.stop() == 0

    assert code == 0, program.stderr
    assert daemon.count("publisher_failed") == 1
    await expect_truth(database_url, another_database_url, chain)


# --- several chains -------------------------------------------------------------------------------------------------


async def test_a_halted_chain_leaves_the_other_running_until_all_have_halted(programs: Programs) -> None:
    chain, workload = grown(21, 60)
    other, others = grown(22, 60, chain_id=5)
    async with SimNode(chain, finalized_depth=10) as node, SimNode(other, finalized_depth=10) as second:
        programs.configure(
            chain_table("local", node.url), chain_table("other", second.url, chain_id=5, deployment=OTHER)
        )
        program = await programs.start("run")
        await ready(program)
        chain.reorg(30, [workload.block(4) for _ in range(31)])
        halt = await program.logged("chain_halted", chain="local")
        other.mine(others.block(4))
        await until(lambda: reached(program, "other", other.head.number), "the other chain goes on")
        status, verdict = await program.get("/ready")
        asked, told = await programs.run("status", "--json")
        until_head, run = await programs.run("run", "--until", "head", "--json", "--chain", "local")
        other.reorg(30, [others.block(4) for _ in range(31)])
        code = await program.ended()

    assert "finalized block" in halt["reason"]
    assert status == 503
    assert any("local" in reason and "halted" in reason for reason in verdict["reasons"])
    assert asked == 1
    assert told.document["chains"][0]["state"] == "halted"
    assert until_head == 1
    assert "finalized block" in run.document["chains"][0]["halted"]
    assert code == 1
    assert "Traceback" not in "".join(program.stderr)


async def test_until_waits_for_the_others_when_one_chain_has_halted(programs: Programs) -> None:
    chain, workload = grown(23, 60)
    other, _ = grown(24, 200, chain_id=5)
    async with SimNode(chain, finalized_depth=10) as node, SimNode(other, latency_s=0.02) as second:
        programs.configure(
            chain_table("local", node.url),
            chain_table("other", second.url, chain_id=5, deployment=OTHER, max_block_range=10),
        )
        await programs.run("run", "--until", "head", "--chain", "local")
        chain.reorg(30, [workload.block(4) for _ in range(31)])
        code, program = await programs.run("run", "--until", "head", "--json")

    assert code == 1
    by_name: dict[str, Any] = {one["name"]: one for one in program.document["chains"]}
    assert by_name["local"]["halted"] is not None
    assert by_name["other"]["to_block"] == other.head.number
