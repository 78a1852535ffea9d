"""
Which keys were pressed, from telephone-events (RFC 4733): each key press once, however many packets tell of it.

Pure: it keeps no time of its own.
"""

from dataclasses import dataclass

from dosvoces.media.rtp import KEYS, TelephoneEvent

PATIENCE_S = (
    0.2  # after which a key press without its end is over; packets come at least every 50 ms (RFC 4733 §2.5.1.2)
)
LATE_UNITS = 5 * 8000
"""An event that started up to this long before the newest one (timestamp units) is a late repeat of an old one."""


@dataclass(frozen=True, slots=True)
class KeyPress:
    """A key that was pressed and let go."""

    key: str
    units: int
    """How long, in timestamp units."""


class KeyPresses:
    """The key presses of one stream. Its packets may be lost, repeated and late, those of the end too."""

    __slots__ = ("_before", "_duration", "_heard_at", "_key", "_started")

    def __init__(self) -> None:
        self._key: str | None = None  # held down
        self._started: int | None = None  # timestamp of the newest event, held down or let go
        self._before = 0  # units, of the earlier segments of a long event
        self._duration = 0
        self._heard_at = 0.0

    def take(self, event: TelephoneEvent, timestamp: int, now: float) -> list[KeyPress]:
        """What `event` ends: the key press it is the end of, and an earlier one whose end was lost."""
        if not 0 <= event.code < len(KEYS):
            return []
        over: list[KeyPress] = []
        age = 0 if self._started is None else (timestamp - self._started) & 0xFFFFFFFF
        if self._started is None or age:
            if age > 0xFFFFFFFF - LATE_UNITS:
                return []
            if self._continues(event, age):
                self._before += self._duration
            else:
                over = self.flush()
                self._key, self._before = KEYS[event.code], 0
            self._started, self._duration = timestamp, 0
        if self._key is not None:
            self._duration, self._heard_at = max(self._duration, event.duration), now
            if event.end:
                over += self.flush()
        return over

    def _continues(self, event: TelephoneEvent, age: int) -> bool:
        # RFC 4733 §2.5.1.3: a long event goes on in a segment that starts where the one before ended.
        return self._key == KEYS[event.code] and age == self._duration

    def flush(self) -> list[KeyPress]:
        """End what is held down now: its stream is over, or its end was lost."""
        if self._key is None:
            return []
        press, self._key = KeyPress(self._key, self._before + self._duration), None
        return [press]

    def settle(self, now: float) -> list[KeyPress]:
        """The key press that must be over because nothing was heard of it for `PATIENCE_S`."""
        return self.flush() if self._key is not None and now - self._heard_at >= PATIENCE_S else []
