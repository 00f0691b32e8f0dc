"""The doorbell against websockets that ring, are silent, refuse, talk nonsense or go away (fault F16)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import WSMsgType, web
from simulator import SimChain, SimNode
from structlog.testing import capture_logs

from indexer.chain.doorbell import Doorbell
from indexer.chain.source import Source

Behaviour = Callable[[web.WebSocketResponse], Awaitable[None]]


class WsNode:
    """A node that serves websockets alone: takes the subscription, and then behaves as told."""

    def __init__(self, behaviour: Behaviour | None = None) -> None:
        self.behaviour = behaviour
        self.sockets: list[web.WebSocketResponse] = []
        self.subscriptions = 0
        self.url = ""

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.sockets.append(socket)
        async for message in socket:
            if message.type is not WSMsgType.TEXT:
                break
            call = message.json()
            assert (call["method"], call["params"]) == ("eth_subscribe", ["newHeads"])
            self.subscriptions += 1
            if self.behaviour:
                await self.behaviour(socket)
            else:
                await socket.send_json({"jsonrpc": "2.0", "id": call["id"], "result": "0x9"})
        return socket

    async def ring(self, block_hash: str) -> None:
        for socket in self.sockets:
            if not socket.closed:
                await socket.send_json(head(block_hash))


def head(block_hash: str) -> dict[str, Any]:
    result = {"number": "0x1", "hash": block_hash, "parentHash": "0x00"}
    return {"jsonrpc": "2.0", "method": "eth_subscription", "params": {"subscription": "0x9", "result": result}}


@asynccontextmanager
async def serving(behaviour: Behaviour | None = None) -> AsyncIterator[WsNode]:
    node = WsNode(behaviour)
    app = web.Application()
    app.router.add_get("/{tail:.*}", node.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    node.url = f"ws://127.0.0.1:{runner.addresses[0][1]}/v2/s3cretApiKey0123"
    try:
        yield node
    finally:
        for socket in node.sockets:
            await socket.close()
        await runner.cleanup()


@asynccontextmanager
async def bell_of(*urls: str, silence_s: float = 5.0) -> AsyncIterator[Doorbell]:
    bell = Doorbell(urls, first_pause_s=0.01, silence_s=silence_s)
    try:
        yield bell
    finally:
        await bell.aclose()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110 - what is waited for sets no event
            await asyncio.sleep(0.005)


async def test_wait_ends_at_a_ring() -> None:
    async with serving() as node, bell_of(node.url) as bell:
        assert not await bell.wait(0.01)
        await until(lambda: node.subscriptions == 1)
        waiting = asyncio.create_task(bell.wait(30))
        await node.ring("0xaa")

        assert await asyncio.wait_for(waiting, 2)


async def test_ring_between_two_waits_is_heard_once() -> None:
    async with serving() as node, bell_of(node.url) as bell:
        await bell.wait(0.0)
        await until(lambda: node.subscriptions == 1)
        await node.ring("0xaa")
        await until(bell._rung.is_set)

        assert await bell.wait(30)
        assert not await bell.wait(0.01)


async def test_head_that_several_sockets_tell_of_rings_once() -> None:
    async with serving() as one, serving() as two, bell_of(one.url, two.url) as bell:
        await bell.wait(0.0)
        await until(lambda: one.subscriptions == two.subscriptions == 1)
        await one.ring("0xaa")
        assert await bell.wait(30)
        await two.ring("0xaa")
        assert not await bell.wait(0.05)
        await two.ring("0xbb")

        assert await bell.wait(30)


async def test_silent_socket_costs_nothing_and_is_opened_anew() -> None:
    """F16."""
    async with serving() as node, bell_of(node.url, silence_s=0.1) as bell:
        began = time.monotonic()
        assert not await bell.wait(0.2)
        assert time.monotonic() - began < 1.0

        await until(lambda: node.subscriptions >= 2)


async def test_without_sockets_wait_is_a_pause() -> None:
    async with bell_of() as bell:
        began = time.monotonic()
        assert not await bell.wait(0.05)
        assert time.monotonic() - began >= 0.045


async def hang_up(socket: web.WebSocketResponse) -> None:
    await socket.close()


async def refuse(socket: web.WebSocketResponse) -> None:
    await socket.send_json({"jsonrpc": "2.0", "id": 1, "error": {"code": -32601, "message": "no such method"}})


async def babble(socket: web.WebSocketResponse) -> None:
    await socket.send_str("<html>please wait</html>")


async def lie(socket: web.WebSocketResponse) -> None:
    await socket.send_json({"jsonrpc": "2.0", "params": {"result": {"hash": 5}}})


async def nest(socket: web.WebSocketResponse) -> None:
    await socket.send_str('{"result": ' + "[" * 5_000 + "]" * 5_000 + "}")


async def flood(socket: web.WebSocketResponse) -> None:
    await socket.send_str("x" * (2 << 20))


@pytest.mark.parametrize("behaviour", [hang_up, refuse, babble, lie, nest, flood])
async def test_whatever_a_socket_does_is_told_once_by_host_and_tried_again(behaviour: Behaviour) -> None:
    with capture_logs() as logs:
        async with serving(behaviour) as node, bell_of(node.url) as bell:
            assert not await bell.wait(0.05)
            await until(lambda: node.subscriptions >= 3)
            node.behaviour = None
            before = node.subscriptions
            await until(lambda: node.subscriptions > before)
            await node.ring("0xaa")
            assert await bell.wait(5)

    lost = [entry for entry in logs if entry["event"] == "bell_lost"]
    assert len(lost) == 1
    assert lost[0]["host"] == "127.0.0.1"
    assert "s3cret" not in repr(logs)


async def test_sockets_that_cannot_be_reached_never_raise() -> None:
    urls = ["ws://127.0.0.1:1/key", "ws://", "ws://[nonsense", "wss://127.0.0.1:1"]
    with capture_logs() as logs:
        async with bell_of(*urls) as bell:
            assert not await bell.wait(0.1)
            await until(lambda: len(logs) == len(urls))


async def test_source_keeps_the_sockets_of_its_urls() -> None:
    chain = SimChain()
    async with SimNode(chain) as node, serving() as sockets:
        async with Source.open([sockets.url, node.url]) as source:
            await source.bell.wait(0.0)
            await until(lambda: sockets.subscriptions == 1)
            assert len(source.pool.providers) == 1
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "doorbell"]
