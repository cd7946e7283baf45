"""Add the address on which the first node of an attempt on several machines listens.

Revision ID: 0009
Revises: 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column, which is empty for attempts on one machine."""
    op.add_column("allocations", sa.Column("address", sa.Text(), nullable=True))


def downgrade() -> None:
    """Drop the column; open attempts on several machines then expire."""
    op.drop_column("allocations", "address")
