"""Health, readiness, status and metrics over HTTP."""

from indexer.http.server import HttpServer
from indexer.http.state import HttpState

__all__ = ["HttpServer", "HttpState"]
