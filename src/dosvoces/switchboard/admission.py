"""Whether a request may begin now, and on which terms: nothing is tried here."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from dosvoces.carriers import Carrier
from dosvoces.core import Terms
from dosvoces.errors import CeilingReached, LimitReached, NoRate, NotAllowed, NotNow, NumberRefused, OnTheList, TooMany
from dosvoces.model import ConnectionId, Order, Side
from dosvoces.store import Store

STOPPED = "all calls are stopped; nothing was done"
NOT_RECORDABLE = "the request can't be recorded now; nothing was done"


def refused(error: LimitReached) -> NotNow | NotAllowed:
    """What the record refused, as the door is told."""
    if isinstance(error, OnTheList):
        return NumberRefused("is on the do-not-call list", code="do_not_call", second=error.second)
    if isinstance(error, NoRate):
        return NumberRefused("has no rate in the operator's table", code="no_rate", second=error.second)
    if isinstance(error, CeilingReached):
        return TooMany(str(error), retry_after_s=error.retry_after_s)
    return NotNow(str(error))


@dataclass(frozen=True, slots=True)
class Limits:
    """What one switchboard takes on, and the terms of each connection but for its own interval."""

    max_connections: int = 100
    ring_timeout_s: float = 30.0
    talk_limit_s: float = 3600.0
    mail_timeout_s: float = 15.0
    close_limit_s: float = 5.0
    """How long a shutdown waits for the far ends to confirm: a container is killed 10 s after it was told to stop."""
    trunk_timeout_s: float = 6.0
    """How long a trunk may stay silent before the next way is tried."""

    def terms(self, order: Order) -> Terms:
        return Terms(
            interval_s=order.interval_s,
            ring_timeout_s=_at_most(self.ring_timeout_s, order.ring_timeout_s),
            talk_limit_s=_at_most(self.talk_limit_s, order.talk_limit_s),
            mail_timeout_s=self.mail_timeout_s,
        )


def _at_most(limit_s: float, asked_s: float | None) -> float:
    """An order narrows the operator's limits and never widens them."""
    return limit_s if asked_s is None else min(limit_s, asked_s)


@dataclass(slots=True)
class Shut:
    """Why nobody is let in, through whichever door; empty texts while somebody may be."""

    leaving: str = ""
    """For good."""
    stopped: str = ""
    """By somebody, on all nodes."""
    fenced: str = ""
    """For now."""


class Admission:
    """The door of one switchboard: who came in and is not open yet counts like who is."""

    def __init__(
        self,
        store: Store,
        carrier: Carrier,
        most: int,
        open_connections: Callable[[], int],
        shut: Shut,
        most_words: str = "dialing.max_connections and the open files allow",
    ) -> None:
        """At most `most` connections may be open, as many as `most_words`."""
        self._store = store
        self._carrier = carrier
        self._most = most
        self._most_words = most_words
        self._shut = shut
        self._open_connections = open_connections
        self._entering: set[ConnectionId] = set()
        self.all_in = asyncio.Event()
        """Set while nobody is coming in."""
        self.all_in.set()

    @property
    def anybody(self) -> bool:
        """Whether somebody is coming in."""
        return bool(self._entering)

    def knows(self, connection_id: ConnectionId) -> bool:
        """Whether this connection is just being recorded."""
        return connection_id in self._entering

    def problems(self) -> list[str]:
        """Why a request would be refused now, in words; empty if it would be taken."""
        return self._problems(self._store.problems(), self._carrier.problems())

    @contextmanager
    def entering(self, order: Order) -> Iterator[None]:
        """
        Count `order` in while it is recorded. Raises `NotNow`, and `NotAllowed` for a caller id that is not ours.

        Counted before anything is awaited: parallel requests see each other.
        """
        self._admit(order)
        self._entering.add(order.id)
        self.all_in.clear()
        try:
            yield
        finally:
            self._entering.discard(order.id)
            if not self._entering:
                self.all_in.set()

    def _admit(self, order: Order) -> None:
        of_store = self._store.problems()
        if of_store and not self._shut.leaving:
            # The store's words name files; they are for the operator, who has them in the log and in `problems`.
            raise NotNow(NOT_RECORDABLE)
        if self._shut.stopped:
            # By whom is the operator's to know, who has it in `problems`.
            raise NotNow(STOPPED, leaving=bool(self._shut.leaving))
        if problems := self._problems(of_store, self._carrier.problems(order.first, order.second)):
            full = not self.has_room() and len(problems) == 1
            raise NotNow("; ".join(problems), leaving=bool(self._shut.leaving), full=full)
        self.check(order)

    def check(self, order: Order) -> None:
        """Raises `NotAllowed` for a caller id that is not ours."""
        for side in Side:
            if wanted := order.caller_id(side):
                self._carrier.check_caller_id(order.number(side), wanted)

    def _problems(self, of_store: list[str], of_carrier: list[str]) -> list[str]:
        problems = [*of_store, *of_carrier]
        problems += [why for why in (self._shut.leaving, self._shut.stopped, self._shut.fenced) if why]
        if not self.has_room():
            problems.append(self._fullness())
        return problems

    def has_room(self, waiting: int = 0) -> bool:
        """Whether there would be a place for one more after `waiting` others: by the limit, and by the media ports."""
        inside = self._inside + waiting
        return inside < self._most and inside < self._carrier.capacity()

    @property
    def _inside(self) -> int:
        return self._open_connections() + len(self._entering)

    def _fullness(self) -> str:
        if self._inside >= self._most:
            return f"{self._most} connections are open, as many as {self._most_words}"
        return "no media port is free: those of the last calls rest for a while; widen media.ports"
