"""What a list of connections is narrowed to, as SQL: beside `queries.py` for its length. Pure."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from sqlalchemy import and_, select
from sqlalchemy.sql.elements import ColumnElement

from dosvoces.core import Phase
from dosvoces.model import connection_id
from dosvoces.store import Wanted
from dosvoces.store.tables import connection, leg


def wanted_clauses(wanted: Wanted, now: datetime | None) -> Sequence[ColumnElement[bool]]:
    """All of them hold for what is wanted."""
    return list(_clauses(wanted, now))


def _clauses(wanted: Wanted, now: datetime | None) -> Iterator[ColumnElement[bool]]:
    c = connection.c
    if wanted.outcome is not None:
        yield c.outcome == wanted.outcome
    if wanted.phase is not None:
        yield _in_phase(wanted.phase, now)
        if wanted.phase != Phase.ENDED:
            # By the index of what is open, which is next to nothing of all: the order of the list reads everything.
            still_open = connection.alias("still_open")
            yield c.id.in_(select(still_open.c.id).where(still_open.c.outcome.is_(None)))
    if wanted.number is not None:
        yield c.id.in_(select(leg.c.connection_id).where(leg.c.number == wanted.number))
    # By the id, which begins with the time: only the range itself is read.
    if wanted.created_after is not None:
        yield c.id >= connection_id(wanted.created_after, 0)
    if wanted.created_before is not None:
        yield c.id < connection_id(wanted.created_before, 0)
    if wanted.test is not None:
        yield c.test.is_(wanted.test)
    for name, value in wanted.metadata:
        yield c.metadata[name].as_string() == value


def _in_phase(phase: str, now: datetime | None) -> ColumnElement[bool]:
    """As `ConnectionRecord.phase_at`."""
    c = connection.c
    waits = and_(c.owner.is_(None), c.outcome.is_(None))
    if phase not in ("scheduled", "queued"):
        return and_(c.phase == phase, ~waits)
    assert now is not None, "whoever waits is told apart by the time"
    later = and_(c.not_before.is_not(None), c.not_before > now)
    return and_(waits, later if phase == "scheduled" else ~later)
