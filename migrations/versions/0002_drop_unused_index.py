"""Drop the index of queued jobs by project, which no query uses."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the migration."""
    op.drop_index("ix_jobs_queued_by_project", "jobs")


def downgrade() -> None:
    """Revert the migration."""
    op.create_index(
        "ix_jobs_queued_by_project",
        "jobs",
        ["project_id", sa.text("priority DESC"), "id"],
        sqlite_where=sa.text("state = 'queued'"),
        postgresql_where=sa.text("state = 'queued'"),
    )
