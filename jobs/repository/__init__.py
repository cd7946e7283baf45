"""SQL, one file per table. Functions take the caller's connection; none begins or ends a transaction."""
