"""
What happens to all connections, handed to those who listen: one look at the record serves all of a node's streams.

It runs only while somebody listens. Who listens misses nothing and gets nothing twice: from `since` on, every entry is
offered to him, and what is before that he reads himself. Who doesn't keep up is let go; he comes back for the rest.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from dosvoces.errors import StoreError
from dosvoces.model import ConnectionId
from dosvoces.store import Entry
from dosvoces.store.feed import Feed, Placed, Position

POLL_S = 0.5
"""How often it is looked for what other nodes journalled, while somebody listens."""
GATHER_S = 0.05
"""How long what this node journals is let gather before it is read."""
BATCH = 500
WAITING_LIMIT = 2_000
"""Entries that may wait for one who listens."""
RETRY_S = 2.0  # after the record failed

log = structlog.get_logger(__name__)


class NoMoreStreamsError(Exception):
    """There are as many as there may be, or the service is stopping."""


class Subscription:
    """What is offered to one who listens, until he takes it."""

    def __init__(self, connection_id: ConnectionId | None, since: Position) -> None:
        self.since = since
        """What comes after this is offered."""
        self.over = False
        """Whether nothing more will be: he was too slow, or the service is stopping."""
        self._connection_id = connection_id
        self._waiting: deque[Entry] = deque()
        self._something = asyncio.Event()
        self._end = asyncio.Event()

    def offer(self, entry: Entry) -> None:
        if self.over or (self._connection_id is not None and entry.connection_id != self._connection_id):
            return
        if len(self._waiting) >= WAITING_LIMIT:
            log.info("event_stream_too_slow", waiting=len(self._waiting))
            self.end()
        else:
            self._waiting.append(entry)
            self._something.set()

    def end(self) -> None:
        self._waiting.clear()
        self.over = True
        self._end.set()
        self._something.set()

    async def ended(self, grace_s: float) -> None:
        """Return so long after the end."""
        await self._end.wait()
        await asyncio.sleep(grace_s)

    async def take(self, limit_s: float) -> list[Entry]:
        """What is there, as soon as there is something; empty after `limit_s`, and when it is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._something.wait()
        taken = list(self._waiting)
        self._waiting.clear()
        if not self.over:
            self._something.clear()
        return taken


class Listeners:
    """Those who listen at this node, at most `most`."""

    def __init__(self, feed: Feed, *, most: int) -> None:
        self._feed = feed
        self._most = most
        self._lock = asyncio.Lock()
        self._subscriptions: set[Subscription] = set()
        self._position: Position | None = None
        """Up to where everything was offered; `None` while nobody listens."""
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def count(self) -> int:
        """How many listen."""
        return len(self._subscriptions)

    @asynccontextmanager
    async def subscribe(self, connection_id: ConnectionId | None = None) -> AsyncIterator[Subscription]:
        """Listen to one connection, or to all. Raises `NoMoreStreamsError`, `StoreError`."""
        async with self._lock:
            if self._position is None:
                end = await self._feed.end()
                self._position = end
            if self._closed:
                raise NoMoreStreamsError("The service is stopping")
            if len(self._subscriptions) >= self._most:
                raise NoMoreStreamsError(f"There are {self._most} streams already")
            subscription = Subscription(connection_id, self._position)
            self._subscriptions.add(subscription)
            if self._task is None:
                self._task = asyncio.create_task(self._run(), name="event feed")
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)
            if not self._subscriptions:
                self._rest()

    def close(self) -> None:
        """End all streams, and begin none any more; idempotent."""
        self._closed = True
        for subscription in self._subscriptions:
            subscription.end()
        self._rest()

    def _rest(self) -> None:
        task, self._task = self._task, None
        self._position = None
        if task is not None:
            task.cancel()

    async def _run(self) -> None:
        while True:
            try:
                await self._round()
            except StoreError as error:
                log.warning("event_feed_waits", reason=str(error))
                await asyncio.sleep(RETRY_S)

    async def _round(self) -> None:
        news = self._feed.news
        news.clear()
        assert self._position is not None, "it runs while somebody listens"
        found = await self._feed.since(self._position, limit=BATCH)
        for placed in found:
            self._offer(placed)
        if len(found) == BATCH:
            return
        try:
            async with asyncio.timeout(POLL_S):
                await news.wait()
        except TimeoutError:
            return
        await asyncio.sleep(GATHER_S)

    def _offer(self, placed: Placed) -> None:
        self._position, entry = placed
        for subscription in self._subscriptions:
            subscription.offer(entry)
