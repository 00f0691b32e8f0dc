"""The sample registries of the demo: their artifacts, their addresses, and calls to them.

Sources and compile script: tests/contracts. Calls are encoded with `string` written as `bytes`, which is
the same on the wire, so that arguments may be any bytes, as they may on a real chain.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from eth_abi.abi import decode, encode
from eth_hash.auto import keccak

from indexer.core.types import Deployment
from indexer.demo.anvil import AnvilNode
from indexer.errors import Fatal

# The deterministic deployment proxy that anvil puts into every new chain: addresses follow from code and salt.
FACTORY = bytes.fromhex("4e59b44847b379578588920ca78fbf26c0b4956c")
GAS = 10_000_000  # limit of one transaction; enough for every call of the demo
_GAS_PRICE = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Artifact:
    """A compiled contract. `deployed_bytecode` is only fit for `anvil_setCode` where nothing is immutable."""

    abi: list[dict[str, Any]]
    bytecode: bytes
    deployed_bytecode: bytes


@dataclass(frozen=True, slots=True)
class Registries:
    """Addresses of the sample contracts, 20 bytes each; `admin` owns them and is the chain's first account."""

    admin: bytes
    identity: bytes
    reputation: bytes
    validation: tuple[bytes, ...]
    registrants: tuple[bytes, ...]

    @property
    def deployment(self) -> Deployment:
        """Return them as the indexer is configured with them.

        Block 0 is left out: anvil makes another one whenever it starts on a kept chain.
        """
        return Deployment(self.identity, self.reputation, self.validation, start_block=1)


@cache
def artifact(name: str) -> Artifact:
    """Return the compiled contract `identity`, `reputation`, `validation`, `registrant` or `emitter`."""
    raw = json.loads((Path(__file__).parent / "artifacts" / f"{name}.json").read_text())
    return Artifact(raw["abi"], _bytes(raw["bytecode"]), _bytes(raw["deployed_bytecode"]))


def selector(signature: str) -> bytes:
    """Return the first four bytes of the hash of `name(type,…)`."""
    return keccak(signature.encode())[:4]


def call_data(signature: str, *arguments: object) -> bytes:
    """Encode a call of `name(type,…)`; a `string` may be given as text or as any bytes."""
    return selector(signature) + encode_values(_argument_types(signature), arguments)


def encode_values(types: list[str], values: tuple[object, ...]) -> bytes:
    """Encode values of ABI types; text becomes UTF-8."""
    return encode([kind.replace("string", "bytes") for kind in types], [_no_text(value) for value in values])


async def view(
    node: AnvilNode, to: bytes, signature: str, returns: list[str], *arguments: object, block: object = "latest"
) -> tuple[Any, ...]:
    """Read from a contract; a returned `string` comes as bytes. Raises RpcError where the call reverts."""
    call = {"to": _hex(to), "data": _hex(call_data(signature, *arguments))}
    answer = await node.rpc("eth_call", [call, block])
    return decode([kind.replace("string", "bytes") for kind in returns], _bytes(answer))


async def accounts(node: AnvilNode) -> list[bytes]:
    """Return the chain's accounts, which sign without being asked."""
    return [_bytes(account) for account in await node.rpc("eth_accounts")]


async def send(node: AnvilNode, sender: bytes, to: bytes, data: bytes, nonce: int | None = None) -> str:
    """Hand in a transaction and return its hash; it is executed by the next block and may revert there."""
    call = {"from": _hex(sender), "to": _hex(to), "data": _hex(data), "gas": hex(GAS), "gasPrice": hex(_GAS_PRICE)}
    if nonce is not None:
        call["nonce"] = hex(nonce)
    return str(await node.rpc("eth_sendTransaction", [call]))


async def deploy(node: AnvilNode, *, salt: int = 0, validations: int = 2, registrants: int = 2) -> Registries:
    """Deploy a set of registries, each at an address that follows from `salt`; those that exist are kept.

    Mines one block. Raises Fatal where a contract has no code afterwards.
    """
    admin = (await accounts(node))[0]
    identity = await _create(node, admin, "identity", salt, admin)
    reputation = await _create(node, admin, "reputation", salt, admin, identity)
    checks = [await _create(node, admin, "validation", salt + n, admin, identity) for n in range(validations)]
    actors = [await _create(node, admin, "registrant", salt + n) for n in range(registrants)]
    await node.mine()
    for address in (identity, reputation, *checks, *actors):
        if not await has_code(node, address):
            raise Fatal("the sample registries could not be deployed on the local chain")
    return Registries(admin, identity, reputation, tuple(checks), tuple(actors))


async def place_emitter(node: AnvilNode, address: bytes) -> None:
    """Put the contract that emits any log at `address`, over what is there."""
    await node.rpc("anvil_setCode", [_hex(address), _hex(artifact("emitter").deployed_bytecode)])


def emit_logs(*logs: tuple[tuple[bytes, ...], bytes]) -> bytes:
    """Encode the call that makes the emitter emit `logs`, each (topics, data), in order."""
    return call_data("emitMany((bytes32[],bytes)[])", logs)


async def has_code(node: AnvilNode, address: bytes) -> bool:
    """Tell whether a contract lives at `address`."""
    return bool(await node.rpc("eth_getCode", [_hex(address), "latest"]) != "0x")


async def _create(node: AnvilNode, admin: bytes, name: str, salt: int, *arguments: bytes) -> bytes:
    code = artifact(name).bytecode + encode(["address"] * len(arguments), arguments)
    salted = salt.to_bytes(32, "big")
    address = keccak(b"\xff" + FACTORY + salted + keccak(code))[12:]
    if not await has_code(node, address):
        await send(node, admin, FACTORY, salted + code)
    return address


def _argument_types(signature: str) -> list[str]:
    """Split the types of `name(type,…)` at the commas that stand outside of tuples."""
    types, depth = [""], 0
    for char in signature[signature.index("(") + 1 : -1]:
        depth += (char == "(") - (char == ")")
        if char == "," and depth == 0:
            types.append("")
        else:
            types[-1] += char
    return [kind for kind in types if kind]


def _no_text(value: object) -> object:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, list | tuple):
        return type(value)(_no_text(item) for item in value)
    return value


def _hex(value: bytes) -> str:
    return f"0x{value.hex()}"


def _bytes(value: str) -> bytes:
    return bytes.fromhex(value[2:])
