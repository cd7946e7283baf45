"""Rendezvous: where the first node of an attempt on several machines listens.

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
    """Add the column; attempts on one machine leave it empty."""
    op.add_column("allocations", sa.Column("address", sa.Text(), nullable=True))


def downgrade() -> None:
    """Drop it: attempts on several machines that are open then expire."""
    op.drop_column("allocations", "address")
