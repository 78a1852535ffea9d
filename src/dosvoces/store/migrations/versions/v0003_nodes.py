"""
Whose a connection is, when it may start and what takes its dials back: node, trunk_pace, and columns for many nodes.
"""

import sqlalchemy as sa
from alembic import op

from dosvoces.store.tables import Moment

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_CONNECTION = (
    sa.Column("first_received", sa.Text, nullable=False, server_default=""),
    sa.Column("second_received", sa.Text, nullable=False, server_default=""),
    sa.Column("caller_id_first", sa.String(16), nullable=False, server_default=""),
    sa.Column("caller_id_second", sa.String(16), nullable=False, server_default=""),
    sa.Column("resumes", sa.String(26)),
    sa.Column("owner", sa.String(26)),
    sa.Column("not_before", Moment),
    sa.Column("expires_at", Moment),
    sa.Column("cancel_by", sa.Text),
    sa.Column("mail", sa.String(8), nullable=False, server_default="pending"),
)


def upgrade() -> None:
    for column in _CONNECTION:
        op.add_column("connection", column)
    op.create_index("ix_connection_fingerprint", "connection", ["fingerprint"])
    op.create_index(
        "ix_connection_owner",
        "connection",
        ["owner"],
        sqlite_where=sa.text("outcome IS NULL"),
        postgresql_where=sa.text("outcome IS NULL"),
    )
    op.add_column("dial_attempt", sa.Column("trunk", sa.Text))
    op.add_column("dial_attempt", sa.Column("facts", sa.JSON))
    op.create_table(
        "node",
        sa.Column("id", sa.String(26), primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("started_at", Moment, nullable=False),
        sa.Column("beat_at", Moment, nullable=False),
        sa.Column("capacity", sa.Integer, nullable=False),
        sa.Column("open_connections", sa.Integer, nullable=False, server_default="0"),
        sa.Column("draining", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("drain_by", sa.Text),
        sa.Column("heir", sa.String(26)),
    )
    op.create_table(
        "trunk_pace",
        sa.Column("trunk", sa.Text, primary_key=True),
        sa.Column("next_at", Moment, nullable=False),
    )
