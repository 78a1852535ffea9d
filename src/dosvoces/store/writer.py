"""
The one writer: gathers what waits across all connections and commits it once (group commit).

It starts as soon as it is free, so an idle system answers in about a millisecond; what arrives while a commit is on its
way to the disk forms the next one, so that a busy system pays for few. State and journal ride along with the next
durable write, or go by themselves within `FLUSH_AFTER_S`. What the database refused stays here and is tried again.

It belongs to the event loop; its lane's half is `committer.py`.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial

import structlog

from dosvoces.core import Connection
from dosvoces.errors import StoreError
from dosvoces.model import ConnectionId
from dosvoces.store import Entry
from dosvoces.store.committer import Batch, Committer, Request, State, Write
from dosvoces.store.database import Database
from dosvoces.store.lane import Lane
from dosvoces.store.writes import Writes

FLUSH_AFTER_S = 0.05
"""How long state and journal wait for a durable write to ride along with."""
HURRIED_ENTRIES = frozenset({"dialog"})
"""What the next process needs to hang up who was left on a line, should this one be killed: it waits less."""
HURRY_S = 0.005
"""How long those wait: enough to ride along with the intent to dial the other side."""
REQUESTS_PER_COMMIT = 100
"""More wait for the next commit. One must be short: other nodes wait for it where limits are shared, two seconds at
most, and on a busy PostgreSQL 250 took as long as that."""
CROWD = REQUESTS_PER_COMMIT // 4
"""Durable writes that wait before a new connection had better not begin: it would have to wait for five of its own."""
TOLD_AT_ONCE = 4
"""Of those who waited for a commit, so many go on in one turn of the loop: each has some milliseconds to do then, and
all at once would let nothing else be heard meanwhile."""
ENTRIES_PER_COMMIT = 2_000
"""More wait, after a failure of the database, for the next commit: PostgreSQL takes thousands in a second, and each
commit must be over within `COMMIT_LIMIT_S`, or it is given up and nothing is ever written again."""
WAITING_REQUESTS_LIMIT = 5_000
"""Durable writes that may wait; the next one is refused at once."""
WAITING_ENTRIES_LIMIT = 100_000
"""Journal entries that are held while the database can't be written (about 50 MB). What comes then is counted."""
FIRST_RETRY_S = 0.1
"""After the first refusal; doubled with each further one."""
LAST_RETRY_S = 2.0
COMMIT_LIMIT_S = 2.5
"""How long a commit may take; longer than the engines' own limits (2 s), which know better what they wait for."""
CLOSE_TIMEOUT_S = 5.0
"""How long `close` goes on trying to write what waits."""

log = structlog.get_logger(__name__)


class Writer:
    """Takes writes from the loop, commits them on its lane in groups. One per database."""

    def __init__(
        self,
        database: Database,
        writes: Writes,
        lane: Lane,
        *,
        entries_limit: int = WAITING_ENTRIES_LIMIT,
        commit_limit_s: float = COMMIT_LIMIT_S,
    ) -> None:
        self.tell_taken: Callable[[ConnectionId], None] = _unheard
        """Called with each connection whose state turned out not to be ours to write."""
        self._entries_limit = entries_limit
        self._commit_limit_s = commit_limit_s
        self._database = database
        self._committer = Committer(database, writes)
        self._lane = lane
        self._loop = asyncio.get_running_loop()
        self._requests: deque[Request] = deque()
        self._owed: list[Request] = []
        self._to_tell: deque[tuple[Request, StoreError | None]] = deque()
        """Who is committed or refused by then, and doesn't know it yet."""
        self._states: dict[ConnectionId, State] = {}
        self._entries: list[Entry] = []
        self._kept: list[Callable[[], None]] = []
        """Who wants to know when the entries that wait are on disk."""
        self._entries_lost = 0
        self._busy = False
        self._overdue = False
        self._watch: asyncio.TimerHandle | None = None
        self._asked = False
        self._hurried = False
        self._timer: asyncio.TimerHandle | None = None
        self._trouble: str | None = None
        self._retry_s = FIRST_RETRY_S
        self._idle: list[asyncio.Future[None]] = []
        self._closed = False
        self._ended = False

    # --- what comes in ---

    async def write(self, write: Write, *, keep: bool = False, locks: tuple[int, ...] = ()) -> None:
        """
        Return when `write` is committed. Raises what `write` raised, or `StoreError` for a failure of the database:
        `unknown` if it may have been committed all the same.

        With `keep`, a failure is raised as well, and the write is tried again on its own until it succeeds. `locks`
        are what no other transaction may have before it is committed (`Writes.locks`).
        """
        if self._closed:
            raise StoreError("the record is closed")
        if self._overdue:
            raise StoreError(self._late)
        if len(self._requests) >= WAITING_REQUESTS_LIMIT:
            raise StoreError(f"{WAITING_REQUESTS_LIMIT} writes wait for the record already: its disk is too slow")
        future: asyncio.Future[None] = self._loop.create_future()
        self._requests.append(Request(write, future, keep, locks))
        self._start_now()
        await future

    def write_behind(self, write: Write) -> None:
        """Commit `write` soon, with whatever goes first; it can be repeated without harm, and is until it succeeds."""
        if self._closed or len(self._requests) >= WAITING_REQUESTS_LIMIT:
            log.warning("write_behind_refused", waiting=len(self._requests), closed=self._closed)
            return
        self._requests.append(Request(write, None, keep=True))
        self._start_within(FLUSH_AFTER_S)

    def update(self, connection_id: ConnectionId, state: Connection, deadline: datetime | None) -> None:
        """Replace what waits to be written of this connection's state."""
        self._states[connection_id] = (state, deadline)
        self._start_within(FLUSH_AFTER_S)

    def journal(self, entry: Entry, kept: Callable[[], None] | None = None) -> None:
        """Add to what waits, `kept` to be called when it is on disk; past the limit it is counted, and said."""
        if len(self._entries) >= self._entries_limit:
            self._entries_lost += 1
            return
        self._entries.append(entry)
        if kept is not None:
            self._kept.append(kept)
        self._hurried = self._hurried or entry.event in HURRIED_ENTRIES
        self._start_within(self._patience_s)

    async def flush(self) -> None:
        """Return when what waits now was written; at once when the database is in trouble anyway."""
        if self._busy:
            await self._until_idle()
        if self._trouble is None and (self._states or self._entries or self._requests):
            self._start_now()
            await self._until_idle()

    def crowded(self) -> bool:
        """As `Store.crowded`; not while nothing can be written, as whoever begins then is refused at once."""
        return self._trouble is None and len(self._requests) > CROWD

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
        self._tell(len(self._to_tell))
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

    @property
    def _behind(self) -> bool:
        """Whether more waits than one commit takes."""
        return len(self._entries) > ENTRIES_PER_COMMIT

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
        self._watch = self._loop.call_later(self._commit_limit_s, self._is_overdue, batch)
        self._lane.submit(partial(self._committer.commit, batch), partial(self._committed, batch))

    def _gather(self) -> Batch:
        """
        All that waits, but of the requests only so many.

        Before any request, all the entries: what was journalled before a durable write is never behind it. Where they
        are too many for one commit, the oldest go first, alone.
        """
        if self._behind:
            oldest, self._entries = self._entries[:ENTRIES_PER_COMMIT], self._entries[ENTRIES_PER_COMMIT:]
            return Batch([], {}, oldest, [], probe=False)
        requests, self._owed = self._owed[:REQUESTS_PER_COMMIT], self._owed[REQUESTS_PER_COMMIT:]
        while self._requests and len(requests) < REQUESTS_PER_COMMIT and not self._owed:
            requests.append(self._requests.popleft())
        batch = Batch(requests, self._states, self._entries, self._kept, probe=self._trouble is not None)
        self._states, self._entries, self._kept, self._hurried = {}, [], [], False
        return batch

    # --- what became of it ---

    @property
    def _late(self) -> str:
        return (
            f"the record {self._database.name} has not answered for {self._commit_limit_s:g} s: look what holds it up"
        )

    def _is_overdue(self, batch: Batch) -> None:
        """Let nobody wait any longer for a commit that hangs; what is ours to write goes on waiting."""
        self._overdue = True
        if self._trouble is None:
            log.warning("record_not_writable", reason=self._late)
        self._trouble = self._late
        for request in batch.requests:
            _finish(request, StoreError(self._late, unknown=True))
        self._owe([*self._owed, *self._refused(self._requests, StoreError(self._late))])
        self._requests.clear()
        self._wake_idle()
        self._database.interrupt()

    def _refused(self, requests: Iterable[Request], error: StoreError) -> list[Request]:
        """Tell those who wait; what is to be repeated."""
        for request in requests:
            if request.future is not None:
                _finish(request, error)
        return [Request(each.write, None, keep=True, locks=each.locks) for each in requests if each.keep]

    def _owe(self, requests: list[Request]) -> None:
        """Repeat these, in this order, before anything newer."""
        self._owed = requests[:WAITING_REQUESTS_LIMIT]
        if lost := len(requests) - len(self._owed):
            log.error("record_writes_lost", writes=lost, reason=self._trouble)

    def _wake_idle(self) -> None:
        idle, self._idle = self._idle, []
        for future in idle:
            if not future.done():
                future.set_result(None)

    def _committed(self, batch: Batch, _: None, error: BaseException | None) -> None:
        self._busy = self._overdue = False
        if self._watch is not None:
            self._watch.cancel()
        if error is None:
            self._succeeded(batch)
        else:
            self._failed(batch, error)
        self._wake_idle()
        if self._ended:
            self._give_up()
        elif self._requests or (error is None and self._behind):
            self._start_now()
        elif self._trouble is None and self._waits:
            self._start_within(self._patience_s)

    def _succeeded(self, batch: Batch) -> None:
        telling = bool(self._to_tell)
        self._to_tell.extend((request, batch.refusals.get(index)) for index, request in enumerate(batch.requests))
        if not telling:
            self._tell()
        for connection_id in batch.not_ours:
            self.tell_taken(connection_id)
        for kept in batch.kept:
            self._loop.call_soon(kept)
        for lost in batch.lost:
            log.error("record_refused_row", row=lost)
        if self._behind:
            # Nothing new is taken before that is done: it would wait too long.
            self._trouble = f"the record {self._database.name} is being caught up: {len(self._entries)} entries wait"
        elif self._trouble is not None:
            log.info("record_writable_again", entries_lost=self._entries_lost)
            self._trouble = None
            self._retry_s = FIRST_RETRY_S
        self._entries_lost = 0

    def _tell(self, most: int = TOLD_AT_ONCE) -> None:
        """Tell the next ones what became of their writes, and the others in the turns that follow."""
        for _ in range(min(most, len(self._to_tell))):
            _finish(*self._to_tell.popleft())
        if self._to_tell:
            self._loop.call_soon(self._tell)

    def _failed(self, batch: Batch, error: BaseException) -> None:
        """Keep what is ours to write, tell those who wait, and try again later: also with nothing to write."""
        if not isinstance(error, StoreError):
            log.error("record_writer_failed", exc_info=error)
            error = StoreError(f"the record can't be written ({error!r})")
        if self._trouble is None:
            log.warning("record_not_writable", reason=str(error))
        self._trouble = str(error)
        refusal = StoreError(str(error), permanent=error.permanent, unknown=batch.unknown)
        self._owe([*self._refused(batch.requests, refusal), *self._owed])
        self._states = batch.states | self._states
        self._entries = batch.entries + self._entries
        self._kept = batch.kept + self._kept
        if self._behind:
            # Whoever waits was in no commit yet, and won't be in the next one.
            self._owe([*self._owed, *self._refused(self._requests, StoreError(str(error)))])
            self._requests.clear()
        # Spread, so that many nodes don't come back to their database in step.
        self._start_within(self._retry_s * random.uniform(0.5, 1))
        self._retry_s = min(self._retry_s * 2, LAST_RETRY_S)


def _unheard(connection_id: ConnectionId) -> None:
    """Who doesn't ask isn't told."""


def _finish(request: Request, error: StoreError | None) -> None:
    future = request.future
    if future is None:
        if error is not None:
            log.error("record_refused_row", row=str(error))
    elif not future.done():  # Done already if who asked was cancelled.
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
