"""One chain behind JSON-RPC: typed answers, typed errors, failover."""
