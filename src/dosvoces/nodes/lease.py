"""A node's right to act: held while its last sign of life is young, on a clock that a stopped process can't fool."""

import time
from collections.abc import Callable


def awake_or_not() -> float:
    """Seconds that no clock setting moves, those in which the machine was suspended too: others didn't wait for it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Lease:
    """
    Held from one beat to `fence_s` after it; once it has run out, or was lost, it can't be had back.

    Counted from the moment a beat was *sent*: the database can't have noted it earlier. Others may take what is ours
    only `dead_s`, which is longer, after it was noted.
    """

    def __init__(self, fence_s: float | None, clock: Callable[[], float] = awake_or_not) -> None:
        """`fence_s` is `None` where nobody else could take anything: it is held until it is lost, then."""
        self._fence_s = fence_s
        self._clock = clock
        self._sent_at = clock()
        self._over = False

    def held(self) -> bool:
        """Whether this node may act. Asks the clock, not the loop: right also in a process that just woke up."""
        if self._fence_s is not None and self._clock() - self._sent_at >= self._fence_s:
            self._over = True
        return not self._over

    def renew(self, sent_at: float) -> None:
        """A beat that was sent then has been noted; too late is too late."""
        if self.held():
            self._sent_at = sent_at

    def lose(self) -> None:
        """Somebody else has taken what is ours."""
        self._over = True
