"""PostgreSQL and Valkey from wheels: find, launch, adopt, stop."""
