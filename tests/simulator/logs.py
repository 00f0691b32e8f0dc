"""Logs for the simulated chain: from a human-readable signature, an ABI item, a form of `abi/`, or recorded JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eth_abi.abi import encode
from eth_hash.auto import keccak

from indexer.core.types import RawLog
from indexer.resources import data_dir

_STATIC = re.compile(r"(u?int\d*|address|bool|bytes\d+)")


@dataclass(frozen=True, slots=True)
class SimLog:
    """What a contract emits. Neighbours with the same `tx_hash` share a transaction; None: one of its own.

    Giving the hash puts the same transaction into another block after a reorg.
    """

    address: bytes
    topics: tuple[bytes, ...]
    data: bytes = b""
    tx_hash: bytes | None = None


def abi_log(address: bytes, event: Mapping[str, Any], *values: object, tx_hash: bytes | None = None) -> SimLog:
    """Encode an event by its ABI item; `values` in the order of its inputs, strings as str or raw bytes.

    An indexed string or bytes becomes its keccak hash, as Solidity does.
    """
    inputs: Sequence[Mapping[str, Any]] = event["inputs"]
    if len(inputs) != len(values):
        raise ValueError(f"{event['name']} takes {len(inputs)} values, not {len(values)}")
    topics = [] if event.get("anonymous") else [keccak(_signature(event).encode())]
    types, plain = [], []
    for field, value in zip(inputs, values, strict=True):
        kind = "bytes" if field["type"] == "string" else field["type"]  # same encoding, and takes invalid UTF-8
        raw = value.encode() if isinstance(value, str) and field["type"] == "string" else value
        if not field.get("indexed"):
            types.append(kind)
            plain.append(raw)
        elif _STATIC.fullmatch(kind):
            topics.append(encode([kind], [raw]))
        else:
            topics.append(keccak(raw))  # type: ignore[arg-type]  # only strings and bytes are indexed here
    return SimLog(address, tuple(topics), encode(types, plain), tx_hash)


def _signature(event: Mapping[str, Any]) -> str:
    return f"{event['name']}({','.join(field['type'] for field in event['inputs'])})"


def event_log(address: bytes, signature: str, *values: object, tx_hash: bytes | None = None) -> SimLog:
    """Encode an event given as Solidity writes it: `Registered(uint256 indexed agentId, string uri, …)`."""
    name, _, rest = signature.partition("(")
    inputs = []
    for parameter in filter(None, (part.strip() for part in rest.rstrip(")").split(","))):
        words = parameter.split()
        inputs.append({"type": words[0], "indexed": "indexed" in words, "name": words[-1]})
    return abi_log(address, {"name": name, "inputs": inputs}, *values, tx_hash=tx_hash)


def form_log(address: bytes, form: str, *values: object, tx_hash: bytes | None = None) -> SimLog:
    """Encode an event by one of the files under `abi/`, named like `reputation/new_feedback`."""
    event: Mapping[str, Any] = json.loads((data_dir("abi") / f"{form}.json").read_text())["event"]
    return abi_log(address, event, *values, tx_hash=tx_hash)


def import_logs_json(items: Iterable[Mapping[str, Any]]) -> list[RawLog]:
    """Turn recorded logs (numbers as integers or hex, no block time) into RawLog for `SimChain.import_logs`.

    Their `timestamp` is 0, which the chain replaces by the time of the derived block.
    """
    return [
        RawLog(
            block_number=_number(item["blockNumber"]),
            log_index=_number(item["logIndex"]),
            block_hash=bytes.fromhex(item["blockHash"][2:]),
            tx_hash=bytes.fromhex(item["transactionHash"][2:]),
            tx_index=_number(item["transactionIndex"]),
            address=bytes.fromhex(item["address"][2:]),
            topics=tuple(bytes.fromhex(topic[2:]) for topic in item["topics"]),
            data=bytes.fromhex(item["data"][2:]),
            timestamp=0,
        )
        for item in items
    ]


def _number(value: int | str) -> int:
    return value if isinstance(value, int) else int(value, 16)
