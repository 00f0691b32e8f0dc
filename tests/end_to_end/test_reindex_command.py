"""`reindex` as a shell sees it: beside a running daemon, killed in the middle, on a halted chain, without any RPC."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from indexing import expect_truth, grown, index
from ledger import CHAIN_ID, tables_of
from processes import Program, Programs, chain_table, until, with_key
from published import is_equal
from redis.asyncio import Redis
from repairing import blocks_with_logs, drop_logs, execute, invent_log, value_of
from simulator.chain import SimChain
from simulator.node import SimNode
from workload import Workload

from indexer.core.types import Deployment
from indexer.store.database import Database
from indexer.store.marks import Marks

DEAD = "http://127.0.0.1:9"  # the port of discard: nothing listens there
NO_VALKEY = "redis://:s3cretWord@127.0.0.1:9"
OTHER = Deployment(b"\x90" * 20, b"\x91" * 20, (b"\x92" * 20,), 0)


async def ready(program: Program) -> None:
    async def answers() -> bool:
        return (await program.get("/ready"))[0] == 200

    await until(answers, lambda: f"/ready, logged {program.stderr[-5:]}")


async def at_head(database: Database, chain: SimChain) -> bool:
    found = await value_of(database, "SELECT checkpoint_hash FROM chains WHERE chain_id = $1", chain.chain_id)
    return bool(found == chain.head.hash)


def expect_one_message(program: Program, words: str) -> None:
    assert len(program.messages) == 1, program.stderr
    assert words in program.messages[0]
    assert "Traceback" not in "".join(program.stderr)


# --- a range --------------------------------------------------------------------------------------------------------


async def test_beside_a_running_daemon_that_commits_meanwhile(
    programs: Programs, database: Database, clean: Database
) -> None:
    chain, workload = grown(1, 150)
    async with SimNode(chain) as node:
        programs.configure(chain_table("local", with_key(node.url), max_block_range=10))
        daemon = await programs.start("run")
        await ready(daemon)
        mining = asyncio.create_task(mine(chain, workload))
        blocks = await blocks_with_logs(database)
        await drop_logs(database, blocks[3], blocks[12])
        await invent_log(database, blocks[20])
        node.knobs.latency_s = 0.02
        code, program = await programs.run("reindex", "--chain", "local", "--json")
        mining.cancel()
        await asyncio.gather(mining, return_exceptions=True)
        await until(lambda: at_head(database, chain), "the daemon is at the head")
        assert await daemon.stop() == 0

    assert code == 0, program.stderr
    document = program.document
    assert (document["chain"], document["from_block"], document["next_block"]) == ("local", 0, None)
    assert document["logs_added"] > 0
    assert document["logs_removed"] == 1
    assert len(document["differences"]) == document["logs_added"] + 1
    assert program.count("range_reindexed") > 0
    assert not program.messages
    assert daemon.count("lease_lost") == daemon.count("chain_restarted") == 0
    await expect_truth(database, clean, chain)


async def mine(chain: SimChain, workload: Workload) -> None:
    """Go on with the chain, with small reorgs."""
    while True:
        chain.mine(workload.block(3))
        if chain.head.number % 5 == 0:
            chain.reorg(2, [workload.block(3) for _ in range(3)])
        await asyncio.sleep(0.03)


async def test_killed_in_the_middle_it_goes_on_where_it_was(
    programs: Programs, database: Database, clean: Database
) -> None:
    chain, _ = grown(2, 150)
    asked: list[int] = []

    def listen(method: str, params: list[Any], answer: object) -> object:
        if method == "eth_getLogs" and "fromBlock" in params[0]:
            asked.append(int(params[0]["fromBlock"], 16))
        return answer

    async with SimNode(chain) as node:
        await index(database, [node.url])
        blocks = await blocks_with_logs(database)
        await drop_logs(database, blocks[3], blocks[5])
        await drop_logs(database, blocks[-5], blocks[-3])
        programs.configure(chain_table("local", node.url, max_block_range=5, max_concurrency=1))
        node.knobs.latency_s = 0.05
        program = await programs.start("reindex", "--chain", "local")
        await until(lambda: marked(database, 30), "some slices are done")
        await program.kill()
        mark = await Marks(database, CHAIN_ID).read()
        node.knobs.latency_s = 0.0
        node.intercept = listen
        code, again = await programs.run("reindex", "--chain", "local", "--json")

    assert mark is not None
    assert code == 0, again.stderr
    assert min(asked) == mark.next_block
    assert again.document["next_block"] is None
    assert await Marks(database, CHAIN_ID).read() is None
    await expect_truth(database, clean, chain)


async def marked(database: Database, block: int) -> bool:
    mark = await Marks(database, CHAIN_ID).read()
    return mark is not None and mark.next_block >= block


async def test_sigterm_ends_it_between_two_slices(programs: Programs, database: Database) -> None:
    chain, _ = grown(3, 120)
    async with SimNode(chain) as node:
        await index(database, [node.url])
        programs.configure(chain_table("local", node.url, max_block_range=5))
        node.knobs.latency_s = 0.05
        program = await programs.start("reindex", "--chain", "local", "--json")
        await until(lambda: marked(database, 20), "some slices are done")
        code = await program.stop()

    assert code == 0
    assert 20 <= program.document["next_block"] < 120


async def test_what_one_provider_alone_says_is_told_with_the_place_to_go_on(
    programs: Programs, database: Database
) -> None:
    chain, _ = grown(4, 80)
    async with SimNode(chain, receipts=False) as node:
        await index(database, [node.url])
        block = (await blocks_with_logs(database))[20]
        await invent_log(database, block)
        programs.configure(chain_table("local", node.url, max_block_range=10))
        code, program = await programs.run("reindex", "--chain", "local", "--to", "70")

    assert code == 1
    [go_on] = [line for line in program.stdout.splitlines() if line.startswith("go_on")]
    first = int(go_on.split("--from ")[1].split()[0])
    assert first <= block < first + 10
    assert go_on.endswith("--to 70")
    assert await value_of(database, "SELECT count(*) FROM logs WHERE defect = 'invented'") == 1


async def test_an_rpc_out_of_reach_and_chains_that_are_not_there_end_it_with_2(
    programs: Programs, database: Database
) -> None:
    chain, _ = grown(5, 20)
    async with SimNode(chain) as node:
        await index(database, [node.url])
        programs.configure(
            chain_table("local", with_key(DEAD)), chain_table("other", node.url, chain_id=5, deployment=OTHER)
        )
        for words, told in [
            (("--chain", "local"), "no RPC can be reached"),
            (("--chain", "locla"), "did you mean"),
            (("--chain", "other"), "other is not in this database; it holds: local"),
            (("--rebuild", "--chain", "locla"), "locla is not in this database; it holds: local"),
        ]:
            code, program = await programs.run("reindex", *words)

            assert (code, program.stdout) == (2, ""), program.stderr
            expect_one_message(program, told)


# --- halts ----------------------------------------------------------------------------------------------------------


async def test_a_halt_is_lifted_and_the_running_daemon_goes_on_by_itself(
    programs: Programs, database: Database, clean: Database
) -> None:
    chain, workload = grown(6, 80)
    other, _ = grown(7, 20)
    other.chain_id = 5
    async with SimNode(chain, finalized_depth=10) as node, SimNode(other, chain_id=5) as second:
        programs.configure(
            chain_table("local", node.url), chain_table("other", second.url, chain_id=5, deployment=OTHER)
        )
        daemon = await programs.start("run")
        await ready(daemon)
        chain.reorg(40, [workload.block(4) for _ in range(45)])
        halt = await daemon.logged("chain_halted", chain="local")
        code, program = await programs.run("reindex", "--chain", "local", "--json")
        await daemon.logged("chain_resumed", chain="local")
        chain.mine(workload.block(4))
        await until(lambda: at_head(database, chain), "the daemon is at the head")
        await ready(daemon)
        assert await daemon.stop() == 0

    assert "erc8004-indexer reindex --chain local" in halt["reason"]
    assert code == 0, program.stderr
    assert program.document["ancestor"] <= 40
    await execute(database, "DELETE FROM chain_totals WHERE chain_id = 5")
    await expect_truth(database, clean, chain)


# --- projections ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("running", [True, False], ids=["beside a daemon", "alone"])
async def test_rebuild_merges_what_differs_and_valkey_follows(
    programs: Programs, database: Database, clean: Database, valkey_url: str, running: bool
) -> None:
    chain, workload = grown(8, 60)
    async with SimNode(chain) as node, Redis.from_url(valkey_url, decode_responses=True) as valkey:
        programs.configure(chain_table("local", node.url))
        daemon = await programs.start("run") if running else None
        if daemon is None:
            await programs.run("run", "--until", "head")
        else:
            await ready(daemon)
        await execute(database, "UPDATE agents SET token_uri = 'altered', token_uri_raw = NULL")
        await execute(database, "DELETE FROM agent_values")
        chain.mine(workload.block(4))
        code, program = await programs.run("reindex", "--rebuild", "--json")
        if daemon is None:
            await programs.run("run", "--until", "head")
        await until(lambda: at_head(database, chain), "the head is indexed")
        await until(lambda: is_equal(database, valkey), "Valkey says the same")
        again, sound = await programs.run("reindex", "--rebuild", "--chain", "local", "--json")

    assert code == 0, program.stderr
    [one] = program.document["chains"]
    assert one["merged"] > 0
    assert {"agents", "agent_values"} <= {each["table"] for each in one["differences"]}
    assert (again, sound.document["merged"]) == (0, 0)
    await expect_truth(database, clean, chain)


async def test_rebuild_needs_neither_rpc_nor_valkey(programs: Programs, database: Database) -> None:
    chain, _ = grown(9, 40)
    async with SimNode(chain) as node:
        await index(database, [node.url])
    truth = await tables_of(database)
    await execute(database, "UPDATE agents SET token_uri = 'altered'")
    programs.configure(chain_table("local", DEAD))
    code, program = await programs.run("reindex", "--rebuild", VALKEY_URL=NO_VALKEY)

    assert code == 0, program.stderr
    assert program.count("publisher_failed") == 1
    assert await tables_of(database) == truth
