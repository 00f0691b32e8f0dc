"""From raw logs to rows: a ledger row for every log, a typed row for every event that changes state.

Pure: the same logs give the same rows, whoever fetched them and however they were split into batches of whole blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import md5, sha256
from typing import Final
from uuid import UUID

import msgspec
from eth_hash.auto import keccak

from indexer.core.abi import EventForm, Registry, Value
from indexer.core.decode import Decoder, Defect, Event, event_args, text_of
from indexer.core.types import ChainId, Deployment, RawLog

Row = tuple[object, ...]

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
TYPED_TABLES: Final = tuple(table for table in COLUMNS if table != "logs")

# The reserved key, compared as bytes: no trimming, no case folding (ERC-8004 identity registry, `setMetadata`).
WALLET_KEY: Final = b"agentWallet"
_ZERO_ADDRESS: Final = bytes(20)
_EMPTY_TAG_HASH: Final = keccak(b"")
_AGENT_FIELDS: Final = ("agentId", "tokenId", "_tokenId")


@dataclass(slots=True)
class Rows:
    """Rows by table, in the order of COLUMNS and of the chain; `undecodable` counts ledger rows without an event."""

    tables: dict[str, list[Row]] = field(default_factory=lambda: {table: [] for table in COLUMNS})
    undecodable: int = 0

    def __getitem__(self, table: str) -> list[Row]:
        """Return the rows of one table."""
        return self.tables[table]


@dataclass(slots=True)
class _Mint:
    """What a call-back wrote between an agent's mint and its Registered (section 4, re-entrancy)."""

    wallet_written: bool = False
    uri_written: bool = False


@dataclass(slots=True)
class _Block:
    """What the rules of re-entrancy have to remember, within one block."""

    number: int = -1
    mints: dict[UUID, _Mint] = field(default_factory=dict)
    # Position after a Registered at which a wallet was announced that the call-back had already changed.
    stale_wallets: set[tuple[int, UUID]] = field(default_factory=set)

    def enter(self, number: int) -> None:
        """Forget the block before: a mint and its Registered share a transaction."""
        if number != self.number:
            self.number = number
            self.mints.clear()
            self.stale_wallets.clear()


@dataclass(frozen=True, slots=True)
class _Contract:
    """An address of the settings: the roles it plays and the identity registry its agent ids belong to."""

    roles: frozenset[Registry]
    identity: bytes


Args = dict[str, Value]
_Context = tuple[Rows, Row, UUID | None, RawLog, Args, EventForm, _Block]


def agent_uuid(chain_id: int, identity: bytes, agent_id: int) -> UUID:
    """Return the agent's key, the same in every database: md5 of `eip155:<chain_id>:<identity registry>:<agent_id>`."""
    name = f"eip155:{chain_id}:0x{identity.hex()}:{agent_id}"
    return UUID(bytes=md5(name.encode(), usedforsecurity=False).digest())


class RowBuilder:
    """Builds the rows of one chain's logs.

    Addresses that belong to no deployment do not occur: the source refuses them (fault F9).
    """

    def __init__(self, chain_id: ChainId, deployments: Sequence[Deployment], decoder: Decoder) -> None:
        self._chain_id = chain_id
        self._decoder = decoder
        self._contracts = _contracts(deployments)
        self._agents: dict[tuple[bytes, int], UUID] = {}

    @property
    def addresses(self) -> frozenset[bytes]:
        """Every contract whose logs can be given."""
        return frozenset(self._contracts)

    def build(self, logs: Iterable[RawLog]) -> Rows:
        """Return the rows of whole blocks of logs, which are in chain order."""
        rows = Rows()
        block = _Block()
        when = _Clock()
        for log in logs:
            block.enter(log.block_number)
            self._add(rows, log, block, when(log.timestamp))
        return rows

    def _add(self, rows: Rows, log: RawLog, block: _Block, timestamp: datetime) -> None:
        contract = self._contracts[log.address]
        decoded = self._decoder.decode(log, contract.roles)
        position = (self._chain_id, log.block_number, log.log_index, timestamp)
        if isinstance(decoded, Defect):
            rows.undecodable += 1
            rows.tables["logs"].append(_ledger_row(position, log, None, None, None, None, None, decoded.code))
            return
        args = dict(zip((f.name for f in decoded.form.fields), decoded.values, strict=True))
        agent_id = next((args[name] for name in _AGENT_FIELDS if name in args), None)
        agent = None if agent_id is None else self._agent(contract.identity, int(agent_id))
        rows.tables["logs"].append(_event_row(position, log, agent, agent_id, decoded))
        add = _TYPED.get(decoded.form.event)
        if add is not None:
            add((rows, position, agent, log, args, decoded.form, block))

    def _agent(self, identity: bytes, agent_id: int) -> UUID:
        key = (identity, agent_id)
        known = self._agents.get(key)
        if known is None:
            if len(self._agents) >= 100_000:  # bounded: an entry is some 200 bytes
                self._agents.clear()
            known = self._agents[key] = agent_uuid(self._chain_id, identity, agent_id)
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


def _event_row(position: Row, log: RawLog, agent: UUID | None, agent_id: object, event: Event) -> Row:
    args = msgspec.json.encode(event_args(event)).decode()
    marks = ",".join(event.marks) or None
    return _ledger_row(position, log, agent, agent_id, event.form.event, event.form.version, args, marks)


def _text(value: Value) -> tuple[str, bytes | None]:
    assert isinstance(value, bytes)
    return text_of(value)


def _bytes32_text(value: bytes) -> tuple[str, bytes | None]:
    """Read a bytes32 tag of the oldest forms: NUL-padded text, else its 32 bytes beside the attempt."""
    text, lost = text_of(value.rstrip(b"\0"))
    return text, None if lost is None else value


def _tag(args: Args, form: EventForm, name: str) -> tuple[str | None, bytes | None, bytes | None]:
    """Return text, raw bytes and hash of a tag in whatever way the form carries it."""
    value = args[name]
    assert isinstance(value, bytes)
    declared = next(f for f in form.fields if f.name == name)
    if declared.type == "bytes32":
        return (*_bytes32_text(value), None)
    if declared.indexed:
        return ("" if value == _EMPTY_TAG_HASH else None), None, value
    clear_hash = args.get(f"indexedTag{name[-1]}")
    return (*text_of(value), clear_hash if isinstance(clear_hash, bytes) else None)


def _transfer(context: _Context) -> None:
    rows, position, agent, _, args, _, block = context
    assert agent is not None
    rows.tables["transfers"].append((*position, agent, args["from"], args["to"]))
    if args["from"] == _ZERO_ADDRESS:
        block.mints[agent] = _Mint()
    elif (mint := block.mints.get(agent)) is not None:
        mint.wallet_written = True  # a transfer clears the wallet


def _registered(context: _Context) -> None:
    rows, position, agent, log, args, _, block = context
    assert agent is not None
    mint = block.mints.pop(agent, _Mint())
    applies = bool(args["agentURI"]) or not mint.uri_written
    rows.tables["uris"].append((*position, agent, True, args["owner"], *_text(args["agentURI"]), applies))
    if mint.wallet_written:
        block.stale_wallets.add((log.log_index + 1, agent))


def _uri_updated(context: _Context) -> None:
    rows, position, agent, _, args, _, block = context
    assert agent is not None
    uri = _text(args.get("newURI", args.get("newUri", b"")))
    rows.tables["uris"].append((*position, agent, False, args["updatedBy"], *uri, True))
    if (mint := block.mints.get(agent)) is not None:
        mint.uri_written = True


def _metadata_set(context: _Context) -> None:
    rows, position, agent, log, args, _, block = context
    assert agent is not None
    key = args.get("metadataKey", args.get("key", b""))
    value = args.get("metadataValue", args.get("value", b""))
    assert isinstance(key, bytes)
    is_wallet = key == WALLET_KEY
    applies = not (is_wallet and (log.log_index, agent) in block.stale_wallets)
    key_hash = sha256(key).digest()
    rows.tables["metadata_writes"].append((*position, agent, key_hash, *text_of(key), value, is_wallet, applies))
    if is_wallet and (mint := block.mints.get(agent)) is not None:
        mint.wallet_written = True


def _approval(context: _Context) -> None:
    rows, position, agent, _, args, _, _ = context
    rows.tables["approvals"].append((*position, agent, args["owner"], args["approved"]))


def _approval_for_all(context: _Context) -> None:
    rows, position, _, log, args, _, _ = context
    row = (*position, log.address, args["owner"], args["operator"], args["approved"])
    rows.tables["operator_approvals"].append(row)


def _new_feedback(context: _Context) -> None:
    rows, position, agent, log, args, form, _ = context
    tag1, tag1_raw, tag1_hash = _tag(args, form, "tag1")
    tag2, tag2_raw, _ = _tag(args, form, "tag2")
    endpoint, endpoint_raw = _text(args["endpoint"]) if "endpoint" in args else (None, None)
    uri = _text(args.get("feedbackURI", args.get("feedbackUri", b"")))
    rows.tables["feedback"].append((
        *position, agent, log.address, args["clientAddress"], args.get("feedbackIndex", 0), "feedbackIndex" in args,
        args["value"] if "value" in args else args["score"], args.get("valueDecimals", 0),
        tag1, tag1_raw, tag1_hash, tag2, tag2_raw, endpoint, endpoint_raw, *uri, args["feedbackHash"],
    ))  # fmt: skip


def _feedback_revoked(context: _Context) -> None:
    rows, position, agent, log, args, _, _ = context
    row = (*position, agent, log.address, args["clientAddress"], args["feedbackIndex"])
    rows.tables["revocations"].append(row)


def _response_appended(context: _Context) -> None:
    rows, position, agent, log, args, _, _ = context
    uri = _text(args.get("responseURI", args.get("responseUri", b"")))
    rows.tables["feedback_responses"].append((
        *position, agent, log.address, args["clientAddress"], args["feedbackIndex"], args["responder"], *uri,
        args.get("responseHash"),
    ))  # fmt: skip


def _validation_request(context: _Context) -> None:
    rows, position, agent, log, args, _, _ = context
    uri = _text(args["requestURI"])
    row = (*position, agent, log.address, args["requestHash"], args["validatorAddress"], *uri)
    rows.tables["validation_requests"].append(row)


def _validation_response(context: _Context) -> None:
    rows, position, agent, log, args, form, _ = context
    uri = _text(args.get("responseURI", args.get("responseUri", b"")))
    tag, tag_raw, _ = _tag(args, form, "tag")
    rows.tables["validation_responses"].append((
        *position, agent, log.address, args["requestHash"], args["validatorAddress"], args["response"], *uri,
        args.get("responseHash"), tag, tag_raw,
    ))  # fmt: skip


_TYPED: Final[Mapping[str, Callable[[_Context], None]]] = {
    "Transfer": _transfer,
    "Registered": _registered,
    "URIUpdated": _uri_updated,
    "UriUpdated": _uri_updated,
    "MetadataSet": _metadata_set,
    "Approval": _approval,
    "ApprovalForAll": _approval_for_all,
    "NewFeedback": _new_feedback,
    "FeedbackRevoked": _feedback_revoked,
    "ResponseAppended": _response_appended,
    "ValidationRequest": _validation_request,
    "ValidationResponse": _validation_response,
}
