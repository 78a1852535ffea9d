"""
Lets a few requests begin in each turn of the event loop, and says when too many wait for that already.

Taken whole, a burst would be worked off in one turn: thirty requests, two milliseconds each and more, before the loop
looks at a socket again. So they begin by and by, and what is refused or over doesn't wait for them all.

Those who have begun come first: while what they wait for is crowded, nobody begins. Without that the next ones begin in
the time in which the others wait, and all of them wait the longer.

How many wait is also the measure of overload: where there is more to do than can be done, the queue grows. A burst into
an idle process is taken whole; while there is more than can be done, the queue is kept short, so that nobody waits long
in it (as CoDel tells a burst from a standing queue, RFC 8289 §3).
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable

AT_ONCE = 2
"""Begin in one turn: some four milliseconds of work."""
HELD_UP_S = 0.002
"""From one look whether those who have begun still hold the next ones up to the next."""
BURST = 256
"""Requests that may wait: about a second, or two, of work."""
TRICKLE = 16
"""The same while requests are refused."""
CALM_S = 1.0
"""How long nobody must have been refused until a burst is taken whole again."""


class Turns:
    """Whose turn it is, on the loop that runs; first come, first served."""

    def __init__(self, crowded: Callable[[], bool] = lambda: False) -> None:
        """`crowded`: whether those who have begun have to wait as things are, so that nobody else may begin."""
        self._crowded = crowded
        self._begun = 0
        self._begun_before = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._refused_at = -math.inf

    @property
    def waiting(self) -> int:
        """
        How many have taken a place and count nowhere else yet.

        Beside those whose turn has not come, those of this turn and of the last: a request is read and checked in tasks
        of its own before it counts as a connection.
        """
        return self._begun_before + self._begun + len(self._waiting)

    def too_many(self) -> bool:
        """Whether so many wait that the next request must go."""
        waiting = self.waiting
        return waiting >= BURST or (waiting >= TRICKLE and self._now() - self._refused_at < CALM_S)

    def refused(self) -> None:
        """One had to go: fewer may wait for a while."""
        self._refused_at = self._now()

    def take(self) -> asyncio.Future[None] | None:
        """Take a place: `None`, begin now; or begin when the future is done."""
        loop = asyncio.get_running_loop()
        if not self.waiting:
            loop.call_soon(self._next)
        if self._begun < AT_ONCE and not self._waiting and not self._crowded():
            self._begun += 1
            return None
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        return turn

    def _next(self) -> None:
        self._begun_before, self._begun = self._begun, 0
        loop = asyncio.get_running_loop()
        if self._waiting and self._crowded():
            # Not in the next turn: a loop that goes round for nothing keeps the record's thread from its work.
            loop.call_later(HELD_UP_S, self._next)
            return
        while self._waiting and self._begun < AT_ONCE:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                self._begun += 1
        if self.waiting:
            loop.call_soon(self._next)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
