"""
Counters that nobody asks for any more: of hours and days that are long over, and what was reserved in them.

They name numbers, mailboxes and network addresses, one row for each that was ever counted.
"""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Column, Dialect, Integer, Table, bindparam, delete, literal_column, select
from sqlalchemy.dialects import sqlite

from dosvoces.store.ceilings import DAY, window_start
from dosvoces.store.clock import database_now
from dosvoces.store.prepared import Cursor, Prepared
from dosvoces.store.tables import Moment, reserved, spent

MARGIN = timedelta(days=1)
"""How long they stay when their day is over: a clock that is set back counts on in what it has left."""


class OldCounts:
    """What deletes them, for one dialect."""

    def __init__(self, dialect: Dialect) -> None:
        self._now = Prepared(select(database_now()), dialect)
        # What is reserved of a day that is over changes no counter any more, whenever its connection ends.
        self._delete = [
            Prepared(_delete(spent, spent.c.counter, spent.c.since), dialect),
            Prepared(_delete(reserved, reserved.c.connection_id, reserved.c.day), dialect),
        ]

    def forget(self, cursor: Cursor, limit: int) -> int:
        """Delete at most `limit` of each; how many it were."""
        self._now.run(cursor, {})
        now = Moment().process_result_value(cursor.fetchone()[0], sqlite.dialect())
        assert now is not None
        before = window_start(DAY, now) - MARGIN
        return sum(each.run(cursor, {"before": before, "most": limit}) for each in self._delete)


def _delete(table: Table, key: "Column[Any]", since: "Column[datetime]") -> Any:
    old = select(key).where(since < bindparam("before", type_=since.type))
    # The offset in words: SQLite's dialect would bind a nameless one.
    return delete(table).where(key.in_(old.limit(bindparam("most", type_=Integer)).offset(literal_column("0"))))
