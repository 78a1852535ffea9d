"""
Lets a few requests begin in each turn of the event loop, and says when too many wait for that already.

A burst that were taken whole would be worked off in one turn: thirty requests, two milliseconds each and more, before
the loop looks at a socket again. So they begin by and by, and what is refused or over doesn't wait for them all.

How many wait is also the measure of overload: a loop with more to do than it can has longer turns, so fewer begin, and
the queue grows. A burst into an idle process is taken whole; while there is more than can be done, the queue is kept
short, so that nobody waits long in it (as CoDel tells a burst from a standing queue, RFC 8289 §3).
"""

import asyncio
import math
from collections import deque

AT_ONCE = 2
"""Begin in one turn: some four milliseconds of work."""
BURST = 256
"""Requests that may wait: about a second of work."""
TRICKLE = 16
"""The same while requests are refused."""
CALM_S = 1.0
"""How long nobody must have been refused until a burst is taken whole again."""


class Turns:
    """Whose turn it is, on the loop that runs; first come, first served."""

    def __init__(self) -> None:
        self._begun = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._refused_at = -math.inf

    @property
    def waiting(self) -> int:
        """How many have taken a place and can't have begun yet: those whose turn this is, and those behind them."""
        return self._begun + len(self._waiting)

    def refuse(self) -> bool:
        """Whether so many wait that the next request must go; it counts as refused if so."""
        waiting = self.waiting
        if waiting < TRICKLE:
            return False
        now = asyncio.get_running_loop().time()
        if waiting < BURST and now - self._refused_at >= CALM_S:
            return False
        self._refused_at = now
        return True

    def take(self) -> asyncio.Future[None] | None:
        """Take a place: `None`, begin now; or begin when the future is done."""
        loop = asyncio.get_running_loop()
        if not self._begun:
            loop.call_soon(self._next)
        if self._begun < AT_ONCE and not self._waiting:
            self._begun += 1
            return None
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        return turn

    def _next(self) -> None:
        self._begun = 0
        while self._waiting and self._begun < AT_ONCE:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                self._begun += 1
        if self._begun:
            asyncio.get_running_loop().call_soon(self._next)
