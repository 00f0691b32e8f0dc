"""The command `erc8004-indexer`: each verb parses, calls, prints and leaves with an exit code.

Exit codes: 0 done, 1 the answer is bad, 2 bad usage or settings or something out of reach, 3 held by another instance.
Imports of the program proper stand inside the functions, so that `--help` answers at once.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeVar

import typer

from indexer.errors import IndexerError, Retryable, SettingsError
from indexer.tuning import tune

if TYPE_CHECKING:
    from rich.table import Table

    from indexer.settings import Settings

NAME: Final = "erc8004-indexer"
INTERRUPTED: Final = 130
"""What a shell expects of a command ended by Ctrl-C; those that work for long end cleanly by themselves, with 0."""

_HELP: Final = f"""Index ERC-8004 identity, reputation and validation events into PostgreSQL and Valkey.

Begin with one of these; neither needs a database:

  {NAME} demo

  {NAME} run --chain base --rpc https://YOUR-PROVIDER
"""
_MAX_COLUMNS: Final = 7
"""Fields of a record that fit side by side; records with more stand upright, a column each."""

_UNCUT: Final = 10_000
"""Width for readers that are no terminal: programs want whole lines."""

_LOOPS: Final = ExitStack()
"""Event loops, closed after what they brought is printed: threads that hang must not hold that back."""

T = TypeVar("T")

cli = typer.Typer(
    name=NAME,
    help=_HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Run the command line, close what it left open, and leave."""
    with _LOOPS:
        _command()


def _command() -> None:
    """Run the command line; nowhere else do errors become messages and exit codes."""
    try:
        cli(prog_name=NAME)
    except IndexerError as error:
        for line in str(error).splitlines():
            typer.echo(f"error: {line}", err=True)
        sys.exit(2 if isinstance(error, SettingsError | Retryable) else 1)
    except Exception:  # noqa: BLE001 - whatever it is, its traceback must pass the redaction
        _log_crash()
        sys.exit(1)


def _log_crash() -> None:
    import structlog

    from indexer import logs

    if not structlog.is_configured():
        logs.configure("info")
    structlog.get_logger().critical("process_crashed", exc_info=True)


def _until(text: str) -> str | int:
    if text == "head":
        return text
    if text.isascii() and text.isdigit():
        return int(text)
    raise typer.BadParameter(f"{text!r} is neither `head` nor a block number")


Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON document on stdout.")]
Until = Annotated[
    Any, typer.Option("--until", metavar="head|BLOCK", parser=_until, help="End when every chain got there.")
]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{NAME} {version(NAME)}")
        raise typer.Exit


@cli.callback()
def _top(
    *,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Take the options that stand before a verb; the help of the whole is `_HELP`."""


@cli.command()
def run(
    *,
    chain: Annotated[
        list[str] | None, typer.Option("--chain", metavar="NAME", help="Only this chain; repeatable.")
    ] = None,
    rpc: Annotated[str | None, typer.Option("--rpc", metavar="URL", help="The RPC of the one --chain.")] = None,
    until: Until = None,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Leave with 3 where another instance holds a chain.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Backfill, then follow the head of every chain."""
    settings = _settings(chains=chain or (), rpc=rpc)
    from indexer import app

    outcome = _await(app.run(settings, until=until, no_wait=no_wait, as_json=as_json))
    if as_json or until is not None:
        _print(outcome.document, as_json=as_json)
    raise typer.Exit(outcome.exit_code)


@cli.command()
def status(*, as_json: Json = False) -> None:
    """Tell how fresh and how whole each chain is."""
    settings = _settings(need_chains=False)
    from indexer import app

    _report(*_await(app.status(settings)), as_json=as_json)


@cli.command()
def verify(
    *,
    chain: Annotated[str | None, typer.Option("--chain", metavar="NAME", help="Only this chain.")] = None,
    sample: Annotated[
        int, typer.Option("--sample", min=0, help="Agents of each chain to compare with the contracts.")
    ] = 50,
    as_json: Json = False,
) -> None:
    """Compare the tables with ledger and contracts."""
    settings = _settings(need_chains=False)
    from indexer import app

    _report(*_await(app.verify(settings, chain, sample)), as_json=as_json)


@cli.command()
def reindex(
    *,
    chain: Annotated[str | None, typer.Option("--chain", metavar="NAME", help="The chain; needed for a range.")] = None,
    first: Annotated[
        int | None, typer.Option("--from", metavar="N", min=0, help="First block; by default the chain's first.")
    ] = None,
    last: Annotated[
        int | None, typer.Option("--to", metavar="N", min=0, help="Last block; by default the checkpoint.")
    ] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Compute all projections anew from the stored logs; asks no RPC.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Fetch blocks again and put right what differs.

    Safe beside a running daemon, and goes on where it was stopped. A halted chain is rolled back to what is still
    canonical below --from, and indexed again.
    """
    _judge_reindex(chain, first, last, rebuild=rebuild)
    settings = _settings(need_chains=False) if rebuild else _settings(chains=[str(chain)])
    from indexer import app

    if rebuild:
        _report(*_await(app.rebuild(settings, chain, as_json=as_json)), as_json=as_json)
    _report(*_await(app.reindex(settings, first, last, as_json=as_json)), as_json=as_json)


def _judge_reindex(chain: str | None, first: int | None, last: int | None, *, rebuild: bool) -> None:
    """Raise BadParameter for options that do not go together."""
    if rebuild and (first is not None or last is not None):
        raise typer.BadParameter("--rebuild computes whole chains: it takes no --from and no --to")
    if not rebuild and chain is None:
        raise typer.BadParameter("`reindex` needs --chain NAME, or --rebuild")
    if first is not None and last is not None and first > last:
        raise typer.BadParameter(f"--from {first} is above --to {last}")


@cli.command()
def publish(
    *, rebuild: Annotated[bool, typer.Option("--rebuild", help="By a running daemon, where there is one.")] = False
) -> None:
    """Fill Valkey again from PostgreSQL."""
    if not rebuild:
        raise typer.BadParameter("`publish` needs --rebuild; a running daemon publishes by itself")
    settings = _settings(need_chains=False)
    from indexer import app

    raise typer.Exit(_await(app.publish_rebuild(settings)))


@cli.command()
def migrate() -> None:
    """Bring the database's schema up to date."""
    settings = _settings(need_chains=False)
    from indexer import app

    _await(app.migrate(settings))


@cli.command()
def config(*, as_json: Json = False) -> None:
    """Show the effective settings, secrets hidden."""
    settings = _settings(need_chains=False)
    _print({"settings": [line._asdict() for line in settings.describe()]}, as_json=as_json)


@cli.command()
def url(what: Annotated[Literal["database", "valkey", "http"], typer.Argument(metavar="database|valkey|http")]) -> None:
    """Print a full address, with its secrets.

    For example: psql "$(erc8004-indexer url database)"
    """
    settings = _settings(need_chains=False)
    from indexer import app

    typer.echo(_await(app.url(settings, what)))


@cli.command()
def demo(*, until: Until = None, as_json: Json = False) -> None:
    """Index a local chain with live traffic."""
    settings = _settings(need_chains=False)
    from indexer.demo import run_demo

    exit_code, document = _await(run_demo(settings, until, as_json))
    if as_json or until is not None:
        _print(document, as_json=as_json)
    raise typer.Exit(exit_code)


def _settings(*, chains: Sequence[str] = (), rpc: str | None = None, need_chains: bool = True) -> Settings:
    from indexer import logs
    from indexer.settings import load_settings

    settings = load_settings(os.environ, chains=chains, rpc=rpc, need_chains=need_chains)
    logs.configure(settings.log_level)
    return settings


def _await(work: Coroutine[Any, Any, T]) -> T:
    tune()
    runner = _LOOPS.enter_context(asyncio.Runner(loop_factory=_loop_factory()))
    try:
        return runner.run(work)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # Windows
        return None
    return uvloop.new_event_loop


def _report(exit_code: int, document: Mapping[str, object], *, as_json: bool) -> None:
    _print(document, as_json=as_json)
    raise typer.Exit(exit_code)


# --- printing -------------------------------------------------------------------------------------------------------


def _print(document: Mapping[str, object], *, as_json: bool) -> None:
    """Print on stdout: exactly one JSON document, or tables (ruled on a terminal, bare and never cut elsewhere)."""
    if as_json:
        typer.echo(json.dumps(document, indent=2, default=str))
        return
    from rich.console import Console

    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else _UNCUT)
    for key, value in document.items():
        records = [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []
        console.print(_table(key, records, ruled=sys.stdout.isatty()) if records else f"{key}: {_cell(value)}")


def _table(title: str, records: Sequence[Mapping[str, object]], *, ruled: bool) -> Table:
    from rich import box
    from rich.table import Table

    fields = list(dict.fromkeys(field for record in records for field in record))
    rows = [[_cell(record.get(field)) for field in fields] for record in records]
    upright = len(fields) > _MAX_COLUMNS
    headers = [""] * (len(rows) + 1) if upright else fields
    table = Table(title=title, title_justify="left", show_header=not upright, box=box.SIMPLE if ruled else None)
    for index, header in enumerate(headers):
        table.add_column(header, overflow="fold", no_wrap=index == 0)
    for cells in zip(fields, *rows, strict=True) if upright else rows:
        table.add_row(*cells)
    return table


def _cell(value: object) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case Mapping():
            return ", ".join(f"{key} {_cell(one)}" for key, one in value.items()) or "-"
        case list() | tuple():
            return "; ".join(_cell(one) for one in value) or "-"
        case _:
            return str(value)
