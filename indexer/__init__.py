"""ERC-8004 indexer: identity, reputation and validation events, from EVM chains into PostgreSQL and Valkey."""
