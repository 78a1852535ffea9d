"""
Where an entry stands among the entries of all connections: for those who follow them all.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("journal", sa.Column("position", sa.BigInteger, nullable=False, server_default="0"))
    op.create_index("ix_journal_position", "journal", ["position"])
