"""A local chain with sample registries and live traffic, and the real daemon that indexes it."""

from indexer.demo.run import run_demo

__all__ = ["run_demo"]
