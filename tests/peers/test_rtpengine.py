"""rtpengine daemons that come and go, and a whole call through one. The relay's contract runs on it in `contract/`."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from dosvoces import doctor
from dosvoces.carriers import Call
from dosvoces.carriers.sip import SipCarrier
from dosvoces.carriers.trunks import Trunk
from dosvoces.errors import MediaError
from dosvoces.events import Answered, Ended, Unjoined
from dosvoces.media import Lost, RelayEvent
from dosvoces.media.rtpengine import RtpengineRelay, RtpengineSettings
from dosvoces.model import ConnectionId, EndReason, PhoneNumber, Side
from dosvoces.phone import Phone, PhoneBehaviour
from dosvoces.phone.call import PhoneCall
from dosvoces.settings import Settings
from tests.far_ends import Recorder, place
from tests.peers.rtpengine import HOST, Rtpengine
from tests.peers.sipp import free_ports

LIMIT_S = 10.0


def connection(number: int) -> ConnectionId:
    return ConnectionId(f"{number:026}")


@asynccontextmanager
async def started(*daemons: tuple[str, int]) -> AsyncIterator[tuple[RtpengineRelay, list[RelayEvent]]]:
    relay = RtpengineRelay(RtpengineSettings(daemons))
    events: list[RelayEvent] = []
    await relay.start(events.append)
    try:
        yield relay, events
    finally:
        await relay.close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def places(relay: RtpengineRelay, numbers: range) -> list[int]:
    """The ports of A that so many new connections get."""
    return [(await relay.allocate(connection(n), country="ES"))[Side.A].port for n in numbers]


def of(daemon: Rtpengine, ports: list[int]) -> int:
    return sum(daemon.ports[0] <= port <= daemon.ports[1] for port in ports)


async def test_connections_are_spread_and_a_dead_daemon_is_left_out_until_it_is_back() -> None:
    async with Rtpengine.start() as one, Rtpengine.start() as two, started(one.at, two.at) as (relay, events):
        ports = await places(relay, range(4))
        assert (of(one, ports), of(two, ports)) == (2, 2)
        lost_by_one = {connection(n) for n, port in enumerate(ports) if of(one, [port])}
        killed_at = asyncio.get_running_loop().time()
        await one.kill()
        await until(lambda: len(events) == 2)
        assert asyncio.get_running_loop().time() - killed_at < 1.0
        assert {event.connection_id for event in events if isinstance(event, Lost)} == lost_by_one
        assert of(two, await places(relay, range(4, 8))) == 4
        await one.again()
        await until(lambda: all(node.up for node in relay._nodes))
        assert of(one, await places(relay, range(8, 12))) == 4, "it has the fewest"
        assert len(events) == 2


async def test_with_no_daemon_it_starts_and_says_that_none_answers() -> None:
    (port,) = free_ports(1)
    async with started((HOST, port)) as (relay, _events):
        assert not relay.ready
        with pytest.raises(MediaError, match=r"no rtpengine answers: see media\.rtpengine"):
            await relay.allocate(connection(1), country="ES")


async def test_what_a_daemon_lost_by_a_quick_restart_is_told() -> None:
    async with Rtpengine.start() as daemon, started(daemon.at) as (relay, events):
        await relay.allocate(connection(1), country="ES")
        await daemon.again()
        await until(lambda: events)
        assert [type(event) for event in events] == [Lost]


async def test_a_call_through_rtpengine_from_the_tone_to_the_keys() -> None:
    """A hears Spain's ringing tone, then B; B hears A and its keys, and the keys are noted."""
    first = PhoneBehaviour(answer_after_s=0, tone_hz=1000, listen_hz=(425, 800), keys="5#", keys_after_s=1.5)
    second = PhoneBehaviour(answer_after_s=0.5, tone_hz=800, listen_hz=(425, 1000))
    behaviours = {"+34600000001": first, "+34600000002": second}
    async with Rtpengine.start() as daemon, Phone.open(behaviours.get) as phone:
        relay = RtpengineRelay(RtpengineSettings([daemon.at], digits=daemon.digits))
        carrier = SipCarrier(trunks=[Trunk("main", *phone.address)], relay=relay, bind=(HOST, 0))
        told = Recorder()
        await carrier.start(told)
        try:
            legs = [Call(connection(1), s, PhoneNumber(n, n)) for s, n in zip(Side, behaviours, strict=True)]
            await place(carrier, legs[0])
            await told.saw(connection(1), Answered(Side.A))
            carrier.play_ringing(legs[0].id)
            await place(carrier, legs[1])
            await told.saw(connection(1), Answered(Side.B))
            await carrier.join(connection(1))
            a, b = phone.calls
            await until(lambda: heard(a, 425) and heard(a, 800) and heard(b, 1000) and b.heard.keys == "5#")
            await told.until(lambda: len(told.notes_of(connection(1), "digit", Side.A)) == 2)
            for leg in legs:
                carrier.hangup(leg.id)
            await told.until(lambda: told.notes_of(connection(1), "statistics", Side.B))
            (statistics,) = told.notes_of(connection(1), "statistics", Side.B)
            assert min(int(statistics.facts[name] or 0) for name in ("received", "sent")) > 20
        finally:
            await carrier.close()


def heard(call: PhoneCall, hz: int) -> bool:
    return any(span.frequency_hz == hz for span in call.heard.timeline())


async def test_a_daemon_that_dies_in_a_call_ends_it_truthfully() -> None:
    async with Rtpengine.start() as daemon, Phone.open(PhoneBehaviour(answer_after_s=0)) as phone:
        relay = RtpengineRelay(RtpengineSettings([daemon.at]))
        carrier = SipCarrier(trunks=[Trunk("main", *phone.address)], relay=relay, bind=(HOST, 0))
        told = Recorder()
        await carrier.start(told)
        try:
            leg = Call(connection(1), Side.A, PhoneNumber("+34600000001", "+34600000001"))
            await place(carrier, leg)
            await told.saw(connection(1), Answered(Side.A))
            assert carrier.problems() == []
            await daemon.kill()
            await told.until(lambda: any(isinstance(event, Unjoined) for _, event in told.events))
            assert carrier.problems() == ["no rtpengine of [media] rtpengine answers"], "the next one is told 503"
            carrier.hangup(leg.id)
            await told.saw(connection(1), Ended(Side.A, EndReason.HANGUP))
        finally:
            await carrier.close()


async def test_check_asks_each_daemon() -> None:
    (port,) = free_ports(1)
    async with Rtpengine.start() as daemon:
        nodes = [f"{HOST}:{daemon.at[1]}", f"{HOST}:{port}"]
        settings = Settings.model_validate({"media": {"relay": "rtpengine", "rtpengine": nodes}})
        findings = await doctor._rtpengines(settings)
    assert [(f.level, f.text.partition(" is gone")[0]) for f in findings] == [
        (doctor.Level.OK, f"{nodes[0]} answers"),
        (doctor.Level.WARNING, f"rtpengine {nodes[1]}"),
    ]
