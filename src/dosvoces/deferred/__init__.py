"""
The port to deferred work: what surrounds a call and may come later, or elsewhere, and must not get lost.

A webhook that nobody took yet, a mail about an outcome, a connection that waits for its time or for a node with room.
The call itself is never such work: what lives in a process can't be resumed in another one.
"""

import enum
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

Payload = Mapping[str, str | int | float | None]


@dataclass(frozen=True, slots=True)
class Work:
    """Something to be done. Plain values only: it is written down, and may be done by another process."""

    kind: str
    """Whose it is: the name of a `Kind`."""
    key: str
    """With the kind, its identity: printable ASCII without `/`."""
    payload: Payload = field(default_factory=dict)
    """Ids rather than facts: what they stand for is read from the record when it is done."""
    lane: str = "all"
    """Works of one lane of a kind share its limit, so that those for a dead receiver hold up each other alone."""
    not_before: datetime | None = None
    """Aware; `None`: at once."""
    run: int = 1
    """Counts how often it was begun by its handler's wish; the engine's own."""


@dataclass(frozen=True, slots=True)
class Again:
    """A handler's answer: not done, come back in so many seconds."""

    after_s: float


Handler = Callable[[Work], Awaitable[Again | None]]
"""Does a work, or part of it; runs on the service's own event loop."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of work and how it is done."""

    name: str
    """Small letters, digits, `-` and `_`; stays the same for ever, as it is written down with each work."""
    handler: Handler
    poll_s: float = 0.5
    """How often new work is looked for: the latency of one that is due at once, and the price of an idle service."""
    lane_limit: int = 16
    """Works of one lane that are done at once by one node."""


class State(enum.StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"
    """It broke inside the engine; its handler's own faults don't lead here."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A work as the engine has it."""

    work: Work
    state: State
    node: str
    """Where it runs or ran; empty while it waits."""


class Deferred(Protocol):
    """
    Does deferred work. Its contract test quotes these clauses by name.

    - *durable on return*: a work that `submit` returned for is done though the process is killed at any later moment.
    - *once per key*: a key that is known already changes nothing, whatever became of it.
    - *not before*: a work is not begun before its `not_before`, and soon after it.
    - *at least once*: a work that was begun when its process died is begun again, with the same key and payload.
    - *again*: a handler that gives `Again` is called again, not before that; so is one that raises, later each time.
    - *lanes apart*: a work that hangs holds up none of another lane or kind.
    - *cancelled is not begun*: what waits when it is cancelled is never begun; what runs then is not called again.
    - *inherited*: `inherit` has begun again what that node had begun; what waits belongs to no node, and needs nothing.
    - *drained*: after `drain` no work begins here; what didn't end in time is begun again elsewhere or after a restart.
    - *the loop is never blocked*: whatever the database does, these methods only wait.
    """

    async def submit(self, work: Work) -> None:
        """Write `work` down, to be done. Raises `DeferredError`."""

    async def cancel(self, kind: str, key: str) -> bool:
        """Do it no more; whether there was something left to cancel. Raises `DeferredError`."""

    async def get(self, kind: str, key: str) -> Seen | None:
        """The newest that is known of it. Raises `DeferredError`."""

    async def list(self, kind: str, *, limit: int = 100) -> Sequence[Seen]:
        """What isn't done yet, the oldest first. Raises `DeferredError`."""

    async def inherit(self, node: str) -> int:
        """Have done what a dead node had begun; how many works that were. Raises `DeferredError`."""

    async def inherit_all_but(self, live: Collection[str]) -> int:
        """`inherit` from every node that isn't among `live`. Raises `DeferredError`."""

    async def forget(self, ended_before: datetime) -> int:
        """Delete what is known of works that ended before that; how many. Raises `DeferredError`."""

    def problems(self) -> Sequence[str]:
        """Why no work can be done now, in words for an operator."""

    async def drain(self, limit_s: float) -> None:
        """Begin nothing any more, wait for what runs for at most `limit_s`, then give everything back; idempotent."""
