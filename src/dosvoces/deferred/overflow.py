"""
Orders that find this node full: they wait in the record for any node with room, and their client for the answer there.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Protocol

import structlog

from dosvoces.core import Answer
from dosvoces.errors import NotNow, StoreError
from dosvoces.model import ConnectionId, Order, Outcome
from dosvoces.store import Earlier, Store

log = structlog.get_logger(__name__)

PATIENCE = timedelta(seconds=5)
"""How long an order of `POST /call` waits for a node to begin it: then it is refused, and may be repeated."""
FIRST_LOOK_S, LAST_LOOK_S = 0.1, 0.5
"""From one look for the answer to the next; doubled in between."""
NOBODY = "every node is full; nothing was done"


class Here(Protocol):
    """Carries orders out on this node: the switchboard."""

    async def connect(self, order: Order) -> Answer: ...
    async def accept(self, order: Order) -> None: ...
    async def joined(self, connection_id: ConnectionId) -> None: ...
    def check(self, order: Order) -> None: ...
    async def repeated(self, order: Order) -> Earlier | None: ...
    async def answer_of(self, connection_id: ConnectionId) -> Earlier | None: ...
    async def remember_answer(self, connection_id: ConnectionId, *, status: int, body: str) -> None: ...


class Overflow:
    """Carries orders out here, or where there is room; the connector of the HTTP door."""

    def __init__(
        self,
        here: Here,
        *,
        store: Store,
        schedule: Callable[[Order], Awaitable[None]],
        others_have_room: Callable[[], bool],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._here = here
        self._store = store
        self._schedule = schedule
        self._others_have_room = others_have_room
        self._now = now

    async def connect(self, order: Order) -> Answer:
        """As the switchboard's. Raises `NotNow` if it isn't begun anywhere."""
        try:
            return await self._here.connect(order)
        except NotNow as error:
            if not (error.full and self._others_have_room()):
                raise
        waiting = replace(order, expires_at=self._now() + PATIENCE)
        await self._schedule(waiting)
        log.info("connection waits for a node with room", connection=order.id)
        return await self._answer(waiting)

    async def accept(self, order: Order) -> None:
        """As the switchboard's; begun elsewhere, it is only recorded on return."""
        try:
            await self._here.accept(order)
        except NotNow as error:
            if not (error.full and self._others_have_room()):
                raise
            await self._schedule(order)

    async def joined(self, connection_id: ConnectionId) -> None:
        await self._here.joined(connection_id)

    def check(self, order: Order) -> None:
        self._here.check(order)

    async def repeated(self, order: Order) -> Earlier | None:
        return await self._here.repeated(order)

    async def answer_of(self, connection_id: ConnectionId) -> Earlier | None:
        return await self._here.answer_of(connection_id)

    async def remember_answer(self, connection_id: ConnectionId, *, status: int, body: str) -> None:
        await self._here.remember_answer(connection_id, status=status, body=body)

    async def _answer(self, order: Order) -> Answer:
        """The answer, from the record that another node writes; a connection has limits, and so has this."""
        look_s = FIRST_LOOK_S
        while True:
            await asyncio.sleep(look_s)
            look_s = min(2 * look_s, LAST_LOOK_S)
            try:
                answer = await self._look(order)
            except StoreError as error:
                log.warning("answer not to be seen", connection=order.id, error=str(error))
                continue
            if answer is not None:
                return answer

    async def _look(self, order: Order) -> Answer | None:
        record = await self._store.connection(order.id)
        if record is None:
            raise NotNow(NOBODY)
        if record.owner is None:
            late = order.expires_at is not None and order.expires_at <= self._now()
            if record.outcome is not None or (
                late and await self._store.waiting.end(order.id, Outcome.REFUSED, by="expiry", at=self._now())
            ):
                raise NotNow(NOBODY)
            return None
        told = await self._store.earlier_of(order.id)
        return None if told is None else told.answer
