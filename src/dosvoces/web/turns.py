"""
Lets a few requests begin in each turn of the event loop, so that what is refused or over doesn't wait for them all.

A burst that is taken whole would else be worked off in one turn: thirty requests, two milliseconds each and more,
before the loop looks at a socket again.
"""

import asyncio
from collections import deque

AT_ONCE = 2
"""Some four milliseconds of work."""


class Turns:
    """Whose turn it is, on the loop that runs; first come, first served."""

    def __init__(self) -> None:
        self._begun = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def wait(self) -> asyncio.Future[None] | None:
        """Take a place in this turn: `None`, begin; or wait for the future."""
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
