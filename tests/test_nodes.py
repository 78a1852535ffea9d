"""A node among others: its lease on a clock of the test's, who counts as dead, and the beats on a real roll."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dosvoces.cli.nodes import choose, must_live
from dosvoces.errors import DosvocesError, StoreError
from dosvoces.model import ConnectionId, NodeId
from dosvoces.nodes import Lease, Membership, Times
from dosvoces.nodes.place import identity_of, runs
from dosvoces.nodes.rules import gone_from, inheritable, with_room
from dosvoces.settings import Settings
from dosvoces.store import Store
from dosvoces.store.roll import Glance, Identity, Node, Roll, Sign
from dosvoces.store.sql import open_roll, open_store
from dosvoces.testing import T0, an_order, until

ME, ONE, TWO, THREE = (NodeId(f"{number:026d}") for number in range(4))
QUICK = Times(beat_s=0.1, fence_s=0.5, dead_s=1.0)
PATIENT = Times(beat_s=0.1, fence_s=30.0, dead_s=60.0)
"""Where nobody dies: a busy machine may hold a beat up."""


def node(id: NodeId, *, silent_s: float = 0, heir: NodeId | None = None, **sign: Any) -> Node:
    identity = Identity(id, name=id, host="box", pid=int(id[-1]) + 100, born=7, place="box/1", version="0", capacity=10)
    signs = Sign(**{"open_connections": 0, "draining": False, "url": "", **sign})
    return Node(identity, signs, T0, T0 - timedelta(seconds=silent_s), None, None, heir)


def dead(*nodes: Node, steady: bool = True, gone: Callable[[Node], bool] = lambda _: False) -> list[NodeId]:
    glance = Glance(T0, [node(ME), *nodes])
    return [each.id for each in inheritable(glance, me=ME, dead_s=15, steady=steady, gone=gone)]


# --- the lease ---


def test_a_lease_is_held_while_the_last_beat_is_young() -> None:
    now = 100.0
    lease = Lease(8.0, lambda: now)
    now = 107.9
    assert lease.held()
    lease.renew(106.0)  # Sent then, and noted by now.
    now = 113.9
    assert lease.held()
    now = 114.0
    assert not lease.held()


def test_a_beat_that_comes_too_late_renews_nothing() -> None:
    """A process that was stopped for longer than the fence wakes up without its lease, whatever it does first."""
    now = 0.0
    lease = Lease(8.0, lambda: now)
    now = 20.0
    lease.renew(19.9)
    assert not lease.held()


def test_a_lost_lease_can_t_be_renewed() -> None:
    lease = Lease(8.0, lambda: 0.0)
    lease.lose()
    lease.renew(0.0)
    assert not lease.held()


def test_without_a_fence_time_takes_no_lease_away() -> None:
    now = 0.0
    lease = Lease(None, lambda: now)
    now = 1e6
    assert lease.held()


# --- who is dead ---


def test_the_silent_are_dead_and_the_others_are_not() -> None:
    assert [TWO] == dead(node(ONE, silent_s=15), node(TWO, silent_s=15.1))


def test_who_has_not_beaten_for_long_itself_calls_nobody_dead() -> None:
    assert [] == dead(node(ONE, silent_s=1000), steady=False)


def test_who_is_gone_for_certain_need_not_be_waited_for() -> None:
    assert [ONE] == dead(node(ONE), node(TWO), steady=False, gone=lambda each: each.id == ONE)


def test_what_a_living_heir_settles_is_left_to_it() -> None:
    assert [] == dead(node(ONE, silent_s=20, heir=TWO), node(TWO))


def test_what_a_dead_or_unknown_heir_left_is_inherited_again() -> None:
    expected = [ONE, TWO, THREE]
    assert expected == dead(
        node(ONE, silent_s=20, heir=TWO), node(TWO, silent_s=20), node(THREE, silent_s=20, heir=NodeId("unknown"))
    )


def test_i_am_not_dead() -> None:
    assert [] == inheritable(Glance(T0, [node(ME, silent_s=99)]), me=ME, dead_s=15, steady=True, gone=lambda _: True)


def test_a_process_of_this_place_that_runs_no_more_is_gone() -> None:
    gone = gone_from("box/1", former={TWO}, runs=lambda pid, born: (pid, born) == (103, 7))
    other_place = replace(node(ONE), identity=replace(node(ONE).identity, place="box/2"))
    assert [True, False, True, False] == [gone(each) for each in (node(ONE), other_place, node(TWO), node(THREE))]
    nowhere = replace(node(ONE), identity=replace(node(ONE).identity, place=""))
    assert not gone_from("", former=(), runs=lambda _pid, _born: False)(nowhere)


def test_a_process_that_runs_is_seen_and_its_number_s_next_owner_is_not_taken_for_it() -> None:
    me = identity_of(ME, name="", capacity=1)
    assert runs(me.pid, me.born)
    assert not runs(me.pid, me.born + 1)
    assert not runs(2**22 + 1, me.born)  # above the largest number that Linux gives


def test_those_with_room_are_told_the_emptiest_first() -> None:
    nodes = [
        node(ONE, open_connections=9),
        node(TWO, open_connections=1),
        node(THREE, open_connections=10),
        node(NodeId("4" * 26), draining=True),
        node(NodeId("5" * 26), silent_s=9),
        node(NodeId("6" * 26), heir=ONE),
    ]
    assert [TWO, ONE] == [each.id for each in with_room(Glance(T0, [node(ME), *nodes]), me=ME, fence_s=8)]


# --- beating ---


@dataclass
class Calls:
    """What a node has of connections, for the tests to read."""

    open_connections: int = 0
    idle: bool = True
    draining: bool = False
    fenced: bool = False
    fences: int = 0
    cancelled: list[tuple[ConnectionId, str]] = field(default_factory=list)
    drained: list[tuple[str, float | None]] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    """By whom; empty: resumed."""
    settled: int = 0
    settle: Callable[[], None] = lambda: None

    def fence(self, why: str) -> None:
        self.fenced = True
        self.fences += 1

    def unfence(self) -> None:
        self.fenced = False

    def cancel(self, connection_id: ConnectionId, *, by: str) -> bool:
        self.cancelled.append((connection_id, by))
        return True

    def stop_calls(self, *, by: str) -> None:
        self.stopped.append(by)

    def resume_calls(self) -> None:
        self.stopped.append("")

    def drain(self, *, by: str, limit_s: float | None) -> None:
        self.draining = True
        self.drained.append((by, limit_s))

    async def settle_leftovers(self) -> None:
        self.settle()
        self.settled += 1


@dataclass
class Member:
    membership: Membership
    calls: Calls
    store: Store

    @property
    def id(self) -> NodeId:
        return self.store.node


class Room:
    """Nodes on one record."""

    def __init__(self, url: str, roll: Roll, stack: AsyncExitStack) -> None:
        self.url = url
        self.roll = roll
        self._stack = stack

    async def member(
        self, number: int, *, roll: Roll | None = None, alone: bool = False, times: Times = QUICK
    ) -> Member:
        store = cast(Store, SimpleNamespace(node=NodeId(f"{number:026d}")))
        membership = Membership(
            roll=roll or open_roll(self.url),
            store=store,
            identify=lambda id: replace(node(ME).identity, id=id, name=f"n{number}", place=f"box/{number}"),
            times=times,
            alone=alone,
        )
        calls = Calls()
        self._stack.push_async_callback(membership.close)
        await membership.start(calls)
        return Member(membership, calls, store)

    async def owners(self) -> list[NodeId | None]:
        """Of what is open."""
        store = open_store(self.url, reader=True)
        await store.open()
        found = [record.owner for record in await store.unfinished()]
        await store.close()
        return found

    async def ids(self) -> set[NodeId]:
        return {each.id for each in (await self.roll.look()).nodes}


@asynccontextmanager
async def _room(folder: Path) -> AsyncIterator[Room]:
    url = f"sqlite:///{folder / 'record.db'}"
    async with AsyncExitStack() as stack:
        store = open_store(url, node=ONE)
        await store.open()
        stack.push_async_callback(store.close)
        await store.record(an_order(1))
        roll = open_roll(url)
        stack.push_async_callback(roll.close)
        yield Room(url, roll, stack)


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    async with _room(tmp_path) as made:
        yield made


async def _true(condition: Callable[[], object]) -> None:
    async def now() -> object:
        return condition()

    await until(now, limit_s=10)


async def test_a_node_that_falls_silent_is_inherited_and_forgotten_once_all_is_settled(room: Room) -> None:
    await room.roll.join(replace(node(ONE).identity, place="elsewhere"))
    two = await room.member(2)
    assert {ONE, TWO} == await room.ids()

    def fail_once() -> None:
        two.calls.settle = lambda: None
        raise StoreError("the disk is full")

    two.calls.settle = fail_once
    kept: list[set[NodeId]] = []

    async def forgotten() -> bool:
        if two.calls.settled == 1:
            kept.append(await room.ids())
        return await room.ids() == {TWO}

    await until(forgotten, limit_s=30)
    assert {ONE, TWO} == kept[-1]
    assert 2 == two.calls.settled
    assert [TWO] == await room.owners()


async def test_a_node_alone_waits_for_nobody(room: Room) -> None:
    await room.roll.join(replace(node(ONE).identity, place="elsewhere"))
    two = await room.member(2, alone=True)
    assert ({TWO}, [TWO], 1) == (await room.ids(), await room.owners(), two.calls.settled)


async def test_two_living_nodes_leave_each_other_alone(room: Room) -> None:
    one, two = [await room.member(number, times=PATIENT) for number in (1, 2)]
    begin = (await room.roll.look()).now

    async def both_beat_again_and_again() -> bool:
        return all(
            each.beat_at - begin > 10 * timedelta(seconds=PATIENT.beat_s) for each in (await room.roll.look()).nodes
        )

    await until(both_beat_again_and_again, limit_s=30)
    assert {ONE: None, TWO: None} == {each.id: each.heir for each in (await room.roll.look()).nodes}
    assert (0, 0) == (one.calls.fences, two.calls.fences)
    assert [TWO] == [each.id for each in one.membership.others_with_room()]


async def test_what_is_asked_through_the_record_reaches_the_calls(room: Room) -> None:
    one = await room.member(1)
    await room.roll.ask_to_cancel(an_order(1).id, by="ana")
    await room.roll.ask_to_drain(ONE, by="eva", limit_s=None)
    await _true(lambda: one.calls.cancelled and one.calls.drained)
    assert ((an_order(1).id, "ana"), [("eva", None)]) == (one.calls.cancelled[0], one.calls.drained)


async def test_a_limit_counts_also_for_a_node_that_drains_already(room: Room) -> None:
    one = await room.member(1)
    await room.roll.ask_to_drain(ONE, by="eva", limit_s=None)
    await _true(lambda: len(one.calls.drained) == 1)
    await room.roll.ask_to_drain(ONE, by="eva", limit_s=600)
    await _true(lambda: len(one.calls.drained) == 2)
    assert [(by, limit_s is not None and 0 < limit_s <= 600) for by, limit_s in one.calls.drained] == [
        ("eva", False),
        ("eva", True),
    ]


async def test_a_node_that_leaves_is_forgotten(room: Room) -> None:
    two = await room.member(2)
    await two.membership.close()
    assert set() == await room.ids()


class _Cut:
    """A roll whose database can be cut off."""

    def __init__(self, roll: Roll) -> None:
        self._roll = roll
        self.cut = False
        self.healed = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        if self.cut and name in ("beat", "look", "join", "inherit"):
            return self._never
        return getattr(self._roll, name)

    async def _never(self, *_: object) -> None:
        """As a network does that swallows all: no answer and no error, until it heals."""
        await self.healed.wait()
        raise StoreError("cut off")


async def test_a_node_that_can_t_beat_hangs_up_before_others_call_it_dead_and_comes_back_as_another(room: Room) -> None:
    cut = _Cut(open_roll(room.url))
    two = await room.member(2, roll=cast(Roll, cut))
    two.calls.idle = False  # It has calls.
    loop = asyncio.get_running_loop()
    cut.cut, began = True, loop.time()
    await _true(lambda: two.calls.fenced)
    assert loop.time() - began < QUICK.dead_s
    assert not two.membership.holds_lease()
    cut.cut = False
    cut.healed.set()
    await asyncio.sleep(3 * QUICK.beat_s)
    assert (True, TWO) == (two.calls.fenced, two.id)  # They are still being hung up.
    two.calls.idle = True
    await _true(lambda: not two.calls.fenced)
    assert two.id != TWO
    assert two.membership.holds_lease()

    async def alone() -> bool:
        return await room.ids() == {two.id}

    await until(alone, limit_s=10)


async def test_a_node_that_was_inherited_hangs_up_at_its_next_beat(room: Room) -> None:
    two = await room.member(2)
    (seen,) = (await room.roll.look()).nodes
    while not await room.roll.inherit(seen, THREE):
        (seen,) = (await room.roll.look()).nodes
    await _true(lambda: two.calls.fences)
    await _true(lambda: not two.calls.fenced)
    assert two.id not in (TWO, THREE)


class _Faulty:
    """A roll that fails inside at the next beat."""

    def __init__(self, roll: Roll) -> None:
        self._roll = roll
        self.failed = False

    def __getattr__(self, name: str) -> Any:
        if name == "beat" and not self.failed:
            self.failed = True
            raise ValueError("a fault of ours")
        return getattr(self._roll, name)


async def test_a_fault_of_ours_ends_no_node(room: Room) -> None:
    faulty = _Faulty(open_roll(room.url))
    two = await room.member(2, roll=cast(Roll, faulty), times=PATIENT)

    async def has_beaten() -> bool:
        return any(each.id == TWO and each.beat_at > each.started_at for each in (await room.roll.look()).nodes)

    await until(has_beaten, limit_s=10)
    assert (True, 0) == (faulty.failed, two.calls.fences)


def test_nobody_waits_for_a_node_that_is_dead_or_not_there() -> None:
    must_live(node(ONE, silent_s=14), Glance(T0, []), Settings())
    with pytest.raises(
        DosvocesError, match=r"0+1 \(0+1\) is dead: its last sign of life is of 20.* UTC; its calls are"
    ):
        must_live(node(ONE, silent_s=16), Glance(T0, []), Settings())
    with pytest.raises(DosvocesError, match="no node is running on this record"):
        choose([], None)
