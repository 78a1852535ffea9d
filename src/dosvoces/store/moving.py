"""
Moves a whole record into another, empty database: every table, every row as it is, all or nothing.

One transaction on the target holds all of it, so that a move that breaks off leaves nothing behind and is begun anew.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, Row, Table, func, insert, select, tuple_
from sqlalchemy.exc import SQLAlchemyError

from dosvoces.errors import StoreError
from dosvoces.store.audit import write_act
from dosvoces.store.database import Database
from dosvoces.store.keys import Act
from dosvoces.store.tables import metadata

BATCH_ROWS = 500
"""Of so many rows the values fit into one statement on either database."""

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Moved:
    """What was moved."""

    rows: dict[str, int]
    """By the table's name."""


def move_record(source: Database, target: Database, tell: Tell, *, by: str = "") -> Moved:
    """
    Copy all of `source` into `target`; `tell` hears of each table. The source stays as it is.

    With `by`, the target's audit says who did it.

    Raises `StoreError` if a service has either in use, the target isn't empty, or a row doesn't arrive as it was.
    """
    with _claimed(source, source.beside) as reading, _claimed(target, target.prepare) as writing:
        try:
            moved = _move(source, reading, target, writing, tell)
            if by:
                write_act(writing, Act(by, "record.move", source.name, {"rows": sum(moved.rows.values())}))
            return moved
        except SQLAlchemyError as error:
            raise target.explain(error) from error


@contextmanager
def _claimed(database: Database, connect: Callable[[], Engine]) -> Iterator[Connection]:
    """In a transaction that ends as its caller ends it, while no service may begin on the database."""
    engine = connect()
    try:
        database.claim()
        with engine.connect() as db, db.begin():
            db.exec_driver_sql(database.begin)
            database.occupy(db)
            yield db
    except SQLAlchemyError as error:
        raise database.explain(error) from error
    finally:
        database.drop()
        engine.dispose()
        database.release()


def _move(source: Database, reading: Connection, target: Database, writing: Connection, tell: Tell) -> Moved:
    _check_empty(target, writing)
    rows = {}
    for table in metadata.sorted_tables:
        rows[table.name] = _move_table(table, reading, writing, target)
        tell(f"{table.name}: {rows[table.name]} rows")
    target.number_mails_from(writing, source.last_mail_number(reading))
    return Moved(rows)


def _check_empty(target: Database, db: Connection) -> None:
    for table in metadata.sorted_tables:
        if db.execute(select(table).limit(1)).first() is not None:
            raise StoreError(
                f"the record {target.name} is not empty, there are rows in {table.name}: name an empty database",
                permanent=True,
            )


def _move_table(table: Table, reading: Connection, writing: Connection, target: Database) -> int:
    """The number of rows moved, which is the number of rows that are there then."""
    moved = 0
    for rows in _batches(table, reading):
        values = [dict(row._mapping) for row in rows]
        writing.execute(insert(table).inline(), values)
        arrived = _rows_with_keys(table, writing, rows)
        if arrived != {_key(table, row): row for row in rows}:
            raise StoreError(f"rows of {table.name} did not arrive in {target.name} as they were; nothing was moved")
        moved += len(rows)
    expected = reading.execute(select(func.count()).select_from(table)).scalar_one()
    found = writing.execute(select(func.count()).select_from(table)).scalar_one()
    if not expected == found == moved:
        raise StoreError(
            f"{table.name} has {expected} rows, and {found} arrived in {target.name}; nothing was moved", permanent=True
        )
    return moved


def _batches(table: Table, db: Connection) -> Iterator[Sequence[Row[Any]]]:
    """All rows, by their key."""
    keys = list(table.primary_key)
    after: tuple[Any, ...] | None = None
    while True:
        batch = select(table).order_by(*keys).limit(BATCH_ROWS)
        if after is not None:
            batch = batch.where(tuple_(*keys) > tuple_(*after))
        rows = db.execute(batch).all()
        if not rows:
            return
        yield rows
        after = _key(table, rows[-1])


def _rows_with_keys(table: Table, db: Connection, rows: Sequence[Row[Any]]) -> dict[tuple[Any, ...], Row[Any]]:
    keys = [_key(table, row) for row in rows]
    found = db.execute(select(table).where(tuple_(*table.primary_key).in_(keys)))
    return {_key(table, row): row for row in found}


def _key(table: Table, row: Row[Any]) -> tuple[Any, ...]:
    return tuple(row._mapping[column.name] for column in table.primary_key)
