"""Real servers for the tests: one PostgreSQL a run (xdist's workers share it), one Valkey a worker, anvil on demand."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from databases import execute, run_apart, with_database

from indexer.embedded.locks import hold
from indexer.embedded.postgres import postgres
from indexer.embedded.valkey import valkey
from indexer.store.database import Database

_SERVERS = pytest.StashKey[Path]()
_ANVIL_START_S = 20


def pytest_configure(config: pytest.Config) -> None:
    """Make the folder of the run's servers; not pytest's own, which only we can enter, and PostgreSQL may be nobody."""
    given = getattr(config, "workerinput", {}).get("servers")
    folder = Path(given or tempfile.mkdtemp(prefix="erc8004-tests-"))
    folder.chmod(0o755)
    config.stash[_SERVERS] = folder


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of xdist where the servers are."""
    node.workerinput["servers"] = str(node.config.stash[_SERVERS])


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove what the run leaves behind, once all workers are gone."""
    if hasattr(config, "workerinput"):
        return
    folder = config.stash[_SERVERS]
    if given := os.environ.get("TEST_DATABASE_URL"):
        run_apart(execute(given, f'DROP DATABASE IF EXISTS "{_template_name(folder)}"'))
    shutil.rmtree(folder, ignore_errors=True)


def _template_name(folder: Path) -> str:
    return f"template_{folder.name.rpartition('-')[2]}"


@contextmanager
def _in_background(manager: AbstractAsyncContextManager[str]) -> Iterator[str]:
    """Hold an async context manager open in a thread, so that every test may have an event loop of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="servers", daemon=True)
    thread.start()
    try:
        value = asyncio.run_coroutine_threadsafe(manager.__aenter__(), loop).result()
        try:
            yield value
        finally:
            asyncio.run_coroutine_threadsafe(manager.__aexit__(None, None, None), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(scope="session")
def servers(request: pytest.FixtureRequest) -> Path:
    """Return the folder of this run's servers, common to all workers."""
    return request.config.stash[_SERVERS]


@pytest.fixture(scope="session")
def postgres_url(servers: Path) -> Iterator[str]:
    """Yield the DSN of a superuser: of TEST_DATABASE_URL, or of an own server without care for power cuts."""
    if given := os.environ.get("TEST_DATABASE_URL"):
        yield given
        return
    with _in_background(postgres(servers)) as url:
        relaxed = (f"ALTER SYSTEM SET {name} = off" for name in ("fsync", "full_page_writes", "synchronous_commit"))
        run_apart(execute(url, *relaxed, "SELECT pg_reload_conf()"))
        yield url


@pytest.fixture(scope="session")
def template_database(postgres_url: str, servers: Path) -> str:
    """Return the name of a database with the schema of today, migrated by whichever worker comes first."""
    from indexer.store.migrations import migrate

    name = _template_name(servers)

    async def make() -> None:
        async with hold(servers / "template.lock"):
            if (servers / "template").exists():
                return
            await execute(postgres_url, f'CREATE DATABASE "{name}"')
            await migrate(with_database(postgres_url, name))
            (servers / "template").touch()

    run_apart(make())
    return name


@asynccontextmanager
async def _fresh_database(url: str, template: str) -> AsyncIterator[str]:
    name = f"test_{uuid.uuid4().hex}"
    # Without fsync copying files beats writing each page to the log: half the time.
    strategy = "WAL_LOG" if "TEST_DATABASE_URL" in os.environ else "FILE_COPY"
    await execute(url, f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY {strategy}')
    try:
        yield with_database(url, name)
    finally:
        await execute(url, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@pytest.fixture
async def database_url(postgres_url: str, template_database: str) -> AsyncIterator[str]:
    """Yield the DSN of a database of the test's own, migrated and empty."""
    async with _fresh_database(postgres_url, template_database) as url:
        yield url


@pytest.fixture
async def another_database_url(postgres_url: str, template_database: str) -> AsyncIterator[str]:
    """Yield a second one, for tests that compare two databases."""
    async with _fresh_database(postgres_url, template_database) as url:
        yield url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """Yield a pool over a database of the test's own."""
    database = await Database.open(database_url, size=4)
    yield database
    await database.close()


@pytest.fixture
async def clean(another_database_url: str) -> AsyncIterator[Database]:
    """Yield a pool over another, for the run that nothing disturbs."""
    database = await Database.open(another_database_url, size=2)
    yield database
    await database.close()


@pytest.fixture
async def empty_database_url(postgres_url: str) -> AsyncIterator[str]:
    """Yield the DSN of a database of the test's own that nobody migrated."""
    async with _fresh_database(postgres_url, "template0") as url:
        yield url


@pytest.fixture(scope="session")
def _valkey_server(servers: Path, worker_name: str) -> Iterator[str]:
    with _in_background(valkey(servers / worker_name)) as url:
        yield url


@pytest.fixture(scope="session")
def worker_name() -> str:
    """Return xdist's name of this process, or `main` without xdist."""
    return os.environ.get("PYTEST_XDIST_WORKER", "main")


@pytest.fixture
def valkey_url(_valkey_server: str) -> str:
    """Return the address of the worker's own Valkey, emptied."""
    with redis.Redis.from_url(_valkey_server) as client:
        client.flushall()
    return _valkey_server


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for_port(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _ANVIL_START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, f"anvil ended with {process.returncode}"
        with socket.socket() as knock:
            if knock.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.01)
    raise TimeoutError(f"anvil does not answer after {_ANVIL_START_S} s")


@pytest.fixture(scope="session")
def anvil_program() -> Path:
    """Return the path of the local chain's program."""
    from indexer.demo.anvil import find_anvil

    return find_anvil()


@pytest.fixture
def start_anvil(anvil_program: Path) -> Iterator[Callable[..., str]]:
    """Return a function that starts a chain and returns its URL.

    Keywords are anvil's options: `start_anvil(no_mining=True, chain_id=1, block_time=1)`; `False` and `None` leave one
    out. Without any it mines a block for each transaction.
    """
    started: list[subprocess.Popen[bytes]] = []

    def start(**options: str | float | None) -> str:
        port = int(options.pop("port", None) or _free_port())
        command = [str(anvil_program), "--port", str(port), "--quiet"]
        for name, value in options.items():
            if value is not None and value is not False:
                command += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        started.append(process)
        _wait_for_port(process, port)
        return f"http://127.0.0.1:{port}"

    yield start
    for process in started:
        process.terminate()
    for process in started:
        process.wait(10)


@pytest.fixture
def anvil(start_anvil: Callable[..., str], request: pytest.FixtureRequest) -> str:
    """Return the URL of a chain that mines on `evm_mine` only; indirect parameters are other options."""
    return start_anvil(**getattr(request, "param", {"no_mining": True}))
