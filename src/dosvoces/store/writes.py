"""
What is written, statement by statement: each from SQLAlchemy Core, compiled once, run on the driver's own cursor.

Core checks and spells the SQL for the database at hand; running it through Core would cost several times what the
statement itself does. Every function here runs inside a transaction that `writer.py` begins and commits.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Dialect,
    Integer,
    String,
    bindparam,
    delete,
    exists,
    func,
    insert,
    literal_column,
    select,
    update,
)

from dosvoces.core import Connection, Leg, LegState, MailState, Phase
from dosvoces.errors import AlreadyRecorded, NotOurs, StoreError
from dosvoces.mail import Mail
from dosvoces.model import ConnectionId, Facts, NodeId, Order, Outcome, Side
from dosvoces.store import Entry, repeats
from dosvoces.store.feed import position_in
from dosvoces.store.prepared import Cursor, Prepared, Row, Statement, insert_new
from dosvoces.store.reports import ENDED
from dosvoces.store.tables import (
    LEAD_COLUMNS,
    alembic_version,
    capture,
    connection,
    dial_attempt,
    do_not_call,
    journal,
    leg,
    mail,
    node,
    report,
    stopped,
)

LOCK_EACH = "SELECT pg_advisory_xact_lock(each) FROM unnest(%(locks)s::bigint[]) AS each"
"""PostgreSQL's; takes them one after the other, as they are given."""


class Writes:
    """All that is ever written, for one dialect, by one node. Times and ids come from the caller."""

    def __init__(self, dialect: Dialect, node: NodeId) -> None:
        self.node = node
        """Whose the connections are that are recorded, and the only ones whose state is written."""
        self.reported: frozenset[str] = frozenset()
        """The events (`store.reports.EVENTS`) of which somebody is to be told."""
        self._insert_connection = insert_new(connection, dialect, _CONNECTION_COLUMNS)
        self._free_old_key = Prepared(repeats.free_old_key(), dialect)
        self._hand_key_on = Prepared(repeats.hand_key_on(), dialect)
        self._identical = Prepared(repeats.identical(), dialect)
        # SQLite has one writer at a time: there nothing comes between the look and the insert.
        self._locks = dialect.name == "postgresql"
        self._withdraw = Prepared(_withdraw(), dialect)
        self._insert_leg = Prepared(insert(leg), dialect, ("connection_id", "side", "number", "state"))
        self._insert_attempt = insert_new(dial_attempt, dialect, _ATTEMPT_COLUMNS)
        self._insert_mail = insert_new(mail, dialect, [column.name for column in mail.c if column.name != "number"])
        self._insert_capture = insert_new(capture, dialect, [column.name for column in capture.c])
        self._insert_entry = Prepared(_insert_entry(dialect), dialect)
        self._insert_report = Prepared(_insert_report(), dialect)
        self._update_connection = Prepared(_update_open(_STATE_COLUMNS), dialect)
        self._settle_connection = Prepared(_update_open((*_STATE_COLUMNS, "outcome", "ended_at")), dialect)
        self._update_leg = Prepared(_update_leg(), dialect)
        self._outcome = Prepared(
            select(connection.c.outcome, connection.c.owner).where(connection.c.id == bindparam("of")), dialect
        )
        self._hold = Prepared(_hold(), dialect)
        self._adopt_strays = Prepared(_adopt_strays(), dialect)
        self._remember_answer = Prepared(_remember_answer(), dialect)
        self._touch = Prepared(update(alembic_version).values(version_num=alembic_version.c.version_num), dialect)

    def locks(self, order: Order) -> tuple[int, ...]:
        """What `record` needs `lock` to have taken: so that no other transaction looks for what is the same as this."""
        return repeats.locks(order) if self._locks else ()

    def lock(self, cursor: Cursor, locks: list[int]) -> None:
        """Let no other transaction have one of `locks` before ours has committed; in this order, whatever waits."""
        cursor.execute(LOCK_EACH, {"locks": locks})

    def record(self, cursor: Cursor, order: Order) -> None:
        """
        Write a new connection and its legs; `lock` comes first.

        Raises `AlreadyRecorded` for a taken id or idempotency key, and for what the order is a repeat of.
        """
        self._make_way(cursor, order)
        if not self._insert_connection.run(cursor, _connection_row(order, self.node)):
            key = f" or the idempotency key {order.idempotency_key}" if order.idempotency_key else ""
            raise AlreadyRecorded(f"connection {order.id}{key} is in the record already", permanent=True)
        idle = LegState.IDLE.value
        self._insert_leg.run_many(
            cursor,
            [
                {"connection_id": order.id, "side": "a", "number": order.first.e164, "state": idle},
                {"connection_id": order.id, "side": "b", "number": order.second.e164, "state": idle},
            ],
        )

    def _make_way(self, cursor: Cursor, order: Order) -> None:
        """Free the order's key if it may have it; without a key, raise `AlreadyRecorded` for an identical one."""
        key, terms = order.idempotency_key, order.repeats
        if key is not None:
            since = order.created_at - timedelta(seconds=terms.key_lifetime_s)
            self._free_old_key.run(cursor, {"key": key, "since": since})
            if order.resumes is not None:
                self._hand_key_on.run(cursor, {"key": key})
        elif terms.coalesce_s is not None:
            since = order.created_at - timedelta(seconds=terms.coalesce_s)
            self._identical.run(cursor, {"fingerprint": order.fingerprint, "since": since})
            if (first := cursor.fetchone()[0]) is not None:
                raise AlreadyRecorded(f"{order.id} is a repeat of connection {first}", permanent=True)

    def withdraw(self, cursor: Cursor, connection_id: ConnectionId) -> None:
        """Take back a connection that its client was told is not recorded, if it is; never one that was begun."""
        self._withdraw.run(cursor, {"of": connection_id, "by": self.node})

    def hold(self, cursor: Cursor, connection_id: ConnectionId) -> None:
        """Keep an open connection ours until the commit. Raises `NotOurs`, and `StoreError` if it may not be called."""
        self._hold.run(cursor, {"of": connection_id, "by": self.node})
        found = cursor.fetchone()
        if found is None:
            raise NotOurs(f"connection {connection_id} is over, or another node's by now", permanent=True)
        if found[1] or found[2]:
            why = "all calls are stopped" if found[1] else "a number is on the do-not-call list"
            raise StoreError(why, permanent=True)

    def intend_dial(
        self,
        cursor: Cursor,
        order: Order,
        side: Side,
        attempt: int,
        at: datetime,
        trunk: str | None = None,
        facts: Facts | None = None,
    ) -> None:
        """The intent to ring; `hold` comes first. Raises `AlreadyRecorded` if it is there already, whoever wrote it."""
        row = {
            "connection_id": order.id,
            "side": side.value,
            "attempt": attempt,
            "number": order.number(side).e164,
            "at": at,
            "trunk": trunk,
            "facts": facts or None,
        }
        if not self._insert_attempt.run(cursor, row):
            raise AlreadyRecorded(
                f"attempt {attempt} to dial {order.id}, side {side}, is in the record already: it is not dialled again",
                permanent=True,
            )

    def settle(
        self, cursor: Cursor, connection_id: ConnectionId, state: Connection, outcome: Outcome, at: datetime
    ) -> None:
        """
        The outcome and how both legs ended. The same outcome again changes nothing, so that a doubtful write can be
        repeated. Raises `AlreadyRecorded` if there is another outcome, `NotOurs` if it is another node's to settle or
        is not there.
        """
        row = _state_row(connection_id, state, None, self.node)
        row.update(phase=Phase.ENDED.value, outcome=outcome.value, ended_at=at)
        if self._settle_connection.run(cursor, row):
            self._legs(cursor, connection_id, state.a, state.b)
            self.report_end(cursor, connection_id, at)
            return
        self._outcome.run(cursor, {"of": connection_id})
        found = cursor.fetchone()
        if found is None:
            raise NotOurs(f"connection {connection_id} is not in the record any more", permanent=True)
        if found[0] is None:
            raise NotOurs(f"connection {connection_id} is another node's by now", permanent=True)
        if found[0] != outcome.value:
            raise AlreadyRecorded(f"connection {connection_id} ended as {found[0]} already", permanent=True)

    def report_end(self, cursor: Cursor, connection_id: ConnectionId, at: datetime) -> None:
        """That it is over is to be told, if it is: written with the outcome, so that no crash comes between."""
        if ENDED in self.reported:
            self.report(cursor, connection_id, ENDED, None, at)

    def report(self, cursor: Cursor, connection_id: ConnectionId, event: str, side: Side | None, at: datetime) -> None:
        """That something is to be told."""
        row = {"of": connection_id, "event": event, "side": None if side is None else side.value, "at": at}
        self._insert_report.run(cursor, row)

    def remember_answer(self, cursor: Cursor, connection_id: ConnectionId, status: int, body: str) -> None:
        """What the client was answered. Raises `StoreError` if there is no such connection."""
        row = {"of": connection_id, "answer_status": status, "answer_body": body}
        if not self._remember_answer.run(cursor, row):
            raise StoreError(f"connection {connection_id} is not in the record", permanent=True)

    def keep_mail(self, cursor: Cursor, kept: Mail, at: datetime) -> None:
        """A mail for the inbox, unless its Message-ID is there."""
        row = {
            "message_id": kept.message_id,
            "recipient": kept.recipient,
            "subject": kept.subject,
            "kept_at": at,
            "content": kept.content,
        }
        self._insert_mail.run(cursor, row)

    def keep_capture(self, cursor: Cursor, connection_id: ConnectionId, packed: bytes) -> None:
        """A connection's captured messages, unless there are some already."""
        self._insert_capture.run(cursor, {"connection_id": connection_id, "packed": packed})

    def state(
        self,
        cursor: Cursor,
        connection_id: ConnectionId,
        state: Connection,
        due: datetime | None,
        on_disk: tuple[Leg, Leg] | None,
    ) -> bool:
        """
        The newest state; of the legs, what differs from `on_disk`.

        Writes nothing and returns `False` if the connection has its outcome, or is another node's.
        """
        if not self._update_connection.run(cursor, _state_row(connection_id, state, due, self.node)):
            return False
        a, b = on_disk or (None, None)
        self._legs(cursor, connection_id, None if state.a is a else state.a, None if state.b is b else state.b)
        return True

    def adopt_strays(self, cursor: Cursor) -> None:
        """Make this node the owner of what is open and has an owner that is no node any more."""
        self._adopt_strays.run(cursor, {"by": self.node})

    def _legs(self, cursor: Cursor, connection_id: ConnectionId, *legs: Leg | None) -> None:
        """A's leg and B's; `None`, and what was never dialled, is left as it is."""
        for side, of in zip(Side, legs, strict=True):
            if of is not None and of.state is not LegState.IDLE:
                self._update_leg.run(cursor, _leg_row(connection_id, side, of))

    def entries(self, cursor: Cursor, entries: Sequence[Entry]) -> None:
        """Lines of journals, in this order."""
        self._insert_entry.run_many(cursor, [_entry_row(entry) for entry in entries])

    def touch(self, cursor: Cursor) -> None:
        """Write something that changes nothing: whether it commits tells whether the record can be written."""
        self._touch.run(cursor, {})


_CONNECTION_COLUMNS = (
    *("id", "created_at", "first", "second", "first_received", "second_received"),
    *("caller_id_first", "caller_id_second", "email", *LEAD_COLUMNS, "lead_more", "interval_s"),
    *("idempotency_key", "fingerprint", "resumes", "mail", "owner", "not_before", "expires_at"),
    *("ring_timeout_s", "talk_limit_s", "locale", "metadata", "webhook_url", "asked_by", "source", "test"),
    "phase",
)
_ATTEMPT_COLUMNS = ("connection_id", "side", "attempt", "number", "at", "trunk", "facts")
_STATE_COLUMNS = ("phase", "mail", "ended_by", "failed_side", "started_at", "joined_at", "deadline")
_LEG_COLUMNS = ("state", "dialed_at", "answered_at", "released_at", "ended_at", "reason", "detail")


# Written into the text, so that a row has nothing but its own values to bring.
_ZERO: ColumnElement[int] = literal_column("0", Integer)
_ONE: ColumnElement[int] = literal_column("1", Integer)
_RECORDED: ColumnElement[str] = literal_column(f"'{Phase.RECORDED.value}'", String)


def _update_open(columns: Sequence[str]) -> Statement:
    values: dict[str, Any] = {name: bindparam(name, type_=connection.c[name].type) for name in columns}
    return (
        update(connection)
        .where(
            connection.c.id == bindparam("of"),
            connection.c.owner == bindparam("by"),
            connection.c.outcome.is_(None),
        )
        .values(version=connection.c.version + _ONE, **values)
    )


def _hold() -> Statement:
    """Locks the row until the commit on PostgreSQL; SQLite has one writer at a time."""
    listed = do_not_call.c.number.in_([connection.c.first, connection.c.second])
    return (
        select(connection.c.id, exists().where(stopped.c.number == _ONE), exists().where(listed))
        .where(
            connection.c.id == bindparam("of"),
            connection.c.owner == bindparam("by"),
            connection.c.outcome.is_(None),
        )
        .with_for_update(of=connection)
    )


def _adopt_strays() -> Statement:
    """
    What nobody owns waits to be started, unless an older version, which named no owners, had started it.

    Of the dead whose heir we are, too: a commit of theirs may have been under way when we inherited, and come after it.
    """
    ownerless = connection.c.owner.is_(None) & (connection.c.phase != _RECORDED)
    others = exists().where(node.c.id == connection.c.owner, node.c.heir.is_distinct_from(bindparam("by")))
    abandoned = connection.c.owner.is_not(None) & ~others
    return update(connection).where(connection.c.outcome.is_(None), ownerless | abandoned).values(owner=bindparam("by"))


def _withdraw() -> Statement:
    """What belongs to it goes with it."""
    dialled = exists().where(dial_attempt.c.connection_id == connection.c.id)
    return delete(connection).where(
        connection.c.id == bindparam("of"),
        connection.c.owner == bindparam("by"),
        connection.c.phase == _RECORDED,
        connection.c.outcome.is_(None),
        ~dialled,
    )


def _update_leg() -> Statement:
    return (
        update(leg)
        .where(leg.c.connection_id == bindparam("of"), leg.c.side == bindparam("which"))
        .values({name: bindparam(name, type_=leg.c[name].type) for name in _LEG_COLUMNS})
    )


def _remember_answer() -> Statement:
    return (
        update(connection)
        .where(connection.c.id == bindparam("of"))
        .values(answer_status=bindparam("answer_status"), answer_body=bindparam("answer_body"))
    )


def _insert_entry(dialect: Dialect) -> Statement:
    """Its number is one more than its journal's last: right after any restart, with nothing to remember."""
    earlier = journal.alias("earlier")
    last = select(func.coalesce(func.max(earlier.c.seq), _ZERO)).where(earlier.c.connection_id == bindparam("of"))
    names = ("at", "event", "side", "before", "after", "facts")
    values: dict[str, Any] = {name: bindparam(name, type_=journal.c[name].type) for name in names}
    # Inline: nobody asks for the number, and RETURNING it would forbid many rows in one call.
    values |= {"connection_id": bindparam("of"), "seq": last.scalar_subquery() + _ONE, "position": position_in(dialect)}
    return insert(journal).inline().values(**values)


def _insert_report() -> Statement:
    """Numbered as the journal's entries are."""
    earlier = report.alias("earlier")
    last = select(func.coalesce(func.max(earlier.c.number), _ZERO)).where(earlier.c.connection_id == bindparam("of"))
    values: dict[str, Any] = {name: bindparam(name, type_=report.c[name].type) for name in ("event", "side", "at")}
    return insert(report).inline().values(connection_id=bindparam("of"), number=last.scalar_subquery() + _ONE, **values)


def _connection_row(order: Order, node: NodeId) -> Row:
    lead = order.lead
    return {
        "id": order.id,
        "created_at": order.created_at,
        "first": order.first.e164,
        "second": order.second.e164,
        "first_received": order.first.as_received,
        "second_received": order.second.as_received,
        "caller_id_first": order.caller_id_first,
        "caller_id_second": order.caller_id_second,
        "email": lead.email,
        **{name: getattr(lead, name) for name in LEAD_COLUMNS},
        "lead_more": dict(lead.more) or None,
        "interval_s": order.interval_s,
        "idempotency_key": order.idempotency_key,
        "fingerprint": order.fingerprint,
        "resumes": order.resumes,
        "mail": (MailState.SENT if order.mailed else MailState.PENDING).value,
        "owner": node,
        "not_before": order.not_before,
        "expires_at": order.expires_at,
        "ring_timeout_s": order.ring_timeout_s,
        "talk_limit_s": order.talk_limit_s,
        "locale": order.locale,
        "metadata": dict(order.metadata) or None,
        "webhook_url": order.webhook_url or None,
        "asked_by": order.asker.key,
        "source": order.asker.source,
        "test": order.test,
        "phase": Phase.RECORDED.value,
    }


def _state_row(connection_id: ConnectionId, state: Connection, due: datetime | None, node: NodeId) -> Row:
    return {
        "of": connection_id,
        "by": node,
        "phase": state.phase.value,
        "mail": state.mail.value,
        "ended_by": state.ended_by,
        "failed_side": None if state.failed_side is None else state.failed_side.value,
        "started_at": state.started_at,
        "joined_at": state.joined_at,
        "deadline": due,
    }


def _leg_row(connection_id: ConnectionId, side: Side, of: Leg) -> Row:
    return {
        "of": connection_id,
        "which": side.value,
        "state": of.state.value,
        "dialed_at": of.dialed_at,
        "answered_at": of.answered_at,
        "released_at": of.released_at,
        "ended_at": of.ended_at,
        "reason": None if of.reason is None else of.reason.value,
        "detail": _without_controls(of.detail),
    }


def _without_controls(text: str) -> str:
    """Others' words. PostgreSQL refuses NUL, all refuse half a surrogate pair, and with it the connection's outcome."""
    return (
        text
        if text.isprintable()
        else "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    )


def _entry_row(entry: Entry) -> Row:
    return {
        "of": entry.connection_id,
        "at": entry.at,
        "event": entry.event,
        "side": None if entry.side is None else entry.side.value,
        # Plain texts, also of what is a `Phase`: sqlite3 asks around for an adapter for each value of a subclass.
        "before": str(entry.before),
        "after": str(entry.after),
        "facts": entry.facts or None,
    }
