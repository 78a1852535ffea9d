"""What the HTTP door needs from behind it: three narrow ports, so that it can be tested without the house."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from dosvoces.core import Answer
from dosvoces.model import ConnectionId, Order
from dosvoces.store import EVERY, ConnectionRecord, Earlier, Entry, KeptMail, Wanted


class Connector(Protocol):
    """
    Carries an order out: the switchboard.

    - *nothing before the record*: what `connect` raises, it raises before anything irreversible was done.
    - *one answer*: `connect` returns once, when both calls were made or one of them, or the mail, has failed; the
      connection goes on by itself.
    - *cancellation is harmless*: whoever waits for `connect` may leave; the connection goes on.
    """

    async def connect(self, order: Order) -> Answer:
        """
        Record, mail, dial; return when B rings or has answered, or when something failed.

        Raises `NotNow` if it is not tried now, `AlreadyRecorded` if it is a repeat: of what, `repeated` knows.
        """

    async def accept(self, order: Order) -> None:
        """As `connect`, but returns as soon as it is recorded and begun."""

    async def joined(self, connection_id: ConnectionId) -> None:
        """Return when both talk, or when it is over, whichever node's it is. Raises `StoreError`."""

    def check(self, order: Order) -> None:
        """Raises `NotAllowed` if `accept` would, for a reason that waiting doesn't change."""

    async def repeated(self, order: Order) -> Earlier | None:
        """The request that this one repeats. Raises `StoreError`."""

    async def answer_of(self, connection_id: ConnectionId) -> Earlier | None:
        """Wait for the answer to a request that is under way, on whatever node. Raises `TimeoutError`."""

    async def remember_answer(self, connection_id: ConnectionId, *, status: int, body: str) -> None:
        """Keep what was answered, for a repeat of the request. Raises `StoreError`."""


class Scheduler(Protocol):
    """Keeps connections that are to begin later, or elsewhere."""

    async def schedule(self, order: Order) -> None:
        """Record a connection that waits; durable on return. Raises `NotNow`, `AlreadyRecorded`, `StoreError`."""


class Records(Protocol):
    """Reads the record: part of `store.Store`."""

    async def connection(self, connection_id: ConnectionId) -> ConnectionRecord | None:
        """One connection with its legs."""

    async def connections(
        self,
        *,
        limit: int = 50,
        before: ConnectionId | None = None,
        wanted: Wanted = EVERY,
        now: datetime | None = None,
    ) -> Sequence[ConnectionRecord]:
        """The newest first."""

    async def entries(self, connection_id: ConnectionId) -> Sequence[Entry]:
        """A connection's journal, oldest first."""

    async def statistics(self, connections: Sequence[ConnectionId]) -> Sequence[Entry]:
        """What these connections' journals have of their legs' audio."""

    async def mails_of(self, record: ConnectionRecord) -> Sequence[KeptMail]:
        """The kept mails about this connection."""


class Canceller(Protocol):
    """Ends connections, of this node and of others."""

    async def cancel(self, connection_id: ConnectionId, *, by: str, who: str = "") -> bool | None:
        """
        Have it ended, in whatever state it is; the audit is told that `who` did it, else `by`.

        Returns `False` if it is over already, `None` if there is no such connection. Raises `StoreError`.
        """


class Readiness(Protocol):
    """Knows whether a call could be made now."""

    async def ready(self) -> list[str]:
        """What is missing, in words for an operator; empty if nothing is."""

    def warnings(self) -> list[str]:
        """What an operator should know though a call could be made: a trunk down beside one that is up."""
