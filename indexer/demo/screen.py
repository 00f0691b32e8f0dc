"""The demo's face: where to look, and what the daemon has indexed, live on a terminal and in lines elsewhere."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, TextIO

from indexer.demo.watch import Snapshot, look
from indexer.errors import StoreUnavailable
from indexer.store.database import Database

if TYPE_CHECKING:
    from rich.console import RenderableType

_LOOK_S: Final = 0.5
_LINE_S: Final = 5.0


class Screen:
    """Writes to one stream; the only place of the demo that does."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def say(self, line: str) -> None:
        """Print a line at once, never cut."""
        print(line, file=self._out, flush=True)

    def introduce(self, places: Mapping[str, str]) -> None:
        """Print where everything is, a line each, to be copied whole."""
        width = max(map(len, places))
        for name, place in places.items():
            self.say(f"{name:<{width}}  {place}")
        self.say("Ctrl-C stops all of it; the data is kept.")

    async def follow(self, database: Database) -> None:
        """Show the database until cancelled."""
        if self._out.isatty():
            await self._live(database)
        else:
            await self._lines(database)

    async def _lines(self, database: Database) -> None:
        """Print a line every few seconds, and at once where there is news."""
        told: object = None
        due = 0.0
        while True:
            snapshot = await _look(database)
            if snapshot is not None and snapshot.status["checkpoint_block"] >= 0:
                news = (snapshot.status["state"], snapshot.status["reorgs"])
                if news != told or time.monotonic() >= due:
                    self.say(as_line(snapshot))
                    told, due = news, time.monotonic() + _LINE_S
            await asyncio.sleep(_LOOK_S)

    async def _live(self, database: Database) -> None:
        from rich.console import Console  # noqa: PLC0415 - only a terminal pays for the import
        from rich.live import Live  # noqa: PLC0415

        with Live(console=Console(file=self._out), auto_refresh=False) as live:
            while True:
                live.update(as_table(await _look(database)), refresh=True)
                await asyncio.sleep(_LOOK_S)


async def _look(database: Database) -> Snapshot | None:
    """Look; a database that is away for a moment is the daemon's to tell of."""
    try:
        return await look(database)
    except StoreUnavailable:
        return None


def figures(snapshot: Snapshot) -> dict[str, object]:
    """Return what is shown, by name."""
    status, stats = snapshot.status, snapshot.stats
    return {
        "state": status["state"],
        "head": status["head_block"],
        "checkpoint": status["checkpoint_block"],
        "lag": status["lag_blocks"],
        "finalized": status["finalized_block"],
        "logs": stats.get("logs", 0),
        "agents": stats.get("agents", 0),
        "feedback": stats.get("feedback", 0),
        "revoked": stats.get("revoked", 0),
        "responses": stats.get("responses", 0),
        "validations": stats.get("validations", 0),
        "reorgs": status["reorgs"],
    }


def as_line(snapshot: Snapshot) -> str:
    """Return one line of figures."""
    return "  ".join(f"{name} {'-' if value is None else value}" for name, value in figures(snapshot).items())


def as_table(snapshot: Snapshot | None) -> RenderableType:
    """Return figures and newest events side by side."""
    from rich.table import Table  # noqa: PLC0415 - see above

    if snapshot is None:
        return "waiting for the daemon's first block"
    left = Table.grid(padding=(0, 2))
    for name, value in figures(snapshot).items():
        left.add_row(name, "-" if value is None else str(value))
    right = Table.grid(padding=(0, 2))
    for event in snapshot.events:
        agent = "" if event.agent_id is None else f"agent {event.agent_id}"
        right.add_row(f"block {event.block_number}", event.event, agent, "" if event.finalized else "may still change")
    both = Table.grid(padding=(1, 6))
    both.add_row(left, right)
    return both
