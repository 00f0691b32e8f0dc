"""What the traffic must know of the chain to act sensibly: a small fold over its logs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from eth_hash.auto import keccak

_K = TypeVar("_K")
_V = TypeVar("_V")
_KEPT = 500  # the traffic goes on for days; what is older is left alone

_TRANSFER = keccak(b"Transfer(address,address,uint256)")
_FEEDBACK = keccak(b"NewFeedback(uint256,address,uint64,int128,uint8,string,string,string,string,string,bytes32)")
_REVOKED = keccak(b"FeedbackRevoked(uint256,address,uint64)")
_REQUEST = keccak(b"ValidationRequest(address,uint256,string,bytes32)")


@dataclass(frozen=True, slots=True)
class FeedbackId:
    """A feedback by its three coordinates."""

    agent_id: int
    client: bytes
    index: int


@dataclass(frozen=True, slots=True)
class Request:
    """A validation request and who may answer it."""

    registry: bytes
    request_hash: bytes
    validator: bytes


@dataclass(slots=True)
class World:
    """Owners by agent, feedback with whether it is revoked, and requests, as of one block."""

    owners: dict[int, bytes] = field(default_factory=dict)
    feedback: dict[FeedbackId, bool] = field(default_factory=dict)
    requests: dict[Request, None] = field(default_factory=dict)
    logs: int = 0

    def copy(self) -> World:
        """Return a copy that later blocks do not change."""
        return World(dict(self.owners), dict(self.feedback), dict(self.requests), self.logs)

    def apply(self, log: Mapping[str, Any]) -> None:
        """Take in one log of the registries, as JSON-RPC gives it."""
        self.logs += 1
        topics = [bytes.fromhex(topic[2:]) for topic in log["topics"]]
        match topics:
            case [topic0, _, to, agent] if topic0 == _TRANSFER:
                _keep(self.owners, int.from_bytes(agent), to[12:])
            case [topic0, agent, client, _] if topic0 == _FEEDBACK:
                index = int(log["data"][2:66], 16)
                _keep(self.feedback, FeedbackId(int.from_bytes(agent), client[12:], index), False)
            case [topic0, agent, client, index] if topic0 == _REVOKED:
                found = FeedbackId(int.from_bytes(agent), client[12:], int.from_bytes(index))
                _keep(self.feedback, found, True)
            case [topic0, validator, _, request] if topic0 == _REQUEST:
                registry = bytes.fromhex(log["address"][2:])
                _keep(self.requests, Request(registry, request, validator[12:]), None)
            case _:
                pass


def _keep(entries: dict[_K, _V], key: _K, value: _V) -> None:
    entries[key] = value
    if len(entries) > _KEPT:
        del entries[next(iter(entries))]
