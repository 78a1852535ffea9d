"""The time that limits go by, with a wall clock that is set by an hour."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from structlog.testing import capture_logs

from dosvoces.clock import QUIET_S, SteadyClock

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
HOURS = [HOUR, -HOUR]


@dataclass
class World:
    """Both clocks of a machine, and whether a call is open on it."""

    wall: datetime = NOON
    monotonic: float = 100.0
    open: bool = False

    def passes(self, seconds: float) -> None:
        self.wall += timedelta(seconds=seconds)
        self.monotonic += seconds

    def clock(self) -> SteadyClock:
        return SteadyClock(lambda: not self.open, wall=lambda: self.wall, monotonic=lambda: self.monotonic)


def test_it_goes_with_the_wall_clock() -> None:
    world = World()
    clock = world.clock()
    world.passes(90)
    assert clock() == NOON + timedelta(seconds=90) == world.wall


@pytest.mark.parametrize("jump", HOURS)
def test_a_jump_while_a_call_is_open_is_not_seen(jump: timedelta) -> None:
    world = World(open=True)
    clock = world.clock()
    world.passes(10)
    world.wall += jump
    world.passes(10)
    assert clock() == NOON + timedelta(seconds=20)


@pytest.mark.parametrize("jump", HOURS)
def test_it_follows_when_nothing_has_been_open_for_a_while_and_says_so(jump: timedelta) -> None:
    world = World(open=True)
    clock = world.clock()
    clock()
    world.wall += jump
    world.open = False
    world.passes(QUIET_S / 2)
    assert clock() == NOON + timedelta(seconds=QUIET_S / 2), "what is journalled of the last call stays in order"
    world.passes(QUIET_S / 2)
    with capture_logs() as logs:
        assert clock() == world.wall
    assert [each["by_s"] for each in logs] == [jump.total_seconds()]
    world.passes(1)
    assert clock() == world.wall


def test_small_corrections_are_followed_silently() -> None:
    world = World()
    clock = world.clock()
    world.passes(QUIET_S)
    world.wall += timedelta(milliseconds=300)
    with capture_logs() as logs:
        assert clock() == world.wall
    assert logs == []
