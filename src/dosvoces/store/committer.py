"""
One commit: what goes into it, and how it is written so that one bad row takes nothing with it.

Belongs to the writing lane's thread; what is gathered, and what becomes of it, is `writer.py`'s.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from dosvoces.core import Connection, Leg
from dosvoces.errors import StoreError
from dosvoces.model import ConnectionId
from dosvoces.store import Entry
from dosvoces.store.database import Database
from dosvoces.store.prepared import Cursor
from dosvoces.store.writes import Writes

PASSING_TRIES = 3
"""How often one commit is tried that others were in the way of: each deadlock costs the server's `deadlock_timeout`."""
LEGS_REMEMBERED = 4_000
"""Of so many connections the writer knows what the disk has of their legs; past it, it writes them once more."""

Write = Callable[[Cursor], None]
"""One durable write, run inside the transaction. Raises `StoreError` where it alone is refused."""


_BAD_VALUE = (ValueError, TypeError, OverflowError)
"""What a driver raises for a value that it can't send: a lone surrogate, a number of more than 64 bits."""


@dataclass(slots=True)
class Request:
    """A durable write that somebody asked for."""

    write: Write
    future: asyncio.Future[None] | None
    """Who waits for it; `None` once it is tried again on its own."""
    keep: bool
    """Whether it is tried again when the database fails; it can be repeated without harm."""
    locks: tuple[int, ...] = ()
    """What no other transaction may have meanwhile: keys of PostgreSQL's advisory locks."""


State = tuple[Connection, datetime | None]


@dataclass(slots=True)
class Batch:
    """What one commit writes."""

    requests: list[Request]
    states: dict[ConnectionId, State]
    entries: list[Entry]
    kept: list[Callable[[], None]]
    """Who wants to know when the entries are on disk."""
    probe: bool
    """Whether to write something in any case, to learn whether it can be done again."""
    refusals: dict[int, StoreError] = field(default_factory=dict)
    """By a request's index: why it alone was refused."""
    not_ours: list[ConnectionId] = field(default_factory=list)
    """Whose state was not written, as they are another node's."""
    unknown: bool = False
    """Whether it failed so that it may have been committed all the same: the answer to COMMIT never came."""
    lost: list[str] = field(default_factory=list)
    """States and entries that the database will never take, in words."""


class Committer:
    """The lane's half: one transaction at a time on one cursor."""

    def __init__(self, database: Database, writes: Writes) -> None:
        self._database = database
        self._writes = writes
        self._cursor: Cursor
        """Set anew for each commit."""
        self._row_errors: tuple[type[Exception], ...] = (*database.row_errors, *_BAD_VALUE)
        self._alone: tuple[type[Exception], ...] = (StoreError, *self._row_errors)
        self._legs_on_disk: dict[ConnectionId, tuple[Leg, Leg]] = {}

    def commit(self, batch: Batch) -> None:
        """Write all of `batch`; or raise `StoreError`, and nothing is written unless `batch.unknown` says it may be."""
        try:
            self._database.check_present()
            self._cursor = self._database.cursor()
            self._try_until_nobody_is_in_the_way(batch)
        except self._database.errors as error:
            self._database.drop()
            raise self._database.explain(error) from error
        if len(self._legs_on_disk) > LEGS_REMEMBERED:
            self._legs_on_disk.clear()
        self._legs_on_disk.update({key: (state.a, state.b) for key, (state, _) in batch.states.items()})

    def _try_until_nobody_is_in_the_way(self, batch: Batch) -> None:
        run = self._run
        for tries_left in reversed(range(PASSING_TRIES)):
            try:
                return self._in_transaction(batch, run)
            except self._database.passing_errors:
                if not tries_left:
                    raise
            except self._row_errors:
                # One row is bad; find it. Rare enough that it may cost a second transaction.
                if run == self._run_one_by_one or not tries_left:
                    raise
                run = self._run_one_by_one

    def _in_transaction(self, batch: Batch, run: Callable[[Batch], None]) -> None:
        batch.refusals.clear()
        batch.not_ours.clear()
        self._cursor.execute(self._database.begin)
        committing = False
        try:
            # All at once, and before any row's: two batches that want the same never wait for each other.
            if locks := {lock for request in batch.requests for lock in request.locks}:
                self._writes.lock(self._cursor, sorted(locks))
            run(batch)
            committing = True
            self._cursor.execute("COMMIT")
        except BaseException:
            rolled_back = self._roll_back()
            batch.unknown = committing and not rolled_back
            raise

    def _roll_back(self) -> bool:
        """Whether it could be; some failures have rolled back already, and a lost database can't."""
        try:
            self._cursor.execute("ROLLBACK")
        except self._database.errors:
            return False
        return True

    def _run(self, batch: Batch) -> None:
        # States come first: one that was given before its connection was settled must not follow the outcome.
        for connection_id, state in batch.states.items():
            self._state(batch, connection_id, state)
        for index, request in enumerate(batch.requests):
            try:
                request.write(self._cursor)
            except StoreError as error:
                batch.refusals[index] = error
        if batch.entries:
            self._writes.entries(self._cursor, batch.entries)
        if batch.probe:
            self._writes.touch(self._cursor)

    def _run_one_by_one(self, batch: Batch) -> None:
        for connection_id, state in batch.states.items():
            if error := self._try(partial(self._state, batch, connection_id, state)):
                batch.lost.append(f"state of {connection_id}: {error}")
        for index, request in enumerate(batch.requests):
            error = self._try(partial(request.write, self._cursor))
            if isinstance(error, StoreError):
                batch.refusals[index] = error
            elif error is not None:
                batch.refusals[index] = StoreError(f"the record refuses this ({error})", permanent=True)
        for entry in batch.entries:
            if error := self._try(partial(self._writes.entries, self._cursor, [entry])):
                batch.lost.append(f"{entry.event} of {entry.connection_id}: {error}")

    def _try(self, write: Callable[[], None]) -> Exception | None:
        """Run `write`; if its row is bad, undo only that and say why. What fails otherwise, ends all of it as it is."""
        failure: Exception | None = None
        self._cursor.execute("SAVEPOINT one")
        try:
            write()
        except self._alone as error:
            failure = error
            self._cursor.execute("ROLLBACK TO one")
        self._cursor.execute("RELEASE one")
        return failure

    def _state(self, batch: Batch, connection_id: ConnectionId, state: State) -> None:
        if not self._writes.state(self._cursor, connection_id, *state, self._legs_on_disk.get(connection_id)):
            batch.not_ours.append(connection_id)
