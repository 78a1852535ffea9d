"""When what failed is tried again: the same steps for whoever is told, spread a little."""

import random
from collections.abc import Callable, Sequence

JITTER = 0.2
"""What failed together doesn't come back together."""


def delay_s(steps: Sequence[float], tries: int, *, spread: Callable[[], float] = random.random) -> float | None:
    """
    Seconds until the next try after `tries` of them, `None` if that was the last.

    `spread` gives 0 to 1 at random; the step is lengthened or shortened by up to `JITTER`.
    """
    if tries > len(steps):
        return None
    return steps[tries - 1] * (1 + JITTER * (2 * spread() - 1))
