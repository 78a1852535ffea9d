"""Whether the process keeps up: counted between punctual probes of the loop."""

import asyncio
import time

from dosvoces.testing import until
from dosvoces.web.pressure import BURST, CALM_S, TARGET_S, TRICKLE, Pressure


def taken(pressure: Pressure) -> int:
    """How many of twice the burst are let in now."""
    return sum(pressure.admits() for _ in range(2 * BURST))


def test_a_burst_into_an_idle_process_is_taken_and_no_more() -> None:
    assert taken(Pressure()) == BURST


def test_a_late_probe_lets_nobody_in_and_a_punctual_one_does() -> None:
    pressure = Pressure()
    seen = [taken(pressure)]
    for late_s in (TARGET_S * 2, TARGET_S * 50, TARGET_S, TARGET_S * 2):
        pressure.observe(late_s, now=0.0)
        seen.append(taken(pressure))
    assert seen == [BURST, 0, 0, TRICKLE, 0]


def test_while_requests_are_refused_little_is_taken_at_a_time() -> None:
    pressure = Pressure()
    seen = []
    for now in (0.0, 0.5 * CALM_S, CALM_S, 1.5 * CALM_S, 2 * CALM_S):
        pressure.observe(0.0, now)
        seen.append(taken(pressure))
    pressure.observe(0.0, 3.1 * CALM_S)
    assert (seen, taken(pressure)) == ([BURST, TRICKLE, TRICKLE, TRICKLE, TRICKLE], BURST)


def test_a_single_pause_refuses_nobody() -> None:
    pressure = Pressure()
    pressure.observe(10.0, now=10.0)
    assert pressure.admits()


def hold_up(seconds: float) -> None:
    """Keep the loop from turning, as a slow disk would."""
    time.sleep(seconds)


async def test_a_loop_that_waits_for_work_is_punctual() -> None:
    pressure = Pressure()
    pressure.start()
    try:
        assert taken(pressure) == BURST

        async def punctual() -> bool:
            return pressure.admits()

        await until(punctual, limit_s=5)
        assert taken(pressure) == TRICKLE - 1
        hold_up(TARGET_S * 5)
        await asyncio.sleep(0)
        assert not pressure.admits()
    finally:
        pressure.stop()
