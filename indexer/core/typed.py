"""Typed rows: for each event that changes state, the row it leaves, compiled once a form.

A maker is called for millions of logs: it knows the places of its values, looks nothing up by name, and asks no form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

from eth_hash.auto import keccak

from indexer.core.abi import EventForm
from indexer.core.decode import text_of

Row = tuple[object, ...]
Tables = dict[str, list[Row]]
Values = Sequence[Any]  # of the types that the form's fields have
Text = tuple[str | None, bytes | None]  # as PostgreSQL can hold it, and its bytes where that lost something

# The reserved key, compared as bytes: no trimming, no case folding (ERC-8004 identity registry, `setMetadata`).
WALLET_KEY: Final = b"agentWallet"
_ZERO_ADDRESS: Final = bytes(20)
_EMPTY_TAG_HASH: Final = keccak(b"")


@dataclass(slots=True)
class _Mint:
    """What a call-back wrote between an agent's mint and its Registered (section 4, re-entrancy)."""

    wallet_written: bool = False
    uri_written: bool = False


@dataclass(slots=True)
class Block:
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


@dataclass(slots=True)
class Here:
    """The log that is on its way now: `position` is the start of its row; `agent` None where the event names none."""

    tables: Tables
    position: Row = ()
    agent: UUID | None = None
    log_index: int = -1
    address: bytes = b""
    block: Block = field(default_factory=Block)


Maker = Callable[[Here, Values], None]
"""Add the row of one log to its table, given the event's values in ABI order."""


def maker_of(form: EventForm) -> Maker | None:
    """Return the maker of a form's rows; None where the event has no table of its own."""
    compile_maker = _COMPILED.get(form.event)
    return None if compile_maker is None else compile_maker(form, {one.name: at for at, one in enumerate(form.fields)})


_Places = Mapping[str, int]


def _first(places: _Places, *names: str) -> int | None:
    """Find a value by the names that it has had; None where this form lacks it."""
    return next((places[name] for name in names if name in places), None)


def _text_at(place: int | None, default: Text = ("", None)) -> Callable[[Values], Text]:
    if place is None:
        return lambda _: default
    return lambda values: text_of(values[place])


def _value_at(place: int | None, default: object) -> Callable[[Values], Any]:
    if place is None:
        return lambda _: default
    return lambda values: values[place]


def _tag_at(form: EventForm, places: _Places, name: str) -> Callable[[Values], tuple[str | None, bytes | None, Any]]:
    """Return what reads text, raw bytes and hash of a tag in whatever way the form carries it."""
    at = places[name]
    declared = form.fields[at]
    if declared.type == "bytes32":
        return lambda values: (*_bytes32_text(values[at]), None)
    if declared.indexed:
        return lambda values: ("" if values[at] == _EMPTY_TAG_HASH else None, None, values[at])
    clear_hash = _value_at(places.get(f"indexedTag{name[-1]}"), None)
    return lambda values: (*text_of(values[at]), clear_hash(values))


def _bytes32_text(value: bytes) -> tuple[str, bytes | None]:
    """Read a bytes32 tag of the oldest forms: NUL-padded text, else its 32 bytes beside the attempt."""
    text, lost = text_of(value.rstrip(b"\0"))
    return text, None if lost is None else value


def _transfer(_: EventForm, places: _Places) -> Maker:
    giver, taker = places["from"], places["to"]

    def add(here: Here, values: Values) -> None:
        assert here.agent is not None
        here.tables["transfers"].append((*here.position, here.agent, values[giver], values[taker]))
        if values[giver] == _ZERO_ADDRESS:
            here.block.mints[here.agent] = _Mint()
        elif (mint := here.block.mints.get(here.agent)) is not None:
            mint.wallet_written = True  # a transfer clears the wallet

    return add


def _registered(_: EventForm, places: _Places) -> Maker:
    owner, uri = places["owner"], places["agentURI"]

    def add(here: Here, values: Values) -> None:
        assert here.agent is not None
        mint = here.block.mints.pop(here.agent, None)
        applies = bool(values[uri]) or mint is None or not mint.uri_written
        here.tables["uris"].append((*here.position, here.agent, True, values[owner], *text_of(values[uri]), applies))
        if mint is not None and mint.wallet_written:
            here.block.stale_wallets.add((here.log_index + 1, here.agent))

    return add


def _uri_updated(_: EventForm, places: _Places) -> Maker:
    uri, actor = _text_at(_first(places, "newURI", "newUri")), places["updatedBy"]

    def add(here: Here, values: Values) -> None:
        assert here.agent is not None
        here.tables["uris"].append((*here.position, here.agent, False, values[actor], *uri(values), True))
        if (mint := here.block.mints.get(here.agent)) is not None:
            mint.uri_written = True

    return add


def _metadata_set(_: EventForm, places: _Places) -> Maker:
    key_of = _value_at(_first(places, "metadataKey", "key"), b"")
    value_of = _value_at(_first(places, "metadataValue", "value"), b"")

    def add(here: Here, values: Values) -> None:
        assert here.agent is not None
        key = key_of(values)
        is_wallet = key == WALLET_KEY
        applies = not (is_wallet and (here.log_index, here.agent) in here.block.stale_wallets)
        here.tables["metadata_writes"].append((
            *here.position, here.agent, sha256(key).digest(), *text_of(key), value_of(values), is_wallet, applies,
        ))  # fmt: skip
        if is_wallet and (mint := here.block.mints.get(here.agent)) is not None:
            mint.wallet_written = True

    return add


def _approval(_: EventForm, places: _Places) -> Maker:
    owner, approved = places["owner"], places["approved"]

    def add(here: Here, values: Values) -> None:
        here.tables["approvals"].append((*here.position, here.agent, values[owner], values[approved]))

    return add


def _approval_for_all(_: EventForm, places: _Places) -> Maker:
    owner, operator, approved = places["owner"], places["operator"], places["approved"]

    def add(here: Here, values: Values) -> None:
        row = (*here.position, here.address, values[owner], values[operator], values[approved])
        here.tables["operator_approvals"].append(row)

    return add


def _new_feedback(form: EventForm, places: _Places) -> Maker:
    client, file_hash = places["clientAddress"], places["feedbackHash"]
    has_index, index = "feedbackIndex" in places, _value_at(places.get("feedbackIndex"), 0)
    value = places["value"] if "value" in places else places["score"]
    decimals = _value_at(places.get("valueDecimals"), 0)
    tag1, tag2 = _tag_at(form, places, "tag1"), _tag_at(form, places, "tag2")
    endpoint = _text_at(places.get("endpoint"), (None, None))
    uri = _text_at(_first(places, "feedbackURI", "feedbackUri"))

    def add(here: Here, values: Values) -> None:
        here.tables["feedback"].append((
            *here.position, here.agent, here.address, values[client], index(values), has_index, values[value],
            decimals(values), *tag1(values), *tag2(values)[:2], *endpoint(values), *uri(values), values[file_hash],
        ))  # fmt: skip

    return add


def _feedback_revoked(_: EventForm, places: _Places) -> Maker:
    client, index = places["clientAddress"], places["feedbackIndex"]

    def add(here: Here, values: Values) -> None:
        row = (*here.position, here.agent, here.address, values[client], values[index])
        here.tables["revocations"].append(row)

    return add


def _response_appended(_: EventForm, places: _Places) -> Maker:
    client, index, responder = places["clientAddress"], places["feedbackIndex"], places["responder"]
    uri, response_hash = (
        _text_at(_first(places, "responseURI", "responseUri")),
        _value_at(places.get("responseHash"), None),
    )

    def add(here: Here, values: Values) -> None:
        here.tables["feedback_responses"].append((
            *here.position, here.agent, here.address, values[client], values[index], values[responder],
            *uri(values), response_hash(values),
        ))  # fmt: skip

    return add


def _validation_request(_: EventForm, places: _Places) -> Maker:
    request_hash, validator, uri = places["requestHash"], places["validatorAddress"], places["requestURI"]

    def add(here: Here, values: Values) -> None:
        here.tables["validation_requests"].append((
            *here.position, here.agent, here.address, values[request_hash], values[validator],
            *text_of(values[uri]),
        ))  # fmt: skip

    return add


def _validation_response(form: EventForm, places: _Places) -> Maker:
    request_hash, validator, response = places["requestHash"], places["validatorAddress"], places["response"]
    uri, response_hash = (
        _text_at(_first(places, "responseURI", "responseUri")),
        _value_at(places.get("responseHash"), None),
    )
    tag = _tag_at(form, places, "tag")

    def add(here: Here, values: Values) -> None:
        here.tables["validation_responses"].append((
            *here.position, here.agent, here.address, values[request_hash], values[validator], values[response],
            *uri(values), response_hash(values), *tag(values)[:2],
        ))  # fmt: skip

    return add


_COMPILED: Final[Mapping[str, Callable[[EventForm, _Places], Maker]]] = {
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
