"""
What of a day's minutes and money open connections have reserved: reserved, and what was told of it: spent.alarmed.
"""

import sqlalchemy as sa
from alembic import op

from dosvoces.store.tables import Moment

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("spent", sa.Column("alarmed", sa.Integer, nullable=False, server_default="0"))
    op.create_table(
        "reserved",
        sa.Column("connection_id", sa.String(26), sa.ForeignKey("connection.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("day", Moment, nullable=False),
        *(
            sa.Column(name, sa.BigInteger, nullable=False)
            for name in ("seconds", "money", "first_minute", "first_setup", "second_minute", "second_setup")
        ),
        sqlite_with_rowid=False,
    )
