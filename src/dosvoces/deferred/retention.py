"""Forgets what is old: connections with all that belongs to them, kept mails, and the engine's own history."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import structlog

from dosvoces.deferred import Again, Deferred, Work
from dosvoces.store import Store

log = structlog.get_logger(__name__)

KIND = "retention"
HISTORY_KEPT = timedelta(days=3)
"""Of works that are done: as long as somebody may ask why one was or wasn't. What they did is in the record."""
BATCH = 200
"""Connections deleted in one transaction, which the writes of live connections share."""


def work_of(now: datetime) -> Work:
    """The work of this hour: every node submits it, and one does it."""
    return Work(KIND, now.astimezone(UTC).strftime("%Y-%m-%dT%H"))


class Retention:
    """Deletes what ended more than `kept` ago; nothing of the record if that is `None`."""

    def __init__(
        self,
        store: Store,
        engine: Callable[[], Deferred],
        kept: timedelta | None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._engine = engine
        self._kept = kept
        self._now = now

    async def forget(self, _: Work) -> Again | None:
        """Raises `StoreError`, `DeferredError`: it goes on with the next try then."""
        now = self._now()
        works = await self._engine().forget(now - HISTORY_KEPT)
        rows = 0
        while self._kept is not None and (found := await self._store.forget(before=now - self._kept, limit=BATCH)):
            rows += found
        if rows or works:
            log.info("old records deleted", connections_and_mails=rows, works=works)
        return None
