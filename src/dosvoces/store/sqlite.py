"""
A record in one SQLite file: opened, claimed for one service, watched, and its errors put into words.

Knows nothing of what is written. WAL with `synchronous=FULL`: readers never wait for the writer, and what is committed
survives the loss of power (`NORMAL` would lose the last commits then).
"""

import fcntl
import os
import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, PoolProxiedConnection, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import StaticPool

from dosvoces.errors import NoRecordYet, StoreError
from dosvoces.store import Concern
from dosvoces.store.database import Database
from dosvoces.store.prepared import Cursor
from dosvoces.store.schema import check_revision, migrate, revision
from dosvoces.store.tables import REVISION

BUSY_TIMEOUT_MS = 2000
"""How long a write waits for another program's lock before it fails."""
WAL_SIZE_LIMIT_BYTES = 64 * 1024 * 1024
"""What the write-ahead log is cut back to after a long reader let it grow."""
QUICK_CHECK_LIMIT_BYTES = 64 * 1024 * 1024
"""Files up to this size are checked for damage at start (about 0.2 s); larger ones show it when it is read."""
RESERVE_BYTES = 8 * 1024 * 1024
"""Disk space kept for connections that are under way: with less than this, no new ones are taken."""
APPLICATION_ID = 0x44564F43
"""`DVOC` in the file's header: it is ours, and not another program's database."""


class SqliteFile(Database):
    """The file of a record. Not thread-safe: each engine belongs to the thread that uses it."""

    begin = "BEGIN IMMEDIATE"
    """Takes the write lock at once: a transaction that reads first and then can't write would fail without waiting."""
    begin_reading = "BEGIN"
    errors: tuple[type[Exception], ...] = (sqlite3.Error,)
    row_errors: tuple[type[Exception], ...] = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.ProgrammingError)
    """What a single row causes, while others could be written."""
    passing_errors: tuple[type[Exception], ...] = ()
    """None: whoever else writes is waited for."""

    def __init__(
        self, path: Path, *, busy_timeout_ms: int = BUSY_TIMEOUT_MS, reserve_bytes: int = RESERVE_BYTES
    ) -> None:
        self.path = path
        self.name = str(path)
        self._reserve_bytes = reserve_bytes
        self._busy_timeout_ms = busy_timeout_ms
        self._lock: int | None = None
        self._identity: tuple[int, int] | None = None
        self._writing: PoolProxiedConnection | None = None
        self._cursor: Cursor

    # --- for the service ---

    def claim(self) -> None:
        """
        Make this process the only service on the file. Raises `StoreError` if another one is.

        A lock (`flock`) on a file beside it, so that it ends with the process however that ends, and so that readers
        and other programs are not concerned.
        """
        self._check_no_folder()
        path = self.path.with_name(self.path.name + ".lock")
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._cannot_open(error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.read(lock, 20).decode("ascii", "replace").strip() or "unknown"
            os.close(lock)
            raise StoreError(
                f"the record {self.path} is in use by another Dosvoces (process {owner}): "
                "stop that one, or give this one its own [database] url",
                permanent=True,
            ) from error
        os.ftruncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())
        self._lock = lock

    def release(self) -> None:
        """Give the claim back; idempotent. The lock file stays: deleting it would race with the next claim."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def prepare(self) -> Engine:
        """Create the file if there is none, bring its tables up to date, and return the writer's engine."""
        self._create()
        engine = self._engine("PRAGMA synchronous = FULL", f"PRAGMA journal_size_limit = {WAL_SIZE_LIMIT_BYTES}")
        engine = self._inspected(engine, create=True)
        self._writing = engine.raw_connection()
        self._cursor = self._writing.cursor()
        return engine

    def cursor(self) -> Cursor:
        """Always the same: a file is not reached by a line that can break."""
        return self._cursor

    def drop(self) -> None:
        """Nothing: what a file refuses, it refuses on any connection."""

    def interrupt(self) -> None:
        """Nothing: a lock has a limit of its own, and no thread that its disk holds can be freed."""

    def interrupt_reading(self) -> None:
        """Nothing, as for `interrupt`."""

    def interrupt_beside(self) -> None:
        """Nothing, as for `interrupt`."""

    # --- for readers ---

    def attach(self) -> Engine:
        """Open what is there to read; creates and changes nothing. Raises `StoreError`."""
        if not self.path.exists():
            raise self._not_there()
        return self._inspected(self._engine("PRAGMA query_only = 1"), create=False)

    # --- beside a running service ---

    def beside(self) -> Engine:
        """One more way to the file for short writes, beside a running service; builds nothing. Raises `StoreError`."""
        if not self.path.exists():
            raise self._not_there()
        return self._inspected(self._engine("PRAGMA synchronous = FULL"), create=False)

    # --- for all ---

    def _inspected(self, engine: Engine, *, create: bool) -> Engine:
        """`engine`, once its database was looked at; given back if that fails. Raises `StoreError`."""
        try:
            self._check_no_folder()
            with engine.connect() as db:
                self._inspect(db, create=create)
        except (SQLAlchemyError, sqlite3.Error) as error:
            engine.dispose()
            raise self.explain(error) from error
        except StoreError:
            engine.dispose()
            raise
        return engine

    def check_present(self) -> None:
        """
        Raise `StoreError` unless the file that was opened is still at its path.

        SQLite goes on writing into a deleted file without a word; all of it is gone when the process ends.
        """
        try:
            found = os.stat(self.path)
        except OSError as error:
            raise StoreError(
                f"the record {self.path} was deleted or moved while in use: put it back, or restart to begin a new one"
            ) from error
        if (found.st_dev, found.st_ino) != self._identity:
            raise StoreError(
                f"the record {self.path} was replaced by another file while in use: restart to use that one"
            )

    def occupy(self, db: Connection) -> None:
        """Nothing: who has claimed the file has it alone."""

    def last_mail_number(self, db: Connection) -> int:
        return int(db.exec_driver_sql("SELECT max(seq) FROM sqlite_sequence WHERE name = 'mail'").scalar() or 0)

    def number_mails_from(self, db: Connection, number: int) -> None:
        db.exec_driver_sql("DELETE FROM sqlite_sequence WHERE name = 'mail'")
        db.exec_driver_sql("INSERT INTO sqlite_sequence (name, seq) VALUES ('mail', :number)", {"number": number})

    def concerns(self, db: Connection) -> list[Concern]:
        """None: all that matters is set by us."""
        return []

    def shortage(self) -> str | None:
        """What is wrong with the space left on its disk, in words; known before a write fails for it."""
        try:
            disk = os.statvfs(self.path.parent)
        except OSError:
            return None  # `check_present` says it better.
        free = disk.f_bavail * disk.f_frsize
        if free >= self._reserve_bytes:
            return None
        mib = 1024 * 1024
        needed = f"{self._reserve_bytes / mib:g}"
        return f"the disk of the record {self.path} has {free // mib} MiB left of the {needed} it needs"

    def explain(self, error: BaseException) -> StoreError:
        """`error` as ours: what is wrong with which file, and the remedy."""
        cause = getattr(error, "orig", None) or error
        code = getattr(cause, "sqlite_errorcode", None)
        words, permanent = _MEANING.get(code & 0xFF if isinstance(code, int) else None, _UNKNOWN)
        return StoreError(f"the record {self.path} {words} ({cause})", permanent=permanent)

    def _not_there(self) -> StoreError:
        return NoRecordYet(
            f"there is no record at {self.path}: start `dosvoces serve` first, or mend [database] url", permanent=True
        )

    def _check_no_folder(self) -> None:
        if self.path.is_dir():
            raise StoreError(
                f"the record {self.path} is a folder: name a file in it, such as "
                f'[database] url = "sqlite:///{self.path / "dosvoces.db"}"',
                permanent=True,
            )

    def _cannot_open(self, error: OSError) -> StoreError:
        return StoreError(
            f"the record {self.path} can't be opened ({error.strerror}): "
            f"the folder {self.path.parent} must exist and be writable, or mend [database] url",
            permanent=True,
        )

    def _create(self) -> None:
        """An empty file that only its owner reads: it holds phone numbers and mails. WAL and index inherit its mode."""
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            return
        except OSError as error:
            raise self._cannot_open(error) from error
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # A file whose name isn't on the disk is no record.
        finally:
            os.close(folder)

    def _engine(self, *pragmas: str) -> Engine:
        # mode=rw never creates: a file deleted under us can't come back empty. `as_uri` quotes what a URI must.
        uri = self.path.absolute().as_uri()
        engine = create_engine(
            URL.create("sqlite", database=uri, query={"mode": "rw", "uri": "true"}),
            isolation_level="AUTOCOMMIT",  # Transactions are begun and ended by us, in words.
            paramstyle="named",
            poolclass=StaticPool,
            connect_args={"timeout": self._busy_timeout_ms / 1000, "check_same_thread": False},
        )

        @event.listens_for(engine, "connect")
        def _set_up(connection: Any, _: Any) -> None:
            cursor = connection.cursor()
            for pragma in ("PRAGMA foreign_keys = 1", *pragmas):
                cursor.execute(pragma)
            cursor.close()

        return engine

    def _inspect(self, db: Connection, *, create: bool) -> None:
        """Refuse what isn't ours or is damaged; build or bring up to date what is, if `create`."""
        found = os.stat(self.path)
        self._identity = (found.st_dev, found.st_ino)
        if db.exec_driver_sql("PRAGMA application_id").scalar() != APPLICATION_ID:
            tables = db.exec_driver_sql("SELECT count(*) FROM sqlite_schema").scalar()
            if tables or not create:
                raise StoreError(
                    f"{self.path} is another program's database, not a Dosvoces record: mend [database] url",
                    permanent=True,
                )
        if create and found.st_size <= QUICK_CHECK_LIMIT_BYTES:
            damage = db.exec_driver_sql("PRAGMA quick_check(1)").scalar()
            if damage != "ok":
                raise StoreError(f"the record {self.path} {_DAMAGED} ({damage})", permanent=True)
        if not create:
            check_revision(db, name=str(self.path))
            return
        # Only now that it is known to be ours: this writes into the file, and sticks.
        db.exec_driver_sql("PRAGMA journal_mode = WAL")
        if revision(db) != REVISION:
            db.exec_driver_sql(self.begin)
            db.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
            migrate(db, name=str(self.path))
            db.exec_driver_sql("COMMIT")


_DAMAGED = "is damaged or not a database: restore it from a copy, or move it away to begin a new one"
_MEANING: dict[int | None, tuple[str, bool]] = {
    sqlite3.SQLITE_BUSY: ("is locked by another program: close what has it open", False),
    sqlite3.SQLITE_FULL: ("can't grow, its disk is full: free some space", False),
    sqlite3.SQLITE_READONLY: ("can't be written, the file, folder or disk is read-only: give us leave to write", False),
    sqlite3.SQLITE_CORRUPT: (_DAMAGED, True),
    sqlite3.SQLITE_NOTADB: (_DAMAGED, True),
    sqlite3.SQLITE_CANTOPEN: ("can't be opened: its file and folder must be there and ours to read and write", False),
    sqlite3.SQLITE_IOERR: ("can't be read or written, the disk reports an error: look at the system's log", False),
}
_UNKNOWN = ("can't be used", False)
