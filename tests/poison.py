"""Logs with everything nasty that a contract may emit, and what an indexer is to make of each.

Nothing here decodes: the expected row is built from the values that went in.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cache
from random import Random
from typing import Any, Final

from eth_abi.abi import encode
from eth_hash.auto import keccak
from simulator.logs import SimLog, abi_log
from workload import IDENTITY, REPUTATION, VALIDATIONS, ZERO

from indexer.resources import data_dir

HUGE_BYTES: Final = 65_536
_MARKS: Final = ("bad_utf8", "nul", "hash_mismatch", "trailing_bytes", "dirty_padding", "noncanonical", "huge")
_MAX: Final = 2**256 - 1
_FEEDBACK: Final = "reputation/new_feedback"

TEXTS: Final[tuple[bytes, ...]] = (
    b"",
    b"speed",
    "ä\N{ROBOT FACE}\N{ZERO WIDTH JOINER}\N{COMBINING ACUTE ACCENT}".encode(),
    "\N{RIGHT-TO-LEFT OVERRIDE}txt.exe\N{REPLACEMENT CHARACTER}\ufffe\uffff\U0010ffff\ufeff".encode(),
    b"\x00",
    b"nul\x00inside",
    b"\xff\xfebroken",
    b"\xed\xa0\x80",  # a lone surrogate
    b"\xed\xa0\xbd\xed\xb8\x80",  # a surrogate pair, each half encoded alone
    b"\xc0\x80",  # NUL in too many bytes
    b"\xf4\x90\x80\x80",  # beyond Unicode
    b"cut off \xe2\x82",
    b"\xff\x00both",
    b"'; DROP TABLE erc8004_data.logs; --",
    b"\\N\t\n\r\\.\n\\",  # what text COPY would take for null and for its end
    b"\\u0000 \\ud800 \\x00",  # escapes that are none
    b'{"a": "\\u0000", "b": [}',
    b"\x01\x1b[2J\x7f\xc2\x80",
    b"null",
    b" speed ",
    b"t" * 3_000,
    b"\xff" * 3_000,
)
_KEYS: Final = (b"", b"AgentWallet", b"agentWallet\x00", b" agentWallet", b"agentWallet ", b"agentwallet", *TEXTS)
_OLD_FEEDBACK: Final = (
    "new_feedback_1_0_0", "new_feedback_1_1_0", "new_feedback_2025_12_18", "new_feedback_2026_01_07",
    "new_feedback_2026_01_11", "new_feedback_2026_01_18", "new_feedback_2026_01_19",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """A log, and what `erc8004_events` shall say of it: `event` None and a defect, or an event with perhaps marks.

    `view` names the view that has a row at the log's position with these `columns`; bytes among them are text that
    may need its `_raw` column.
    """

    log: SimLog
    event: str | None
    defect: str | None
    args: dict[str, object] | None
    view: str = ""
    columns: dict[str, object] = field(default_factory=dict)


@cache
def abi_item(form: str) -> Mapping[str, Any]:
    """Read the event of one file under `abi/`."""
    item: Mapping[str, Any] = json.loads((data_dir("abi") / f"{form}.json").read_text())["event"]
    return item


def good(address: bytes, form: str, *values: Any, view: str = "", **columns: object) -> Case:
    """Encode a valid log; strings as raw bytes, an indexed one by the text that is hashed."""
    item = abi_item(form)
    args: dict[str, object] = {}
    marks = set()
    for parameter, value in zip(item["inputs"], values, strict=True):
        name, kind = parameter["name"], parameter["type"]
        if parameter["indexed"] and kind == "string":
            args[name] = f"0x{keccak(value).hex()}"
        elif kind == "string":
            args[name] = value  # the test compares it by its bytes
            marks |= _text_marks(value)
        else:
            args[name] = f"0x{value.hex()}" if isinstance(value, bytes) else value if kind == "bool" else str(value)
        if not parameter["indexed"] and isinstance(value, bytes) and len(value) > HUGE_BYTES:
            marks.add("huge")
    return Case(abi_log(address, item, *values), item["name"], _marked(marks), args, view, columns)


def _text_marks(raw: bytes) -> set[str]:
    marks = {"nul"} if b"\x00" in raw else set()
    try:
        raw.decode()
    except UnicodeDecodeError:
        marks.add("bad_utf8")
    return marks


def _marked(marks: set[str]) -> str | None:
    return ",".join(mark for mark in _MARKS if mark in marks) or None


def odd(case: Case, mark: str, **changed: Any) -> Case:
    """Change the log of a case in a way that is told by a mark and alters no value."""
    marks = {*(case.defect or "").split(","), mark}
    return replace(case, log=replace(case.log, **changed), defect=_marked(marks))


def broken(log: SimLog, defect: str) -> Case:
    """Expect no event of this log."""
    return Case(log, None, defect, None)


def patched(data: bytes, word: int, value: int) -> bytes:
    """Overwrite a word of the data; negative values in two's complement."""
    return data[: 32 * word] + (value % 2**256).to_bytes(32) + data[32 * word + 32 :]


@dataclass(slots=True)
class Agent:
    """What is to be known of an agent in the end; `metadata` by the key's bytes."""

    owner: bytes | None = None
    uri: bytes | None = None
    wallet: bytes | None = None
    registered: bool = False
    metadata: dict[bytes, bytes] = field(default_factory=dict)


class Poisons:
    """Draws stories, each some logs that belong together, and keeps account of what they amount to."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.agents: dict[int, Agent] = {}
        self._fresh = iter((_MAX, 0, 2**255, 2**64, 2**63, 2**63 - 1, *range(1, 10**6)))
        self._large = [b"u" * 100_000, b"\xff" * 100_000, b"{" * 70_000]
        self._vast = [b"m" * 1_500_000, b"\x00" * 1_000_000]
        self._breakers = self._all_breakers()
        self._oddities = self._all_oddities()

    def cases(self, count: int) -> list[Case]:
        """Draw that many logs, or a few more to end the last story; neighbours often share a transaction."""
        stories = (
            (6, self._register), (4, self._uri), (6, self._metadata), (2, self._wallet), (1, self._operators),
            (14, self._feedback), (6, self._old_feedback), (6, self._validation), (2, self._admin),
            (8, self._broken), (5, self._odd),
        )  # fmt: skip
        weights = [weight for weight, _ in stories]
        found: list[Case] = []
        while len(found) < count:
            story = self.random.choices([draw for _, draw in stories], weights)[0]()
            tx_hash = self.random.randbytes(32)
            found += [replace(case, log=replace(case.log, tx_hash=tx_hash)) for case in story]
        return found

    def rare(self) -> list[Case]:
        """Return what is to occur for certain: every way to break and to be odd, every text, the large ones."""
        cases = [breaker() for breaker in self._breakers] + [oddity() for oddity in self._oddities]
        for text in (*TEXTS, *self._large):
            cases += [*self._feedback(text), *self._uri(text), *self._metadata(text)]
        for text in self._vast:
            cases += [*self._uri(text), *self._metadata(text)]
        return cases

    # --- drawing ----------------------------------------------------------------------------------------------------

    def _text(self) -> bytes:
        return self.random.choice(TEXTS)

    def _person(self) -> bytes:
        return self.random.randbytes(20)

    def _hash(self) -> bytes:
        return self.random.choice((bytes(32), self.random.randbytes(32)))

    def _agent(self) -> int:
        """Choose an agent: mostly one that is known, else one that nobody registered (yet)."""
        if self.agents and self.random.random() < 0.8:
            return self.random.choice(list(self.agents))
        return self._seen(next(self._fresh))

    def _seen(self, agent: int) -> int:
        self.agents.setdefault(agent, Agent())
        return agent

    # --- stories ----------------------------------------------------------------------------------------------------

    def _register(self) -> list[Case]:
        """Register an agent, sometimes one that is there already."""
        agent, owner = self._agent() if self.random.random() < 0.3 else self._seen(next(self._fresh)), self._person()
        uri = self._text()
        known = self.agents[agent]
        known.owner, known.uri, known.wallet, known.registered = owner, uri, owner, True
        known.metadata[b"agentWallet"] = owner
        hexed, wallet = f"0x{owner.hex()}", b"agentWallet"
        return [
            good(IDENTITY, "identity/transfer", ZERO, owner, agent, view="erc8004_agent_owners", owner_address=hexed),
            good(IDENTITY, "identity/metadata_update", agent),
            good(IDENTITY, "identity/registered", agent, uri, owner, view="erc8004_agent_uris", token_uri=uri),
            good(IDENTITY, "identity/metadata_set", agent, wallet, wallet, owner,
                 view="erc8004_agent_wallets", agent_wallet=hexed),
        ]  # fmt: skip

    def _uri(self, text: bytes | None = None) -> list[Case]:
        agent, uri = self._agent(), self._text() if text is None else text
        self.agents[agent].uri = uri
        form = self.random.choice(("identity/uri_updated", "identity/uri_updated_1_0_0"))
        return [good(IDENTITY, form, agent, uri, self._person(), view="erc8004_agent_uris", token_uri=uri)]

    def _metadata(self, text: bytes | None = None) -> list[Case]:
        agent = self._agent()
        key = self.random.choice(_KEYS) if text is None else text
        value = self._text() if text is None else text
        self.agents[agent].metadata[key] = value
        form = self.random.choice(("identity/metadata_set", "identity/metadata_set_2025_11_12"))
        if self.random.random() < 0.8:
            return [good(IDENTITY, form, agent, key, key, value)]
        lie = good(IDENTITY, form, agent, key + b"!", key, value)
        return [odd(lie, "hash_mismatch")]

    def _wallet(self) -> list[Case]:
        """Set the wallet: to an address, to nothing, and to what no wallet is."""
        agent, key = self._agent(), b"agentWallet"
        value = self.random.choice((b"", self._person(), self._person() + b"!", self._person()[:19], b"\x00" * 32))
        known = self.agents[agent]
        known.metadata[key] = value
        known.wallet = value if len(value) == 20 else None
        shown = None if known.wallet is None else f"0x{value.hex()}"
        form = "identity/metadata_set"
        return [good(IDENTITY, form, agent, key, key, value, view="erc8004_agent_wallets", agent_wallet=shown)]

    def _operators(self) -> list[Case]:
        approved = self.random.choice((ZERO, self._person()))
        return [
            good(IDENTITY, "identity/approval", self._person(), approved, self._agent()),
            good(IDENTITY, "identity/approval_for_all", self._person(), self._person(), self.random.random() < 0.5),
        ]

    def _feedback(self, text: bytes | None = None) -> list[Case]:
        """Give feedback of a client of its own; then perhaps responses and a revocation."""
        agent, client = self._agent(), self._person()
        index = self.random.choice((1, 2, 0, 2**63 - 1, 2**63, 2**64 - 1))
        value = self.random.choice((0, 1, 100, 101, -1, 9550, 10**38, -(10**38), 2**127 - 1, -(2**127)))
        decimals = self.random.choice((0, 1, 2, 18, 77, 255))
        tag1, tag2, endpoint, uri = (self._text() if text is None else text for _ in range(4))
        file_hash = self._hash()
        feedback = good(
            REPUTATION, _FEEDBACK, agent, client, index, value, decimals, tag1, tag1, tag2, endpoint, uri, file_hash
        )
        after, told = self._after(agent, client, index)
        columns = {"tag1": tag1, "tag2": tag2, "endpoint": endpoint, "file_uri": uri, **told}
        columns |= {"tag1_hash": f"0x{keccak(tag1).hex()}", "file_hash": f"0x{file_hash.hex()}"}
        return [self._reputation(feedback, agent, client, index, value, decimals, columns), *after]

    def _old_feedback(self) -> list[Case]:
        """Give feedback in one of the retired forms; those without an index are counted from 1."""
        agent, client = self._agent(), self._person()
        form = f"reputation/{self.random.choice(_OLD_FEEDBACK)}"
        wide = {"uint256": _MAX, "int256": -(2**255)}
        drawn: dict[str, Any] = {"agentId": agent, "clientAddress": client, "valueDecimals": 255}
        for parameter in abi_item(form)["inputs"]:
            if parameter["name"] not in drawn:
                drawn[parameter["name"]] = self._drawn(parameter, wide)
        if "indexedTag1" in drawn:
            drawn["indexedTag1"] = drawn["tag1"]
        case = good(REPUTATION, form, *(drawn[parameter["name"]] for parameter in abi_item(form)["inputs"]))
        index = drawn.get("feedbackIndex", 1)
        value, decimals = drawn.get("value", drawn.get("score")), 255 if "value" in drawn else 0
        columns = {"file_uri": drawn.get("feedbackURI", drawn.get("feedbackUri")), "is_revoked": False}
        if form.endswith(("_1_1_0", "2025_12_18", "2026_01_07")):
            columns |= {"tag1_hash": case.args["tag1"], "tag1": b"" if drawn["tag1"] == b"" else None}  # type: ignore[index]
        return [self._reputation(case, agent, client, index, value, decimals, columns)]

    def _drawn(self, parameter: Mapping[str, Any], wide: Mapping[str, int]) -> Any:
        match parameter["type"]:
            case "string":
                return self._text()
            case "bytes32":
                return self.random.choice((b"tag".ljust(32, b"\0"), self.random.randbytes(32), bytes(32)))
            case "uint64":
                return self.random.choice((1, 2**64 - 1))
            case "uint8":
                return self.random.choice((0, 100, 255))
            case kind:
                return wide[kind]

    def _after(self, agent: int, client: bytes, index: int) -> tuple[list[Case], dict[str, object]]:
        """Respond to and revoke the feedback that is given just before; tell what that makes of it."""
        cases = []
        for _ in range(self.random.choice((0, 0, 0, 1, 2))):
            responder, uri, file_hash = self._person(), self._text(), self._hash()
            hexed = {"responder_address": f"0x{responder.hex()}", "response_hash": f"0x{file_hash.hex()}"}
            values = (agent, client, index, responder, uri, file_hash)
            view = "erc8004_feedback_responses"
            told = {
                "client_address": f"0x{client.hex()}",
                "feedback_index": Decimal(index),
                "response_uri": uri,
                **hexed,
            }
            cases.append(good(REPUTATION, "reputation/response_appended", *values, view=view, **told))
        responses, revoked = len(cases), self.random.random() < 0.2
        if revoked:
            cases.append(good(REPUTATION, "reputation/feedback_revoked", agent, client, index))
        return cases, {"response_count": responses, "is_revoked": revoked}

    def _reputation(
        self, case: Case, agent: int, client: bytes, index: int, value: Any, decimals: int, columns: dict[str, object]
    ) -> Case:
        exact = Decimal((int(value < 0), tuple(map(int, str(abs(value)))), -decimals))
        given = {
            "agent_id": Decimal(agent),
            "client_address": f"0x{client.hex()}",
            "feedback_index": Decimal(index),
            "epoch": 0,
            "value_raw": Decimal(value),
            "value_decimals": decimals,
            "value": exact,
            "score": exact if 0 <= exact <= 100 else None,
        }
        return replace(case, view="erc8004_reputation", columns={**given, **columns})

    def _validation(self) -> list[Case]:
        """Request a validation, which is answered up to twice; the latest answer counts."""
        contract, agent, validator = self.random.choice(VALIDATIONS), self._agent(), self._person()
        request_hash, uri = self.random.randbytes(32), self._text()
        told: dict[str, object] = {"request_hash": f"0x{request_hash.hex()}", "agent_id": Decimal(agent)}
        answers = []
        last: dict[str, object] = {"response": None, "status": "pending"}
        for _ in range(self.random.choice((0, 1, 2))):
            response, answer_uri, file_hash, tag = self.random.randrange(256), self._text(), self._hash(), self._text()
            values = (validator, agent, request_hash, response, answer_uri, file_hash, tag)
            last = {
                "response": response,
                "response_uri": answer_uri,
                "tag": tag,
                "response_hash": f"0x{file_hash.hex()}",
            }
            view = "erc8004_validation_responses"
            answers.append(good(contract, "validation/validation_response", *values, view=view, **told, **last))
            last["status"] = "completed"
        columns = {**told, **last, "request_uri": uri, "response_count": len(answers)}
        values = (validator, agent, uri, request_hash)
        request = good(contract, "validation/validation_request", *values, view="erc8004_validations", **columns)
        return [request, *answers]

    def _admin(self) -> list[Case]:
        contract = self.random.choice((IDENTITY, REPUTATION, *VALIDATIONS))
        return [
            good(contract, "proxy/upgraded", self._person()),
            good(contract, "proxy/initialized", 2**64 - 1),
            good(contract, "proxy/ownership_transferred", ZERO, self._person()),
        ]

    def _broken(self) -> list[Case]:
        return [self.random.choice(self._breakers)()]

    def _odd(self) -> list[Case]:
        return [self.random.choice(self._oddities)()]

    # --- what is no event -------------------------------------------------------------------------------------------

    def _plain(self) -> SimLog:
        """Draw a valid NewFeedback to be spoilt; nobody will have given it."""
        drawn = [self.random.choice((b"", b"speed", b"t" * 40)) for _ in range(3)]
        values = (7, self._person(), 1, 50, 0, drawn[0], *drawn, b"", bytes(32))
        return abi_log(REPUTATION, abi_item(_FEEDBACK), *values)

    def _spoilt(self, word: int, value: int, defect: str) -> Callable[[], Case]:
        def draw() -> Case:
            log = self._plain()
            return broken(replace(log, data=patched(log.data, word, value)), defect)

        return draw

    def _all_breakers(self) -> list[Callable[[], Case]]:
        plain, erc721 = self._plain, abi_log_topic("identity/transfer")
        topic0_of, erc20_approval = abi_log_topic, abi_log_topic("identity/approval")
        return [
            # topics
            lambda: broken(SimLog(IDENTITY, (), self.random.randbytes(40)), "no_topics"),
            lambda: broken(SimLog(REPUTATION, ()), "no_topics"),
            lambda: broken(SimLog(IDENTITY, (self.random.randbytes(32),), b"?"), "unknown_event"),
            lambda: broken(replace(plain(), topics=(bytes(32),) * 4), "unknown_event"),
            lambda: broken(replace(plain(), topics=plain().topics[:1]), "topic_count"),
            lambda: broken(replace(plain(), topics=plain().topics[:3]), "topic_count"),
            lambda: broken(SimLog(IDENTITY, (topic0_of("identity/uri_updated"),) * 4, b""), "topic_count"),
            # events of others: ERC-20's Transfer and Approval have a topic less, and the amount in the data
            lambda: broken(SimLog(IDENTITY, (erc721, bytes(32), bytes(32)), bytes(32)), "topic_count"),
            lambda: broken(SimLog(IDENTITY, (erc20_approval, *[bytes(32)] * 2), bytes(32)), "topic_count"),
            lambda: broken(SimLog(REPUTATION, (erc721, *[bytes(32)] * 3)), "unknown_event"),
            lambda: broken(SimLog(VALIDATIONS[0], (erc721, *[bytes(32)] * 2), bytes(32)), "unknown_event"),
            lambda: broken(replace(plain(), address=IDENTITY), "unknown_event"),
            lambda: broken(replace(plain(), address=VALIDATIONS[1]), "unknown_event"),
            # sizes
            lambda: broken(replace(plain(), data=b""), "data_short"),
            lambda: broken(replace(plain(), data=plain().data[:255]), "data_short"),
            lambda: broken(replace(plain(), data=plain().data[:256]), "bad_offset"),
            lambda: broken(replace(plain(), data=plain().data[:-1]), "bad_offset"),
            lambda: broken(SimLog(IDENTITY, (topic0_of("identity/metadata_update"),), bytes(31)), "data_short"),
            # offsets: past the end, to the very end, into the head, to the offset itself
            self._spoilt(3, _MAX, "bad_offset"),
            self._spoilt(4, 2**64, "bad_offset"),
            self._spoilt(5, 10**6, "bad_offset"),
            self._spoilt(6, 0, "bad_offset"),
            self._spoilt(3, 3 * 32, "bad_offset"),
            self._spoilt(3, 255, "bad_offset"),
            # lengths
            self._spoilt(8, _MAX, "bad_length"),
            self._spoilt(8, 2**255, "bad_length"),
            self._spoilt(8, 2**32, "bad_length"),
            lambda: broken(self._too_long_by(1), "bad_length"),
            # numbers
            self._spoilt(0, 2**64, "out_of_range"),
            self._spoilt(0, _MAX, "out_of_range"),
            self._spoilt(1, 2**127, "out_of_range"),
            self._spoilt(1, -(2**127) - 1, "out_of_range"),
            self._spoilt(2, 256, "out_of_range"),
            lambda: broken(self._dirty_client(), "out_of_range"),
            lambda: broken(self._neither_true_nor_false(), "out_of_range"),
            lambda: broken(self._response_out_of_range(), "out_of_range"),
        ]  # fmt: skip

    def _too_long_by(self, more: int) -> SimLog:
        """Let the last string end behind the data."""
        log = abi_log(IDENTITY, abi_item("identity/registered"), 7, b"u" * 32, self._person())
        return replace(log, data=patched(log.data, 1, 32 + more))

    def _dirty_client(self) -> SimLog:
        log = self._plain()
        return replace(log, topics=(*log.topics[:2], b"\x01" + log.topics[2][1:], log.topics[3]))

    def _neither_true_nor_false(self) -> SimLog:
        log = abi_log(IDENTITY, abi_item("identity/approval_for_all"), self._person(), self._person(), True)
        return replace(log, data=patched(log.data, 0, 2))

    def _response_out_of_range(self) -> SimLog:
        values = (self._person(), 7, self.random.randbytes(32), 100, b"", bytes(32), b"")
        log = abi_log(VALIDATIONS[0], abi_item("validation/validation_response"), *values)
        return replace(log, data=patched(log.data, 0, 256))

    # --- what is odd and yet an event -------------------------------------------------------------------------------

    def _all_oddities(self) -> list[Callable[[], Case]]:
        return [
            self._trailing(lambda: b"\x01"),
            self._trailing(lambda: bytes(32)),
            self._trailing(lambda: self.random.randbytes(200)),
            self._nothing_in_much,
            self._dirty_padding,
            self._shared_text,
            self._lying_tag,
        ]

    def _trailing(self, rest: Callable[[], bytes]) -> Callable[[], Case]:
        def draw() -> Case:
            case = self._uri()[0]
            return odd(case, "trailing_bytes", data=case.log.data + rest())

        return draw

    def _nothing_in_much(self) -> Case:
        """Write an empty URI with 20 kB behind it."""
        case = self._uri(b"")[0]
        return odd(case, "trailing_bytes", data=case.log.data + b"\xff" * 20_000)

    def _dirty_padding(self) -> Case:
        case = self._uri(b"dirty")[0]
        return odd(case, "dirty_padding", data=case.log.data[:-1] + b"\x01")

    def _shared_text(self) -> Case:
        """Let both texts of one log be the same bytes, as a hand-made encoder may."""
        agent, client, tag = self._agent(), self._person(), b"shared"
        values = (agent, client, 1, 50, 0, tag, tag, tag, tag, tag, bytes(32))
        case = good(REPUTATION, _FEEDBACK, *values)
        words = encode(["uint64", "int128", "uint8"], [1, 50, 0]) + encode(["uint256"] * 4, [256] * 4) + bytes(32)
        data = words + encode(["uint256"], [len(tag)]) + tag.ljust(32, b"\0")
        columns = dict.fromkeys(("tag1", "tag2", "endpoint", "file_uri"), tag)
        return odd(self._reputation(case, agent, client, 1, 50, 0, dict(columns)), "noncanonical", data=data)

    def _lying_tag(self) -> Case:
        """Index the hash of another tag than the one in the clear."""
        agent, client = self._agent(), self._person()
        values = (agent, client, 1, 50, 0, b"truth", b"lie", b"", b"", b"", bytes(32))
        columns = {"tag1": b"lie", "tag1_hash": f"0x{keccak(b'truth').hex()}"}
        case = good(REPUTATION, _FEEDBACK, *values)
        return odd(self._reputation(case, agent, client, 1, 50, 0, columns), "hash_mismatch")


def abi_log_topic(form: str) -> bytes:
    """Return topic0 of a form."""
    item = abi_item(form)
    return keccak(f"{item['name']}({','.join(parameter['type'] for parameter in item['inputs'])})".encode())
