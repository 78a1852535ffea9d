"""
The engine alone: core, switchboard, SIP and media, with a record and a mailbox that cost nothing.

`python -m bench.engine '{"first_port": …, "second_port": …, "rate": …, "seconds": …, "hold_s": …}'` prints one JSON
object. `"moments": true` adds when each connection was asked for and joined, on the clock that all processes share.
"""

import asyncio
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import structlog
import uvloop

from bench.processes import children, cpu_s, rss_kib, spread
from dosvoces.app import calm_collector
from dosvoces.carriers.sip import SipCarrier
from dosvoces.carriers.trunks import Trunk
from dosvoces.core import Connection
from dosvoces.mail import Mail
from dosvoces.media.relay import MediaSettings, WorkerRelay
from dosvoces.model import ConnectionId, Order, Outcome, Side
from dosvoces.store import Entry, Store
from dosvoces.switchboard import Limits, Switchboard
from dosvoces.testing import an_order, until

SETTLE_LIMIT_S = 10.0  # from the last request until all must be over
PORTS = (10000, 59999)  # each connection takes four, and they rest for 30 s
QUIET_S = 1.0  # from the last request until those under way are joined, where memory is read


class Watch:
    """A record that costs nothing and takes the times that are wanted."""

    def __init__(self) -> None:
        self.asked: dict[ConnectionId, float] = {}
        self.answered: dict[ConnectionId, float] = {}
        self.joined: dict[ConnectionId, float] = {}
        self.to_dial_ms: list[float] = []
        self.outcomes: dict[str, int] = {}

    async def record(self, order: Order, **facts: object) -> None: ...

    async def intend_dial(self, order: Order, side: Side, **facts: object) -> float:
        return 0.0

    def update(self, connection_id: ConnectionId, state: Connection, deadline: datetime | None) -> None: ...

    def keep_capture(self, connection_id: ConnectionId, packed: bytes) -> None: ...

    async def settle(self, connection_id: ConnectionId, state: Connection, outcome: Outcome, *, at: datetime) -> None:
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    def journal(self, entry: Entry, *, kept: Callable[[], None] | None = None) -> None:
        if kept is not None:
            asyncio.get_running_loop().call_soon(kept)  # never at once: who journals isn't ready for it yet
        match entry.event, entry.side:
            case "dialed", Side.A:
                self.to_dial_ms.append((time.perf_counter() - self.asked[entry.connection_id]) * 1000)
            case "answered", Side.B:
                self.answered[entry.connection_id] = time.perf_counter()
            case "joined", _:
                self.joined[entry.connection_id] = time.perf_counter()

    def when_taken(self, tell: Callable[[ConnectionId], None]) -> None:
        """Nothing is ever taken: there is no other node."""

    def problems(self) -> list[str]:
        return []

    def moments(self) -> dict[str, dict[str, float]]:
        """By the connection's number: seconds of the system's monotonic clock."""
        return {
            str(int(id)): {"asked": asked, "joined": self.joined[id]}
            for id, asked in self.asked.items()
            if id in self.joined
        }


@dataclass(frozen=True, slots=True)
class _Use:
    """What both processes have used so far."""

    engine_cpu_s: float
    worker_cpu_s: float
    engine_kib: int
    worker_kib: int

    @classmethod
    def now(cls, workers: list[int]) -> "_Use":
        return cls(time.process_time(), sum(map(cpu_s, workers)), rss_kib(os.getpid()), sum(map(rss_kib, workers)))


async def _accept(_mail: Mail) -> None: ...


def _compose(order: Order) -> Mail:
    return Mail(order.id, order.lead.email, "", "", b"")


def _carrier(first_port: int, second_port: int) -> SipCarrier:
    relay = WorkerRelay(MediaSettings(bind_host="127.0.0.1", advertised_host="127.0.0.1", port_range=PORTS))
    trunks = [
        Trunk(name="first", host="127.0.0.1", port=first_port, prefixes=("+346",)),
        Trunk(name="second", host="127.0.0.1", port=second_port, prefixes=("+349",)),
    ]
    return SipCarrier(trunks=trunks, relay=relay, bind=("127.0.0.1", 0))


async def _offer(switchboard: Switchboard, watch: Watch, *, rate: float, total: int) -> float:
    """Ask for `total` connections, `rate` a second whatever becomes of them; the seconds that it took."""
    loop, started = asyncio.get_running_loop(), time.perf_counter()
    pending: set[asyncio.Task[Any]] = set()
    for number in range(1, total + 1):
        delay = started + number / rate - time.perf_counter()
        if delay > 0:
            await asyncio.sleep(delay)
        order = an_order(number, first=f"+346{number:08d}", second=f"+349{number:08d}", at=datetime.now(UTC))
        watch.asked[order.id] = time.perf_counter()
        task = loop.create_task(switchboard.connect(order))
        pending.add(task)
        task.add_done_callback(pending.discard)
    return time.perf_counter() - started


async def run(
    *, first_port: int, second_port: int, rate: float, seconds: float, hold_s: float, moments: bool = False
) -> dict[str, Any]:
    """Start `rate` connections a second for `seconds` (open loop), wait until they are over, and say what it took."""
    carrier, watch = _carrier(first_port, second_port), Watch()
    switchboard = Switchboard(
        store=cast(Store, watch),
        mailbox=SimpleNamespace(deliver=_accept),
        carrier=carrier,
        compose=_compose,
        limits=Limits(max_connections=100_000),
    )
    await switchboard.start()
    calm_collector()  # as the service does
    workers, total = children(os.getpid()), round(rate * seconds)
    before = _Use.now(workers)
    offered_s = await _offer(switchboard, watch, rate=rate, total=total)
    await asyncio.sleep(min(QUIET_S, hold_s / 2))
    open_now, peak = switchboard.open_connections, _Use.now(workers)

    async def over() -> bool:
        return not switchboard.open_connections

    # Under overload some wait for SIP's own time-outs (32 s); they are counted and not waited for.
    with suppress(TimeoutError):
        await until(over, limit_s=hold_s + SETTLE_LIMIT_S)
    left_open = switchboard.open_connections
    after = _Use.now(workers)
    await switchboard.close()
    await carrier.close()
    done = watch.outcomes.get(Outcome.COMPLETED, 0)
    return {
        "rate": rate,
        "offered_per_s": round(total / offered_s, 1),
        "connections": total,
        "completed": done,
        "joined": len(watch.joined),
        "left_open": left_open,
        "setup_ms": spread([(at - watch.asked[id]) * 1000 for id, at in watch.joined.items()]),
        "request_to_invite_sent_ms": spread(watch.to_dial_ms),
        "answer_heard_to_join_ms": spread([(at - watch.answered[id]) * 1000 for id, at in watch.joined.items()]),
        "cpu_ms_per_connection": {
            "engine": round((after.engine_cpu_s - before.engine_cpu_s) * 1000 / max(1, done), 3),
            "media_worker": round((after.worker_cpu_s - before.worker_cpu_s) * 1000 / max(1, done), 3),
        },
        "open_when_memory_was_read": open_now,
        "kib_per_open_connection": {
            "engine": round((peak.engine_kib - before.engine_kib) / max(1, open_now), 1),
            "media_worker": round((peak.worker_kib - before.worker_kib) / max(1, open_now), 1),
        },
        "rss_mib": {"engine": round(peak.engine_kib / 1024, 1), "media_worker": round(peak.worker_kib / 1024, 1)},
        **({"moments": watch.moments()} if moments else {}),
    }


if __name__ == "__main__":
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),  # standard output is for the figures
    )
    print(json.dumps(uvloop.run(run(**json.loads(sys.argv[1])))))
