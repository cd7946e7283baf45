"""SQL queries, grouped by table. Functions take the caller's connection; none begins or ends a transaction."""
