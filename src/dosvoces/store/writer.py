"""
The one writer: gathers what waits across all connections and commits it once (group commit).

It starts as soon as it is free, so an idle system answers in about a millisecond; what arrives while a commit is on its
way to the disk forms the next one, so that a busy system pays for few. State and journal ride along with the next
durable write, or go by themselves within `FLUSH_AFTER_S`. What the database refused stays here and is tried again.

`Writer` belongs to the event loop, `_Committer` to the lane's thread.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Protocol

import structlog

from dosvoces.core import Connection, Leg
from dosvoces.errors import StoreError
from dosvoces.model import ConnectionId
from dosvoces.store import Entry
from dosvoces.store.lane import Lane
from dosvoces.store.writes import Cursor, Writes

FLUSH_AFTER_S = 0.05
"""How long state and journal wait for a durable write to ride along with."""
HURRIED_ENTRIES = frozenset({"dialog"})
"""What the next process needs to hang up who was left on a line, should this one be killed: it waits less."""
HURRY_S = 0.005
"""How long those wait: enough to ride along with the intent to dial the other side."""
REQUESTS_PER_COMMIT = 250
"""More wait for the next commit: one commit never lasts much longer than a tenth of a second."""
WAITING_REQUESTS_LIMIT = 5_000
"""Durable writes that may wait; the next one is refused at once."""
WAITING_ENTRIES_LIMIT = 100_000
"""Journal entries that are held while the database can't be written (about 50 MB). What comes then is counted."""
FIRST_RETRY_S = 0.1
"""After the first refusal; doubled with each further one."""
LAST_RETRY_S = 2.0
LEGS_REMEMBERED = 4_000
"""Of so many connections the writer knows what the disk has of their legs; past it, it writes them once more."""
CLOSE_TIMEOUT_S = 5.0
"""How long `close` goes on trying to write what waits."""

log = structlog.get_logger(__name__)

Write = Callable[[Cursor], None]
"""One durable write, run inside the transaction. Raises `StoreError` where it alone is refused."""


class Database(Protocol):
    """What the writer needs of a database, beside the statements."""

    begin: str
    """The statement that begins a transaction that will write."""
    errors: tuple[type[Exception], ...]
    """What its driver raises."""
    row_errors: tuple[type[Exception], ...]
    """Those of them that a single row causes, while others could be written."""

    def check_present(self) -> None:
        """Raise `StoreError` if what was opened is no longer there."""

    def explain(self, error: BaseException) -> StoreError: ...


_BAD_VALUE = (ValueError, TypeError, OverflowError)
"""What a driver raises for a value that it can't send: a lone surrogate, a number of more than 64 bits."""


@dataclass(slots=True)
class _Request:
    write: Write
    future: asyncio.Future[None] | None
    """Who waits for it; `None` once it is tried again on its own."""
    keep: bool
    """Whether it is tried again when the database fails; it can be repeated without harm."""


_State = tuple[Connection, datetime | None]


@dataclass(slots=True)
class _Batch:
    """What one commit writes."""

    requests: list[_Request]
    states: dict[ConnectionId, _State]
    entries: list[Entry]
    probe: bool
    """Whether to write something in any case, to learn whether it can be done again."""
    refusals: dict[int, StoreError] = field(default_factory=dict)
    """By a request's index: why it alone was refused."""
    not_ours: list[ConnectionId] = field(default_factory=list)
    """Whose state was not written, as they are another node's."""
    lost: list[str] = field(default_factory=list)
    """States and entries that the database will never take, in words."""


class Writer:
    """Takes writes from the loop, commits them on its lane in groups. One per database."""

    def __init__(
        self,
        database: Database,
        writes: Writes,
        cursor: Cursor,
        lane: Lane,
        *,
        entries_limit: int = WAITING_ENTRIES_LIMIT,
    ) -> None:
        self.tell_taken: Callable[[ConnectionId], None] = _unheard
        """Called with each connection whose state turned out not to be ours to write."""
        self._entries_limit = entries_limit
        self._committer = _Committer(database, writes, cursor)
        self._lane = lane
        self._loop = asyncio.get_running_loop()
        self._requests: deque[_Request] = deque()
        self._owed: list[_Request] = []
        self._states: dict[ConnectionId, _State] = {}
        self._entries: list[Entry] = []
        self._entries_lost = 0
        self._busy = False
        self._asked = False
        self._hurried = False
        self._timer: asyncio.TimerHandle | None = None
        self._trouble: str | None = None
        self._retry_s = FIRST_RETRY_S
        self._idle: list[asyncio.Future[None]] = []
        self._closed = False
        self._ended = False

    # --- what comes in ---

    async def write(self, write: Write, *, keep: bool = False) -> None:
        """
        Return when `write` is committed. Raises what `write` raised, or `StoreError` for a failure of the database.

        With `keep`, a failure is raised as well, and the write is tried again on its own until it succeeds.
        """
        if self._closed:
            raise StoreError("the record is closed")
        if len(self._requests) >= WAITING_REQUESTS_LIMIT:
            raise StoreError(f"{WAITING_REQUESTS_LIMIT} writes wait for the record already: its disk is too slow")
        future: asyncio.Future[None] = self._loop.create_future()
        self._requests.append(_Request(write, future, keep))
        self._start_now()
        await future

    def write_behind(self, write: Write) -> None:
        """Commit `write` soon, with whatever goes first; it can be repeated without harm, and is until it succeeds."""
        if self._closed or len(self._requests) >= WAITING_REQUESTS_LIMIT:
            log.warning("write_behind_refused", waiting=len(self._requests), closed=self._closed)
            return
        self._requests.append(_Request(write, None, keep=True))
        self._start_within(FLUSH_AFTER_S)

    def update(self, connection_id: ConnectionId, state: Connection, deadline: datetime | None) -> None:
        """Replace what waits to be written of this connection's state."""
        self._states[connection_id] = (state, deadline)
        self._start_within(FLUSH_AFTER_S)

    def journal(self, entry: Entry) -> None:
        """Add to what waits; past the limit it is counted, and said."""
        if len(self._entries) >= self._entries_limit:
            self._entries_lost += 1
            return
        self._entries.append(entry)
        self._hurried = self._hurried or entry.event in HURRIED_ENTRIES
        self._start_within(self._patience_s)

    async def flush(self) -> None:
        """Return when what waits now was written; at once when the database is in trouble anyway."""
        if self._busy:
            await self._until_idle()
        if self._trouble is None and (self._states or self._entries or self._requests):
            self._start_now()
            await self._until_idle()

    def problems(self) -> list[str]:
        """Why nothing can be written now; empty if it can, as far as is known."""
        problems = [] if self._trouble is None else [self._trouble]
        if self._entries_lost:
            problems.append(f"{self._entries_lost} journal entries found no room to wait in, and are lost")
        return problems

    async def close(self, *, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Write what waits, for up to `timeout_s`; then refuse the rest, and say how much that was."""
        self._closed = True
        try:
            async with asyncio.timeout(timeout_s):
                while self._busy or self._waits:
                    self._begin()
                    await self._until_idle()
                    if self._trouble is not None:
                        await asyncio.sleep(FIRST_RETRY_S)
        except TimeoutError:
            pass
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
        if not self._busy:
            self._give_up()

    def _give_up(self) -> None:
        """Nothing is tried any more: refuse who waits, and say how much is lost."""
        if self._waits:
            counts = {"entries": len(self._entries), "states": len(self._states), "writes": len(self._owed)}
            log.error("record_closed_with_loss", reason=self._trouble, **counts)
        for request in self._requests:
            _finish(request, StoreError("the record is closed"))
        self._requests.clear()
        self._owed.clear()
        self._states, self._entries = {}, []

    # --- when to write ---

    @property
    def _waits(self) -> bool:
        return bool(self._requests or self._owed or self._states or self._entries)

    def _start_now(self) -> None:
        """Begin at the end of this turn of the loop, so that all that this turn asks for goes together."""
        if not self._busy and not self._asked:
            self._asked = True
            self._loop.call_soon(self._begin)

    def _start_within(self, seconds: float) -> None:
        """In trouble the timer is that of the next try, and runs already; otherwise the sooner of two counts."""
        if self._busy or self._ended:
            return
        if self._timer is not None:
            if self._trouble is not None or self._timer.when() <= self._loop.time() + seconds:
                return
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._begin)

    @property
    def _patience_s(self) -> float:
        """How long what waits may go on waiting."""
        return HURRY_S if self._hurried else FLUSH_AFTER_S

    async def _until_idle(self) -> None:
        idle = self._loop.create_future()
        self._idle.append(idle)
        await idle

    def _begin(self) -> None:
        self._asked = False
        if self._busy or self._ended:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch = self._gather()
        self._busy = True
        self._lane.submit(partial(self._committer.commit, batch), partial(self._committed, batch))

    def _gather(self) -> _Batch:
        """
        All that waits, but of the requests only so many.

        All the entries, however many: what was journalled before a durable write is never behind it.
        """
        requests, self._owed = self._owed, []
        while self._requests and len(requests) < REQUESTS_PER_COMMIT:
            requests.append(self._requests.popleft())
        batch = _Batch(requests, self._states, self._entries, probe=self._trouble is not None)
        self._states, self._entries, self._hurried = {}, [], False
        return batch

    # --- what became of it ---

    def _committed(self, batch: _Batch, _: None, error: BaseException | None) -> None:
        self._busy = False
        if error is None:
            self._succeeded(batch)
        else:
            self._failed(batch, error)
        idle, self._idle = self._idle, []
        for future in idle:
            if not future.done():
                future.set_result(None)
        if self._ended:
            self._give_up()
        elif self._requests:
            self._start_now()
        elif self._trouble is None and self._waits:
            self._start_within(self._patience_s)

    def _succeeded(self, batch: _Batch) -> None:
        for index, request in enumerate(batch.requests):
            _finish(request, batch.refusals.get(index))
        for connection_id in batch.not_ours:
            self.tell_taken(connection_id)
        for lost in batch.lost:
            log.error("record_refused_row", row=lost)
        if self._trouble is not None:
            log.info("record_writable_again", entries_lost=self._entries_lost)
            self._trouble = None
            self._retry_s = FIRST_RETRY_S
        self._entries_lost = 0

    def _failed(self, batch: _Batch, error: BaseException) -> None:
        """Keep what is ours to write, tell those who wait, and try again later: also with nothing to write."""
        if not isinstance(error, StoreError):
            log.error("record_writer_failed", exc_info=error)
            error = StoreError(f"the record can't be written ({error!r})")
        if self._trouble is None:
            log.warning("record_not_writable", reason=str(error))
        self._trouble = str(error)
        for request in batch.requests:
            _finish(request, StoreError(str(error), permanent=error.permanent))
            if request.keep and len(self._owed) < WAITING_REQUESTS_LIMIT:
                self._owed.append(_Request(request.write, None, keep=True))
        self._states = batch.states | self._states
        self._entries = batch.entries + self._entries
        self._start_within(self._retry_s)
        self._retry_s = min(self._retry_s * 2, LAST_RETRY_S)


def _unheard(connection_id: ConnectionId) -> None:
    """Who doesn't ask isn't told."""


def _finish(request: _Request, error: StoreError | None) -> None:
    future = request.future
    if future is None:
        if error is not None:
            log.error("record_refused_row", row=str(error))
    elif not future.done():  # Done already if who asked was cancelled.
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)


class _Committer:
    """The lane's half: one transaction at a time on one cursor."""

    def __init__(self, database: Database, writes: Writes, cursor: Cursor) -> None:
        self._database = database
        self._writes = writes
        self._cursor = cursor
        self._row_errors: tuple[type[Exception], ...] = (*database.row_errors, *_BAD_VALUE)
        self._alone: tuple[type[Exception], ...] = (StoreError, *self._row_errors)
        self._legs_on_disk: dict[ConnectionId, tuple[Leg, Leg]] = {}

    def commit(self, batch: _Batch) -> None:
        """Write all of `batch`, or raise `StoreError` and nothing is written."""
        self._database.check_present()
        try:
            try:
                self._in_transaction(batch, self._run)
            except self._row_errors:
                # One row is bad; find it. Rare enough that it may cost a second transaction.
                batch.refusals.clear()
                batch.not_ours.clear()
                self._in_transaction(batch, self._run_one_by_one)
        except self._database.errors as error:
            raise self._database.explain(error) from error
        if len(self._legs_on_disk) > LEGS_REMEMBERED:
            self._legs_on_disk.clear()
        self._legs_on_disk.update({key: (state.a, state.b) for key, (state, _) in batch.states.items()})

    def _in_transaction(self, batch: _Batch, run: Callable[[_Batch], None]) -> None:
        self._cursor.execute(self._database.begin)
        try:
            run(batch)
            self._cursor.execute("COMMIT")
        except BaseException:
            # Some failures have rolled back already, and a lost database can't: neither matters now.
            with contextlib.suppress(*self._database.errors):
                self._cursor.execute("ROLLBACK")
            raise

    def _run(self, batch: _Batch) -> None:
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

    def _run_one_by_one(self, batch: _Batch) -> None:
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
        """Run `write`; if its row is bad, undo only that and say why."""
        self._cursor.execute("SAVEPOINT one")
        try:
            write()
        except self._alone as error:
            self._cursor.execute("ROLLBACK TO one")
            return error
        finally:
            self._cursor.execute("RELEASE one")
        return None

    def _state(self, batch: _Batch, connection_id: ConnectionId, state: _State) -> None:
        if not self._writes.state(self._cursor, connection_id, *state, self._legs_on_disk.get(connection_id)):
            batch.not_ours.append(connection_id)
