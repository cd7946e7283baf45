"""Add the expiry of files."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the migration."""
    op.add_column("files", sa.Column("expires_at", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    """Revert the migration."""
    op.drop_column("files", "expires_at")
