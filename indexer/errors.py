"""Every error this program raises on purpose.

IndexerError
├── Retryable            the same step may succeed later: an RPC or a database that is away
│   ├── RpcError         subclasses by kind in indexer/chain/refusals.py
│   ├── StoreUnavailable the database does not answer
│   └── LeaseLost        another instance writes this chain now
└── Fatal                trying again changes nothing; the message says what an operator can do
    ├── SettingsError    bad settings, wrong chain id, refused credentials: exit code 2
    └── BeyondFinality   the chain reorganised below its finalized block: the chain halts
"""

from __future__ import annotations


class IndexerError(Exception):
    """Base of all errors raised on purpose; `str()` of it is fit for an operator and holds no secret."""


class Retryable(IndexerError):
    """The same step may succeed when it is tried again."""


class RpcError(Retryable):
    """A JSON-RPC endpoint refused, failed or answered nonsense."""


class StoreUnavailable(Retryable):
    """The database cannot be reached or dropped the connection."""


class LeaseLost(Retryable):
    """Another instance holds this chain's lease; nothing was written."""


class Fatal(IndexerError):
    """Trying again changes nothing."""


class SettingsError(Fatal):
    """The settings, or what they point at, cannot work. Holds all mistakes found, a line each."""


class BeyondFinality(Fatal):
    """The chain was reorganised below its finalized block; it stays halted until an operator has looked."""
