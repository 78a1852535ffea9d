"""Many worlds, on all processors, and what came of them."""

import gc
import logging
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import structlog

from tests.simulation.invariants import Violation, violations
from tests.simulation.service import AS_SHIPPED, Build
from tests.simulation.world import SIZE, World

CHUNK = 25  # worlds that one worker takes at a time; then the garbage is collected


@dataclass
class Tally:
    """What happened in all of them."""

    seed: int
    connections: int = 0
    kills: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    weathers: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    broken: list[Violation] = field(default_factory=list)
    """With the numbers of their connections in the whole run."""

    @property
    def per_minute(self) -> float:
        return 60 * self.connections / self.wall_s if self.wall_s else 0.0

    def add(self, other: "Tally") -> None:
        self.connections += other.connections
        self.kills += other.kills
        self.cpu_s += other.cpu_s
        self.weathers += other.weathers
        self.outcomes += other.outcomes
        self.broken += other.broken

    def __str__(self) -> str:
        outcomes = ", ".join(f"{name} {count}" for name, count in self.outcomes.most_common())
        weathers = ", ".join(f"{name} {count}" for name, count in self.weathers.most_common())
        return (
            f"seed {self.seed}: {self.connections} connections in {self.wall_s:.1f} s "
            f"({self.per_minute:,.0f} a minute, {1e3 * self.cpu_s / max(self.connections, 1):.2f} CPU-ms each), "
            f"{self.kills} kills\n"
            f"weather: {weathers}\noutcomes: {outcomes}\nviolations: {len(self.broken)}"
        )


def simulate(seed: int, connections: int, *, processes: int | None = None) -> Tally:
    """Run whole worlds until there are `connections` of them, on `processes` (all) processors."""
    worlds = -(-connections // SIZE)
    chunks = [range(first, min(first + CHUNK, worlds)) for first in range(0, worlds, CHUNK)]
    tally, began = Tally(seed), time.monotonic()
    # Spawned, not forked: a test runner's threads and files are none of theirs.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes or os.cpu_count(), mp_context=context, initializer=_keep_imports) as pool:
        for part in pool.map(partial(run_worlds, seed), chunks):
            tally.add(part)
    tally.wall_s = time.monotonic() - began
    return tally


def _keep_imports() -> None:
    """What they made stays: to look through it after each chunk would take a twentieth of the time."""
    gc.collect()
    gc.freeze()


def run_worlds(seed: int, numbers: range, build: Build = AS_SHIPPED) -> Tally:
    """These worlds, one after the other, in this process."""
    tally, began = Tally(seed), time.process_time()
    with _undisturbed():
        for number in numbers:
            world = World(seed, number, build=build).run()
            tally.connections += SIZE
            tally.kills += len(world.kills)
            tally.weathers[world.network.weather.name] += 1
            tally.outcomes.update(str(outcome) for kept in world.disk.connections.values() for outcome in kept.outcomes)
            tally.broken += [
                Violation(number * SIZE + (found.connection or 0), found.invariant, found.what)
                for found in violations(world)
            ]
    tally.cpu_s = time.process_time() - began
    return tally


def replay(seed: int, connection: int, *, build: Build = AS_SHIPPED) -> tuple[list[str], list[Violation]]:
    """The world of this connection once more: the connection's trace, and what it broke."""
    number, within = divmod(connection, SIZE)
    with _undisturbed():
        world = World(seed, number, build=build, only=within).run()
        return world.trace.lines, [found for found in violations(world) if found.connection in (None, within)]


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Without the service's log, and with the garbage collected afterwards only, which saves a third of the time."""
    before = structlog.get_config()
    level = logging.root.manager.disable
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable(logging.CRITICAL)
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.collect()
        logging.disable(level)
        structlog.configure(**before)
