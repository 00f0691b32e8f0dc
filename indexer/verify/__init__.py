"""Hold the tables against the ledger, the coverage against the checkpoint, and sampled agents against the contracts."""

from indexer.verify.asking import Caller
from indexer.verify.checks import ChainDocument, VerifyDocument, exit_code, verify

__all__ = ["Caller", "ChainDocument", "VerifyDocument", "exit_code", "verify"]
