"""The command `demo`: a chain of our own, traffic on it, and the daemon beside it, all started and stopped in order."""

from __future__ import annotations

import asyncio
import json
import shlex
import signal
import sys
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import unquote, urlsplit

from indexer.demo.anvil import VERSION, AnvilNode, anvil, ensure_anvil, find_anvil
from indexer.demo.contracts import Registries, deploy
from indexer.demo.daemon import Daemon, run_daemon
from indexer.demo.home import Home
from indexer.demo.screen import Screen
from indexer.demo.traffic import Traffic
from indexer.demo.watch import wait_until_indexed
from indexer.embedded.postgres import postgres
from indexer.embedded.process import finish
from indexer.embedded.valkey import valkey
from indexer.errors import Fatal, RpcError, SettingsError
from indexer.settings import Settings
from indexer.stopping import stop_signals
from indexer.store.database import Database

_SEED: Final = 8004
_BLOCK_INTERVAL_S: Final = 1.0
_OPENING_BLOCKS: Final = 8  # full ones, so that a new chain has something to look at
_CLOCK: Final = 1_700_000_000  # a fixed time makes the blocks of the fixed amount the same in every run
_BLOCK_TIME_S: Final = 2
_LOGS: Final = 1_000
_REORGS: Final = 2
_PATIENCE_S: Final = 60.0  # for the daemon to get to a block that is there; it takes a poll interval
_ALL_AGENTS: Final = "100000"  # a sample that holds every agent of the demo
_INTERRUPTED: Final = 130


T = TypeVar("T")


async def run_demo(settings: Settings, until: str | int | None, as_json: bool) -> tuple[int, dict[str, Any]]:
    """Run the demo: until stopped, or with `until="head"` over a fixed amount of traffic.

    Returns the exit code and the document of `run --json`, with `verify` added after the fixed amount.
    Raises SettingsError for another `until`, Fatal where something cannot start or the daemon fails.
    """
    if until not in {None, "head"}:
        raise SettingsError(f"--until = {until!r}: must be head, as the demo's traffic is a fixed amount")
    demo = _Demo(settings, Screen(sys.stdout if until is None and not as_json else sys.stderr))
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # a closed terminal leaves nothing behind, but for nohup
        numbers.append(signal.SIGHUP)
    with stop_signals(numbers=numbers) as stop:
        work = asyncio.create_task(demo.fixed() if until else demo.live(), name="demo")
        stopping = asyncio.create_task(stop.wait(), name="stop signals")
        await asyncio.wait([work, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not work.done():
            work.cancel()
            demo.screen.say("stopping")
            await asyncio.wait([work])
    if work.cancelled():
        return (_INTERRUPTED if until else 0), demo.document
    return await work, demo.document


@dataclass(slots=True)
class _Demo:
    """One run of the command."""

    settings: Settings
    screen: Screen
    document: dict[str, Any] = field(default_factory=lambda: {"chains": []})

    async def live(self) -> int:
        """Run on kept data until cancelled."""
        async with AsyncExitStack() as stack:
            home = await self._home(stack, "demo")
            node = await stack.enter_async_context(anvil(await self._anvil(), state=home.state))
            registries = await deploy(node)
            known = await home.belong_to(await _identity(node, registries))
            traffic = Traffic(node, registries, _SEED)
            places, database = await self._servers(stack, home)
            daemon = await self._daemon(stack, home, node, registries)
            async with asyncio.timeout(_PATIENCE_S):
                url = await _first(daemon.address(), daemon.ended())
            self.screen.introduce(_page(url) | places)
            await _first(self.screen.follow(database), _run_forever(traffic, opening=not known), daemon.ended())
        return 0

    async def fixed(self) -> int:
        """Index a fixed amount of traffic on a new chain, then verify. Returns 1 where anything differs."""
        async with AsyncExitStack() as stack:
            home = await self._home(stack, "demo-until-head")
            await home.forget()
            node = await stack.enter_async_context(anvil(await self._anvil(), timestamp=_CLOCK))
            await node.rpc("anvil_setBlockTimestampInterval", [_BLOCK_TIME_S])
            registries = await deploy(node)
            _, database = await self._servers(stack, home)
            async with AsyncExitStack() as running:
                daemon = await self._daemon(running, home, node, registries)
                self.screen.say(f"indexing {_LOGS:,} logs of a local chain, {_REORGS} reorgs among them")
                await _first(_drive(Traffic(node, registries, _SEED), node, database), daemon.ended())
            self.screen.say("comparing the tables with the ledger and with the contracts")
            verdict = await _verify(home)
            self.document["verify"] = verdict
            self.screen.say(f"the data is kept; to look at it: {_psql(home)}")
            return int(verdict["differences"] > 0 or verdict["unchecked"] > 0)

    async def _home(self, stack: AsyncExitStack, name: str) -> Home:
        home = Home(self.settings.data_dir / name)
        stack.enter_context(home.claim())
        await home.end_orphan()
        return home

    async def _anvil(self) -> Path:
        """Find the chain's program; the first run installs it."""
        try:
            return find_anvil(self.settings.data_dir)
        except Fatal:
            self.screen.say(f"installing the local chain's program, anvil {VERSION}")
        return await finish(lambda: ensure_anvil(self.settings.data_dir))

    async def _servers(self, stack: AsyncExitStack, home: Home) -> tuple[dict[str, str], Database]:
        """Start PostgreSQL and Valkey, which stay when the daemon leaves; return where they are, and a pool."""
        stack.push_async_callback(home.sweep)
        dsn = await stack.enter_async_context(postgres(home.folder))
        cache = await stack.enter_async_context(valkey(home.folder))
        database = await Database.open(dsn, size=2)
        stack.push_async_callback(database.close)
        socket = unquote(urlsplit(cache).path)
        return {
            "psql": _psql(home),
            "database": dsn,
            "valkey": f"valkey-cli -s {shlex.quote(socket)}    (or redis-cli)",
            "verify": home.shell_command("verify"),
            "log": str(home.log),
        }, database

    async def _daemon(self, stack: AsyncExitStack, home: Home, node: AnvilNode, registries: Registries) -> Daemon:
        """Start the daemon; what it prints at its end becomes our document."""
        bind = home.write_config(self.settings, node.url, registries.deployment)
        daemon: Daemon | None = None

        def keep() -> None:
            if daemon is not None and daemon.document:
                self.document = daemon.document

        stack.callback(keep)
        daemon = await stack.enter_async_context(run_daemon(home, bind))
        return daemon


async def _drive(traffic: Traffic, node: AnvilNode, database: Database) -> None:
    """Make the fixed amount; no block is reorganised away before the daemon has indexed it."""

    async def indexed() -> None:
        head = await node.rpc("eth_getBlockByNumber", ["latest", False])
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await wait_until_indexed(database, head["hash"])
        except TimeoutError as exc:
            raise Fatal(f"the daemon did not get to block {int(head['number'], 16)} in {_PATIENCE_S:g} s") from exc

    await traffic.run_fixed(_LOGS, _REORGS, before_reorg=indexed)
    await indexed()


async def _run_forever(traffic: Traffic, *, opening: bool) -> None:
    try:
        for _ in range(_OPENING_BLOCKS if opening else 0):
            await traffic.step()
        await traffic.run_forever(_BLOCK_INTERVAL_S)
    except RpcError as exc:
        raise Fatal(f"the traffic ended: {exc}") from exc


async def _verify(home: Home) -> dict[str, int]:
    """Run `verify` over every agent and return its counts. Raises Fatal where it does not come to an answer."""
    code, out = await home.call("verify", "--json", "--sample", _ALL_AGENTS)
    try:
        document = json.loads(out)
        counts = {name: int(document[name]) for name in ("checked", "differences", "unchecked")}
    except (ValueError, KeyError) as exc:
        raise Fatal(f"`verify` ended with exit code {code}; the end of {home.log}:\n{home.tail()}") from exc
    return counts


async def _identity(node: AnvilNode, registries: Registries) -> str:
    """Return a text that only this chain with these registries has."""
    first = await node.rpc("eth_getBlockByNumber", [hex(registries.deployment.start_block), False])
    return " ".join([first["hash"], *(address.hex() for address in registries.deployment.addresses)])


def _page(url: str | None) -> dict[str, str]:
    return {"status page": f"{url}/status" if url else "none, as ERC8004_HTTP_BIND is empty"}


def _psql(home: Home) -> str:
    return f'psql "$({home.shell_command("url", "database")})"'


async def _first(*works: Coroutine[Any, Any, T]) -> T:
    """Run all until one ends, cancel the others, and return its result or raise its error."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task.result() for task in tasks if task in done)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
