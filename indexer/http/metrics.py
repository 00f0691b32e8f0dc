"""Prometheus text: the tables' figures by the status document, and what this process counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from indexer.core.counters import ChainCounters
from indexer.core.coverage import LEVELS
from indexer.http.providers import provider_families
from indexer.http.readiness import Readiness
from indexer.store.reader import ChainStatus, StatusDocument

_CHAIN: Final = ("chain", "chain_id")
_STATES: Final = ("backfilling", "live", "stalled", "halted")
_GAUGES: Final = {
    "checkpoint_block": "Last block whose rows are all in the database",
    "head_block": "Newest block the nodes know",
    "finalized_block": "Newest block that counts as final",
    "lag_blocks": "Blocks between checkpoint and head",
    "lag_seconds": "Seconds between the checkpoint's and the head's time",
    "gap_blocks": "Blocks below the checkpoint that were not fetched for every contract",
}
_TOTALS: Final = {
    "undecodable_logs": "Logs stored with a defect instead of an event",
    "reorgs": "Reorganisations rolled back so far",
}
_COUNTERS: Final = {
    "logs": "Logs this process committed",
    "batches": "Batches this process committed",
    "reverted_logs": "Logs this process took back",
    "rpc_requests": "JSON-RPC requests of this process",
    "publisher_failures": "Failed attempts of this process to write Valkey",
    "proof_mismatches": "Answers to this process that a proof showed to be wrong or incomplete",
    "repaired_logs": "Logs this process added to, replaced in or removed from blocks stored before",
    "filled_blocks": "Blocks this process fetched later, for a gap or a higher level of proof",
    "restarts": "Restarts of a chain's task by its watchdog, in this process",
}


def render(document: StatusDocument | None, counters: Iterable[ChainCounters], readiness: Readiness) -> bytes:
    """Return the metrics as text; `document` is None while the database is away: then only the process speaks."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshot(document, tuple(counters), readiness))
    return generate_latest(registry)


class _Snapshot(Collector):
    """The figures of one moment, as prometheus-client wants to collect them."""

    def __init__(
        self, document: StatusDocument | None, counters: tuple[ChainCounters, ...], readiness: Readiness
    ) -> None:
        self._document = document
        self._counters = counters
        self._readiness = readiness

    def collect(self) -> Iterator[Metric]:
        """Yield every family, in the same order each time."""
        yield InfoMetricFamily("erc8004_build", "Version of the program", {"version": version("erc8004-indexer")})
        up = self._document is not None
        yield GaugeMetricFamily("erc8004_database_up", "Whether the database answers", float(up))
        yield from _ready(self._readiness)
        if self._document is not None:
            yield from _of_tables(self._document["chains"])
            yield from provider_families(self._document["chains"])
        yield _wanted(self._counters)
        for name, text in _COUNTERS.items():
            family = CounterMetricFamily(f"erc8004_{name}", text, labels=_CHAIN)
            for one in self._counters:
                family.add_metric((one.chain, str(one.chain_id)), getattr(one, name))
            yield family


def _ready(readiness: Readiness) -> Iterator[Metric]:
    yield GaugeMetricFamily("erc8004_ready", "Whether /ready answers 200", float(readiness["ready"]))
    family = GaugeMetricFamily("erc8004_chain_ready", "Whether /ready has nothing against the chain", labels=("chain",))
    for chain in readiness["chains"]:
        family.add_metric((chain["chain"],), float(chain["ready"]))
    yield family


def _of_tables(chains: list[ChainStatus]) -> Iterator[Metric]:
    for name, text in _GAUGES.items():
        yield _filled(GaugeMetricFamily(f"erc8004_{name}", text, labels=_CHAIN), chains, _field(name))
    for name, text in _TOTALS.items():
        yield _filled(CounterMetricFamily(f"erc8004_{name}", text, labels=_CHAIN), chains, _field(name))
    backlog = GaugeMetricFamily("erc8004_publisher_backlog", "Changes not yet published to Valkey", labels=_CHAIN)
    yield _filled(backlog, chains, lambda chain: (chain["publisher"] or {}).get("backlog"))
    level = GaugeMetricFamily(
        "erc8004_proof_level", "Level of proof of the last blocks: 0 off, 1 logs, 2 receipts", labels=_CHAIN
    )
    yield _filled(level, chains, lambda chain: LEVELS.index(chain["proof"]))
    yield _states(chains)


def _wanted(counters: Iterable[ChainCounters]) -> Metric:
    family = GaugeMetricFamily(
        "erc8004_proof_level_wanted", "Level of proof that the settings ask for, in the same numbers", labels=_CHAIN
    )
    for one in counters:
        family.add_metric((one.chain, str(one.chain_id)), LEVELS.index(one.wanted_proof))
    return family


def _field(name: str) -> Callable[[ChainStatus], float | None]:
    def read(chain: ChainStatus) -> Any:
        return dict(chain)[name]

    return read


def _filled(
    family: GaugeMetricFamily | CounterMetricFamily,
    chains: list[ChainStatus],
    figure: Callable[[ChainStatus], float | None],
) -> Metric:
    """Add a sample for each chain whose figure is known."""
    for chain in chains:
        if (value := figure(chain)) is not None:
            family.add_metric((chain["chain"], str(chain["chain_id"])), value)
    return family


def _states(chains: list[ChainStatus]) -> Metric:
    family = GaugeMetricFamily(
        "erc8004_chain_state", "1 for the state a chain is in, 0 for the others", labels=(*_CHAIN, "state")
    )
    for chain in chains:
        for state in _STATES:
            family.add_metric((chain["chain"], str(chain["chain_id"]), state), float(chain["state"] == state))
    return family
