"""Limits that all nodes share, on every database: however many ask at once, exactly as many get in as may."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from dosvoces.core import Connection, Leg, LegState, Terms
from dosvoces.errors import LimitReached
from dosvoces.model import NodeId, Order, Outcome
from dosvoces.store import Store
from dosvoces.store.clock import database_now
from dosvoces.store.limits import Quota, TrunkQuota, turn
from dosvoces.store.sql import SqlStore, open_roll, open_store
from dosvoces.store.tables import trunk_pace
from dosvoces.testing import T0, A, B, an_order

CONTENDERS = 300
Open = Callable[[Quota], Awaitable[list[SqlStore]]]


@pytest.fixture
async def stores(record_url: str) -> AsyncIterator[Open]:
    """The record with that quota, as two nodes have it open; a SQLite file has one."""
    async with AsyncExitStack() as stack:

        async def made(quota: Quota) -> list[SqlStore]:
            opened = []
            for number in range(1 if record_url.startswith("sqlite") else 2):
                store = open_store(record_url, node=NodeId(f"{number:026d}"), quota=quota)
                await store.open()
                stack.push_async_callback(store.close)
                opened.append(store)
            return opened

        yield made


def orders(count: int = CONTENDERS, start: int = 1) -> list[Order]:
    """Each with numbers of its own."""
    return [an_order(n, first=f"+346{n:08d}", second=f"+349{n:08d}") for n in range(start, start + count)]


async def got_in(attempts: Iterable[Awaitable[Any]]) -> int:
    """How many of them did; the others met the limit."""
    results = await asyncio.gather(*attempts, return_exceptions=True)
    refused = [result for result in results if isinstance(result, BaseException)]
    assert {LimitReached} >= {type(error) for error in refused}, refused
    return len(results) - len(refused)


async def test_open_connections_on_all_nodes_are_exactly_as_many_as_may_be(stores: Open) -> None:
    nodes = await stores(Quota(max_open=10))
    turns = itertools.cycle(nodes)
    assert 10 == await got_in(next(turns).record(order) for order in orders())
    first, *others = await nodes[0].unfinished()
    assert 9 == len(others)
    (owner,) = [node for node in nodes if node.node == first.owner]
    await owner.settle(first.id, Connection(Terms()), Outcome.CANCELLED, at=T0)
    assert 1 == await got_in(next(turns).record(order) for order in orders(20, start=1000))
    # What waits for a node isn't open yet, and counts when it is begun.
    await nodes[0].record(an_order(5000), waits=True)
    with pytest.raises(LimitReached):
        await nodes[0].waiting.claim(an_order(5000))


async def test_connections_with_one_number_are_exactly_as_many_as_may_be(stores: Open) -> None:
    nodes = await stores(Quota(max_per_number=3))
    turns = itertools.cycle(nodes)
    wanted = "+34600000099"
    as_first = [an_order(n, first=wanted, second=f"+349{n:08d}") for n in range(1, 151)]
    as_second = [an_order(n, first=f"+349{n:08d}", second=wanted) for n in range(151, 301)]
    assert 3 == await got_in(next(turns).record(order) for order in [*as_first, *as_second])
    assert 20 == await got_in(next(turns).record(order) for order in orders(20, start=1000))


async def test_calls_of_a_trunk_are_exactly_as_many_as_it_takes(stores: Open) -> None:
    nodes = await stores(Quota(trunks={"main": TrunkQuota(max_calls=10)}))
    owned = list(zip(itertools.cycle(nodes), orders(), strict=False))
    assert CONTENDERS == await got_in(store.record(order) for store, order in owned)

    def dial(store: Store, order: Order, trunk: str = "main", attempt: int = 1) -> Awaitable[float]:
        return store.intend_dial(order, A, attempt=attempt, at=T0, trunk=trunk)

    results = await asyncio.gather(*(dial(*each) for each in owned), return_exceptions=True)
    up = [each for each, result in zip(owned, results, strict=True) if result == 0.0]
    full = [each for each, result in zip(owned, results, strict=True) if isinstance(result, LimitReached)]
    assert (10, CONTENDERS - 10) == (len(up), len(full))
    # A leg that has ended, one that goes another way, and a connection that is over each make room for one.
    (store, order), (other, moved), (third, over) = up[:3]
    store.update(order.id, Connection(Terms(), a=Leg(LegState.ENDED, dialed_at=T0)), None)
    await store.connection(order.id)
    assert 1 == await got_in(dial(*each) for each in full[:20])
    await dial(other, moved, trunk="spare", attempt=2)
    assert 1 == await got_in(dial(*each) for each in full[20:40])
    await third.settle(over.id, Connection(Terms()), Outcome.CANCELLED, at=T0)
    assert 1 == await got_in(dial(*each) for each in full[40:60])
    assert 20 == await got_in(dial(*each, "spare") for each in full[60:80])


async def test_a_request_whose_trunks_are_all_full_is_refused_before_it_is_recorded(stores: Open) -> None:
    store, *_ = await stores(Quota(trunks={"main": TrunkQuota(max_calls=2), "other": TrunkQuota(max_calls=1)}))
    await store.record(an_order(1), trunks={A: ["main"], B: ["main"]})
    await store.intend_dial(an_order(1), A, attempt=1, at=T0, trunk="main")
    with pytest.raises(LimitReached, match="main"):  # One is left, and two are needed.
        await store.record(an_order(2), trunks={A: ["main"], B: ["main"]})
    await store.intend_dial(an_order(1), B, attempt=1, at=T0, trunk="main")
    with pytest.raises(LimitReached, match="main"):
        await store.record(an_order(3), trunks={A: ["other"], B: ["main"]})
    await store.record(an_order(4), trunks={A: ["other"], B: ["main", "other"]})
    await store.record(an_order(5), trunks={A: ["unlimited", "main"], B: ["unlimited"]})
    assert {an_order(n).id for n in (1, 4, 5)} == {record.id for record in await store.unfinished()}


def test_turns_are_evenly_spaced_and_none_is_saved_up() -> None:
    quota = TrunkQuota(calls_per_second=20, max_wait_s=0.12)
    given, next_at = [], None
    for _ in range(4):
        reserved = turn(next_at, T0, quota)
        if reserved is None:
            break
        wait_s, next_at = reserved
        given.append(round(wait_s, 6))
    assert [0.0, 0.05, 0.1] == given
    # A quiet hour saves nothing up.
    assert (0.0, T0 + timedelta(seconds=3600.05)) == turn(next_at, T0 + timedelta(hours=1), quota)


async def test_every_call_of_all_nodes_has_a_turn_of_its_own(stores: Open, record_url: str) -> None:
    nodes = await stores(Quota(trunks={"main": TrunkQuota(calls_per_second=2, max_wait_s=1000)}))
    owned = list(zip(itertools.cycle(nodes), orders(60), strict=False))
    await asyncio.gather(*(store.record(order) for store, order in owned))
    began = time.monotonic()
    waits = await asyncio.gather(
        *(store.intend_dial(order, A, attempt=1, at=T0, trunk="main") for store, order in owned)
    )
    roll = open_roll(record_url)
    now, next_at = await roll._do(lambda db: db.execute(select(database_now(), trunk_pace.c.next_at)).one())
    await roll.close()
    took_s = time.monotonic() - began
    ahead_s = (next_at - now).total_seconds()
    assert 30 - took_s - 0.01 <= ahead_s <= 30
    assert 0 == min(waits)
    assert 29.5 - took_s - 0.01 <= max(waits) <= 29.5


async def test_who_would_wait_too_long_for_a_turn_is_refused(stores: Open) -> None:
    nodes = await stores(Quota(trunks={"main": TrunkQuota(calls_per_second=0.01, max_wait_s=150)}))
    owned = list(zip(itertools.cycle(nodes), orders(20), strict=False))
    await asyncio.gather(*(store.record(order) for store, order in owned))
    assert 2 == await got_in(store.intend_dial(order, A, attempt=1, at=T0, trunk="main") for store, order in owned)
