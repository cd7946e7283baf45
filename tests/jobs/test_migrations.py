"""Migrations run up and down on both databases, and result in the same schema as the tables in the code."""

import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from jobs.database import Database, build_alembic_config
from jobs.database.tables import Base
from jobs.repository import jobs
from jobs.service.stored_specs import read_spec
from jobs.settings import Settings
from jobs.specs import StoredGenerateSpec

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


def test_downgrade_and_upgrade(settings: Settings) -> None:
    database = Database(settings.effective_database_url)
    assert not database.is_migrated()
    database.migrate()
    database.migrate()
    assert database.is_migrated()
    with database.engine.connect() as connection:
        command.downgrade(build_alembic_config(connection), "base")
    assert set(sa.inspect(database.engine).get_table_names()) <= {"alembic_version"}
    database.migrate()
    assert database.is_migrated()
    database.close()


def test_data_of_the_first_schema_survives_upgrade_and_downgrade(settings: Settings) -> None:
    database = Database(settings.effective_database_url)
    with database.engine.connect() as connection:
        command.upgrade(build_alembic_config(connection), "0001")
    with database.writing() as connection:
        for statement in FIRST_SCHEMA_ROWS:
            connection.execute(sa.text(statement))
    database.migrate()
    with database.reading() as connection:
        rows = connection.execute(sa.text("SELECT attempt_id, worker_id, deadline FROM allocations ORDER BY 1")).all()
        assert [tuple(row) for row in rows] == [("att-1", "w1", 500), ("att-2", "w1", None)]
        waiting = jobs.list_queued(connection, now=1, limit=10)
        assert [(job.id, job.requirement) for job in waiting] == [("job-2", {})]
        listed = jobs.get_many(connection, ["job-1", "job-2", "job-3"])
        shown = {job.id: (job.source_model, job.output_model, job.labels) for job in listed.values()}
        assert shown["job-3"] == ("base", "small", {"team": "a"})
        assert shown["job-2"] == ("", None, {})
        spec = read_spec(jobs.get_details(connection, ["job-4"])["job-4"])
        assert isinstance(spec, StoredGenerateSpec)
        assert (spec.prompts, spec.with_input({}).prompts) == (["hello"], ["hello"])
    with database.engine.connect() as connection:
        command.downgrade(build_alembic_config(connection), "0001")
    with database.reading() as connection:
        kept = connection.execute(sa.text("SELECT id, deadline, state FROM attempts ORDER BY id")).all()
        assert [tuple(row) for row in kept] == [("att-1", 500, "running"), ("att-2", 0, "lost")]
        specs = connection.execute(sa.text("SELECT spec FROM jobs WHERE id = 'job-3'").columns(spec=sa.JSON))
        assert specs.scalar_one()["output_model"] == "small"
    database.migrate()
    database.close()


_JOB = "INSERT INTO jobs (id, project_id, kind, state, spec, priority, max_attempts, attempt_id, created_at) VALUES "
_ATTEMPT = "INSERT INTO attempts (id, job_id, number, worker_id, state, deadline, dispatched_at) VALUES "
_WORKER = "INSERT INTO workers (id, hostname, pid, state, kinds, slots, devices, started_at, seen_at) VALUES "
FIRST_SCHEMA_ROWS = [
    "INSERT INTO projects (id, name, created_at) VALUES ('p', 'team', 1)",
    _JOB + "('job-1', 'p', 'generate', 'running', '{}', 0, 3, 'att-1', 1)",
    _JOB + "('job-2', 'p', 'generate', 'queued', '{}', 0, 3, NULL, 1)",
    _JOB
    + """('job-3', 'p', 'quantize', 'succeeded',
        '{"kind": "quantize", "model": "base", "output_model": "small", "labels": {"team": "a"}}', 0, 3, NULL, 1)""",
    _JOB
    + """('job-4', 'p', 'generate', 'failed',
        '{"kind": "generate", "model": "base", "prompts": ["hello"]}', 0, 3, NULL, 1)""",
    _ATTEMPT + "('att-1', 'job-1', 1, 'w1', 'running', 500, 1)",
    _ATTEMPT + "('att-2', 'job-2', 1, 'w1', 'lost', 400, 1)",
    _WORKER + "('w1', 'h', 1, 'active', '[]', 1, '[]', 1, 1)",
]
