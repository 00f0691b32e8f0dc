"""The demo's chain: the same seed gives the same blocks, every event occurs, and the chain survives restarts."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from eth_hash.auto import keccak

from indexer.demo.anvil import AnvilNode, anvil, find_anvil
from indexer.demo.contracts import Registries, artifact, call_data, deploy, view
from indexer.demo.traffic import Traffic
from indexer.errors import Fatal

CLOCK = 1_700_000_000  # a fixed start makes block hashes comparable


async def all_logs(node: AnvilNode) -> list[dict[str, Any]]:
    """Return every log of the chain."""
    logs: list[dict[str, Any]] = await node.rpc("eth_getLogs", [{"fromBlock": "0x0"}])
    return logs


async def logs_since(node: AnvilNode, block_number: int) -> int:
    """Count the logs above a block."""
    return len(await node.rpc("eth_getLogs", [{"fromBlock": hex(block_number + 1)}]))


async def head_hash(node: AnvilNode) -> str:
    """Return the hash of the newest block."""
    return str((await node.rpc("eth_getBlockByNumber", ["latest", False]))["hash"])


def event_names() -> dict[str, str]:
    """Map topic0 to the event's name, over all registries."""
    events = [item for name in ("identity", "reputation", "validation") for item in artifact(name).abi]
    signatures = {
        f"{item['name']}({','.join(entry['type'] for entry in item['inputs'])})"
        for item in events
        if item["type"] == "event"
    }
    return {f"0x{keccak(text.encode()).hex()}": text.partition("(")[0] for text in signatures}


async def test_the_fixed_amount_is_the_same_in_every_run() -> None:
    """Block hashes agree, reorgs included."""
    hashes = []
    for _ in range(2):
        async with anvil(find_anvil(), timestamp=CLOCK) as node:
            traffic = Traffic(node, await deploy(node), seed=8004)
            await traffic.run_fixed(logs_at_least=300)
            hashes.append(await head_hash(node))
            assert traffic.reorgs == 2

    assert hashes[0] == hashes[1]


async def test_the_fixed_amount_holds_every_kind_of_event_and_odd_content() -> None:
    """At least a thousand logs; texts that PostgreSQL cannot hold; refused transactions too."""
    async with anvil(find_anvil()) as node:
        registries = await deploy(node)
        traffic = Traffic(node, registries, seed=1)

        head = await traffic.run_fixed()

        logs = await all_logs(node)
        names = event_names()
        found = Counter(names[log["topics"][0]] for log in logs)
        assert head == await node.head() == traffic.head
        assert traffic.logs >= 1000
        assert set(found) == set(names.values())
        assert found["FeedbackRevoked"] >= 5
        data = b"".join(bytes.fromhex(log["data"][2:]) for log in logs)
        assert b"nul\0inside" in data
        assert b"bad \xc3\x28 utf-8" in data
        assert "🤖".encode() in data
        addresses = {log["address"] for log in logs}
        assert addresses == {f"0x{address.hex()}" for address in registries.deployment.addresses}


async def test_a_reorg_replaces_blocks_and_includes_some_transactions_again() -> None:
    """Equal height, new hashes; what came again kept its hash, the rest is gone; traffic goes on."""
    async with anvil(find_anvil()) as node:
        traffic = Traffic(node, await deploy(node), seed=3)
        for _ in range(4):
            await traffic.step()
        before = {log["transactionHash"]: log["blockHash"] for log in await all_logs(node)}
        base = await node.rpc("eth_getBlockByNumber", [hex(traffic.head - 3), False])

        await traffic.reorg(3)

        after = {log["transactionHash"]: log["blockHash"] for log in await all_logs(node)}
        again = [tx for tx in before if tx in after and before[tx] != after[tx]]
        assert await node.head() == traffic.head
        assert await node.rpc("eth_getBlockByNumber", [hex(traffic.head - 3), False]) == base
        assert again
        assert set(before) - set(after)
        assert traffic.logs == await logs_since(node, traffic.first_block)
        await traffic.step()
        assert traffic.logs == await logs_since(node, traffic.first_block)
        assert await node.rpc("txpool_status") == {"pending": "0x0", "queued": "0x0"}


async def test_a_reorg_never_reaches_below_the_first_block_of_the_traffic() -> None:
    """The registries stay deployed."""
    async with anvil(find_anvil()) as node:
        registries = await deploy(node)
        traffic = Traffic(node, registries, seed=3)
        await traffic.reorg(2)
        await traffic.step()

        await traffic.reorg(50)

        assert traffic.head == traffic.first_block + 1
        assert await deploy(node) == registries


async def test_live_traffic_goes_on_until_cancelled() -> None:
    """Blocks keep coming."""
    async with anvil(find_anvil()) as node:
        traffic = Traffic(node, await deploy(node), seed=3)

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await traffic.run_forever(0.001)

        assert traffic.reorgs
        assert await node.head() > traffic.first_block + 20


async def test_a_kept_chain_goes_on_after_a_clean_stop(tmp_path: Path) -> None:
    """Same blocks, same registries; the state at the head can be asked; a second process is refused."""
    state = tmp_path / "chain.json"
    async with anvil(find_anvil(), state=state) as node:
        registries = await deploy(node)
        await Traffic(node, registries, seed=5).step()
        kept = await head_hash(node)
        assert node.fresh
        with pytest.raises(Fatal, match="another process"):
            async with anvil(find_anvil(), state=state):
                pass

    async with anvil(find_anvil(), state=state) as node:
        assert not node.fresh
        assert await head_hash(node) == kept
        assert await deploy(node) == registries
        traffic = Traffic(node, registries, seed=5)
        await traffic.step()
        assert traffic.logs > 0
        assert await owner_of_first(node, registries, {"blockHash": kept})


async def owner_of_first(node: AnvilNode, registries: Registries, block: object) -> str:
    """Return the owner of agent 0 as of a block."""
    owner = await view(node, registries.identity, "ownerOf(uint256)", ["address"], 0, block=block)
    return str(owner[0])


@pytest.mark.parametrize("content", [None, "{ cut off"], ids=["lost", "damaged"])
async def test_a_lost_state_begins_a_new_chain(tmp_path: Path, content: str | None) -> None:
    """Neither a missing nor an unreadable file is an error."""
    state = tmp_path / "chain.json"
    if content:
        state.write_text(content)

    async with anvil(find_anvil(), state=state) as node:
        assert node.fresh
        assert await node.head() == 0
    assert state.is_file()


async def test_the_chain_of_a_killed_process_goes_on(tmp_path: Path) -> None:
    """Its anvil outlived it and is stopped cleanly by the next start."""
    state = tmp_path / "chain.json"
    code = (
        "import asyncio, os, signal, sys; from pathlib import Path\n"
        "from indexer.demo.anvil import anvil, find_anvil\n"
        "async def main():\n"
        "    async with anvil(find_anvil(), state=Path(sys.argv[1])) as node:\n"
        "        for _ in range(7): await node.mine()\n"
        "        print(node.pid, flush=True)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, str(state), stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    assert process.returncode == -signal.SIGKILL

    async with anvil(find_anvil(), state=state) as node:
        assert not node.fresh
        assert await node.head() == 7
        assert node.pid != int(said)


async def test_anvil_that_does_not_start_says_why() -> None:
    """An option that anvil refuses, and a port in use."""
    with pytest.raises(Fatal, match="no-such-option"):
        async with anvil(find_anvil(), no_such_option=True):
            pass
    async with anvil(find_anvil()) as node:
        with pytest.raises(Fatal, match="in use"):
            async with anvil(find_anvil(), port=int(node.url.rpartition(":")[2])):
                pass


def test_an_anvil_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """INDEXER_ANVIL_BIN must name the program; PATH and folders are searched for the tested version."""
    other = tmp_path / "anvil"
    other.write_text("#!/bin/sh\necho another program\n")
    other.chmod(0o755)
    monkeypatch.setenv("INDEXER_ANVIL_BIN", str(other))

    with pytest.raises(Fatal, match="INDEXER_ANVIL_BIN"):
        find_anvil()


async def test_call_data_keeps_any_bytes() -> None:
    """A `string` argument may be what UTF-8 cannot hold."""
    data = call_data("register(string,(string,bytes)[])", b"\xff\0", [(b"\xfe", b"")])

    assert b"\xff\0" in data
    assert b"\xfe" in data
