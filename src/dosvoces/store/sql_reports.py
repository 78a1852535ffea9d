"""Reports and connections that wait, in the record's SQL database: what `SqlStore` lends its lanes to."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from typing import Any, Protocol, TypeVar

import structlog
from sqlalchemy import Connection as Database
from sqlalchemy import Row, and_, func, literal_column, or_, select, tuple_

from dosvoces.errors import StoreError
from dosvoces.model import NO_TRUNKS, ConnectionId, Order, Outcome, Side, Trunks
from dosvoces.store.limits import SharedLimits
from dosvoces.store.prepared import Cursor
from dosvoces.store.report_writes import ReportWrites
from dosvoces.store.reports import Delivery, DeliveryState, Report, Reports, Waiting, WaitingConnection
from dosvoces.store.tables import connection, delivery, report

T = TypeVar("T")

OFFER_PATIENCE_S = 1.0
"""How long the client of a connection that waits is kept waiting for it to be offered."""
OFFER_RETRY_S = 0.5

log = structlog.get_logger(__name__)


class Lanes(Protocol):
    """The record's two ways, which belong to `SqlStore`."""

    def ask(self, question: Callable[[Database], T]) -> Awaitable[T]: ...
    def change(self, write: Callable[[Cursor, ReportWrites], T], *, locks: tuple[int, ...] = ()) -> Awaitable[T]: ...
    @property
    def limits(self) -> SharedLimits:
        """What all nodes share."""


class SqlReports(Reports):
    """The reports of an open record."""

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self.due = asyncio.Event()

    async def to_pass_on(self, *, limit: int) -> Sequence[Report]:
        return await self._lanes.ask(partial(_due, limit=limit))

    async def prepare(self, report: Report, body: str, targets: Sequence[str]) -> None:
        await self._lanes.change(lambda cursor, writes: writes.prepare(cursor, report, body, targets))

    async def passed_on(self, report: Report) -> None:
        await self._lanes.change(lambda cursor, writes: writes.passed_on(cursor, report))

    async def report(self, connection_id: ConnectionId, number: int) -> Report | None:
        return await self._lanes.ask(partial(_one_report, connection_id=connection_id, number=number))

    async def delivery(self, connection_id: ConnectionId, number: int, target: str) -> Delivery | None:
        return await self._lanes.ask(partial(_one_delivery, connection_id=connection_id, number=number, target=target))

    async def first_waiting(self, connection_id: ConnectionId, target: str) -> Delivery | None:
        return await self._lanes.ask(partial(_first_waiting, connection_id=connection_id, target=target))

    async def deliveries_of(self, connection_id: ConnectionId) -> Sequence[Delivery]:
        return await self._lanes.ask(partial(_deliveries_of, connection_id=connection_id))

    async def postpone(self, delivery: Delivery, next_at: datetime | None) -> None:
        await self._lanes.change(lambda cursor, writes: writes.postpone(cursor, delivery, next_at))

    async def tried(
        self, delivery: Delivery, state: DeliveryState, answer: str, *, at: datetime, next_at: datetime | None
    ) -> None:
        await self._lanes.change(lambda cursor, writes: writes.tried(cursor, delivery, state, answer, at, next_at))

    async def deliveries(
        self,
        *,
        state: DeliveryState | None = None,
        due_before: datetime | None = None,
        after: Delivery | None = None,
        limit: int = 50,
    ) -> Sequence[Delivery]:
        found = partial(_newest_deliveries, state=state, due_before=due_before, after=after, limit=limit)
        return await self._lanes.ask(found)


class SqlWaiting(Waiting):
    """
    The connections of an open record that wait.

    One is recorded as ours, and offered to all once that is known to be on disk: a commit whose answer never came may
    have succeeded, and another node would begin what its client was told is not recorded.
    """

    def __init__(self, lanes: Lanes, reports: SqlReports, news: asyncio.Event) -> None:
        """`news`: of the feed, which hears of the ends."""
        self._lanes = lanes
        self._reports = reports
        self._news = news
        self._offered: set[ConnectionId] = set()
        self._offers: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def offering(self, connection_id: ConnectionId) -> AsyncIterator[None]:
        """What is recorded inside waits for any node afterwards. Offering it is tried until it succeeds."""
        self._offered.add(connection_id)
        try:
            yield
        except BaseException:
            self._offered.discard(connection_id)
            raise
        # It is recorded, whatever becomes of the offer: its client need not wait for long.
        await asyncio.wait([self._begin_offer(connection_id)], timeout=OFFER_PATIENCE_S)

    def offers(self, connection_id: ConnectionId) -> bool:
        return connection_id in self._offered

    async def claim(self, order: Order, *, trunks: Trunks = NO_TRUNKS) -> bool:
        if order.id in self._offered:
            raise StoreError(f"connection {order.id} was claimed or is offered, and which of them is not known yet")

        def claim(cursor: Cursor, writes: ReportWrites) -> bool:
            admitted = self._lanes.limits.admit(cursor, order, trunks)
            if not writes.claim(cursor, order.id):
                return False
            self._lanes.limits.charge(cursor, order, admitted)
            return True

        try:
            return await self._lanes.change(claim, locks=self._lanes.limits.locks(order))
        except StoreError as error:
            if error.unknown:
                # It may be ours now, and nobody would begin it: whoever has room may claim it again.
                self._offered.add(order.id)
                self._begin_offer(order.id)
            raise

    def close(self) -> None:
        """Offer nothing any more: what is still ours is the next process's to end."""
        for task in self._offers:
            task.cancel()

    def _begin_offer(self, connection_id: ConnectionId) -> asyncio.Task[None]:
        task = asyncio.create_task(self._offer(connection_id), name="offer")
        self._offers.add(task)
        task.add_done_callback(self._offers.discard)
        return task

    async def _offer(self, connection_id: ConnectionId) -> None:
        while True:
            try:
                await self._lanes.change(lambda cursor, writes: writes.offer(cursor, connection_id))
                break
            except StoreError as error:
                log.warning("connection not offered yet", connection=connection_id, reason=str(error))
                await asyncio.sleep(OFFER_RETRY_S)
        self._offered.discard(connection_id)
        self._reports.due.set()

    async def end(self, connection_id: ConnectionId, outcome: Outcome, *, by: str, at: datetime) -> bool:
        ended = await self._lanes.change(lambda cursor, writes: writes.end(cursor, connection_id, outcome, by, at))
        self._reports.due.set()
        if ended:
            self._news.set()
        return ended

    async def waiting(self, *, limit: int, after: WaitingConnection | None = None) -> Sequence[WaitingConnection]:
        return await self._lanes.ask(partial(_waiting, limit=limit, after=after))


# --- questions ---


def _due(db: Database, limit: int) -> list[Report]:
    due = select(report).where(~report.c.passed_on).order_by(report.c.connection_id, report.c.number).limit(limit)
    return [_report(row) for row in db.execute(due)]


def _one_report(db: Database, connection_id: ConnectionId, number: int) -> Report | None:
    this = and_(report.c.connection_id == connection_id, report.c.number == number)
    row = db.execute(select(report).where(this)).one_or_none()
    return None if row is None else _report(row)


_DELIVERIES = select(delivery, report.c.event, report.c.at).join(
    report, and_(report.c.connection_id == delivery.c.connection_id, report.c.number == delivery.c.number)
)


def _one_delivery(db: Database, connection_id: ConnectionId, number: int, target: str) -> Delivery | None:
    c = delivery.c
    this = and_(c.connection_id == connection_id, c.number == number, c.target == target)
    row = db.execute(_DELIVERIES.where(this)).one_or_none()
    return None if row is None else delivery_of(row)


def _first_waiting(db: Database, connection_id: ConnectionId, target: str) -> Delivery | None:
    c = delivery.c
    line = and_(c.connection_id == connection_id, c.target == target, c.state == DeliveryState.WAITING.value)
    row = db.execute(_DELIVERIES.where(line).order_by(c.number).limit(1)).one_or_none()
    return None if row is None else delivery_of(row)


def _deliveries_of(db: Database, connection_id: ConnectionId) -> list[Delivery]:
    c = delivery.c
    rows = db.execute(_DELIVERIES.where(c.connection_id == connection_id).order_by(c.number, c.target))
    return [delivery_of(row) for row in rows]


def _newest_deliveries(
    db: Database, state: DeliveryState | None, due_before: datetime | None, after: Delivery | None, limit: int
) -> list[Delivery]:
    found = _DELIVERIES
    if state is not None:
        # In words: SQLite uses a partial index only where the query's text says what the index's says.
        found = found.where(delivery.c.state == literal_column(f"'{state.value}'"))
    if due_before is not None:
        found = found.where(delivery.c.next_at < due_before)
    if after is not None:
        report_of = tuple_(delivery.c.connection_id, delivery.c.number)
        there = tuple_(after.connection_id, after.number)
        found = found.where(or_(report_of < there, and_(report_of == there, delivery.c.target > after.target)))
    newest = found.order_by(delivery.c.connection_id.desc(), delivery.c.number.desc(), delivery.c.target)
    return [delivery_of(row) for row in db.execute(newest.limit(limit))]


def _waiting(db: Database, limit: int, after: WaitingConnection | None) -> list[WaitingConnection]:
    c = connection.c
    due = func.coalesce(c.not_before, c.created_at)
    found = select(c.id, c.not_before, c.expires_at, due.label("due")).where(c.owner.is_(None), c.outcome.is_(None))
    if after is not None:
        found = found.where(or_(due > after.due, and_(due == after.due, c.id > after.id)))
    rows = db.execute(found.order_by(due, c.id).limit(limit))
    return [WaitingConnection(ConnectionId(row.id), row.not_before, row.expires_at, row.due) for row in rows]


def _report(row: Row[Any]) -> Report:
    side = None if row.side is None else Side(row.side)
    return Report(ConnectionId(row.connection_id), row.number, row.event, side, row.at, row.body)


def delivery_of(row: Row[Any]) -> Delivery:
    """What a row of `delivery`, with its report's `event` and `at`, says."""
    return Delivery(
        connection_id=ConnectionId(row.connection_id),
        number=row.number,
        target=row.target,
        event=row.event,
        at=row.at,
        state=DeliveryState(row.state),
        tries=row.tries,
        tried_at=row.tried_at,
        next_at=row.next_at,
        answer=row.answer,
    )
