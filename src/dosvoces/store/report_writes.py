"""What is written of reports, deliveries and connections that wait: as `writes.py`, beside it for its length."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Delete,
    Dialect,
    Integer,
    Select,
    Update,
    and_,
    bindparam,
    delete,
    exists,
    func,
    literal_column,
    null,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.sql.elements import ColumnElement

from dosvoces.core import Phase
from dosvoces.model import ConnectionId, Outcome, connection_id
from dosvoces.store import Entry
from dosvoces.store.prepared import Cursor, Prepared, insert_new
from dosvoces.store.reports import Delivery, DeliveryState, Report
from dosvoces.store.tables import LEAD_COLUMNS, capture, connection, delivery, dial_attempt, mail, report
from dosvoces.store.writes import Writes

_ONE: ColumnElement[int] = literal_column("1", Integer)
_NOBODYS = and_(connection.c.id == bindparam("of"), connection.c.owner.is_(None), connection.c.outcome.is_(None))


class ReportWrites:
    """For one dialect; `writes` says whose node this is and which events are told."""

    def __init__(self, dialect: Dialect, writes: Writes) -> None:
        self._writes = writes
        self._body = Prepared(_keep_body(), dialect)
        self._insert_delivery = insert_new(delivery, dialect, ("connection_id", "number", "target", "next_at"))
        self._passed_on = Prepared(update(report).where(*_one_report()).values(passed_on=true()), dialect)
        self._tried = Prepared(_tried(), dialect)
        self._postpone = Prepared(_postpone(), dialect)
        self._offer = Prepared(_offer(), dialect)
        self._claim = Prepared(update(connection).where(_NOBODYS).values(owner=bindparam("by")), dialect)
        self._end = Prepared(_end(), dialect)
        self._delete_ended = Prepared(_delete_ended(), dialect)
        self._delete_mails = Prepared(_delete_mails(), dialect)
        self._window_end = Prepared(_window_end(), dialect)
        self._blank = [Prepared(statement, dialect) for statement in _blank_leads()]

    def prepare(self, cursor: Cursor, of: Report, body: str, targets: Sequence[str]) -> None:
        """What is sent and to whom; what is there of both already stays."""
        self._body.run(cursor, {**_key(of), "body": body})
        for target in targets:
            row = {"connection_id": of.connection_id, "number": of.number, "target": target, "next_at": of.at}
            self._insert_delivery.run(cursor, row)

    def passed_on(self, cursor: Cursor, of: Report) -> None:
        self._passed_on.run(cursor, _key(of))

    def tried(
        self,
        cursor: Cursor,
        of: Delivery,
        state: DeliveryState,
        answer: str,
        at: datetime,
        next_at: datetime | None,
    ) -> None:
        """One more try, unless it is over."""
        row = {**_key(of), "to": of.target, "state": state.value, "answer": answer, "tried_at": at, "next_at": next_at}
        self._tried.run(cursor, row)

    def postpone(self, cursor: Cursor, of: Delivery, next_at: datetime | None) -> None:
        """No try before that, unless it is over."""
        self._postpone.run(cursor, {**_key(of), "to": of.target, "next_at": next_at})

    def offer(self, cursor: Cursor, connection_id: ConnectionId) -> None:
        """Make a connection of this node's that was not begun nobody's: it waits for whoever claims it."""
        self._offer.run(cursor, {"of": connection_id, "by": self._writes.node})

    def claim(self, cursor: Cursor, connection_id: ConnectionId) -> bool:
        """Make a connection that waits this node's; whether it waited."""
        return bool(self._claim.run(cursor, {"of": connection_id, "by": self._writes.node}))

    def end(self, cursor: Cursor, connection_id: ConnectionId, outcome: Outcome, by: str, at: datetime) -> bool:
        """The outcome of a connection that waits, with its line in the journal; whether it waited."""
        row = {"of": connection_id, "outcome": outcome.value, "ended_by": by, "ended_at": at}
        ended = bool(self._end.run(cursor, row))
        if ended:
            # Cancelled, it has the line that a connection has that is cancelled later (`journal.EVENT_NAMES`).
            event = "cancel" if outcome is Outcome.CANCELLED else outcome.value
            entry = Entry(connection_id, at, event, None, Phase.RECORDED, Phase.ENDED, {"by": by})
            self._writes.entries(cursor, [entry])
            self._writes.report_end(cursor, connection_id, at)
        return ended

    def forget(self, cursor: Cursor, before: datetime, limit: int) -> int:
        """Delete connections that ended before that, with all that belongs to them, and mails kept before it."""
        row = {"before": before, "most": limit}
        ended = self._delete_ended.run(cursor, {**row, "id_before": connection_id(before, 0)})
        return ended + self._delete_mails.run(cursor, row)

    def blank_leads(
        self, cursor: Cursor, before: datetime, since: ConnectionId, limit: int
    ) -> tuple[int, ConnectionId | None]:
        """Of `limit` connections from `since` on, take the leads out of those that ended before that; delete mails."""
        id_before = connection_id(before, 0)
        self._window_end.run(cursor, {"id_since": since, "id_before": id_before, "most": limit})
        found = cursor.fetchone()
        following = None if found is None else ConnectionId(found[0])
        ids = {"id_since": since, "id_before": following or id_before, "before": before}
        # The connections come last: which they are is asked anew by each.
        *_, blanked = [statement.run(cursor, dict(ids)) for statement in self._blank]
        return blanked + self._delete_mails.run(cursor, {"before": before, "most": limit}), following


def _key(of: Report | Delivery) -> dict[str, Any]:
    return {"of": of.connection_id, "which": of.number}


def _one_report() -> tuple[ColumnElement[bool], ...]:
    return report.c.connection_id == bindparam("of"), report.c.number == bindparam("which")


def _keep_body() -> Update:
    """The first one stays: each try says the same."""
    return update(report).where(*_one_report()).values(body=func.coalesce(report.c.body, bindparam("body")))


def _tried() -> Update:
    values: dict[str, Any] = {
        name: bindparam(name, type_=delivery.c[name].type) for name in ("state", "answer", "tried_at", "next_at")
    }
    return update(delivery).where(*_waiting_delivery()).values(tries=delivery.c.tries + _ONE, **values)


def _postpone() -> Update:
    return (
        update(delivery).where(*_waiting_delivery()).values(next_at=bindparam("next_at", type_=delivery.c.next_at.type))
    )


def _waiting_delivery() -> tuple[ColumnElement[bool], ...]:
    return (
        delivery.c.connection_id == bindparam("of"),
        delivery.c.number == bindparam("which"),
        delivery.c.target == bindparam("to"),
        delivery.c.state == literal_column(f"'{DeliveryState.WAITING.value}'"),
    )


def _offer() -> Update:
    begun = exists().where(dial_attempt.c.connection_id == connection.c.id)
    return (
        update(connection)
        .where(
            connection.c.id == bindparam("of"),
            connection.c.owner == bindparam("by"),
            connection.c.outcome.is_(None),
            connection.c.phase == literal_column(f"'{Phase.RECORDED.value}'"),
            ~begun,
        )
        .values(owner=null())
    )


def _end() -> Update:
    values: dict[str, Any] = {
        name: bindparam(name, type_=connection.c[name].type) for name in ("outcome", "ended_by", "ended_at")
    }
    return update(connection).where(_NOBODYS).values(phase=literal_column(f"'{Phase.ENDED.value}'"), **values)


def _delete_ended() -> Delete:
    """The ids sort by time, so that what is newer is not looked at: there may be millions of them."""
    c = connection.c
    before = c.ended_at < bindparam("before", type_=c.ended_at.type)
    ended = select(c.id).where(c.id < bindparam("id_before"), c.outcome.is_not(None), before)
    old = _first(ended.order_by(c.id))
    return delete(connection).where(connection.c.id.in_(old))


def _delete_mails() -> Delete:
    before = mail.c.kept_at < bindparam("before", type_=mail.c.kept_at.type)
    return delete(mail).where(mail.c.number.in_(_first(select(mail.c.number).where(before).order_by(mail.c.kept_at))))


_CLIENTS = ("lead_more", "metadata", "webhook_url", "answer_body", "first_received", "second_received")
"""What a connection has in the client's own words beside the lead."""


def _window_end() -> Select[Any]:
    """The first connection behind so many: of millions, one transaction looks at these alone."""
    c = connection.c
    window = select(c.id).where(c.id >= bindparam("id_since"), c.id < bindparam("id_before")).order_by(c.id)
    return window.limit(literal_column("1")).offset(bindparam("most", type_=Integer))


def _blank_leads() -> tuple[Delete | Update, ...]:
    c = connection.c
    values: dict[str, Any] = {name: "" if name.endswith("_received") else null() for name in (*LEAD_COLUMNS, *_CLIENTS)}
    there = [c[name] != literal_column("''") if value == "" else c[name].is_not(None) for name, value in values.items()]
    old = select(c.id).where(
        c.id >= bindparam("id_since"),
        c.id < bindparam("id_before"),
        c.outcome.is_not(None),
        c.ended_at < bindparam("before", type_=c.ended_at.type),
        or_(*there),
    )
    blank = {name: literal_column("''") if value == "" else value for name, value in values.items()}
    return (
        delete(capture).where(capture.c.connection_id.in_(old)),
        update(report).where(report.c.connection_id.in_(old)).values(body=null()),
        update(connection).where(c.id.in_(old)).values(blank),
    )


def _first(ordered: Select[Any]) -> Select[Any]:
    # The offset in words: SQLite's dialect would bind a nameless one.
    return ordered.limit(bindparam("most", type_=Integer)).offset(literal_column("0"))
