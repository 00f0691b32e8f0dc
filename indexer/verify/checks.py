"""The whole of `verify`: one chain at a time, each on a snapshot of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, TypedDict

import asyncpg

from indexer.core.decode import Decoder
from indexer.core.rows import RowBuilder
from indexer.core.types import ChainId
from indexer.errors import SettingsError
from indexer.store.database import Connection, Database
from indexer.store.difference import Difference
from indexer.store.queries import queries
from indexer.store.rebuild import shadow_differences, stored_deployments
from indexer.store.shadow import Rereading, reread_aside
from indexer.verify.asking import NO_BLOCK, NO_RPC, Answers, Caller, ask, leave_unasked
from indexer.verify.sampling import questions_of

DEFAULT_SAMPLE: Final = 100  # agents of a chain; some thousand calls
Reached = Callable[[str, int, int, int], None]
MAX_LISTED: Final = 1000  # differences of a chain; the first ones tell what is wrong


class ChainDocument(TypedDict):
    """One chain. `checked` counts compared rows and answered calls, `unchecked` the calls nobody could answer.

    `truncated`: there are more differences than are listed.
    """

    chain_id: int
    chain: str
    checkpoint_block: int
    checked: int
    differences: list[dict[str, str | None]]
    truncated: bool
    unchecked: int
    unchecked_reasons: dict[str, int]
    gap_blocks: int


class VerifyDocument(TypedDict):
    """What `verify --json` prints. `contracts_unreachable`: there were nodes and questions, and no answer at all."""

    chains: list[ChainDocument]
    checked: int
    differences: int
    unchecked: int
    contracts_unreachable: bool


@dataclass(frozen=True, slots=True)
class _Verified:
    document: ChainDocument
    asked: int  # calls that were tried, answered or not
    answered: int


async def verify(
    database: Database,
    decoder: Decoder,
    chains: Sequence[int] | None,
    sources: Mapping[int, Caller],
    *,
    sample: int = DEFAULT_SAMPLE,
    reached: Reached = lambda *_: None,
    rereading: Rereading = reread_aside,
) -> VerifyDocument:
    """Verify `chains` (None: all that the database holds), asking the contracts of those that have a source.

    Raises SettingsError for a chain that is not in the database, StoreUnavailable, and RpcError where a node cannot be
    reached. Writes nothing. `reached` hears how far it is: chain name, first block, block reached, checkpoint.
    """
    async with database.transaction() as connection:
        found = await connection.fetch(queries()["verify_chains"], None if chains is None else list(chains))
    if missing := set(chains or ()) - {row["chain_id"] for row in found}:
        raise SettingsError(f"chain {min(missing)} is not in this database: `run` indexes it first")
    verified = [
        await _verify_chain(
            database, decoder, row["chain_id"], sources.get(row["chain_id"]), sample, reached, rereading
        )
        for row in found
    ]
    documents = [one.document for one in verified]
    return {
        "chains": documents,
        "checked": sum(one["checked"] for one in documents),
        "differences": sum(len(one["differences"]) for one in documents),
        "unchecked": sum(one["unchecked"] for one in documents),
        "contracts_unreachable": any(one.asked for one in verified) and not any(one.answered for one in verified),
    }


def exit_code(document: VerifyDocument) -> int:
    """Return 0 where all is equal; 1 for any difference, and where no contract could be asked at all."""
    return int(document["differences"] > 0 or document["contracts_unreachable"])


async def _verify_chain(
    database: Database,
    decoder: Decoder,
    chain_id: int,
    caller: Caller | None,
    sample: int,
    reached: Reached,
    rereading: Rereading,
) -> _Verified:
    async with database.transaction(snapshot=True) as connection:
        await connection.execute(queries()["shadow_settings"])
        (chain,) = await connection.fetch(queries()["verify_chains"], [chain_id])
        # The contracts first: a node without archive forgets the checkpoint's state within minutes.
        answers = await _contracts(connection, chain, caller, sample)
        frame = [Difference(*row) for row in await connection.fetch(queries()["verify_frame"], chain_id, MAX_LISTED)]
        builder = RowBuilder(ChainId(chain_id), await stored_deployments(connection, chain_id), decoder)
        rows, shadow = await shadow_differences(
            connection,
            chain_id,
            builder,
            limit=MAX_LISTED,
            reached=lambda block: reached(chain["name"], chain["start_block"], block, chain["checkpoint_block"]),
            rereading=rereading,
        )
        gap_blocks = await connection.fetchval(queries()["verify_gap_blocks"], chain_id)
    document = _document(chain, rows, [*frame, *shadow], answers, gap_blocks)
    unchecked = document["unchecked"] if caller is not None else 0
    return _Verified(document, asked=answers.checked + unchecked, answered=answers.checked)


async def _contracts(connection: Connection, chain: asyncpg.Record, caller: Caller | None, sample: int) -> Answers:
    questions = await questions_of(connection, chain["chain_id"], sample) if sample else []
    if caller is None:
        return leave_unasked(questions, NO_RPC)
    if chain["checkpoint_hash"] is None:
        return leave_unasked(questions, NO_BLOCK)
    return await ask(caller, questions, chain["checkpoint_hash"])


def _document(
    chain: asyncpg.Record, rows: int, stored: Sequence[Difference], answers: Answers, gap_blocks: int
) -> ChainDocument:
    differences: list[dict[str, Any]] = [asdict(one) for one in (*stored, *answers.differences)]
    return {
        "chain_id": chain["chain_id"],
        "chain": chain["name"],
        "checkpoint_block": chain["checkpoint_block"],
        "checked": rows + answers.checked,
        "differences": differences[:MAX_LISTED],
        "truncated": len(differences) >= MAX_LISTED,
        "unchecked": answers.unchecked.total(),
        "unchecked_reasons": dict(answers.unchecked.most_common()),
        "gap_blocks": gap_blocks,
    }
