"""A local chain with sample registries and live traffic."""
