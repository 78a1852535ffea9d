"""What passes reports on to the engine, with an engine that only counts."""

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import select, update

from dosvoces.core import Connection, Terms
from dosvoces.deferred import Deferred, Kind, Seen, State, Work, waiting
from dosvoces.deferred import dispatcher as dispatcher_module
from dosvoces.deferred.dispatcher import BATCH, Dispatcher
from dosvoces.model import ConnectionId, Outcome
from dosvoces.store import ConnectionRecord, Entry
from dosvoces.store.ceilings import Ceilings, Most
from dosvoces.store.limits import Quota
from dosvoces.store.reports import ENDED, Report
from dosvoces.store.sql import SqlStore, open_roll, open_store
from dosvoces.store.tables import spent
from dosvoces.testing import T0, an_order, until


@dataclass
class Engine:
    submitted: list[Work] = field(default_factory=list)

    async def submit(self, work: Work) -> None:
        self.submitted.append(work)

    async def inherit_all_but(self, live: Collection[str]) -> int:
        return 0

    async def drain(self, limit_s: float) -> None: ...


class Everybody:
    """Is told everything."""

    target = "everybody"

    def wants(self, report: Report, record: ConnectionRecord) -> bool:
        return True

    def work(self, connection_id: ConnectionId, number: int) -> Work:
        return Work("tell", connection_id)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    record = open_store(f"sqlite:///{tmp_path / 'record.db'}", reported=[ENDED])
    await record.open()
    yield record
    await record.close()


async def test_a_report_that_can_not_be_made_up_holds_up_no_other(store: SqlStore) -> None:
    bad, good = an_order(1), an_order(2)
    for order in (bad, good):
        await store.record(order)
        await store.settle(order.id, Connection(Terms()), Outcome.CANCELLED, at=T0)
    engine = Engine()

    def compose(report: Report, record: ConnectionRecord, statistics: Sequence[Entry]) -> str:
        if report.connection_id == bad.id:
            raise ValueError("a fault of ours")
        return "{}"

    async def open_engine(kinds: Sequence[Kind]) -> Deferred:
        return cast(Deferred, engine)

    async def live_nodes() -> list[str]:
        return [store.node]

    dispatcher = Dispatcher(
        store=store, kinds=[], recipients=[Everybody()], compose=compose, open_engine=open_engine, live_nodes=live_nodes
    )
    dispatcher.start()

    async def told() -> bool:
        return any(work.key == good.id for work in engine.submitted)

    await until(told, limit_s=5)
    await dispatcher.close(0)
    assert [report.connection_id for report in await store.reports.to_pass_on(limit=10)] == [bad.id]


async def test_old_counters_go_also_where_there_is_no_deferred_work(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'record.db'}"
    store = open_store(url, quota=Quota(ceilings=Ceilings(calls=Most(per_day=10))))
    await store.open()
    await store.record(an_order(1))
    roll = open_roll(url)

    async def counted(change: datetime | None = None) -> int:
        def look(db: Any) -> int:
            if change is not None:
                db.execute(update(spent).values(since=change))
            return len(db.execute(select(spent)).all())

        return await roll._do(look)

    assert await counted(datetime(2026, 3, 2, tzinfo=UTC)) == 1

    async def open_engine(kinds: Sequence[Kind]) -> Deferred:
        raise AssertionError("there is nothing to do for it")

    async def live_nodes() -> list[str]:
        return [store.node]

    dispatcher = Dispatcher(
        store=store,
        kinds=[],
        recipients=[],
        compose=lambda *_: "{}",
        open_engine=open_engine,
        live_nodes=live_nodes,
    )
    dispatcher.start()

    async def gone() -> bool:
        return await counted() == 0

    await until(gone, limit_s=20)
    await dispatcher.close(0)
    await roll.close()
    await store.close()


class HasAllBut(Engine):
    """Has everything to do still, but for one work that it has lost."""

    def __init__(self, lost: str) -> None:
        super().__init__()
        self.lost = lost

    async def get(self, kind: str, key: str) -> Seen | None:
        return None if key == self.lost else Seen(Work(kind, key), State.WAITING, "")


async def test_a_backlog_hides_no_delivery_that_the_engine_has_lost(store: SqlStore) -> None:
    """What a receiver that is down lets gather is with the engine; what is older than that must be looked at too."""
    for number in range(1, 2 * BATCH + 2):
        order = an_order(number)
        await store.record(order)
        await store.settle(order.id, Connection(Terms()), Outcome.CANCELLED, at=T0)
    for report in await store.reports.to_pass_on(limit=3 * BATCH):
        await store.reports.prepare(report, "{}", [Everybody.target])
        await store.reports.passed_on(report)
    oldest = an_order(1).id
    engine = HasAllBut(oldest)

    async def open_engine(kinds: Sequence[Kind]) -> Deferred:
        return cast(Deferred, engine)

    async def nobody() -> Collection[str]:
        return []

    dispatcher = Dispatcher(
        store=store,
        kinds=[],
        recipients=[Everybody()],
        compose=lambda *_: "{}",
        open_engine=open_engine,
        live_nodes=nobody,
    )
    dispatcher.start()

    async def submitted() -> bool:
        dispatcher.wake()  # The next sweep now, not in ten seconds.
        return [work.key for work in engine.submitted if work.kind == "tell"] == [oldest]

    await until(submitted, limit_s=20)
    await dispatcher.close(0)


async def test_many_that_find_no_room_hide_none_that_may_be_begun(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is recorded here is with the engine at once, what a dead node left in one of the next sweeps."""
    monkeypatch.setattr(dispatcher_module, "BATCH", 1)
    full = 10 + 2
    for number in range(1, full + 1):
        await store.record(an_order(number), waits=True)
    engine = HasAllBut("")

    async def open_engine(kinds: Sequence[Kind]) -> Deferred:
        return cast(Deferred, engine)

    async def live_nodes() -> Collection[str]:
        return [store.node]

    dispatcher = Dispatcher(
        store=store, kinds=[], recipients=[], compose=lambda *_: "{}", open_engine=open_engine, live_nodes=live_nodes
    )
    dispatcher.start()

    def submitted() -> list[str]:
        return [work.key for work in engine.submitted if work.kind == waiting.KIND]

    async def a_page() -> bool:
        return len(submitted()) >= 10

    await until(a_page)
    late, left = an_order(full + 1), an_order(full + 2)
    await store.record(left, waits=True)
    await dispatcher.schedule(late)

    async def both() -> bool:
        dispatcher.wake()
        return {late.id, left.id} <= set(submitted())

    await until(both)
    assert len(submitted()) == len(set(submitted())) == full + 2
    await dispatcher.close(0)
