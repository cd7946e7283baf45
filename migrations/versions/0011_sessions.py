"""Add browser sessions, samples of the load of workers' machines, and the usage of API keys.

Revision ID: 0011
Revises: 0010
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
ID = sa.String(length=64)


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "sessions",
        sa.Column("token_hash", sa.String(length=64), nullable=False),
        sa.Column("key_id", ID, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["key_id"], ["api_keys.id"], name="fk_sessions_key_id"),
        sa.PrimaryKeyConstraint("token_hash", name="pk_sessions"),
    )
    op.create_index("ix_sessions_expires_at", "sessions", ["expires_at"])
    op.create_table(
        "worker_samples",
        sa.Column("worker_id", ID, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("devices", JSON, nullable=False),
        sa.Column("host", JSON, nullable=False),
        sa.PrimaryKeyConstraint("worker_id", "at", name="pk_worker_samples"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "usage",
        sa.Column("project_id", ID, nullable=False),
        sa.Column("day", sa.Integer(), nullable=False),
        sa.Column("key_id", ID, nullable=False),
        sa.Column("jobs", sa.Integer(), nullable=False),
        sa.Column("device_ms", sa.BigInteger(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("project_id", "day", "key_id", name="pk_usage"),
    )


def downgrade() -> None:
    """Drop the tables; all users have to sign in again."""
    for table in ("usage", "worker_samples", "sessions"):
        op.drop_table(table)
