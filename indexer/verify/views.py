"""The contracts' own views, how they are called, and a question: a call whose answer the tables already claim to know.

Strings travel as bytes, which is the same on the wire: the chain takes any bytes for a string.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Final, NamedTuple

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError
from eth_hash.auto import keccak

from indexer.store.difference import Difference, shortened


class UnreadableError(Exception):
    """The answer does not have the shape of this view: another contract, or none."""


class View(NamedTuple):
    """A function of a registry. `versioned`: earlier versions give the same name another shape."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    versioned: bool

    def call_data(self, arguments: tuple[object, ...]) -> bytes:
        """Encode a call; addresses and strings are given as bytes."""
        selector = keccak(f"{self.name}({','.join(self.inputs)})".encode())[:4]
        return selector + encode(_as_bytes(self.inputs), arguments)

    def read(self, answer: bytes) -> tuple[object, ...]:
        """Decode what the contract answered; addresses and strings come as bytes. Raises UnreadableError."""
        try:
            values = decode(_as_bytes(self.outputs), answer)
        except (DecodingError, OverflowError, ValueError) as error:
            raise UnreadableError(f"{self.name} answered in another shape") from error
        return tuple(
            bytes.fromhex(value[2:]) if kind == "address" else value
            for kind, value in zip(self.outputs, values, strict=True)
        )


GET_VERSION: Final = View("getVersion", (), ("string",), versioned=False)
OWNER_OF: Final = View("ownerOf", ("uint256",), ("address",), versioned=False)
TOKEN_URI: Final = View("tokenURI", ("uint256",), ("string",), versioned=False)
AGENT_WALLET: Final = View("getAgentWallet", ("uint256",), ("address",), versioned=False)
METADATA: Final = View("getMetadata", ("uint256", "string"), ("bytes",), versioned=False)
LAST_INDEX: Final = View("getLastIndex", ("uint256", "address"), ("uint64",), versioned=True)
FEEDBACK: Final = View(
    "readFeedback",
    ("uint256", "address", "uint64"),
    ("int128", "uint8", "string", "string", "bool"),
    versioned=True,
)
SUMMARY: Final = View(
    "getSummary", ("uint256", "address[]", "string", "string"), ("uint64", "int128", "uint8"), versioned=True
)
RESPONSE_COUNT: Final = View(
    "getResponseCount", ("uint256", "address", "uint64", "address[]"), ("uint64",), versioned=True
)
VALIDATION_STATUS: Final = View(
    "getValidationStatus",
    ("bytes32",),
    ("address", "uint256", "uint8", "bytes32", "string", "uint256"),
    versioned=True,
)
VALIDATION_SUMMARY: Final = View("getSummary", ("uint256", "address[]", "string"), ("uint64", "uint8"), versioned=True)


@dataclass(frozen=True)
class Question:
    """A call to the contract `to`, and what the tables say it will answer.

    `stored` names a column for each value of the answer, in their order; the last ones may be left out, as not
    compared. `doubt` says why it cannot be asked, where the tables know so themselves.
    """

    view: View
    to: bytes
    arguments: tuple[object, ...]
    table: str
    key: str
    stored: Mapping[str, object]
    doubt: str | None = None

    @cached_property
    def data(self) -> bytes:
        """The call, encoded."""
        return self.view.call_data(self.arguments)

    def differences(self, answer: bytes) -> list[Difference]:
        """Compare the contract's answer, value by value. Raises UnreadableError."""
        values = self.view.read(answer)
        return [
            Difference(self.table, self.key, column, _shown(kind, held), _shown(kind, value))
            for (column, held), kind, value in zip(self.stored.items(), self.view.outputs, values, strict=False)
            if held != value
        ]

    def refused(self, words: str) -> Difference:
        """Report that the contract reverts where the tables hold an answer."""
        (column, held), kind = next(iter(self.stored.items())), self.view.outputs[0]
        return Difference(self.table, self.key, column, _shown(kind, held), shortened(f"{self.view.name} {words}"))


def _as_bytes(kinds: tuple[str, ...]) -> list[str]:
    return [kind.replace("string", "bytes") for kind in kinds]


def _shown(kind: str, value: object) -> str | None:
    match value:
        case None:
            return None
        case bytes() if kind == "string":
            return shortened(_text(value))
        case bytes():
            return shortened(f"0x{value.hex()}")
        case bool():
            return str(value).lower()
        case Decimal():
            return str(int(value))
        case _:
            return shortened(str(value))


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return f"0x{value.hex()}"
