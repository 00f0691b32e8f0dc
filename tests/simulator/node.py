"""A JSON-RPC server over a SimChain, with knobs for everything a real one does wrong."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, Self

import msgspec
from aiohttp import WSMsgType, web

from indexer.core.types import BlockRange, BlockRef, RawLog
from simulator.chain import SimBlock, SimChain
from simulator.texts import USUAL_TEXT, RangeText

Fault = Literal[
    "500", "429", "402", "401", "413", "html", "closed", "garbage", "null", "rate", "nested", "digits", "hang"
]
Intercept = Callable[[str, list[Any], Any], Any]

_LOOK_S = 0.01  # how soon a websocket tells of a new head


class SimRpcError(Exception):
    """An error object as the answer of one call."""

    def __init__(self, code: int, message: str, data: object = None) -> None:
        super().__init__(message)
        self.code, self.message, self.data = code, message, data


@dataclass(slots=True, kw_only=True)
class Knobs:
    """How the node behaves; change any of them at any time."""

    block_timestamp: bool = True  # logs carry blockTimestamp
    finalized_depth: int | None = 64  # None: the tags safe and finalized are refused
    lag_blocks: int = 0  # this node's head stays that far behind
    past_head: str | None = None  # message of the -32602 for a range past the head; None: answers as geth, []
    max_range: int | None = None  # blocks
    range_refusal: RangeText = USUAL_TEXT
    max_results: int | None = None
    results_refusal: str = "query returned more than {limit} results"
    results_code: int = -32005
    truncate_at: int | None = None  # answers silently cut (F20)
    plain_refusal: int | None = None  # HTTP status: a refusal of eth_getLogs is the plain body of the whole answer
    hang_on: str | None = None  # requests with this method are never answered
    max_addresses: int | None = None
    address_refusal: str = "specify less number of address"
    first_block: int = 0  # logs, receipts and headers below are refused as pruned (F15)
    pruned_refusal: tuple[int, str] = (4444, "pruned history unavailable")
    latency_s: float = 0.0
    max_batch: int | None = None  # larger JSON-RPC batches are refused as a whole; 0: any
    listed_refusal: bool = False  # that refusal is a list of one error under the id of the first call, as geth's
    receipts: bool = True  # eth_getBlockReceipts is served
    syncing: bool = False
    retry_after: str | None = None  # header sent with a 429
    rate_refusal: tuple[int, str] = (-32005, "rate limit exceeded")  # of the fault `rate`: HTTP 200 with an error
    websocket: Literal["rings", "silent", "refused"] = "rings"
    chain_id: int | None = None  # None: the chain's own


class SimNode:
    """`async with SimNode(chain, max_range=100) as node:` serves on 127.0.0.1 at `node.url`.

    Keyword arguments are `Knobs`, also reachable later as `node.knobs`. `node.intercept(method, params,
    answer)` may change any answer, or raise SimRpcError. `node.on_call(to, data, block)` answers eth_call.
    """

    def __init__(self, chain: SimChain, **knobs: Any) -> None:
        self.chain = chain
        self.knobs = Knobs(**knobs)
        self.intercept: Intercept | None = None
        self.on_request: Callable[[], Fault | None] | None = None  # a fault for the next HTTP request; may turn knobs
        self.on_call: Callable[[bytes, bytes, BlockRef], bytes] | None = None
        self.calls: Counter[str] = Counter()
        self.http_requests = 0
        self.sockets = 0  # open websockets
        self.url = ""
        self._faults: deque[Fault] = deque()
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self, port: int = 0) -> None:
        """Listen; a node that was stopped comes back on its old port."""
        app = web.Application(client_max_size=64 << 20)
        app.router.add_post("/{tail:.*}", self._serve)
        app.router.add_get("/{tail:.*}", self._websocket)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        old = int(self.url.rsplit(":", 1)[1].split("/")[0]) if self.url else port
        site = web.TCPSite(self._runner, "127.0.0.1", old)
        await site.start()
        _, bound = self._runner.addresses[0]
        self.url = f"http://127.0.0.1:{bound}"

    @property
    def ws_url(self) -> str:
        """The address of its websocket."""
        return self.url.replace("http", "ws", 1)

    @property
    def is_up(self) -> bool:
        """Say whether the port is open."""
        return self._runner is not None

    async def stop(self) -> None:
        """Close the port; clients see refused connections."""
        if self._runner:
            await self._runner.cleanup()
            self._runner = None

    def fail(self, count: int, fault: Fault = "500") -> None:
        """Answer the next `count` HTTP requests with a fault."""
        self._faults.extend([fault] * count)

    def heal(self) -> None:
        """Forget the faults still due."""
        self._faults.clear()

    @property
    def head(self) -> int:
        """The newest block this node knows."""
        return max(0, self.chain.head.number - self.knobs.lag_blocks)

    def forget_counts(self) -> None:
        """Set the counters to zero."""
        self.calls.clear()
        self.http_requests = 0

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.http_requests += 1
        if self.knobs.latency_s:
            await asyncio.sleep(self.knobs.latency_s)
        try:
            body = msgspec.json.decode(await request.read())
        except ConnectionError:  # the asking process was killed
            return web.Response()
        fault = self._faults.popleft() if self._faults else self.on_request and self.on_request()
        if fault == "hang":
            await asyncio.sleep(3600)
        if fault:
            return self._fault(fault, request, body)
        calls = body if isinstance(body, list) else [body]
        if any(call["method"] == self.knobs.hang_on for call in calls):
            await asyncio.sleep(3600)
        if isinstance(body, dict):
            answer: Any = self._envelope(body)
        elif self.knobs.max_batch is not None and len(body) > self.knobs.max_batch:
            answer = self._refused_batch(body)
        else:
            answer = [self._envelope(call) for call in body]
        if self.knobs.plain_refusal and (words := _refusal_of_logs(calls, answer)):
            return web.Response(status=self.knobs.plain_refusal, text=words)
        return web.Response(body=msgspec.json.encode(answer), content_type="application/json")

    def _refused_batch(self, calls: list[dict[str, Any]]) -> Any:
        if self.knobs.listed_refusal:
            return [_error(calls[0]["id"], -32600, "batch too large")]
        return _error(None, -32600, f"batch too large: at most {self.knobs.max_batch} requests")

    def _fault(self, fault: Fault, request: web.Request, body: Any) -> web.StreamResponse:
        match fault:
            case "html":
                return web.Response(text="<html>please wait</html>", content_type="text/html")
            case "garbage":
                return web.Response(text='{"jsonrpc": "2.0", "id"', content_type="application/json")
            case "closed":
                if request.transport:
                    request.transport.abort()
                return web.Response()
            case "null" | "nested" | "digits":
                answers = [_nonsense(fault, call["id"]) for call in (body if isinstance(body, list) else [body])]
                text = f"[{','.join(answers)}]" if isinstance(body, list) else answers[0]
                return web.Response(text=text, content_type="application/json")
            case "rate":
                code, message = self.knobs.rate_refusal
                return web.json_response(_error(None if isinstance(body, list) else body["id"], code, message))
            case _:
                headers = {"Retry-After": self.knobs.retry_after} if fault == "429" and self.knobs.retry_after else {}
                return web.Response(status=int(fault), text="no", headers=headers)

    def _envelope(self, call: dict[str, Any]) -> dict[str, Any]:
        method, params = call["method"], call.get("params", [])
        self.calls[method] += 1
        try:
            result = self.answer(method, params)
            if self.intercept:
                result = self.intercept(method, params, result)
        except SimRpcError as refusal:
            return _error(call["id"], refusal.code, refusal.message, refusal.data)
        return {"jsonrpc": "2.0", "id": call["id"], "result": result}

    def answer(self, method: str, params: list[Any]) -> Any:
        """Answer one call truthfully within the knobs. Raises SimRpcError."""
        handlers: dict[str, Callable[..., Any]] = {
            "eth_chainId": lambda: hex(self.knobs.chain_id or self.chain.chain_id),
            "eth_blockNumber": lambda: hex(self.head),
            "eth_syncing": lambda: {"currentBlock": hex(self.head)} if self.knobs.syncing else False,
            "eth_getBlockByNumber": self._block_by_number,
            "eth_getBlockByHash": lambda block_hash, *_: self._block_json(self._by_hash(block_hash)),
            "eth_getLogs": self._get_logs,
            "eth_getBlockReceipts": self._receipts,
            "eth_getCode": lambda address, *_: "0x" if _unhex(address) in self.chain.without_code else "0x6000",
            "eth_call": self._call,
        }
        if method not in handlers or (method == "eth_getBlockReceipts" and not self.knobs.receipts):
            raise SimRpcError(-32601, f"the method {method} does not exist/is not available")
        return handlers[method](*params)

    def _block_by_number(self, tag: str, *_: object) -> dict[str, Any] | None:
        number = self._number(tag)
        return None if number is None else self._block_json(self._known(number))

    def _number(self, tag: str) -> int | None:
        match tag:
            case "latest" | "pending":
                return self.head
            case "earliest":
                return 0
            case "finalized" | "safe":
                if self.knobs.finalized_depth is None:
                    raise SimRpcError(-32602, f"invalid argument 0: unknown block tag {tag}")
                depth = self.knobs.finalized_depth // (1 if tag == "finalized" else 2)
                return self.head - depth if self.head >= depth else None
            case _:
                return int(tag, 16)

    def _known(self, number: int) -> SimBlock | None:
        return self.chain.block(number) if number <= self.head else None

    def _by_hash(self, block_hash: str) -> SimBlock | None:
        block = self.chain.block_by_hash(_unhex(block_hash))
        return block if block and block.ref.number <= self.head else None

    def _block_json(self, block: SimBlock | None) -> dict[str, Any] | None:
        if block is None:
            return None
        hashes = ["0x" + receipt.tx_hash.hex() for receipt in block.receipts]
        return {**block.header, "transactions": hashes, "uncles": [], "size": "0x220"}

    def _get_logs(self, query: dict[str, Any]) -> list[dict[str, Any]]:
        address = query.get("address")
        addresses = (
            None if address is None else [_unhex(a) for a in ([address] if isinstance(address, str) else address)]
        )
        if addresses and self.knobs.max_addresses and len(addresses) > self.knobs.max_addresses:
            raise SimRpcError(-32602, self.knobs.address_refusal.format(limit=self.knobs.max_addresses))
        logs = self._logs_of(query, None if addresses is None else frozenset(addresses))
        if self.knobs.max_results is not None and len(logs) > self.knobs.max_results:
            words = self.knobs.results_refusal.format(limit=self.knobs.max_results)
            raise SimRpcError(self.knobs.results_code, words)
        return [self._log_json(log) for log in logs[: self.knobs.truncate_at]]

    def _logs_of(self, query: dict[str, Any], addresses: frozenset[bytes] | None) -> list[RawLog]:
        if "blockHash" in query:
            block = self._by_hash(query["blockHash"])
            if block is None:
                raise SimRpcError(-32000, "unknown block")
            self._check_kept(block.ref.number)
            return [log for log in block.logs if addresses is None or log.address in addresses]
        first, last = self._number(query.get("fromBlock", "latest")), self._number(query.get("toBlock", "latest"))
        if first is None or last is None or first > last:
            raise SimRpcError(-32602, "invalid block range params")
        if self.knobs.max_range is not None and last - first + 1 > self.knobs.max_range:
            text = self.knobs.range_refusal
            raise SimRpcError(text.code, text.message(first=first, last=last, limit=self.knobs.max_range))
        self._check_kept(first)
        if last > self.head and self.knobs.past_head is not None:
            raise SimRpcError(-32602, self.knobs.past_head)
        return [] if first > self.head else self.chain.logs(addresses, BlockRange(first, min(last, self.head)))

    def _check_kept(self, number: int) -> None:
        if number < self.knobs.first_block:
            code, message = self.knobs.pruned_refusal
            raise SimRpcError(code, message.format(floor=self.knobs.first_block))

    def _log_json(self, log: RawLog) -> dict[str, Any]:
        answer = {
            "address": "0x" + log.address.hex(),
            "topics": ["0x" + topic.hex() for topic in log.topics],
            "data": "0x" + log.data.hex(),
            "blockNumber": hex(log.block_number),
            "blockHash": "0x" + log.block_hash.hex(),
            "transactionHash": "0x" + log.tx_hash.hex(),
            "transactionIndex": hex(log.tx_index),
            "logIndex": hex(log.log_index),
            "removed": False,
        }
        if self.knobs.block_timestamp:
            answer["blockTimestamp"] = hex(log.timestamp)
        return answer

    def _receipts(self, at: str) -> list[dict[str, Any]] | None:
        if len(at) == 66:
            block = self._by_hash(at)
        else:
            number = self._number(at)
            block = None if number is None else self._known(number)
        if block is None:
            return None
        self._check_kept(block.ref.number)
        return [
            receipt.told(block.ref.number, block.ref.hash, [self._log_json(log) for log in receipt.logs])
            for receipt in block.receipts
        ]

    async def _websocket(self, request: web.Request) -> web.StreamResponse:
        """Serve `eth_subscribe` of new heads; a silent one takes the subscription and never tells (F16)."""
        if self.knobs.websocket == "refused":
            return web.Response(status=404)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.sockets += 1
        telling: asyncio.Task[None] | None = None
        try:
            async for message in socket:
                if message.type is not WSMsgType.TEXT:
                    break
                call = msgspec.json.decode(message.data)
                if call["method"] == "eth_subscribe":
                    await socket.send_json({"jsonrpc": "2.0", "id": call["id"], "result": "0x1"})
                    telling = telling or asyncio.create_task(self._tell_heads(socket))
                else:
                    await socket.send_json(self._envelope(call))
        finally:
            self.sockets -= 1
            if telling:
                telling.cancel()
        return socket

    async def _tell_heads(self, socket: web.WebSocketResponse) -> None:
        told = self._known(self.head)
        with suppress(ConnectionError):
            while True:
                await asyncio.sleep(_LOOK_S)
                block = self._known(self.head)
                if block is None or block is told or self.knobs.websocket != "rings":
                    continue
                told = block
                params = {"subscription": "0x1", "result": block.header}
                await socket.send_json({"jsonrpc": "2.0", "method": "eth_subscription", "params": params})

    def _call(self, call: dict[str, str], at: str | dict[str, Any]) -> str:
        if isinstance(at, dict) and "blockHash" in at:
            block = self._by_hash(at["blockHash"])
        else:
            number = self._number(at if isinstance(at, str) else at["blockNumber"])
            block = None if number is None else self._known(number)
        if block is None:
            raise SimRpcError(-32000, "header not found")
        if self.on_call is None:
            return "0x"
        return (
            "0x" + self.on_call(_unhex(call["to"]), _unhex(call.get("data", call.get("input", "0x"))), block.ref).hex()
        )


def _refusal_of_logs(calls: list[dict[str, Any]], answer: Any) -> str | None:
    """Return the message of the first eth_getLogs that was refused."""
    answers = answer if isinstance(answer, list) else [answer]
    refused = [
        one["error"] for one, call in zip(answers, calls, strict=False) if "error" in one and "Logs" in call["method"]
    ]
    return refused[0]["message"] if refused else None


def _nonsense(fault: Fault, call_id: object) -> str:
    """Answer one call with null, with JSON in 5,000 levels, or under an id of 5,000 digits."""
    result = "[" * 5_000 + "]" * 5_000 if fault == "nested" else "null"
    number = f'"{"9" * 5_000}"' if fault == "digits" else call_id
    return f'{{"jsonrpc": "2.0", "id": {number}, "result": {result}}}'


def _error(call_id: object, code: int, message: str, data: object = None) -> dict[str, Any]:
    error: dict[str, Any] = {"code": code, "message": message}
    if data is not None:
        error["data"] = data
    return {"jsonrpc": "2.0", "id": call_id, "error": error}


def _unhex(text: str) -> bytes:
    return bytes.fromhex(text[2:])
