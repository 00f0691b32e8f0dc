"""`verify` finds what somebody altered by hand, and says so; the contracts have the last word."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from altering import columns_of, ghosts, ledger_of, losses, one_column_each
from eth_abi.abi import encode
from ledger import CHAIN_ID, Ledger, decoder
from simulator.chain import SimChain
from workload import Workload

from indexer.chain.pool import Pool
from indexer.chain.provider import Provider
from indexer.chain.refusals import CallFailed, PastHead, Pruned, Transport
from indexer.chain.source import Source
from indexer.core.rows import RowBuilder
from indexer.core.types import BlockRange
from indexer.demo.anvil import anvil, find_anvil
from indexer.demo.contracts import deploy
from indexer.demo.traffic import Traffic
from indexer.errors import RpcError, SettingsError
from indexer.store.database import Connection, Database
from indexer.store.difference import WHOLE_ROW, Difference
from indexer.store.encoding import encode_rows
from indexer.store.rebuild import shadow_differences, stored_deployments
from indexer.store.shadow import SHADOW_TABLES
from indexer.verify import Caller, VerifyDocument, asking, exit_code, verify
from indexer.verify.sampling import OLD_FORM, PARTIAL
from indexer.verify.views import GET_VERSION


async def shadow(connection: Connection) -> list[Difference]:
    builder = RowBuilder(CHAIN_ID, await stored_deployments(connection, CHAIN_ID), decoder())
    return (await shadow_differences(connection, CHAIN_ID, builder))[1]


@asynccontextmanager
async def altered(connection: Connection, *statements: str) -> AsyncIterator[set[tuple[str, str]]]:
    """Alter the tables for a moment; yields table and column of what the shadow finds then."""
    attempt = connection.transaction()
    await attempt.start()
    for statement in statements:
        assert await connection.execute(statement) in {"UPDATE 1", "DELETE 1", "INSERT 0 1"}, statement
    yield {(one.table, one.column) for one in await shadow(connection)}
    await attempt.rollback()


async def run(database: Database, sources: dict[int, Caller] | None = None, sample: int = 100) -> VerifyDocument:
    return await verify(database, decoder(), None, sources or {}, sample=sample)


async def execute(database: Database, statement: str, *arguments: object) -> None:
    async with database.transaction() as connection:
        await connection.execute(statement, *arguments)


def places(document: VerifyDocument) -> set[tuple[Any, Any]]:
    """Return table and column of every difference."""
    return {(one["table"], one["column"]) for chain in document["chains"] for one in chain["differences"]}


@pytest.mark.parametrize("seed", range(3))
async def test_what_the_writer_wrote_verifies(database: Database, seed: int) -> None:
    await ledger_of(database, seed=seed)

    document = await run(database)

    assert document["differences"] == 0, document["chains"][0]["differences"]
    assert document["checked"] > 100
    assert document["chains"][0]["unchecked_reasons"] == {asking.NO_RPC: document["unchecked"]}
    assert exit_code(document) == 0


async def test_slices_of_any_size_give_the_same_shadow(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    await ledger_of(database)
    monkeypatch.setattr("indexer.store.shadow.SLICE_LOGS", 20)
    monkeypatch.setattr("indexer.store.shadow._SLICE_BYTES", 9_000)

    assert (await run(database))["differences"] == 0


async def test_a_chain_whose_logs_were_all_taken_back_verifies(database: Database) -> None:
    workload = Workload(1)
    chain = SimChain(seed=1)
    first = chain.mine([])
    for _ in range(10):
        chain.mine(workload.block())
    ledger = await Ledger.open(database)
    await ledger.index(chain)
    await ledger.rollback(first)

    assert (await run(database))["differences"] == 0


async def test_rows_of_retired_contracts_verify(database: Database) -> None:
    await ledger_of(database)
    await execute(database, "UPDATE registries SET active = false")

    assert (await run(database))["differences"] == 0


async def test_every_altered_value_is_found_by_table_and_column(database: Database) -> None:
    """One column of every table at a time, each in one row."""
    await ledger_of(database)
    async with database.transaction(snapshot=True) as connection:
        columns = await columns_of(connection)
        assert set(columns) == set(SHADOW_TABLES)
        for chosen, statements in one_column_each(columns):
            async with altered(connection, *statements) as found:
                expected = {(table, WHOLE_ROW if one.is_key else one.name) for table, one in chosen.items()}
                assert expected <= found
                assert {table for table, _ in found} == set(chosen)


async def test_a_row_that_is_gone_or_too_many_is_found_in_every_table(database: Database) -> None:
    await ledger_of(database)
    async with database.transaction(snapshot=True) as connection:
        columns = await columns_of(connection)
        for statements in (ghosts(columns), losses(columns)):
            async with altered(connection, *statements) as found:
                assert found == {(table, WHOLE_ROW) for table in SHADOW_TABLES}


_LEDGER = (
    ("agent_uuid", "md5('x')::uuid", "logs", "agent_uuid"),
    ("agent_id", "agent_id + 1", "logs", "agent_id"),
    ("event", "'Other'", "logs", "event"),
    ("event_version", "'0'", "logs", "event_version"),
    ("args", "(args::jsonb || '{\"more\": 1}')::text", "logs", "args"),
    ("args", "args || ' more'", "logs", "args"),
    ("args", "NULL", "logs", "args"),
    ("defect", "'odd'", "logs", "defect"),
    ("address", "'\\x0102'", "logs", "address"),
    ("block_timestamp", "block_timestamp + interval '1 microsecond'", "logs", "block_timestamp"),
    ("block_timestamp", "block_timestamp + interval '1 hour'", "feedback", "block_timestamp"),
    ("topics", "topics || topics", "feedback", WHOLE_ROW),
    ("topics", "substr(topics, 2)", "feedback", WHOLE_ROW),
    ("data", "substr(data, 2)", "feedback", WHOLE_ROW),
    ("block_number", "block_number + 100000", "feedback", WHOLE_ROW),
    ("log_index", "log_index + 100000", "feedback", WHOLE_ROW),
)


async def test_an_altered_ledger_row_shows_in_itself_or_in_what_is_made_of_it(database: Database) -> None:
    await ledger_of(database)
    async with database.transaction(snapshot=True) as connection:
        for column, value, table, shown in _LEDGER:
            row = "(SELECT max(ctid) FROM logs WHERE event = 'NewFeedback' AND defect IS NULL)"
            async with altered(connection, f"UPDATE logs SET {column} = {value} WHERE ctid = {row}") as found:
                assert (table, shown) in found, column


async def test_headers_and_neighbours_give_an_altered_block_hash_away(database: Database) -> None:
    await ledger_of(database)
    crowded = "(SELECT block_number FROM logs GROUP BY block_number HAVING count(*) > 1 ORDER BY 1 LIMIT 1)"

    await execute(
        database,
        "UPDATE logs SET block_hash = '\\x01' WHERE ctid = "
        f"(SELECT ctid FROM logs WHERE block_number = {crowded} ORDER BY log_index DESC LIMIT 1)",
    )
    found = places(await run(database))
    await execute(database, "DELETE FROM blocks")
    found_without_headers = places(await run(database))

    assert found == found_without_headers == {("logs", "block_hash")}


async def test_a_gap_of_the_coverage_is_a_difference(database: Database) -> None:
    await ledger_of(database)

    await execute(database, "UPDATE coverage SET from_block = from_block + 2")

    document = await run(database)
    assert document["chains"][0]["gap_blocks"] == 2
    assert places(document) == {("coverage", "gap_blocks")}


async def test_logs_above_the_checkpoint_are_a_difference(database: Database) -> None:
    await ledger_of(database)

    await execute(database, "UPDATE chains SET checkpoint_block = 5")

    assert ("chains", "checkpoint_block") in places(await run(database))


async def test_a_chain_that_is_not_there_is_refused(database: Database) -> None:
    with pytest.raises(SettingsError, match="chain 5 "):
        await verify(database, decoder(), [5], {})


async def test_the_list_of_differences_has_an_end(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    await ledger_of(database)
    await execute(database, "DELETE FROM feedback")
    monkeypatch.setattr("indexer.verify.checks.MAX_LISTED", 3)

    document = await run(database)

    assert document["differences"] == 3
    assert document["chains"][0]["truncated"]


async def test_the_transaction_is_as_before_afterwards(database: Database) -> None:
    await ledger_of(database)
    async with database.transaction(snapshot=True) as connection:
        before = await connection.fetchval("SELECT current_setting('search_path')")

        await shadow(connection)

        assert await connection.fetchval("SELECT current_setting('search_path')") == before
        assert await connection.fetchval("SELECT to_regclass('pg_temp.feedback')") is None
        await connection.execute("UPDATE chains SET updated_at = now()")


# --- the contracts ----------------------------------------------------------------------------------------------------


@dataclass
class Indexed:
    """A local chain with traffic, and a database that holds all of it."""

    database: Database
    source: Source

    async def verify(self, caller: Caller | None = None) -> VerifyDocument:
        return await run(self.database, {CHAIN_ID: caller or self.source})


@pytest.fixture
async def indexed(database: Database) -> AsyncIterator[Indexed]:
    async with anvil(find_anvil()) as node:
        registries = await deploy(node)
        head = await Traffic(node, registries, seed=3).run_fixed(logs_at_least=250, reorgs=1)
        async with Source.open([node.url]) as source:
            ledger = await Ledger.open(database, deployment=registries.deployment)
            batch = await source.fetch(BlockRange(0, head), registries.deployment.addresses)
            rows = encode_rows(ledger.builder.build(batch.logs))
            await ledger.writer.commit(batch, rows, parent=None, state="live", announce=False, finalized=None)
            yield Indexed(database, source)


@dataclass
class Doctored:
    """Passes calls on, but for the contracts' word on their version, or for a fixed answer or error."""

    inner: Caller | None
    version: str | None = None
    error: RpcError | None = None
    answer: bytes | None = None

    async def call(self, to: bytes, data: bytes, block_hash: bytes) -> bytes:
        if self.version is not None and data == GET_VERSION.call_data(()):
            return encode(["string"], [self.version])
        if self.error is not None:
            raise self.error
        if self.answer is not None:
            return self.answer
        assert self.inner is not None
        return await self.inner.call(to, data, block_hash)


async def test_the_contracts_say_what_the_tables_say(indexed: Indexed) -> None:
    document = await indexed.verify()

    assert document["differences"] == 0, document["chains"][0]["differences"]
    assert document["unchecked"] == 0, document["chains"][0]["unchecked_reasons"]
    assert exit_code(document) == 0


async def test_the_contracts_contradict_altered_tables(indexed: Indexed) -> None:
    stranger = "decode(repeat('ab', 20), 'hex')"
    for statement in (
        f"UPDATE agents SET owner = {stranger}, wallet = {stranger}, token_uri = 'x', token_uri_raw = NULL",
        "UPDATE agent_metadata SET value = '\\x1234'",
        "UPDATE agent_clients SET last_index = last_index + 1",
        "UPDATE feedback SET value_raw = value_raw + 1000, tag1 = 'x', tag1_raw = NULL, response_count = 77",
        f"UPDATE validation_requests SET validator = {stranger}, response = 101",
    ):
        await execute(indexed.database, statement)

    document = await indexed.verify()

    by_contract = {
        (one["table"], one["column"]) for one in document["chains"][0]["differences"] if "agent_id=" in str(one["key"])
    }
    assert by_contract >= {
        ("agents", "owner"), ("agents", "wallet"), ("agents", "token_uri"), ("agent_metadata", "value"),
        ("agent_clients", "last_index"), ("feedback", "value_raw"), ("feedback", "tag1"),
        ("feedback", "response_count"), ("erc8004_summary", "summary_value"), ("validation_requests", "validator"),
        ("validation_requests", "response"), ("erc8004_validation_summary", "average"),
    }  # fmt: skip
    assert exit_code(document) == 1


async def test_an_agent_that_the_contract_does_not_know_is_a_difference(indexed: Indexed) -> None:
    await execute(indexed.database, "UPDATE agents SET agent_id = 4242 WHERE agent_id = 0")

    document = await indexed.verify()

    told = [one for one in document["chains"][0]["differences"] if "agent_id=4242" in str(one["key"])]
    assert ("agents", "owner", "ownerOf reverts") in {(one["table"], one["column"], one["expected"]) for one in told}


async def test_what_cannot_be_asked_is_counted_by_its_reason(indexed: Indexed) -> None:
    """Where nothing at all could be asked that is a failure, though no difference."""
    bare = CallFailed("node", 'execution reverted "0x"', out_of_gas=False)
    cases = (
        (Doctored(indexed.source, error=Pruned("node", "missing trie node")), {asking.NO_STATE}, 1),
        (Doctored(indexed.source, error=CallFailed("node", "out of gas", out_of_gas=True)), {asking.OUT_OF_GAS}, 1),
        (Doctored(indexed.source, error=PastHead("node", "unknown block")), {asking.NO_BLOCK}, 1),
        (Doctored(indexed.source, error=bare), {asking.NO_FUNCTION}, 1),
        (Doctored(indexed.source, answer=b""), {asking.NO_FUNCTION}, 1),
        (Doctored(indexed.source, version="1.1.0"), {asking.OTHER_VERSION}, 0),
    )
    for caller, reasons, code in cases:
        document = await indexed.verify(caller)

        assert document["differences"] == 0
        assert reasons <= set(document["chains"][0]["unchecked_reasons"]) <= {*reasons, asking.OTHER_VERSION}
        assert document["contracts_unreachable"] is bool(code)
        assert exit_code(document) == code


async def test_what_the_contracts_no_longer_hold_is_not_asked(database: Database) -> None:
    """Storage began anew once, and of some agents the registration was never indexed."""
    workload, chain = Workload(2, agents=12), SimChain(seed=2)
    for _ in range(24):
        chain.mine(workload.block())
    await (await Ledger.open(database)).index(chain)
    caller = Doctored(None, version="2.0.0", error=Pruned("node", "missing trie node"))

    document = await run(database, {CHAIN_ID: caller})

    assert set(document["chains"][0]["unchecked_reasons"]) == {OLD_FORM, PARTIAL, asking.NO_STATE}


async def test_a_node_that_goes_away_on_the_way_is_an_error(indexed: Indexed) -> None:
    class Leaving(Doctored):
        calls = 0

        async def call(self, to: bytes, data: bytes, block_hash: bytes) -> bytes:
            self.calls += 1
            self.error = Transport("node", "gone") if self.calls > 20 else None
            return await super().call(to, data, block_hash)

    with pytest.raises(Transport):
        await indexed.verify(Leaving(indexed.source))


async def test_a_node_that_cannot_be_reached_is_an_error(database: Database) -> None:
    await ledger_of(database)
    async with Source(Pool([Provider("http://127.0.0.1:1")], rounds=1)) as source:
        with pytest.raises(RpcError):
            await run(database, {CHAIN_ID: source})
