"""The SQL database: connections, tables, migrations and group commit."""

from jobs.database.connection import (
    OUTAGE_ERRORS,
    Database,
    build_alembic_config,
    insert,
    is_outage,
    is_rolled_back,
    now_ms,
)

__all__ = ["OUTAGE_ERRORS", "Database", "build_alembic_config", "insert", "is_outage", "is_rolled_back", "now_ms"]
