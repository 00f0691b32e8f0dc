"""The sample registries behave as the official contracts do: logs, their order, and what the views say."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from eth_abi.abi import decode
from eth_hash.auto import keccak

from indexer.demo.actions import wallet_digest, wallet_request
from indexer.demo.anvil import AnvilNode, anvil, find_anvil
from indexer.demo.contracts import (
    Registries,
    accounts,
    artifact,
    call_data,
    deploy,
    emit_logs,
    place_emitter,
    send,
    view,
)
from indexer.errors import RpcError

ZERO = bytes(20)
SUMMARY = "getSummary(uint256,address[],string,string)"
SUMMARY_RESULT = ["uint64", "int128", "uint8"]
FEEDBACK = "giveFeedback(uint256,int128,uint8,string,string,string,string,bytes32)"
WALLET_KEY = keccak(b"agentWallet")

TOPICS = {
    "Registered(uint256,string,address)": "ca52e62c367d81bb2e328eb795f7c7ba24afb478408a26c0e201d155c449bc4a",
    "URIUpdated(uint256,string,address)": "3a2c7fffc2cba7582c690e3b82c453ea02a308326a98a3ad7576c606336409fb",
    "MetadataSet(uint256,string,string,bytes)": "2c149ed548c6d2993cd73efe187df6eccabe4538091b33adbd25fafdb8a1468b",
    "Transfer(address,address,uint256)": "ddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef",
    "Approval(address,address,uint256)": "8c5be1e5ebec7d5bd14f71427d1e84f3dd0314c0f7b2291e5b200ac8c7c3b925",
    "ApprovalForAll(address,address,bool)": "17307eab39ab6107e8899845ad3d59bd9653f200f220920489ca2b5937696c31",
    "MetadataUpdate(uint256)": "f8e1a15aba9398e019f0b49df1a4fde98ee17ae345cb5f6b5e2c27f5033e8ce7",
    "BatchMetadataUpdate(uint256,uint256)": "6bd5c950a8d8df17f772f5af37cb3655737899cbf903264b9795592da439661c",
    "EIP712DomainChanged()": "0a6387c9ea3628b88a633bb4f3b151770f70085117a15f9bf3787cda53f13d31",
    "NewFeedback(uint256,address,uint64,int128,uint8,string,string,string,string,string,bytes32)": (
        "6a4a61743519c9d648a14e6493f47dbe3ff1aa29e7785c96c8326a205e58febc"
    ),
    "FeedbackRevoked(uint256,address,uint64)": "25156fd3288212246d8b008d5921fde376c71ed14ac2e072a506eb06fde6d09d",
    "ResponseAppended(uint256,address,uint64,address,string,bytes32)": (
        "b1c6be0b5b8aef6539e2fac0fd131a2faa7b49edf8e505b5eb0ad487d56051d4"
    ),
    "ValidationRequest(address,uint256,string,bytes32)": (
        "530436c3634a98e1e626b0898be2f1e9980cc1bd2a78c07a0aba52d0a48a5059"
    ),
    "ValidationResponse(address,uint256,bytes32,uint8,string,bytes32,string)": (
        "afddf629e874ccc3963b6a888c477bd464a6c8525024fc88759ea3b2326349ae"
    ),
    "Upgraded(address)": "bc7cd75a20ee27fd9adebab32041f755214dbc6bffa90cc0225b39da2e5c2d3b",
    "OwnershipTransferred(address,address)": "8be0079c531659141344cd1fd0a4f28419497f9722a3daafe3b4186f6b6457e0",
    "Initialized(uint64)": "c7f505b2f371ae2175ee4913f4499e1f2633a7b5936321eed1cdaeb6115181d2",
}
NAMES = {topic: signature.partition("(")[0] for signature, topic in TOPICS.items()}
SELECTORS = {
    "identity": {"6352211e", "c87b56dd", "00339509", "cb4799f2", "0d8e6e2c"},
    "reputation": {"81bbba58", "42dd519c", "f2d81759", "232b0810", "d9d84224", "bc4d861b", "0d8e6e2c"},
    "validation": {"1b7cabd6", "bc4d861b", "0d8e6e2c"},
}


@dataclass
class Chain:
    """The local chain with the registries, and the shorthands of the tests."""

    node: AnvilNode
    registries: Registries
    accounts: list[bytes]

    async def do(self, sender: bytes, to: bytes, data: bytes) -> list[dict[str, Any]]:
        """Execute one call in a block of its own and return its logs; a revert fails the test."""
        receipt = await self._receipt(sender, to, data)
        assert receipt["status"] == "0x1"
        return list(receipt["logs"])

    async def reverts(self, sender: bytes, to: bytes, data: bytes) -> bool:
        receipt = await self._receipt(sender, to, data)
        return bool(receipt["status"] == "0x0")

    async def _receipt(self, sender: bytes, to: bytes, data: bytes) -> dict[str, Any]:
        tx_hash = await send(self.node, sender, to, data)
        await self.node.mine()
        receipt: dict[str, Any] = await self.node.rpc("eth_getTransactionReceipt", [tx_hash])
        return receipt

    async def identity(self, sender: bytes, signature: str, *arguments: object) -> list[dict[str, Any]]:
        return await self.do(sender, self.registries.identity, call_data(signature, *arguments))

    async def read(self, signature: str, returns: str, *arguments: object) -> Any:
        return (await view(self.node, self.registries.identity, signature, [returns], *arguments))[0]

    async def wallet(self, agent_id: int) -> bytes:
        return bytes.fromhex((await self.read("getAgentWallet(uint256)", "address", agent_id))[2:])

    async def owner(self, agent_id: int) -> bytes:
        return bytes.fromhex((await self.read("ownerOf(uint256)", "address", agent_id))[2:])

    async def rate(self, client: bytes, value: int, decimals: int, tag1: str = "", tag2: str = "") -> None:
        data = call_data(FEEDBACK, 0, value, decimals, tag1, tag2, "", "", bytes(32))
        await self.do(client, self.registries.reputation, data)

    async def summary(self, *clients: bytes, tag1: str = "", tag2: str = "") -> tuple[Any, ...]:
        return await view(self.node, self.registries.reputation, SUMMARY, SUMMARY_RESULT, 0, clients, tag1, tag2)


@pytest.fixture
async def chain() -> AsyncIterator[Chain]:
    """Give each test a new chain with the registries."""
    async with anvil(find_anvil()) as node:
        yield Chain(node, await deploy(node), await accounts(node))


def names(logs: list[dict[str, Any]]) -> list[str]:
    """Return the names of the events, in order."""
    return [NAMES[log["topics"][0][2:]] for log in logs]


def metadata(log: dict[str, Any]) -> tuple[bytes, bytes]:
    """Return key and value of a MetadataSet, whose topic must be the key's hash."""
    key, value = decode(["bytes", "bytes"], bytes.fromhex(log["data"][2:]))
    assert log["topics"][2] == f"0x{keccak(key).hex()}"
    return key, value


def test_events_have_the_official_topics() -> None:
    """Every event of the current form exists, under its hash and with its indexed parameters."""
    events = [item for name in SELECTORS for item in artifact(name).abi if item["type"] == "event"]
    signatures = {f"{e['name']}({','.join(p['type'] for p in e['inputs'])})" for e in events}

    assert signatures == set(TOPICS)
    assert all(keccak(signature.encode()).hex() == topic for signature, topic in TOPICS.items())


@pytest.mark.parametrize("name", SELECTORS)
def test_views_have_the_official_selectors(name: str) -> None:
    """What `verify` asks a real contract, ours answers too."""
    functions = [item for item in artifact(name).abi if item["type"] == "function"]
    signatures = [f"{f['name']}({','.join(p['type'] for p in f['inputs'])})" for f in functions]

    assert {keccak(signature.encode())[:4].hex() for signature in signatures} >= SELECTORS[name]


async def test_registration_logs_come_in_the_official_order(chain: Chain) -> None:
    """All three forms; the first agent is number 0; entries keep their order and may repeat a key."""
    _, alice, *_ = chain.accounts

    plain = await chain.identity(alice, "register()")
    with_uri = await chain.identity(alice, "register(string)", "")
    entries = [("k", b"1"), ("agentWallet\0", b""), ("", b"x"), ("k", b"2")]
    with_entries = await chain.identity(alice, "register(string,(string,bytes)[])", b"\xff\0", entries)

    assert names(plain) == ["Transfer", "Registered", "MetadataSet"]
    assert names(with_uri) == ["Transfer", "MetadataUpdate", "Registered", "MetadataSet"]
    assert names(with_entries) == [*names(with_uri), *["MetadataSet"] * 4]
    assert [int(logs[0]["topics"][3], 16) for logs in (plain, with_uri, with_entries)] == [0, 1, 2]
    assert metadata(plain[2]) == (b"agentWallet", alice)
    assert [metadata(log)[0] for log in with_entries[4:]] == [b"k", b"agentWallet\0", b"", b"k"]
    assert await chain.read("getMetadata(uint256,string)", "bytes", 2, "k") == b"2"
    assert await chain.read("tokenURI(uint256)", "string", 2) == b"\xff\0"
    assert await chain.wallet(2) == await chain.owner(2) == alice


async def test_the_wallet_key_is_reserved_byte_for_byte(chain: Chain) -> None:
    """Only the eleven bytes themselves are refused."""
    _, alice, *_ = chain.accounts
    await chain.identity(alice, "register()")

    for key in ("AgentWallet", "agentWallet ", "agentWallet\0"):
        await chain.identity(alice, "setMetadata(uint256,string,bytes)", 0, key, b"v")

    data = call_data("setMetadata(uint256,string,bytes)", 0, "agentWallet", b"v")
    assert await chain.reverts(alice, chain.registries.identity, data)
    data = call_data("register(string,(string,bytes)[])", "", [("agentWallet", b"v")])
    assert await chain.reverts(alice, chain.registries.identity, data)


@pytest.mark.parametrize("to_self", [True, False], ids=["to oneself", "to another"])
async def test_a_transfer_clears_the_wallet_before_its_own_log(chain: Chain, to_self: bool) -> None:
    """The wallet's end is announced, the approval's is not."""
    _, alice, bob, *_ = chain.accounts
    receiver = alice if to_self else bob
    await chain.identity(alice, "register()")
    await chain.identity(alice, "approve(address,uint256)", chain.accounts[3], 0)

    logs = await chain.identity(alice, "transferFrom(address,address,uint256)", alice, receiver, 0)

    assert names(logs) == ["MetadataSet", "Transfer"]
    assert metadata(logs[0]) == (b"agentWallet", b"")
    assert await chain.wallet(0) == ZERO
    assert await chain.owner(0) == receiver
    assert await chain.read("getApproved(uint256)", "address", 0) == f"0x{ZERO.hex()}"


async def test_content_is_open_to_owner_operator_and_approved_only(chain: Chain) -> None:
    """A stranger is refused; the operator of a former owner loses his right."""
    _, alice, operator, approved, stranger, *_ = chain.accounts
    await chain.identity(alice, "register()")
    await chain.identity(alice, "setApprovalForAll(address,bool)", operator, True)
    await chain.identity(alice, "approve(address,uint256)", approved, 0)
    data = call_data("setAgentURI(uint256,string)", 0, "u")

    for sender in (alice, operator, approved):
        logs = await chain.do(sender, chain.registries.identity, data)
        assert names(logs) == ["MetadataUpdate", "URIUpdated"]

    assert await chain.reverts(stranger, chain.registries.identity, data)
    await chain.identity(operator, "transferFrom(address,address,uint256)", alice, stranger, 0)
    assert await chain.reverts(operator, chain.registries.identity, data)


async def test_transfer_away_in_the_call_back_leaves_the_wallet_zero(chain: Chain) -> None:
    """Re-entrancy 1: the last log names a wallet that the contract does not hold; agent 0 is an agent."""
    _, alice, bob, *_ = chain.accounts
    registrant = chain.registries.registrants[0]
    arguments = (chain.registries.identity, "u", 1, bob, "")

    logs = await chain.do(
        alice, registrant, call_data("registerWithURI(address,string,uint8,address,string)", *arguments)
    )

    expected = ["Transfer", "MetadataSet", "Transfer", "MetadataUpdate", "Registered", "MetadataSet"]
    assert names(logs) == expected
    assert metadata(logs[-1]) == (b"agentWallet", registrant)
    assert await chain.owner(0) == bob
    assert await chain.wallet(0) == ZERO
    assert await chain.read("tokenURI(uint256)", "string", 0) == b"u"


async def test_uri_set_in_the_call_back_outlives_the_empty_registration(chain: Chain) -> None:
    """Re-entrancy 2: URIUpdated comes first, Registered with the empty URI last."""
    _, alice, *_ = chain.accounts
    data = call_data("register(address,uint8,address,string)", chain.registries.identity, 2, ZERO, "x")

    logs = await chain.do(alice, chain.registries.registrants[0], data)

    assert names(logs) == ["Transfer", "MetadataUpdate", "URIUpdated", "Registered", "MetadataSet"]
    assert await chain.read("tokenURI(uint256)", "string", 0) == b"x"


async def test_registering_again_in_the_call_back_turns_the_order_of_ids(chain: Chain) -> None:
    """Re-entrancy 3: agent 1 is announced before agent 0."""
    _, alice, *_ = chain.accounts
    data = call_data("register(address,uint8,address,string)", chain.registries.identity, 3, ZERO, "inner")

    logs = await chain.do(alice, chain.registries.registrants[0], data)

    registered = [int(log["topics"][1], 16) for log in logs if NAMES[log["topics"][0][2:]] == "Registered"]
    assert registered == [1, 0]
    assert await chain.wallet(0) == await chain.wallet(1) == chain.registries.registrants[0]


async def test_wallet_needs_a_signature_of_the_new_wallet(chain: Chain) -> None:
    """EIP-712 by an account, ERC-1271 by a contract; a foreign signature or a late deadline is refused."""
    _, alice, wallet, other, *_ = chain.accounts
    identity = chain.registries.identity
    await chain.identity(alice, "register()")
    head = await chain.node.rpc("eth_getBlockByNumber", ["latest", False])
    deadline = int(head["timestamp"], 16) + 200

    def call(new: bytes, until: int, signature: bytes) -> bytes:
        return call_data("setAgentWallet(uint256,address,uint256,bytes)", 0, new, until, signature)

    signed = await sign_wallet(chain, alice, wallet, wallet, deadline)
    logs = await chain.do(alice, identity, call(wallet, deadline, signed))

    assert [metadata(log) for log in logs] == [(b"agentWallet", wallet)]
    assert await chain.wallet(0) == wallet
    foreign = await sign_wallet(chain, alice, wallet, other, deadline)
    assert await chain.reverts(alice, identity, call(wallet, deadline, foreign))
    late = await sign_wallet(chain, alice, wallet, wallet, deadline + 200)
    assert await chain.reverts(alice, identity, call(wallet, deadline + 200, late))
    contract = chain.registries.registrants[0]
    assert await chain.reverts(alice, identity, call(contract, deadline, bytes(32)))
    agreed = wallet_digest(31337, identity, 0, contract, alice, deadline)
    assert not await chain.reverts(alice, identity, call(contract, deadline, agreed))
    assert await chain.wallet(0) == contract
    for _ in range(2):
        logs = await chain.identity(alice, "unsetAgentWallet(uint256)", 0)
        assert [metadata(log) for log in logs] == [(b"agentWallet", b"")]
    assert await chain.wallet(0) == ZERO


async def sign_wallet(chain: Chain, owner: bytes, wallet: bytes, signer: bytes, deadline: int) -> bytes:
    """Sign the wallet change of agent 0 with the key of `signer`."""
    request = wallet_request(31337, chain.registries.identity, 0, wallet, owner, deadline)
    return bytes.fromhex((await chain.node.rpc("eth_signTypedData_v4", [f"0x{signer.hex()}", request]))[2:])


async def test_feedback_is_refused_from_those_who_act_for_the_agent(chain: Chain) -> None:
    """Owner and operator may not rate; a former owner may; an unknown agent cannot be rated."""
    _, alice, bob, *_ = chain.accounts
    reputation = chain.registries.reputation
    await chain.identity(alice, "register()")
    await chain.identity(alice, "setApprovalForAll(address,bool)", bob, True)
    data = call_data(FEEDBACK, 0, 1, 0, "", "", "", "", bytes(32))

    assert await chain.reverts(alice, reputation, data)
    assert await chain.reverts(bob, reputation, data)
    assert await chain.reverts(bob, reputation, call_data(FEEDBACK, 7, 1, 0, "", "", "", "", bytes(32)))
    await chain.identity(alice, "transferFrom(address,address,uint256)", alice, chain.accounts[3], 0)
    assert names(await chain.do(alice, reputation, data)) == ["NewFeedback"]


async def test_summary_wraps_at_int128_as_the_real_contract_does(chain: Chain) -> None:
    """The most frequent decimals win, so a huge value without decimals overflows the cast."""
    _, alice, one, two, *_ = chain.accounts
    await chain.identity(alice, "register()")

    await chain.rate(one, 10**38, 0)
    await chain.rate(two, 1, 18)
    await chain.rate(two, 1, 18)

    assert await chain.summary(one, two) == (3, -886533759346574857640019685980940970, 18)


async def test_summary_truncates_toward_zero_and_takes_the_smallest_of_tied_decimals(chain: Chain) -> None:
    """(-0.5 + -1) / 2 is -0.75, which is 0 without decimals; a client listed twice counts twice."""
    _, alice, one, two, *_ = chain.accounts
    await chain.identity(alice, "register()")

    await chain.rate(one, -5, 1, "a", "x")
    await chain.rate(two, -1, 0, "a", "y")

    assert await chain.summary(one, two) == (2, 0, 0)
    assert await chain.summary(one, one, two) == (3, -6, 1)
    assert await chain.summary(one, two, tag1="a", tag2="x") == (1, -5, 1)
    assert await chain.summary(one, two, tag1="A") == (0, 0, 0)
    with pytest.raises(RpcError, match="clientAddresses required"):
        await chain.summary()


async def test_revoked_feedback_leaves_the_summary_and_keeps_its_place(chain: Chain) -> None:
    """Once revoked is for good; anyone may still respond, but not without a URI."""
    _, alice, one, other, *_ = chain.accounts
    reputation = chain.registries.reputation
    await chain.identity(alice, "register()")
    await chain.rate(one, 10, 0, "t")
    await chain.rate(one, 20, 0, "t")

    revoke = call_data("revokeFeedback(uint256,uint64)", 0, 1)
    assert names(await chain.do(one, reputation, revoke)) == ["FeedbackRevoked"]

    assert await chain.reverts(one, reputation, revoke)
    assert await chain.summary(one) == (1, 20, 0)
    respond = "appendResponse(uint256,address,uint64,string,bytes32)"
    for _ in range(2):
        await chain.do(other, reputation, call_data(respond, 0, one, 1, "r", bytes(32)))
    assert await chain.reverts(other, reputation, call_data(respond, 0, one, 1, "", bytes(32)))
    assert await chain.reverts(other, reputation, call_data(respond, 0, one, 3, "r", bytes(32)))
    count = "getResponseCount(uint256,address,uint64,address[])"
    for client, index, responders, expected in [(one, 1, [], 2), (one, 0, [other], 2), (ZERO, 0, [alice], 0)]:
        asked = (0, client, index, responders)
        assert await view(chain.node, reputation, count, ["uint64"], *asked) == (expected,)
    read = "readFeedback(uint256,address,uint64)"
    result = ["int128", "uint8", "string", "string", "bool"]
    assert await view(chain.node, reputation, read, result, 0, one, 1) == (10, 0, b"t", b"", True)
    everything = "readAllFeedback(uint256,address[],string,string,bool)"
    lists = ["address[]", "uint64[]", "int128[]", "uint8[]", "string[]", "string[]", "bool[]"]
    found = await view(chain.node, reputation, everything, lists, 0, [], "", "", True)
    assert found[1:4] == ((1, 2), (10, 20), (0, 0))
    assert found[6] == (True, False)


async def test_validation_answers_repeat_and_the_latest_counts(chain: Chain) -> None:
    """A hash is requested once; only its validator answers; 0 is an answer."""
    _, alice, validator, stranger, *_ = chain.accounts
    validation = chain.registries.validation[1]
    await chain.identity(alice, "register()")
    requests = [bytes([n]) * 32 for n in (1, 2)]

    async def answer(sender: bytes, request: bytes, response: int, tag: str) -> bool:
        data = call_data(
            "validationResponse(bytes32,uint8,string,bytes32,string)", request, response, "", bytes(32), tag
        )
        return not await chain.reverts(sender, validation, data)

    ask = [call_data("validationRequest(address,uint256,string,bytes32)", validator, 0, "", r) for r in requests]
    for data in ask:
        assert names(await chain.do(alice, validation, data)) == ["ValidationRequest"]
    assert await chain.reverts(alice, validation, ask[0])
    assert not await answer(stranger, requests[0], 1, "")
    assert not await answer(validator, requests[0], 101, "")
    assert await answer(validator, requests[0], 90, "soft")
    assert await answer(validator, requests[0], 0, "hard")
    assert await answer(validator, requests[0], 33, "hard")

    async def summary(*validators: bytes, tag: str = "") -> tuple[Any, ...]:
        signature = "getSummary(uint256,address[],string)"
        return await view(chain.node, validation, signature, ["uint64", "uint8"], 0, validators, tag)

    assert await summary() == (1, 33)
    assert await summary(validator, validator, tag="soft") == (0, 0)
    assert await answer(validator, requests[1], 0, "")
    assert await summary(validator, validator) == (2, 16)
    status = ["address", "uint256", "uint8", "bytes32", "string", "uint256"]
    found = await view(chain.node, validation, "getValidationStatus(bytes32)", status, requests[0])
    assert found[1:5] == (0, 33, bytes(32), b"hard")


async def test_admin_events_are_emitted_at_deployment_and_on_demand(chain: Chain) -> None:
    """The constructor says what an official proxy says in its first two transactions."""
    admin, identity = chain.registries.admin, chain.registries.identity
    logs = await chain.node.rpc("eth_getLogs", [{"fromBlock": "0x0", "address": f"0x{identity.hex()}"}])

    assert names(logs) == ["Upgraded", "OwnershipTransferred", "Initialized", "Upgraded", "Initialized"]
    assert names(await chain.identity(admin, "announceUpgrade(address)", identity)) == ["Upgraded", "Initialized"]
    assert names(await chain.identity(admin, "announceBatch(uint256,uint256)", 0, 9)) == ["BatchMetadataUpdate"]
    assert names(await chain.identity(admin, "announceDomain()")) == ["EIP712DomainChanged"]
    assert names(await chain.identity(admin, "transferOwnership(address)", admin)) == ["OwnershipTransferred"]


async def test_the_emitter_emits_what_it_is_told(chain: Chain) -> None:
    """0 to 4 topics and any data, in order, at any address."""
    address = b"\x80\x04" * 10
    await place_emitter(chain.node, address)
    wanted = [(tuple(bytes([n]) * 32 for n in range(count)), bytes(count)) for count in range(5)]

    logs = await chain.do(chain.accounts[1], address, emit_logs(*wanted))

    found = [
        (tuple(bytes.fromhex(topic[2:]) for topic in log["topics"]), bytes.fromhex(log["data"][2:])) for log in logs
    ]
    assert found == wanted
