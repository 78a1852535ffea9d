"""The switchboard on a real record, a scripted carrier and a scripted mailbox."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from dosvoces.carriers import Call, DialPlan, Leftover, Released
from dosvoces.carriers.fake import TRUNK, FakeCarrier, Script
from dosvoces.clock import utc_now
from dosvoces.core import Answer, AnswerKind
from dosvoces.errors import AlreadyRecorded, CarrierError, MailError, NotAllowed, NotNow, StoreError
from dosvoces.events import Answered
from dosvoces.mail import Mail
from dosvoces.model import ConnectionId, LegId, NodeId, Note, Order, PhoneNumber, Side, leg_id
from dosvoces.store import Store
from dosvoces.store.limits import Quota, TrunkQuota
from dosvoces.store.sql import SqlStore, open_store
from dosvoces.switchboard import Limits, Switchboard
from dosvoces.testing import A, B, an_order, until

MADE = Answer(AnswerKind.MADE)


@dataclass
class Letters:
    """A mailbox that takes what `answer` lets it take."""

    answer: Callable[[], Awaitable[None]] | None = None
    taken: list[Mail] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def deliver(self, mail: Mail) -> None:
        if self.answer is not None:
            await self.answer()
        self.taken.append(mail)
        self.arrived.set()

    async def check(self) -> None: ...

    async def close(self) -> None: ...


class Bench:
    """A switchboard with its parts in the test's hands."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.letters = Letters()
        self.script: Callable[[Call], Script] = lambda call: Script()
        self.carrier = FakeCarrier(lambda call: self.script(call))
        self.switchboard = self.make()

    def make(self, holds_lease: Callable[[], bool] = lambda: True, **limits: float) -> Switchboard:
        self.switchboard = Switchboard(
            store=self.store,
            mailbox=self.letters,
            carrier=self.carrier,
            compose=_compose,
            limits=Limits(**limits),  # type: ignore[arg-type]
            holds_lease=holds_lease,
        )
        return self.switchboard

    async def connect(self, order: Order) -> Answer:
        return await asyncio.wait_for(self.switchboard.connect(order), 5)

    async def over(self, order: Order) -> str | None:
        """The outcome in the record, once the connection is over."""
        await asyncio.wait_for(self.switchboard.ended(order.id), 5)
        record = await self.store.connection(order.id)
        return record.outcome if record else None

    async def events(self, order: Order) -> list[str]:
        return [entry.event for entry in await self.store.entries(order.id)]


def _compose(order: Order) -> Mail:
    return Mail(f"<{order.id}@example.com>", order.lead.email, "lead", "text", b"")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    opened = open_store(f"sqlite:///{tmp_path / 'record.db'}")
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
async def bench(store: SqlStore) -> AsyncIterator[Bench]:
    made = Bench(store)
    await made.switchboard.start()
    yield made
    await made.switchboard.close()
    assert [] == made.carrier.live_legs


async def test_a_connection_is_recorded_mailed_dialed_joined_and_settled(bench: Bench) -> None:
    order = an_order()
    bench.script = lambda call: Script(hangs_up_after_s=0.05 if call.side is B else None)
    assert MADE == await bench.connect(order)
    assert "completed" == await bench.over(order)
    assert [leg_id(order.id, A), leg_id(order.id, B)] == [call.id for call in bench.carrier.dialed]
    assert 1 == len(bench.letters.taken)
    leg = ["dialed", "ringing", "answered"]
    expected = ["started", "mail_sent", *leg, *leg, "joined", "ended", "ended"]
    assert expected == await bench.events(order)


async def test_each_party_sees_the_number_that_was_asked_for(bench: Bench) -> None:
    bench.carrier = FakeCarrier(lambda call: bench.script(call), caller_ids={"+34910000001", "+34910000002"})
    await bench.make().start()
    order = replace(an_order(), caller_id_first="+34910000001", caller_id_second="+34910000002")
    bench.script = lambda call: Script(hangs_up_after_s=0.05 if call.side is B else None)
    assert MADE == await bench.connect(order)
    assert "completed" == await bench.over(order)
    assert ["+34910000001", "+34910000002"] == [call.caller_id for call in bench.carrier.dialed]


@pytest.mark.parametrize("side", Side)
async def test_a_caller_id_that_is_not_ours_is_refused_before_anything_is_done(bench: Bench, side: Side) -> None:
    wrong = "+34666666666"
    order = replace(an_order(), caller_id_first=wrong) if side is A else replace(an_order(), caller_id_second=wrong)
    with pytest.raises(NotAllowed, match="caller_ids"):
        await bench.connect(order)
    assert (None, [], []) == (await bench.store.connection(order.id), bench.letters.taken, bench.carrier.dialed)
    assert 0 == bench.switchboard.open_connections


async def test_nobody_is_dialed_when_the_mail_is_refused(bench: Bench) -> None:
    async def refuse() -> None:
        raise MailError("mail server said 550", permanent=True)

    bench.letters.answer = refuse
    order = an_order()
    with capture_logs() as logs:
        assert Answer(AnswerKind.MAIL_FAILED) == await bench.connect(order)
    assert "mail_failed" == await bench.over(order)
    assert [] == bench.carrier.dialed
    told = {"event": "lead not mailed", "connection": order.id, "reason": "mail server said 550"}
    assert told | {"log_level": "warning"} in logs


async def test_the_other_leg_is_released_when_one_fails(bench: Bench) -> None:
    busy = Script(fails_after_s=0.0, rings_after_s=None)
    bench.script = lambda call: busy if call.side is B else Script()
    order = an_order()
    assert Answer(AnswerKind.CALL_FAILED, B) == await bench.connect(order)
    assert "second_busy" == await bench.over(order)


async def test_an_unreachable_first_party_is_a_failed_call(bench: Bench) -> None:
    bench.script = lambda call: Script(unreachable=True)
    order = an_order()
    assert Answer(AnswerKind.CALL_FAILED, A) == await bench.connect(order)
    assert "first_failed" == await bench.over(order)


async def test_another_way_is_a_dial_of_its_own_with_its_own_intent(bench: Bench) -> None:
    order = an_order()
    bench.script = lambda call: Script(dead_ways=2 if call.side is A else 0)
    assert MADE == await bench.connect(order)
    a = [call for call in bench.carrier.dialed if call.side is A]
    expected = [(1, ()), (2, ("way 1",)), (3, ("way 1", "way 2"))]
    assert expected == [(call.attempt, call.avoid) for call in a]
    entries = await bench.store.entries(order.id)
    told = [(entry.event, entry.facts) for entry in entries if entry.side is A][:5]
    dead = {"detail": "a dead way in the script"}
    assert [
        ("dialed", {"via": "way 1"}),
        ("unreached", {"way": "way 1", **dead}),
        ("dialed", {"via": "way 2"}),
        ("unreached", {"way": "way 2", **dead}),
        ("dialed", {"via": "way 3"}),
    ] == told
    for attempt in (1, 2, 3):
        with pytest.raises(AlreadyRecorded):
            await bench.store.intend_dial(order, A, attempt=attempt, at=order.created_at)
    bench.switchboard.cancel(order.id, by="operator")
    await bench.over(order)


async def test_ways_that_all_lead_to_nobody_end_the_connection(bench: Bench) -> None:
    order = an_order()
    bench.script = lambda call: Script(dead_ways=99)
    assert Answer(AnswerKind.CALL_FAILED, A) == await bench.connect(order)
    assert "first_failed" == await bench.over(order)
    assert 5 == len(bench.carrier.dialed)


async def test_a_phone_that_rings_for_ever_is_given_up(bench: Bench) -> None:
    bench.script = lambda call: Script(answers_after_s=None)
    bench.make(ring_timeout_s=0.05)
    await bench.switchboard.start()
    order = an_order()
    assert Answer(AnswerKind.CALL_FAILED, A) == await bench.connect(order)
    assert "first_no_answer" == await bench.over(order)
    record = await bench.store.connection(order.id)
    assert record is not None
    assert ["no_answer"] == [leg.reason for leg in record.legs if leg.side is A]


async def test_first_hears_ringing_until_the_second_answers(bench: Bench) -> None:
    bench.script = lambda call: Script(answers_after_s=None if call.side is B else 0.0)
    order = an_order()
    assert MADE == await bench.connect(order)
    assert {leg_id(order.id, A)} == bench.carrier.hears_ringing
    bench.switchboard.cancel(order.id, by="operator")
    assert "cancelled" == await bench.over(order)


async def test_a_full_switchboard_refuses_before_anything_is_done(bench: Bench) -> None:
    bench.make(max_connections=2)
    await bench.switchboard.start()
    orders = [an_order(number) for number in range(1, 6)]
    results = await asyncio.gather(*(bench.connect(order) for order in orders), return_exceptions=True)
    assert 2 == results.count(MADE)
    assert 3 == sum(isinstance(result, NotNow) for result in results)
    assert 2 == len(bench.letters.taken)


async def test_who_waits_at_the_door_is_counted_with_who_is_open(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    switchboard = bench.make(max_connections=3)
    await switchboard.start()
    assert MADE == await bench.connect(an_order(1))
    assert [True, True, False] == [switchboard.has_room(waiting) for waiting in range(3)]
    monkeypatch.setattr(bench.carrier, "capacity", lambda: 2)
    assert [True, False] == [switchboard.has_room(waiting) for waiting in range(2)]


async def test_an_order_under_a_taken_key_is_not_carried_out(bench: Bench) -> None:
    await bench.connect(an_order(1, key="k"))
    with pytest.raises(AlreadyRecorded):
        await bench.connect(an_order(2, key="k"))
    assert 1 == len(bench.letters.taken)


class _Broken(SqlStore):
    """A record that fails where it is told to."""

    refuses: frozenset[str] = frozenset()
    trouble: Sequence[str] = ()

    def problems(self) -> list[str]:
        return list(self.trouble)

    async def record(self, order: Order, **facts: Any) -> None:
        self._fail("record")
        await super().record(order, **facts)

    async def intend_dial(self, order: Order, side: Side, **facts: Any) -> float:
        self._fail(f"dial {side}")
        return await super().intend_dial(order, side, **facts)

    def _fail(self, what: str) -> None:
        if what in self.refuses:
            raise StoreError("disk full")


async def test_an_order_that_can_t_be_recorded_is_not_carried_out(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = object.__new__(_Broken)
    broken.__dict__ = bench.store.__dict__
    broken.refuses = frozenset({"record"})
    bench.store = broken
    bench.make()
    with pytest.raises(NotNow):
        await bench.connect(an_order())
    assert ([], []) == (bench.letters.taken, bench.carrier.dialed)


async def test_what_the_store_says_of_its_files_is_not_for_clients(bench: Bench) -> None:
    broken = object.__new__(_Broken)
    broken.__dict__ = bench.store.__dict__ | {"trouble": ["the record /srv/record.db is locked"]}
    bench.store = broken
    bench.make()
    with pytest.raises(NotNow) as refusal:
        await bench.connect(an_order())
    assert "the request can't be recorded now; nothing was done" == str(refusal.value)
    assert ["the record /srv/record.db is locked"] == bench.switchboard.problems()


async def test_the_record_is_asked_once_whether_it_can_be_written(bench: Bench) -> None:
    class Asked(SqlStore):
        times = 0

        def problems(self) -> list[str]:
            self.times += 1
            return super().problems()

    asked = object.__new__(Asked)
    asked.__dict__ = bench.store.__dict__
    bench.store = asked
    await bench.make().start()
    assert MADE == await bench.connect(an_order())
    assert 1 == asked.times
    assert [] == bench.switchboard.problems()
    assert 2 == asked.times


async def test_nobody_is_rung_without_the_intent_on_disk(bench: Bench) -> None:
    broken = object.__new__(_Broken)
    broken.__dict__ = bench.store.__dict__
    broken.refuses = frozenset({"dial b"})
    bench.store = broken
    bench.make()
    await bench.switchboard.start()
    order = an_order()
    assert Answer(AnswerKind.CALL_FAILED, B) == await bench.connect(order)
    assert "second_failed" == await bench.over(order)
    assert [A] == [call.side for call in bench.carrier.dialed]


async def test_the_caller_may_leave_and_the_connection_goes_on(bench: Bench) -> None:
    order = an_order()
    bench.script = lambda call: Script(rings_after_s=0.05, answers_after_s=0.05, hangs_up_after_s=0.05)
    waiting = asyncio.create_task(bench.switchboard.connect(order))
    await bench.letters.arrived.wait()
    waiting.cancel()
    assert "first_hung_up" == await bench.over(order)


async def test_a_hangup_that_overtakes_the_dial_rings_nobody(bench: Bench) -> None:
    order = an_order()
    waiting = asyncio.create_task(bench.switchboard.connect(order))
    await bench.letters.arrived.wait()
    # The dial's intent is on its way to the disk now.
    bench.switchboard.cancel(order.id, by="operator")
    await waiting
    assert "cancelled" == await bench.over(order)
    assert [] == bench.carrier.dialed


class _Unready(FakeCarrier):
    """A carrier that waits for media before it dials."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.media = asyncio.Event()

    async def dial(self, plan: DialPlan) -> None:
        self.asked.set()
        await self.media.wait()
        await super().dial(plan)


async def test_a_hangup_while_the_carrier_gets_ready_rings_nobody(bench: Bench) -> None:
    bench.carrier = carrier = _Unready()
    await bench.make().start()
    order = an_order()
    waiting = asyncio.create_task(bench.switchboard.connect(order))
    await carrier.asked.wait()
    bench.switchboard.cancel(order.id, by="operator")
    carrier.media.set()
    await waiting
    assert "cancelled" == await bench.over(order)
    assert [] == carrier.dialed
    record = await bench.store.connection(order.id)
    assert record is not None
    assert [("ended", "cancelled", "not dialled")] == [
        (leg.state, leg.reason, leg.detail) for leg in record.legs if leg.side is A
    ]


async def test_lost_media_ends_the_connection_truthfully(bench: Bench) -> None:
    order = an_order()
    assert MADE == await bench.connect(order)

    async def joined() -> bool:
        return "joined" in await bench.events(order)

    await until(joined)
    bench.carrier.lose_media(order.id)
    assert "interrupted" == await bench.over(order)


async def test_a_note_is_journaled_even_after_the_end(bench: Bench) -> None:
    order = an_order()
    bench.script = lambda call: Script(unreachable=True)
    await bench.connect(order)
    await bench.over(order)
    bench.switchboard.noted(order.id, Note("statistics", A, {"received": 7}))
    await bench.switchboard.remember_answer(order.id, status=500, body="")
    last = (await bench.store.entries(order.id))[-1]
    assert ("statistics", A, "ended", {"received": 7}) == (last.event, last.side, last.after, last.facts)


async def test_shutdown_hangs_everybody_up_and_records_it(bench: Bench) -> None:
    order = an_order()
    assert MADE == await bench.connect(order)
    await bench.switchboard.close()
    assert [] == bench.carrier.live_legs
    record = await bench.store.connection(order.id)
    assert record is not None
    assert ("completed", "shutdown") == (record.outcome, record.ended_by)
    with pytest.raises(NotNow, match="shutting down"):
        await bench.connect(an_order(2))


async def test_a_drain_lets_calls_end_and_takes_none(bench: Bench) -> None:
    order = an_order()
    assert MADE == await bench.connect(order)
    drained = bench.switchboard.drain(by="operator", limit_s=None)
    with pytest.raises(NotNow, match="draining") as refusal:
        await bench.connect(an_order(2))
    assert refusal.value.leaving
    assert ["draining: no new calls are taken here"] == bench.switchboard.problems()
    bench.carrier.hangup(leg_id(order.id, B))
    await asyncio.wait_for(drained, 5)
    record = await bench.store.connection(order.id)
    assert record is not None
    assert ("completed", "b", set()) == (record.outcome, record.ended_by, bench.carrier.hears_warning)


async def test_at_the_limit_of_a_drain_both_parties_are_warned_and_hung_up(bench: Bench) -> None:
    talking, waiting = an_order(1), an_order(2)
    bench.script = lambda call: Script(
        answers_after_s=None if (call.connection_id, call.side) == (waiting.id, B) else 0.0
    )
    assert [MADE, MADE] == [await bench.connect(talking), await bench.connect(waiting)]
    await asyncio.wait_for(bench.switchboard.drain(by="shutdown", limit_s=0.05), 5)
    heard = {leg_id(talking.id, A), leg_id(talking.id, B), leg_id(waiting.id, A)}
    assert (heard, []) == (bench.carrier.hears_warning, bench.carrier.live_legs)
    records = {record.id: (record.outcome, record.ended_by) for record in await bench.store.connections()}
    assert {talking.id: ("completed", "shutdown"), waiting.id: ("cancelled", "shutdown")} == records


async def test_a_drain_without_calls_is_over_at_once(bench: Bench) -> None:
    await asyncio.wait_for(bench.switchboard.drain(by="shutdown", limit_s=60), 1)


@pytest.fixture
def slow_disk(tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Nothing is written to the record until it is called."""
    with closing(sqlite3.connect(tmp_path / "record.db", isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")

        def go_on() -> None:
            other.execute("ROLLBACK")

        yield go_on


async def _entering(bench: Bench) -> None:
    async def somebody() -> bool:
        return not bench.switchboard.idle

    await until(somebody, limit_s=10)


async def test_what_is_being_recorded_when_a_drain_begins_has_its_turn(
    bench: Bench, slow_disk: Callable[[], None]
) -> None:
    order = an_order()
    asked = asyncio.create_task(bench.connect(order))
    await _entering(bench)
    drained = bench.switchboard.drain(by="shutdown", limit_s=60)
    done, _ = await asyncio.wait([drained], timeout=0.1)
    assert done == set()
    slow_disk()
    assert await asked == MADE
    bench.carrier.hangup(leg_id(order.id, B))
    await asyncio.wait_for(drained, 5)
    assert await bench.over(order) == "completed"


async def test_what_is_being_recorded_at_a_shutdown_is_not_begun_and_said_so(
    bench: Bench, slow_disk: Callable[[], None]
) -> None:
    """It would be mailed, and rung, while everything around it is given back; and its outcome never written."""
    order = an_order(key="k")
    asked = asyncio.create_task(bench.connect(order))
    await _entering(bench)
    closed = asyncio.create_task(bench.switchboard.close())
    await asyncio.sleep(0.1)
    slow_disk()
    assert await asked == Answer(AnswerKind.NOT_TRIED)
    await asyncio.wait_for(closed, 5)
    record = await bench.store.connection(order.id)
    assert record is not None
    assert (record.outcome, record.ended_by, bench.letters.taken) == ("interrupted", "shutdown", [])
    # Its client may repeat it, on whatever node there is then.
    earlier = await bench.store.repeated(order)
    assert earlier is not None
    assert earlier.resumable


class _Two(FakeCarrier):
    """Two trunks, the first of which has little room."""

    def prepare(self, call: Call) -> DialPlan:
        if "small" in call.avoid:
            return replace(super().prepare(replace(call, avoid=())), trunk="large")
        return replace(super().prepare(call), trunk="small")

    def trunks(self, number: PhoneNumber) -> list[str]:
        return ["small", "large"]


class _Blind(_Two):
    """Two trunks, and nobody who could say beforehand which."""

    def prepare(self, call: Call) -> DialPlan:
        if "large" in call.avoid:
            raise CarrierError("no further way in the script")
        return super().prepare(call)

    def trunks(self, number: PhoneNumber) -> list[str]:
        return []


async def _limited(tmp_path: Path, **quota: Any) -> SqlStore:
    store = open_store(f"sqlite:///{tmp_path / 'limited.db'}", quota=Quota(**quota))
    await store.open()
    return store


async def test_a_full_trunk_s_calls_go_by_the_next_one(bench: Bench, tmp_path: Path) -> None:
    bench.store = limited = await _limited(tmp_path, trunks={"small": TrunkQuota(max_calls=1)})
    bench.carrier = _Two(lambda call: bench.script(call))
    await bench.make().start()
    order = an_order()
    assert MADE == await bench.connect(order)
    assert ["small", "large"] == [dial.trunk for dial in await limited.dials(order.id)]
    bench.switchboard.cancel(order.id, by="operator")
    await bench.over(order)
    await limited.close()


async def test_where_no_trunk_has_room_nothing_is_begun(bench: Bench, tmp_path: Path) -> None:
    bench.store = limited = await _limited(
        tmp_path, max_open=1, trunks={"small": TrunkQuota(max_calls=1), "large": TrunkQuota(max_calls=1)}
    )
    bench.carrier = _Two(lambda call: bench.script(call))
    await bench.make().start()
    assert MADE == await bench.connect(an_order(1))
    with pytest.raises(NotNow, match="max_open"):
        await bench.connect(an_order(2))
    assert (1, 2) == (len(bench.letters.taken), len(bench.carrier.dialed))
    bench.switchboard.cancel(an_order(1).id, by="operator")
    await bench.over(an_order(1))
    await limited.close()


async def test_a_leg_without_room_on_any_trunk_fails_and_the_other_is_hung_up(bench: Bench, tmp_path: Path) -> None:
    """It can't always be known before: here the first party's call takes the last one."""
    bench.store = limited = await _limited(
        tmp_path, trunks={"small": TrunkQuota(max_calls=1), "large": TrunkQuota(max_calls=0)}
    )
    bench.carrier = _Blind(lambda call: bench.script(call))
    await bench.make().start()
    order = an_order()
    assert Answer(AnswerKind.CALL_FAILED, B) == await asyncio.wait_for(bench.connect(order), 5)
    assert "second_failed" == await bench.over(order)
    record = await limited.connection(order.id)
    assert record is not None
    assert "trunk small has 1 calls up" in record.legs[1].detail
    await limited.close()


async def test_a_call_waits_for_its_turn_on_the_trunk(bench: Bench, tmp_path: Path) -> None:
    bench.store = limited = await _limited(tmp_path, trunks={TRUNK: TrunkQuota(calls_per_second=5)})
    await bench.make().start()
    began = asyncio.get_running_loop().time()
    order = an_order()
    assert MADE == await bench.connect(order)
    assert asyncio.get_running_loop().time() - began > 0.19
    bench.switchboard.cancel(order.id, by="operator")
    await bench.over(order)
    await limited.close()


async def test_a_fenced_switchboard_lets_go_of_everything_and_takes_nothing_until_it_may(bench: Bench) -> None:
    order = an_order()
    assert MADE == await bench.connect(order)
    assert not bench.switchboard.idle
    bench.switchboard.fence("the database doesn't answer")
    assert "interrupted" == await bench.over(order)
    assert [] == bench.carrier.live_legs
    with pytest.raises(NotNow, match="the database doesn't answer"):
        await bench.connect(an_order(2))
    assert bench.switchboard.idle
    bench.switchboard.unfence()
    assert MADE == await bench.connect(an_order(3))


class _Faulty(FakeCarrier):
    """A carrier that hangs up, and fails inside after the first time."""

    failed = False

    def hangup(self, leg: LegId) -> None:
        super().hangup(leg)
        if not self.failed:
            self.failed = True
            raise TypeError("a fault of ours")


async def test_a_fault_about_one_call_leaves_nobody_else_on_a_line_of_a_fenced_node(bench: Bench) -> None:
    bench.carrier = _Faulty(lambda call: Script())
    bench.make()
    await bench.switchboard.start()
    orders = [an_order(1), an_order(2)]
    for order in orders:
        assert MADE == await bench.connect(order)
    bench.switchboard.fence("the database doesn't answer")
    assert "interrupted" == await bench.over(orders[1])
    assert bench.carrier.failed


class _Mute(FakeCarrier):
    """A carrier whose far ends never confirm a hang-up until it is closed."""

    def hangup(self, leg: LegId) -> None: ...

    async def close(self) -> None:
        for leg in self.live_legs:
            super().hangup(leg)


async def test_a_far_end_that_never_confirms_is_waited_for_once(bench: Bench) -> None:
    bench.carrier = _Mute()
    bench.make(close_limit_s=0.2)
    await bench.switchboard.start()
    order = an_order()
    assert MADE == await bench.connect(order)
    began = asyncio.get_running_loop().time()
    await bench.switchboard.close()
    await bench.switchboard.close()
    assert 0.19 < asyncio.get_running_loop().time() - began < 0.35
    await bench.carrier.close()
    assert "completed" == await bench.over(order)


async def test_what_the_last_process_left_is_settled_and_never_dialed_again(bench: Bench) -> None:
    order = an_order()
    # As a process leaves it that is killed after its intent to dial was committed.
    await bench.store.record(order)
    await bench.store.intend_dial(order, A, attempt=1, at=order.created_at)
    bench.make()
    await bench.switchboard.start()
    await bench.switchboard.settle_leftovers()
    record = await bench.store.connection(ConnectionId(order.id))
    assert record is not None
    assert "interrupted" == record.outcome
    assert [("ended", "failed")] == [(leg.state, leg.reason) for leg in record.legs if leg.side is A]
    assert [] == bench.carrier.dialed
    assert ["lost_at_restart"] == await bench.events(order)


class ForgetfulCarrier(FakeCarrier):
    async def take_back(self, leftover: Leftover) -> Released:
        raise TypeError("a fault of ours")


async def test_a_leg_that_a_fault_of_ours_keeps_from_being_taken_back_leaves_no_connection_open(bench: Bench) -> None:
    order = an_order()
    await bench.store.record(order)
    await bench.store.intend_dial(order, A, attempt=1, at=order.created_at)
    bench.carrier = ForgetfulCarrier(lambda call: Script())
    bench.make()
    await bench.switchboard.start()
    await bench.switchboard.settle_leftovers()
    record = await bench.store.connection(order.id)
    assert record is not None
    assert "interrupted" == record.outcome
    assert "the far end confirmed no hang-up" in record.legs[0].detail


async def test_one_that_waited_is_begun_whoever_stops_waiting_for_that(bench: Bench) -> None:
    """As the engine of deferred work does when it is ended: the claim is with the database by then."""
    order = an_order(at=utc_now())
    bench.script = lambda call: Script(hangs_up_after_s=0.05 if call.side is B else None)
    await bench.store.record(order, waits=True)
    taking = asyncio.create_task(bench.switchboard.take(order))
    await asyncio.sleep(0)
    taking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taking

    async def dialed() -> bool:
        return bench.carrier.dialed != []

    await until(dialed)
    await bench.switchboard.settle_leftovers()
    assert "completed" == await bench.over(order)


async def test_what_another_node_has_taken_is_hung_up_and_let_go(bench: Bench) -> None:
    order = an_order()
    bench.script = lambda call: Script(answers_after_s=None if call.side is B else 0.0)
    assert MADE == await bench.connect(order)
    bench.store.node, ours = NodeId("another"), bench.store.node
    await bench.store.adopt_strays()
    bench.store.node = ours
    # Whatever happens next is written, and finds that it isn't ours.
    bench.switchboard.happened(order.id, Answered(B))
    await asyncio.wait_for(bench.switchboard.ended(order.id), 5)
    record = await bench.store.connection(order.id)
    assert record is not None
    assert ([], "another", None) == (bench.carrier.live_legs, record.owner, record.outcome)
    assert 0 == bench.switchboard.open_connections


async def test_what_is_gone_from_the_record_is_hung_up_and_let_go(bench: Bench, tmp_path: Path) -> None:
    order = an_order()
    bench.script = lambda call: Script(answers_after_s=None if call.side is B else 0.0)
    assert MADE == await bench.connect(order)
    with closing(sqlite3.connect(tmp_path / "record.db", isolation_level=None)) as other:
        other.execute("PRAGMA foreign_keys = ON")
        other.execute("DELETE FROM connection")
    bench.switchboard.happened(order.id, Answered(B))
    await asyncio.wait_for(bench.switchboard.ended(order.id), 5)
    assert ([], 0) == (bench.carrier.live_legs, bench.switchboard.open_connections)


async def test_a_node_without_its_lease_rings_nobody(bench: Bench) -> None:
    held = True
    bench.make(holds_lease=lambda: held)
    await bench.switchboard.start()
    order = an_order()

    async def lose_it() -> None:
        nonlocal held
        held = False

    bench.letters.answer = lose_it
    assert Answer(AnswerKind.CALL_FAILED, A) == await bench.connect(order)
    assert "interrupted" == await bench.over(order)
    assert [] == bench.carrier.dialed


async def test_a_fault_of_ours_ends_its_own_connection_only(bench: Bench) -> None:
    async def fault() -> None:
        if not bench.carrier.dialed:
            raise ZeroDivisionError

    bench.letters.answer = fault
    first, second = an_order(1), an_order(2)
    assert AnswerKind.MAIL_FAILED is (await bench.connect(first)).kind
    assert "cancelled" == await bench.over(first)
    bench.letters.answer = None
    assert MADE == await bench.connect(second)


# --- repeated requests ---


async def test_a_mail_that_was_accepted_before_a_crash_is_not_sent_again(bench: Bench) -> None:
    order = replace(an_order(2), resumes=an_order(1).id, mailed=True)
    assert MADE == await bench.connect(order)
    assert [] == bench.letters.taken
    assert 2 == len(bench.carrier.dialed)
    record = await bench.store.connection(order.id)
    assert record is not None
    assert "sent" == record.mail


async def test_an_answer_is_had_from_memory_and_from_the_record(bench: Bench) -> None:
    order = an_order()
    bench.script = lambda call: Script(hangs_up_after_s=0.05 if call.side is B else None)
    asked = asyncio.create_task(bench.switchboard.connect(order))

    async def under_way() -> bool:
        return bench.switchboard.open_connections == 1

    await until(under_way)
    live = await asyncio.wait_for(bench.switchboard.answer_of(order.id), 5)
    assert (live and live.answer, await asked) == (MADE, MADE)
    await bench.over(order)
    kept = await asyncio.wait_for(bench.switchboard.answer_of(order.id), 5)
    assert kept is not None
    assert (kept.answer, kept.outcome) == (MADE, "completed")
