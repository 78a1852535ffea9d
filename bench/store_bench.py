"""
What a connection costs the record: CPU-ms and connections per second with group commit, and the latency when idle.

`python -m bench.store_bench [FOLDER]` prints JSON; with the URL of an empty PostgreSQL database, the same of that.
A connection is what the switchboard asks for: `record`, two
`intend_dial`, 12 journal entries, 9 updates, `settle`, `remember_answer`. `aiosqlite` is the same rows by SQLAlchemy's
asyncio engine, one transaction a durable write: what the group-committing writer is measured against.
"""

import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import event, insert, update
from sqlalchemy.ext.asyncio import create_async_engine

from dosvoces import core, events
from dosvoces.model import (
    EndReason,
    Lead,
    Order,
    Outcome,
    PhoneNumber,
    Side,
    connection_id,
)
from dosvoces.store import Entry, Store
from dosvoces.store.sql import open_store
from dosvoces.store.tables import connection, dial_attempt, journal, leg, metadata

TERMS = core.Terms(interval_s=3)
EVENTS: tuple[events.Event, ...] = (
    events.Started(),
    events.MailSent(),
    events.Dialed(Side.A),
    events.Ringing(Side.A),
    events.Answered(Side.A),
    events.Elapsed(),
    events.Dialed(Side.B),
    events.Ringing(Side.B),
    events.Answered(Side.B),
    events.Joined(),
    events.Ended(Side.A, EndReason.HANGUP, "BYE"),
    events.Ended(Side.B, EndReason.HANGUP, "200 OK"),
)


def new_order() -> Order:
    now = datetime.now(UTC)
    lead = Lead("agente@example.com", "Piso en Lavapiés", "Ana", "https://example.com/1", "Madrid", "82", "1.200 €")
    a, b = PhoneNumber("+34600000011", "600 000 011"), PhoneNumber("+34600000012", "600 000 012")
    return Order(connection_id(now, random.getrandbits(80)), now, a, b, lead, 3, fingerprint="0" * 64)


def name_of(event: events.Event) -> str:
    return type(event).__name__.lower()


async def one_connection(store: Store, order: Order, *, waits: bool) -> None:
    """One connection's life as the record sees it; `waits` leaves the time between events that write-behind needs."""
    await store.record(order)
    state, now = core.Connection(TERMS), order.created_at
    for happened in EVENTS:
        now += timedelta(seconds=3)
        before, (state, commands) = state.phase, core.step(state, happened, now)
        store.journal(Entry(order.id, now, name_of(happened), None, before, state.phase))
        if state.outcome is None:
            store.update(order.id, state, core.deadline(state))
        for command in commands:
            match command:
                case events.Dial(side):
                    await store.intend_dial(order, side, attempt=1, at=now)
                case events.Report(outcome):
                    await store.settle(order.id, state, outcome, at=now)
        if isinstance(happened, events.Ringing) and happened.side is Side.B:
            await store.remember_answer(order.id, status=200, body="Data received successfully")
        elif waits:
            await asyncio.sleep(0.06)


async def pure_cost(count: int) -> float:
    """CPU-ms that the events of one connection cost without a record, to be taken off."""

    class Nothing:
        async def record(self, order: Order) -> None: ...
        async def intend_dial(self, order: Order, side: Side, **facts: object) -> None: ...
        async def remember_answer(self, key: str, *, status: int, body: str) -> None: ...
        async def settle(self, key: str, state: core.Connection, outcome: Outcome, *, at: datetime) -> None: ...
        def journal(self, entry: Entry) -> None: ...
        def update(self, key: str, state: core.Connection, deadline: datetime | None) -> None: ...

    started = time.process_time()
    for _ in range(count):
        await one_connection(Nothing(), new_order(), waits=False)  # type: ignore[arg-type]
    return (time.process_time() - started) * 1000 / count


async def at_load(store: Store, *, count: int, at_once: int) -> dict[str, float]:
    """`count` connections, `at_once` at a time."""
    todo = iter(range(count))

    async def work() -> None:
        for _ in todo:
            await one_connection(store, new_order(), waits=False)

    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.gather(*(work() for _ in range(at_once)))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"connections_per_s": round(count / wall), "cpu_ms_per_connection": round(cpu * 1000 / count, 3)}


async def paced(store: Store, *, count: int, at_once: int) -> dict[str, float]:
    """As in life: time passes between the events, so that less rides along with the durable writes."""
    cpu = time.process_time()
    for _ in range(count // at_once):
        await asyncio.gather(*(one_connection(store, new_order(), waits=True) for _ in range(at_once)))
    return {"at_once": at_once, "cpu_ms_per_connection": round((time.process_time() - cpu) * 1000 / count, 3)}


async def idle_latency(store: Store, count: int) -> dict[str, float]:
    """How long `record` takes when nothing else happens, in ms."""
    times = []
    for _ in range(count):
        order = new_order()
        started = time.perf_counter()
        await store.record(order)
        times.append((time.perf_counter() - started) * 1000)
        await asyncio.sleep(0.002)
    times.sort()
    return {"median_ms": round(statistics.median(times), 3), "p99_ms": round(times[int(count * 0.99)], 3)}


class PlainAsync:
    """The same rows through `sqlite+aiosqlite`, the plain way: a transaction per durable write, awaited statements."""

    def __init__(self, path: Path) -> None:
        self.engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
        self.waiting: list[dict[str, object]] = []
        self.lock = asyncio.Lock()

        @event.listens_for(self.engine.sync_engine, "connect")
        def _(db: object, _: object) -> None:
            for pragma in ("journal_mode = WAL", "synchronous = FULL"):
                db.cursor().execute(f"PRAGMA {pragma}")  # type: ignore[attr-defined]

    async def open(self) -> None:
        async with self.engine.begin() as db:
            await db.run_sync(metadata.create_all)

    async def write(self, *statements: object) -> None:
        async with self.lock, self.engine.begin() as db:
            for statement in statements:
                await db.execute(statement)  # type: ignore[call-overload]
            if self.waiting:
                entries, self.waiting = self.waiting, []
                await db.execute(insert(journal), entries)

    async def one(self, order: Order) -> None:
        now, lead = order.created_at, order.lead
        a = {"connection_id": order.id, "side": "a", "number": order.first.e164, "state": "idle"}
        row = {"id": order.id, "created_at": now, "first": order.first.e164, "second": order.second.e164}
        row |= {"email": lead.email, "interval_s": 3, "fingerprint": order.fingerprint, "phase": "recorded"}
        await self.write(insert(connection).values(row), insert(leg).values([a, a | {"side": "b"}]))
        for side in "ab":
            attempt = {"connection_id": order.id, "side": side, "attempt": 1, "number": "+34600000011", "at": now}
            await self.write(insert(dial_attempt).values(attempt), update_phase(order, "dialing"))
            self.waiting += [
                {"connection_id": order.id, "seq": n + 6 * (side == "b"), "at": now, "event": "ringing"}
                | {"side": side, "before": "dialing", "after": "ringing", "facts": None}
                for n in range(6)
            ]
        await self.write(update_phase(order, "ended"), *(update_leg(order, side) for side in "ab"))
        await self.write(update(connection).where(connection.c.id == order.id).values(answer_status=200))


def update_phase(order: Order, phase: str) -> object:
    return update(connection).where(connection.c.id == order.id).values(phase=phase, started_at=order.created_at)


def update_leg(order: Order, side: str) -> object:
    return update(leg).where(leg.c.connection_id == order.id, leg.c.side == side).values(state="ended")


async def plain_async(path: Path, *, count: int, at_once: int) -> dict[str, float]:
    plain = PlainAsync(path)
    await plain.open()
    todo = iter(range(count))

    async def work() -> None:
        for _ in todo:
            await plain.one(new_order())

    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.gather(*(work() for _ in range(at_once)))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    await plain.engine.dispose()
    return {"connections_per_s": round(count / wall), "cpu_ms_per_connection": round(cpu * 1000 / count, 3)}


async def of_store(url: str) -> dict[str, object]:
    store = open_store(url)
    await store.open()
    await one_connection(store, new_order(), waits=False)
    core_ms = await pure_cost(500)
    figures: dict[str, object] = {
        "core_alone_cpu_ms_taken_off": round(core_ms, 3),
        "idle_record": await idle_latency(store, 300),
        "alone": await at_load(store, count=300, at_once=1),
        "load_100": await at_load(store, count=3000, at_once=100),
        "paced_1": await paced(store, count=8, at_once=1),
        "paced_100": await paced(store, count=400, at_once=100),
    }
    await store.close()
    for value in figures.values():
        if isinstance(value, dict) and "cpu_ms_per_connection" in value:
            value["cpu_ms_per_connection"] = round(value["cpu_ms_per_connection"] - core_ms, 3)
    return figures


async def measure(folder: Path, postgres_url: str | None) -> dict[str, object]:
    if postgres_url is not None:
        return await of_store(postgres_url)
    figures = await of_store(f"sqlite:///{folder / 'bench.db'}")
    figures["aiosqlite_alone"] = await plain_async(folder / "plain1.db", count=100, at_once=1)
    figures["aiosqlite_load_100"] = await plain_async(folder / "plain2.db", count=500, at_once=100)
    return figures


def main() -> None:
    place = sys.argv[1] if len(sys.argv) > 1 else None
    postgres_url = place if place is not None and place.startswith("postgresql") else None
    with tempfile.TemporaryDirectory(dir=None if postgres_url else place) as folder:
        print(json.dumps(asyncio.run(measure(Path(folder), postgres_url)), indent=2))


if __name__ == "__main__":
    main()
