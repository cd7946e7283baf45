"""Migrations lead up and down on both databases, and end where the tables are."""

import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from jobs.database import Database, alembic_config
from jobs.settings import Settings
from jobs.tables import Base

# Alembic cannot compare indexes with DESC columns; a separate test looks for this one.
DESCENDING = {"ix_jobs_queued"}


def test_the_migrated_schema_equals_the_tables(database: Database) -> None:
    options = {"include_object": lambda _object, name, *_: name not in DESCENDING}
    with database.reading() as connection:
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, Base.metadata) == []


def test_jobs_have_no_index_beyond_the_tables(database: Database) -> None:
    found = {index["name"] for index in sa.inspect(database.engine).get_indexes("jobs")}
    assert found == {index.name for index in Base.metadata.tables["jobs"].indexes}
    assert "ix_jobs_queued_by_project" not in found


def test_queued_jobs_are_found_by_index_in_their_order(database: Database) -> None:
    query = "SELECT id FROM jobs WHERE state = 'queued' ORDER BY priority DESC, id LIMIT 64"
    explain = "EXPLAIN QUERY PLAN" if database.engine.dialect.name == "sqlite" else "EXPLAIN"
    with database.reading() as connection:
        if explain == "EXPLAIN":
            connection.execute(sa.text("SET LOCAL enable_seqscan = off"))
        plan = "\n".join(str(row) for row in connection.execute(sa.text(f"{explain} {query}")))
    assert "ix_jobs_queued" in plan
    assert "B-TREE" not in plan
    assert "Sort" not in plan


def test_down_and_up_again(settings: Settings) -> None:
    database = Database(settings.database)
    assert not database.is_migrated()
    database.migrate()
    database.migrate()
    assert database.is_migrated()
    with database.engine.connect() as connection:
        command.downgrade(alembic_config(connection), "base")
    assert set(sa.inspect(database.engine).get_table_names()) <= {"alembic_version"}
    database.migrate()
    assert database.is_migrated()
    database.close()
