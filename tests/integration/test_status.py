"""The status document, read from a real database: what is healthy, and what is told of a chain."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from indexer.core.types import BlockRef
from indexer.errors import StoreUnavailable
from indexer.store.chains import Chains
from indexer.store.database import Database
from indexer.store.reader import read_status

HEAD_TIME = datetime(2026, 11, 1, 12, tzinfo=UTC)
CONTRACT = bytes(19) + b"\x01"

CHAIN = """
INSERT INTO erc8004_data.chains (chain_id, name, start_block, state, halt_reason, checkpoint_block, checkpoint_hash,
                                 checkpoint_time, cursor, reorgs, updated_at)
VALUES ($1, $2, 0, $3, $4, $5, $6, $7, 50, 3, now() - make_interval(secs => $8))
"""
HEAD = """
INSERT INTO erc8004_data.heads (chain_id, head_block, head_time, finalized_block, providers, warnings, publisher,
                                max_lag_s, stall_after_s, heartbeat_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, 60, 90, now() - make_interval(secs => $8))
"""


async def add_chain(
    database: Database,
    *,
    chain_id: int = 31337,
    name: str = "local",
    state: str = "live",
    halt_reason: str | None = None,
    lag_s: float = 0,
    silent_s: float = 0,
    warnings: list[Any] | None = None,
    publisher: dict[str, Any] | None = None,
) -> None:
    """Write a chain at block 100 of 100 (or behind by `lag_s` seconds and as many blocks), as the daemon would."""
    checkpoint = 100 - int(lag_s)
    async with database.transaction() as connection:
        time = HEAD_TIME - timedelta(seconds=lag_s)
        await connection.execute(CHAIN, chain_id, name, state, halt_reason, checkpoint, b"\xab" * 32, time, silent_s)
        providers = json.dumps([{"host": "127.0.0.1", "state": "ok"}])
        left = json.dumps(publisher) if publisher is not None else None
        told = json.dumps(warnings or [])
        await connection.execute(HEAD, chain_id, 100, HEAD_TIME, 90, providers, told, left, silent_s)


async def add_contract(database: Database, chain_id: int, *covered: tuple[int, int]) -> None:
    """Configure a contract from block 10 on, fetched in the ranges `covered`."""
    async with database.transaction() as connection:
        await connection.execute(
            "INSERT INTO registries VALUES ($1, $2, 'identity', $2, 0, 10, true)", chain_id, CONTRACT
        )
        for bounds in covered:
            await connection.execute(
                "INSERT INTO coverage VALUES ($1, $2, $3, $4, 'logs')", chain_id, CONTRACT, *bounds
            )


async def only_chain(database: Database) -> Any:
    """Return the one chain there is."""
    (chain,) = (await read_status(database))["chains"]
    return chain


async def test_a_chain_at_its_head_is_healthy_and_told_in_full(database: Database) -> None:
    await add_chain(database, publisher={"cursor": 42, "backlog": 0})
    async with database.transaction() as connection:
        await connection.execute("INSERT INTO leases VALUES (31337, 'host:1', 1, now() + interval '10 s')")

    document = await read_status(database)

    assert document["healthy"]
    (chain,) = document["chains"]
    assert isinstance(updated_at := chain.pop("updated_at"), str)  # type: ignore[misc]
    assert datetime.fromisoformat(updated_at).tzinfo is not None
    assert chain == {
        "chain_id": 31337,
        "chain": "local",
        "state": "live",
        "problems": [],
        "head_block": 100,
        "finalized_block": 90,
        "checkpoint_block": 100,
        "checkpoint_hash": "0x" + "ab" * 32,
        "checkpoint_time": "2026-11-01T12:00:00+00:00",
        "lag_blocks": 0,
        "lag_seconds": 0.0,
        "gap_blocks": 0,
        "gaps": [],
        "proof": "logs",
        "proofs": {},
        "undecodable_logs": 0,
        "reorgs": 3,
        "providers": [{"host": "127.0.0.1", "state": "ok"}],
        "warnings": [],
        "publisher": {"cursor": 42, "backlog": 8},
        "holder": "host:1",
        "halt_reason": None,
    }
    json.dumps(document)


async def test_problems_of_a_chain_make_the_whole_unhealthy(database: Database) -> None:
    cases: list[tuple[str, dict[str, Any], list[str]]] = [
        ("backfilling far away", {"state": "backfilling", "lag_s": 70}, ["backfilling", "lagging"]),
        ("backfilling near the head", {"state": "backfilling"}, ["backfilling"]),
        ("halted", {"state": "halted", "silent_s": 91}, ["halted"]),
        ("lag allowed", {"lag_s": 60}, []),
        ("lag too long", {"lag_s": 61}, ["lagging"]),
        ("no heartbeat", {"silent_s": 91}, ["stalled"]),
    ]
    for chain_id, (name, given, _) in enumerate(cases):
        await add_chain(database, chain_id=chain_id, name=name, **given)

    document = await read_status(database)

    assert {chain["chain"]: chain["problems"] for chain in document["chains"]} == {
        name: problems for name, _, problems in cases
    }
    assert not document["healthy"]


async def test_blocks_never_fetched_for_a_contract_are_gaps(database: Database) -> None:
    cases: dict[int, list[tuple[int, int]]] = {0: [(10, 100)], 2: [(10, 49), (52, 100)], 91: []}
    for gap_blocks, covered in cases.items():
        await add_chain(database, chain_id=1 + gap_blocks, name=f"{gap_blocks:02}")
        await add_contract(database, 1 + gap_blocks, *covered)

    document = await read_status(database)

    assert [(chain["gap_blocks"], chain["problems"]) for chain in document["chains"]] == [
        (0, []),
        (2, ["gaps"]),
        (91, ["gaps"]),
    ]
    assert not document["healthy"]
    lacking = [[(gap["from_block"], gap["to_block"]) for gap in chain["gaps"]] for chain in document["chains"]]
    assert lacking == [[], [(50, 51)], [(10, 100)]]
    assert [chain["proofs"] for chain in document["chains"]] == [{"logs": 91}, {"logs": 89}, {}]


async def test_the_weakest_contract_speaks_for_the_level_of_a_block(database: Database) -> None:
    await add_chain(database)
    async with database.transaction() as connection:
        for position, (address, start, intervals) in enumerate(
            (
                (CONTRACT, 10, [(10, 39, "receipts"), (40, 100, "logs")]),
                (b"\x02" * 20, 30, [(30, 49, "receipts"), (60, 100, "off")]),
                (b"\x03" * 20, 101, []),
            )
        ):
            registry = (address, position, start)
            await connection.execute(
                "INSERT INTO registries VALUES (31337, $1, 'identity', $1, $2, $3, true)", *registry
            )
            for interval in intervals:
                await connection.execute("INSERT INTO coverage VALUES (31337, $1, $2, $3, $4)", address, *interval)

    chain = await only_chain(database)

    assert chain["proofs"] == {"off": 41, "logs": 10, "receipts": 30}
    assert chain["gaps"] == [{"from_block": 50, "to_block": 59, "addresses": ["0x" + "02" * 20]}]
    assert chain["gap_blocks"] == 10


async def test_what_nobody_knows_yet_is_null(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute(CHAIN, 31337, "local", "backfilling", None, -1, None, None, 0)

    chain = await only_chain(database)

    assert chain["problems"]
    for figure in ("head_block", "lag_blocks", "lag_seconds", "checkpoint_hash", "checkpoint_time", "publisher"):
        assert chain[figure] is None
    assert chain["providers"] == []


async def test_a_lease_that_ran_out_has_no_holder(database: Database) -> None:
    await add_chain(database)
    async with database.transaction() as connection:
        await connection.execute("INSERT INTO leases VALUES (31337, 'gone', 1, now() - interval '1 s')")

    assert (await only_chain(database))["holder"] is None


async def test_no_url_is_told(database: Database) -> None:
    await add_chain(
        database,
        state="halted",
        halt_reason="node https://rpc.example/v1/SECRET said no",
        warnings=['he said "wss://x.example/SECRET"', {"at": ["postgresql://u:SECRET@h/d"]}],
    )

    document = await read_status(database)

    assert "SECRET" not in json.dumps(document)
    assert document["chains"][0]["halt_reason"] == "node *** said no"
    assert document["chains"][0]["warnings"] == ['he said "***"', {"at": ["***"]}]


async def test_a_database_without_chains_is_unhealthy_with_a_hint(database: Database) -> None:
    document = await read_status(database)

    assert (document["healthy"], document["chains"]) == (False, [])
    assert "erc8004-indexer run" in document["hint"]


async def test_a_database_that_was_never_migrated_is_unhealthy_with_a_hint(empty_database_url: str) -> None:
    database = await Database.open(empty_database_url, size=1)

    document = await read_status(database)

    await database.close()
    assert (document["healthy"], document["chains"]) == (False, [])
    assert "erc8004-indexer migrate" in document["hint"]


async def test_a_database_that_is_away_is_an_error_of_ours(database: Database) -> None:
    await add_chain(database)
    await database.close()

    with pytest.raises(StoreUnavailable):
        await read_status(database)


async def test_hearing_a_node_is_no_sign_of_life_and_keeping_up_is(database: Database) -> None:
    await add_chain(database, silent_s=91)
    head = BlockRef(101, b"\xcd" * 32, b"\xab" * 32, int(HEAD_TIME.timestamp()))

    await Chains(database).observe(31337, head, 95, [], keeps_up=False)
    assert (await only_chain(database))["problems"] == ["stalled"]

    await Chains(database).observe(31337, head, 95, [], keeps_up=True)
    assert (await only_chain(database))["problems"] == []
