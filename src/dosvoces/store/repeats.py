"""
Of what a request is a repeat, in SQL: the statements by which `record` refuses one, and the questions about the first.

The looks are part of the transaction that inserts: of many that arrive at once, on whatever nodes, one is first.
"""

import hashlib
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    Connection,
    Row,
    Select,
    String,
    Update,
    bindparam,
    exists,
    func,
    literal_column,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.sql.elements import ColumnElement

from dosvoces.core import Answer, Leg, MailState, Terms, answer
from dosvoces.core import Connection as State
from dosvoces.model import ConnectionId, Order, Outcome, Side
from dosvoces.store import Earlier
from dosvoces.store.tables import connection, dial_attempt, journal, leg

_C = connection.c
_DIALLED = exists().where(dial_attempt.c.connection_id == _C.id)
# Written into the text, as the statements of `writes.py` bring nothing but a row's own values.
_EARLY_ENDS = [literal_column(f"'{outcome.value}'", String) for outcome in (Outcome.INTERRUPTED, Outcome.REFUSED)]

# --- while a request is recorded ---


def free_old_key() -> Update:
    """Take the key from a connection that is over and was recorded before `since`."""
    old = (_C.created_at < bindparam("since", type_=_C.created_at.type)) & _C.outcome.is_not(None)
    return update(connection).where(_C.idempotency_key == bindparam("key"), old).values(idempotency_key=null())


def hand_key_on() -> Update:
    """Take the key from a connection that ended before anybody was dialled and before its client was told."""
    return (
        update(connection)
        .where(
            _C.idempotency_key == bindparam("key"),
            or_(*(_C.outcome == end for end in _EARLY_ENDS)),
            _C.answer_status.is_(None),
            ~_DIALLED,
        )
        .values(idempotency_key=null())
    )


def locks(order: Order) -> tuple[int, ...]:
    """
    The advisory locks (64 bits, signed) under which nobody else looks for the first of this order, or records it.

    Also under a key, whose unique index would make others wait as well, but in any order. Two orders that share a lock
    by chance only wait for each other.
    """
    if (key := order.idempotency_key) is not None:
        digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
        return (int.from_bytes(digest, "big", signed=True),)
    if order.repeats.coalesce_s is not None:
        return (int(order.fingerprint[:16], 16) - (1 << 63),)
    return ()


def identical() -> Select[Any]:
    """
    The newest connection of `fingerprint` that was asked for without a key and is open, or ended after `since`.

    One that ended before anybody was dialled doesn't count: who repeats after that wants it tried.
    """
    return _identical(bindparam("fingerprint"), bindparam("since", type_=_C.ended_at.type))


def _identical(fingerprint: Any, since: Any) -> Select[Any]:
    still_counts = or_(_C.outcome.is_(None), (_C.ended_at > since) & _DIALLED)
    # The length of NULL, and not NULL itself: SQLite would look through all that have no key, by the keys' index.
    keyless = func.length(_C.idempotency_key).is_(None)
    which = (_C.fingerprint == fingerprint) & keyless & still_counts
    return select(func.max(_C.id)).where(which)


# --- what is asked about the first one ---


def repeated(db: Connection, order: Order) -> Earlier | None:
    """Of what `order` would be a repeat, if it were recorded now."""
    terms = order.repeats
    if order.idempotency_key is not None:
        since = order.created_at - timedelta(seconds=terms.key_lifetime_s)
        return _earlier(db, _under(order.idempotency_key) & (_C.outcome.is_(None) | (_C.created_at >= since)))
    if terms.coalesce_s is None:
        return None
    first = db.scalar(_identical(order.fingerprint, order.created_at - timedelta(seconds=terms.coalesce_s)))
    return None if first is None else earlier_of(db, ConnectionId(first))


def earlier_of(db: Connection, connection_id: ConnectionId) -> Earlier | None:
    """What is known of this connection's answer."""
    return _earlier(db, _C.id == connection_id)


def _under(key: str) -> ColumnElement[bool]:
    return _C.idempotency_key == key


def _earlier(db: Connection, which: ColumnElement[bool]) -> Earlier | None:
    row = db.execute(_answer_facts().where(which)).one_or_none()
    if row is None:
        return None
    return Earlier(
        ConnectionId(row.id),
        row.fingerprint,
        row.answer_status,
        row.answer_body,
        outcome=None if row.outcome is None else Outcome(row.outcome),
        answer=_answer(row),
        dialled=row.dialled,
        mailed=row.mail == MailState.SENT,
        resumes=row.resumes,
    )


def _answer_facts() -> Select[Any]:
    """The row of a connection with all that its answer follows from."""

    def answered(side: Side) -> ColumnElement[bool]:
        return exists().where(leg.c.connection_id == _C.id, leg.c.side == side.value, leg.c.answered_at.is_not(None))

    second_rang = exists().where(
        journal.c.connection_id == _C.id,
        journal.c.side == Side.B.value,
        journal.c.event.in_(("ringing", "answered")),
    )
    return select(
        _C.id,
        _C.fingerprint,
        _C.answer_status,
        _C.answer_body,
        _C.outcome,
        _C.mail,
        _C.failed_side,
        _C.resumes,
        _C.joined_at,
        _DIALLED.label("dialled"),
        answered(Side.A).label("first_answered"),
        or_(answered(Side.B), second_rang).label("second_rang"),
    )


def _answer(row: Row[Any]) -> Answer | None:
    """
    The core's own answer, to what the record has of the connection.

    One that was interrupted, and whose client was not told, is told that it failed, whoever rang: nobody talks there.
    """
    outcome = None if row.outcome is None else Outcome(row.outcome)
    at = row.joined_at or datetime.min
    return answer(
        State(
            Terms(),
            a=Leg(dialed_at=at if row.dialled else None, answered_at=at if row.first_answered else None),
            b=Leg(rang=row.second_rang and outcome is not Outcome.INTERRUPTED),
            # Nobody is dialled before the mail is accepted; what a crash left in the record may be older than that.
            mail=MailState.SENT if row.dialled else MailState(row.mail),
            verdict=outcome,
            failed_side=None if row.failed_side is None else Side(row.failed_side),
        )
    )
