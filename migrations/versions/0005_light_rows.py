"""Make job rows smaller: the fields that lists show become columns, and long inline inputs move to the artifact store.

Existing rows keep their inline inputs and remain runnable. After a downgrade, queued jobs whose inputs are in the store
fail with `outdated_spec`, because the older version cannot read them.

Revision ID: 0005
Revises: 0004
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
COPY = {
    "sqlite": (
        "UPDATE jobs SET source_model = coalesce(json_extract(spec, '$.model'), ''),"
        " output_model = json_extract(spec, '$.output_model'), labels = coalesce(json_extract(spec, '$.labels'), '{}')"
    ),
    "postgresql": (
        "UPDATE jobs SET source_model = coalesce(spec->>'model', ''), output_model = spec->>'output_model',"
        " labels = coalesce(spec->'labels', '{}')"
    ),
}


def upgrade() -> None:
    """Copy the fields that lists show from the specs, and make specs and results the last columns.

    SQLite stores the end of a long row in a chain of overflow pages, which it follows to read later columns.
    """
    op.add_column(
        "jobs", sa.Column("source_model", sa.String(length=128), server_default=sa.text("''"), nullable=False)
    )
    op.add_column("jobs", sa.Column("output_model", sa.String(length=128), nullable=True))
    op.add_column("jobs", sa.Column("labels", JSON, server_default=sa.text("'{}'"), nullable=False))
    op.get_bind().exec_driver_sql(COPY[op.get_bind().dialect.name])
    _move_to_the_end("spec", sa.Column("moved", JSON, server_default=sa.text("'{}'"), nullable=False))
    _move_to_the_end("result", sa.Column("moved", JSON, nullable=True))


def _move_to_the_end(name: str, column: sa.Column[Any]) -> None:
    op.add_column("jobs", column)
    op.execute(sa.update(sa.table("jobs", sa.column("moved"))).values(moved=sa.column(name)))
    op.drop_column("jobs", name)
    op.alter_column("jobs", "moved", new_column_name=name)


def downgrade() -> None:
    """Drop the copied fields; the order of the columns does not matter."""
    op.drop_column("jobs", "labels")
    op.drop_column("jobs", "output_model")
    op.drop_column("jobs", "source_model")
