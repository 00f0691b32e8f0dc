"""Recorded data of the real chains, where it lies beside the project: as logs to serve, and as facts to compare."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from eth_abi.abi import decode, encode
from eth_hash.auto import keccak
from msgspec import structs
from simulator.logs import SimLog, form_log, import_logs_json

from indexer.core.chains import MAINNET
from indexer.core.types import Deployment, RawLog

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data" / "real"
TRANSFER = bytes.fromhex("ddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef")
BASE_START_BLOCK = 41_663_783


@dataclass(frozen=True, slots=True)
class UriWrite:
    """One Registered or URIUpdated, decoded by eth-abi; `uri` in raw bytes, `actor` the indexed address."""

    agent_id: int
    uri: bytes
    actor: str
    log: RawLog
    is_registration: bool


def ethereum_uris() -> list[UriWrite]:
    """Read the recorded raw logs of the identity registry on Ethereum, in chain order."""
    document = json.loads((FOLDER / "flowmcp_mainnet_event_logs.json").read_text())
    found = [
        UriWrite(
            agent_id=int.from_bytes(log.topics[1]),
            uri=decode(["bytes"], log.data)[0],  # a string is encoded alike, and need not be UTF-8
            actor=hexed(log.topics[2][12:]),
            log=log,
            is_registration=key == "registeredLogs",
        )
        for key in ("registeredLogs", "uriUpdatedLogs")
        for log in import_logs_json(document[key])
    ]
    return sorted(found, key=lambda one: (one.log.block_number, one.log.log_index))


def mints(uris: Iterable[UriWrite]) -> list[RawLog]:
    """Add what the recording leaves out: the Transfer from zero that precedes each Registered in its transaction."""
    taken = {(one.log.block_number, one.log.log_index) for one in uris}
    return [
        structs.replace(
            one.log,
            log_index=one.log.log_index - 1,
            topics=(TRANSFER, bytes(32), one.log.topics[2], one.log.topics[1]),
            data=b"",
        )
        for one in uris
        if one.is_registration and (one.log.block_number, one.log.log_index - 1) not in taken
    ]


def catalog() -> dict[int, dict[str, Any]]:
    """Read what a catalogue of Ethereum's agents says of them, by agent id; without its failed look-ups."""
    with gzip.open(FOLDER / "catalog_agents.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    return {row["id"]: row for row in rows if row.get("chain") == "ethereum" and row.get("registeredBlock")}


def table(name: str) -> list[dict[str, str]]:
    """Read a CSV file, addresses in lower case."""
    with (FOLDER / name).open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{key: _lowered(value) for key, value in row.items()} for row in rows]


def base_requests() -> list[dict[str, str]]:
    """Read the validation requests on Base."""
    return table("joya_validation_requests_base.csv")


def base_responses() -> list[dict[str, str]]:
    """Read the validation responses on Base."""
    return table("joya_validation_responses_base.csv")


def base_revocations() -> list[dict[str, str]]:
    """Read the revocations on Base. They have neither log index nor time; those of `base_logs` are made up."""
    return table("joya_revoked_base.csv")


def base_deployment() -> Deployment:
    """Return the official registries with every contract that emitted a validation event."""
    contracts = sorted({row["contract"] for row in base_requests() + base_responses()})
    return Deployment(MAINNET.identity, MAINNET.reputation, tuple(map(octets, contracts)), BASE_START_BLOCK)


def base_logs() -> list[RawLog]:
    """Encode everything recorded on Base as logs, in chain order."""
    placed = [(row, int(row["logIndex"]), _request(row)) for row in base_requests()]
    placed += [(row, int(row["logIndex"]), _response(row)) for row in base_responses()]
    taken = {(row["blockNumber"], log_index) for row, log_index, _ in placed}
    seconds = _seconds_at(base_requests())
    for row in base_revocations():
        log_index = next(n for n in count() if (row["blockNumber"], n) not in taken)
        taken.add((row["blockNumber"], log_index))
        timed = {**row, "timestamp": str(seconds + 2 * int(row["blockNumber"]))}
        placed.append((timed, log_index, _revocation(row)))
    placed.sort(key=lambda one: (int(one[0]["blockNumber"]), one[1]))
    return _in_transactions([_raw_log(row, log_index, log) for row, log_index, log in placed])


def octets(text: str) -> bytes:
    """Decode `0x…`."""
    return bytes.fromhex(text[2:])


def hexed(value: bytes) -> str:
    """Encode as `0x…`."""
    return f"0x{value.hex()}"


def _lowered(value: str) -> str:
    return value.lower() if value.startswith("0x") else value


def _seconds_at(rows: Sequence[dict[str, str]]) -> int:
    """Return the time of Base's block 0: a block is two seconds, as all recorded times agree."""
    found = {int(row["timestamp"]) - 2 * int(row["blockNumber"]) for row in rows}
    assert len(found) == 1
    return found.pop()


def _request(row: dict[str, str]) -> SimLog:
    values = (row["validatorAddress"], int(row["agentId"]), row["requestURI"], octets(row["requestHash"]))
    return form_log(octets(row["contract"]), "validation/validation_request", *values)


def _response(row: dict[str, str]) -> SimLog:
    key = (row["validatorAddress"], int(row["agentId"]), octets(row["requestHash"]))
    answer = (int(row["response"]), row["responseURI"], octets(row["responseHash"]), row["tag"])
    return form_log(octets(row["contract"]), "validation/validation_response", *key, *answer)


def _revocation(row: dict[str, str]) -> SimLog:
    values = (int(row["agentId"]), row["clientAddress"], int(row["feedbackIndex"]))
    return form_log(MAINNET.reputation, "reputation/feedback_revoked", *values)


def _raw_log(row: dict[str, str], log_index: int, log: SimLog) -> RawLog:
    number = int(row["blockNumber"])
    block_hash = keccak(b"base" + encode(["uint64"], [number]))
    return RawLog(
        number,
        log_index,
        block_hash,
        octets(row["txHash"]),
        0,
        log.address,
        log.topics,
        log.data,
        int(row["timestamp"]),
    )


def _in_transactions(logs: Sequence[RawLog]) -> list[RawLog]:
    """Give each transaction its number: in each block, in the order of the logs."""
    numbers: dict[tuple[int, bytes], int] = {}
    for log in logs:
        before = sum(block == log.block_number for block, _ in numbers)
        numbers.setdefault((log.block_number, log.tx_hash), before)
    return [structs.replace(log, tx_index=numbers[log.block_number, log.tx_hash]) for log in logs]
