"""PostgreSQL and Valkey from wheels: find, launch, adopt, stop.

`postgres.postgres` and `valkey.valkey` are the two ways in; both are async context managers over `server.use`.
"""
