"""What one process counted since it started; worker and publisher add, HTTP and `run --json` read."""

from __future__ import annotations

from dataclasses import dataclass

from indexer.core.types import ChainId, Proof


@dataclass(slots=True)
class ChainCounters:
    """The counts of one chain; they only rise, and begin at 0 with each process.

    `wanted_proof` is no count, but what the settings ask for. `reorgs` and `reverted_logs` are of this process alone:
    the table `chains` has the reorgs of all times.
    """

    chain_id: ChainId
    chain: str
    logs: int = 0
    batches: int = 0
    reorgs: int = 0
    reverted_logs: int = 0
    rpc_requests: int = 0
    publisher_failures: int = 0
    proof_mismatches: int = 0
    repaired_logs: int = 0
    filled_blocks: int = 0
    restarts: int = 0
    wanted_proof: Proof = "logs"
