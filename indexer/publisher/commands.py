"""What is said to Valkey, as plain commands: pure functions of rows, so that a MULTI is a list of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from indexer.publisher.feed import Agent, Head
from indexer.publisher.keys import CHANNEL, FIGURES, Keys, layout_of, member

Argument = bytes | str | int | float
Command = tuple[Argument, ...]
Fields = Mapping[str, int | str | float | None]

_AGENT: Final = (
    "owner", "wallet", "uri", "feedback_count", "revoked_count", "average_value", "average_score", "unique_clients",
    "validation_count", "validation_average", "last_activity_block",
)  # fmt: skip
# A page takes a fraction of a second; who is silent for so long is dead, and another may begin.
_REBUILDER_GONE_S: Final = 10
_STATS: Final = ("agents", "feedback", "revoked", "responses", "validations")


def write_agents(keys: Keys, head: Head, agents: Iterable[Agent], *, building: bool = False) -> list[Command]:
    """Refresh the agents' hashes and their places in the sorted sets; those that are gone leave both.

    `building` fills the sets of a rebuild, and takes over no field that may be left in a hash.
    """
    commands: list[Command] = []
    dropped: list[str] = []
    places: dict[str, list[Argument]] = {figure: [] for figure in FIGURES}
    absent: dict[str, list[str]] = {figure: [] for figure in FIGURES}
    for agent in agents:
        name = member(agent.agent_id, agent.registry, head.first_identity)
        state = agent.state
        if building or state is None:
            dropped.append(keys.agent(name))
        if state is not None:
            fields = {**{field: state[field] for field in _AGENT}, "as_of_block": head.checkpoint_block}
            commands.append(_hset(keys.agent(name), fields))
        for figure in FIGURES:
            if state is None or state[figure] is None:
                absent[figure].append(name)
            else:
                places[figure] += [str(state[figure]), name]
    if dropped:
        commands.insert(0, ("DEL", *dropped))
    for figure in FIGURES:
        if places[figure]:
            commands.append(("ZADD", keys.top(figure, building=building), *places[figure]))
        if absent[figure] and not building:
            commands.append(("ZREM", keys.top(figure), *absent[figure]))
    return commands


def write_entries(keys: Keys, entries: Iterable[Mapping[str, Any]], above: int, maxlen: int) -> list[Command]:
    """Append to the stream, with all their fields, the entries that follow cursor `above`, the last one it has."""
    start = ("XADD", keys.changes, "MAXLEN", "~", maxlen)
    return [(*start, f"{entry['cursor']}-0", *_flat(entry)) for entry in entries if entry["cursor"] > above]


def write_stats(keys: Keys, totals: Mapping[str, Any] | None) -> list[Command]:
    """Set the chain's totals; a chain without any rows has zeros."""
    return [_hset(keys.stats, {name: totals[name] if totals else 0 for name in _STATS})]


def checkpoint_fields(head: Head) -> dict[str, int | str | float | None]:
    """Return what the checkpoint says once everything of `head` is published; `updated_at` is added by the writer."""
    return {
        "block_number": head.checkpoint_block,
        "block_hash": head.checkpoint_hash,
        "block_timestamp": head.checkpoint_time,
        "head_number": head.head_block,
        "finalized_number": head.finalized_block,
        "lag_blocks": head.lag_blocks,
        "cursor": head.cursor,
        "database": head.database,
    }


def write_checkpoint(keys: Keys, fields: Fields, now: str) -> list[Command]:
    """Vouch for what was written before, in the same MULTI. `now` is in seconds since 1970."""
    return [_hset(keys.checkpoint, {**fields, "updated_at": now})]


def announce(keys: Keys, fields: Fields, now: str) -> list[Command]:
    """Tell subscribers of a checkpoint."""
    message = {"chain_id": keys.chain_id, **fields, "updated_at": float(now)}
    return [("PUBLISH", CHANNEL, msgspec.json.encode(message).decode())]


def hold_rebuild(keys: Keys) -> Command:
    """Stay the one who rebuilds: said again with every write."""
    return ("EXPIRE", keys.rebuild, _REBUILDER_GONE_S)


def begin_rebuild(keys: Keys, token: str, *, keep_feed: bool) -> list[Command]:
    """Open a rebuild; without `keep_feed` what stands there is of another database and vouches for nothing."""
    dropped = [keys.top(figure, building=True) for figure in FIGURES]
    if not keep_feed:
        dropped += [keys.checkpoint, keys.changes]
    return [("DEL", *dropped), ("SET", keys.rebuild, token, "EX", _REBUILDER_GONE_S)]


def end_rebuild(keys: Keys, head: Head, filled: Iterable[str]) -> list[Command]:
    """Put the new sorted sets in the place of the old; those not among `filled` have no members."""
    commands: list[Command] = [("DEL", keys.rebuild, *(keys.top(figure) for figure in FIGURES))]
    commands += [("RENAME", keys.top(figure, building=True), keys.top(figure)) for figure in filled]
    return [*commands, ("SET", keys.layout, layout_of(head.first_identity))]


def remove(stale: Sequence[bytes]) -> list[Command]:
    """Delete keys, at least one."""
    return [("DEL", *stale)]


def texts(fields: Fields) -> dict[str, str]:
    """Return the fields as Valkey gives them back; what is unset is the empty string."""
    return {name: "" if value is None else str(value) for name, value in fields.items()}


def _flat(fields: Fields) -> list[Argument]:
    """Return names and values in turn; Valkey takes numbers as they are written."""
    return [part for name, value in fields.items() for part in (name, "" if value is None else value)]


def _hset(key: str, fields: Fields) -> Command:
    return ("HSET", key, *_flat(fields))
