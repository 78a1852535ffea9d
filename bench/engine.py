"""
The engine alone: core, switchboard, SIP and media, with a record and a mailbox that cost nothing.

`python -m bench.engine '{"first_port": …, "second_port": …, "rate": …, "seconds": …}'` prints one JSON object.
"""

import asyncio
import gc
import json
import logging
import os
import sys
import time
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import structlog
import uvloop

from bench.processes import children, cpu_s, percentile, rss_kib
from dosvoces.carriers.sip import SipCarrier, Trunk
from dosvoces.core import Connection
from dosvoces.mail import Mail
from dosvoces.media.relay import MediaSettings, WorkerRelay
from dosvoces.model import ConnectionId, Order, Outcome, Side
from dosvoces.store import Entry, Store
from dosvoces.switchboard import Limits, Switchboard
from dosvoces.testing import an_order, until

SETTLE_LIMIT_S = 30.0  # from the last request until all must be over


class Watch:
    """A record that costs nothing and takes the times that are wanted."""

    def __init__(self) -> None:
        self.asked: dict[ConnectionId, float] = {}
        self.to_invite_ms: list[float] = []
        self.to_join_ms: list[float] = []
        self.answered: dict[ConnectionId, float] = {}
        self.from_answer_ms: list[float] = []
        self.outcomes: dict[str, int] = {}
        self.max_connections = 0

    async def record(self, order: Order) -> None: ...

    async def intend_dial(self, order: Order, side: Side, *, attempt: int, at: datetime) -> None: ...

    def update(self, connection_id: ConnectionId, state: Connection, deadline: datetime | None) -> None: ...

    async def settle(self, connection_id: ConnectionId, state: Connection, outcome: Outcome, *, at: datetime) -> None:
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    def journal(self, entry: Entry) -> None:
        now = time.perf_counter()
        match entry.event, entry.side:
            case "dialed", Side.A:
                self.to_invite_ms.append((now - self.asked[entry.connection_id]) * 1000)
            case "answered", Side.B:
                self.answered[entry.connection_id] = now
            case "joined", _:
                self.to_join_ms.append((now - self.asked.pop(entry.connection_id)) * 1000)
                self.from_answer_ms.append((now - self.answered.pop(entry.connection_id)) * 1000)

    async def unfinished(self) -> list[Any]:
        return []

    def problems(self) -> list[str]:
        return []


async def _accept(_mail: Mail) -> None: ...


def _compose(order: Order) -> Mail:
    return Mail(order.id, order.lead.email, "", "", b"")


async def run(*, first_port: int, second_port: int, rate: float, seconds: float, hold_s: float) -> dict[str, Any]:
    """Start `rate` connections a second for `seconds` (open loop), wait until they are over, and say what it took."""
    relay = WorkerRelay(MediaSettings(bind_host="127.0.0.1", advertised_host="127.0.0.1", port_range=(20000, 39999)))
    trunks = [
        Trunk(name="first", host="127.0.0.1", port=first_port, prefixes=("+346",)),
        Trunk(name="second", host="127.0.0.1", port=second_port, prefixes=("+349",)),
    ]
    carrier = SipCarrier(trunks=trunks, relay=relay, bind=("127.0.0.1", 0))
    watch = Watch()
    switchboard = Switchboard(
        store=cast(Store, watch),
        mailbox=SimpleNamespace(deliver=_accept),
        carrier=carrier,
        compose=_compose,
        limits=Limits(max_connections=100_000),
    )
    await switchboard.start()
    gc.collect()
    worker = children(os.getpid())
    before = _usage(worker)
    peak = before
    started, loop = time.perf_counter(), asyncio.get_running_loop()
    pending: set[asyncio.Task[Any]] = set()
    total = round(rate * seconds)
    for number in range(total):
        delay = started + number / rate - time.perf_counter()
        if delay > 0:
            await asyncio.sleep(delay)
        order = an_order(number, at=datetime.now(UTC))
        watch.asked[order.id] = time.perf_counter()
        task = loop.create_task(switchboard.connect(order))
        pending.add(task)
        task.add_done_callback(pending.discard)
        if number % 50 == 0:
            watch.max_connections = max(watch.max_connections, switchboard.open_connections)
    watch.max_connections = max(watch.max_connections, switchboard.open_connections)
    peak = _usage(worker)
    offered_s = time.perf_counter() - started

    async def over() -> bool:
        return not switchboard.open_connections

    await until(over, limit_s=hold_s + SETTLE_LIMIT_S)
    after = _usage(worker)
    left = switchboard.open_connections
    await switchboard.close()
    await carrier.close()
    done = watch.outcomes.get(Outcome.COMPLETED, 0)
    return {
        "rate": rate,
        "offered_per_s": round(total / offered_s, 1),
        "connections": total,
        "completed": done,
        "left_open": left,
        "open_at_most": watch.max_connections,
        "setup_ms": _spread(watch.to_join_ms),
        "request_to_invite_ms": _spread(watch.to_invite_ms),
        "answer_to_join_ms": _spread(watch.from_answer_ms),
        "cpu_ms_per_connection": {
            "engine": round((after["engine_cpu"] - before["engine_cpu"]) * 1000 / max(1, done), 3),
            "media_worker": round((after["worker_cpu"] - before["worker_cpu"]) * 1000 / max(1, done), 3),
        },
        "kib_per_open_connection": {
            part: round((peak[f"{part}_rss"] - before[f"{part}_rss"]) / max(1, watch.max_connections), 1)
            for part in ("engine", "worker")
        },
    }


def _usage(worker: list[int]) -> dict[str, float]:
    return {
        "engine_cpu": time.process_time(),
        "worker_cpu": sum(cpu_s(pid) for pid in worker),
        "engine_rss": rss_kib(os.getpid()),
        "worker_rss": sum(rss_kib(pid) for pid in worker),
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {name: round(percentile(values, share), 3) for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))}


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    print(json.dumps(uvloop.run(run(**json.loads(sys.argv[1])))))
