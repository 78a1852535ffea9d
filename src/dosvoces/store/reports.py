"""
The port to what is to be told about connections, and to whom it was told.

A report is written in the same transaction as what it is about, so that nothing that happened goes untold: it is an
intent, as a dial's is. Whom it goes to is decided when it is passed on; each of those is a delivery.
"""

import asyncio
import enum
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from dosvoces.model import NO_TRUNKS, ConnectionId, Order, Outcome, Side, Trunks

ENDED = "connection.ended"
EVENTS = {
    "mail_sent": "lead.email.sent",
    "mail_refused": "lead.email.failed",
    "ringing": "connection.leg.ringing",
    "answered": "connection.leg.answered",
    "joined": "connection.joined",
}
"""What is told, by the name of its entry in the journal; `ENDED` comes with the outcome."""


@dataclass(frozen=True, slots=True)
class Report:
    """Something that happened to a connection and is to be told."""

    connection_id: ConnectionId
    number: int
    """1, 2, 3 … within its connection, in the order in which things happened."""
    event: str
    side: Side | None
    at: datetime
    body: str | None
    """What is sent, `None` until it is made up: once, so that every try says the same."""

    @property
    def id(self) -> str:
        """The same however often it is told: the webhook's id."""
        return f"{self.connection_id}.{self.number}"


class DeliveryState(enum.StrEnum):
    WAITING = "waiting"
    DELIVERED = "delivered"
    REFUSED = "refused"
    """Who was told said that it wants no such thing: it isn't tried again."""
    ABANDONED = "abandoned"
    """Tried as often as it is, in vain."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A report on its way to one who is told."""

    connection_id: ConnectionId
    number: int
    target: str
    """`webhook:main`, `mail`."""
    event: str
    at: datetime
    """When it happened."""
    state: DeliveryState
    tries: int
    tried_at: datetime | None
    next_at: datetime | None
    answer: str
    """Of the last try: a status, or what went wrong."""


class Reports(Protocol):
    """
    What is to be told. Part of the record; its methods raise `StoreError`.

    - *with what it is about*: the report of an outcome is durable if and only if the outcome is.
    - *once*: `prepare` keeps the first body and the deliveries that are there.
    """

    due: asyncio.Event
    """Set whenever there may be something to pass on."""

    async def to_pass_on(self, *, limit: int) -> Sequence[Report]:
        """Those that nobody has passed on yet, the oldest first."""

    async def prepare(self, report: Report, body: str, targets: Sequence[str]) -> None:
        """Write down what is sent and to whom; durable on return."""

    async def passed_on(self, report: Report) -> None:
        """Note that its deliveries are under way."""

    async def report(self, connection_id: ConnectionId, number: int) -> Report | None:
        """One report."""

    async def delivery(self, connection_id: ConnectionId, number: int, target: str) -> Delivery | None:
        """One delivery."""

    async def first_waiting(self, connection_id: ConnectionId, target: str) -> Delivery | None:
        """Of a connection's deliveries to one who is told, the first that is not done with."""

    async def deliveries_of(self, connection_id: ConnectionId) -> Sequence[Delivery]:
        """A connection's deliveries, in the order of what they tell."""

    async def postpone(self, delivery: Delivery, next_at: datetime | None) -> None:
        """Note that it is tried then, as it isn't its turn yet; `None`: when its endpoint is enabled again."""

    async def tried(
        self, delivery: Delivery, state: DeliveryState, answer: str, *, at: datetime, next_at: datetime | None
    ) -> None:
        """Count one more try and what came of it; durable on return."""

    async def deliveries(
        self,
        *,
        state: DeliveryState | None = None,
        due_before: datetime | None = None,
        after: Delivery | None = None,
        limit: int = 50,
    ) -> Sequence[Delivery]:
        """The newest first, on from `after`; those of one state, those that should have been tried by then."""


class Waiting(Protocol):
    """
    The connections that wait: for their time, or for a node with room. They are no node's; methods raise `StoreError`.

    - *one takes it*: of those who `claim` it and who `end` it at the same moment, one succeeds.
    """

    def offers(self, connection_id: ConnectionId) -> bool:
        """Whether it is ours only until it is known that any node may claim it."""

    async def claim(self, order: Order, *, trunks: Trunks = NO_TRUNKS) -> bool:
        """
        Make it this node's, to be begun; whether it was still waiting.

        It is counted in as `Store.record` counts, and raises `LimitReached` where that does. After a failure of which
        it is unknown whether it was written, it waits again: nothing that waits is lost by it.
        """

    async def end(self, connection_id: ConnectionId, outcome: Outcome, *, by: str, at: datetime) -> bool:
        """Write the outcome of a connection that nobody had begun; whether it was still waiting."""

    async def waiting(self, *, limit: int, after: "WaitingConnection | None" = None) -> Sequence["WaitingConnection"]:
        """Those that may start first come first; those behind `after`."""


@dataclass(frozen=True, slots=True)
class WaitingConnection:
    id: ConnectionId
    not_before: datetime | None
    expires_at: datetime | None
    due: datetime
    """`not_before`, or when it was recorded."""
