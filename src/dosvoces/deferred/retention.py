"""
Forgets what is old: leads, connections with all that belongs to them, kept mails, the engine's own history, counters.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import structlog

from dosvoces.deferred import Again, Deferred, Work
from dosvoces.model import connection_id
from dosvoces.store import Store

log = structlog.get_logger(__name__)

KIND = "retention"
HISTORY_KEPT = timedelta(days=3)
"""Of works that are done: as long as somebody may ask why one was or wasn't. What they did is in the record."""
BATCH = 200
"""Rows of a kind deleted in one transaction, which the writes of live connections share."""


def work_of(now: datetime) -> Work:
    """The work of this hour: every node submits it, and one does it."""
    return Work(KIND, now.astimezone(UTC).strftime("%Y-%m-%dT%H"))


LOOKED_AT = 1000
"""Connections whose leads one transaction looks at: most have none any more, and there may be millions of them."""
EVERYTHING = datetime(1970, 1, 1, tzinfo=UTC)
LOOK_BACK = timedelta(days=2)
"""How far before the last sweep one looks for leads; once a day at all of them: a connection may wait for months."""


async def forget_counts(store: Store) -> None:
    """Delete the counters of days that are over. Raises `StoreError`: it goes on with the next call then."""
    rows = 0
    while found := await store.forget_counts(limit=BATCH):
        rows += found
    if rows:
        log.info("old counters deleted", counters=rows)


class Retention:
    """
    Deletes what ended more than `kept` ago, and blanks the leads of what ended more than `leads` ago.

    Nothing of the record where that is `None`.
    """

    def __init__(
        self,
        store: Store,
        engine: Callable[[], Deferred],
        kept: timedelta | None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        *,
        leads: timedelta | None = None,
    ) -> None:
        self._leads = leads
        self._looked_at_all = EVERYTHING
        self._blanked_before = EVERYTHING
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
        if self._leads is not None and (blanked := await self._blank(now, now - self._leads)):
            log.info("old leads blanked", connections_and_mails=blanked)
        return None

    async def _blank(self, now: datetime, before: datetime) -> int:
        all_of_them = now - self._looked_at_all >= timedelta(days=1)
        since = EVERYTHING if all_of_them else self._blanked_before - LOOK_BACK
        rows, at = 0, connection_id(since, 0)
        while True:
            found, following = await self._store.blank_leads(before=before, since=at, limit=LOOKED_AT)
            rows += found
            if following is None and not found:
                break
            at = following or at  # Once more at the last ones: there may be more mails.
        self._blanked_before = before
        if all_of_them:
            self._looked_at_all = now
        return rows
