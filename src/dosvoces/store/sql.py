"""
The record in a database, behind the port: SQLite now, PostgreSQL with its own issue.

A service writes on one lane and reads on another, each with its own connection, so that a slow question never holds up
a commit. A reader (`dosvoces list` beside a running service) has the second lane only.
"""

import asyncio
import secrets
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog
from sqlalchemy import Connection as Database
from sqlalchemy import Engine, PoolProxiedConnection
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from dosvoces.core import Connection
from dosvoces.errors import SettingsError, StoreError
from dosvoces.mail import Mail
from dosvoces.model import ConnectionId, NodeId, Order, Outcome, Side, node_id
from dosvoces.store import ConnectionRecord, Earlier, Entry, KeptMail, Store, queries
from dosvoces.store.lane import Lane
from dosvoces.store.report_writes import ReportWrites
from dosvoces.store.reports import EVENTS
from dosvoces.store.sql_reports import SqlReports, SqlWaiting
from dosvoces.store.sql_roll import SqlRoll
from dosvoces.store.sqlite import SqliteFile
from dosvoces.store.writer import Writer
from dosvoces.store.writes import Cursor, Writes

T = TypeVar("T")

log = structlog.get_logger(__name__)


def open_store(
    url: str, *, node: NodeId | None = None, reported: Collection[str] = (), reader: bool = False
) -> "SqlStore":
    """
    The record at `url`, not yet opened: `sqlite:///dosvoces.db` (relative) or `sqlite:////var/lib/dosvoces.db`.

    `node` is whose the connections are that are recorded in it; a new one unless given. `reported` are the events
    (`store.reports`) of which somebody is to be told. A `reader` never writes, creates or migrates, and may run beside
    the service. Raises `SettingsError`.
    """
    return SqlStore(_database(url), node=node, reported=reported, reader=reader)


def open_roll(url: str) -> SqlRoll:
    """The roll in the record at `url`, not yet opened. Raises `SettingsError`."""
    return SqlRoll(_database(url))


def _database(url: str) -> SqliteFile:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise SettingsError(f"[database] url = {url!r} is no database URL: try sqlite:///dosvoces.db") from error
    if parsed.get_backend_name() != "sqlite":
        name = parsed.render_as_string(hide_password=True)
        raise SettingsError(f"[database] url = {name!r}: only SQLite is supported, as in sqlite:///dosvoces.db")
    if parsed.query:
        raise SettingsError(f"[database] url = {url!r}: what follows the ? is not supported; leave it out")
    if not parsed.database or parsed.database == ":memory:" or parsed.host:
        raise SettingsError(
            f"[database] url = {url!r} names no file (a record in memory would be lost): try sqlite:///dosvoces.db"
        )
    return SqliteFile(Path(parsed.database))


class SqlStore(Store):
    """The record in a SQL database. `open` before all else; used from one event loop."""

    def __init__(
        self,
        file: SqliteFile,
        *,
        node: NodeId | None = None,
        reported: Collection[str] = (),
        reader: bool = False,
    ) -> None:
        self._file = file
        self._node = node or node_id(datetime.now(UTC), secrets.randbits(80))
        self._tell_taken: Callable[[ConnectionId], None] | None = None
        self._reported = frozenset(reported)
        self._is_reader = reader
        self.reports = SqlReports(self)
        """What is to be told."""
        self.waiting = SqlWaiting(self, self.reports)
        """The connections that wait for their time, or for a node."""
        self._report_writes: ReportWrites | None = None
        self._writer: Writer | None = None
        self._writes: Writes | None = None
        self._raw: PoolProxiedConnection | None = None
        self._engines: list[tuple[Lane, Engine]] = []
        self._reading: tuple[Lane, Database] | None = None

    async def open(self) -> None:
        try:
            if not self._is_reader:
                await self._open_writer()
            await self._open_reader()
        except BaseException:
            await self.close()
            raise

    async def _open_writer(self) -> None:
        self._file.claim()
        lane = Lane("record-writer")
        try:
            engine = await lane.run(self._file.prepare)
        except BaseException:
            lane.stop()
            raise
        self._engines.append((lane, engine))
        self._raw = engine.raw_connection()
        self._writes = Writes(engine.dialect, self._node)
        self._writes.reported = self._reported
        self._report_writes = ReportWrites(engine.dialect, self._writes)
        self._writer = Writer(self._file, self._writes, self._raw.cursor(), lane)
        if self._tell_taken is not None:
            self._writer.tell_taken = self._tell_taken
        # The first write there can be tells whether there can be any.
        await self._writer.write(self._writes.touch)

    async def _open_reader(self) -> None:
        lane = Lane("record-reader")
        try:
            engine = await lane.run(self._file.attach)
        except BaseException:
            lane.stop()
            raise
        self._engines.append((lane, engine))
        self._reading = (lane, engine.connect())

    async def close(self) -> None:
        writer, self._writer = self._writer, None
        self._reading = None
        try:
            if writer is not None:
                await writer.close()
        finally:
            engines, self._engines = self._engines, []
            # The writer's connection is closed last: the last one to close tidies the write-ahead log away.
            for lane, engine in reversed(engines):
                await asyncio.shield(lane.run(engine.dispose))
                lane.stop()
            self._file.release()

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

    async def record(self, order: Order, *, waits: bool = False) -> None:
        writer, writes = self._opened()
        await writer.write(partial(writes.record, order=order, waits=waits))

    async def intend_dial(self, order: Order, side: Side, *, attempt: int, at: datetime) -> None:
        writer, writes = self._opened()
        await writer.write(partial(writes.intend_dial, order=order, side=side, attempt=attempt, at=at))

    def update(self, connection_id: ConnectionId, state: Connection, deadline: datetime | None) -> None:
        if self._writer is None:
            log.error("record_closed_state_lost", connection=connection_id, phase=state.phase)
        else:
            self._writer.update(connection_id, state, deadline)

    async def settle(self, connection_id: ConnectionId, state: Connection, outcome: Outcome, *, at: datetime) -> None:
        writer, writes = self._opened()
        settle = partial(writes.settle, connection_id=connection_id, state=state, outcome=outcome, at=at)
        await writer.write(settle)
        self.reports.due.set()

    def journal(self, entry: Entry) -> None:
        if self._writer is None:
            log.error("record_closed_entry_lost", connection=entry.connection_id, entry=entry.event)
        else:
            self._writer.journal(entry)
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

    async def change(self, write: Callable[[Cursor, ReportWrites], T]) -> T:
        """Run `write` in a transaction that others share, and return what it returned once that is committed."""
        writer, _ = self._opened()
        assert self._report_writes is not None
        returned: list[T] = []
        writes = self._report_writes

        def run(cursor: Cursor) -> None:
            returned[:] = [write(cursor, writes)]  # It may have to be run twice.

        await writer.write(run)
        return returned[0]

    def _opened(self) -> tuple[Writer, Writes]:
        if self._writer is None or self._writes is None:
            raise StoreError(f"the record {self._file.path} is not open for writing")
        return self._writer, self._writes

    # --- reading ---

    async def earlier(self, key: str) -> Earlier | None:
        return await self.ask(partial(queries.earlier_request, key=key))

    async def unfinished(self, *, owner: NodeId | None = None) -> list[ConnectionRecord]:
        return await self.ask(partial(queries.open_connections, owner=owner))

    async def order(self, connection_id: ConnectionId) -> Order | None:
        return await self.ask(partial(queries.order_of, connection_id=connection_id))

    async def connection(self, connection_id: ConnectionId) -> ConnectionRecord | None:
        return await self.ask(partial(queries.one_connection, connection_id=connection_id))

    async def connections(self, *, limit: int = 50, before: ConnectionId | None = None) -> list[ConnectionRecord]:
        return await self.ask(partial(queries.newest_connections, limit=limit, before=before))

    async def entries(self, connection_id: ConnectionId) -> list[Entry]:
        return await self.ask(partial(queries.journal_of, connection_id=connection_id))

    async def capture(self, connection_id: ConnectionId) -> bytes | None:
        return await self.ask(partial(queries.capture_of, connection_id=connection_id))

    async def mails(self, *, limit: int = 50) -> list[KeptMail]:
        return await self.ask(partial(queries.newest_mails, limit=limit))

    async def mail(self, number: int) -> KeptMail | None:
        return await self.ask(partial(queries.one_mail, number=number))

    async def ask(self, question: Callable[[Database], T]) -> T:
        """Answer `question` from the database, with what this process has given to be written so far in it."""
        if self._reading is None:
            raise StoreError(f"the record {self._file.path} is not open")
        if self._writer is not None:
            await self._writer.flush()
        lane, db = self._reading
        return await lane.run(partial(self._answer, question, db))

    def _answer(self, question: Callable[[Database], T], db: Database) -> T:
        self._file.check_present()
        try:
            with db.begin():
                db.exec_driver_sql("BEGIN")  # One state of the record, however many queries the question takes.
                return question(db)
        except (SQLAlchemyError, ValueError, OverflowError) as error:
            raise self._file.explain(error) from error

    def problems(self) -> list[str]:
        if self._writer is not None:
            shortage = self._file.shortage()
            return self._writer.problems() + ([] if shortage is None else [shortage])
        return [f"the record {self._file.path} is not open for writing"]
