"""The record: connection, leg, dial_attempt, journal, mail."""

import sqlalchemy as sa
from alembic import op

from dosvoces.store.tables import Moment

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    _create_connection()
    _create_leg()
    _create_dial_attempt()
    _create_journal()
    _create_mail()


def _create_connection() -> None:
    op.create_table(
        "connection",
        sa.Column("id", sa.String(26), primary_key=True),
        sa.Column("created_at", Moment, nullable=False),
        sa.Column("first", sa.String(16), nullable=False),
        sa.Column("second", sa.String(16), nullable=False),
        sa.Column("email", sa.String(320), nullable=False),
        sa.Column("property_name", sa.Text),
        sa.Column("agent_name", sa.Text),
        sa.Column("url", sa.Text),
        sa.Column("city", sa.Text),
        sa.Column("area_m2", sa.Text),
        sa.Column("price", sa.Text),
        sa.Column("interval_s", sa.Integer, nullable=False),
        sa.Column("idempotency_key", sa.Text),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("phase", sa.String(20), nullable=False),
        sa.Column("outcome", sa.String(20)),
        sa.Column("ended_by", sa.Text, nullable=False, server_default=""),
        sa.Column("failed_side", sa.String(1)),
        sa.Column("started_at", Moment),
        sa.Column("joined_at", Moment),
        sa.Column("ended_at", Moment),
        sa.Column("deadline", Moment),
        sa.Column("answer_status", sa.Integer),
        sa.Column("answer_body", sa.Text),
        sa.Column("version", sa.Integer, nullable=False, server_default="1"),
        sa.UniqueConstraint("idempotency_key"),
    )
    op.create_index(
        "ix_connection_open",
        "connection",
        ["deadline"],
        sqlite_where=sa.text("outcome IS NULL"),
        postgresql_where=sa.text("outcome IS NULL"),
    )


def _connection_key() -> sa.Column[str]:
    key = sa.ForeignKey("connection.id", ondelete="CASCADE")
    return sa.Column("connection_id", sa.String(26), key, primary_key=True)


def _side_key() -> sa.Column[str]:
    return sa.Column("side", sa.String(1), sa.CheckConstraint("side IN ('a', 'b')", name="side"), primary_key=True)


def _create_leg() -> None:
    op.create_table(
        "leg",
        _connection_key(),
        _side_key(),
        sa.Column("number", sa.String(16), nullable=False),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("dialed_at", Moment),
        sa.Column("answered_at", Moment),
        sa.Column("released_at", Moment),
        sa.Column("ended_at", Moment),
        sa.Column("reason", sa.String(12)),
        sa.Column("detail", sa.Text, nullable=False, server_default=""),
        sa.Column("dialog", sa.JSON),
        sqlite_with_rowid=False,
    )


def _create_dial_attempt() -> None:
    op.create_table(
        "dial_attempt",
        _connection_key(),
        _side_key(),
        sa.Column("attempt", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("number", sa.String(16), nullable=False),
        sa.Column("at", Moment, nullable=False),
        sqlite_with_rowid=False,
    )


def _create_journal() -> None:
    op.create_table(
        "journal",
        _connection_key(),
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("at", Moment, nullable=False),
        sa.Column("event", sa.Text, nullable=False),
        sa.Column("side", sa.String(1)),
        sa.Column("before", sa.String(20), nullable=False),
        sa.Column("after", sa.String(20), nullable=False),
        sa.Column("facts", sa.JSON),
        sqlite_with_rowid=False,
    )


def _create_mail() -> None:
    op.create_table(
        "mail",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("message_id", sa.Text, nullable=False),
        sa.Column("recipient", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("kept_at", Moment, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.UniqueConstraint("message_id"),
        sqlite_autoincrement=True,
    )
