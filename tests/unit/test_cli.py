from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import structlog

from indexer import cli, logs
from indexer.errors import Fatal, SettingsError, StoreUnavailable
from indexer.settings import Settings

BASE = ("run", "--chain", "base", "--rpc", "https://h.example/s3cret")
CHAIN = """
[[chain]]
name = "local"
id = 31337
rpc = ["https://h.example"]
start_block = 0
[[chain.deployment]]
identity = "0x1111111111111111111111111111111111111111"
reputation = "0x2222222222222222222222222222222222222222"
"""


@dataclass
class Outcome:
    exit_code: int
    document: dict[str, object]


@dataclass
class App:
    """Stands in for the program behind the command line: keeps what it was asked, answers what it was given."""

    answer: Any = None
    error: BaseException | None = None
    asked: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)

    def verb(self, name: str) -> Callable[..., Any]:
        async def call(settings: Settings, *arguments: Any, **named: Any) -> Any:
            assert isinstance(settings, Settings)
            self.asked.append((name, arguments, named))
            await asyncio.sleep(0)
            if self.error:
                raise self.error
            return self.answer

        return call


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> App:
    fake, module, demo = App(), ModuleType("indexer.app"), ModuleType("indexer.demo")
    for name in ("run", "status", "verify", "reindex", "rebuild", "publish_rebuild", "migrate", "url"):
        setattr(module, name, fake.verb(name))
    demo.run_demo = fake.verb("run_demo")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "indexer.app", module)
    monkeypatch.setitem(sys.modules, "indexer.demo", demo)
    monkeypatch.setattr("indexer.app", module, raising=False)
    monkeypatch.setattr("indexer.demo", demo, raising=False)
    monkeypatch.setattr(logs, "configure", lambda _level: None)
    monkeypatch.chdir(tmp_path)
    for name in [*os.environ]:
        if name.startswith("ERC8004_") or name.endswith(("DATABASE_URL", "VALKEY_URL", "REDIS_URL")):
            monkeypatch.delenv(name)
    return fake


def type_in(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Type a command line; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["erc8004-indexer", *words])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return int(left.value.code or 0)


def spawn(folder: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the real command in `folder` with nothing but `environ` set."""
    return subprocess.run(
        [sys.executable, "-m", "indexer", *words],
        cwd=folder,
        env={"HOME": str(folder), "PYTHONPATH": str(Path(cli.__file__).parents[1]), **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_run_passes_its_options_and_prints_one_document(
    app: App, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app.answer = Outcome(0, {"chains": [{"chain_id": 8453}]})

    code = type_in(monkeypatch, *BASE, "--until", "head", "--no-wait", "--json")

    assert code == 0
    assert app.asked == [("run", (), {"until": "head", "no_wait": True, "as_json": True})]
    assert json.loads(capsys.readouterr().out) == {"chains": [{"chain_id": 8453}]}


def test_run_takes_a_block_number_and_passes_the_exit_code_on(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    app.answer = Outcome(3, {"chains": []})

    assert type_in(monkeypatch, *BASE, "--until", "12") == 3
    assert app.asked[0][2]["until"] == 12


def test_daemon_prints_nothing_on_stdout(
    app: App, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app.answer = Outcome(0, {"chains": []})

    assert type_in(monkeypatch, *BASE) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (("status",), ("status", (), {})),
        (("verify",), ("verify", (None, 50), {})),
        (("verify", "--chain", "base", "--sample", "3"), ("verify", ("base", 3), {})),
        (("reindex", "--chain", "local"), ("reindex", (None, None), {"as_json": False})),
        (
            ("reindex", "--chain", "local", "--from", "3", "--to", "3", "--json"),
            ("reindex", (3, 3), {"as_json": True}),
        ),
        (("reindex", "--rebuild"), ("rebuild", (None,), {"as_json": False})),
        (("reindex", "--rebuild", "--chain", "base", "--json"), ("rebuild", ("base",), {"as_json": True})),
        (("demo", "--until", "head", "--json"), ("run_demo", ("head", True), {})),
    ],
    ids=lambda words: words[0],
)
def test_verbs_that_answer_pass_arguments_and_exit_code(
    words: tuple[str, ...], asked: tuple[Any, ...], app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.answer = (1, {"chains": []})
    Path("erc8004.toml").write_text(CHAIN)

    assert type_in(monkeypatch, *words) == 1
    assert app.asked == [asked]


def test_publish_migrate_and_url_need_no_chain(
    app: App, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app.answer = 0
    assert type_in(monkeypatch, "publish", "--rebuild") == 0
    assert type_in(monkeypatch, "migrate") == 0
    app.answer = "postgresql://u:p@h/x"
    assert type_in(monkeypatch, "url", "database") == 0

    assert [one[0] for one in app.asked] == ["publish_rebuild", "migrate", "url"]
    assert capsys.readouterr().out == "postgresql://u:p@h/x\n"


def test_status_is_readable_without_a_terminal(
    app: App, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chain: dict[str, object] = {f"field_{number}": number for number in range(20)} | {
        "gaps": [],
        "proof": None,
        "live": True,
    }
    app.answer = (0, {"healthy": True, "publisher": {"backlog": 3}, "chains": [{"chain": "base"} | chain]})

    type_in(monkeypatch, "status")

    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["healthy:", "yes"] in rows
    assert ["publisher:", "backlog", "3"] in rows
    assert ["field_19", "19"] in rows
    assert ["live", "yes"] in rows
    assert ["proof", "-"] in rows


def test_differences_stand_side_by_side_and_uncut(
    app: App, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app.answer = (1, {"differences": [{"table": "agents", "stored": "x" * 300, "expected": "y"}]})

    type_in(monkeypatch, "verify")

    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[-2:] == [["table", "stored", "expected"], ["agents", "x" * 300, "y"]]


def test_terminal_gets_ruled_tables(
    app: App, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app.answer = (0, {"chains": [{"chain": "base"}]})
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)

    type_in(monkeypatch, "status")

    assert "──" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code"),
    [(SettingsError("one\ntwo"), 2), (StoreUnavailable("one\ntwo"), 2), (Fatal("one\ntwo"), 1)],
    ids=["settings", "unreachable", "fatal"],
)
def test_error_on_purpose_is_lines_on_stderr(
    error: Exception,
    code: int,
    app: App,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    app.error = error

    assert type_in(monkeypatch, "status", "--json") == code
    assert capsys.readouterr() == ("", "error: one\nerror: two\n")


def test_unforeseen_error_is_logged_as_a_crash(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    app.error = RuntimeError("boom")

    with structlog.testing.capture_logs() as lines:
        assert type_in(monkeypatch, "status") == 1

    assert [line["event"] for line in lines] == ["process_crashed"]


def test_ctrl_c_ends_without_a_traceback(
    app: App, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app.error = KeyboardInterrupt()

    assert type_in(monkeypatch, "verify") == 130
    assert capsys.readouterr() == ("", "")


def test_help_shows_the_first_two_commands(tmp_path: Path) -> None:
    shown = spawn(tmp_path, "--help")

    assert shown.returncode == 0
    assert "erc8004-indexer demo\n" in shown.stdout
    assert "erc8004-indexer run --chain base --rpc https://" in shown.stdout


def test_version_is_printed(tmp_path: Path) -> None:
    assert spawn(tmp_path, "--version").stdout.startswith("erc8004-indexer ")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("statsu",), "Did you mean 'status'?"),
        (("status", "--jsno"), "--json"),
        (("run", "--until", "x"), "neither `head` nor a block number"),
        (("publish",), "needs --rebuild"),
        (("reindex",), "needs --chain NAME, or --rebuild"),
        (("reindex", "--rebuild", "--from", "3"), "takes no --from and no --to"),
        (("reindex", "--chain", "base", "--from", "4", "--to", "3"), "--from 4 is above --to 3"),
        (("reindex", "--chain", "base", "--from", "-1"), "--from"),
        (("reindex", "--chain", "bsee"), "bsee"),
        (("url", "redis"), "'database', 'valkey', 'http'"),
        (("run",), "erc8004-indexer run --chain base --rpc"),
        (("run", "--chain", "bse", "--rpc", "https://h/s3cret"), "did you mean base or bsc?"),
        (("config",), "ERC8004_MAX_LAGS = ***: unknown setting; did you mean ERC8004_MAX_LAG_S?"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, tuple) else "",
)
def test_bad_usage_and_settings_leave_with_2_and_no_traceback(
    words: tuple[str, ...], told: str, tmp_path: Path
) -> None:
    environ = {"ERC8004_MAX_LAGS": "s3cret"} if words == ("config",) else {}

    left = spawn(tmp_path, *words, **environ)

    assert (left.returncode, left.stdout) == (2, "")
    assert told in left.stderr
    assert "Traceback" not in left.stderr
    assert "s3cret" not in left.stderr


def test_config_is_one_json_document_without_secrets(tmp_path: Path) -> None:
    shown = spawn(tmp_path, "config", "--json", DATABASE_URL="postgresql://u:s3cret@db.example/x")

    lines = {line["key"]: line for line in json.loads(shown.stdout)["settings"]}
    assert lines["DATABASE_URL"] == {
        "key": "DATABASE_URL",
        "value": "postgresql://db.example",
        "origin": "environment",
        "default": "(unset)",
    }
    assert "s3cret" not in shown.stdout + shown.stderr
