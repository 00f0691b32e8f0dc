"""Pure functions and values; no IO, clock or environment."""
