"""What is to be told about connections, and to whom it was told: report, delivery."""

import sqlalchemy as sa
from alembic import op

from dosvoces.store.tables import Moment

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def _connection_key() -> sa.Column[str]:
    return sa.Column(
        "connection_id", sa.String(26), sa.ForeignKey("connection.id", ondelete="CASCADE"), primary_key=True
    )


def upgrade() -> None:
    op.create_table(
        "report",
        _connection_key(),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("event", sa.Text, nullable=False),
        sa.Column("side", sa.String(1)),
        sa.Column("at", Moment, nullable=False),
        sa.Column("body", sa.Text),
        sa.Column("passed_on", sa.Boolean, nullable=False, server_default=sa.false()),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_report_due",
        "report",
        ["connection_id", "number"],
        sqlite_where=sa.text("passed_on = 0"),
        postgresql_where=sa.text("NOT passed_on"),
    )
    op.create_table(
        "delivery",
        _connection_key(),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("target", sa.Text, primary_key=True),
        sa.Column("state", sa.String(10), nullable=False, server_default="waiting"),
        sa.Column("tries", sa.Integer, nullable=False, server_default="0"),
        sa.Column("tried_at", Moment),
        sa.Column("next_at", Moment),
        sa.Column("answer", sa.Text, nullable=False, server_default=""),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_delivery_waiting",
        "delivery",
        ["next_at"],
        sqlite_where=sa.text("state = 'waiting'"),
        postgresql_where=sa.text("state = 'waiting'"),
    )
