"""
Whether the process keeps up: so many requests may begin until the event loop has again been on time.

A loop with more to do than it can comes late to everything, to its refusals too. How late says a timer of our own, as
CoDel watches a queue's shortest delay (RFC 8289 §4.1): one punctual probe shows that what was taken so far is done with
or waits for others, and the count begins anew. A single pause (a slow disk, the garbage collector) refuses nobody, and
a burst into an idle process is taken whole.
"""

import asyncio

PROBE_S = 0.01
TARGET_S = 0.02
"""Lateness that still counts as punctual: less than half of the 50 ms within which a refusal should come."""
BURST = 64
"""Requests that may begin between two punctual probes: about a quarter of a second of work."""


class Pressure:
    """Counts what begins on the loop that it watches between `start` and `stop`."""

    def __init__(self) -> None:
        self._begun = 0
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to watch the loop that runs."""
        self._loop = asyncio.get_running_loop()
        self._wait()

    def stop(self) -> None:
        """Stop watching; idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def admits(self) -> bool:
        """Whether another request may begin now; it is counted if so."""
        if self._begun >= BURST:
            return False
        self._begun += 1
        return True

    def observe(self, late_s: float) -> None:
        """Take note that the timer came `late_s` after it was due."""
        if late_s <= TARGET_S:
            self._begun = 0

    def _wait(self) -> None:
        self._due = self._loop.time() + PROBE_S
        self._timer = self._loop.call_at(self._due, self._probe)

    def _probe(self) -> None:
        self.observe(self._loop.time() - self._due)
        self._wait()
