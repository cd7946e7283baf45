"""Add data for the dashboard: event feed, filters, line numbers, metrics and bulk operations.

Revision ID: 0010
Revises: 0009
"""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from jobs.specs.searchable import build_searchable_error, build_searchable_fields

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
ID = sa.String(length=64)
LINES = {"sqlite": "json_array_length(data, '$.lines')", "postgresql": "jsonb_array_length(data->'lines')"}
NUMBERED = sa.text("first_line IS NOT NULL")
UNFINISHED = sa.text("finished_at IS NULL")
BATCH = 1000
TABLES = ("bulk_operations", "metric_points", "feed", "feed_positions", "job_search")


def upgrade() -> None:
    """Create the tables, number existing log lines, and fill the filter columns of existing jobs."""
    _create_tables()
    op.add_column("jobs", sa.Column("key_id", ID, nullable=True))
    op.add_column("jobs", sa.Column("submitter", sa.String(length=128), server_default=sa.text("''"), nullable=False))
    op.add_column("jobs", sa.Column("log_lines", sa.Integer(), server_default=sa.text("0"), nullable=False))
    _move_to_the_end("spec", sa.Column("moved", JSON, server_default=sa.text("'{}'"), nullable=False))
    _move_to_the_end("result", sa.Column("moved", JSON, nullable=True))
    op.create_index("ix_jobs_project_id_id", "jobs", ["project_id", "id"])
    op.add_column("events", sa.Column("first_line", sa.Integer(), nullable=True))
    _number_lines()
    op.create_index(
        "ix_events_lines", "events", ["job_id", "first_line"], sqlite_where=NUMBERED, postgresql_where=NUMBERED
    )
    _describe_jobs()


def _create_tables() -> None:
    op.create_table(
        "job_search",
        sa.Column("project_id", ID, nullable=False),
        sa.Column("job_id", ID, nullable=False),
        sa.Column("submitter", sa.String(length=128), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("fields", sa.Text(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_job_search_project_id"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_job_search_job_id"),
        sa.PrimaryKeyConstraint("project_id", "job_id", name="pk_job_search"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_job_search_job_id", "job_search", ["job_id"])
    op.create_table(
        "feed_positions",
        sa.Column("project_id", ID, nullable=False),
        sa.Column("last", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("project_id", name="pk_feed_positions"),
    )
    op.create_table(
        "feed",
        sa.Column("project_id", ID, nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("job_id", ID, nullable=True),
        sa.Column("type", sa.String(length=16), nullable=False),
        sa.Column("data", JSON, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("project_id", "position", name="pk_feed"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "metric_points",
        sa.Column("job_id", ID, nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("value", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_metric_points_job_id"),
        sa.PrimaryKeyConstraint("job_id", "name", "step", name="pk_metric_points"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "bulk_operations",
        sa.Column("id", ID, nullable=False),
        sa.Column("project_id", ID, nullable=False),
        sa.Column("action", sa.String(length=16), nullable=False),
        sa.Column("request", JSON, nullable=False),
        sa.Column("conditions", JSON, nullable=False),
        sa.Column("last_job_id", ID, nullable=True),
        sa.Column("matched", sa.Integer(), nullable=False),
        sa.Column("processed", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("changed", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("failed", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("failures", JSON, server_default=sa.text("'[]'"), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_bulk_operations_project_id"),
        sa.PrimaryKeyConstraint("id", name="pk_bulk_operations"),
    )
    op.create_index("ix_bulk_operations_project_id_id", "bulk_operations", ["project_id", "id"])
    op.create_index(
        "ix_bulk_operations_unfinished",
        "bulk_operations",
        ["id"],
        sqlite_where=UNFINISHED,
        postgresql_where=UNFINISHED,
    )


def _move_to_the_end(name: str, column: sa.Column[Any]) -> None:
    """Make a column the last one of its table.

    SQLite stores the end of a long row in a chain of overflow pages, which it follows to read later columns.
    """
    op.add_column("jobs", column)
    op.execute(sa.update(sa.table("jobs", sa.column("moved"))).values(moved=sa.column(name)))
    op.drop_column("jobs", name)
    op.alter_column("jobs", "moved", new_column_name=name)


def _number_lines() -> None:
    lines = LINES[op.get_bind().dialect.name]
    numbered = (
        f"SELECT job_id, sequence, {lines} AS count,"  # noqa: S608 - constants
        f" sum({lines}) OVER (PARTITION BY job_id ORDER BY sequence) AS up_to FROM events WHERE type = 'log'"
    )
    op.get_bind().exec_driver_sql(
        f"UPDATE events SET first_line = n.up_to - n.count + 1 FROM ({numbered}) AS n"  # noqa: S608
        " WHERE events.job_id = n.job_id AND events.sequence = n.sequence AND n.count > 0"
    )
    op.get_bind().exec_driver_sql(
        f"UPDATE jobs SET log_lines = n.count FROM (SELECT job_id, sum({lines}) AS count FROM events"  # noqa: S608
        " WHERE type = 'log' GROUP BY job_id) AS n WHERE jobs.id = n.job_id"
    )


def _describe_jobs() -> None:
    jobs = sa.table(
        "jobs",
        *(sa.column(name) for name in ("id", "project_id", "created_at")),
        sa.column("spec", JSON),
        sa.column("error", JSON),
    )
    search = sa.table("job_search", *(sa.column(n) for n in (*COPIED, "submitter", "fields", "error")))
    after = ""
    while True:
        query = sa.select(jobs).where(jobs.c.id > after).order_by(jobs.c.id).limit(BATCH)
        found = [dict(row._mapping) for row in op.get_bind().execute(query)]
        if not found:
            return
        op.get_bind().execute(sa.insert(search), [_described(job) for job in found])
        after = found[-1]["id"]


COPIED = ("project_id", "job_id", "created_at")


def _described(job: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "project_id": job["project_id"],
        "job_id": job["id"],
        "created_at": job["created_at"],
        "submitter": "",
        "fields": build_searchable_fields(job["spec"]),
        "error": build_searchable_error(job["error"]),
    }


def downgrade() -> None:
    """Drop everything."""
    op.drop_index("ix_events_lines", table_name="events")
    op.drop_column("events", "first_line")
    op.drop_index("ix_jobs_project_id_id", table_name="jobs")
    for column in ("log_lines", "submitter", "key_id"):
        op.drop_column("jobs", column)
    for table in TABLES:
        op.drop_table(table)
