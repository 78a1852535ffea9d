"""One heap for the timers of a whole user agent: start, stop and the next one due cost the same however many run."""

from collections.abc import Callable
from heapq import heapify, heappop, heappush

COMPACT_AT = 256  # stopped entries in the heap before it is worth cleaning


class Timer:
    """A running timer; `stop` it or let it fire once."""

    __slots__ = ("action",)

    def __init__(self, action: Callable[[], None]) -> None:
        self.action: Callable[[], None] | None = action


class Timers:
    """Timers in order of their time; those of equal time fire in the order in which they were started."""

    __slots__ = ("_heap", "_serial", "_stopped")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._serial = 0
        self._stopped = 0

    def __len__(self) -> int:
        """Timers that will fire."""
        return len(self._heap) - self._stopped

    def start(self, due: float, action: Callable[[], None]) -> Timer:
        """Fire `action` once when `due` (monotonic seconds) has come."""
        timer = Timer(action)
        self._serial += 1
        heappush(self._heap, (due, self._serial, timer))
        return timer

    def stop(self, timer: Timer | None) -> None:
        """Idempotent; `None` and a timer that has fired are fine."""
        if timer is None or timer.action is None:
            return
        timer.action = None
        self._stopped += 1
        if self._stopped >= COMPACT_AT and self._stopped * 2 > len(self._heap):
            # Most timers are stopped long before they are due (an answer comes in 20 ms, Timer B after 32 s).
            self._heap = [entry for entry in self._heap if entry[2].action is not None]
            heapify(self._heap)
            self._stopped = 0

    def next(self) -> float | None:
        """When the first timer is due, `None` if none runs."""
        heap = self._heap
        while heap and heap[0][2].action is None:
            heappop(heap)
            self._stopped -= 1
        return heap[0][0] if heap else None

    def run(self, now: float) -> None:
        """Fire all that is due, those that are started meanwhile and are due at once included."""
        while (due := self.next()) is not None and due <= now:
            timer = heappop(self._heap)[2]
            action, timer.action = timer.action, None
            assert action is not None
            action()
