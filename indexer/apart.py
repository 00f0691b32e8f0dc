"""Work on many logs in a process of its own: while that one decodes, this one serves the database.

`python -m indexer.apart` is the process. It talks through its standard input, a socket, one message either way for each
task, and ends with it. It keeps nothing: whatever becomes of it, the work is done here as well.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from struct import Struct
from typing import Any, Final, Protocol, Self, TypeVar

import msgspec
import structlog

from indexer.aside import aside
from indexer.chain.codec import LOGS, raw_logs
from indexer.core.rows import RowBuilder
from indexer.core.types import ChainId, Deployment, RawLog
from indexer.decoder import load_decoder
from indexer.store.encoding import Encoded, encode_rows
from indexer.store.rereading import BYTES_A_LOG, Reread, reread

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

log = structlog.get_logger()

_WORTH_IT: Final = 2_000  # logs; fewer are quicker worked on than sent
_ANSWER_S: Final = 30.0  # to a task that takes a tenth of a second; the process is stopped, or starved
_LOSSES: Final = 3  # in a row, after which no further process is begun
_IDLE_S: Final = 60.0  # after which the process is ended, and its memory given back
_LENGTH: Final = Struct(">Q")
_BUFFER_BYTES: Final = 4 << 20  # of a socket; the system gives less where it allows less


class Chain(msgspec.Struct, array_like=True, frozen=True):
    """What is to be known of a chain to build its rows."""

    chain_id: int
    deployments: tuple[Deployment, ...]


Builders = Callable[[Chain], RowBuilder]


class Answer(msgspec.Struct, tag=True, array_like=True, gc=False):
    """What a node answered to eth_getLogs, as JSON."""

    result: memoryview

    def done(self, _: Builders) -> list[RawLog] | None:
        """Return its logs; None where it is null, malformed, or tells of a removed block."""
        try:
            items = LOGS.decode(self.result)
            return None if items is None or any(item.removed for item in items) else raw_logs(items)
        except (ValueError, RecursionError):
            return None


class Fetched(msgspec.Struct, tag=True, array_like=True, gc=False):
    """Logs of whole blocks, in chain order, whose rows are wanted."""

    chain: Chain
    logs: Sequence[RawLog]

    def done(self, builders: Builders) -> Encoded:
        """Build and encode the rows."""
        return encode_rows(builders(self.chain).build(self.logs))


class Stored(msgspec.Struct, tag=True, array_like=True, gc=False):
    """What COPY sent of a slice of the ledger, to be read again; `known` are the contracts that may stand in it."""

    chain: Chain
    known: frozenset[bytes]
    data: bytes

    def done(self, builders: Builders) -> Reread:
        """Read it again."""
        return reread(builders(self.chain), self.known, self.data)


class Work(Protocol[T_co]):
    """One of these."""

    def done(self, builders: Builders) -> T_co:
        """Do it, in any thread or process."""


_PACK: Final = msgspec.msgpack.Encoder().encode
_WORK: Final = msgspec.msgpack.Decoder(Answer | Fetched | Stored)


@dataclass(slots=True)
class Apart:
    """Works on logs, on many in a process that is begun when it is needed, and again when it was lost.

    Without a second processor to run on, and where it is not `enabled`, all is done in this process.
    """

    enabled: bool = field(default_factory=lambda: _processors() > 1)
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="apart"))
    _helper: _Helper | None = None
    _losses: int = 0
    _rest: asyncio.TimerHandle | None = None

    async def rows(self, builder: RowBuilder, logs: Sequence[RawLog]) -> Encoded:
        """Return the rows of whole blocks of logs, which are in chain order."""
        return await self._do(Fetched(_chain(builder), logs), Encoded, len(logs), lambda _: builder)

    async def reread(self, builder: RowBuilder, known: frozenset[bytes], data: bytes) -> Reread:
        """Read a slice of the ledger again, as `store.rereading.reread` does."""
        work = Stored(_chain(builder), known, data)
        return await self._do(work, Reread, len(data) // BYTES_A_LOG, lambda _: builder)

    async def logs(self, result: msgspec.Raw) -> list[RawLog] | None:
        """Read what a node answered to eth_getLogs; None where it is null, malformed, or tells of a removed block."""
        work = Answer(memoryview(result))
        return await self._do(work, list[RawLog] | None, len(work.result) // BYTES_A_LOG, _no_builder)

    def warm(self) -> None:
        """Begin the process already: many logs are to come."""
        if self.enabled:
            self._rest_later()
            self._thread.submit(self._begin)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """End the process; what it is asked for now is done here."""
        self.enabled = False
        if self._rest is not None:
            self._rest.cancel()
        if self._helper is not None:
            self._helper.hang_up()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._end)
        self._thread.shutdown(wait=False)

    async def _do(self, work: Work[T], answer: Any, logs: int, builders: Builders) -> T:
        """Have the work done, whose answer is of a type; `builders` are for work that is done here."""
        if not self.enabled or logs < _WORTH_IT:
            return await aside(lambda: work.done(builders), logs)
        self._rest_later()
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._ask, work, answer, builders)

    def _rest_later(self) -> None:
        if self._rest is not None:
            self._rest.cancel()
        self._rest = asyncio.get_running_loop().call_later(_IDLE_S, lambda: self._thread.submit(self._end))

    # --- in the thread ----------------------------------------------------------------------------------------------

    def _ask(self, work: Work[T], answer: Any, builders: Builders) -> T:
        try:
            if (helper := self._begin()) is not None:
                done: T = helper.ask(work, answer)
                self._losses = 0
                return done
        except (OSError, EOFError, msgspec.MsgspecError) as error:
            self._lose(error)
        return work.done(builders)

    def _begin(self) -> _Helper | None:
        if self._helper is None and self.enabled:
            try:
                self._helper = _Helper.begin()
            except OSError as error:
                self._lose(error)
        return self._helper

    def _lose(self, error: Exception) -> None:
        self._end()
        if not self.enabled:
            return
        self._losses += 1
        self.enabled = self._losses < _LOSSES
        log.warning("decoder_lost", error=repr(error), again=self.enabled)

    def _end(self) -> None:
        helper, self._helper = self._helper, None
        if helper is not None:
            helper.end()


def _chain(builder: RowBuilder) -> Chain:
    return Chain(builder.chain_id, builder.deployments)


def _no_builder(_: Chain) -> RowBuilder:
    raise AssertionError("an answer is read without")


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class _Helper:
    """The process, from outside."""

    process: subprocess.Popen[bytes]
    line: socket.socket

    @classmethod
    def begin(cls) -> _Helper:
        """Raise OSError where the system has no room for a process."""
        root = Path(__file__).resolve().parents[1]  # nothing is imported from the folder that we were started in
        ours, theirs = socket.socketpair()
        with theirs, ExitStack() as until_begun:
            until_begun.enter_context(ours)
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
            ours.settimeout(_ANSWER_S)
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "indexer.apart"],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # what goes wrong there goes wrong here too, and is told here
                env={**os.environ, "PYTHONPATH": str(root)},
                process_group=0,  # Ctrl-C is for us
            )
            until_begun.pop_all()
        return cls(process, ours)

    def ask(self, work: Work[T], answer: Any) -> Any:
        """Have work done. Raises OSError, EOFError or MsgspecError where the process is gone or not in order."""
        send(self.line, _PACK(work))
        return msgspec.msgpack.decode(receive(self.line), type=answer)

    def hang_up(self) -> None:
        """Have whoever waits for an answer hear that none comes; from any thread."""
        with suppress(OSError):
            self.line.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        """End the process, whatever it is at."""
        self.line.close()
        self.process.kill()
        self.process.wait()


def send(line: socket.socket, message: bytes) -> None:
    """Send a message behind its length. Raises OSError."""
    line.sendall(_LENGTH.pack(len(message)))
    line.sendall(message)


def receive(line: socket.socket) -> memoryview:
    """Wait for a message. Raises EOFError where the other end is gone, or OSError."""
    (length,) = _LENGTH.unpack(_exactly(line, _LENGTH.size))
    return _exactly(line, length)


def _exactly(line: socket.socket, length: int) -> memoryview:
    whole = memoryview(bytearray(length))
    got = 0
    while got < length:
        some = line.recv_into(whole[got:])
        if not some:
            raise EOFError("the other end is gone")
        got += some
    return whole


def serve(line: socket.socket) -> None:
    """Do the work of whoever holds the other end, until that is gone."""

    @cache
    def builder_of(chain: Chain) -> RowBuilder:
        return RowBuilder(ChainId(chain.chain_id), chain.deployments, decoder)

    decoder = load_decoder()
    with suppress(EOFError, OSError):
        while True:
            send(line, _PACK(_WORK.decode(receive(line)).done(builder_of)))


if __name__ == "__main__":
    gc.disable()  # rows are in no cycles, and looking for some takes a tenth of the time
    for number in (signal.SIGINT, signal.SIGTERM):  # whoever began it ends it
        signal.signal(number, signal.SIG_IGN)
    serve(socket.socket(fileno=os.dup(0)))
