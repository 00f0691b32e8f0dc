"""The deeds of the demo's accounts: each returns calls to send, none where the world gives no occasion."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random

from eth_abi.abi import encode
from eth_hash.auto import keccak

from indexer.demo import content
from indexer.demo.anvil import AnvilNode
from indexer.demo.contracts import Registries, call_data
from indexer.demo.world import World

_DEADLINE_S = 240  # the registry takes up to five minutes
_WALLET_TYPE = "AgentWalletSet(uint256 agentId,address newWallet,address owner,uint256 deadline)"
_DOMAIN_TYPE = "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
_NAME = "ERC8004IdentityRegistry"
_SET_METADATA = "setMetadata(uint256,string,bytes)"
_FEEDBACK = "giveFeedback(uint256,int128,uint8,string,string,string,string,bytes32)"


@dataclass(frozen=True, slots=True)
class Call:
    """A transaction to be sent: addresses of 20 bytes and call data."""

    sender: bytes
    to: bytes
    data: bytes


Action = Callable[[World], Awaitable[list[Call]]]


@dataclass(frozen=True, slots=True)
class Actions:
    """All deeds, drawing on one random source; `actors` are the accounts that take part."""

    node: AnvilNode
    registries: Registries
    actors: tuple[bytes, ...]
    chain_id: int
    rng: Random

    def weighted(self) -> dict[Action, int]:
        """Return every deed with how often a deck of them holds it."""
        return {
            self.register: 6,
            self.reenter: 3,
            self.set_uri: 4,
            self.set_metadata: 4,
            self.transfer: 4,
            self.approve: 2,
            self.appoint_operator: 2,
            self.set_wallet: 3,
            self.unset_wallet: 1,
            self.rate: 14,
            self.rate_evenly: 1,
            self.revoke: 3,
            self.respond: 5,
            self.request: 5,
            self.answer: 6,
            self.misbehave: 1,
            self.administrate: 1,
        }

    async def register(self, _world: World) -> list[Call]:
        """Register in one of the three forms."""
        form = self.rng.randrange(3)
        if form == 0:
            return [self._identity(self._actor(), "register()")]
        if form == 1:
            return [self._identity(self._actor(), "register(string)", content.uri(self.rng))]
        keys = self.rng.choices(content.METADATA_KEYS, k=self.rng.randrange(4))
        entries = [(key, self._bytes()) for key in [*keys, *keys[:1]]]  # a repeated key: the last one wins
        return [self._identity(self._actor(), "register(string,(string,bytes)[])", content.uri(self.rng), entries)]

    async def reenter(self, _world: World) -> list[Call]:
        """Register through a contract that acts inside of the mint's call-back."""
        registrant = self.rng.choice(self.registries.registrants)
        inside = (self.rng.randrange(4), self._actor(), content.uri(self.rng))
        if self.rng.random() < 0.5:
            data = call_data("register(address,uint8,address,string)", self.registries.identity, *inside)
        else:
            signature = "registerWithURI(address,string,uint8,address,string)"
            data = call_data(signature, self.registries.identity, content.uri(self.rng), *inside)
        return [Call(self._actor(), registrant, data)]

    async def set_uri(self, world: World) -> list[Call]:
        """Change an agent's URI."""
        uri = content.uri(self.rng)
        return [self._identity(owner, "setAgentURI(uint256,string)", agent, uri) for agent, owner in self._own(world)]

    async def set_metadata(self, world: World) -> list[Call]:
        """Set a metadata value, at times to nothing."""
        arguments = (self.rng.choice(content.METADATA_KEYS), self._bytes())
        return [self._identity(owner, _SET_METADATA, agent, *arguments) for agent, owner in self._own(world)]

    async def transfer(self, world: World) -> list[Call]:
        """Transfer an agent: to another account, to oneself, or safely to a contract."""
        calls = []
        for agent, owner in self._own(world):
            kind = self.rng.random()
            if kind < 0.15:
                to = self.registries.registrants[0]
                calls.append(self._identity(owner, "safeTransferFrom(address,address,uint256)", owner, to, agent))
            else:
                to = owner if kind < 0.4 else self._actor()
                calls.append(self._identity(owner, "transferFrom(address,address,uint256)", owner, to, agent))
        return calls

    async def approve(self, world: World) -> list[Call]:
        """Approve an account for one agent, which then changes it or takes it over."""
        calls = []
        for agent, owner in self._own(world):
            approved = self._actor()
            calls.append(self._identity(owner, "approve(address,uint256)", approved, agent))
            if self.rng.random() < 0.5:
                transfer = "transferFrom(address,address,uint256)"
                calls.append(self._identity(approved, transfer, owner, approved, agent))
            else:
                calls.append(self._identity(approved, "setAgentURI(uint256,string)", agent, content.uri(self.rng)))
        return calls

    async def appoint_operator(self, world: World) -> list[Call]:
        """Make an account the operator of all agents of an owner, who often dismisses it again."""
        calls = []
        for agent, owner in self._own(world):
            operator = self._actor()
            calls.append(self._identity(owner, "setApprovalForAll(address,bool)", operator, True))
            calls.append(self._identity(operator, _SET_METADATA, agent, "operator", operator))
            if self.rng.random() < 0.7:
                calls.append(self._identity(owner, "setApprovalForAll(address,bool)", operator, False))
        return calls

    async def set_wallet(self, world: World) -> list[Call]:
        """Give an agent a wallet, signed by an account's key or by a contract's word."""
        calls = []
        for agent, owner in self._own(world):
            head = await self.node.rpc("eth_getBlockByNumber", ["latest", False])
            deadline = int(head["timestamp"], 16) + _DEADLINE_S
            contract = self.rng.random() < 0.3
            wallet = self.registries.registrants[1] if contract else self._actor()
            terms = (self.chain_id, self.registries.identity, agent, wallet, owner, deadline)
            if contract:
                signature = wallet_digest(*terms)
            else:
                signed = await self.node.rpc("eth_signTypedData_v4", [f"0x{wallet.hex()}", wallet_request(*terms)])
                signature = bytes.fromhex(signed[2:])
            arguments = (agent, wallet, deadline, signature)
            calls.append(self._identity(owner, "setAgentWallet(uint256,address,uint256,bytes)", *arguments))
        return calls

    async def unset_wallet(self, world: World) -> list[Call]:
        """Unset a wallet, which is logged even where none is set."""
        return [self._identity(owner, "unsetAgentWallet(uint256)", agent) for agent, owner in self._own(world)]

    async def rate(self, world: World) -> list[Call]:
        """Give feedback to some agent."""
        if not world.owners:
            return []
        value, decimals = content.value(self.rng)
        return [self._feedback(self._actor(), self.rng.choice(list(world.owners)), value, decimals)]

    async def rate_evenly(self, world: World) -> list[Call]:
        """Rate one agent in several decimals equally often: the smallest must win in its summary."""
        if not world.owners:
            return []
        agent = self.rng.choice(list(world.owners))
        clients = self.rng.sample(self.actors, 4)
        return [self._feedback(clients[n], agent, -7 if n % 2 else 95, 2 - n % 2) for n in range(4)]

    async def revoke(self, world: World) -> list[Call]:
        """Revoke a feedback, by its author."""
        standing = [entry for entry, revoked in world.feedback.items() if not revoked]
        if not standing:
            return []
        entry = self.rng.choice(standing)
        data = call_data("revokeFeedback(uint256,uint64)", entry.agent_id, entry.index)
        return [Call(entry.client, self.registries.reputation, data)]

    async def respond(self, world: World) -> list[Call]:
        """Respond to any feedback, revoked or not, as anyone."""
        if not world.feedback:
            return []
        entry = self.rng.choice(list(world.feedback))
        what = (content.text(self.rng) or "https://agents.example/response.json", content.digest(self.rng))
        signature = "appendResponse(uint256,address,uint64,string,bytes32)"
        data = call_data(signature, entry.agent_id, entry.client, entry.index, *what)
        return [Call(self._actor(), self.registries.reputation, data)]

    async def request(self, world: World) -> list[Call]:
        """Ask for a validation at one of the validation registries."""
        signature = "validationRequest(address,uint256,string,bytes32)"
        return [
            Call(
                owner,
                self.rng.choice(self.registries.validation),
                call_data(signature, self._actor(), agent, content.uri(self.rng), self.rng.randbytes(32)),
            )
            for agent, owner in self._own(world)
            if self.registries.validation
        ]

    async def answer(self, world: World) -> list[Call]:
        """Answer a request; a second answer overwrites the first."""
        if not world.requests:
            return []
        asked = self.rng.choice(list(world.requests))
        response = self.rng.choice((0, 100, self.rng.randint(0, 100)))
        what = (response, content.uri(self.rng), content.digest(self.rng), content.tag(self.rng))
        signature = "validationResponse(bytes32,uint8,string,bytes32,string)"
        return [Call(asked.validator, asked.registry, call_data(signature, asked.request_hash, *what))]

    async def misbehave(self, world: World) -> list[Call]:
        """Try what the registries refuse: a transaction without logs."""
        return [self._feedback(owner, agent, 100, 0) for agent, owner in self._own(world)]

    async def administrate(self, world: World) -> list[Call]:
        """Emit the administrative events, and those that the official code knows but never emits."""
        admin, identity = self.registries.admin, self.registries.identity
        registry = self.rng.choice((identity, self.registries.reputation, *self.registries.validation))
        return [
            Call(admin, registry, call_data("announceUpgrade(address)", self.rng.randbytes(20))),
            Call(admin, registry, call_data("transferOwnership(address)", admin)),
            Call(admin, identity, call_data("announceBatch(uint256,uint256)", 0, len(world.owners))),
            Call(admin, identity, call_data("announceDomain()")),
        ]

    def _own(self, world: World) -> list[tuple[int, bytes]]:
        """Return one agent that an account owns, with its owner; an empty list where there is none."""
        owned = [(agent, owner) for agent, owner in world.owners.items() if owner in self.actors]
        return [self.rng.choice(owned)] if owned else []

    def _actor(self) -> bytes:
        return self.rng.choice(self.actors)

    def _bytes(self) -> bytes:
        return self.rng.choice((b"", b"\0\xff", "text 🤖".encode(), self.rng.randbytes(40)))

    def _identity(self, sender: bytes, signature: str, *arguments: object) -> Call:
        return Call(sender, self.registries.identity, call_data(signature, *arguments))

    def _feedback(self, client: bytes, agent: int, value: int, decimals: int) -> Call:
        texts = (content.tag(self.rng), content.tag(self.rng), content.text(self.rng), content.uri(self.rng))
        data = call_data(_FEEDBACK, agent, value, decimals, *texts, content.digest(self.rng))
        return Call(client, self.registries.reputation, data)


def wallet_request(
    chain_id: int, identity: bytes, agent_id: int, wallet: bytes, owner: bytes, deadline: int
) -> dict[str, object]:
    """Return what `wallet` signs to become the agent's, for `eth_signTypedData_v4`."""
    fields = {"agentId": "uint256", "newWallet": "address", "owner": "address", "deadline": "uint256"}
    domain = {"name": "string", "version": "string", "chainId": "uint256", "verifyingContract": "address"}
    return {
        "types": {
            "EIP712Domain": [{"name": name, "type": kind} for name, kind in domain.items()],
            "AgentWalletSet": [{"name": name, "type": kind} for name, kind in fields.items()],
        },
        "primaryType": "AgentWalletSet",
        "domain": {
            "name": _NAME,
            "version": "1",
            "chainId": chain_id,
            "verifyingContract": f"0x{identity.hex()}",
        },
        "message": {
            "agentId": str(agent_id),
            "newWallet": f"0x{wallet.hex()}",
            "owner": f"0x{owner.hex()}",
            "deadline": str(deadline),
        },
    }


def wallet_digest(chain_id: int, identity: bytes, agent_id: int, wallet: bytes, owner: bytes, deadline: int) -> bytes:
    """Return the EIP-712 digest of the same request."""
    words = (keccak(_DOMAIN_TYPE.encode()), keccak(_NAME.encode()), keccak(b"1"), chain_id, identity)
    domain = keccak(encode(["bytes32", "bytes32", "bytes32", "uint256", "address"], words))
    terms = (keccak(_WALLET_TYPE.encode()), agent_id, wallet, owner, deadline)
    struct = keccak(encode(["bytes32", "uint256", "address", "address", "uint256"], terms))
    return keccak(b"\x19\x01" + domain + struct)
