"""The SQL database: connections, tables, migrations and group commit."""

from jobs.database.connection import (
    OUTAGES,
    Database,
    alembic_config,
    insert,
    is_outage,
    is_rolled_back,
    now_ms,
)

__all__ = ["OUTAGES", "Database", "alembic_config", "insert", "is_outage", "is_rolled_back", "now_ms"]
