"""
Whether the process keeps up: so many requests may begin until the event loop has again been on time.

A loop with more to do than it can comes late to everything, to its refusals too. How late says a timer of our own, as
CoDel watches a queue's shortest delay (RFC 8289 §4.1): one punctual probe shows that what was taken so far is done with
or waits for others, and the count begins anew. A single pause (a slow disk, the garbage collector) refuses nobody, and
a burst into an idle process is taken whole; while there is more than can be done, little is taken at a time, so that
nothing waits long behind it.
"""

import asyncio

PROBE_S = 0.005
TARGET_S = 0.02
"""Lateness that still counts as punctual: less than half of the 50 ms within which a refusal should come."""
BURST = 32
"""Requests that may begin between two punctual probes: about an eighth of a second of work."""
TRICKLE = 8
"""The same while requests are refused: about as much work as `TARGET_S` has room for."""
CALM_S = 1.0
"""How long nobody must have been refused until a burst is taken whole again."""


class Pressure:
    """Counts what begins on the loop that it watches between `start` and `stop`."""

    def __init__(self) -> None:
        self._begun = 0
        self._room = BURST
        self._now = 0.0
        self._refused_at = 0.0
        self._due = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to watch the loop that runs; while nothing begins, nothing is watched."""
        self._loop = asyncio.get_running_loop()

    def stop(self) -> None:
        """Stop watching; idempotent."""
        self._loop = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def admits(self) -> bool:
        """Whether another request may begin now; it is counted if so."""
        if self.refuses():
            return False
        self._begun += 1
        if self._timer is None and self._loop is not None:
            self._wait(self._loop)
        return True

    def refuses(self) -> bool:
        """Whether none may begin now."""
        if self._begun < self._room:
            return False
        self._room, self._refused_at = TRICKLE, self._now
        return True

    def observe(self, late_s: float, now: float) -> None:
        """Take note that the timer came at `now`, in seconds, `late_s` after it was due."""
        self._now = now
        if late_s <= TARGET_S:
            self._begun = 0
            if now - self._refused_at >= CALM_S:
                self._room = BURST

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        self._now = loop.time()
        self._due = self._now + PROBE_S
        self._timer = loop.call_at(self._due, self._probe, loop)

    def _probe(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        self.observe(now - self._due, now)
        if self._begun or self._room < BURST:
            self._wait(loop)
        else:
            self._timer = None
