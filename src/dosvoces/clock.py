"""
The time that limits and the record of one process go by: the wall clock's, but it never jumps while a call is open.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import structlog

log = structlog.get_logger(__name__)

QUIET_S = 5.0  # after the last call, for what is journalled of it late: its statistics, say
JUMP_S = 1.0  # from which on a difference is told: less is what NTP corrects day by day


def utc_now() -> datetime:
    return datetime.now(UTC)


class SteadyClock:
    """
    Gives the wall clock's time as it was when nothing was open, and what has passed since by the monotonic clock.

    Set back by an hour in the middle of a call, the wall clock alone would let the call last an hour more, and set
    forward it would end it at once. Whether the wall clock was set is looked at while nothing is open, so that a
    process that runs for months goes with it.
    """

    def __init__(
        self,
        idle: Callable[[], bool],
        *,
        wall: Callable[[], datetime] = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`idle`: whether nothing is open; asked at each reading."""
        self._idle = idle
        self._wall = wall
        self._monotonic = monotonic
        self._anchor = wall()
        self._anchored_at = monotonic()
        self._busy_at = self._anchored_at - QUIET_S

    def __call__(self) -> datetime:
        now = self._monotonic()
        steady = self._anchor + timedelta(seconds=now - self._anchored_at)
        if not self._idle():
            self._busy_at = now
        elif now - self._busy_at >= QUIET_S:
            self._anchor, self._anchored_at = self._wall(), now
            ahead_s = (self._anchor - steady).total_seconds()
            if abs(ahead_s) >= JUMP_S:
                log.warning("the wall clock was set; followed while no call was open", by_s=round(ahead_s, 3))
            return self._anchor
        return steady
