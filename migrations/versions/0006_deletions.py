"""Add deletions: keys that the leader has to delete from the artifact store.

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# Without these indexes, deleting a job scans all tables that reference it and its attempts.
INDEXES = {"job_labels": "job_id", "allocations": "job_id", "artifacts": "attempt_id"}
EXPIRING = sa.text("expires_at IS NOT NULL")


def upgrade() -> None:
    """Create the table, and indexes to find expired files and the rows of a job."""
    op.create_table(
        "deletions",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("key", sa.Text(), nullable=True),
        sa.Column("job_id", sa.String(length=64), nullable=True),
        sa.Column("reason", sa.String(length=32), nullable=False),
        sa.Column("not_before", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_deletions"),
    )
    op.create_index("ix_deletions_job_id", "deletions", ["job_id"])
    op.create_index("ix_deletions_not_before", "deletions", ["not_before"])
    op.create_index("ix_files_expires_at", "files", ["expires_at"], sqlite_where=EXPIRING, postgresql_where=EXPIRING)
    for table, column in INDEXES.items():
        op.create_index(f"ix_{table}_{column}", table, [column])


def downgrade() -> None:
    """Drop them; pending deletions are lost, so those files remain in the store."""
    for table, column in INDEXES.items():
        op.drop_index(f"ix_{table}_{column}", table_name=table)
    op.drop_index("ix_files_expires_at", table_name="files")
    op.drop_index("ix_deletions_not_before", table_name="deletions")
    op.drop_index("ix_deletions_job_id", table_name="deletions")
    op.drop_table("deletions")
