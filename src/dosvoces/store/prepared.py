"""
Statements made ready once: from SQLAlchemy Core, compiled for one database, run on the driver's own cursor.

Core checks and spells the SQL for the database at hand; running it through Core would cost several times what the
statement itself does.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from sqlalchemy import Delete, Dialect, Insert, Select, Table, Update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.compiler import SQLCompiler

Row = dict[str, Any]
Statement = Select[Any] | Insert | Update | Delete


class Cursor(Protocol):
    """What we use of a driver's cursor (PEP 249)."""

    @property
    def rowcount(self) -> int: ...
    def execute(self, sql: str, parameters: Any = ..., /) -> Any: ...
    def executemany(self, sql: str, parameters: Any, /) -> Any: ...
    def fetchone(self) -> Any: ...


class Prepared:
    """A statement's text for one database, with what turns our values into the driver's."""

    def __init__(self, statement: Statement, dialect: Dialect, columns: Sequence[str] | None = None) -> None:
        compiled = statement.compile(dialect=dialect, column_keys=columns)
        assert isinstance(compiled, SQLCompiler)
        self._sql = str(compiled)
        self._convert: list[tuple[str, Callable[[Any], Any]]] = []
        for name, parameter in compiled.binds.items():
            processor = parameter.type.dialect_impl(dialect).bind_processor(dialect)
            if processor is not None:
                self._convert.append((name, processor))

    def _bound(self, row: Row) -> Row:
        for name, convert in self._convert:
            row[name] = convert(row[name])
        return row

    def run(self, cursor: Cursor, row: Row) -> int:
        """Run it once; the number of rows it wrote."""
        cursor.execute(self._sql, self._bound(row))
        return cursor.rowcount

    def run_many(self, cursor: Cursor, rows: Sequence[Row]) -> None:
        cursor.executemany(self._sql, [self._bound(row) for row in rows])


def insert_new(table: Table, dialect: Dialect, columns: Sequence[str]) -> Prepared:
    """An insert that leaves out what violates a unique key, so that the rest of its batch is not lost with it."""
    statement = (
        postgresql.insert(table).on_conflict_do_nothing()
        if dialect.name == "postgresql"
        else sqlite.insert(table).on_conflict_do_nothing()
    )
    return Prepared(statement, dialect, columns)
