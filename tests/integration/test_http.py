"""The HTTP side with a real uvicorn on a free port: paths, readiness, metrics, and a database that goes away."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import signal
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from indexer.core.counters import ChainCounters
from indexer.core.types import ChainId
from indexer.errors import SettingsError, StoreUnavailable
from indexer.http import HttpServer, HttpState
from indexer.http.state import StatusReader
from indexer.store.database import Database
from indexer.store.reader import StatusDocument, read_status

FREE: Final = ("127.0.0.1", 0)
DEADLINE_S: Final = 10
PATHS: Final = ["/health", "/ready", "/status", "/metrics"]


def chain(**given: Any) -> Any:
    """Return a healthy chain of a status document, changed by `given`."""
    healthy = {
        "chain_id": 31337,
        "chain": "local",
        "state": "live",
        "problems": [],
        "head_block": 100,
        "finalized_block": 90,
        "checkpoint_block": 98,
        "lag_blocks": 2,
        "lag_seconds": 4.5,
        "gap_blocks": 0,
        "proof": "logs",
        "undecodable_logs": 7,
        "reorgs": 3,
        "publisher": {"cursor": 1, "backlog": 5},
    }
    return healthy | given


class Daemon:
    """What HTTP needs of the daemon, without the daemon."""

    def __init__(self, *chains: Any) -> None:
        self.document: StatusDocument = {"healthy": True, "chains": list(chains)}
        self.fault: Exception | None = None
        self.known: dict[str, Sequence[str]] = {}

    async def status(self) -> StatusDocument:
        if self.fault:
            raise self.fault
        return self.document

    def problems(self) -> dict[str, Sequence[str]]:
        return self.known

    def counters(self) -> list[ChainCounters]:
        return [ChainCounters(ChainId(31337), "local", logs=12, batches=4, rpc_requests=9, wanted_proof="receipts")]


class DaemonWithDatabase(Daemon):
    """The same upon a real database."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self.database = database

    async def status(self) -> StatusDocument:
        return await read_status(self.database)


@asynccontextmanager
async def served(state: HttpState) -> AsyncIterator[aiohttp.ClientSession]:
    """Serve `state`; yield a client of that server."""
    async with HttpServer(FREE, state) as server, aiohttp.ClientSession(server.url) as client:
        yield client


async def get_json(client: aiohttp.ClientSession, path: str) -> tuple[int, Any]:
    """Return status code and JSON body."""
    async with client.get(path) as answer:
        assert answer.content_type == "application/json"
        return answer.status, await answer.json()


async def samples(client: aiohttp.ClientSession) -> dict[str, Any]:
    """Return every sample of /metrics as `name` or `name/chain` or `name/chain/state`."""
    async with client.get("/metrics") as answer:
        assert answer.status == 200
        assert answer.content_type == "text/plain"
        text = await answer.text()
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        for sample in family.samples:
            labels = [sample.labels[label] for label in ("chain", "state") if label in sample.labels]
            found["/".join([sample.name, *labels])] = sample.value
    return found


# --- paths ----------------------------------------------------------------------------------------------------------


async def test_health_is_ok_whatever_the_database_does() -> None:
    daemon = Daemon()
    daemon.fault = StoreUnavailable("gone")

    async with served(daemon) as client:
        assert await get_json(client, "/health") == (200, {"status": "ok"})


async def test_status_is_the_document_of_the_command() -> None:
    daemon = Daemon(chain())

    async with served(daemon) as client:
        assert await get_json(client, "/status") == (200, daemon.document)


async def test_an_unknown_path_is_answered_with_the_known_ones() -> None:
    async with served(Daemon()) as client:
        for path in ("/", "/nothing", "/health/"):
            assert await get_json(client, path) == (404, {"error": "not found", "paths": PATHS})


async def test_methods_other_than_get_and_head_are_refused() -> None:
    async with served(Daemon()) as client:
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            async with client.request(method, "/status") as answer:
                assert answer.status == 405
                assert {word.strip() for word in answer.headers["Allow"].split(",")} == {"GET", "HEAD"}
                assert await answer.json() == {"error": "method not allowed"}


async def test_head_answers_as_get_does_without_a_body() -> None:
    async with served(Daemon(chain())) as client:
        for path in PATHS:
            async with client.head(path) as answer:
                assert answer.status == 200
                assert int(answer.headers["Content-Length"]) > 0
                assert await answer.read() == b""


async def test_answers_name_no_software_and_are_not_kept() -> None:
    async with served(Daemon(chain())) as client:
        for path in PATHS:
            async with client.get(path) as answer:
                assert "Server" not in answer.headers
                assert answer.headers["Cache-Control"] == "no-store"


async def test_a_bug_is_answered_in_json_and_leaves_the_server_up(caplog: pytest.LogCaptureFixture) -> None:
    daemon = Daemon(chain())
    daemon.fault = KeyError("SECRET")

    async with served(daemon) as client:
        status, body = await get_json(client, "/status")
        assert (status, list(body)) == (500, ["error"])
        assert "SECRET" not in str(body)
        assert (await get_json(client, "/health"))[0] == 200
    assert "KeyError" in caplog.text


async def test_requests_leave_no_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async with served(Daemon(chain())) as client:
        await get_json(client, "/health")
        await get_json(client, "/nothing")

    assert [one for one in caplog.records if one.name.startswith("uvicorn")] == []


# --- readiness ------------------------------------------------------------------------------------------------------


async def test_ready_when_every_chain_keeps_up() -> None:
    async with served(Daemon(chain(), chain(chain="base", chain_id=8453))) as client:
        status, body = await get_json(client, "/ready")

    assert status == 200
    assert (body["ready"], body["database"], body["reasons"]) == (True, "up", [])
    assert body["chains"] == [
        {"chain": "local", "chain_id": 31337, "ready": True, "reasons": []},
        {"chain": "base", "chain_id": 8453, "ready": True, "reasons": []},
    ]


@pytest.mark.parametrize(
    ("given", "known", "reasons"),
    [
        pytest.param({"problems": ["backfilling", "lagging"]}, {}, ["backfilling", "lagging"], id="backfilling"),
        pytest.param({"problems": ["stalled"]}, {}, ["stalled"], id="stalled"),
        pytest.param({"problems": ["halted"]}, {}, ["halted"], id="halted"),
        pytest.param({"publisher": {"error": "refused"}}, {}, ["publisher failing"], id="publisher, as it wrote"),
        pytest.param({}, {"base": ["RPC unreachable"]}, ["RPC unreachable"], id="known to the process alone"),
        pytest.param({"problems": ["stalled"]}, {"base": ["stalled"]}, ["stalled"], id="known twice, told once"),
    ],
)
async def test_not_ready_names_the_chain_and_why(
    given: dict[str, Any], known: dict[str, Sequence[str]], reasons: list[str]
) -> None:
    daemon = Daemon(chain(), chain(chain="base", chain_id=8453, **given))
    daemon.known = known

    async with served(daemon) as client:
        status, body = await get_json(client, "/ready")

    assert (status, body["ready"]) == (503, False)
    assert body["reasons"] == [f"base: {reason}" for reason in reasons]
    assert [(one["chain"], one["ready"], one["reasons"]) for one in body["chains"]] == [
        ("local", True, []),
        ("base", False, reasons),
    ]


async def test_gaps_alone_do_not_make_a_daemon_unready() -> None:
    async with served(Daemon(chain(problems=["gaps"], gap_blocks=9))) as client:
        assert (await get_json(client, "/ready"))[0] == 200


async def test_a_chain_without_a_row_yet_is_named_too() -> None:
    daemon = Daemon(chain())
    daemon.known = {"base": ["RPC unreachable"], "gnosis": []}

    async with served(daemon) as client:
        status, body = await get_json(client, "/ready")

    assert (status, body["reasons"]) == (503, ["base: RPC unreachable"])
    assert body["chains"][1] == {"chain": "base", "chain_id": None, "ready": False, "reasons": ["RPC unreachable"]}


async def test_without_any_chain_nothing_is_ready() -> None:
    async with served(Daemon()) as client:
        status, body = await get_json(client, "/ready")

    assert (status, body["reasons"]) == (503, ["no chain is indexed yet"])


# --- metrics --------------------------------------------------------------------------------------------------------


async def test_metrics_tell_the_tables_and_the_process() -> None:
    async with served(Daemon(chain(), chain(chain="base", head_block=None, publisher=None))) as client:
        found = await samples(client)

    assert found["erc8004_build_info"] == 1
    assert found["erc8004_database_up"] == 1
    expected = {
        "erc8004_checkpoint_block": 98,
        "erc8004_head_block": 100,
        "erc8004_finalized_block": 90,
        "erc8004_lag_blocks": 2,
        "erc8004_lag_seconds": 4.5,
        "erc8004_gap_blocks": 0,
        "erc8004_proof_level": 1,
        "erc8004_proof_level_wanted": 2,
        "erc8004_undecodable_logs_total": 7,
        "erc8004_reorgs_total": 3,
        "erc8004_publisher_backlog": 5,
        "erc8004_logs_total": 12,
        "erc8004_batches_total": 4,
        "erc8004_rpc_requests_total": 9,
        "erc8004_reverted_logs_total": 0,
        "erc8004_publisher_failures_total": 0,
    }
    assert {name: found[f"{name}/local"] for name in expected} == expected
    states = {state: found[f"erc8004_chain_state/local/{state}"] for state in ("live", "backfilling", "halted")}
    assert states == {"live": 1, "backfilling": 0, "halted": 0}
    assert "erc8004_head_block/base" not in found
    assert "erc8004_publisher_backlog/base" not in found


PROVIDER = {
    "host": "rpc.example",
    "state": "ok",
    "requests": 41,
    "errors": {"RateLimited": 2, "TimedOut": 1},
    "latency_ms": 120.0,
    "head": 100,
    "finalized": None,
    "resting_s": 0.0,
}


async def test_metrics_tell_of_each_provider_by_host_and_place() -> None:
    resting = {**PROVIDER, "state": "resting", "resting_s": 7.5, "head": None}
    async with served(Daemon(chain(providers=[PROVIDER, resting]))) as client, client.get("/metrics") as answer:
        text = await answer.text()

    first = '{chain="local",chain_id="31337",index="0",provider="rpc.example"}'
    second = first.replace('"0"', '"1"')
    assert f"erc8004_provider_usable{first} 1.0" in text
    assert f"erc8004_provider_usable{second} 0.0" in text
    assert f"erc8004_provider_resting_seconds{second} 7.5" in text
    assert f"erc8004_provider_latency_seconds{first} 0.12" in text
    assert f"erc8004_provider_head_block{first} 100.0" in text
    assert f"erc8004_provider_head_block{second}" not in text
    assert f"erc8004_provider_requests_total{first} 41.0" in text
    assert 'error="RateLimited",index="0",provider="rpc.example"} 2.0' in text


async def test_metrics_say_what_ready_says() -> None:
    daemon = Daemon(chain(), chain(chain="base"))
    daemon.known = {"base": ["stalled: no progress for 80 s"]}
    async with served(daemon) as client:
        found = await samples(client)

    assert found["erc8004_ready"] == 0
    assert (found["erc8004_chain_ready/local"], found["erc8004_chain_ready/base"]) == (1, 0)


async def test_every_metric_of_the_alert_rules_is_rendered_with_its_labels() -> None:
    rules = (Path(__file__).parents[2] / "docs" / "alerts.yml").read_text()
    expressions = [line.partition("expr:")[2] for line in rules.splitlines() if "expr:" in line]
    async with served(Daemon(chain(providers=[PROVIDER]))) as client, client.get("/metrics") as answer:
        rendered = await answer.text()
    lines = [line for line in rendered.splitlines() if not line.startswith("#")]

    asked = [match for text in expressions for match in re.findall(r"(erc8004_\w+)(?:\{(.+?)\})?", text)]
    assert len(asked) >= len(expressions) > 10
    for name, labels in asked:
        assert any(re.match(rf"{name}[{{ ]", line) and labels in line for line in lines), (name, labels)
    for label in set(re.findall(r"\$labels\.(\w+)", rules)):
        assert f'{label}="' in rendered


async def test_metrics_name_chain_and_chain_id() -> None:
    async with served(Daemon(chain(chain='we"ird\n'))) as client, client.get("/metrics") as answer:
        text = await answer.text()

    assert 'erc8004_head_block{chain="we\\"ird\\n",chain_id="31337"} 100.0' in text


# --- the database ---------------------------------------------------------------------------------------------------


class Wire:
    """A way to a server that can be frozen: connections stay, and no byte gets through."""

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._open = asyncio.Event()
        self._open.set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._connected, *FREE)
        port = self._server.sockets[0].getsockname()[1]
        account = self._target.netloc.rpartition("@")[0]
        return urlunsplit(self._target._replace(netloc=f"{account}@127.0.0.1:{port}"))

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def freeze(self) -> None:
        self._open.clear()

    def thaw(self) -> None:
        self._open.set()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(self._target.hostname, self._target.port)
        for pair in ((reader, there[1]), (there[0], writer)):
            task = asyncio.create_task(self._pump(*pair))
            self._tasks.add(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                await self._open.wait()
                writer.write(data)
        except ConnectionError:
            pass
        finally:
            writer.close()


async def add_live_chain(database: Database) -> None:
    """Write a chain that keeps up, as the daemon would."""
    async with database.transaction() as connection:
        await connection.execute(
            "INSERT INTO chains (chain_id, name, start_block, state, checkpoint_block) VALUES (1, 'real', 0, 'live', 9)"
        )
        await connection.execute("INSERT INTO heads (chain_id, head_block) VALUES (1, 9)")


async def test_a_real_database_makes_a_ready_daemon(database_url: str) -> None:
    database = await Database.open(database_url, size=2)
    await add_live_chain(database)

    async with served(DaemonWithDatabase(database)) as client:
        assert (await get_json(client, "/ready"))[0] == 200
        assert (await get_json(client, "/status"))[1] == json.loads(json.dumps(await read_status(database)))
        assert (await samples(client))["erc8004_checkpoint_block/real"] == 9
    await database.close()


async def test_a_database_out_of_reach_is_told_by_503_and_a_gauge() -> None:
    with socket.socket() as taken:
        taken.bind(FREE)  # bound, and nobody listens
        port = taken.getsockname()[1]
        database = await Database.open(f"postgresql://user:SECRET@127.0.0.1:{port}/none", size=2)
        daemon = DaemonWithDatabase(database)
        daemon.known = {"local": ["RPC unreachable"]}

        async with served(daemon) as client:
            ready, status = await get_json(client, "/ready"), await get_json(client, "/status")
            found = await samples(client)
            health, _ = await get_json(client, "/health")

        await database.close()
    assert (ready[0], ready[1]["database"], status[0]) == (503, "down", 503)
    assert ready[1]["reasons"][0].startswith("the database at 127.0.0.1 does not answer")
    assert ready[1]["reasons"][1:] == ["local: RPC unreachable"]
    assert status[1]["healthy"] is False
    assert "SECRET" not in f"{ready}{status}"
    assert (found["erc8004_database_up"], found["erc8004_logs_total/local"]) == (0, 12)
    assert not any(name.startswith("erc8004_checkpoint_block") for name in found)
    assert health == 200


async def test_a_database_that_hangs_is_given_up_in_two_seconds_and_asked_again_later(database_url: str) -> None:
    wire = Wire(database_url)
    async with wire as url:
        database = await Database.open(url, size=4)
        await add_live_chain(database)
        async with served(DaemonWithDatabase(database)) as client:
            assert (await get_json(client, "/ready"))[0] == 200
            wire.freeze()
            began = time.monotonic()

            ready, status, found = await asyncio.gather(
                get_json(client, "/ready"), get_json(client, "/status"), samples(client)
            )

            assert time.monotonic() - began < 4
            assert (ready[0], status[0]) == (503, 503)
            assert ready[1]["reasons"] == ["the database does not answer within 2 s"]
            assert found["erc8004_database_up"] == 0
            assert (await get_json(client, "/health"))[0] == 200

            wire.thaw()
            while (await get_json(client, "/ready"))[0] != 200:
                assert time.monotonic() - began < DEADLINE_S
                await asyncio.sleep(0.02)
        await database.close()


class StubbornDaemon(Daemon):
    """Its status neither comes nor can be cancelled, as a query on a dead connection."""

    def __init__(self) -> None:
        super().__init__(chain())
        self.readings = 0
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()

    async def status(self) -> StatusDocument:
        self.readings += 1
        self.asked.set()
        while not self.may_answer.is_set():
            with suppress(asyncio.CancelledError):
                await self.may_answer.wait()
        return self.document


class SilentDaemon(Daemon):
    """Its status never comes."""

    async def status(self) -> StatusDocument:
        return await asyncio.Future()


async def no_reading_is_left() -> bool:
    """Give tasks, and then what waits for their end, a turn; say whether a reading is left."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return not any(task.get_name() == "http status" for task in asyncio.all_tasks())


async def test_readings_that_hang_do_not_pile_up_and_block_no_later_one() -> None:
    daemon = StubbornDaemon()
    reader = StatusReader(daemon, timeout_s=0.01)

    answers = [await asyncio.gather(reader.read(), reader.read(), return_exceptions=True) for _ in range(4)]
    daemon.may_answer.set()

    assert {type(answer) for pair in answers for answer in pair} == {StoreUnavailable}
    assert daemon.readings == 2
    assert await no_reading_is_left()
    assert await reader.read() == daemon.document


async def test_a_reading_that_takes_too_long_is_cancelled() -> None:
    with pytest.raises(StoreUnavailable):
        await StatusReader(SilentDaemon(), timeout_s=0.01).read()

    assert await no_reading_is_left()


async def test_a_server_that_closes_leaves_no_reading_behind() -> None:
    reader = StatusReader(SilentDaemon())
    asking = asyncio.create_task(reader.read())
    await asyncio.sleep(0)

    reader.close()

    with pytest.raises(StoreUnavailable):
        await asking
    assert await no_reading_is_left()


# --- the socket -----------------------------------------------------------------------------------------------------


async def test_the_address_has_the_real_port_and_is_free_again_afterwards() -> None:
    server = HttpServer(FREE, Daemon())

    async with server:
        assert server.address[0] == "127.0.0.1"
        assert server.address[1] > 0
        assert server.url == f"http://127.0.0.1:{server.address[1]}"

    async with HttpServer(server.address, Daemon()) as again:
        assert again.address == server.address


async def test_a_server_closed_at_once_leaves_no_socket() -> None:
    server = HttpServer(FREE, Daemon())
    async with server:
        pass

    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*server.address)


async def test_a_request_under_way_is_answered_at_the_end() -> None:
    daemon = StubbornDaemon()
    server = HttpServer(FREE, daemon)
    await server.__aenter__()
    async with aiohttp.ClientSession(server.url) as client:
        asking = asyncio.create_task(get_json(client, "/status"))
        await daemon.asked.wait()
        closing = asyncio.create_task(server.__aexit__(None, None, None))
        daemon.may_answer.set()

        assert (await asking)[0] == 200
        await closing


async def test_signals_stay_with_the_daemon() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    async with served(Daemon()) as client:
        await get_json(client, "/health")

        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


async def test_a_port_in_use_is_a_mistake_of_the_settings_with_a_hint() -> None:
    async with HttpServer(FREE, Daemon()) as first:
        with pytest.raises(SettingsError, match=r"ERC8004_HTTP_BIND = '127\.0\.0\.1:\d+': is in use: stop .*0: any"):
            await HttpServer(first.address, Daemon()).__aenter__()


@pytest.mark.parametrize(
    ("host", "words"),
    [
        pytest.param("no-such-host.invalid", "cannot be resolved", id="unknown name"),
        pytest.param("192.0.2.1", "no address of this machine", id="somebody else's address"),
    ],
)
async def test_a_host_that_cannot_be_bound_is_a_mistake_of_the_settings(host: str, words: str) -> None:
    with pytest.raises(SettingsError, match=f"ERC8004_HTTP_BIND = '{host}:8004'.*{words}"):
        await HttpServer((host, 8004), Daemon()).__aenter__()


async def test_a_name_is_bound_at_the_first_of_its_addresses_that_this_machine_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def resolve(*_: object, **__: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 0)) for host in ("192.0.2.1", "127.0.0.1")]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)

    async with HttpServer(("two-addresses", 0), Daemon()) as server:
        assert server.address[0] == "127.0.0.1"


async def test_a_port_one_may_not_take_is_a_mistake_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)

    with pytest.raises(SettingsError, match="needs more rights: take a port from 1024 on"):
        await HttpServer(("127.0.0.1", 80), Daemon()).__aenter__()
