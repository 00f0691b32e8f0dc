"""PostgreSQL: migrations, the commit, projections, queries."""
