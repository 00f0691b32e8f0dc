"""One chain's keys in Valkey: what they vouch for, and writes that happen only if nobody else wrote meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import ResponseError, WatchError

from indexer.errors import Retryable
from indexer.publisher.commands import Command
from indexer.publisher.keys import Keys
from indexer.publisher.valkey import Valkey

_SCAN_COUNT: Final = 1_000


class Superseded(Retryable):
    """Another publisher, or someone who emptied Valkey, was there since it was read: read it again."""


@dataclass(frozen=True, slots=True)
class Published:
    """What Valkey says of itself. `cursor` is None where it vouches for nothing, `last_entry` 0 without a stream."""

    fields: dict[str, str] = field(default_factory=dict)
    rebuild: str = ""
    layout: str = ""
    last_entry: int = 0

    @property
    def cursor(self) -> int | None:
        """The last change that it has."""
        text = self.fields.get("cursor", "")
        return int(text) if text.isdecimal() else None

    @property
    def database(self) -> str:
        """Which database it was filled from."""
        return self.fields.get("database", "")


class Target:
    """Reads and writes the keys of one chain."""

    def __init__(self, valkey: Valkey, keys: Keys) -> None:
        self._valkey = valkey
        self._keys = keys

    async def read(self) -> Published:
        """Return what is there now. Raises ValkeyUnavailable or SettingsError, as everything here does."""
        async with self._valkey.holding(self._keys.checkpoint) as client:
            pipe = client.pipeline(transaction=True)
            pipe.hgetall(self._keys.checkpoint)
            pipe.get(self._keys.rebuild)
            pipe.get(self._keys.layout)
            pipe.xinfo_stream(self._keys.changes)
            fields, rebuild, layout, stream = await pipe.execute(raise_on_error=False)
            for answer in (fields, rebuild, layout):
                if isinstance(answer, Exception):
                    raise answer
        return Published(_texts(fields), _text(rebuild), _text(layout), _last_entry(stream))

    async def write(self, seen: Published, commands: Sequence[Command]) -> None:
        """Do all of `commands` in one MULTI, or none.

        Raises Superseded where checkpoint and rebuild are not as `seen`.
        """
        async with self._valkey.holding(self._keys.checkpoint) as client, client.pipeline(transaction=True) as pipe:
            await pipe.watch(self._keys.checkpoint, self._keys.rebuild)
            found = replace(
                seen,
                fields=_texts(await pipe.hgetall(self._keys.checkpoint)),
                rebuild=_text(await pipe.get(self._keys.rebuild)),
            )
            if found != seen:
                raise Superseded("Valkey was written by someone else meanwhile")
            pipe.multi()  # type: ignore[no-untyped-call]  # redis declares no return type
            for command in commands:
                pipe.execute_command(*command)
            try:
                await pipe.execute()
            except WatchError as error:
                raise Superseded("Valkey was written by someone else meanwhile") from error

    async def scan(self) -> AsyncIterator[list[bytes]]:
        """Yield the names of all keys of the chain, page by page; a page may be empty, and a key come twice."""
        position = 0
        while True:
            async with self._valkey.holding(self._keys.checkpoint) as client:
                position, names = await _scan(client, position, self._keys.pattern)
            yield names
            if position == 0:
                return


async def _scan(client: Redis, position: int, pattern: str) -> tuple[int, list[bytes]]:
    following, names = await client.scan(position, match=pattern, count=_SCAN_COUNT)
    return int(following), [bytes(name) for name in names if isinstance(name, bytes)]


def _last_entry(stream: object) -> int:
    """Return the cursor in the id of the stream's last entry, were it trimmed since or not."""
    if isinstance(stream, ResponseError):  # there is none
        return 0
    assert isinstance(stream, dict)
    return int(bytes(stream["last-generated-id"]).partition(b"-")[0])


def _texts(fields: Mapping[bytes | str, bytes | str]) -> dict[str, str]:
    return {_text(name): _text(value) for name, value in fields.items()}


def _text(value: bytes | str | None) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value or ""
