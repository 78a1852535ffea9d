"""
Ten times more than can be done: how much is still done, and how soon the rest is refused.

The capacity is measured first, with as many requests on their way as keep the service busy; then ten times that rate
is offered, whatever becomes of it. Then both again, since a shared machine is not as fast in this second as in the
next: what counts is all that the record saw in either, calls joined a second.
"""

import asyncio
import itertools
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
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
LINES = 400
"""Connections that the flood keeps open: as many as requests are on their way at a time, refused ones and those that
wait."""
RAMP_S = 1.5
"""Of each load, before what is joined counts."""
SETTLE_S = 1.5


@dataclass(slots=True)
class Load:
    """What became of one sort of load, over all its rounds."""

    flood: Flood
    seconds: float = 0.0
    requests: float = 0.0
    """Offered, or of the calm load answered."""
    cpu_s: float = 0.0
    setup_ms: list[float] = field(default_factory=list)
    joined: int = 0
    joined_s: float = 0.0
    """Looked at for so long: while the load was there, but for its beginning."""
    joined_per_s: list[float] = field(default_factory=list)
    """Of each round."""

    def report(self) -> dict[str, Any]:
        refused = self.flood.answer_ms.get(503, [])
        return {
            "requests_per_s": round(self.requests / self.seconds, 1),
            "joined_per_s": round(self.joined / self.joined_s, 1),
            "rounds_joined_per_s": self.joined_per_s,
            "service_cpu_share": round(self.cpu_s / self.seconds, 2),
            "statuses": self.flood.statuses,
            "setup_ms": spread(self.setup_ms),
            "refusal_ms": {**spread(refused), "max": round(percentile(refused, 1.0), 3)},
        }


async def run(folder: Path, *, seconds: float, max_connections: int, rounds: int = 3) -> dict[str, Any]:
    """The capacity, then `TIMES` as much, for `seconds` each, `rounds` times."""
    async with (
        phones(folder, hold_s=HOLD_S) as lines,
        service(
            folder, first_port=lines.first_port, second_port=lines.second_port, max_connections=max_connections
        ) as served,
    ):
        numbers = itertools.count(1)
        calm, wild = Load(Flood(served.client.port, numbers)), Load(Flood(served.client.port, numbers))
        before_kib = 0
        for _ in range(rounds):
            await _measure(served, calm, seconds, calm.flood.keep_busy(at_once=AT_ONCE, seconds=seconds))
            await wild.flood.open(LINES)
            before_kib = before_kib or served.use().service_kib
            rate = TIMES * calm.joined_per_s[-1]
            await _measure(served, wild, seconds, wild.flood.offer(rate=rate, seconds=seconds))
        for load in (calm, wild):
            load.flood.close()
        return {
            "capacity": calm.report(),
            "times": TIMES,
            "overloaded": wild.report(),
            "goodput_share": round(wild.joined / calm.joined, 3),
            "outcomes": dict(Counter(served.setup_ms()[1])),
            "service_mib_grown": round((served.use().service_kib - before_kib) / 1024, 1),
        }


async def _measure(served: Service, load: Load, seconds: float, work: Awaitable[float]) -> None:
    joined_before, cpu_before = len(served.setup_ms()[0]), served.use().service_cpu_s
    began = datetime.now(UTC)
    load.requests += seconds * await work
    load.cpu_s += served.use().service_cpu_s - cpu_before
    load.seconds += seconds
    await asyncio.sleep(HOLD_S + SETTLE_S)
    load.setup_ms += served.setup_ms()[0][joined_before:]
    # Neither what the beginning had to wait for, nor what was left when the load was gone.
    joined = served.joined(began + timedelta(seconds=RAMP_S), began + timedelta(seconds=seconds))
    load.joined += joined
    load.joined_s += seconds - RAMP_S
    load.joined_per_s.append(round(joined / (seconds - RAMP_S), 1))


if __name__ == "__main__":
    arguments = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
    with tempfile.TemporaryDirectory() as temporary:
        print(json.dumps(uvloop.run(run(Path(temporary), **{"seconds": 6, "max_connections": 1000, **arguments}))))
