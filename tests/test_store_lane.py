"""The lane: one thread, one function at a time, in order."""

import asyncio
import threading

from dosvoces.store.lane import Lane


async def test_what_nobody_waits_for_any_more_is_not_begun() -> None:
    """Else those who gave up hold up those who come after them, and what was called a failure is done all the same."""
    lane, free, ran = Lane("test"), threading.Event(), []
    first = asyncio.create_task(lane.run(lambda: free.wait(20)))
    second = asyncio.create_task(lane.run(lambda: ran.append("second")))
    third = asyncio.create_task(lane.run(lambda: ran.append("third")))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait([second])
    free.set()
    await third
    assert (await first, second.cancelled(), ran) == (True, True, ["third"])
    lane.stop()
