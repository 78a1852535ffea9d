"""
The tables of the record, in SQLAlchemy Core: what `migrations/` builds and `writes.py` and `queries.py` use.

A connection costs a handful of rows. Whatever is asked by key is clustered by that key on SQLite (`WITHOUT ROWID`), so
that one page write does for row and index. All of it runs on SQLite and on PostgreSQL.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    false,
    text,
)
from sqlalchemy.types import TypeEngine

REVISION = "0015"
"""The newest migration: what a database must be at. A test holds it equal to the head of `migrations/versions`."""


class Moment(TypeDecorator[datetime]):
    """
    An aware UTC `datetime` to the microsecond.

    `timestamptz` on PostgreSQL. On SQLite, ISO 8601 text of one width (`2026-05-09T07:35:25.123456+00:00`): it sorts as
    text, SQLite's own date functions read it, and so does whoever opens the file; integer microseconds would save 24
    bytes and take all three away.
    """

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "sqlite":
            return dialect.type_descriptor(String(32))
        return dialect.type_descriptor(DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        if value.tzinfo is not UTC:
            if value.tzinfo is None:
                raise ValueError(f"a moment without a time zone: {value!r}")
            value = value.astimezone(UTC)
        return value.isoformat(timespec="microseconds") if dialect.name == "sqlite" else value

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        return None if value is None else value.astimezone(UTC)


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _connection_key() -> Column[str]:
    return Column("connection_id", String(26), ForeignKey("connection.id", ondelete="CASCADE"), primary_key=True)


def _side_key() -> Column[str]:
    return Column("side", String(1), CheckConstraint("side IN ('a', 'b')", name="side"), primary_key=True)


connection = Table(
    "connection",
    metadata,
    Column("id", String(26), primary_key=True),
    Column("created_at", Moment, nullable=False),
    Column("first", String(16), nullable=False, doc="E.164."),
    Column("second", String(16), nullable=False, doc="E.164."),
    # With these a node that did not take the request can do all of it, answer included.
    Column("first_received", Text, nullable=False, server_default="", doc="As the client wrote it."),
    Column("second_received", Text, nullable=False, server_default="", doc="As the client wrote it."),
    Column("caller_id_first", String(16), nullable=False, server_default="", doc="E.164; empty: by the settings."),
    Column("caller_id_second", String(16), nullable=False, server_default="", doc="E.164; empty: by the settings."),
    Column("email", String(320), nullable=False),
    Column("property_name", Text),
    Column("agent_name", Text),
    Column("url", Text),
    Column("city", Text),
    Column("area_m2", Text),
    Column("price", Text),
    Column("lead_more", JSON(none_as_null=True), doc="The lead's texts under the client's own names."),
    Column("interval_s", Integer, nullable=False),
    # Unique: one key, one request, also when two of them arrive at the same moment.
    Column("idempotency_key", Text, unique=True),
    Column("fingerprint", String(64), nullable=False, index=True),
    Column(
        "resumes", String(26), doc="The connection of the same request that a crash ended before anybody was dialled."
    ),
    Column("owner", String(26), doc="`node.id` of the process whose it is; NULL while it waits for one."),
    Column("not_before", Moment, doc="When it may start; NULL: at once."),
    Column("expires_at", Moment, doc="When it is refused if it has not started; NULL: never."),
    Column("ring_timeout_s", Integer, doc="NULL: what the settings say, as for the talk."),
    Column("talk_limit_s", Integer),
    Column("locale", String(8), nullable=False, server_default="", doc="Of the mails; empty: by the settings."),
    Column("metadata", JSON(none_as_null=True), doc="The client's own texts by name."),
    Column("webhook_url", Text, doc="Who is told of it beside those in the settings; NULL: nobody."),
    Column("asked_by", String(8), nullable=False, server_default="", doc="`api_key.id`; empty where no key is needed."),
    Column("source", String(43), nullable=False, server_default="", doc="The network address that asked."),
    Column("test", Boolean, nullable=False, server_default=false(), doc="A trial run: nobody is ever rung for it."),
    Column("cancel_by", Text, doc="Who asked to end it, for its owner to read; NULL: nobody did."),
    Column("mail", String(8), nullable=False, server_default="pending", doc="`core.MailState`."),
    Column("phase", String(20), nullable=False),
    Column("outcome", String(20)),
    Column("ended_by", Text, nullable=False, server_default=""),
    Column("failed_side", String(1)),
    Column("started_at", Moment),
    Column("joined_at", Moment),
    Column("ended_at", Moment),
    Column("deadline", Moment, doc="When something is due next."),
    Column("answer_status", Integer),
    Column("answer_body", Text),
    Column("version", Integer, nullable=False, server_default="1", doc="Counts the writes of the state."),
)

LEAD_COLUMNS = ("property_name", "agent_name", "url", "city", "area_m2", "price")
"""Named as in `model.Lead`."""

# Open connections only, by what is due first: the start after a crash asks for them, and never reads the history.
Index(
    "ix_connection_open",
    connection.c.deadline,
    sqlite_where=text("outcome IS NULL"),
    postgresql_where=text("outcome IS NULL"),
)

# Open connections of one process: what it is asked to end, and what is settled when it is dead.
Index(
    "ix_connection_owner",
    connection.c.owner,
    sqlite_where=text("outcome IS NULL"),
    postgresql_where=text("outcome IS NULL"),
)

leg = Table(
    "leg",
    metadata,
    _connection_key(),
    _side_key(),
    Column("number", String(16), nullable=False, doc="E.164."),
    Column("state", String(12), nullable=False),
    Column("dialed_at", Moment),
    Column("answered_at", Moment),
    Column("released_at", Moment),
    Column("ended_at", Moment),
    Column("reason", String(12)),
    Column("detail", Text, nullable=False, server_default=""),
    Column("dialog", JSON(none_as_null=True), doc="What hanging up after a crash needs."),
    sqlite_with_rowid=False,
)

# Whose calls were these: asked of the whole history. With the rest of its key it gives them in the order of the list.
Index("ix_leg_number", leg.c.number, leg.c.connection_id)

dial_attempt = Table(
    "dial_attempt",
    metadata,
    # The primary key is the rule: a side is dialled at most once per attempt, whoever asks.
    _connection_key(),
    _side_key(),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("number", String(16), nullable=False, doc="E.164."),
    Column("at", Moment, nullable=False),
    Column("trunk", Text, doc="The name of the trunk whose limits it counts against."),
    Column("facts", JSON(none_as_null=True), doc="What taking the dial back after a crash needs."),
    sqlite_with_rowid=False,
)

node = Table(
    "node",
    metadata,
    # Of the process, not of the machine: a restarted process is another node, and owns nothing of the last one's.
    Column("id", String(26), primary_key=True),
    Column("name", Text, nullable=False, doc="For people: `[node] name`, or the host's."),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("born", BigInteger, nullable=False, server_default="0", doc="When that process began: ticks since boot."),
    Column("place", Text, nullable=False, server_default="", doc="Equal for processes that see each other's pid."),
    Column("url", Text, nullable=False, doc="Where its API listens."),
    Column("version", Text, nullable=False),
    Column("started_at", Moment, nullable=False),
    Column("beat_at", Moment, nullable=False, doc="Its last sign of life, on the database's clock."),
    Column("capacity", Integer, nullable=False, doc="Connections that it takes at most."),
    Column("open_connections", Integer, nullable=False, server_default="0"),
    Column("draining", Boolean, nullable=False, server_default=false()),
    Column("drain_by", Text, doc="Who asked it to drain, for it to read; NULL: nobody did."),
    Column("drain_until", Moment, doc="When it hangs up what is still open then; NULL: when that ends by itself."),
    Column("heir", String(26), doc="The node that settles what this one left, once it is dead."),
)

trunk_pace = Table(
    "trunk_pace",
    metadata,
    Column("trunk", Text, primary_key=True),
    # GCRA's theoretical arrival time: one row reserves the moments of all nodes' dials.
    Column("next_at", Moment, nullable=False, doc="When the next dial may leave."),
)

spent = Table(
    "spent",
    metadata,
    # One row for each counter, whatever its time: who comes in a new hour begins it anew.
    Column("counter", Text, primary_key=True, doc="`store.ceilings`: `number/day +34600000011`."),
    Column("since", Moment, nullable=False, doc="Since when this is counted: the beginning of an hour or a day, UTC."),
    Column("used", BigInteger, nullable=False),
    Column("alarmed", Integer, nullable=False, server_default="0", doc="Per cent told of; `store.budget` alone."),
    sqlite_with_rowid=False,
)

# What open connections may use at most of a day's minutes and money; settled, the row is gone.
reserved = Table(
    "reserved",
    metadata,
    _connection_key(),
    Column("day", Moment, nullable=False, doc="When the day began that it counts in: `spent.since`."),
    Column("seconds", BigInteger, nullable=False, doc="Of both legs together."),
    Column("money", BigInteger, nullable=False, doc="In millionths of the currency, as the prices."),
    # The prices that it was reserved at: who settles it may have another rate table by then.
    Column("first_minute", BigInteger, nullable=False),
    Column("first_setup", BigInteger, nullable=False),
    Column("second_minute", BigInteger, nullable=False),
    Column("second_setup", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

stopped = Table(
    "stopped",
    metadata,
    # A row at most: while it is there, nobody is called, by no node.
    Column("number", Integer, primary_key=True, autoincrement=False, doc="1."),
    Column("at", Moment, nullable=False),
    Column("by", Text, nullable=False),
)

do_not_call = Table(
    "do_not_call",
    metadata,
    Column("number", String(16), primary_key=True, doc="E.164."),
    Column("at", Moment, nullable=False),
    Column("by", Text, nullable=False),
    Column("note", Text, nullable=False),
    sqlite_with_rowid=False,
)

journal = Table(
    "journal",
    metadata,
    _connection_key(),
    Column("seq", Integer, primary_key=True, autoincrement=False, doc="1, 2, 3 … within its connection."),
    Column("at", Moment, nullable=False),
    Column("event", Text, nullable=False),
    Column("side", String(1)),
    Column("before", String(20), nullable=False),
    Column("after", String(20), nullable=False),
    Column("facts", JSON(none_as_null=True)),
    Column("position", BigInteger, nullable=False, server_default="0", doc="Of its commit among all: `store.feed`."),
    sqlite_with_rowid=False,
)

# For who follows all connections; on SQLite it has the rest of the key in it.
Index("ix_journal_position", journal.c.position)

mail = Table(
    "mail",
    metadata,
    Column("number", Integer, primary_key=True),
    # Unique: the same mail handed over twice is kept once.
    Column("message_id", Text, nullable=False, unique=True),
    Column("recipient", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("kept_at", Moment, nullable=False),
    Column("content", LargeBinary, nullable=False),
    # A number shown once means that mail for ever.
    sqlite_autoincrement=True,
)

# What is so old that it goes; asked each hour.
Index("ix_mail_kept_at", mail.c.kept_at)

capture = Table(
    "capture",
    metadata,
    _connection_key(),
    # A few kilobytes that a list of connections never reads: apart from `connection`, and with a row id, so that the
    # key's tree stays small.
    Column("packed", LargeBinary, nullable=False, doc="`capture.pack`: SIP messages, redacted and compressed."),
)

report = Table(
    "report",
    metadata,
    _connection_key(),
    Column("number", Integer, primary_key=True, autoincrement=False, doc="1, 2, 3 … within its connection."),
    Column("event", Text, nullable=False, doc="`store.reports.EVENTS`."),
    Column("side", String(1)),
    Column("at", Moment, nullable=False),
    Column("body", Text, doc="What is sent: made up once, so that every try says the same."),
    Column("passed_on", Boolean, nullable=False, server_default=false(), doc="Whether its deliveries are under way."),
    sqlite_with_rowid=False,
)

# What is still to be passed on: next to nothing at any moment, of a table that only grows.
Index(
    "ix_report_due",
    report.c.connection_id,
    report.c.number,
    sqlite_where=text("passed_on = 0"),
    postgresql_where=text("NOT passed_on"),
)

delivery = Table(
    "delivery",
    metadata,
    _connection_key(),
    Column("number", Integer, primary_key=True, autoincrement=False, doc="Of the report."),
    Column("target", Text, primary_key=True, doc="Who is told: `webhook:main`, `mail`."),
    Column("state", String(10), nullable=False, server_default="waiting", doc="`store.reports.DeliveryState`."),
    Column("tries", Integer, nullable=False, server_default="0"),
    Column("tried_at", Moment),
    Column("next_at", Moment, doc="When it is tried next."),
    Column("answer", Text, nullable=False, server_default="", doc="Of the last try: a status, or what went wrong."),
    sqlite_with_rowid=False,
)

# What is not delivered yet, the longest overdue first.
Index(
    "ix_delivery_waiting",
    delivery.c.next_at,
    sqlite_where=text("state = 'waiting'"),
    postgresql_where=text("state = 'waiting'"),
)

webhook_endpoint = Table(
    "webhook_endpoint",
    metadata,
    # Of those that fail or are disabled; all others have no row.
    Column("name", Text, primary_key=True),
    Column("failing_since", Moment, nullable=False, doc="Since when it has taken nothing."),
    Column("disabled_at", Moment, doc="Since when nothing is tried there."),
    Column("why", Text, nullable=False, doc="The last failure in words."),
    sqlite_with_rowid=False,
)

api_key = Table(
    "api_key",
    metadata,
    # Of the hash, so that a key which is shown leads to its row and the row to nothing.
    Column("id", String(8), primary_key=True),
    Column("digest", String(64), nullable=False, doc="SHA-256 of the key, in hex: the key itself is kept nowhere."),
    Column("name", Text, nullable=False),
    Column("test", Boolean, nullable=False),
    Column("scopes", JSON, nullable=False, doc="A list of `keys.Scope`."),
    Column("networks", JSON, nullable=False, doc="Where it may be used from; empty: from everywhere."),
    Column("limits", JSON, nullable=False, doc="Its own limits by name."),
    Column("created_at", Moment, nullable=False),
    Column("expires_at", Moment),
    Column("revoked_at", Moment, doc="From when on it opens nothing."),
    Column("last_used_at", Moment, doc="To the minute."),
    Column("replaces", String(8), nullable=False, server_default="", doc="The key in whose place it was made."),
)

audit = Table(
    "audit",
    metadata,
    Column("id", String(26), primary_key=True, doc="Sorted by time."),
    Column("at", Moment, nullable=False),
    Column("who", Text, nullable=False),
    Column("what", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("facts", JSON, nullable=False),
)

# Named here and built by Alembic; the writer touches it to learn whether the record can be written.
alembic_version = Table("alembic_version", MetaData(), Column("version_num", String(32), primary_key=True))
