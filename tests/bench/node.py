"""`python -m bench.node`: a JSON-RPC node over the history of `bench.mix`, its answers prepared in a mapped file.

Of a long history they are drawn when they are asked for instead: the file would take the memory that the server needs.

Limits as providers have them: 2,000 blocks and 10,000 logs a request. Prints its address as soon as it serves; the
method `bench_figures` tells the seconds of CPU spent since then, and what was asked.
"""

from __future__ import annotations

import argparse
import asyncio
import mmap
import sys
import tempfile
import time
from array import array
from collections import Counter
from typing import Any, Final

import msgspec
from aiohttp import web
from bench.mix import CHAIN_ID, FIRST_BLOCK, LOGS_A_BLOCK, block_hashes, block_logs, header_json

MAX_RANGE: Final = 2_000  # blocks
MAX_RESULTS: Final = 10_000  # logs
FINALITY: Final = 64  # blocks


class Node:
    """Serves `blocks` blocks; `timed` logs carry their block's time, else headers have to be asked for."""

    def __init__(self, blocks: int, *, timed: bool, latency_s: float, drawn: bool) -> None:
        self.head = FIRST_BLOCK + blocks - 1
        self.latency_s = latency_s
        self._timed = timed
        self._hashes = block_hashes(blocks)
        self._prepared = None if drawn else self._prepare()
        self._calls: Counter[str] = Counter()
        self._requests = 0
        self._cpu_s = time.process_time()

    def _prepare(self) -> tuple[mmap.mmap, array[int]]:
        """Write all logs into a file; return it, and where in it the logs of each block begin."""
        begins = array("Q", [0])
        with tempfile.TemporaryFile() as file:
            for number in range(FIRST_BLOCK, self.head + 1):
                file.write(self._draw(number) + b",")
                begins.append(file.tell())
            file.flush()
            return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ), begins

    def _draw(self, number: int) -> bytes:
        return block_logs(number, self._hash(number), timed=self._timed).encode()

    def _hash(self, number: int) -> str:
        return self._hashes[number - FIRST_BLOCK + 1]

    def _number(self, block_hash: str) -> int:
        return FIRST_BLOCK - 1 + self._hashes.index(block_hash[2:])

    async def serve(self, request: web.Request) -> web.Response:
        """Answer one HTTP request."""
        asked = msgspec.json.decode(await request.read())
        if self.latency_s:
            await asyncio.sleep(self.latency_s)
        self._requests += 1
        if isinstance(asked, dict):
            body = self._answer(asked)
        else:
            body = b"[" + b",".join([self._answer(call) for call in asked]) + b"]"
        return web.Response(body=body, content_type="application/json")

    def _answer(self, call: dict[str, Any]) -> bytes:
        method, params = call["method"], call.get("params", [])
        self._calls[method] += 1
        match method:
            case "eth_chainId":
                result = f'"{CHAIN_ID:#x}"'.encode()
            case "eth_syncing":
                result = b"false"
            case "eth_getCode":
                result = b'"0x6000"'
            case "eth_getBlockByNumber":
                result = self._header(params[0])
            case "eth_getBlockByHash":
                result = self._header(hex(self._number(params[0])))
            case "eth_getLogs":
                return self._logs_of(call["id"], params[0])
            case "bench_figures":
                spent = time.process_time() - self._cpu_s
                result = msgspec.json.encode({"cpu_s": spent, "http": self._requests, "calls": self._calls})
            case _:
                return _refusal(call["id"], -32601, f"the method {method} does not exist/is not available")
        return _envelope(call["id"], result)

    def _header(self, tag: str) -> bytes:
        number = {"latest": self.head, "finalized": self.head - FINALITY}.get(tag) or int(tag, 16)
        if not FIRST_BLOCK <= number <= self.head:
            return b"null"
        return header_json(number, self._hash(number), self._hashes[number - FIRST_BLOCK]).encode()

    def _logs_of(self, call_id: int, query: dict[str, Any]) -> bytes:
        if "blockHash" in query:
            first = last = self._number(query["blockHash"])
        else:
            first, last = int(query["fromBlock"], 16), int(query["toBlock"], 16)
        if last - first >= MAX_RANGE:
            return _refusal(call_id, -32600, f"eth_getLogs is limited to a {MAX_RANGE} block range")
        if (last - first + 1) * LOGS_A_BLOCK > MAX_RESULTS:
            return _refusal(call_id, -32005, f"query returned more than {MAX_RESULTS} results")
        if self._prepared is None:
            found = b",".join(map(self._draw, range(first, last + 1)))
        else:
            logs, begins = self._prepared
            found = logs[begins[first - FIRST_BLOCK] : begins[last + 1 - FIRST_BLOCK] - 1]
        return _envelope(call_id, b"[" + found + b"]")


def _envelope(call_id: int, result: bytes) -> bytes:
    return b'{"jsonrpc":"2.0","id":%d,"result":%b}' % (call_id, result)


def _refusal(call_id: int, code: int, message: str) -> bytes:
    return b'{"jsonrpc":"2.0","id":%d,"error":{"code":%d,"message":"%b"}}' % (call_id, code, message.encode())


async def _main() -> None:
    parser = argparse.ArgumentParser(prog="bench.node", description=__doc__)
    parser.add_argument("--blocks", type=int, default=20_000)
    parser.add_argument("--latency-ms", type=float, default=0)
    parser.add_argument("--untimed", action="store_true", help="logs without blockTimestamp")
    parser.add_argument("--drawn", action="store_true", help="answers are made when they are asked for")
    args = parser.parse_args()
    node = Node(args.blocks, timed=not args.untimed, latency_s=args.latency_ms / 1000, drawn=args.drawn)
    app = web.Application()
    app.router.add_post("/", node.serve)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # until the one who began it is gone


if __name__ == "__main__":
    asyncio.run(_main())
