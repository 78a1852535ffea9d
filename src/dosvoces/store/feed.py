"""
The port to all journals as one: every entry of every connection, in the order in which they were committed.

A connection's own numbers are in that order already. Across connections there is a place for each commit: on SQLite a
count, as it has one writer; on PostgreSQL the id of the transaction, which is given when that begins. So an entry is
shown there only once every transaction that began before it is over: nothing ever comes to stand before what was shown.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from sqlalchemy import BigInteger, Dialect, Select, func, literal_column, select, tuple_, update
from sqlalchemy import Connection as Database
from sqlalchemy.sql.elements import ColumnElement

from dosvoces.model import ConnectionId
from dosvoces.store import Entry
from dosvoces.store.queries import entry_in
from dosvoces.store.tables import journal

T = TypeVar("T")

FIRST_TRANSACTION = 1 << 40
"""Added to PostgreSQL's ids, so that what came from SQLite, with its smaller counts, stays before."""
_THIS_ONE = f"(pg_current_xact_id()::text::bigint + {FIRST_TRANSACTION})"  # PostgreSQL 13 and later
_NONE_YET = f"pg_snapshot_xmax(pg_current_snapshot())::text::bigint + {FIRST_TRANSACTION}"
_PLACES_OF_CLUSTERS = FIRST_TRANSACTION // 2  # Far above SQLite's counts, and below what was moved here before.
_ALL_OVER = f"pg_snapshot_xmin(pg_current_snapshot())::text::bigint + {FIRST_TRANSACTION}"


@dataclass(frozen=True, slots=True)
class Position:
    """Where an entry stands among all; compared by the database alone, which has an order of texts of its own."""

    commit: int
    connection_id: str
    number: int


BEGINNING = Position(-1, "", 0)

Placed = tuple[Position, Entry]


class Feed(Protocol):
    """
    All journals as one. Part of the record; its methods raise `StoreError`.

    - *in order, for ever*: what `since` gave for a position is given again, and nothing is ever put before or between.
    - *nothing skipped*: who asks on from the last position that he was given misses no entry.
    """

    news: asyncio.Event
    """Set whenever this node has journalled something; others' entries come unannounced."""

    async def since(self, position: Position, *, limit: int, upto: Position | None = None) -> Sequence[Placed]:
        """The entries after `position`, up to and with `upto`."""

    async def end(self) -> Position:
        """The position of the last entry."""

    async def position_of(self, connection_id: ConnectionId, number: int) -> Position | None:
        """Where that entry stands; `None` if it isn't there, or not to be shown yet."""


class Lanes(Protocol):
    def ask(self, question: Callable[[Database], T]) -> Awaitable[T]: ...


class SqlFeed(Feed):
    """The feed of an open record."""

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self.news = asyncio.Event()

    async def since(self, position: Position, *, limit: int, upto: Position | None = None) -> Sequence[Placed]:
        return await self._lanes.ask(partial(_since, position=position, limit=limit, upto=upto))

    async def end(self) -> Position:
        return await self._lanes.ask(_end)

    async def position_of(self, connection_id: ConnectionId, number: int) -> Position | None:
        return await self._lanes.ask(partial(_position_of, connection_id=connection_id, number=number))


def position_in(dialect: Dialect) -> ColumnElement[int]:
    """The place of what is written now, as a part of the statement that writes it."""
    if dialect.name == "postgresql":
        return literal_column(_THIS_ONE, BigInteger)
    before = journal.alias("before")
    last = func.coalesce(func.max(before.c.position), literal_column("0", BigInteger))
    return select(last + literal_column("1", BigInteger)).scalar_subquery()


def entries_ahead(db: Database) -> int:
    """
    By how much the last entry stands behind all that this PostgreSQL cluster can have written; 0 if it doesn't.

    It does where the record was restored into another cluster, whose transactions have smaller ids. Such entries would
    stay hidden, and who follows on from one of them be shown nothing new, until the ids had come so far.
    """
    last = db.scalar(select(func.max(journal.c.position)))
    none_yet = db.execute(select(literal_column(_NONE_YET, BigInteger))).scalar_one()
    return 0 if last is None or last < none_yet else int(last) - int(none_yet) + 1


def move_below_this_cluster(db: Database) -> None:
    """Give all entries places before those that this cluster gives, in the same order, if any are ahead."""
    if not (ahead := entries_ahead(db)):
        return
    of_clusters = journal.c.position >= _PLACES_OF_CLUSTERS
    db.execute(update(journal).where(of_clusters).values(position=journal.c.position - _margin(db) - ahead))


def _margin(db: Database) -> int:
    """What has its place for ever ends so far below what has none yet."""
    margin = literal_column(f"({_NONE_YET}) - ({_ALL_OVER})", BigInteger)
    return int(db.execute(select(margin)).scalar_one())


_KEY = (journal.c.position, journal.c.connection_id, journal.c.seq)


def _since(db: Database, position: Position, limit: int, upto: Position | None) -> list[Placed]:
    # The first condition says nothing new, but an index answers it.
    found = _shown(db).where(journal.c.position >= position.commit, tuple_(*_KEY) > _values(position))
    if upto is not None:
        found = found.where(journal.c.position <= upto.commit, tuple_(*_KEY) <= _values(upto))
    return [(_position(row), entry_in(row)) for row in db.execute(found.order_by(*_KEY).limit(limit))]


def _end(db: Database) -> Position:
    last = _shown(db).order_by(*(column.desc() for column in _KEY)).limit(1)
    row = db.execute(last).one_or_none()
    return BEGINNING if row is None else _position(row)


def _position_of(db: Database, connection_id: ConnectionId, number: int) -> Position | None:
    this = _shown(db).where(journal.c.connection_id == connection_id, journal.c.seq == number)
    row = db.execute(this).one_or_none()
    return None if row is None else _position(row)


def _shown(db: Database) -> Select[Any]:
    """What has its place for ever."""
    all_over: ColumnElement[int] = literal_column(_ALL_OVER, BigInteger)
    everything = select(journal)
    return everything.where(journal.c.position < all_over) if db.dialect.name == "postgresql" else everything


def _values(position: Position) -> ColumnElement[Any]:
    return tuple_(position.commit, position.connection_id, position.number)


def _position(row: Any) -> Position:
    return Position(row.position, row.connection_id, row.seq)
