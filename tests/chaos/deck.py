"""What nodes are to die of, life by life, and when a run has seen enough."""

import random
from collections import Counter

from tests.chaos.plan import Plan

ONCE_A_LIFE = ("k24_leftovers_released",)
LATE = range(2, 7)
"""How often a node passes a point that it is to die at later."""


class Deck:
    """
    Shared by the nodes of one kind: each named point comes before any comes again, and between them none.

    A point that a node didn't come to in time is dealt again.
    """

    def __init__(self, plan: Plan, rng: random.Random) -> None:
        self._plan = plan
        self._rng = rng
        self._points: list[str] = []
        self.deaths: Counter[str] = Counter()
        """How many died of what: a point's name, or another word."""

    def deal(self) -> str:
        """A crash point with its count, or nothing."""
        if self._rng.random() < self._plan.random_share:
            return ""
        if not self._points:
            missing = [point for point in self._plan.points if not self.deaths[point]]
            self._points = missing or list(self._plan.points)
            self._rng.shuffle(self._points)
        point = self._points.pop()
        late = point not in ONCE_A_LIFE and self._rng.random() < self._plan.late_share
        return f"{point}:{self._rng.choice(LATE)}" if late else point

    @property
    def missing(self) -> list[str]:
        """Points that nobody died of."""
        return [point for point in self._plan.points if not self.deaths[point]]
