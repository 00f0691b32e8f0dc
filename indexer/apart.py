"""Work on many logs in a process of its own: while that one decodes, this one serves the database.

`python -m indexer.apart` is the process. It talks through its standard input, a socket: it says which program it is,
then answers one message after the other, and ends with the line. It keeps nothing: whatever becomes of it, the work is
done here as well.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from pathlib import Path
from struct import Struct
from typing import Any, Final, Self, TypeVar

import msgspec
import structlog

from indexer.aside import aside
from indexer.chain.codec import JSON_BYTES_A_LOG, LOGS, raw_logs
from indexer.core.rows import RowBuilder
from indexer.core.types import ChainId, Deployment, RawLog
from indexer.decoder import load_decoder
from indexer.resources import data_dir
from indexer.stopping import STOP
from indexer.store.encoding import Encoded, encode_rows
from indexer.store.rereading import BYTES_A_LOG, Reread, reread

T = TypeVar("T")

log = structlog.get_logger()

_WORTH_IT: Final = 2_000  # logs; fewer are quicker worked on than sent
_ANSWER_S: Final = 10.0  # to a task that takes less than one; the process is stopped, or starved
_LOSSES: Final = 3  # in a row, after which no process is begun for a while
_PAUSE_S: Final = 600.0
_IDLE_S: Final = 60.0  # after which the process is ended, and its memory given back
_END_S: Final = 5.0
_EXIT_S: Final = 0.2  # from the end of the line to that of the process
_GONE_S: Final = 1.0  # from SIGKILL; longer where the system itself hangs
_CPU_LIMIT: Final = Path("/sys/fs/cgroup/cpu.max")
_LENGTHS: Final = Struct(">QQ")
_BUFFER_BYTES: Final = 4 << 20  # of a socket; the system gives less where it allows less


class Chain(msgspec.Struct, array_like=True, frozen=True):
    """What is to be known of a chain to build its rows; the forms of the events are those of `abi/`."""

    chain_id: int
    deployments: tuple[Deployment, ...]

    @classmethod
    def of(cls, builder: RowBuilder) -> Chain:
        """Return what a builder was made of."""
        return cls(builder.chain_id, builder.deployments)


class ReadAnswer(msgspec.Struct, tag=True, array_like=True, gc=False):
    """Read what a node answered to eth_getLogs, the JSON that comes with it."""


class BuildRows(msgspec.Struct, tag=True, array_like=True, gc=False):
    """Build the rows of whole blocks of logs, which are in chain order."""

    chain: Chain
    logs: Sequence[RawLog]


class RereadSlice(msgspec.Struct, tag=True, array_like=True, gc=False):
    """Read a slice of the ledger again, the bytes of a COPY that come with it; `known` are its possible contracts."""

    chain: Chain
    known: frozenset[bytes]


Task = ReadAnswer | BuildRows | RereadSlice
_PACK: Final = msgspec.msgpack.Encoder().encode
_TASKS: Final = msgspec.msgpack.Decoder(Task)


class OtherProgram(Exception):
    """What lies on the disk is not what this process runs any more."""


@dataclass(slots=True)
class Apart:
    """Works on logs, on many in a process that is begun when it is needed, and again when it was lost.

    Without a second processor to run on, and where it is not `enabled`, all is done in this process. A context manager
    that ends the process.
    """

    enabled: bool = field(default_factory=lambda: _processors() > 1)
    _program: bytes = field(default_factory=lambda: PROGRAM)
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="apart"))
    _helper: _Helper | None = None
    _losses: int = 0
    _paused_until: float = 0.0
    _rest: asyncio.TimerHandle | None = None
    _leaving: bool = False

    async def logs(self, result: msgspec.Raw) -> list[RawLog] | None:
        """Read what a node answered to eth_getLogs; None where it is null, malformed, or tells of a removed block."""
        data = memoryview(result)
        count = len(data) // JSON_BYTES_A_LOG
        return await self._do(ReadAnswer(), list[RawLog] | None, count, lambda: _read_answer(data), data)

    async def rows(self, builder: RowBuilder, logs: Sequence[RawLog]) -> Encoded:
        """Return the rows of whole blocks of logs, which are in chain order; `builder` has the decoder of `abi/`."""
        task = BuildRows(Chain.of(builder), logs)
        return await self._do(task, Encoded, len(logs), lambda: encode_rows(builder.build(logs)))

    async def reread(self, builder: RowBuilder, known: frozenset[bytes], data: bytes) -> Reread:
        """Read a slice of the ledger again, as `store.rereading.reread` does; `builder` has the decoder of `abi/`."""
        task = RereadSlice(Chain.of(builder), known)
        return await self._do(task, Reread, len(data) // BYTES_A_LOG, lambda: reread(builder, known, data), data)

    def warm(self) -> None:
        """Begin the process already: many logs are to come."""
        if self.enabled:
            self._rest_later()
            self._thread.submit(self._begin)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """End the process; what it is asked for now is done here."""
        self.enabled, self._leaving = False, True
        if self._rest is not None:
            self._rest.cancel()
        ended = self._thread.submit(self._end)
        if (helper := self._helper) is not None:
            helper.hang_up()
        try:
            await asyncio.wait([asyncio.wrap_future(ended)], timeout=STOP.left_s(_END_S))
        finally:
            self._thread.shutdown(wait=False)

    async def _do(self, task: Task, answer: Any, logs: int, here: Callable[[], T], data: bytes | memoryview = b"") -> T:
        """Have a task done, with the `data` of it, whose answer is of a type; `here` does the same in this process."""
        if not self.enabled or logs < _WORTH_IT:
            return await aside(here, logs)
        self._rest_later()
        unwanted = threading.Event()
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, self._ask, task, data, answer, here, unwanted)
        except asyncio.CancelledError:
            unwanted.set()
            raise

    def _rest_later(self) -> None:
        if self._rest is not None:
            self._rest.cancel()
        self._rest = asyncio.get_running_loop().call_later(_IDLE_S, lambda: self._thread.submit(self._end))

    # --- in the thread ----------------------------------------------------------------------------------------------

    def _ask(
        self, task: Task, data: bytes | memoryview, answer: Any, here: Callable[[], T], unwanted: threading.Event
    ) -> T:
        try:
            if (helper := self._begin()) is not None:
                done: T = helper.ask(task, data, answer)
                self._losses = 0
                return done
        except Exception as error:  # noqa: BLE001 - what is wrong with the task itself shows again here
            self._lose(error)
        if unwanted.is_set():
            raise EOFError("nobody waits for it any more")
        return here()

    def _begin(self) -> _Helper | None:
        if self._helper is None and self.enabled and time.monotonic() >= self._paused_until:
            try:
                self._helper = _Helper.begin(self._program)
            except OSError as error:
                self._lose(error)
            if self._leaving:  # then nobody hangs up on this one
                self._end()
        return self._helper

    def _lose(self, error: Exception) -> None:
        code = None if self._helper is None else self._helper.exit_code()
        self._end()
        if not self.enabled:
            return
        self._losses += 1
        if isinstance(error, OtherProgram):
            self.enabled = False
        elif isinstance(error, TimeoutError) or self._losses >= _LOSSES:
            self._losses, self._paused_until = 0, time.monotonic() + _PAUSE_S
        log.warning("decoder_lost", error=repr(error), exit_code=code)

    def _end(self) -> None:
        helper, self._helper = self._helper, None
        if helper is not None:
            helper.end()


def _read_answer(result: memoryview) -> list[RawLog] | None:
    try:
        items = LOGS.decode(result)
        return None if items is None or any(item.removed for item in items) else raw_logs(items)
    except (ValueError, RecursionError):
        return None


def _processors() -> float:
    """Count the processors that this process may use."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # no such limit: not in a container, or "max"
        quota, period = map(int, _CPU_LIMIT.read_text().split())
        return min(count, quota / period)
    return count


def fingerprint() -> bytes:
    """Return what tells this program, with its event forms, from any other version of it; not what it depends on."""
    package = Path(__file__).resolve().parent
    digest = sha256(sys.version.encode())
    for path in sorted([*package.rglob("*.py"), *data_dir("abi").rglob("*.json")]):
        with suppress(OSError):  # taken away while we look: another program as well
            digest.update(path.name.encode() + path.read_bytes())
    return digest.digest()


PROGRAM: Final[bytes] = fingerprint()  # as it was when it was imported


@dataclass(slots=True)
class _Helper:
    """The process, from outside."""

    process: subprocess.Popen[bytes]
    line: socket.socket
    program: bytes
    known: bool = False

    @classmethod
    def begin(cls, program: bytes) -> _Helper:
        """Begin a process, which has to be this program. Raises OSError where the system has no room for one."""
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
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(os.path.isabs, sys.path))},
                process_group=0,  # Ctrl-C is for us
            )
            until_begun.pop_all()
        return cls(process, ours, program)

    def ask(self, task: Task, data: bytes | memoryview, answer: Any) -> Any:
        """Have a task done. Raises OSError, EOFError or MsgspecError where the process is gone or not in order."""
        if not self.known and receive(self.line)[0] != self.program:
            raise OtherProgram("the program was changed on the disk")
        self.known = True
        send(self.line, _PACK(task), data)
        return msgspec.msgpack.decode(receive(self.line)[0], type=answer)

    def hang_up(self) -> None:
        """Have whoever waits for an answer hear that none comes; from any thread."""
        with suppress(OSError):
            self.line.shutdown(socket.SHUT_RDWR)

    def exit_code(self) -> int | None:
        """Return what it ended with; None where it runs."""
        with suppress(subprocess.TimeoutExpired):
            return self.process.wait(_EXIT_S)
        return None

    def end(self) -> None:
        """End the process, whatever it is at."""
        self.line.close()
        self.process.kill()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(_GONE_S)


def send(line: socket.socket, message: bytes, data: bytes | memoryview = b"") -> None:
    """Send a message and what comes with it, behind their lengths. Raises OSError."""
    for part in (_LENGTHS.pack(len(message), len(data)), message, data):
        line.sendall(part)


def receive(line: socket.socket) -> tuple[memoryview, memoryview]:
    """Wait for a message and what comes with it. Raises EOFError where the other end is gone, or OSError."""
    message, data = _LENGTHS.unpack(_exactly(line, _LENGTHS.size))
    return _exactly(line, message), _exactly(line, data)


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
    """Do the tasks of whoever holds the other end, until that is gone."""
    decoder = load_decoder()

    @cache
    def builder_of(chain: Chain) -> RowBuilder:
        return RowBuilder(ChainId(chain.chain_id), chain.deployments, decoder)

    def answer() -> bytes:
        message, data = receive(line)
        task: Task = _TASKS.decode(message)
        match task:
            case ReadAnswer():
                return _PACK(_read_answer(data))
            case BuildRows(chain, logs):
                return _PACK(encode_rows(builder_of(chain).build(logs)))
            case RereadSlice(chain, known):
                return _PACK(reread(builder_of(chain), known, bytes(data)))

    with suppress(EOFError, OSError):
        send(line, PROGRAM)
        while True:
            send(line, answer())


if __name__ == "__main__":
    gc.disable()  # rows are in no cycles, and looking for some takes a tenth of the time
    for number in (signal.SIGINT, signal.SIGTERM):  # whoever began it ends it
        signal.signal(number, signal.SIG_IGN)
    serve(socket.socket(fileno=os.dup(0)))
