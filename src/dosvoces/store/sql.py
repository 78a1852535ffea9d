"""
The record in a SQL database, behind the port: in a file of SQLite's, or on a PostgreSQL server.

A service writes on one lane and reads on another, each with its own connection, so that a slow question never holds up
a commit. A reader (`dosvoces list` beside a running service) has the second lane only.
"""

import asyncio
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

import structlog
from sqlalchemy import Connection as DatabaseConnection
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from dosvoces.core import Connection, Terms
from dosvoces.errors import StoreError
from dosvoces.mail import Mail
from dosvoces.model import NO_TRUNKS, ConnectionId, Facts, NodeId, Order, Outcome, Side, Trunks, node_id
from dosvoces.store import (
    EVERY,
    Concern,
    ConnectionRecord,
    DialRecord,
    Earlier,
    Entry,
    History,
    KeptMail,
    Store,
    Wanted,
    queries,
    repeats,
)
from dosvoces.store.address import SqliteAddress, parse_database_url
from dosvoces.store.database import Database
from dosvoces.store.do_not_call import DoNotCall
from dosvoces.store.feed import SqlFeed
from dosvoces.store.lane import Lane
from dosvoces.store.limits import NO_QUOTA, Quota, SharedLimits
from dosvoces.store.prepared import Cursor
from dosvoces.store.report_writes import ReportWrites
from dosvoces.store.reports import ENDED, EVENTS
from dosvoces.store.sql_keys import SqlKeys
from dosvoces.store.sql_reports import SqlReports, SqlWaiting
from dosvoces.store.sql_roll import SqlRoll
from dosvoces.store.sqlite import SqliteFile
from dosvoces.store.wanted import wanted_clauses
from dosvoces.store.writer import Writer
from dosvoces.store.writes import Writes

T = TypeVar("T")

CLOSE_LIMIT_S = 2.0
"""How long `close` waits for a question that is being answered."""
QUESTION_LIMIT_S = 6.0
"""How long a question may take; longer than the server's own limit, which knows better what it waits for."""

log = structlog.get_logger(__name__)


def open_store(
    url: str,
    *,
    node: NodeId | None = None,
    reported: Collection[str] = (),
    quota: Quota = NO_QUOTA,
    reader: bool = False,
) -> "SqlStore":
    """
    The record at `url`, not yet opened: `sqlite:///dosvoces.db` (relative), `sqlite:////var/lib/dosvoces.db`, or
    `postgresql://user:password@host/database`.

    `node` is whose the connections are that are recorded in it; a new one unless given. `reported` are the events
    (`store.reports`) of which somebody is to be told. `quota` is what all nodes may have open. A `reader` never writes,
    creates or migrates, and may run beside the service. Raises `SettingsError`.
    """
    return SqlStore(open_database(url), node=node, reported=reported, quota=quota, reader=reader)


def open_roll(url: str) -> SqlRoll:
    """The roll in the record at `url`, not yet opened. Raises `SettingsError`."""
    return SqlRoll(open_database(url))


def open_keys(url: str) -> SqlKeys:
    """The API keys in the record at `url`, not yet opened. Raises `SettingsError`."""
    return SqlKeys(open_database(url))


def open_do_not_call(url: str) -> DoNotCall:
    """The do-not-call list in the record at `url`, not yet opened. Raises `SettingsError`."""
    return DoNotCall(open_database(url))


def open_database(url: str) -> Database:
    """The engine of the record at `url`, not yet connected. Raises `SettingsError`."""
    address = parse_database_url(url)
    if isinstance(address, SqliteAddress):
        return SqliteFile(address.path)
    # Loaded only where it is used: the driver takes a tenth of a second.
    from dosvoces.store.postgres import PostgresServer

    return PostgresServer(address)


class SqlStore(Store):
    """The record in a SQL database. `open` before all else; used from one event loop."""

    def __init__(
        self,
        database: Database,
        *,
        node: NodeId | None = None,
        reported: Collection[str] = (),
        quota: Quota = NO_QUOTA,
        reader: bool = False,
    ) -> None:
        self._database = database
        self._node = node or node_id(datetime.now(UTC), secrets.randbits(80))
        self._tell_taken: Callable[[ConnectionId], None] | None = None
        self._reported = frozenset(reported)
        self._quota = quota
        self._limits: SharedLimits | None = None
        self._is_reader = reader
        self.feed = SqlFeed(self)
        self.reports = SqlReports(self)
        self.waiting = SqlWaiting(self, self.reports, self.feed.news)
        self._report_writes: ReportWrites | None = None
        self._writer: Writer | None = None
        self._writes: Writes | None = None
        self._lanes: list[tuple[Lane, Callable[[], None]]] = []  # with what ends the connection of each, on the lane
        self._reading: tuple[Lane, Engine] | None = None

    async def open(self) -> None:
        try:
            if not self._is_reader:
                await self._open_writer()
            await self._open_reader()
        except BaseException:
            await self.close()
            raise

    async def _open_writer(self) -> None:
        self._database.claim()
        lane = Lane("record-writer")
        try:
            engine = await lane.run(self._database.prepare)
        except BaseException:
            lane.stop()
            raise
        self._lanes.append((lane, partial(self._end_writing, engine)))
        self._writes = Writes(engine.dialect, self._node)
        self._limits = SharedLimits(engine.dialect, self._quota)
        self._writes.reported = self._reported
        self._report_writes = ReportWrites(engine.dialect, self._writes)
        self._writer = Writer(self._database, self._writes, lane)
        if self._tell_taken is not None:
            self._writer.tell_taken = self._tell_taken
        # The first write there can be tells whether there can be any.
        await self._writer.write(self._writes.touch)

    async def _open_reader(self) -> None:
        lane = Lane("record-reader")
        try:
            engine = await lane.run(self._database.attach)
        except BaseException:
            lane.stop()
            raise
        self._lanes.append((lane, engine.dispose))
        self._reading = (lane, engine)

    async def close(self) -> None:
        writer, self._writer = self._writer, None
        self._reading = None
        self.waiting.close()
        try:
            if writer is not None:
                await writer.close()
        finally:
            lanes, self._lanes = self._lanes, []
            impatience = asyncio.get_running_loop().call_later(CLOSE_LIMIT_S, self._database.interrupt_reading)
            # The writer's connection is closed last: the last one to close tidies the write-ahead log away.
            for lane, end in reversed(lanes):
                await asyncio.shield(lane.run(end))
                lane.stop()
            impatience.cancel()
            self._database.release()

    def _end_writing(self, engine: Engine) -> None:
        self._database.drop()
        engine.dispose()

    # --- writing ---

    @property
    def node(self) -> NodeId:
        return self._node

    @node.setter
    def node(self, node: NodeId) -> None:
        self._node = node
        if self._writes is not None:
            self._writes.node = node

    def when_taken(self, tell: Callable[[ConnectionId], None]) -> None:
        self._tell_taken = tell
        if self._writer is not None:
            self._writer.tell_taken = tell

    async def adopt_strays(self) -> None:
        writer, writes = self._opened()
        await writer.write(writes.adopt_strays)

    async def record(self, order: Order, *, waits: bool = False, trunks: Trunks = NO_TRUNKS) -> None:
        writer, writes = self._opened()

        def record(cursor: Cursor) -> None:
            admitted = None if waits else self.limits.admit(cursor, order, trunks)
            writes.record(cursor, order)
            self.limits.charge(cursor, order, admitted)

        def withdraw(cursor: Cursor) -> None:
            self.limits.settle(cursor, order.id, Connection(Terms()), order.created_at)
            writes.withdraw(cursor, order.id)

        async with self.waiting.offering(order.id) if waits else nullcontext():
            try:
                await writer.write(record, locks=self.limits.locks(order) + writes.locks(order))
            except StoreError as error:
                if error.unknown:
                    # The client is told that nothing was done: if it was written all the same, it is no longer so.
                    writer.write_behind(withdraw)
                raise

    @property
    def limits(self) -> SharedLimits:
        """What all nodes share; of a record that is open for writing."""
        assert self._limits is not None
        return self._limits

    async def intend_dial(
        self,
        order: Order,
        side: Side,
        *,
        attempt: int,
        at: datetime,
        trunk: str | None = None,
        facts: Facts | None = None,
    ) -> float:
        writer, writes = self._opened()
        limits, wait_s = self.limits, 0.0

        def intend(cursor: Cursor) -> None:
            nonlocal wait_s
            writes.hold(cursor, order.id)
            wait_s = limits.take_turn(cursor, order, side, trunk)
            writes.intend_dial(cursor, order, side, attempt, at, trunk, facts)

        await writer.write(intend)
        return wait_s

    def update(self, connection_id: ConnectionId, state: Connection, deadline: datetime | None) -> None:
        if self._writer is None:
            log.error("record_closed_state_lost", connection=connection_id, phase=state.phase)
        else:
            self._writer.update(connection_id, state, deadline)

    async def settle(self, connection_id: ConnectionId, state: Connection, outcome: Outcome, *, at: datetime) -> None:
        writer, writes = self._opened()

        def settle(cursor: Cursor) -> None:
            writes.settle(cursor, connection_id, state, outcome, at)
            self.limits.settle(cursor, connection_id, state, at)

        await writer.write(settle)
        if ENDED in self._reported:
            self.reports.due.set()

    def journal(self, entry: Entry, *, kept: Callable[[], None] | None = None) -> None:
        if self._writer is None:
            log.error("record_closed_entry_lost", connection=entry.connection_id, entry=entry.event)
        else:
            self._writer.journal(entry, kept)
            self.feed.news.set()
            self._report(entry)

    def _report(self, entry: Entry) -> None:
        """That it is to be told, if it is, and if it made a difference: behind the entry, and before an outcome."""
        event = EVENTS.get(entry.event)
        if event is not None and event in self._reported and entry.before != entry.after:
            writer, writes = self._opened()
            report = partial(
                writes.report, connection_id=entry.connection_id, event=event, side=entry.side, at=entry.at
            )
            writer.write_behind(report)
            self.reports.due.set()

    def keep_capture(self, connection_id: ConnectionId, packed: bytes) -> None:
        if self._writer is None or self._writes is None:
            log.error("record_closed_capture_lost", connection=connection_id)
        else:
            keep = partial(self._writes.keep_capture, connection_id=connection_id, packed=packed)
            self._writer.write_behind(keep)

    async def remember_answer(self, connection_id: ConnectionId, *, status: int, body: str) -> None:
        """
        As the port says. After a failure of the database it is also tried again by itself: the client has its answer,
        and a repeat under the same key must get the same.
        """
        writer, writes = self._opened()
        remember = partial(writes.remember_answer, connection_id=connection_id, status=status, body=body)
        await writer.write(remember, keep=True)

    async def keep_mail(self, mail: Mail, *, at: datetime) -> None:
        writer, writes = self._opened()
        await writer.write(partial(writes.keep_mail, kept=mail, at=at))

    async def forget(self, *, before: datetime, limit: int) -> int:
        return await self.change(lambda cursor, writes: writes.forget(cursor, before, limit))

    async def forget_counts(self, *, limit: int) -> int:
        return await self.change(lambda cursor, _: self.limits.forget(cursor, limit))

    async def blank_leads(
        self, *, before: datetime, since: ConnectionId, limit: int
    ) -> tuple[int, ConnectionId | None]:
        return await self.change(lambda cursor, writes: writes.blank_leads(cursor, before, since, limit))

    async def change(self, write: Callable[[Cursor, ReportWrites], T], *, locks: tuple[int, ...] = ()) -> T:
        """Run `write` in a transaction that others share, and return what it returned once that is committed."""
        writer, _ = self._opened()
        assert self._report_writes is not None
        returned: list[T] = []
        writes = self._report_writes

        def run(cursor: Cursor) -> None:
            returned[:] = [write(cursor, writes)]  # It may have to be run twice.

        await writer.write(run, locks=locks)
        return returned[0]

    def _opened(self) -> tuple[Writer, Writes]:
        if self._writer is None or self._writes is None:
            raise StoreError(f"the record {self._database.name} is not open for writing")
        return self._writer, self._writes

    # --- reading ---

    async def repeated(self, order: Order) -> Earlier | None:
        return await self.ask(partial(repeats.repeated, order=order))

    async def earlier_of(self, connection_id: ConnectionId) -> Earlier | None:
        return await self.ask(partial(repeats.earlier_of, connection_id=connection_id))

    async def unfinished(self, *, owner: NodeId | None = None) -> list[ConnectionRecord]:
        return await self.ask(partial(queries.open_connections, owner=owner))

    async def order(self, connection_id: ConnectionId) -> Order | None:
        return await self.ask(partial(queries.order_of, connection_id=connection_id))

    async def connection(self, connection_id: ConnectionId) -> ConnectionRecord | None:
        return await self.ask(partial(queries.one_connection, connection_id=connection_id))

    async def connections(
        self,
        *,
        limit: int = 50,
        before: ConnectionId | None = None,
        wanted: Wanted = EVERY,
        now: datetime | None = None,
    ) -> list[ConnectionRecord]:
        which = wanted_clauses(wanted, now)
        return await self.ask(partial(queries.newest_connections, limit=limit, before=before, which=which))

    async def entries(self, connection_id: ConnectionId) -> list[Entry]:
        return await self.ask(partial(queries.journal_of, connection_id=connection_id))

    async def statistics(self, connections: Sequence[ConnectionId]) -> list[Entry]:
        return await self.ask(partial(queries.statistics_of, connections=connections))

    async def mails_of(self, record: ConnectionRecord) -> list[KeptMail]:
        return await self.ask(partial(queries.mails_of, record=record))

    async def dials(self, connection_id: ConnectionId) -> list[DialRecord]:
        return await self.ask(partial(queries.dials_of, connection_id=connection_id))

    async def histories(self, connections: Sequence[ConnectionId]) -> Mapping[ConnectionId, History]:
        return await self.ask(partial(queries.histories_of, connections=connections))

    async def capture(self, connection_id: ConnectionId) -> bytes | None:
        return await self.ask(partial(queries.capture_of, connection_id=connection_id))

    async def mails(self, *, limit: int = 50) -> list[KeptMail]:
        return await self.ask(partial(queries.newest_mails, limit=limit))

    async def mail(self, number: int) -> KeptMail | None:
        return await self.ask(partial(queries.one_mail, number=number))

    async def ask(self, question: Callable[[DatabaseConnection], T]) -> T:
        """Answer `question` from the database, with what this process has given to be written so far in it."""
        if self._reading is None:
            raise StoreError(f"the record {self._database.name} is not open")
        if self._writer is not None:
            await self._writer.flush()
        lane, engine = self._reading
        try:
            async with asyncio.timeout(QUESTION_LIMIT_S):
                return await lane.run(partial(self._answer, question, engine))
        except TimeoutError as error:
            self._database.interrupt_reading()
            raise StoreError(
                f"the record {self._database.name} has not answered for {QUESTION_LIMIT_S:g} s: look what holds it up"
            ) from error

    def _answer(self, question: Callable[[DatabaseConnection], T], engine: Engine) -> T:
        self._database.check_present()
        failures: tuple[type[Exception], ...] = (SQLAlchemyError, ValueError, OverflowError, *self._database.errors)
        try:
            try:
                return self._answer_once(question, engine)
            except DBAPIError as error:
                if not error.connection_invalidated:
                    raise
                # The connection was lost since the last question; a question can be asked again.
                return self._answer_once(question, engine)
        except failures as error:
            raise self._database.explain(error) from error

    def _answer_once(self, question: Callable[[DatabaseConnection], T], engine: Engine) -> T:
        with engine.connect() as db, db.begin():
            # One state of the record, however many queries the question takes.
            db.exec_driver_sql(self._database.begin_reading)
            return question(db)

    async def concerns(self) -> list[Concern]:
        return await self.ask(self._database.concerns)

    def crowded(self) -> bool:
        return self._writer is not None and self._writer.crowded()

    def problems(self) -> list[str]:
        if self._writer is None:
            return [f"the record {self._database.name} is not open for writing"]
        return [*self._writer.problems(), *filter(None, [self._database.shortage()])]
