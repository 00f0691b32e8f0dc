"""The connection to Valkey or Redis: single server, TLS, unix socket or cluster, found out by asking it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final, Self
from urllib.parse import urlsplit

from hiredis import pack_command
from redis.asyncio import ConnectionPool, Redis, RedisCluster
from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.connection import HiredisRespSerializer
from redis.exceptions import AuthenticationError, NoPermissionError, RedisClusterException, RedisError

from indexer.errors import Retryable, SettingsError

_CONNECT_TIMEOUT_S: Final = 5.0
# The longest single answer is the EXEC of some thousand commands: tens of milliseconds.
_ANSWER_TIMEOUT_S: Final = 10.0
# The cluster's own errors stand apart from RedisError.
_FAULTS: Final = (RedisError, RedisClusterException, OSError)


class ValkeyUnavailable(Retryable):
    """Valkey cannot be reached, is still loading, is full or dropped the connection."""


class Valkey:
    """Clients of one server, or of the cluster behind it.

    All keys of a chain share a slot, so a chain needs one node and an ordinary client; the cluster's map says which.
    """

    def __init__(self, url: str) -> None:
        """Read the address; nothing is connected yet. Raises SettingsError where it cannot be read."""
        self.host = _host(url)
        self._url = url
        # No retries inside the driver: the publisher's own begin again from what Valkey then says.
        options = {"socket_timeout": _ANSWER_TIMEOUT_S, "socket_connect_timeout": _CONNECT_TIMEOUT_S}
        try:
            self._options: dict[str, Any] = {**options, **parse_url(url), "retry": Retry(NoBackoff(), 0)}
            self._seed = self._client(self._options)
        except (ValueError, TypeError) as error:
            raise SettingsError(f"VALKEY_URL: not a Valkey address ({type(error).__name__})") from None
        # None: not asked yet. Through a unix socket only that one node can be reached, cluster or not.
        self._is_cluster: bool | None = False if "path" in self._options else None
        self._cluster: RedisCluster | None = None
        self._map_is_old = False
        self._nodes: dict[tuple[str, int], Redis] = {}

    async def __aenter__(self) -> Self:
        """Return itself; connections are made when first used."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close every connection."""
        await self.close()

    async def close(self) -> None:
        """Close every connection; the next use opens new ones."""
        await self._forget_cluster()
        await self._seed.aclose(close_connection_pool=True)

    async def ping(self) -> None:
        """Raise SettingsError where the server refuses us, ValkeyUnavailable where it does not answer."""
        async with self._translated():
            await self._seed.ping()

    @asynccontextmanager
    async def holding(self, key: str) -> AsyncIterator[Redis]:
        """Yield a client of the node that holds `key`. Errors inside leave as SettingsError or ValkeyUnavailable."""
        async with self._translated():
            yield await self._node_of(key)

    async def _node_of(self, key: str) -> Redis:
        if self._cluster is None and self._is_cluster is None:
            info = await self._seed.info("cluster")
            self._is_cluster = bool(info.get("cluster_enabled"))
        if not self._is_cluster:
            return self._seed
        node = (await self._map()).get_node_from_key(key)
        if node is None:
            raise RedisClusterException("no node of the cluster holds the slot of this chain's keys")
        address = (str(node.host), int(node.port))
        if address not in self._nodes:
            self._nodes[address] = self._client({**self._options, "host": address[0], "port": address[1]})
        return self._nodes[address]

    async def _map(self) -> RedisCluster:
        """Return the cluster's map, drawn anew after a fault with the help of any node met before."""
        if self._cluster is None:
            timeouts = {name: self._options[name] for name in ("socket_timeout", "socket_connect_timeout")}
            self._cluster = RedisCluster.from_url(self._url, require_full_coverage=False, **timeouts)
            self._map_is_old = True
        if self._map_is_old:
            try:
                await self._cluster.aclose()
                await self._cluster.initialize()
            except (*_FAULTS, IndexError) as error:  # the last: not a single slot is given to a node yet
                await self._forget_cluster()
                raise RedisClusterException(f"the cluster cannot be read: {error}") from error
            self._map_is_old = False
        return self._cluster

    @staticmethod
    def _client(options: dict[str, Any]) -> Redis:
        pool = ConnectionPool(
            **{**options, "connection_class": _packing_in_c(options.get("connection_class", Connection))}
        )
        pool.connection_class(**pool.connection_kwargs)  # an unknown option in the address shows here
        return Redis(connection_pool=pool)

    @asynccontextmanager
    async def _translated(self) -> AsyncIterator[None]:
        try:
            yield
        except _FAULTS as error:
            if (refusal := _refusal(error)) is not None:
                raise SettingsError(f"VALKEY_URL: the server at {self.host} refuses: {refusal}") from error
            self._map_is_old = True  # the slot may have moved
            if self._cluster is None and "path" not in self._options:
                self._is_cluster = None  # another server may answer next time
            raise ValkeyUnavailable(f"Valkey at {self.host}: {type(error).__name__}: {error}") from error

    async def _forget_cluster(self) -> None:
        if self._cluster is not None:
            await self._cluster.aclose()
            self._cluster, self._is_cluster = None, None
        for client in self._nodes.values():
            await client.aclose(close_connection_pool=True)
        self._nodes.clear()


def _packing_in_c(connection_class: type[AbstractConnection]) -> type[AbstractConnection]:
    """Return the class with the packer that redis-py itself uses in its blocking client: many times as fast."""
    serialize = HiredisRespSerializer().pack

    class Packing(connection_class):  # type: ignore[misc, valid-type]  # TCP, TLS or unix socket
        def pack_command(self, *args: Any) -> list[bytes]:
            packed: list[bytes] = serialize(*args)
            return packed

        def pack_commands(self, commands: Iterable[tuple[Any, ...]]) -> list[bytes]:
            # Names may be of two words, as in XINFO STREAM; Valkey wants each by itself.
            return [b"".join([pack_command((*name.split(), *arguments)) for name, *arguments in commands])]

    return Packing


def _refusal(error: BaseException | None) -> BaseException | None:
    """Find a refusal among the causes: what a new connection is refused with comes wrapped as a fault of transport."""
    while error is not None and not isinstance(error, (AuthenticationError, NoPermissionError)):
        error = error.__context__  # set with every cause too
    return error


def _host(url: str) -> str:
    return urlsplit(url).hostname or "local socket"
