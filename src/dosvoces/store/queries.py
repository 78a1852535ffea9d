"""What is asked of the record: one function per question, named for its answer. Runs on a reader's own connection."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, func, select
from sqlalchemy.sql.elements import ColumnElement

from dosvoces.core import LegState, MailState
from dosvoces.model import Asker, ConnectionId, Lead, NodeId, Order, PhoneNumber, Side
from dosvoces.store import ConnectionRecord, DialRecord, Entry, KeptMail, LegRecord
from dosvoces.store.tables import LEAD_COLUMNS, api_key, capture, connection, dial_attempt, journal, leg, mail

ROWS_LIMIT = 1_000
"""The most that one question brings."""


def open_connections(db: Connection, owner: NodeId | None = None) -> list[ConnectionRecord]:
    """Those without an outcome, oldest first: all of them, for there are never more than may be open at once."""
    unfinished = connection.c.outcome.is_(None)
    which = unfinished if owner is None else unfinished & (connection.c.owner == owner)
    return _records(db, which, select(connection).order_by(connection.c.id))


def order_of(db: Connection, connection_id: ConnectionId) -> Order | None:
    """What was asked for."""
    asked = select(connection, api_key.c.limits).outerjoin(api_key, api_key.c.id == connection.c.asked_by)
    row = db.execute(asked.where(connection.c.id == connection_id)).one_or_none()
    if row is None:
        return None
    return Order(
        id=connection_id,
        created_at=row.created_at,
        # What an older version recorded has no text of the client's: it is quoted in E.164 then.
        first=PhoneNumber(row.first, row.first_received or row.first),
        second=PhoneNumber(row.second, row.second_received or row.second),
        lead=Lead(
            email=row.email,
            **{name: getattr(row, name) for name in LEAD_COLUMNS},
            more=tuple((row.lead_more or {}).items()),
        ),
        interval_s=row.interval_s,
        idempotency_key=row.idempotency_key,
        fingerprint=row.fingerprint,
        caller_id_first=row.caller_id_first,
        caller_id_second=row.caller_id_second,
        not_before=row.not_before,
        expires_at=row.expires_at,
        ring_timeout_s=row.ring_timeout_s,
        talk_limit_s=row.talk_limit_s,
        locale=row.locale,
        metadata=tuple((row.metadata or {}).items()),
        webhook_url=row.webhook_url or "",
        test=row.test,
        resumes=row.resumes,
        mailed=row.mail == MailState.SENT,
        asker=Asker(row.asked_by, row.source, row.limits or {}),
    )


def one_connection(db: Connection, connection_id: ConnectionId) -> ConnectionRecord | None:
    """One connection with its legs."""
    found = _records(db, connection.c.id == connection_id, select(connection))
    return found[0] if found else None


def newest_connections(
    db: Connection, limit: int, before: ConnectionId | None, which: Sequence[ColumnElement[bool]] = ()
) -> list[ConnectionRecord]:
    """The newest first of which all of `which` is true; from `before` on backwards. The ids sort by time."""
    newest = select(connection.c.id).where(*which).order_by(connection.c.id.desc()).limit(min(limit, ROWS_LIMIT))
    if before is not None:
        newest = newest.where(connection.c.id < before)
    ids = list(db.scalars(newest))
    return _records(db, connection.c.id.in_(ids), select(connection).order_by(connection.c.id.desc()))


def journal_of(db: Connection, connection_id: ConnectionId) -> list[Entry]:
    """A connection's journal, oldest first."""
    rows = db.execute(select(journal).where(journal.c.connection_id == connection_id).order_by(journal.c.seq))
    return [entry_in(row) for row in rows]


def statistics_of(db: Connection, connections: Sequence[ConnectionId]) -> list[Entry]:
    """What these connections' journals have of their legs' audio."""
    c = journal.c
    which = c.connection_id.in_(connections) & (c.event == "statistics")
    return [entry_in(row) for row in db.execute(select(journal).where(which).order_by(c.connection_id, c.seq))]


def dials_of(db: Connection, connection_id: ConnectionId) -> list[DialRecord]:
    """A connection's intents to dial, by side and attempt."""
    c = dial_attempt.c
    rows = db.execute(select(dial_attempt).where(c.connection_id == connection_id).order_by(c.side, c.attempt))
    return [_dial_record(row) for row in rows]


def histories_of(
    db: Connection, connections: Sequence[ConnectionId]
) -> dict[ConnectionId, tuple[list[Entry], list[DialRecord]]]:
    """The journals of these connections, and their intents to dial by side and attempt."""
    found: dict[ConnectionId, tuple[list[Entry], list[DialRecord]]] = {each: ([], []) for each in connections}
    j, d = journal.c, dial_attempt.c
    for row in db.execute(select(journal).where(j.connection_id.in_(connections)).order_by(j.connection_id, j.seq)):
        found[row.connection_id][0].append(entry_in(row))
    dials = select(dial_attempt).where(d.connection_id.in_(connections))
    for row in db.execute(dials.order_by(d.connection_id, d.side, d.attempt)):
        found[row.connection_id][1].append(_dial_record(row))
    return found


def _dial_record(row: Row[Any]) -> DialRecord:
    return DialRecord(Side(row.side), row.attempt, row.at, row.trunk, row.facts or {})


def capture_of(db: Connection, connection_id: ConnectionId) -> bytes | None:
    """What was captured of this connection."""
    return db.scalar(select(capture.c.packed).where(capture.c.connection_id == connection_id))


def newest_mails(db: Connection, limit: int) -> list[KeptMail]:
    """The newest kept mails first."""
    rows = db.execute(select(mail).order_by(mail.c.number.desc()).limit(min(limit, ROWS_LIMIT)))
    return [_kept_mail(row) for row in rows]


def mails_of(db: Connection, record: ConnectionRecord) -> list[KeptMail]:
    """The kept mails about this connection, or about the one that it began anew, by the id in their Message-ID."""
    about = func.coalesce(connection.c.resumes, connection.c.id)
    mails = select(mail).join(connection, mail.c.message_id.like("<" + about + "%"))
    rows = db.execute(mails.where(connection.c.id == record.id).order_by(mail.c.number).limit(ROWS_LIMIT))
    return [_kept_mail(row) for row in rows]


def one_mail(db: Connection, number: int) -> KeptMail | None:
    """One kept mail by its number."""
    row = db.execute(select(mail).where(mail.c.number == number)).one_or_none()
    return None if row is None else _kept_mail(row)


def _records(db: Connection, which: ColumnElement[bool], ordered: Select[Any]) -> list[ConnectionRecord]:
    """The connections of which `which` is true, with their legs: two queries, however many they are."""
    rows = db.execute(ordered.where(which)).all()
    # A dial intent is durable before the leg's own state is: what it says is true even if the process died between.
    legs = db.execute(
        select(leg, dial_attempt.c.at.label("intended_at"))
        .join(connection, connection.c.id == leg.c.connection_id)
        .outerjoin(
            dial_attempt,
            (dial_attempt.c.connection_id == leg.c.connection_id)
            & (dial_attempt.c.side == leg.c.side)
            & (dial_attempt.c.attempt == 1),
        )
        .where(which)
        .order_by(leg.c.connection_id, leg.c.side)
    )
    legs_of: dict[str, list[LegRecord]] = {}
    for row in legs:
        legs_of.setdefault(row.connection_id, []).append(_leg_record(row))
    return [_connection_record(row, legs_of.get(row.id, [])) for row in rows]


def _connection_record(row: Row[Any], legs: Sequence[LegRecord]) -> ConnectionRecord:
    return ConnectionRecord(
        id=ConnectionId(row.id),
        created_at=row.created_at,
        phase=row.phase,
        outcome=row.outcome,
        ended_by=row.ended_by,
        first=row.first,
        second=row.second,
        email=row.email,
        lead={name: getattr(row, name) for name in LEAD_COLUMNS} | (row.lead_more or {}),
        interval_s=row.interval_s,
        joined_at=row.joined_at,
        ended_at=row.ended_at,
        answer_status=row.answer_status,
        not_before=row.not_before,
        expires_at=row.expires_at,
        legs=tuple(legs),
        owner=row.owner,
        mail=row.mail,
        ring_timeout_s=row.ring_timeout_s,
        talk_limit_s=row.talk_limit_s,
        locale=row.locale,
        metadata=row.metadata or {},
        webhook_url=row.webhook_url or "",
        test=row.test,
    )


def entry_in(row: Row[Any]) -> Entry:
    """The line of a journal that `row` has."""
    return Entry(
        connection_id=ConnectionId(row.connection_id),
        at=row.at,
        event=row.event,
        side=None if row.side is None else Side(row.side),
        before=row.before,
        after=row.after,
        facts=row.facts or {},
        number=row.seq,
    )


def _leg_record(row: Row[Any]) -> LegRecord:
    intended = row.state == LegState.IDLE and row.intended_at is not None
    return LegRecord(
        side=Side(row.side),
        number=row.number,
        state=LegState.DIALING.value if intended else row.state,
        dialed_at=row.intended_at if intended else row.dialed_at,
        answered_at=row.answered_at,
        ended_at=row.ended_at,
        reason=row.reason,
        detail=row.detail,
    )


def _kept_mail(row: Row[Any]) -> KeptMail:
    return KeptMail(
        number=row.number,
        message_id=row.message_id,
        recipient=row.recipient,
        subject=row.subject,
        kept_at=row.kept_at,
        content=row.content,
    )
