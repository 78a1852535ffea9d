"""When what failed is tried again: the same steps for whoever is told, spread a little."""

import random
from collections.abc import Callable, Sequence
from datetime import datetime

from dosvoces.store.reports import Delivery

JITTER = 0.2
"""What failed together doesn't come back together."""
CLOCKS_DIFFER_S = 0.5
"""What is due so soon is due: the engine's clock counts milliseconds, and another node's may be fast."""


def delay_s(steps: Sequence[float], tries: int, *, spread: Callable[[], float] = random.random) -> float | None:
    """
    Seconds until the next try after `tries` of them, `None` if that was the last.

    `spread` gives 0 to 1 at random; the step is lengthened or shortened by up to `JITTER`.
    """
    if tries > len(steps):
        return None
    return steps[tries - 1] * (1 + JITTER * (2 * spread() - 1))


def early_s(delivery: Delivery, now: datetime) -> float:
    """How long it still is to the next try: a run that died after it had noted its own is begun again at once."""
    if delivery.tries == 0 or delivery.next_at is None:
        return 0.0
    seconds = (delivery.next_at - now).total_seconds()
    return seconds if seconds > CLOCKS_DIFFER_S else 0.0
