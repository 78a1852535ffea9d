"""The list of numbers that are never called, and its way into the record: beside the service, as the keys go."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from sqlalchemy import Connection, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite

from dosvoces.model import mask_number
from dosvoces.store.audit import write_act
from dosvoces.store.beside import Beside
from dosvoces.store.clock import database_now
from dosvoces.store.database import Database
from dosvoces.store.keys import Act
from dosvoces.store.tables import do_not_call


@dataclass(frozen=True, slots=True)
class Listed:
    """A number that is never called."""

    number: str
    """E.164."""
    at: datetime
    by: str
    note: str


class DoNotCall(Beside):
    """The list. Each change stands in the record together with who made it. Callers see `StoreError`."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, "do not call")

    async def add(self, numbers: Sequence[str], *, note: str, by: str) -> int:
        """Add numbers (E.164); how many weren't on it."""
        return await self._do(partial(_add, numbers=numbers, note=note, by=by))

    async def remove(self, number: str, *, by: str) -> bool:
        """Let a number be called again; whether it was on it."""
        return await self._do(partial(_remove, number=number, by=by))

    async def numbers(self, *, limit: int) -> Sequence[Listed]:
        """The newest first."""
        return await self._ask(partial(_newest, limit=limit))

    async def listed(self, number: str) -> bool:
        """Whether a number is on it."""
        return await self._ask(partial(_is_listed, number=number))


def _add(db: Connection, numbers: Sequence[str], note: str, by: str) -> int:
    insert = postgresql.insert if db.dialect.name == "postgresql" else sqlite.insert
    now = db.execute(select(database_now())).scalar_one()
    before = db.execute(select(func.count()).select_from(do_not_call)).scalar_one()
    rows = [{"number": number, "at": now, "by": by, "note": note} for number in numbers]
    if rows:
        db.execute(insert(do_not_call).on_conflict_do_nothing(), rows)
    added: int = db.execute(select(func.count()).select_from(do_not_call)).scalar_one() - before
    subject = mask_number(numbers[0]) if len(numbers) == 1 else f"{added} numbers"
    write_act(db, Act(by, "dnc.add", subject, {"note": note}))
    return added


def _remove(db: Connection, number: str, by: str) -> bool:
    if not db.execute(delete(do_not_call).where(do_not_call.c.number == number)).rowcount:
        return False
    write_act(db, Act(by, "dnc.remove", mask_number(number)))
    return True


def _newest(db: Connection, limit: int) -> list[Listed]:
    rows = db.execute(select(do_not_call).order_by(do_not_call.c.at.desc(), do_not_call.c.number).limit(limit))
    return [Listed(row.number, row.at, row.by, row.note) for row in rows]


def _is_listed(db: Connection, number: str) -> bool:
    return db.execute(select(do_not_call.c.number).where(do_not_call.c.number == number)).first() is not None
