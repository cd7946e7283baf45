"""Add data for OpenAI's API: checks of files, multipart uploads, artifacts as files, and clients' fields of jobs.

Revision ID: 0008
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0006"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    """Change the ids of artifacts to ids of files, keeping their random parts, and add columns and tables."""
    op.execute("UPDATE artifacts SET id = 'file-' || substr(id, 5) WHERE id LIKE 'art-%'")
    op.add_column("files", sa.Column("status", sa.String(length=16), server_default="processed", nullable=False))
    op.add_column("files", sa.Column("status_details", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("openai", JSON, nullable=True))
    op.create_table(
        "uploads",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("project_id", sa.String(length=64), nullable=False),
        sa.Column("filename", sa.String(length=255), nullable=False),
        sa.Column("purpose", sa.String(length=32), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("lifetime_seconds", sa.Integer(), nullable=True),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("file_id", sa.String(length=64), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_uploads_project_id"),
        sa.PrimaryKeyConstraint("id", name="pk_uploads"),
    )
    op.create_index("ix_uploads_expires_at", "uploads", ["expires_at"])
    op.create_table(
        "upload_parts",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("upload_id", sa.String(length=64), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["upload_id"], ["uploads.id"], name="fk_upload_parts_upload_id"),
        sa.PrimaryKeyConstraint("id", name="pk_upload_parts"),
    )
    op.create_index("ix_upload_parts_upload_id", "upload_parts", ["upload_id"])


def downgrade() -> None:
    """Drop them; paused jobs return to the queue, because the older version cannot resume them."""
    op.drop_index("ix_upload_parts_upload_id", table_name="upload_parts")
    op.drop_table("upload_parts")
    op.drop_index("ix_uploads_expires_at", table_name="uploads")
    op.drop_table("uploads")
    op.execute("UPDATE jobs SET state = 'queued' WHERE state = 'paused'")
    op.execute("UPDATE jobs SET state = 'running' WHERE state = 'pausing'")
    op.drop_column("jobs", "openai")
    op.drop_column("files", "status_details")
    op.drop_column("files", "status")
    op.execute("UPDATE artifacts SET id = 'art-' || substr(id, 6) WHERE id LIKE 'file-%'")
