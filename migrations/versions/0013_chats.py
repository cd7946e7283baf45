"""Add chats, with one narrow row per request.

Revision ID: 0013
Revises: 0011
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0013"
down_revision = "0011"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
ID = sa.String(length=64)
RUNNING = sa.text("expires_at IS NOT NULL")
STORED = sa.text("stored IS NOT NULL")


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "chats",
        sa.Column("id", ID, nullable=False),
        sa.Column("project_id", ID, nullable=False),
        sa.Column("key_id", ID, nullable=False),
        sa.Column("submitter", sa.String(length=128), nullable=False),
        sa.Column("model", sa.String(length=128), nullable=False),
        sa.Column("endpoint", sa.String(length=32), nullable=False),
        sa.Column("job_id", ID, nullable=False),
        sa.Column("attempt_id", ID, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("finish_reason", sa.String(length=16), nullable=True),
        sa.Column("prompt_tokens", sa.Integer(), nullable=False),
        sa.Column("completion_tokens", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("first_token_ms", sa.Integer(), nullable=True),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("error", JSON, nullable=True),
        sa.Column("stored", JSON, nullable=True),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_chats_project_id"),
        sa.PrimaryKeyConstraint("id", name="pk_chats"),
    )
    op.create_index("ix_chats_created_at", "chats", ["created_at"])
    op.create_index("ix_chats_expires_at", "chats", ["expires_at"], sqlite_where=RUNNING, postgresql_where=RUNNING)
    op.create_index("ix_chats_stored", "chats", ["project_id", "id"], sqlite_where=STORED, postgresql_where=STORED)


def downgrade() -> None:
    """Drop it."""
    op.drop_table("chats")
