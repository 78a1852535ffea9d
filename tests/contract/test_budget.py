"""Minutes and money of a day, on every database: never more is reserved than there is; what is left over comes back."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from sqlalchemy import select, update

from dosvoces.core import Connection, Leg, LegState, Terms
from dosvoces.dialplan.rates import MILLION, Rate, Rates
from dosvoces.errors import CeilingReached, NoRate, StoreError
from dosvoces.model import Alarm, NodeId, Order, Outcome
from dosvoces.recovery import Leftovers
from dosvoces.store.budget import GIVEN_BACK_RETRY_S, MINUTES, MONEY, Budget
from dosvoces.store.limits import Quota
from dosvoces.store.sql import SqlStore, open_roll, open_store
from dosvoces.store.tables import reserved, spent
from dosvoces.testing import T0, an_order

CONTENDERS = 200
TALK_S = 60
EACH_S = 2 * TALK_S
"""What a connection reserves on both lines."""
RATES = Rates("EUR", {"34": Rate(minute=MILLION), "349": Rate(minute=2 * MILLION, setup=MILLION // 2)})
EACH_MONEY = 3_500_000
"""A minute to +346 for 1, a minute to +349 for 2 and a half."""
Open = Callable[[Budget], Awaitable[list[SqlStore]]]
Spent = Callable[[], Awaitable[dict[str, int]]]


@pytest.fixture
async def stores(record_url: str) -> AsyncIterator[Open]:
    """The record with that budget, as two nodes have it open; a SQLite file has one."""
    async with AsyncExitStack() as stack:
        numbers = itertools.count()

        async def made(budget: Budget) -> list[SqlStore]:
            opened = []
            for number in itertools.islice(numbers, 1 if record_url.startswith("sqlite") else 2):
                store = open_store(record_url, node=NodeId(f"{number:026d}"), quota=Quota(budget=budget))
                await store.open()
                stack.push_async_callback(store.close)
                opened.append(store)
            return opened

        yield made


@pytest.fixture
async def used(record_url: str) -> Spent:
    """What the counters say, by name."""

    async def look() -> dict[str, int]:
        roll = open_roll(record_url)
        rows = await roll._do(lambda db: db.execute(select(spent.c.counter, spent.c.used)).all())
        await roll.close()
        return {counter: number for counter, number in rows if counter in (MINUTES, MONEY)}

    return look


def budget(calls: int) -> Budget:
    """Of both, with room for so many."""
    return Budget(calls * EACH_S, calls * EACH_MONEY, RATES, TALK_S)


def orders(count: int, start: int = 1) -> list[Order]:
    return [an_order(n, first=f"+346{n:08d}", second=f"+349{n:08d}") for n in range(start, start + count)]


async def got_in(nodes: list[SqlStore], wanted: list[Order]) -> list[Order]:
    turns = itertools.cycle(nodes)
    results = await asyncio.gather(*(next(turns).record(order) for order in wanted), return_exceptions=True)
    refused = [result for result in results if isinstance(result, BaseException)]
    assert {CeilingReached} >= {type(error) for error in refused}, refused
    return [order for order, result in zip(wanted, results, strict=True) if result is None]


async def owner_of(nodes: list[SqlStore], order: Order) -> SqlStore:
    record = await nodes[0].connection(order.id)
    assert record is not None
    (owner,) = [node for node in nodes if node.node == record.owner]
    return owner


def talked(first_s: float | None, second_s: float | None) -> Connection:
    """A connection whose legs were up for so long; `None`: not answered."""

    def leg(lasted_s: float | None) -> Leg:
        answered = None if lasted_s is None else T0
        return Leg(LegState.ENDED, dialed_at=T0, answered_at=answered, ended_at=T0 + timedelta(seconds=lasted_s or 0.0))

    return Connection(Terms(), a=leg(first_s), b=leg(second_s))


@pytest.mark.parametrize(
    "limited",
    [budget(10), Budget(10 * EACH_S, talk_limit_s=TALK_S), Budget(None, 10 * EACH_MONEY, RATES, TALK_S)],
    ids=["both", "minutes", "money"],
)
async def test_of_two_hundred_at_once_exactly_ten_begin(stores: Open, used: Spent, limited: Budget) -> None:
    nodes = await stores(limited)
    let_in = await got_in(nodes, orders(CONTENDERS))
    assert 10 == len(let_in)
    assert {order.id for order in let_in} == {record.id for record in await nodes[0].unfinished()}
    most = {MINUTES: limited.seconds_per_day, MONEY: limited.money_per_day}
    assert {name: value for name, value in most.items() if value is not None} == await used()


async def test_what_was_not_used_comes_back_once(stores: Open, used: Spent) -> None:
    nodes = await stores(budget(2))
    first, second = orders(2)
    assert [first, second] == await got_in(nodes, [first, second])
    with pytest.raises(CeilingReached, match=r"4\.0 of 4\.0 minutes this day .* minutes_per_day") as refused:
        await nodes[0].record(an_order(3, first="+34600000003"))
    assert GIVEN_BACK_RETRY_S >= refused.value.retry_after_s > 0
    owner = await owner_of(nodes, first)
    for _ in range(2):
        await owner.settle(first.id, talked(29.2, 12.0), Outcome.COMPLETED, at=T0)
    # 30 s at 1 a minute; 12 s at 2 a minute and the half of the set-up.
    assert {MINUTES: EACH_S + 42, MONEY: EACH_MONEY + 500_000 + 900_000} == await used()


async def test_nobody_answered_costs_nothing(stores: Open, used: Spent) -> None:
    nodes = await stores(budget(1))
    (order,) = await got_in(nodes, orders(1))
    await (await owner_of(nodes, order)).settle(order.id, talked(None, None), Outcome.FIRST_NO_ANSWER, at=T0)
    assert {MINUTES: 0, MONEY: 0} == await used()
    assert 1 == len(await got_in(nodes, orders(5, start=10)))


async def test_a_leg_that_never_ended_is_counted_to_the_outcome(stores: Open, used: Spent) -> None:
    nodes = await stores(budget(1))
    (order,) = await got_in(nodes, orders(1))
    up = Connection(Terms(), a=Leg(LegState.ANSWERED, dialed_at=T0, answered_at=T0))
    await (await owner_of(nodes, order)).settle(order.id, up, Outcome.INTERRUPTED, at=T0 + timedelta(seconds=90))
    assert {MINUTES: 90, MONEY: 1_500_000} == await used()


async def test_what_a_crash_left_is_settled_by_the_next(stores: Open, used: Spent, record_url: str) -> None:
    gone, *_ = await stores(budget(1))
    (order,) = await got_in([gone], orders(1))
    await gone.close()
    heir, *_ = await stores(budget(1))
    leftovers = Leftovers(heir, lambda record: None, lambda: datetime.now(T0.tzinfo), lambda connection: False)
    await leftovers.settle()
    assert Outcome.INTERRUPTED == (await heir.connection(order.id)).outcome  # type: ignore[union-attr]
    assert {MINUTES: 0, MONEY: 0} == await used()
    await leftovers.settle()
    assert {MINUTES: 0, MONEY: 0} == await used()


async def test_a_day_that_is_over_gets_nothing_back(stores: Open, used: Spent, record_url: str) -> None:
    nodes = await stores(budget(1))
    (order,) = await got_in(nodes, orders(1))
    roll = open_roll(record_url)
    since = await roll._do(lambda db: db.execute(select(spent.c.since).where(spent.c.counter == MONEY)).scalar_one())
    earlier = since - timedelta(days=1)
    await roll._do(lambda db: db.execute(update(spent).values(since=earlier)))
    await roll._do(lambda db: db.execute(update(reserved).values(day=earlier)))
    await roll.close()
    assert 1 == len(await got_in(nodes, orders(5, start=10)))
    await (await owner_of(nodes, order)).settle(order.id, talked(None, None), Outcome.CANCELLED, at=T0)
    assert {MINUTES: EACH_S, MONEY: EACH_MONEY} == await used()


async def test_a_number_without_a_rate_does_not_begin(stores: Open, used: Spent) -> None:
    store, *_ = await stores(budget(5))
    with pytest.raises(NoRate, match=r"\+44160•••789 has no rate") as refused:
        await store.record(an_order(1, first="+34600000011", second="+441603456789"))
    assert refused.value.second
    assert ({}, []) == (await used(), await store.unfinished())


async def test_trial_runs_reserve_nothing_and_shorter_ones_less(stores: Open, used: Spent) -> None:
    store, *_ = await stores(budget(5))
    trial, short = orders(2)
    await store.record(replace(trial, test=True))
    assert {} == await used()
    await store.record(replace(short, talk_limit_s=30))
    assert {MINUTES: 60, MONEY: 2_000_000} == await used()


async def test_what_waits_reserves_when_it_begins(stores: Open, used: Spent) -> None:
    store, *_ = await stores(budget(1))
    first, second = orders(2)
    await store.record(first, waits=True)
    assert {} == await used()
    assert await store.waiting.claim(first)
    assert {MINUTES: EACH_S, MONEY: EACH_MONEY} == await used()
    with pytest.raises(CeilingReached):
        await store.record(second)


async def test_alarms_are_told_once_a_day_however_use_goes_up_and_down(stores: Open) -> None:
    store, *_ = await stores(Budget(10 * EACH_S, talk_limit_s=TALK_S))
    told: list[Alarm] = []
    for order in orders(9):
        await store.record(order)
        told += order.asker.alarms
    for order in orders(9)[:6]:
        await store.settle(order.id, talked(None, None), Outcome.CANCELLED, at=T0)
    for order in orders(8, start=50):
        if not await got_in([store], [order]):
            break
        told += order.asker.alarms
    expected = [("minutes-day", 50, 10.0), ("minutes-day", 80, 16.0), ("minutes-day", 100, 20.0)]
    assert expected == [(alarm.ceiling, alarm.percent, alarm.used) for alarm in told]


async def test_who_is_refused_before_all_is_used_up_is_an_alarm(stores: Open) -> None:
    store, *_ = await stores(Budget(EACH_S + 60, talk_limit_s=TALK_S))
    first, second, third = orders(3)
    assert [first] == await got_in([store], [first, second, third])
    told = [[(alarm.percent, alarm.used) for alarm in order.asker.alarms] for order in (first, second, third)]
    assert [[(50, 2.0)], [(100, 2.0)], []] == told


async def test_where_nothing_can_be_reserved_nothing_begins(stores: Open, record_url: str) -> None:
    store, *_ = await stores(budget(100))
    roll = open_roll(record_url)
    await roll._do(lambda db: db.exec_driver_sql("ALTER TABLE reserved RENAME TO gone"))
    results = await asyncio.gather(*(store.record(order) for order in orders(20)), return_exceptions=True)
    assert {StoreError} == {type(result) for result in results}
    await roll._do(lambda db: db.exec_driver_sql("ALTER TABLE gone RENAME TO reserved"))
    await roll.close()
    assert [] == await store.unfinished()
