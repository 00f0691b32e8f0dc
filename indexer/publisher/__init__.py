"""The ledger's feed → Valkey: aggregates, stream, checkpoints. PostgreSQL is the truth, Valkey a copy."""

from indexer.publisher.publisher import Publisher, PublisherState
from indexer.publisher.valkey import ValkeyUnavailable

__all__ = ["Publisher", "PublisherState", "ValkeyUnavailable"]
