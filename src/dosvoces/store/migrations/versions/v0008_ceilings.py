"""
What is counted against ceilings: spent, and who asked for a connection.
"""

import sqlalchemy as sa
from alembic import op

from dosvoces.store.tables import Moment

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "spent",
        sa.Column("counter", sa.Text, primary_key=True),
        sa.Column("since", Moment, nullable=False),
        sa.Column("used", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.add_column("connection", sa.Column("asked_by", sa.String(8), nullable=False, server_default=""))
    op.add_column("connection", sa.Column("source", sa.String(43), nullable=False, server_default=""))
