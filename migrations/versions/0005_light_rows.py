"""Light rows: what lists show of a spec is in columns, and long inline inputs are in the artifact store.

Rows with inline inputs keep them and remain runnable. After a downgrade, queued jobs whose inputs are in the store
fail with `outdated_spec`, since the older version does not know where to read them.

Revision ID: 0005
Revises: 0004
"""

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
    """Copy what lists show from the specs."""
    op.add_column(
        "jobs", sa.Column("source_model", sa.String(length=128), server_default=sa.text("''"), nullable=False)
    )
    op.add_column("jobs", sa.Column("output_model", sa.String(length=128), nullable=True))
    op.add_column("jobs", sa.Column("labels", JSON, server_default=sa.text("'{}'"), nullable=False))
    op.get_bind().exec_driver_sql(COPY[op.get_bind().dialect.name])


def downgrade() -> None:
    """Drop the copies."""
    op.drop_column("jobs", "labels")
    op.drop_column("jobs", "output_model")
    op.drop_column("jobs", "source_model")
