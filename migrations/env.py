"""Alembic's environment, which uses the connection in its configuration, or DATABASE_URL."""

from alembic import context
from sqlalchemy import Connection

from jobs.database import Database
from jobs.database.tables import Base
from jobs.settings import Settings


def run(connection: Connection) -> None:
    """Run the migrations in one transaction; on SQLite, batch mode changes tables by copying them."""
    context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
    given.commit()
else:
    with Database(Settings().effective_database_url).writing() as opened:
        run(opened)
