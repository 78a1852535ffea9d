"""
Ten times more than can be done: how much is still done, and how soon the rest is refused.

The capacity is measured first, with as many requests on their way as keep the service busy; then ten times that rate
is offered, whatever becomes of it. What counts is what the record saw: calls joined a second.
"""

import asyncio
import itertools
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import uvloop

from bench.call import Service, service
from bench.flood import Flood
from bench.phones import phones
from bench.processes import percentile, spread

HOLD_S = 0.2
TIMES = 10
AT_ONCE = 40
"""Requests on their way while the capacity is measured: enough to keep the service busy, too few to make a queue."""
SETTLE_S = 1.5


async def run(folder: Path, *, seconds: float, max_connections: int) -> dict[str, Any]:
    """The capacity, then `TIMES` as much, for `seconds` each."""
    async with (
        phones(folder, hold_s=HOLD_S) as lines,
        service(
            folder, first_port=lines.first_port, second_port=lines.second_port, max_connections=max_connections
        ) as served,
    ):
        numbers = itertools.count(1)
        calm = Flood(served.client.port, numbers)
        peak = await _measured(served, calm, seconds, calm.keep_busy(at_once=AT_ONCE, seconds=seconds))
        calm.close()
        before_kib = served.use().service_kib
        wild = Flood(served.client.port, numbers)
        rate = TIMES * peak["joined_per_s"]
        flooded = await _measured(served, wild, seconds, wild.offer(rate=rate, seconds=seconds))
        wild.close()
        return {
            "capacity": peak,
            "times": TIMES,
            "overloaded": flooded,
            "goodput_share": round(flooded["joined_per_s"] / peak["joined_per_s"], 3),
            "service_mib_grown": round((served.use().service_kib - before_kib) / 1024, 1),
        }


async def _measured(served: Service, flood: Flood, seconds: float, load: Awaitable[float]) -> dict[str, Any]:
    joined_before, cpu_before = len(served.setup_ms()[0]), served.use().service_cpu_s
    per_s = await load
    cpu_s = served.use().service_cpu_s - cpu_before
    await asyncio.sleep(HOLD_S + SETTLE_S)
    setup_ms, outcomes = served.setup_ms()
    joined = len(setup_ms) - joined_before
    refused = flood.answer_ms.get(503, [])
    return {
        "requests_per_s": round(per_s, 1),
        "joined_per_s": round(joined / seconds, 1),
        "service_cpu_share": round(cpu_s / seconds, 2),
        "statuses": flood.statuses,
        "outcomes": dict(Counter(outcomes)),
        "setup_ms": spread(setup_ms[joined_before:]),
        "refusal_ms": {**spread(refused), "max": round(percentile(refused, 1.0), 3)},
    }


if __name__ == "__main__":
    arguments = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
    with tempfile.TemporaryDirectory() as temporary:
        print(json.dumps(uvloop.run(run(Path(temporary), **{"seconds": 6, "max_connections": 400, **arguments}))))
