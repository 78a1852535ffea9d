"""Ceilings of an hour and a day, on every database: exactly as many get in as may, and none where it can't be told."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from dosvoces.core import Connection, Terms
from dosvoces.errors import AlreadyRecorded, CeilingReached, StoreError
from dosvoces.model import Alarm, Asker, NodeId, Order, Outcome, Standing
from dosvoces.store.ceilings import Ceilings, Most, window_start
from dosvoces.store.limits import Quota
from dosvoces.store.sql import SqlStore, open_roll, open_store
from dosvoces.store.tables import spent
from dosvoces.testing import T0, an_order

CONTENDERS = 1000
Open = Callable[[Ceilings], Awaitable[list[SqlStore]]]


@pytest.fixture
async def stores(record_url: str) -> AsyncIterator[Open]:
    """The record with those ceilings, as two nodes have it open; a SQLite file has one."""
    async with AsyncExitStack() as stack:

        async def made(ceilings: Ceilings) -> list[SqlStore]:
            opened = []
            for number in range(1 if record_url.startswith("sqlite") else 2):
                store = open_store(record_url, node=NodeId(f"{number:026d}"), quota=Quota(ceilings=ceilings))
                await store.open()
                stack.push_async_callback(store.close)
                opened.append(store)
            return opened

        yield made


def orders(count: int, start: int = 1, **asker: Any) -> list[Order]:
    """Each with numbers and a mailbox of its own, in one domain."""
    made = [an_order(n, first=f"+346{n:08d}", second=f"+349{n:08d}") for n in range(start, start + count)]
    return [
        replace(order, asker=Asker(**asker), lead=replace(order.lead, email=f"m{order.id}@example.com"))
        for order in made
    ]


async def got_in(nodes: list[SqlStore], wanted: list[Order]) -> list[Order]:
    """Those that did; the others met a ceiling."""
    turns = itertools.cycle(nodes)
    results = await asyncio.gather(*(next(turns).record(order) for order in wanted), return_exceptions=True)
    refused = [result for result in results if isinstance(result, BaseException)]
    assert {CeilingReached} >= {type(error) for error in refused}, refused
    return [order for order, result in zip(wanted, results, strict=True) if result is None]


async def test_of_a_thousand_at_once_exactly_ten_get_in(stores: Open) -> None:
    nodes = await stores(Ceilings(calls=Most(per_day=10)))
    let_in = await got_in(nodes, orders(CONTENDERS))
    assert 10 == len(let_in)
    assert {order.id for order in let_in} == {record.id for record in await nodes[0].unfinished()}


async def test_a_trial_run_counts_against_its_own_key_alone(stores: Open) -> None:
    one = Most(per_day=1)
    nodes = await stores(Ceilings(calls=one, key=Most(per_day=3), source=one, number=one, recipient=one, domain=one))
    trials = [replace(order, test=True) for order in orders(5, key="test", source="192.0.2.9")]
    assert 3 == len(await got_in(nodes, trials))
    real = orders(2, start=1 + len(trials), key="live", source="192.0.2.9")
    assert 1 == len(await got_in(nodes, real))


@pytest.mark.parametrize(
    ("ceilings", "change"),
    [
        (Ceilings(key=Most(per_hour=3)), lambda order: replace(order, asker=Asker(key="k1"))),
        (Ceilings(key=Most(per_day=3)), lambda order: replace(order, asker=Asker(source=order.first.e164))),
        (Ceilings(key_max_open=3), lambda order: replace(order, asker=Asker(key="k1"))),
        (Ceilings(), lambda order: replace(order, asker=Asker(key="k1", limits={"calls_per_day": 3}))),
        (Ceilings(key=Most(9)), lambda order: replace(order, asker=Asker(key="k1", limits={"calls_per_hour": 3}))),
        (Ceilings(), lambda order: replace(order, asker=Asker(key="k1", limits={"max_open": 3}))),
        (Ceilings(source=Most(per_hour=3)), lambda order: replace(order, asker=Asker(source="192.0.2.7"))),
        (Ceilings(number=Most(per_day=3)), lambda order: replace(order, first=an_order().first)),
        (Ceilings(number=Most(per_hour=3)), lambda order: replace(order, second=an_order().second)),
        (Ceilings(recipient=Most(per_day=3)), lambda order: replace(order, lead=an_order().lead)),
        (Ceilings(domain=Most(per_hour=3)), lambda order: order),
    ],
)
async def test_each_ceiling_counts_its_own(stores: Open, ceilings: Ceilings, change: Callable[[Order], Order]) -> None:
    nodes = await stores(ceilings)
    assert 3 == len(await got_in(nodes, [change(order) for order in orders(20)]))
    # Whom it isn't about gets in.
    other = [
        replace(order, asker=Asker(key="k2", source=order.id), lead=replace(order.lead, email=f"m@{order.id}.example"))
        for order in orders(3, start=100)
    ]
    assert other == await got_in(nodes, other)


async def test_a_key_that_has_connections_ended_may_open_more(stores: Open) -> None:
    nodes = await stores(Ceilings(key_max_open=2))
    first, _ = await got_in(nodes, orders(5, key="k1"))
    (owner,) = [node for node in nodes if node.node == (await nodes[0].unfinished())[0].owner]
    await owner.settle(first.id, Connection(Terms()), Outcome.CANCELLED, at=T0)
    assert 1 == len(await got_in(nodes, orders(5, start=50, key="k1")))


async def test_an_hour_that_is_over_is_counted_anew(stores: Open, record_url: str) -> None:
    nodes = await stores(Ceilings(calls=Most(per_hour=2)))
    assert 2 == len(await got_in(nodes, orders(5)))
    roll = open_roll(record_url)
    since = await roll._do(lambda db: db.execute(select(spent.c.since)).scalar_one())
    assert since == window_start("hour", since)
    earlier = since - timedelta(hours=1)
    await roll._do(lambda db: db.execute(update(spent).values(since=earlier)))
    await roll.close()
    assert 2 == len(await got_in(nodes, orders(5, start=50)))


def test_hours_and_days_are_those_of_utc() -> None:
    now = datetime(2026, 11, 28, 0, 40, 3, 5, tzinfo=UTC)
    assert datetime(2026, 11, 28, tzinfo=UTC) == window_start("hour", now) == window_start("day", now)
    assert datetime(2026, 11, 28, 23, tzinfo=UTC) == window_start("hour", now + timedelta(hours=23))


async def test_what_is_not_begun_is_not_counted(stores: Open) -> None:
    store, *_ = await stores(Ceilings(calls=Most(per_day=2)))
    first, second, third = orders(3)
    await store.record(first)
    with pytest.raises(AlreadyRecorded):
        await store.record(first)
    # What waits counts when it begins.
    await store.record(second, waits=True)
    await store.record(third)
    with pytest.raises(CeilingReached):
        await store.waiting.claim(second)


async def test_an_order_that_waited_counts_against_its_key(stores: Open) -> None:
    store, *_ = await stores(Ceilings(key=Most(per_day=1)))
    first, second = orders(2, key="k1", source="192.0.2.7")
    await store.record(first, waits=True)
    waited = await store.order(first.id)
    assert waited is not None
    assert (waited.asker.key, waited.asker.source) == ("k1", "192.0.2.7")
    assert await store.waiting.claim(waited)
    with pytest.raises(CeilingReached):
        await store.record(second)


async def test_the_client_is_told_how_it_stands(stores: Open) -> None:
    store, *_ = await stores(Ceilings(calls=Most(per_day=9), key=Most(per_day=2), number=Most(per_day=2)))
    first, second, third = orders(3, key="k1")
    await store.record(first)
    await store.record(second)
    with pytest.raises(CeilingReached, match="this API key has had 2 calls") as refused:
        await store.record(third)
    told = [order.asker.standing for order in (first, second, third)]
    resets = [standing.reset_s for (standing,) in told]
    assert [[Standing("key-day", 2, 86400, left, reset)] for left, reset in zip((1, 0, 0), resets, strict=True)] == told
    assert all(0 < reset_s <= 86400 for reset_s in resets)
    assert 0 < refused.value.retry_after_s <= 86400


async def test_an_alarm_is_told_once_by_the_one_that_reaches_it(stores: Open) -> None:
    nodes = await stores(Ceilings(calls=Most(per_day=10), key=Most(per_hour=1000), number=Most(per_day=1)))
    wanted = orders(50, key="k1")
    await got_in(nodes, wanted)
    told = sorted((alarm for order in wanted for alarm in order.asker.alarms), key=lambda alarm: alarm.percent)
    assert [Alarm("calls-day", "", percent, used, 10) for percent, used in ((50, 5), (80, 8), (100, 10))] == told


async def test_where_nothing_can_be_counted_nothing_gets_in(stores: Open, record_url: str) -> None:
    nodes = await stores(Ceilings(calls=Most(per_day=1000)))
    roll = open_roll(record_url)
    await roll._do(lambda db: db.exec_driver_sql("ALTER TABLE spent RENAME TO gone"))
    results = await asyncio.gather(*(nodes[0].record(order) for order in orders(20)), return_exceptions=True)
    assert {StoreError} == {type(result) for result in results}
    await roll._do(lambda db: db.exec_driver_sql("ALTER TABLE gone RENAME TO spent"))
    await roll.close()
    assert [] == await nodes[0].unfinished()
