"""
What the store needs of a database beside the statements: the narrow port between `sql.py`, `writer.py` and the engines.

Each method says which thread it is for. There are two lanes, one that writes and one that reads, each with a connection
of its own; the loop is the event loop's thread.
"""

from typing import Protocol

from sqlalchemy import Connection, Engine

from dosvoces.errors import StoreError
from dosvoces.store import Concern
from dosvoces.store.prepared import Cursor


class Database(Protocol):
    """An engine: `sqlite.SqliteFile`, `postgres.PostgresServer`."""

    name: str
    """For people, without a password: the file's path, or the server and its database."""
    begin: str
    """The statement that begins a transaction that will write."""
    begin_reading: str
    """The statement that begins a transaction which sees one state of the record and changes nothing."""
    errors: tuple[type[Exception], ...]
    """What its driver raises."""
    row_errors: tuple[type[Exception], ...]
    """Those of them that a single row causes, while others could be written."""
    passing_errors: tuple[type[Exception], ...]
    """Those of them that another writer causes, and that are gone when the same is tried again."""

    def claim(self) -> None:
        """Loop: take what only one service may have. Raises `StoreError` if another one has it."""

    def release(self) -> None:
        """Loop: give the claim back; idempotent."""

    def prepare(self) -> Engine:
        """Writing lane: connect and bring the tables up to date; the engine to be disposed of. Raises `StoreError`."""

    def cursor(self) -> Cursor:
        """
        Writing lane: the cursor to write with, in autocommit, on a connection that stands as far as is known.

        After `drop` it connects anew, and returns only when nothing can still be written by the connection before: what
        became of a commit that broke off is decided then. Raises `StoreError`, or one of `errors`.
        """

    def drop(self) -> None:
        """Writing lane: give up a connection after a failure, where a new one may be better. Never raises."""

    def attach(self) -> Engine:
        """Reading lane: the engine to read by; creates and changes nothing. Raises `StoreError`."""

    def beside(self) -> Engine:
        """
        Any third lane: one more way to it for short writes, beside a running service; builds nothing.

        The engine to be disposed of, before another is asked for. Raises `StoreError`.
        """

    def interrupt_beside(self) -> None:
        """Loop: make a call that this third lane waits in fail now, where that can be done."""

    def interrupt(self) -> None:
        """Loop: make a call that the writing lane waits in fail now, where that can be done."""

    def interrupt_reading(self) -> None:
        """Loop: the same for the reading lane."""

    def check_present(self) -> None:
        """Either lane: raise `StoreError` if what was opened is no longer there."""

    def occupy(self, db: Connection) -> None:
        """
        Any: keep every service out until the transaction of `db` ends, and let it last.

        Raises `StoreError` if one has the record in use.
        """

    def last_mail_number(self, db: Connection) -> int:
        """Any: the highest number that a kept mail ever had; 0 for none."""

    def number_mails_from(self, db: Connection, number: int) -> None:
        """Any: have the next mail that is kept get a higher number than that."""

    def concerns(self, db: Connection) -> list[Concern]:
        """Any: what an operator should know of how it is set up."""

    def shortage(self) -> str | None:
        """Loop: what will soon stop the writing, in words."""

    def explain(self, error: BaseException) -> StoreError:
        """`error` as ours: what is wrong with what, and the remedy."""
