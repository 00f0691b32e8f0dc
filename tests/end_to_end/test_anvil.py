"""Contracts on a local chain have the last word: after every step the views say what the registries' own views say."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
from eth_abi.abi import decode
from indexing import index, open_worker
from ledger import CHAIN_ID
from processes import Programs, chain_table

from indexer.demo import content
from indexer.demo.anvil import AnvilNode, anvil, find_anvil
from indexer.demo.contracts import Registries, accounts, artifact, call_data, deploy
from indexer.demo.traffic import Traffic
from indexer.store.database import Database
from indexer.worker import Worker

DEADLINE_S = 30
ZERO = f"0x{bytes(20).hex()}"
KEYS = tuple(
    dict.fromkeys(k.encode() if isinstance(k, str) else k for k in (*content.METADATA_KEYS, "agentWallet", "operator"))
)
TAGS = ("", *(tag for tag in (*content._PLAIN_TAGS, *content.ODD_TEXTS) if isinstance(tag, str) and tag))


@dataclass
class Truth:
    """What the contracts say at one block, and the questions that their summaries were asked."""

    agents: dict[int, tuple[str, str | None, bytes]] = field(default_factory=dict)
    metadata: dict[tuple[int, bytes], bytes] = field(default_factory=dict)
    operators: set[tuple[int, str, str]] = field(default_factory=set)
    last_indexes: dict[tuple[int, str], int] = field(default_factory=dict)
    feedback: dict[tuple[int, str, int], tuple[int, int, bytes, bytes, bool, int]] = field(default_factory=dict)
    responses: dict[int, int] = field(default_factory=dict)
    summaries: dict[tuple[int, str, str, str], tuple[int, int, int]] = field(default_factory=dict)
    validations: dict[tuple[str, str], tuple[str, int, int, bytes, bytes, int]] = field(default_factory=dict)
    validation_summaries: dict[tuple[str, int, str, str], tuple[int, int]] = field(default_factory=dict)


class Contracts:
    """Asks the registries: many calls in one request, as a step has hundreds of them."""

    def __init__(self, node: AnvilNode, registries: Registries, actors: Sequence[str], rng: Random) -> None:
        self._node = node
        self._registries = registries
        self._actors = actors
        self._rng = rng

    async def ask(
        self,
        to: bytes,
        signature: str,
        returns: Sequence[str],
        calls: Iterable[tuple[object, ...]],
        block: str = "latest",
    ) -> list[tuple[Any, ...] | None]:
        """Call one view with many arguments; None where it reverts. A `string` comes as bytes."""
        requests = [
            {"jsonrpc": "2.0", "id": number, "method": "eth_call", "params": [call, block]}
            for number, call in enumerate(
                {"to": f"0x{to.hex()}", "data": f"0x{call_data(signature, *map(as_argument, arguments)).hex()}"}
                for arguments in calls
            )
        ]
        if not requests:
            return []
        async with self._node.session.post(self._node.url, json=requests) as response:
            answers = {answer["id"]: answer for answer in await response.json()}
        kinds = [kind.replace("string", "bytes") for kind in returns]
        return [
            decode(kinds, bytes.fromhex(answer["result"][2:])) if "result" in (answer := answers[number]) else None
            for number in range(len(requests))
        ]

    async def identity(self, block: str = "latest") -> dict[int, tuple[str, str | None, bytes]]:
        """Return owner, wallet and URI of every agent as of a block."""
        registry, agents = self._registries.identity, list[tuple[int]]()
        owners: list[str] = []
        while True:
            following = [(len(owners) + n,) for n in range(50)]
            found = await self.ask(registry, "ownerOf(uint256)", ["address"], following, block)
            owners += [one[0] for one in found if one is not None]
            if None in found:
                break
        agents = [(agent,) for agent in range(len(owners))]
        wallets = await self.ask(registry, "getAgentWallet(uint256)", ["address"], agents, block)
        uris = await self.ask(registry, "tokenURI(uint256)", ["string"], agents, block)
        return {
            agent: (owner, None if wallet[0] == ZERO else wallet[0], uri[0])
            for agent, owner, wallet, uri in zip(range(len(owners)), owners, wallets, uris, strict=True)
            if wallet and uri
        }

    async def truth(self) -> Truth:
        """Ask for everything."""
        truth = Truth(agents=await self.identity())
        await self._metadata(truth)
        await self._operators(truth)
        await self._reputation(truth)
        await self._summaries(truth)
        for registry in self._registries.validation:
            await self._validation(truth, registry)
        return truth

    async def _metadata(self, truth: Truth) -> None:
        pairs = [(agent, key) for agent in truth.agents for key in KEYS]
        found = await self.ask(self._registries.identity, "getMetadata(uint256,string)", ["bytes"], pairs)
        truth.metadata = {pair: one[0] for pair, one in zip(pairs, found, strict=True) if one and one[0]}

    async def _operators(self, truth: Truth) -> None:
        agents = [(agent,) for agent in truth.agents]
        found = await self.ask(self._registries.identity, "getApproved(uint256)", ["address"], agents)
        truth.operators = {
            (agent, one[0], "approved") for (agent,), one in zip(agents, found, strict=True) if one and one[0] != ZERO
        }
        owners = sorted({owner for owner, _, _ in truth.agents.values()})
        pairs = [(owner, actor) for owner in owners for actor in self._actors]
        asked = await self.ask(self._registries.identity, "isApprovedForAll(address,address)", ["bool"], pairs)
        granted = {pair for pair, one in zip(pairs, asked, strict=True) if one and one[0]}
        truth.operators |= {
            (agent, actor, "operator")
            for agent, (owner, _, _) in truth.agents.items()
            for actor in self._actors
            if (owner, actor) in granted
        }

    async def _reputation(self, truth: Truth) -> None:
        to, agents = self._registries.reputation, [(agent,) for agent in truth.agents]
        clients = await self.ask(to, "getClients(uint256)", ["address[]"], agents)
        pairs = [
            (agent, client) for (agent,), found in zip(agents, clients, strict=True) for client in (found or [()])[0]
        ]
        last = await self.ask(to, "getLastIndex(uint256,address)", ["uint64"], pairs)
        truth.last_indexes = {pair: one[0] for pair, one in zip(pairs, last, strict=True) if one}
        keys = [(*pair, n) for pair, count in truth.last_indexes.items() for n in range(1, count + 1)]
        shape = ["int128", "uint8", "string", "string", "bool"]
        given = await self.ask(to, "readFeedback(uint256,address,uint64)", shape, keys)
        count = "getResponseCount(uint256,address,uint64,address[])"
        responded = await self.ask(to, count, ["uint64"], [(*key, []) for key in keys])
        truth.feedback = {
            key: (*one, count[0]) for key, one, count in zip(keys, given, responded, strict=True) if one and count
        }
        totals = await self.ask(to, count, ["uint64"], [(agent, ZERO, 0, []) for agent in truth.agents])
        truth.responses = {agent: one[0] for agent, one in zip(truth.agents, totals, strict=True) if one and one[0]}

    async def _summaries(self, truth: Truth) -> None:
        """Of each agent over all clients, and over clients with repetition and tags."""
        clients: dict[int, list[str]] = {}
        for agent, client in truth.last_indexes:
            clients.setdefault(agent, []).append(client)
        questions: dict[tuple[int, str, str, str], tuple[object, ...]] = {}
        for agent, given in clients.items():
            some = self._rng.choices([*given, self._rng.choice(self._actors)], k=self._rng.randint(1, 4))
            tag1, tag2 = self._rng.choice(TAGS), self._rng.choice(TAGS)
            questions[agent, "", "", ""] = (agent, given, "", "")
            questions[agent, ",".join(some), "", ""] = (agent, some, "", "")
            questions[agent, "", tag1, ""] = (agent, given, tag1, "")
            questions[agent, ",".join(some), tag1, tag2] = (agent, some, tag1, tag2)
        signature = "getSummary(uint256,address[],string,string)"
        found = await self.ask(
            self._registries.reputation, signature, ["uint64", "int128", "uint8"], questions.values()
        )
        truth.summaries = {key: one for key, one in zip(questions, found, strict=True) if one}  # type: ignore[misc]
        assert len(truth.summaries) == len(questions)

    async def _validation(self, truth: Truth, registry: bytes) -> None:
        name, agents = f"0x{registry.hex()}", [(agent,) for agent in truth.agents]
        found = await self.ask(registry, "getAgentValidations(uint256)", ["bytes32[]"], agents)
        hashes = [(one,) for answer in found for one in (answer or [()])[0]]
        shape = ["address", "uint256", "uint8", "bytes32", "string", "uint256"]
        states = await self.ask(registry, "getValidationStatus(bytes32)", shape, hashes)
        for (request_hash,), state in zip(hashes, states, strict=True):
            assert state is not None
            truth.validations[name, f"0x{request_hash.hex()}"] = state  # type: ignore[assignment]  # by the shape
        questions: dict[tuple[str, int, str, str], tuple[object, ...]] = {}
        for agent in {state[1] for state in truth.validations.values()}:
            some = self._rng.choices(self._actors, k=5)
            questions[name, agent, "", ""] = (agent, [], "")
            questions[name, agent, ",".join(some), tag] = (agent, some, tag := self._rng.choice(TAGS))
        summary = await self.ask(
            registry, "getSummary(uint256,address[],string)", ["uint64", "uint8"], questions.values()
        )
        truth.validation_summaries |= {key: one for key, one in zip(questions, summary, strict=True) if one}  # type: ignore[misc]


def as_argument(value: object) -> object:
    """Turn addresses from hex into bytes, in lists too; leave everything else."""
    if isinstance(value, list | tuple):
        return [as_argument(one) for one in value]
    is_address = isinstance(value, str) and value.startswith("0x") and len(value) == len(ZERO)
    return bytes.fromhex(value[2:]) if is_address else value  # type: ignore[index]  # a str here


def whole(name: str) -> str:
    """Return the SQL of a text column's bytes, whatever text could hold of them."""
    return f"coalesce({name}_raw, convert_to({name}, 'UTF8'))"


async def as_indexed(database: Database, truth: Truth) -> Truth:
    """Read the same from the views; the summaries by the questions of `truth`."""
    found = Truth()
    async with database.transaction() as sql:

        async def rows(statement: str, *arguments: object) -> list[Any]:
            return list(await sql.fetch(statement, *arguments))

        for row in await rows(
            f"SELECT agent_id::int, owner_address, agent_wallet, {whole('token_uri')} FROM erc8004.erc8004_agents"
        ):
            found.agents[row[0]] = tuple(row)[1:]
        for row in await rows(
            f"SELECT agent_id::int, {whole('key')} AS key, value FROM erc8004.erc8004_agent_metadata WHERE value <> ''"
        ):
            found.metadata[row[0], row[1]] = row[2]
        found.operators = {
            tuple(row)
            for row in await rows("SELECT agent_id::int, operator_address, kind FROM erc8004.erc8004_agent_operators")
        }
        for row in await rows(
            "SELECT agent_id::int, client_address, max(feedback_index)::int "
            "FROM erc8004.erc8004_reputation GROUP BY 1, 2"
        ):
            found.last_indexes[row[0], row[1]] = row[2]
        for row in await rows(
            "SELECT agent_id::int, client_address, feedback_index::int, value_raw, value_decimals::int, "
            f"{whole('tag1')}, {whole('tag2')}, is_revoked, response_count::int FROM erc8004.erc8004_reputation"
        ):
            found.feedback[tuple(row)[:3]] = tuple(row)[3:]
        for row in await rows("SELECT agent_id::int, count(*)::int FROM erc8004.erc8004_feedback_responses GROUP BY 1"):
            found.responses[row[0]] = row[1]
        for row in await rows(
            "SELECT validation_registry, request_hash, validator_address, agent_id::int, coalesce(response, 0)::int, "
            "decode(substr(coalesce(response_hash, '0x' || repeat('00', 32)), 3), 'hex'), "
            f"coalesce({whole('tag')}, ''), extract(epoch FROM coalesce(responded_at, requested_at))::bigint "
            "FROM erc8004.erc8004_validations"
        ):
            found.validations[row[0], row[1]] = tuple(row)[2:]
        for row in await rows(
            "SELECT q.*, s.count::int, s.summary_value, s.summary_value_decimals "
            "FROM unnest($2::numeric[], $3::text[], $4::text[], $5::text[]) AS q (agent, clients, tag1, tag2), "
            "erc8004.erc8004_summary($1, q.agent, string_to_array(q.clients, ','), q.tag1, q.tag2) s",
            CHAIN_ID,
            *columns(truth.summaries, 4),
        ):
            found.summaries[int(row[0]), row[1], row[2], row[3]] = tuple(map(int, tuple(row)[4:]))
        for row in await rows(
            "SELECT q.*, s.count::int, s.average::int "
            "FROM unnest($2::text[], $3::numeric[], $4::text[], $5::text[]) AS q (registry, agent, validators, tag), "
            "erc8004.erc8004_validation_summary($1, q.agent, string_to_array(q.validators, ','), q.tag, q.registry) s",
            CHAIN_ID,
            *columns(truth.validation_summaries, 4),
        ):
            found.validation_summaries[row[0], int(row[1]), row[2], row[3]] = tuple(row)[4:]
    return found


def columns(keys: Iterable[tuple[object, ...]], count: int) -> list[list[object]]:
    """Turn rows into columns, also where there is none."""
    return [[key[n] for key in keys] for n in range(count)]


async def expect_past(database: Database, contracts: Contracts, block_number: int) -> None:
    """Hold `erc8004_agent_at` against the state of an earlier block; odd text is compared elsewhere."""
    then = await contracts.identity(hex(block_number))
    async with database.transaction() as sql:
        rows = await sql.fetch(
            "SELECT a.agent_id::int, f.owner_address, f.agent_wallet, convert_to(f.token_uri, 'UTF8') AS uri "
            "FROM erc8004.erc8004_agents a, erc8004.erc8004_agent_at($1, a.agent_id, $2) f ORDER BY 1",
            CHAIN_ID,
            block_number,
        )
    for agent, owner, wallet, uri in rows:
        expected = then.get(agent, (None, None, None))
        assert (owner, wallet) == expected[:2], (agent, block_number)
        assert uri == expected[2] or "\ufffd".encode() in uri, (agent, block_number)


@asynccontextmanager
async def following(database: Database, node: AnvilNode, registries: Registries) -> AsyncIterator[Worker]:
    """Run the worker live beside the body."""
    options = {"deployment": registries.deployment, "until": None, "finality_blocks": 12}
    async with open_worker(database, [node.url], **options) as worker:
        task = asyncio.create_task(worker.run())
        try:
            yield worker
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def caught_up(worker: Worker, node: AnvilNode) -> None:
    """Wait until the checkpoint is the head itself, not a block of its height."""
    head = await node.rpc("eth_getBlockByNumber", ["latest", False])
    async with asyncio.timeout(DEADLINE_S):
        while worker.progress.block_hash != bytes.fromhex(head["hash"][2:]):  # noqa: ASYNC110 - it sets no event
            await asyncio.sleep(0.005)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = await Database.open(database_url, size=4)
    yield database
    await database.close()


@pytest.mark.parametrize("seed", range(1, 5))
async def test_views_equal_the_contracts_after_every_step(database: Database, seed: int) -> None:
    """Steps of mixed deeds, re-entrant registrations among them, and reorgs of what was indexed already."""
    rng = Random(seed)
    async with anvil(find_anvil()) as node:
        registries = await deploy(node)
        actors = [f"0x{account.hex()}" for account in await accounts(node)]
        contracts, traffic = Contracts(node, registries, actors, rng), Traffic(node, registries, seed)
        async with following(database, node, registries) as worker:
            for step in range(16):
                if step % 4 == 3:
                    await traffic.reorg(rng.randint(1, 3))
                else:
                    await traffic.step(rng.randint(6, 12))
                await caught_up(worker, node)

                truth = await contracts.truth()
                assert await as_indexed(database, truth) == truth
                await expect_past(database, contracts, rng.randint(1, traffic.head))

        assert worker.counters.reorgs == traffic.reorgs == 4
        assert truth.summaries
        assert truth.validation_summaries


async def test_every_event_of_the_contracts_is_indexed_as_what_it_is(database: Database) -> None:
    """No log is undecodable or missing; the count of each event is the chain's own; odd text is marked."""
    async with anvil(find_anvil()) as node:
        registries = await deploy(node)
        traffic = Traffic(node, registries, seed=5)
        for _ in range(6):
            await traffic.step()
        await index(database, [node.url], deployment=registries.deployment)
        logs = await node.rpc("eth_getLogs", [{"fromBlock": "0x0"}])

    async with database.transaction() as sql:
        rows = await sql.fetch("SELECT event, topics[1] AS topic0, defect FROM erc8004.erc8004_events")
    assert Counter(row["topic0"] for row in rows) == Counter(log["topics"][0] for log in logs)
    assert {row["defect"] for row in rows} >= {None, "nul", "bad_utf8"}
    abis = [item for name in ("identity", "reputation", "validation") for item in artifact(name).abi]
    assert {row["event"] for row in rows} == {item["name"] for item in abis if item["type"] == "event"}


async def test_verify_agrees_and_names_the_row_that_was_altered(database_url: str, programs: Programs) -> None:
    """Exit code 0 with everything asked; then 1, with table, key, column and both values."""
    database = await Database.open(database_url, size=2)
    async with anvil(find_anvil()) as node:
        registries = await deploy(node)
        traffic = Traffic(node, registries, seed=7)
        for _ in range(4):
            await traffic.step()
        await index(database, [node.url], deployment=registries.deployment)
        programs.configure(chain_table("local", node.url, deployment=registries.deployment))

        code, equal = await programs.run("verify", "--json")
        async with database.transaction() as sql:
            agent = await sql.fetchrow(
                "UPDATE agents SET owner = '\\x1111111111111111111111111111111111111111' "
                "WHERE agent_id = 3 RETURNING agent_uuid::text"
            )
        altered_code, altered = await programs.run("verify", "--json")
    await database.close()

    assert (code, equal.document["differences"], equal.document["unchecked"]) == (0, 0, 0), equal.stdout
    assert equal.document["checked"] > 100
    assert altered_code == 1
    (chain,) = altered.document["chains"]
    named = [one for one in chain["differences"] if agent["agent_uuid"] in one["key"]]
    assert named, json.dumps(chain["differences"])
    assert all(one["table"] == "agents" and one["column"] == "owner" for one in named)
    assert all("11" * 20 in str(one["stored"]) for one in named)
