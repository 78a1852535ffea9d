"""The database's own clock, as an SQL expression: the one clock that all nodes share."""

from datetime import datetime
from typing import Any

from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from dosvoces.store.tables import Moment


class database_now(FunctionElement[datetime]):
    """The moment at which the database comes to it; not, as SQL's `now()`, at which the transaction began."""

    type = Moment()
    inherit_cache = True


@compiles(database_now)
def _now(element: database_now, compiler: Any, **options: Any) -> str:
    return "clock_timestamp()"


@compiles(database_now, "sqlite")
def _now_on_sqlite(element: database_now, compiler: Any, **options: Any) -> str:
    # As `Moment` writes it. `unixepoch('subsec')` would be NULL on the SQLite 3.40 of Debian 12.
    return "strftime('%Y-%m-%dT%H:%M:%f000+00:00', 'now')"
