"""
Connections that wait: for the time at which they may begin, or for a node with room. Any node begins them.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol

import structlog

from dosvoces.deferred import Again, Work
from dosvoces.dialplan.hours import ALWAYS, CallingHours
from dosvoces.errors import NotAllowed, NotNow
from dosvoces.model import ConnectionId, Order, Outcome, Side
from dosvoces.store import Store

log = structlog.get_logger(__name__)

KIND = "connection"
ROOM_POLL_S = 1.0
"""How soon a connection that found no room asks again; whichever node takes that."""
NEVER_POLL_S = 24 * 3600.0
"""How soon one asks again that no calling hours suit: the settings may have changed by then."""
YOUNG = timedelta(seconds=10)
"""A client may wait for one that is so young, and another node has room for it: it is put back at once."""


class Starter(Protocol):
    """Begins connections: the switchboard."""

    async def take(self, order: Order) -> bool:
        """
        Begin a connection that waits in the record; whether it was still waiting.

        Raises `NotNow` if there is no room here now, `NotAllowed` if it can't be begun at all.
        """


def work_of(connection_id: ConnectionId, not_before: datetime | None) -> Work:
    """The work of beginning a connection that waits."""
    return Work(KIND, connection_id, {"connection": connection_id}, not_before=not_before)


class Waiting:
    """Begins connections whose time has come, and refuses those whose time has passed."""

    def __init__(
        self,
        store: Store,
        starter: Starter,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        hours: CallingHours = ALWAYS,
    ) -> None:
        """`hours`: one that is late for them waits until they begin again."""
        self._hours = hours
        self._store = store
        self._starter = starter
        self._now = now

    async def begin(self, work: Work) -> Again | None:
        """Begin it once, or come back. Raises `StoreError`."""
        order = await self._store.order(ConnectionId(str(work.payload["connection"])))
        if order is None:
            return None
        now = self._now()
        if order.expires_at is not None and order.expires_at <= now:
            await self._refuse(order, "expiry")
            return None
        if order.not_before is not None and order.not_before > now:
            return Again((order.not_before - now).total_seconds())
        if (closed_s := self._closed_s(order, now)) > 0:
            return Again(min(closed_s, self._until_expiry_s(order, now)))
        try:
            await self._starter.take(order)
        except NotNow as error:
            log.info("connection waits for room", connection=order.id, reason=str(error))
            return Again(self._patience_s(order, now))
        except NotAllowed as error:
            log.warning("connection refused", connection=order.id, reason=str(error))
            await self._refuse(order, "settings")
        return None

    async def _refuse(self, order: Order, by: str) -> None:
        if await self._store.waiting.end(order.id, Outcome.REFUSED, by=by, at=self._now()):
            log.info("connection over", connection=order.id, outcome=Outcome.REFUSED, ended_by=by)

    def _closed_s(self, order: Order, now: datetime) -> float:
        """Seconds until both may be called; 0 if they may now."""
        if not self._hours:
            return 0.0
        opens = self._hours.next_opening([order.number(side).e164 for side in Side], now)
        return NEVER_POLL_S if opens is None else (opens - now).total_seconds()

    def _until_expiry_s(self, order: Order, now: datetime) -> float:
        return float("inf") if order.expires_at is None else (order.expires_at - now).total_seconds()

    def _patience_s(self, order: Order, now: datetime) -> float:
        """Until the next look: not beyond the moment in which it is refused."""
        if now - order.created_at < YOUNG:
            return 0.0
        if order.expires_at is None:
            return ROOM_POLL_S
        return min(ROOM_POLL_S, max((order.expires_at - now) / timedelta(seconds=1), 0.0))
