"""uvicorn inside our event loop: our socket, our signals, no access log."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Self

import uvicorn

from indexer.errors import SettingsError
from indexer.http.routes import make_app
from indexer.http.state import HttpState, StatusReader
from indexer.stopping import STOP

_BACKLOG: Final = 128
_GRACE_S: Final = 3
"""Requests under way at the end may finish: a little longer than the longest answer takes."""

_HINTS: Final = {
    errno.EADDRINUSE: "is in use: stop the program that holds it, take another port (0: any), or set it empty (off)",
    errno.EACCES: "needs more rights: take a port from 1024 on (0: any)",
    errno.EPERM: "needs more rights: take a port from 1024 on (0: any)",
    errno.EADDRNOTAVAIL: "is no address of this machine: take 127.0.0.1, or 0.0.0.0 for all",
}
_OTHER_FAMILY: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})


class HttpServer:
    """Serves `/health`, `/ready`, `/status` and `/metrics` while its context is open."""

    def __init__(self, bind: tuple[str, int], state: HttpState) -> None:
        """`bind` is host and port, port 0 being any free one."""
        self._bind = bind
        self._reader = StatusReader(state)
        self._app = make_app(state, self._reader)
        self.address = bind
        """Host and port; the real port once the context is open."""

    @property
    def url(self) -> str:
        """The address as a URL."""
        host, port = self.address
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def __aenter__(self) -> Self:
        """Bind, then serve in a task. Raises SettingsError where the address cannot be had."""
        listener = await _listen(*self._bind)
        self.address = listener.getsockname()[:2]
        config = uvicorn.Config(
            self._app,
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=_GRACE_S,
        )
        self._server = _Server(config)
        self._listener = listener
        # The socket listens already: whoever connects before uvicorn is up waits in the backlog.
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]), name="http server")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Answer the requests under way, then close the socket."""
        self._server.config.timeout_graceful_shutdown = int(STOP.left_s(_GRACE_S))
        self._server.should_exit = True
        try:
            await self._task
        finally:
            self._reader.close()
            self._listener.close()


class _Server(uvicorn.Server):
    """Leaves the process's signals to the daemon, which knows what else has to end."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket at the first address of `host` that this machine has."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise SettingsError(f"ERC8004_HTTP_BIND = '{host}:{port}': the host name cannot be resolved") from error
    failure: OSError | None = None
    for family, _, _, _, address in found:
        try:
            return _listening(family, address)
        except OSError as error:
            failure = error
            if error.errno not in _OTHER_FAMILY:
                break
    assert failure is not None
    hint = _HINTS.get(failure.errno or 0, f"cannot be bound: {failure.strerror}")
    raise SettingsError(f"ERC8004_HTTP_BIND = '{host}:{port}': {hint}") from failure


def _listening(family: socket.AddressFamily, address: tuple[object, ...]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
