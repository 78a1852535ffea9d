"""
A record in a PostgreSQL database: reached by psycopg, left and reached anew when the line breaks, its errors in words.

Knows nothing of what is written. No call waits for longer than its limit: the server's own (`lock_timeout`,
`statement_timeout`) where it is alive, and a socket that we shut where it is not (`interrupt`).
"""

import contextlib
import random
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy import Connection, Engine, PoolProxiedConnection, Table, create_engine, event, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import QueuePool

from dosvoces.errors import StoreError
from dosvoces.store import Concern
from dosvoces.store.address import PostgresAddress
from dosvoces.store.clock import database_now
from dosvoces.store.database import Database
from dosvoces.store.feed import entries_ahead, move_below_this_cluster
from dosvoces.store.postgres_errors import NotReached, explain
from dosvoces.store.prepared import Cursor
from dosvoces.store.schema import check_revision, migrate, revision
from dosvoces.store.tables import REVISION, metadata, node

OLDEST_VERSION = 14
"""Of the server: the oldest that its makers still maintain at the time of writing, and that looks whether we live."""
LOCK_TIMEOUT_MS = 1_500
"""How long a write waits for a lock of somebody else before it fails."""
STATEMENT_TIMEOUT_MS = 2_000
"""How long one statement may take."""
READING_TIMEOUT_MS = 5_000
"""How long one question may take."""
IN_USE_WITHIN = timedelta(seconds=60)
"""Since a node's last sign of life: a record is not moved under it."""
MIGRATION_LOCK_TIMEOUT_MS = 30_000
"""How long a start waits for the start of another node, which brings the tables up to date."""
RECONNECT_GAP_S = 0.2
"""The least between a connection that failed and the next try; half of it at random, so that nodes spread."""

CONNECTION = {
    "connect_timeout": "2",
    # A server that is gone without a word is noticed in some 10 s, also while nothing is sent.
    "keepalives": "1",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "8000",
}
"""libpq's, unless the URL says otherwise: seconds, but for the last, which is in ms."""

SESSION = {
    "timezone": "UTC",
    "datestyle": "ISO",
    # A process that was stopped within a transaction holds up nobody for longer.
    "idle_in_transaction_session_timeout": "5000",
    # The server's own look at whether we are still there, with and without something to send.
    "client_connection_check_interval": "2000",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "8000",
}
"""The server's settings for our connections."""

MIGRATION_LOCK = 0x44564F43_0001
"""Key of the advisory lock under which a node brings the tables up to date: `DVOC`."""


class PostgresServer(Database):
    """The database of a record, for one store: one connection that writes, one that reads."""

    begin = "BEGIN"
    begin_reading = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
    errors: tuple[type[Exception], ...] = (psycopg.Error,)
    # Not ProgrammingError: a table or a right that is missing is missing for all rows.
    row_errors: tuple[type[Exception], ...] = (psycopg.IntegrityError, psycopg.DataError)
    passing_errors: tuple[type[Exception], ...] = (
        psycopg.errors.DeadlockDetected,
        psycopg.errors.SerializationFailure,
    )

    def __init__(
        self,
        address: PostgresAddress,
        *,
        oldest_version: int = OLDEST_VERSION,
        lock_timeout_ms: int = LOCK_TIMEOUT_MS,
        statement_timeout_ms: int = STATEMENT_TIMEOUT_MS,
    ) -> None:
        self.name = str(address)
        self._parameters: dict[str, Any] = CONNECTION | dict(address.parameters)
        self._oldest_version = oldest_version
        self._timeouts = {"lock_timeout": str(lock_timeout_ms), "statement_timeout": str(statement_timeout_ms)}
        self._token = secrets.randbits(63)
        self._gate = _Gate()
        self._writing_line = _Line()
        self._reading_line = _Line()
        self._beside_line = _Line()
        self._engine: Engine | None = None
        self._writing: PoolProxiedConnection | None = None
        self._cursor: Cursor

    # --- for the service ---

    def claim(self) -> None:
        """Nothing: many nodes share the database."""

    def release(self) -> None:
        """Nothing was claimed."""

    def prepare(self) -> Engine:
        engine = self._make_engine(self._connect_to_write, self._writing_line)
        try:
            with engine.connect() as db:
                self._inspect(db)
                self._bring_up_to_date(db)
        except (SQLAlchemyError, psycopg.Error) as error:
            engine.dispose()
            raise self.explain(error) from error
        except StoreError:
            engine.dispose()
            raise
        self._engine = engine
        return engine

    def cursor(self) -> Cursor:
        if self._writing is None:
            assert self._engine is not None, "prepare comes first"
            try:
                self._writing = self._engine.raw_connection()
            except SQLAlchemyError as error:
                raise self.explain(error) from error
            self._cursor = self._writing.cursor()
        return self._cursor

    def drop(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            with contextlib.suppress(SQLAlchemyError, psycopg.Error):
                writing.invalidate()

    def interrupt(self) -> None:
        self._writing_line.cut()

    # --- for readers ---

    def attach(self) -> Engine:
        return self._built(self._make_engine(self._connect_to_read, self._reading_line))

    def interrupt_reading(self) -> None:
        self._reading_line.cut()

    # --- beside a running service ---

    def beside(self) -> Engine:
        return self._built(self._make_engine(self._connect_beside, self._beside_line))

    def interrupt_beside(self) -> None:
        self._beside_line.cut()

    # --- for all ---

    def check_present(self) -> None:
        """Nothing to look at: a server that is gone says so when it is spoken to."""

    def occupy(self, db: Connection) -> None:
        for name in ("statement_timeout", "idle_in_transaction_session_timeout"):
            db.exec_driver_sql(f"SET LOCAL {name} = 0")
        names = ", ".join(_quoted(db, table) for table in metadata.sorted_tables)
        # Who writes waits; that is what a service does first, and it gives up before this ends.
        db.exec_driver_sql(f"LOCK TABLE {names} IN SHARE ROW EXCLUSIVE MODE")
        alive = node.c.beat_at > db.execute(select(database_now())).scalar_one() - IN_USE_WITHIN
        if found := db.execute(select(node.c.name, node.c.pid).where(alive).limit(1)).one_or_none():
            raise StoreError(
                f"the record {self.name} is in use by the node {found.name} (process {found.pid}): stop the service, "
                f"and wait {IN_USE_WITHIN.total_seconds():g} s if it was killed",
                permanent=True,
            )

    def last_mail_number(self, db: Connection) -> int:
        name = db.execute(select(func.pg_get_serial_sequence("mail", "number"))).scalar_one()
        found = db.exec_driver_sql(f"SELECT last_value, is_called FROM {name}").one()
        return int(found.last_value) if found.is_called else 0

    def number_mails_from(self, db: Connection, number: int) -> None:
        if number:
            db.execute(select(func.setval(func.pg_get_serial_sequence("mail", "number"), number)))

    def concerns(self, db: Connection) -> list[Concern]:
        found = []
        if db.exec_driver_sql("SELECT pg_is_in_recovery()").scalar_one():
            remedy = "name the primary, or all hosts with ?target_session_attrs=read-write"
            found.append(Concern("the server is a standby", remedy, stops=True))
        elif db.exec_driver_sql("SHOW default_transaction_read_only").scalar_one() == "on":
            found.append(Concern("the database is read-only", "set default_transaction_read_only = off", stops=True))
        missing = [
            table.name
            for table in metadata.sorted_tables
            for right in ("SELECT", "INSERT", "UPDATE", "DELETE")
            if not db.execute(select(func.has_table_privilege(_quoted(db, table), right))).scalar_one()
        ]
        if missing:
            text = f"its user has not all rights on {', '.join(dict.fromkeys(missing))}"
            found.append(Concern(text, "GRANT ALL on these tables to it", stops=True))
        for name in ("fsync", "full_page_writes"):
            if db.exec_driver_sql(f"SHOW {name}").scalar_one() == "off":
                text = f"{name} is off: what was recorded is lost when the server's machine stops"
                found.append(Concern(text, f"set {name} = on", stops=False))
        return found

    def shortage(self) -> str | None:
        """Not to be seen from here."""
        return None

    def explain(self, error: BaseException) -> StoreError:
        return explain(error, self.name)

    # --- connections ---

    def _make_engine(self, connect: Callable[[], "psycopg.Connection[Any]"], line: "_Line") -> Engine:
        engine = create_engine(
            "postgresql+psycopg://",
            creator=connect,
            isolation_level="AUTOCOMMIT",  # Transactions are begun and ended by us, in words.
            poolclass=QueuePool,
            pool_size=1,
            max_overflow=0,
            use_native_hstore=False,
        )

        @event.listens_for(engine, "close")
        def _let_go(_: object, __: object) -> None:
            line.let_go()

        return engine

    def _connect_to_write(self) -> "psycopg.Connection[Any]":
        connection = self._connect("writer", self._writing_line)
        with self._closing_if_it_fails(connection, self._writing_line):
            self._set(connection, self._timeouts)
            self._outlive_the_last_one(connection)
        return connection

    def _connect_to_read(self) -> "psycopg.Connection[Any]":
        connection = self._connect("reader", self._reading_line)
        with self._closing_if_it_fails(connection, self._reading_line):
            self._set(connection, {"statement_timeout": str(READING_TIMEOUT_MS)})
        return connection

    def _application(self, purpose: str) -> str:
        """What `pg_stat_activity` shows; with the token it names this store's own connection."""
        return f"dosvoces {purpose} {self._token:016x}"

    def _connect(self, purpose: str, line: "_Line") -> "psycopg.Connection[Any]":
        names = {"application_name": self._application(purpose), "client_encoding": "UTF8"}
        with self._gate.passing():
            try:
                connection: psycopg.Connection[Any] = psycopg.connect(**self._parameters | names, autocommit=True)
            except psycopg.Error as error:
                raise NotReached(str(error)) from error
        with self._closing_if_it_fails(connection, line):
            line.hold(connection.fileno())
            self._set(connection, SESSION)
            # What is confirmed must be on the disk, whatever the server does by default.
            connection.execute(
                "SELECT set_config('synchronous_commit', 'on', false)"
                " WHERE current_setting('synchronous_commit') = 'off'"
            )
        return connection

    @staticmethod
    @contextlib.contextmanager
    def _closing_if_it_fails(connection: "psycopg.Connection[Any]", line: "_Line") -> Iterator[None]:
        try:
            yield
        except BaseException:
            line.let_go()
            connection.close()
            raise

    @staticmethod
    def _set(connection: "psycopg.Connection[Any]", settings: dict[str, str]) -> None:
        """By a query and not at connecting: poolers refuse what they don't know there."""
        calls = sql.SQL(", ").join(
            sql.SQL("set_config({}, {}, false)").format(sql.Literal(name), sql.Literal(value))
            for name, value in settings.items()
        )
        connection.execute(sql.SQL("SELECT {}").format(calls))

    def _outlive_the_last_one(self, connection: "psycopg.Connection[Any]") -> None:
        """
        End what is left of our last connection on the server, and return only when it is gone.

        A backend that was slow or stopped when we gave its connection up goes on with the COMMIT that it has read. Each
        connection that writes holds a lock of this store's until its backend is gone: who gets it after that one knows
        that nothing of before can still happen.
        """
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = %s AND usename = current_user AND pid <> pg_backend_pid()",
            [self._application("writer")],
        )
        connection.execute("SELECT pg_advisory_lock(%s)", [self._token])

    def _connect_beside(self) -> "psycopg.Connection[Any]":
        connection = self._connect("beats", self._beside_line)
        with self._closing_if_it_fails(connection, self._beside_line):
            self._set(connection, self._timeouts)
        return connection

    # --- looking at what is there ---

    def _built(self, engine: Engine) -> Engine:
        """`engine`, once its database was found to be as this version needs it. Raises `StoreError`."""
        try:
            with engine.connect() as db:
                self._inspect(db)
                check_revision(db, name=self.name)
        except (SQLAlchemyError, psycopg.Error) as error:
            engine.dispose()
            raise self.explain(error) from error
        except StoreError:
            engine.dispose()
            raise
        return engine

    def _inspect(self, db: Connection) -> None:
        """Refuse a server or a database that can't hold a record."""
        number = int(db.exec_driver_sql("SHOW server_version_num").scalar_one())
        if number < self._oldest_version * 10_000:
            said = db.exec_driver_sql("SHOW server_version").scalar_one()
            raise StoreError(
                f"the server of the record {self.name} is PostgreSQL {said}: "
                f"it must be {self._oldest_version} or newer",
                permanent=True,
            )
        encoding = db.exec_driver_sql("SHOW server_encoding").scalar_one()
        if encoding != "UTF8":
            raise StoreError(
                f"the database of the record {self.name} is encoded as {encoding}, which can't hold all names: "
                "make one with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0",
                permanent=True,
            )

    def _bring_up_to_date(self, db: Connection) -> None:
        """Build the tables or change them, one node at a time: several may start at once."""
        if revision(db) != REVISION:
            with self._alone(db):
                if revision(db) != REVISION:
                    migrate(db, name=self.name)
        if entries_ahead(db):
            with self._alone(db):
                move_below_this_cluster(db)

    @staticmethod
    @contextlib.contextmanager
    def _alone(db: Connection) -> Iterator[None]:
        """In a transaction that may take its time, while no other node does the same."""
        db.exec_driver_sql("BEGIN")
        db.exec_driver_sql(f"SET LOCAL lock_timeout = {MIGRATION_LOCK_TIMEOUT_MS}")
        db.exec_driver_sql("SET LOCAL statement_timeout = 0")
        db.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
        db.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")
        yield
        db.exec_driver_sql("COMMIT")


def _quoted(db: Connection, table: Table) -> str:
    return db.dialect.identifier_preparer.format_table(table)


class _Gate:
    """Lets one try to connect through at a time, and after a failure none for a moment: a crowd helps no server."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closed_until = 0.0
        self._error: psycopg.Error | None = None

    @contextlib.contextmanager
    def passing(self) -> Iterator[None]:
        with self._lock:
            if self._error is not None and time.monotonic() < self._closed_until:
                raise self._error
            try:
                yield
            except psycopg.Error as error:
                self._error = error
                self._closed_until = time.monotonic() + RECONNECT_GAP_S * random.uniform(0.5, 1)
                raise
            self._error = None


class _Line:
    """The socket of the newest connection, by a handle of our own: it can be shut from another thread at any moment."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handle: socket.socket | None = None

    def hold(self, fd: int) -> None:
        """Have a handle on `fd` instead of the one before."""
        self.let_go()
        with self._lock:
            self._handle = socket.fromfd(fd, socket.AF_UNSPEC, socket.SOCK_STREAM)

    def let_go(self) -> None:
        """Close the handle, before the connection itself is closed: its peer doesn't see that otherwise."""
        with self._lock:
            if self._handle is not None:
                self._handle.close()
                self._handle = None

    def cut(self) -> None:
        """Shut it: whoever waits for its peer is told that it is gone."""
        with self._lock:
            if self._handle is not None:
                with contextlib.suppress(OSError):  # Gone already.
                    self._handle.shutdown(socket.SHUT_RDWR)
