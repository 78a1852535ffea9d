"""The contract of `Carrier`, clause by clause, on every driver that places calls."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import pytest

from dosvoces.carriers import Carrier, Leftover, Released
from dosvoces.errors import CarrierError, NotAllowed, NotOurs
from dosvoces.events import Answered, Dialed, Ended, Event, Ringing, Unjoined, Unreached
from dosvoces.model import ConnectionId, EndReason, Facts, LegId, Side
from dosvoces.testing import A, B, until
from tests.far_ends import FAR_ENDS, LIMIT_S, Does, FarEnd, Recorder, a_call, place
from tests.peers.trial import Belongings

ONE = ConnectionId(f"{1:026d}")
SOON_S = 0.1
"""How long a test waits for what must not come."""


@dataclass
class Bench:
    """A started carrier, its far end, and all that it told."""

    carrier: Carrier
    far: FarEnd
    told: Recorder

    async def dial(self, does: Does, side: Side = A, *, number: int = 1) -> LegId:
        call = a_call(number, side, does)
        await place(self.carrier, call)
        return call.id

    async def up(self, side: Side = A, *, number: int = 1, does: Does = Does.ANSWERS) -> LegId:
        """An answered leg."""
        leg = await self.dial(does, side, number=number)
        await self.told.saw(ConnectionId(f"{number:026d}"), Answered(side))
        return leg

    async def joined(self) -> tuple[LegId, LegId]:
        legs = await self.up(A), await self.up(B)
        await self.carrier.join(ONE)
        return legs

    async def over(self, side: Side = A) -> None:
        await self.told.until(lambda: any(isinstance(e, Ended) and e.side is side for e in self.told.of(ONE)))

    async def quiet(self) -> None:
        """Wait until nobody is left on a line at the far end."""

        async def silent() -> bool:
            return self.far.up() == 0

        await until(silent)


@pytest.fixture(params=FAR_ENDS)
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """What is true after every test: each leg dialled ended once and last, and nothing of the driver is left."""
    async with FAR_ENDS[request.param]() as far:
        before = Belongings.now()
        told = Recorder()
        await far.carrier.start(told)
        made = Bench(far.carrier, far, told)
        yield made
        await far.carrier.close()
        await made.quiet()

        def left() -> list[str]:
            # The end of a fixture runs in a task of its own.
            return [thing for thing in before.left_over() if str(id(asyncio.current_task())) not in thing]

        async def nothing_left() -> bool:
            return not left()

        with suppress(TimeoutError):
            await until(nothing_left, limit_s=2)
        assert left() == []
        assert ends_wrong(told) == []


def ends_wrong(told: Recorder) -> list[tuple[ConnectionId, Side, list[Event]]]:
    """The legs with events that have not exactly one `Ended`, at the end."""
    wrong = []
    for connection in {connection for connection, _event in told.events}:
        for side in Side:
            events = [event for event in told.of(connection) if getattr(event, "side", None) is side]
            ends = [isinstance(event, Ended) for event in events]
            if events and ends != [False] * (len(events) - 1) + [True]:
                wrong.append((connection, side, events))
    return wrong


# --- our id on the wire ---


async def test_our_id_on_the_wire(bench: Bench) -> None:
    leg = await bench.dial(Does.CROSSES)
    await bench.told.saw(ONE, Ringing(A))
    assert bench.far.ids() == [leg]


async def test_an_early_event_finds_its_leg(bench: Bench) -> None:
    does = [Does.ANSWERS, Does.RINGS, Does.BUSY, Does.DECLINES, Does.GONE]
    await asyncio.gather(*(bench.dial(each, number=number) for number, each in enumerate(does)))
    expected: dict[int, list[Event]] = {
        0: [Dialed(A), Ringing(A), Answered(A)],
        1: [Dialed(A), Ringing(A)],
        2: [Dialed(A), Ended(A, EndReason.BUSY)],
        3: [Dialed(A), Ended(A, EndReason.REJECTED)],
        4: [Dialed(A), Ended(A, EndReason.UNREACHABLE)],
    }
    await bench.told.until(lambda: len(bench.told.events) >= sum(map(len, expected.values())))
    assert {number: bench.told.of(ConnectionId(f"{number:026d}")) for number in expected} == expected


# --- raises only if nothing left ---


async def test_raises_only_if_nothing_left(bench: Bench) -> None:
    with pytest.raises(CarrierError):
        await bench.dial(Does.NO_WAY)
    await asyncio.sleep(SOON_S)
    assert (bench.told.events, bench.far.up()) == ([], 0)


async def test_asked_last(bench: Bench) -> None:
    """A process that was frozen on its way sends nothing any more, and keeps nothing."""
    call = replace(a_call(1, A, Does.ANSWERS), may_leave=lambda: False)
    with pytest.raises(NotOurs):
        await place(bench.carrier, call)
    await asyncio.sleep(SOON_S)
    assert (bench.told.events, bench.far.up(), bench.far.ids()) == ([], 0, [])


async def test_a_trunk_that_has_no_room_is_avoided(bench: Bench) -> None:
    call = a_call(1, A, Does.ANSWERS)
    names = bench.carrier.trunks(call.number)
    assert bench.carrier.prepare(call).trunk == names[0]
    with pytest.raises(CarrierError):
        bench.carrier.prepare(replace(call, avoid=tuple(names)))


async def test_a_dial_that_raised_leaves_the_other_leg_as_it_is(bench: Bench) -> None:
    await bench.up(A)
    with pytest.raises(CarrierError):
        await bench.dial(Does.NO_WAY, B)
    assert bench.told.of(ONE)[-1] == Answered(A)
    assert bench.far.up() == 1


# --- a dial can be taken back ---


async def test_a_dial_can_be_taken_back_by_what_was_prepared(bench: Bench) -> None:
    """The first process hears of it here; where it is really dead: `tests/peers/test_crash_points.py`."""
    plan = await place(bench.carrier, a_call(1, A, Does.RINGS))
    await bench.told.saw(ONE, Ringing(A))
    async with bench.far.next_process() as (carrier, told):
        taking_back = asyncio.create_task(carrier.take_back(Leftover(ONE, A, dials=[plan.facts])))
        await bench.over()
        await bench.quiet()
        taking_back.cancel()
        assert told.events == []


async def test_a_dial_can_be_taken_back_that_never_left(bench: Bench) -> None:
    plan = bench.carrier.prepare(a_call(1, A, Does.ANSWERS))
    async with bench.far.next_process() as (carrier, told):
        released = await asyncio.wait_for(carrier.take_back(Leftover(ONE, A, dials=[plan.facts])), LIMIT_S)
        assert (released, told.events) == (Released.NOTHING, [])
    assert (bench.far.up(), bench.far.rung(Does.ANSWERS)) == (0, 0)


async def test_what_is_prepared_names_its_trunk_and_sends_nothing(bench: Bench) -> None:
    plan = bench.carrier.prepare(a_call(1, A, Does.ANSWERS))
    await asyncio.sleep(SOON_S)
    assert (bench.far.rung(Does.ANSWERS), bench.told.events) == (0, [])
    assert plan.trunk != ""
    assert json.loads(json.dumps(plan.facts)) == plan.facts


# --- exactly one end ---


@pytest.mark.parametrize(
    ("does", "expected"),
    [
        (Does.BUSY, [Dialed(A), Ended(A, EndReason.BUSY)]),
        (Does.DECLINES, [Dialed(A), Ended(A, EndReason.REJECTED)]),
        (Does.GONE, [Dialed(A), Ended(A, EndReason.UNREACHABLE)]),
        (Does.LEAVES, [Dialed(A), Ringing(A), Answered(A), Ended(A, EndReason.HANGUP)]),
    ],
    ids=lambda value: value.name if isinstance(value, Does) else "",
)
async def test_exactly_one_end_by_the_far_end(bench: Bench, does: Does, expected: list[Event]) -> None:
    await bench.dial(does)
    await bench.over()
    await asyncio.sleep(SOON_S)
    assert bench.told.of(ONE) == expected


@pytest.mark.parametrize(
    ("does", "until_then", "reason"),
    [(Does.RINGS, Ringing(A), EndReason.CANCELLED), (Does.ANSWERS, Answered(A), EndReason.HANGUP)],
    ids=["ringing", "answered"],
)
async def test_exactly_one_end_by_us(bench: Bench, does: Does, until_then: Event, reason: EndReason) -> None:
    leg = await bench.dial(does)
    await bench.told.saw(ONE, until_then)
    bench.carrier.hangup(leg)
    await bench.over()
    await bench.quiet()
    assert bench.told.of(ONE)[-2:] == [until_then, Ended(A, reason)]


async def test_each_leg_has_its_own_end(bench: Bench) -> None:
    a, b = await bench.joined()
    bench.carrier.hangup(a)
    await bench.over(A)
    assert not any(event == Ended(B, EndReason.HANGUP) for event in bench.told.of(ONE))
    assert bench.far.up() == 1
    bench.carrier.hangup(b)
    await bench.over(B)
    assert bench.told.of(ONE)[-2:] == [Ended(A, EndReason.HANGUP), Ended(B, EndReason.HANGUP)]


# --- unreached is certain, ways are not repeated ---


async def test_unreached_is_told_where_another_way_is_left_and_that_is_taken(bench: Bench) -> None:
    call = a_call(1, A, Does.DETOUR)
    await place(bench.carrier, call)
    await bench.told.until(lambda: any(isinstance(event, Unreached) for event in bench.told.of(ONE)))
    first, unreached = bench.told.of(ONE)
    assert isinstance(unreached, Unreached)
    assert (first, bench.far.up()) == (Dialed(A), 0)
    await place(bench.carrier, replace(call, attempt=2, avoid=(unreached.way,)))
    await bench.told.saw(ONE, Answered(A))
    assert bench.told.of(ONE)[2:] == [Dialed(A), Ringing(A), Answered(A)]
    bench.carrier.hangup(call.id)
    await bench.over()


async def test_ways_are_not_repeated_and_the_last_one_is_the_end(bench: Bench) -> None:
    """Where nobody is and no other way is left, the leg ends like any other."""
    await bench.dial(Does.GONE)
    await bench.over()
    assert bench.told.of(ONE) == [Dialed(A), Ended(A, EndReason.UNREACHABLE)]


async def test_unreached_never_follows_a_hang_up(bench: Bench) -> None:
    call = a_call(1, A, Does.DETOUR)
    bench.told.reaction = lambda _connection, event: bench.carrier.hangup(call.id) if event == Dialed(A) else None
    await place(bench.carrier, call)
    await bench.over()
    assert bench.told.of(ONE) == [Dialed(A), Ended(A, EndReason.CANCELLED)]


# --- hang-up in any state ---


async def test_hangup_in_any_state_of_an_unknown_leg(bench: Bench) -> None:
    for unknown in (LegId(f"{9:026d}-a"), LegId("x"), LegId(""), LegId(f"{1:026d}-c")):
        bench.carrier.hangup(unknown)
    await asyncio.sleep(0)
    assert bench.told.events == []


async def test_hangup_in_any_state_before_the_leg_is_known(bench: Bench) -> None:
    """The leg isn't the driver's before `dial` has come to it: whoever hung up too early does it again."""
    dialing = asyncio.create_task(bench.dial(Does.RINGS))
    bench.carrier.hangup(a_call(1, A, Does.RINGS).id)
    await asyncio.sleep(0)
    bench.carrier.hangup(a_call(1, A, Does.RINGS).id)
    bench.carrier.hangup(await dialing)
    await bench.over()
    await bench.quiet()
    assert bench.told.of(ONE)[-1] == Ended(A, EndReason.CANCELLED)


@pytest.mark.parametrize("moment", [Dialed(A), Ringing(A), Answered(A)], ids=lambda event: type(event).__name__)
async def test_hangup_in_any_state_from_within_the_event(bench: Bench, moment: Event) -> None:
    leg = a_call(1, A, Does.ANSWERS).id
    bench.told.reaction = lambda _connection, event: bench.carrier.hangup(leg) if event == moment else None
    await bench.dial(Does.ANSWERS)
    # A dial that is on its way to the far end when it is hung up ends like any other.
    bench.carrier.hangup(leg)
    await bench.over()
    await bench.quiet()
    assert moment == Answered(A) or Answered(A) not in bench.told.of(ONE)


async def test_hangup_in_any_state_right_after_the_dial(bench: Bench) -> None:
    bench.carrier.hangup(await bench.dial(Does.ANSWERS))
    await bench.over()
    await bench.quiet()
    assert bench.told.of(ONE)[-1] == Ended(A, EndReason.CANCELLED)


@pytest.mark.parametrize("does", [Does.RINGS, Does.ANSWERS], ids=lambda does: str(does.name))
async def test_hangup_in_any_state_is_idempotent(bench: Bench, does: Does) -> None:
    leg = await bench.dial(does)
    await bench.told.saw(ONE, Answered(A) if does is Does.ANSWERS else Ringing(A))
    for _ in range(3):
        bench.carrier.hangup(leg)
    await bench.over()
    bench.carrier.hangup(leg)
    await asyncio.sleep(SOON_S)
    assert sum(isinstance(event, Ended) for event in bench.told.of(ONE)) == 1


async def test_hangup_in_any_state_after_the_far_end_hung_up(bench: Bench) -> None:
    leg = a_call(1, A, Does.LEAVES).id
    bench.told.reaction = lambda _connection, event: bench.carrier.hangup(leg) if isinstance(event, Ended) else None
    await bench.dial(Does.LEAVES)
    await bench.over()
    await asyncio.sleep(SOON_S)
    assert bench.told.of(ONE)[-1] == Ended(A, EndReason.HANGUP)


# --- answer after hang-up ---


async def test_answer_after_hangup_is_hung_up_and_not_told(bench: Bench) -> None:
    leg = await bench.dial(Does.CROSSES)
    await bench.told.saw(ONE, Ringing(A))
    bench.carrier.hangup(leg)
    bench.far.cross()
    await bench.over()
    await bench.quiet()
    await asyncio.sleep(SOON_S)
    assert bench.told.of(ONE) == [Dialed(A), Ringing(A), Ended(A, EndReason.CANCELLED)]


# --- join needs both ---


async def test_join_needs_both_legs_answered(bench: Bench) -> None:
    async def refused() -> bool:
        with pytest.raises(CarrierError):
            await bench.carrier.join(ONE)
        return True

    assert await refused()
    await bench.up(A)
    assert await refused()
    ringing = await bench.dial(Does.RINGS, B)
    await bench.told.saw(ONE, Ringing(B))
    assert await refused()
    bench.carrier.hangup(ringing)
    await bench.over(B)
    assert await refused()


async def test_join_needs_both_legs_still_there(bench: Bench) -> None:
    a, _b = await bench.up(A), await bench.up(B)
    bench.carrier.hangup(a)
    await bench.over(A)
    with pytest.raises(CarrierError):
        await bench.carrier.join(ONE)


async def test_ringing_is_played_until_the_join(bench: Bench) -> None:
    """What is heard is the media relay's contract; here it is that no state makes the order a fault."""
    a = await bench.up(A)
    bench.carrier.play_ringing(LegId("unknown"))
    bench.carrier.play_ringing(a)
    await bench.up(B)
    await bench.carrier.join(ONE)
    bench.carrier.hangup(a)
    await bench.over(A)
    # Late: the leg has gone.
    bench.carrier.play_ringing(a)


# --- unjoined is told ---


async def test_unjoined_is_told_once_and_the_legs_stay_up(bench: Bench) -> None:
    legs = await bench.joined()
    before = len(bench.told.of(ONE))
    await bench.far.lose_media(ONE)

    def lost() -> list[Event]:
        return bench.told.of(ONE)[before:]

    await bench.told.until(lost)
    await asyncio.sleep(SOON_S)
    assert [type(event) for event in lost()] == [Unjoined]
    assert bench.far.up() == 2
    for leg in legs:
        bench.carrier.hangup(leg)
    await bench.over(A)
    await bench.over(B)
    await bench.quiet()


async def test_unjoined_is_told_and_the_next_connection_can_be_made(bench: Bench) -> None:
    await bench.joined()
    await bench.far.lose_media(ONE)
    await bench.told.until(lambda: any(isinstance(event, Unjoined) for event in bench.told.of(ONE)))
    await bench.up(A, number=2)
    await bench.up(B, number=2)
    await bench.carrier.join(ConnectionId(f"{2:026d}"))


# --- caller ids are ours ---


async def test_caller_ids_are_ours(bench: Bench) -> None:
    number = Does.ANSWERS.number
    bench.carrier.check_caller_id(number, "+34910000000")
    with pytest.raises(NotAllowed):
        bench.carrier.check_caller_id(number, "+34910000009")


# --- no policy ---


@pytest.mark.parametrize("does", [Does.BUSY, Does.DECLINES], ids=lambda does: str(does.name))
async def test_no_policy_of_dialling_again(bench: Bench, does: Does) -> None:
    await bench.dial(does)
    await bench.over()
    await asyncio.sleep(SOON_S)
    assert bench.far.rung(does) == 1


# --- close ---


@pytest.mark.parametrize("state", ["ringing", "answered", "joined", "dialling"])
async def test_close_hangs_up_what_is_left(bench: Bench, state: str) -> None:
    expected: dict[str, Callable[[], list[Event]]] = {
        "ringing": lambda: [Ended(A, EndReason.CANCELLED)],
        "dialling": lambda: [Ended(A, EndReason.CANCELLED)],
        "answered": lambda: [Ended(A, EndReason.HANGUP)],
        "joined": lambda: [Ended(A, EndReason.HANGUP), Ended(B, EndReason.HANGUP)],
    }
    match state:
        case "ringing":
            await bench.dial(Does.RINGS)
            await bench.told.saw(ONE, Ringing(A))
        case "dialling":
            await bench.dial(Does.RINGS)
        case "answered":
            await bench.up()
        case "joined":
            await bench.joined()
    await bench.carrier.close()
    await bench.quiet()
    ends = [event for event in bench.told.of(ONE) if isinstance(event, Ended)]
    assert sorted(ends, key=lambda end: end.side) == expected[state]()
    await bench.carrier.close()


async def test_close_before_any_call(bench: Bench) -> None:
    assert bench.carrier.problems() == []
    await bench.carrier.close()
    await bench.carrier.close()


# --- leftovers are released ---


async def test_leftovers_are_released_without_an_event(bench: Bench) -> None:
    """That they are released is seen with a driver that has somebody to release: test_carriers_sip."""
    useless: list[Facts] = [{}, {"destination": "somewhere"}]
    for facts in useless:
        assert await bench.carrier.take_back(Leftover(ONE, A, dialog=facts)) in (
            Released.NOTHING,
            Released.UNCONFIRMED,
        )
        await bench.carrier.take_back(Leftover(ONE, A, dials=[facts]))
    assert await bench.carrier.take_back(Leftover(ONE, A)) is Released.NOTHING
    await asyncio.sleep(SOON_S)
    assert (bench.told.events, bench.far.up()) == ([], 0)
