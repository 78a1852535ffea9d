"""A way of its own to the record, beside its writer and its reader: for what must not wait behind them."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from dosvoces.errors import StoreError
from dosvoces.store.database import Database
from dosvoces.store.lane import Lane

T = TypeVar("T")

ANSWER_LIMIT_S = 3.0
"""How long one call may take: longer than the database's own limits, and less than a node may stay without a beat."""
CLOSE_LIMIT_S = 0.5
"""How long `close` waits for a call whose asker is gone, before the database is made to let go of it."""


class Beside:
    """A lane and a connection, opened when they are needed and anew after each failure. Used from one event loop."""

    def __init__(self, database: Database, name: str) -> None:
        """`name` is the lane's, for whoever looks at the threads."""
        self._database = database
        self._name = name
        self._lane: Lane | None = None
        self._engine: Engine | None = None

    async def close(self) -> None:
        lane, self._lane = self._lane, None
        if lane is not None:
            impatience = asyncio.get_running_loop().call_later(CLOSE_LIMIT_S, self._database.interrupt_beside)
            try:
                await asyncio.shield(lane.run(self._disconnect))
            finally:
                impatience.cancel()
                lane.stop()

    async def _do(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction that may write. Raises `StoreError`."""
        return await self._run(work, self._database.begin)

    async def _ask(self, question: Callable[[Connection], T]) -> T:
        """Run `question` in a transaction that sees one state and writes nothing. Raises `StoreError`."""
        return await self._run(question, self._database.begin_reading)

    async def _run(self, work: Callable[[Connection], T], begin: str) -> T:
        if self._lane is None:
            self._lane = Lane(self._name)
        try:
            async with asyncio.timeout(ANSWER_LIMIT_S):
                return await self._lane.run(partial(self._in_transaction, work, begin))
        except TimeoutError as error:
            self._database.interrupt_beside()
            raise StoreError(
                f"the record {self._database.name} has not answered for {ANSWER_LIMIT_S:g} s: look what holds it up"
            ) from error

    def _in_transaction(self, work: Callable[[Connection], T], begin: str) -> T:
        try:
            if self._engine is None:
                self._engine = self._database.beside()
            self._database.check_present()
            with self._engine.connect() as db, db.begin():
                db.exec_driver_sql(begin)
                return work(db)
        except (SQLAlchemyError, OSError) as error:
            self._disconnect()
            raise self._database.explain(error) from error

    def _disconnect(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.dispose()
