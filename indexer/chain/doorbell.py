"""A bell that rings when a websocket of the chain tells of a new head: only a reason to look sooner, never a source."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import msgspec
import structlog

log = structlog.get_logger()

FIRST_PAUSE_S: Final = 1.0
MAX_PAUSE_S: Final = 60.0
CONNECT_TIMEOUT_S: Final = 10.0
SILENCE_S: Final = (
    120.0  # a socket that says nothing for so long is opened anew (fault F16); the poll goes on meanwhile
)
MAX_MESSAGE_BYTES: Final = 1 << 20  # a head is about 1 kB
MAX_SEEN: Final = 64  # heads that several sockets may tell of one after the other

_SUBSCRIBE: Final = {"jsonrpc": "2.0", "id": 1, "method": "eth_subscribe", "params": ["newHeads"]}


class _Head(msgspec.Struct):
    hash: str


class _Params(msgspec.Struct):
    result: _Head


class _Message(msgspec.Struct):
    """The answer to the subscription, or one notification; anything else in it is of no interest."""

    params: _Params | None = None
    error: Any = None


_MESSAGES: Final = msgspec.json.Decoder(_Message)


class Doorbell:
    """Listens to `newHeads` at ws(s) URLs, one task each. Whatever happens there, `wait` ends in time."""

    def __init__(
        self, urls: Sequence[str] = (), *, first_pause_s: float = FIRST_PAUSE_S, silence_s: float = SILENCE_S
    ) -> None:
        self._urls = tuple(urls)
        self._first_pause_s = first_pause_s
        self._silence_s = silence_s
        self._rung = asyncio.Event()
        self._seen: deque[str] = deque(maxlen=MAX_SEEN)
        self._tasks: list[asyncio.Task[None]] = []

    async def wait(self, timeout_s: float) -> bool:
        """Return at a ring, or after the time; say whether it rang. A ring since the last wait counts at once.

        The first call opens the sockets.
        """
        if not self._tasks:
            self._tasks = [asyncio.create_task(self._listen(url), name="doorbell") for url in self._urls]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._rung.wait()
        rang = self._rung.is_set()
        self._rung.clear()
        return rang

    async def aclose(self) -> None:
        """Close the sockets."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self, url: str) -> None:
        """Keep one socket open for ever; an outage is told once."""
        host = _host_of(url)
        pause_s, told = self._first_pause_s, False
        while True:
            heads = 0
            try:
                async with contextlib.aclosing(_heads(url, self._silence_s)) as told_of:
                    async for head in told_of:
                        heads += 1
                        self._ring(head)
                why = "closed"
            except (aiohttp.ClientError, OSError, ValueError, TimeoutError, msgspec.DecodeError) as error:
                why = type(error).__name__  # its words may hold the URL
            if heads:
                pause_s, told = self._first_pause_s, False
            if not told:
                log.info("bell_lost", host=host, why=why)
                told = True
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - no secret, only spread
            pause_s = min(2 * pause_s, MAX_PAUSE_S)

    def _ring(self, head: str) -> None:
        if head not in self._seen:
            self._seen.append(head)
            self._rung.set()


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or "?"
    except ValueError:
        return "?"


async def _heads(url: str, silence_s: float) -> AsyncGenerator[str, None]:
    """Yield the hash of each head that the socket tells of; ends where it is closed.

    Raises what aiohttp does, TimeoutError after silence, ValueError where the node refuses or talks nonsense.
    """
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.ws_connect(url, heartbeat=silence_s / 2, max_msg_size=MAX_MESSAGE_BYTES) as socket,
    ):
        await socket.send_json(_SUBSCRIBE)
        while True:
            async with asyncio.timeout(silence_s):  # aiohttp's own would begin anew at every pong
                message = await socket.receive()
            if message.type not in {aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY}:
                return
            said = _decoded(message.data)
            if said.error is not None:
                raise ValueError("the node refuses the subscription")
            if said.params is not None:
                yield said.params.result.hash


def _decoded(data: str | bytes) -> _Message:
    try:
        return _MESSAGES.decode(data)
    except RecursionError as error:
        raise ValueError("a message that is nested too deep") from error
