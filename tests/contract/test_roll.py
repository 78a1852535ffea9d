"""The contract of `Roll`, clause by clause, on every database there is."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from dosvoces.core import Connection, Terms
from dosvoces.errors import NotOurs, StoreError
from dosvoces.model import ConnectionId, NodeId, Outcome
from dosvoces.store.roll import Identity, Node, Roll, Sign
from dosvoces.store.sql import SqlStore, open_roll, open_store
from dosvoces.testing import T0, A, an_order

ONE, TWO, THREE = (NodeId(f"{number:026d}") for number in (1, 2, 3))


def identity(node: NodeId) -> Identity:
    return Identity(node, name=f"n{node[-1]}", host="box", pid=7, born=8, place="here", version="0", capacity=10)


@dataclass
class Desk:
    """A record with its roll."""

    url: str
    store: SqlStore
    roll: Roll

    async def seen(self, node: NodeId) -> Node:
        (found,) = [each for each in (await self.roll.look()).nodes if each.id == node]
        return found

    async def ids(self) -> list[NodeId]:
        return [node.id for node in (await self.roll.look()).nodes]


@pytest.fixture
async def desk(record_url: str) -> AsyncIterator[Desk]:
    store, roll = open_store(record_url, node=ONE), open_roll(record_url)
    await store.open()
    await roll.open()
    for node in (ONE, TWO, THREE):
        await roll.join(identity(node))
    yield Desk(record_url, store, roll)
    await roll.close()
    await store.close()


async def test_who_joined_is_there_on_the_database_s_clock(desk: Desk) -> None:
    before = datetime.now(UTC)
    assert await desk.roll.beat(ONE, Sign(open_connections=3, draining=True, url="http://127.0.0.1:1"))
    glance = await desk.roll.look(ONE)
    one, two, _ = glance.nodes
    assert (identity(ONE), Sign(3, True, "http://127.0.0.1:1")) == (one.identity, one.sign)
    assert (identity(TWO), Sign(0, False, "")) == (two.identity, two.sign)
    # One machine here, so both clocks are one: to the millisecond, which is what SQLite's has.
    assert abs(one.beat_at - before) < timedelta(seconds=5)
    assert two.started_at <= two.beat_at <= one.beat_at <= glance.now
    assert one.started_at.tzinfo is UTC


async def test_what_a_dead_node_committed_after_it_was_inherited_is_its_heir_s_too(desk: Desk) -> None:
    """Its last commit was still under way in the database when another took over."""
    assert await desk.roll.inherit(await desk.seen(ONE), TWO)
    await desk.store.record(an_order(1))
    desk.store.node = THREE
    await desk.store.adopt_strays()
    assert await desk.store.unfinished(owner=THREE) == []
    desk.store.node = TWO
    await desk.store.adopt_strays()
    assert [record.id for record in await desk.store.unfinished(owner=TWO)] == [an_order(1).id]
    await desk.roll.retire(TWO)
    assert await desk.ids() == [TWO, THREE]


async def test_one_heir(desk: Desk) -> None:
    await desk.store.record(an_order(1))
    dead = await desk.seen(ONE)
    rolls = [open_roll(desk.url) for _ in range(4)]
    results = await asyncio.gather(
        *(roll.inherit(dead, heir) for roll, heir in zip(rolls, [TWO, THREE] * 2, strict=True))
    )
    assert 1 == results.count(True)
    heir = (await desk.seen(ONE)).heir
    assert [heir] == [record.owner for record in await desk.store.unfinished()]
    for roll in rolls:
        await roll.close()


async def test_only_the_silent_are_inherited(desk: Desk) -> None:
    await desk.store.record(an_order(1))
    seen = await desk.seen(ONE)
    await asyncio.sleep(0.002)  # SQLite's clock has milliseconds.
    assert await desk.roll.beat(ONE, seen.sign)
    assert not await desk.roll.inherit(seen, TWO)
    assert [ONE] == [record.owner for record in await desk.store.unfinished()]


async def test_an_inherited_node_is_out(desk: Desk) -> None:
    await desk.store.record(an_order(1))
    await desk.store.record(an_order(2))
    await desk.store.settle(an_order(2).id, Connection(Terms()), Outcome.CANCELLED, at=T0)
    dead = await desk.seen(ONE)
    assert await desk.roll.inherit(dead, TWO)
    assert not await desk.roll.beat(ONE, dead.sign)
    with pytest.raises(NotOurs):
        await desk.store.intend_dial(an_order(1), A, attempt=1, at=T0)
    # What was over stays as it was.
    assert [(an_order(2).id, ONE), (an_order(1).id, TWO)] == [
        (record.id, record.owner) for record in await desk.store.connections()
    ]


async def test_an_heir_that_dies_is_inherited_with_what_it_took(desk: Desk) -> None:
    await desk.store.record(an_order(1))
    assert await desk.roll.inherit(await desk.seen(ONE), TWO)
    assert await desk.roll.inherit(await desk.seen(TWO), THREE)
    assert await desk.roll.inherit(await desk.seen(ONE), THREE)
    assert [THREE] == [record.owner for record in await desk.store.unfinished()]


async def test_kept_until_settled(desk: Desk) -> None:
    await desk.store.record(an_order(1))
    await desk.roll.leave(ONE)
    assert ONE in await desk.ids()
    assert await desk.roll.inherit(await desk.seen(ONE), TWO)
    await desk.roll.leave(THREE)
    await desk.roll.retire(TWO)
    assert [TWO] == await desk.ids()


async def test_what_nobody_on_the_roll_owns_is_adopted(desk: Desk) -> None:
    await desk.store.record(an_order(1))
    desk.store.node = NodeId("frozen")
    await desk.store.record(an_order(2))
    desk.store.node = THREE
    await desk.store.adopt_strays()
    assert {an_order(1).id: ONE, an_order(2).id: THREE} == {
        record.id: record.owner for record in await desk.store.unfinished()
    }


async def test_what_is_asked_of_a_node_is_seen_by_it(desk: Desk) -> None:
    await desk.store.record(an_order(1))
    assert await desk.roll.ask_to_cancel(an_order(1).id, by="ana")
    assert await desk.roll.ask_to_cancel(an_order(1).id, by="eva")
    assert [(an_order(1).id, "ana")] == [*(await desk.roll.look(ONE)).cancels]
    assert [] == [*(await desk.roll.look(TWO)).cancels]
    await desk.store.settle(an_order(1).id, Connection(Terms()), Outcome.CANCELLED, at=T0)
    assert [] == [*(await desk.roll.look(ONE)).cancels]
    assert False is await desk.roll.ask_to_cancel(an_order(1).id, by="ana")
    assert None is await desk.roll.ask_to_cancel(ConnectionId("unknown"), by="ana")


async def test_a_node_is_asked_to_drain(desk: Desk) -> None:
    await desk.roll.ask_to_drain(ONE, by="ana", limit_s=None)
    await desk.roll.ask_to_drain(TWO, by="eva", limit_s=60)
    glance = await desk.roll.look()
    assert [("ana", None), ("eva", 60), (None, None)] == [
        (node.drain_by, node.drain_until and round((node.drain_until - glance.now).total_seconds()))
        for node in glance.nodes
    ]


async def test_errors_are_ours(desk: Desk) -> None:
    with pytest.raises(StoreError):
        await desk.roll.join(identity(ONE))  # It is there already.
    assert [ONE, TWO, THREE] == await desk.ids()
