"""One step of a chain: what Valkey lacks is judged, then written from one snapshot of PostgreSQL."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from indexer.publisher import commands
from indexer.publisher.commands import Command
from indexer.publisher.feed import Feed, Head
from indexer.publisher.keys import FIGURES, Keys, layout_of
from indexer.publisher.target import Published, Target


@dataclass(frozen=True, slots=True)
class Rebuild:
    """Fill the chain's keys anew; `keep_feed`: stream and checkpoint are this database's, and stay meanwhile."""

    reason: str
    keep_feed: bool


@dataclass(frozen=True, slots=True)
class Extend:
    """Go on with the change after `cursor`."""

    cursor: int


def judge(published: Published, head: Head, stretch: int) -> Rebuild | Extend:
    """Say how Valkey can be brought up to `head`, next by at most `stretch` changes; touches nothing."""
    cursor = published.cursor
    if cursor is None:
        return Rebuild("missing", keep_feed=False)
    if published.database != head.database:
        return Rebuild("foreign", keep_feed=False)
    if max(cursor, published.last_entry) > head.cursor:
        return Rebuild("ahead", keep_feed=False)
    if published.layout != layout_of(head.first_identity):
        return Rebuild("layout", keep_feed=True)
    if head.held < min(stretch, head.cursor - cursor):
        return Rebuild("pruned", keep_feed=True)
    return Extend(cursor)


@dataclass(slots=True)
class Step:
    """One snapshot's worth of work."""

    keys: Keys
    target: Target
    feed: Feed
    head: Head
    token: str
    stream_maxlen: int

    async def extend(self, published: Published, after: int) -> int:
        """Publish the next stretch of the feed; return its last cursor."""
        through = min(after + self.feed.stretch, self.head.cursor)
        if through == after:
            await self._move_checkpoint(published)
            return through
        last: list[Command] = []
        async for page in self.feed.touched(after, through):
            if last:
                await self.target.write(published, last)
            last = commands.write_agents(self.keys, self.head, page)
        last += commands.write_stats(self.keys, await self.feed.stats())
        last += await self._entries(after, through, published.last_entry)
        await self.target.write(published, last + self._checkpoint(through))
        return through

    async def rebuild(self, published: Published, plan: Rebuild) -> int:
        """Write everything anew, then let the new take the place of the old in one go; return the cursor."""
        await self.target.write(published, commands.begin_rebuild(self.keys, self.token, keep_feed=plan.keep_feed))
        seen = replace(published, fields=published.fields if plan.keep_feed else {}, rebuild=self.token)
        filled = await self._write_everyone(seen)
        await self._refill_stream(seen, published.last_entry if plan.keep_feed else 0)
        await self._remove_stale(seen)
        stats = commands.write_stats(self.keys, await self.feed.stats())
        end = commands.end_rebuild(self.keys, self.head, filled)
        await self.target.write(seen, [*stats, *end, *self._checkpoint(self.head.cursor)])
        return self.head.cursor

    async def _move_checkpoint(self, published: Published) -> None:
        """Follow a checkpoint or a head that moved without any change of rows."""
        fields = commands.texts(commands.checkpoint_fields(self.head))
        moved = {name for name, value in fields.items() if published.fields.get(name) != value}
        if moved:
            silent = moved <= {"head_number", "lag_blocks"}
            await self.target.write(published, self._checkpoint(self.head.cursor, silent=silent))

    def _checkpoint(self, cursor: int, *, silent: bool = False) -> list[Command]:
        """Vouch for the rows up to `cursor`; for blocks only where nothing of them is missing."""
        now = f"{time.time():.6f}"
        if cursor < self.head.cursor:
            return commands.write_checkpoint(self.keys, {"cursor": cursor}, now)
        fields = commands.checkpoint_fields(self.head)
        written = commands.write_checkpoint(self.keys, fields, now)
        return written if silent else [*written, *commands.announce(self.keys, fields, now)]

    async def _entries(self, after: int, through: int, above: int) -> list[Command]:
        entries = await self.feed.entries(after, through)
        return commands.write_entries(self.keys, entries, above, self.stream_maxlen)

    async def _write_everyone(self, seen: Published) -> set[str]:
        """Write all agents; return the figures that any of them has."""
        filled: set[str] = set()
        async for page in self.feed.everyone():
            written = commands.write_agents(self.keys, self.head, page, building=True)
            await self.target.write(seen, [*written, commands.hold_rebuild(self.keys)])
            filled |= {
                figure for figure in FIGURES for agent in page if agent.state and agent.state[figure] is not None
            }
        return filled

    async def _refill_stream(self, seen: Published, last_entry: int) -> None:
        """Append what the stream lacks and the feed still has, as far as the stream's length goes."""
        first = max(last_entry, self.head.cursor - self.stream_maxlen)
        for after in range(first, self.head.cursor, self.feed.stretch):
            entries = await self._entries(after, min(after + self.feed.stretch, self.head.cursor), last_entry)
            await self.target.write(seen, [*entries, commands.hold_rebuild(self.keys)])

    async def _remove_stale(self, seen: Published) -> None:
        async for found in self.target.scan():
            names = {key: name for key in found if (name := self._name(key)) is not None}
            known = await self.feed.known(names.values(), self.head.first_identity)
            stale = [key for key, name in names.items() if name not in known]
            removals = commands.remove(stale) if stale else []
            await self.target.write(seen, [*removals, commands.hold_rebuild(self.keys)])

    def _name(self, key: bytes) -> str | None:
        """Return the name of the agent whose key this is, None for the chain's own keys, '' for what nobody knows."""
        text = key.decode("utf-8", "replace")
        if self.keys.is_fixed(text):
            return None
        return text.removeprefix(self.keys.agents) if text.startswith(self.keys.agents) else ""
