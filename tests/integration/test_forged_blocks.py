"""A provider that makes up whole blocks, with hash, root and receipts of their own, takes nothing away by that."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from indexing import expect_truth, grown, index
from repairing import blocks_with_logs, execute, open_keeper, reindex, value_of
from simulator.node import SimNode

from indexer.core.proof import NO_BLOOM, header_hash
from indexer.core.receipts import EMPTY_ROOT
from indexer.store.slices import Unconfirmed


def forging(number: int, *, rehashed: bool = True) -> Callable[[str, list, object], object]:
    """Make that block an empty one, under a hash of its own or, where nobody computes it, under the true one."""
    forged: dict[str, str] = {}

    def told(method: str, params: list, answer: object) -> object:
        if method.startswith("eth_getBlockBy") and isinstance(answer, dict) and int(answer["number"], 16) == number:
            forged.update(answer, receiptsRoot="0x" + EMPTY_ROOT.hex(), logsBloom="0x" + NO_BLOOM.hex())
            if rehashed:
                forged["hash"] = "0x" + (header_hash(forged) or b"").hex()
            return forged
        if method == "eth_getLogs" and isinstance(answer, list):
            return [log for log in answer if int(log["blockNumber"], 16) != number]
        if method == "eth_getBlockReceipts" and params[0] in {forged.get("hash"), hex(number)}:
            return []
        return answer

    return told


async def middle(database) -> int:
    return next(number for number in await blocks_with_logs(database) if number >= 40)


@pytest.mark.parametrize("proof", ["off", "logs", "receipts"])
@pytest.mark.parametrize("receipts", [True, False], ids=["all receipts", "receipts of the liar alone"])
async def test_a_made_up_block_takes_no_log_away_in_a_reindex(database, clean, proof: str, receipts: bool) -> None:
    chain, _ = grown(22, 90)
    async with SimNode(chain) as liar, SimNode(chain, receipts=receipts) as honest:
        await index(database, [honest.url], finality_blocks=10)
        number = await middle(database)
        liar.intercept = forging(number, rehashed=proof != "off")
        outcome = await reindex(
            database, [liar.url, honest.url], number, number, finality_blocks=10, proof=proof, patience_s=0.1
        )

    assert (outcome.logs_removed, outcome.exit_code) == (0, 1)
    await expect_truth(database, clean, chain)


async def test_a_made_up_block_takes_no_log_away_in_an_audit(database, clean) -> None:
    chain, _ = grown(22, 90)
    async with SimNode(chain) as liar, SimNode(chain) as honest:
        await index(database, [honest.url], finality_blocks=10)
        number = await middle(database)
        liar.intercept = forging(number)
        async with open_keeper(database, [liar.url, honest.url]) as keeper:
            with pytest.raises(Unconfirmed):
                await keeper._examine([number])

    await expect_truth(database, clean, chain)


async def test_a_made_up_block_confirms_nothing(database) -> None:
    """Where receipts of one block of several are not to be had, each is asked about alone."""
    chain, _ = grown(22, 90)
    async with SimNode(chain) as liar, SimNode(chain) as honest:
        await index(database, [honest.url], finality_blocks=10)
        number = await middle(database)
        async with open_keeper(database, [liar.url, honest.url]) as keeper:
            stored = [log for log in chain.logs() if log.block_number == number]
            liar.intercept = forging(number)
            assert not await keeper.source.confirms(number, [], keeper.plan.addresses, against=stored)
            liar.intercept = None
            assert await keeper.source.confirms(number, stored, keeper.plan.addresses, against=stored)


@pytest.mark.parametrize("providers", [1, 2])
async def test_logs_stored_under_another_hash_are_replaced_where_two_have_the_block(
    database, clean, providers: int
) -> None:
    chain, _ = grown(23, 90)
    async with SimNode(chain) as node, SimNode(chain) as second:
        await index(database, [node.url], finality_blocks=10)
        number = await middle(database)
        await execute(database, "UPDATE logs SET block_hash = sha256('other') WHERE block_number = $1", number)
        outcome = await reindex(database, [node.url, second.url][:providers], finality_blocks=10)

    held = await value_of(database, "SELECT count(*) FROM logs WHERE block_hash = sha256('other')")
    assert (outcome.exit_code, held > 0) == ((0, False) if providers == 2 else (1, True))
    if providers == 2:
        await expect_truth(database, clean, chain)
