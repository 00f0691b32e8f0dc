"""From raw logs to rows: a ledger row for every log, a typed row for every event that changes state.

Pure: the same logs give the same rows, whoever fetched them and however they were split into batches of whole blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import md5
from typing import Final
from uuid import UUID

from indexer.core.abi import EventForm, Registry
from indexer.core.decode import Decoder, Defect, Event, args_of
from indexer.core.typed import Here, Maker, Row, maker_of
from indexer.core.types import ChainId, Deployment, RawLog

_POSITION: Final = ("chain_id", "block_number", "log_index", "block_timestamp")
COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "logs": (
        "chain_id", "block_number", "log_index", "tx_index", "block_timestamp", "agent_uuid", "agent_id", "address",
        "block_hash", "tx_hash", "topics", "data", "event", "event_version", "args", "defect",
    ),
    "transfers": (*_POSITION, "agent_uuid", "from_address", "to_address"),
    "uris": (*_POSITION, "agent_uuid", "is_registration", "actor", "token_uri", "token_uri_raw", "applies"),
    "metadata_writes": (*_POSITION, "agent_uuid", "key_hash", "key", "key_raw", "value", "is_wallet", "applies"),
    "approvals": (*_POSITION, "agent_uuid", "owner", "approved"),
    "operator_approvals": (*_POSITION, "registry", "owner", "operator", "approved"),
    "feedback": (
        *_POSITION, "agent_uuid", "registry", "client", "feedback_index", "has_index", "value_raw", "value_decimals",
        "tag1", "tag1_raw", "tag1_hash", "tag2", "tag2_raw", "endpoint", "endpoint_raw", "file_uri", "file_uri_raw",
        "file_hash",
    ),
    "revocations": (*_POSITION, "agent_uuid", "registry", "client", "feedback_index"),
    "feedback_responses": (
        *_POSITION, "agent_uuid", "registry", "client", "feedback_index", "responder", "response_uri",
        "response_uri_raw", "response_hash",
    ),
    "validation_requests": (
        *_POSITION, "agent_uuid", "registry", "request_hash", "validator", "request_uri", "request_uri_raw",
    ),
    "validation_responses": (
        *_POSITION, "agent_uuid", "registry", "request_hash", "validator", "response", "response_uri",
        "response_uri_raw", "response_hash", "tag", "tag_raw",
    ),
}  # fmt: skip
_AGENT: Final = COLUMNS["logs"].index("agent_uuid")
TYPED_TABLES: Final = tuple(table for table in COLUMNS if table != "logs")

_AGENT_FIELDS: Final = ("agentId", "tokenId", "_tokenId")


@dataclass(slots=True)
class Rows:
    """Rows by table, in the order of COLUMNS and of the chain.

    `undecodable` counts ledger rows without an event; of the first one `undecoded` tells block and defect.
    """

    tables: dict[str, list[Row]] = field(default_factory=lambda: {table: [] for table in COLUMNS})
    undecodable: int = 0
    undecoded: tuple[int, str] | None = None

    def __getitem__(self, table: str) -> list[Row]:
        """Return the rows of one table."""
        return self.tables[table]

    @property
    def agents(self) -> list[UUID]:
        """Return the agents that any log names, each once, in order of their keys."""
        return sorted(agent for agent in {row[_AGENT] for row in self.tables["logs"]} if isinstance(agent, UUID))


@dataclass(frozen=True, slots=True)
class _Contract:
    """An address of the settings: the roles it plays and the identity registry its agent ids belong to."""

    roles: frozenset[Registry]
    identity: bytes


@dataclass(frozen=True, slots=True)
class _Shape:
    """What is made of the events of one form: which value is the agent's id, the arguments as JSON, the typed row."""

    agent: int | None
    args: Callable[[Event], str]
    make: Maker | None


def agent_uuid(chain_id: int, identity: bytes, agent_id: int) -> UUID:
    """Return the agent's key, the same in every database: md5 of `eip155:<chain_id>:<identity registry>:<agent_id>`."""
    name = f"eip155:{chain_id}:0x{identity.hex()}:{agent_id}"
    return UUID(bytes=md5(name.encode(), usedforsecurity=False).digest())


class RowBuilder:
    """Builds the rows of one chain's logs.

    Addresses that belong to no deployment do not occur: the source refuses them (fault F9).
    """

    def __init__(self, chain_id: ChainId, deployments: Sequence[Deployment], decoder: Decoder) -> None:
        self.chain_id = chain_id
        self.deployments = tuple(deployments)
        self._decoder = decoder
        self._contracts = _contracts(deployments)
        self._shapes: dict[bytes, _Shape] = {}
        self._agents: dict[tuple[bytes, int], UUID] = {}

    @property
    def addresses(self) -> frozenset[bytes]:
        """Every contract whose logs can be given."""
        return frozenset(self._contracts)

    def build(self, logs: Iterable[RawLog]) -> Rows:
        """Return the rows of whole blocks of logs, which are in chain order."""
        rows = Rows()
        here = Here(rows.tables)
        when = _Clock()
        for log in logs:
            here.block.enter(log.block_number)
            self._add(rows, log, here, when(log.timestamp))
        return rows

    def _add(self, rows: Rows, log: RawLog, here: Here, timestamp: datetime) -> None:
        contract = self._contracts[log.address]
        decoded = self._decoder.decode(log, contract.roles)
        position = (self.chain_id, log.block_number, log.log_index, timestamp)
        ledger = rows.tables["logs"]
        if isinstance(decoded, Defect):
            rows.undecodable += 1
            rows.undecoded = rows.undecoded or (log.block_number, decoded.code)
            ledger.append(_ledger_row(position, log, None, None, None, None, None, decoded.code))
            return
        form = decoded.form
        shape = self._shapes.get(form.topic0) or self._shape(form)
        agent_id = agent = None
        if shape.agent is not None:
            agent_id = int(decoded.values[shape.agent])
            agent = self._agent(contract.identity, agent_id)
        args = shape.args(decoded)
        marks = ",".join(decoded.marks) or None
        ledger.append(_ledger_row(position, log, agent, agent_id, form.event, form.version, args, marks))
        if shape.make is not None:
            here.position, here.agent, here.log_index, here.address = position, agent, log.log_index, log.address
            shape.make(here, decoded.values)

    def _shape(self, form: EventForm) -> _Shape:
        place = next((at for at, one in enumerate(form.fields) if one.name in _AGENT_FIELDS), None)
        shape = self._shapes[form.topic0] = _Shape(place, args_of(form), maker_of(form))
        return shape

    def _agent(self, identity: bytes, agent_id: int) -> UUID:
        key = (identity, agent_id)
        known = self._agents.get(key)
        if known is None:
            if len(self._agents) >= 20_000:  # bounded: an entry is some 200 bytes
                self._agents.clear()
            known = self._agents[key] = agent_uuid(self.chain_id, identity, agent_id)
        return known


class _Clock:
    """Seconds since 1970 to datetime; logs of one block share the object."""

    def __init__(self) -> None:
        self._seconds = -1
        self._datetime = datetime.fromtimestamp(0, UTC)

    def __call__(self, seconds: int) -> datetime:
        if seconds != self._seconds:
            self._seconds = seconds
            self._datetime = datetime.fromtimestamp(seconds, UTC)
        return self._datetime


def _contracts(deployments: Sequence[Deployment]) -> dict[bytes, _Contract]:
    roles: dict[bytes, set[Registry]] = {}
    identities: dict[bytes, bytes] = {}
    for deployment in deployments:
        plays: list[tuple[bytes, Registry]] = [
            (deployment.identity, "identity"),
            (deployment.reputation, "reputation"),
            *((address, "validation") for address in deployment.validation),
        ]
        for address, role in plays:
            roles.setdefault(address, set()).add(role)
            identities.setdefault(address, deployment.identity)
    return {address: _Contract(frozenset(plays), identities[address]) for address, plays in roles.items()}


def _ledger_row(
    position: Row,
    log: RawLog,
    agent: UUID | None,
    agent_id: object,
    event: str | None,
    version: str | None,
    args: str | None,
    defect: str | None,
) -> Row:
    chain_id, block_number, log_index, timestamp = position
    return (
        chain_id, block_number, log_index, log.tx_index, timestamp, agent, agent_id, log.address, log.block_hash,
        log.tx_hash, b"".join(log.topics), log.data, event, version, args, defect,
    )  # fmt: skip
