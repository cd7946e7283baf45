"""Add allocations (where each node of an attempt runs), requirements, labels, hosts and draining.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql")
OPEN_ATTEMPT = sa.text("state IN ('dispatched', 'running')")
OPEN_ALLOCATION = sa.text("deadline IS NOT NULL")
WORKER_COLUMNS = {"host": "'{}'", "labels": "'{}'", "models": "'[]'"}


def upgrade() -> None:
    """Apply the migration. Open attempts get an allocation without devices, because their devices are not known."""
    op.create_table(
        "allocations",
        sa.Column("attempt_id", sa.String(length=64), nullable=False),
        sa.Column("node", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("worker_id", sa.String(length=64), nullable=False),
        sa.Column("devices", JSON, nullable=False),
        sa.Column("host_bytes", sa.BigInteger(), nullable=False),
        sa.Column("exclusive", sa.Boolean(), nullable=False),
        sa.Column("claimed_at", sa.BigInteger(), nullable=True),
        sa.Column("deadline", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["attempt_id"], ["attempts.id"], name="fk_allocations_attempt_id"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_allocations_job_id"),
        sa.PrimaryKeyConstraint("attempt_id", "node", name="pk_allocations"),
    )
    op.create_index(
        "ix_allocations_open",
        "allocations",
        ["deadline"],
        sqlite_where=OPEN_ALLOCATION,
        postgresql_where=OPEN_ALLOCATION,
    )
    op.execute(
        "INSERT INTO allocations"
        " (attempt_id, node, job_id, worker_id, devices, host_bytes, exclusive, claimed_at, deadline)"
        " SELECT id, 0, job_id, worker_id, '[]', 0, false, claimed_at,"
        " CASE WHEN state IN ('dispatched', 'running') THEN deadline END FROM attempts"
    )
    op.drop_index("ix_attempts_open", table_name="attempts")
    op.drop_column("attempts", "deadline")
    op.add_column("jobs", sa.Column("requirement", JSON, server_default=sa.text("'{}'"), nullable=False))
    op.add_column("jobs", sa.Column("waiting", JSON, nullable=True))
    for name, default in WORKER_COLUMNS.items():
        op.add_column("workers", sa.Column(name, JSON, server_default=sa.text(default), nullable=False))
    op.add_column("workers", sa.Column("drain_at", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    """Revert the migration; an attempt on several nodes keeps the earliest deadline."""
    op.drop_column("workers", "drain_at")
    for name in reversed(WORKER_COLUMNS):
        op.drop_column("workers", name)
    op.drop_column("jobs", "waiting")
    op.drop_column("jobs", "requirement")
    op.add_column("attempts", sa.Column("deadline", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
    op.execute(
        "UPDATE attempts SET deadline = coalesce("
        "(SELECT min(deadline) FROM allocations WHERE allocations.attempt_id = attempts.id), 0)"
    )
    if op.get_bind().dialect.name == "postgresql":  # SQLite cannot drop a default, and does not need to
        op.alter_column("attempts", "deadline", server_default=None)
    op.create_index(
        "ix_attempts_open", "attempts", ["deadline"], sqlite_where=OPEN_ATTEMPT, postgresql_where=OPEN_ATTEMPT
    )
    op.drop_index("ix_allocations_open", table_name="allocations")
    op.drop_table("allocations")
