"""Prometheus families of the providers of each chain, from what the chain's daemon last stored of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from indexer.store.reader import ChainStatus

_LABELS: Final = ("chain", "chain_id", "provider", "index")
"""`provider` is the host, `index` its place in the settings, from 0: two URLs may have the same host."""

_GAUGES: Final[Mapping[str, tuple[str, float, str]]] = {
    "head_block": ("head", 1, "Newest block that the provider told of"),
    "finalized_block": ("finalized", 1, "Newest final block that the provider told of"),
    "latency_seconds": ("latency_ms", 0.001, "Mean time of an answer, of late"),
    "resting_seconds": ("resting_s", 1, "How long the provider is left alone yet"),
    "heard_seconds": ("heard_s", 1, "Time since the provider last told its head"),
    "max_range_blocks": ("max_range", 1, "Blocks that the provider allows in one request, as learned"),
    "history_floor_block": ("history_floor", 1, "Lowest block that the provider may still have"),
}
"""By name: the key of the provider's figures, the factor to the unit, and what it is."""


def provider_families(chains: Sequence[ChainStatus]) -> Iterator[Metric]:
    """Yield every family; what is not known of a provider has no sample."""
    yield _usable(chains)
    for name, (key, factor, text) in _GAUGES.items():
        family = GaugeMetricFamily(f"erc8004_provider_{name}", text, labels=_LABELS)
        for labels, figures in _providers(chains):
            if isinstance(value := figures.get(key), (int, float)):
                family.add_metric(labels, value * factor)
        yield family
    yield from _counted(chains)


def _usable(chains: Sequence[ChainStatus]) -> Metric:
    family = GaugeMetricFamily(
        "erc8004_provider_usable", "1 for a provider that answers and keeps up with the others", labels=_LABELS
    )
    for labels, figures in _providers(chains):
        family.add_metric(labels, float(figures.get("state") == "ok"))
    return family


def _counted(chains: Sequence[ChainStatus]) -> Iterator[Metric]:
    requests = CounterMetricFamily("erc8004_provider_requests", "JSON-RPC requests sent", labels=_LABELS)
    errors = CounterMetricFamily("erc8004_provider_errors", "Errors by their class", labels=(*_LABELS, "error"))
    for labels, figures in _providers(chains):
        if isinstance(count := figures.get("requests"), int):
            requests.add_metric(labels, count)
        for name, count in (figures.get("errors") or {}).items():
            errors.add_metric((*labels, name), count)
    yield requests
    yield errors


def _providers(chains: Sequence[ChainStatus]) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    for chain in chains:
        for index, figures in enumerate(chain.get("providers") or ()):
            yield (chain["chain"], str(chain["chain_id"]), str(figures.get("host")), str(index)), figures
