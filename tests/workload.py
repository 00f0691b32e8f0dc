"""Random histories of the registries: every form, odd and malformed ones too, over few agents so that things clash."""

from __future__ import annotations

from random import Random

from eth_hash.auto import keccak
from simulator.logs import SimLog, form_log

from indexer.core.types import Deployment

IDENTITY = bytes.fromhex("80" * 20)
REPUTATION = bytes.fromhex("81" * 20)
VALIDATIONS = (bytes.fromhex("82" * 20), bytes.fromhex("83" * 20))
DEPLOYMENT = Deployment(IDENTITY, REPUTATION, VALIDATIONS, 0)
ZERO = bytes(20)

_ODD = (b"nul\x00inside", b"\xff\xfebroken", "agentWallet\0", "AgentWallet", "x" * 3000)
_TEXTS = ("", "speed", "ok", "ä\N{ROBOT FACE}", *_ODD)
_TAGS = ("", "speed", "Speed", "quality", b"\xffraw")


class Workload:
    """Draws blocks of logs; the same seed draws the same blocks."""

    def __init__(self, seed: int, *, agents: int = 4, people: int = 5) -> None:
        self.random = Random(seed)
        self.agents = range(agents)
        self.people = [bytes([0xA0 + n]) * 20 for n in range(people)]
        self.requests = [keccak(bytes([n])) for n in range(6)]

    def block(self, most: int = 8) -> list[SimLog]:
        """Draw up to `most` actions, an action being one log or a few that belong together."""
        return [log for _ in range(self.random.randrange(most + 1)) for log in self._action()]

    def _person(self) -> bytes:
        return self.random.choice(self.people)

    def _agent(self) -> int:
        return self.random.choice(self.agents)

    def _text(self) -> str | bytes:
        return self.random.choice(_TEXTS)

    def _hash(self) -> bytes:
        return self.random.choice((bytes(32), self.random.randbytes(32)))

    def _action(self) -> list[SimLog]:
        actions = (
            (3, self._register), (3, self._transfer), (2, self._uri), (2, self._metadata), (2, self._wallet),
            (1, self._approval), (1, self._operator), (8, self._feedback), (2, self._old_feedback), (4, self._revoke),
            (4, self._respond), (3, self._request), (4, self._answer), (1, self._admin), (1, self._malformed),
        )  # fmt: skip
        weights = [weight for weight, _ in actions]
        return self.random.choices([act for _, act in actions], weights)[0]()

    def _register(self) -> list[SimLog]:
        agent, owner, uri = self._agent(), self._person(), self._text()
        tx_hash = self.random.randbytes(32)
        inside = []
        for _ in range(self.random.choice((0, 0, 1, 2))):
            inside += self.random.choice((self._wallet, self._uri, self._transfer))(agent)
        logs = [
            form_log(IDENTITY, "identity/transfer", ZERO, owner, agent),
            *inside,
            form_log(IDENTITY, "identity/metadata_update", agent),
            form_log(IDENTITY, "identity/registered", agent, uri, owner),
            form_log(IDENTITY, "identity/metadata_set", agent, "agentWallet", "agentWallet", owner),
        ]
        return [SimLog(log.address, log.topics, log.data, tx_hash) for log in logs]

    def _transfer(self, agent: int | None = None) -> list[SimLog]:
        agent = self._agent() if agent is None else agent
        return [
            form_log(IDENTITY, "identity/metadata_set", agent, "agentWallet", "agentWallet", b""),
            form_log(IDENTITY, "identity/transfer", self._person(), self._person(), agent),
        ]

    def _uri(self, agent: int | None = None) -> list[SimLog]:
        agent = self._agent() if agent is None else agent
        form = self.random.choice(("identity/uri_updated", "identity/uri_updated_1_0_0"))
        return [form_log(IDENTITY, form, agent, self._text(), self._person())]

    def _metadata(self) -> list[SimLog]:
        form = self.random.choice(("identity/metadata_set", "identity/metadata_set_2025_11_12"))
        key, lie = self._text(), self._text()
        indexed = key if self.random.random() < 0.8 else lie
        value = self.random.choice((b"", b"value", b"\xff\x00", b"text"))
        return [form_log(IDENTITY, form, self._agent(), indexed, key, value)]

    def _wallet(self, agent: int | None = None) -> list[SimLog]:
        agent = self._agent() if agent is None else agent
        value = self.random.choice((b"", self._person(), self._person(), b"odd"))
        return [form_log(IDENTITY, "identity/metadata_set", agent, "agentWallet", "agentWallet", value)]

    def _approval(self) -> list[SimLog]:
        approved = self.random.choice((ZERO, self._person()))
        return [form_log(IDENTITY, "identity/approval", self._person(), approved, self._agent())]

    def _operator(self) -> list[SimLog]:
        approved = self.random.random() < 0.7
        return [form_log(IDENTITY, "identity/approval_for_all", self._person(), self._person(), approved)]

    def _feedback(self) -> list[SimLog]:
        some = self.random.randrange(1000)
        value = self.random.choice((0, 1, 50, 80, 100, 101, -50, 9550, 10**38, -(10**38), some))
        decimals = self.random.choice((0, 0, 0, 1, 2, 2, 18))
        tag = self.random.choice(_TAGS)
        return [
            form_log(
                REPUTATION, "reputation/new_feedback", self._agent(), self._person(), self.random.randrange(1, 6),
                value, decimals, tag, tag, self.random.choice(_TAGS), self._text(), self._text(), self._hash(),
            )
        ]  # fmt: skip

    def _old_feedback(self) -> list[SimLog]:
        who = (self._agent(), self._person())
        score, end = self.random.randrange(101), (self._text(), self._hash())
        index = self.random.randrange(1, 6)
        tag = self.random.choice(_TAGS)
        choices: tuple[tuple[str, tuple[object, ...]], ...] = (
            ("new_feedback_1_0_0", (*who, score, b"tag".ljust(32, b"\0"), self._hash(), *end)),
            ("new_feedback_1_1_0", (*who, score, tag, tag, *end)),
            ("new_feedback_2025_12_18", (*who, score, tag, tag, self._text(), *end)),
            ("new_feedback_2026_01_07", (*who, index, score, tag, tag, self._text(), *end)),
            ("new_feedback_2026_01_11", (*who, index, score, tag, tag, tag, self._text(), *end)),
            ("new_feedback_2026_01_18", (*who, index, 2**256 - 1, 3, tag, tag, tag, self._text(), *end)),
            ("new_feedback_2026_01_19", (*who, index, -(2**255), 77, tag, tag, tag, self._text(), *end)),
        )
        form, values = self.random.choice(choices)
        return [form_log(REPUTATION, f"reputation/{form}", *values)]

    def _revoke(self) -> list[SimLog]:
        index = self.random.randrange(1, 6)
        return [form_log(REPUTATION, "reputation/feedback_revoked", self._agent(), self._person(), index)]

    def _respond(self) -> list[SimLog]:
        who = (self._agent(), self._person(), self.random.randrange(1, 6), self._person(), self._text())
        if self.random.random() < 0.2:
            return [form_log(REPUTATION, "reputation/response_appended_2025_10_08", *who)]
        return [form_log(REPUTATION, "reputation/response_appended", *who, self._hash())]

    def _request(self) -> list[SimLog]:
        values = (self._person(), self._agent(), self._text(), self.random.choice(self.requests))
        return [form_log(self.random.choice(VALIDATIONS), "validation/validation_request", *values)]

    def _answer(self) -> list[SimLog]:
        contract = self.random.choice(VALIDATIONS)
        key = (self._person(), self._agent(), self.random.choice(self.requests), self.random.randrange(101))
        if self.random.random() < 0.2:
            tag = b"\xff".ljust(32, b"\x01")
            return [form_log(contract, "validation/validation_response_1_0_0", *key, self._text(), self._hash(), tag)]
        tag_text = self.random.choice(_TAGS)
        return [form_log(contract, "validation/validation_response", *key, self._text(), self._hash(), tag_text)]

    def _admin(self) -> list[SimLog]:
        contract = self.random.choice(DEPLOYMENT.addresses)
        return [form_log(contract, "proxy/upgraded", self._person()), form_log(contract, "proxy/initialized", 2)]

    def _malformed(self) -> list[SimLog]:
        good = self._feedback()[0]
        return [
            self.random.choice((
                SimLog(IDENTITY, (self.random.randbytes(32),), b"unknown"),
                SimLog(IDENTITY, (), b"no topics"),
                SimLog(REPUTATION, good.topics[:2], good.data),
                SimLog(REPUTATION, good.topics, good.data[:100]),
                SimLog(REPUTATION, good.topics, good.data[:96] + b"\xff" * 32 + good.data[128:]),
                SimLog(REPUTATION, good.topics, good.data + b"trailing"),
                SimLog(IDENTITY, good.topics, good.data),
            ))
        ]  # fmt: skip
