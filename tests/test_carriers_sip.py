"""The SIP driver beside its contract: reasons, codecs, hold, trunks, notes, and far ends that don't behave."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from dosvoces.capture import unpack
from dosvoces.carriers import Call, Leftover, Released
from dosvoces.carriers.dns import Dns
from dosvoces.carriers.sip import SipCarrier
from dosvoces.carriers.trunks import Trunk
from dosvoces.errors import CarrierError
from dosvoces.events import Answered, Dialed, Ended, Ringing
from dosvoces.media.relay import MediaSettings, WorkerRelay
from dosvoces.model import ConnectionId, EndReason, Note, PhoneNumber, Side, leg_id
from dosvoces.phone import Phone, PhoneBehaviour
from dosvoces.phone.call import PhoneCall
from dosvoces.sip import sdp
from dosvoces.sip.api import Address, EndCause
from dosvoces.testing import A, B
from tests.dns_server import DnsServer
from tests.far_ends import (
    HOST,
    LIMIT_S,
    Does,
    Exchange,
    Party,
    Recorder,
    SipFarEnd,
    a_call,
    media_ports,
    place,
    sip_far_end,
)

ONE = ConnectionId(f"{1:026d}")


class Bench:
    """A started SIP carrier with both its far ends."""

    def __init__(self, far: SipFarEnd) -> None:
        self.far = far
        self.sip = far.sip
        self.told = Recorder()

    async def party(self, side: Side, *codecs: sdp.Codec) -> Party:
        """A party at the exchange that has answered with the first of `codecs` that it was offered."""
        party = await self.rung(side)
        party.answer(*codecs)
        await self.told.saw(ONE, Answered(side))
        await asyncio.wait_for(party.confirmed.wait(), LIMIT_S)
        return party

    async def rung(self, side: Side) -> Party:
        await place(self.sip, a_call(1, side, Does.CROSSES))
        await self.told.saw(ONE, Ringing(side))
        return self.far.exchange.parties[-1]

    async def ended(self, side: Side) -> Ended:
        def end() -> list[Ended]:
            return [e for c, e in self.told.events if c == ONE and isinstance(e, Ended) and e.side is side]

        await self.told.until(end)
        return end()[0]


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with sip_far_end() as far:
        made = Bench(far)
        await far.sip.start(made.told)
        yield made
        await far.sip.close()
        assert far.sip.open_sessions == 0


@asynccontextmanager
async def started(*trunks: Trunk, close_timeout_s: float = 1.0) -> AsyncIterator[tuple[SipCarrier, Recorder]]:
    carrier = a_carrier(*trunks, close_timeout_s=close_timeout_s)
    told = Recorder()
    await carrier.start(told)
    try:
        yield carrier, told
    finally:
        await carrier.close()


def a_carrier(
    *trunks: Trunk, bind: Address = (HOST, 0), close_timeout_s: float = 1.0, dns: Dns | None = None
) -> SipCarrier:
    relay = WorkerRelay(MediaSettings(bind_host=HOST, advertised_host=HOST, port_range=media_ports()))
    return SipCarrier(trunks=trunks, relay=relay, bind=bind, close_timeout_s=close_timeout_s, dns=dns)


def a_number(e164: str) -> PhoneNumber:
    return PhoneNumber(e164, e164)


def to(number: str, side: Side = A) -> Call:
    return Call(ONE, side, a_number(number))


# --- reasons ---

REASONS = {
    (486, "Busy Here"): EndReason.BUSY,
    (600, "Busy Everywhere"): EndReason.BUSY,
    (408, "Request Timeout"): EndReason.NO_ANSWER,
    (480, "Temporarily Unavailable"): EndReason.NO_ANSWER,
    (403, "Forbidden"): EndReason.REJECTED,
    (603, "Decline"): EndReason.REJECTED,
    (404, "Not Found"): EndReason.UNREACHABLE,
    (410, "Gone"): EndReason.UNREACHABLE,
    (484, "Address Incomplete"): EndReason.UNREACHABLE,
    (604, "Does Not Exist Anywhere"): EndReason.UNREACHABLE,
    (302, "Moved Temporarily"): EndReason.FAILED,
    (400, "Bad Request"): EndReason.FAILED,
    (401, "Unauthorized"): EndReason.FAILED,
    (407, "Proxy Authentication Required"): EndReason.FAILED,
    (487, "Request Terminated"): EndReason.FAILED,
    (488, "Not Acceptable Here"): EndReason.FAILED,
    (500, "Server Internal Error"): EndReason.FAILED,
    (503, "Service Unavailable"): EndReason.FAILED,
}


async def test_each_status_has_its_reason_and_its_own_words() -> None:
    def refuse(number: str) -> PhoneBehaviour:
        status = next(status for status in REASONS if number.endswith(str(status[0])))
        return PhoneBehaviour(reject=status)

    async with Phone.open(refuse) as phone, started(Trunk("phone", *phone.address)) as (carrier, told):
        for status, _phrase in REASONS:
            await place(carrier, Call(ConnectionId(f"{status:026d}"), A, a_number(f"+34600000{status}")))
        await told.until(lambda: len(told.events) == 2 * len(REASONS))
    ends = {int(connection): event for connection, event in told.events if isinstance(event, Ended)}
    assert ends == {status: Ended(A, reason, f"{status} {phrase}") for (status, phrase), reason in REASONS.items()}


async def test_a_port_where_nobody_listens_is_unreachable(bench: Bench) -> None:
    await place(bench.sip, a_call(1, A, Does.GONE))
    end = await bench.ended(A)
    assert end.reason is EndReason.UNREACHABLE
    assert end.detail


# --- what is offered and agreed ---


async def test_the_first_is_offered_what_we_can_ring_in(bench: Bench) -> None:
    party = await bench.rung(A)
    audio = party.offer.media[0]
    assert (audio.codecs, audio.events) == ((sdp.PCMA, sdp.PCMU), (sdp.TELEPHONE_EVENT,))


@pytest.mark.parametrize(("codec", "other"), [(sdp.PCMA, sdp.PCMU), (sdp.PCMU, sdp.PCMA)], ids=["PCMA", "PCMU"])
async def test_the_second_is_offered_first_what_the_first_speaks(
    bench: Bench, codec: sdp.Codec, other: sdp.Codec
) -> None:
    await bench.party(A, codec, sdp.TELEPHONE_EVENT)
    audio = (await bench.rung(B)).offer.media[0]
    assert (audio.codecs, audio.events) == ((codec, other), (sdp.TELEPHONE_EVENT,))


@pytest.mark.parametrize("answer", [b"", b"hello", sdp.offer(HOST, 40_000, [sdp.G722], session_id=1)])
async def test_an_answer_without_media_for_us_is_hung_up_and_no_answer(bench: Bench, answer: bytes) -> None:
    party = await bench.rung(A)
    party.incoming.answer(answer)
    end = await bench.ended(A)
    await asyncio.wait_for(party.over.wait(), LIMIT_S)
    assert end.reason is EndReason.FAILED
    assert end.detail.startswith("no media: ")
    assert party.end is not None
    assert (party.end.cause, party.end.by) == (EndCause.HANGUP, "remote")
    assert bench.told.of(ONE) == [Dialed(A), Ringing(A), Ended(A, EndReason.FAILED)]


async def test_early_media_is_ringing() -> None:
    """183 is all that many gateways ever send."""
    early = sdp.offer(HOST, 40_000, [sdp.PCMA], session_id=1)
    async with Exchange.open(lambda incoming: incoming.progress(early)) as exchange:
        async with started(Trunk("gateway", *exchange.agent.local)) as (carrier, told):
            await place(carrier, to("+34600000001"))
            await told.saw(ONE, Ringing(A))


# --- hold and resume ---


async def test_hold_and_resume_are_answered_and_noted(bench: Bench) -> None:
    await bench.party(A)
    party = await bench.party(B)
    answers = []
    for version, direction in enumerate((sdp.Direction.SENDONLY, sdp.Direction.SENDRECV, sdp.Direction.INACTIVE), 2):
        changed: asyncio.Future[tuple[int | None, bytes]] = asyncio.get_running_loop().create_future()
        offer = sdp.offer(HOST, party.port, [sdp.PCMA], session_id=1, version=version, direction=direction)
        party.incoming.reinvite(offer, lambda status, body, to=changed: to.set_result((status, body)))  # type: ignore[misc]
        status, body = await asyncio.wait_for(changed, LIMIT_S)
        answered = sdp.parse(body)
        answers.append((status, answered.media[0].direction, answered.version))
    assert answers == [(200, "recvonly", "2"), (200, "sendrecv", "3"), (200, "inactive", "4")]
    assert [note.kind for _, note in bench.told.notes if note.kind in ("hold", "resume")] == ["hold", "resume", "hold"]
    assert {note.side for _, note in bench.told.notes if note.kind in ("hold", "resume")} == {B}


async def test_an_offer_that_we_cannot_take_changes_nothing(bench: Bench) -> None:
    party = await bench.party(A)
    changed: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
    offer = sdp.offer(HOST, party.port, [sdp.G722], session_id=1, version=2)
    party.incoming.reinvite(offer, lambda status, _body: changed.set_result(status))
    assert await asyncio.wait_for(changed, LIMIT_S) == 488
    assert len(bench.told.notes_of(ONE, "offer_refused", A)) == 1
    assert bench.told.of(ONE)[-1] == Answered(A)


# --- trunks ---


async def test_the_first_trunk_whose_prefix_fits_takes_the_call() -> None:
    async with Exchange.open() as one, Exchange.open() as other:
        trunks = [
            Trunk("one", *one.agent.local, prefixes=("+34600", "+351")),
            Trunk("other", *other.agent.local, prefixes=("+",), caller_id="+34910000000"),
        ]
        async with started(*trunks) as (carrier, _told):
            for number, e164 in enumerate(("+34600000001", "+34960000002", "+351912345678")):
                await place(carrier, Call(ConnectionId(f"{number:026d}"), A, a_number(e164)))
            await one.party(1)
            party = await other.party(0)
            uri = f"@{HOST}:{other.agent.local[1]}"
            assert party.incoming.to_uri == party.incoming.request_uri == f"sip:+34960000002{uri}"
            assert party.incoming.from_uri == f"sip:+34910000000{uri}"
    assert sorted(party.incoming.request_uri[4:17] for party in one.parties) == ["+34600000001@", "+351912345678"]
    assert len(other.parties) == 1


async def test_a_number_that_no_trunk_takes_is_a_clear_error(bench: Bench) -> None:
    with pytest.raises(CarrierError) as caught:
        await place(bench.sip, a_call(1, A, Does.NO_WAY))
    assert str(caught.value) == "no trunk takes +34607•••001: see the trunks' prefixes"
    assert caught.value.permanent


async def test_without_trunks_nothing_is_opened_and_that_is_told() -> None:
    async with started() as (carrier, _told):
        assert carrier.problems() == ["no trunk is configured: add [[trunks]] to dosvoces.toml"]


async def test_a_trunk_without_an_address_is_down_and_no_reason_not_to_start() -> None:
    async with DnsServer.open() as server:
        carrier = a_carrier(Trunk("main", "sip.nowhere.invalid", 5060), dns=server.dns)
        await carrier.start(Recorder())
        expected = "trunk main can't be found: sip.nowhere.invalid has no address"
        assert carrier.problems() == ["no trunk is up", expected]
        with pytest.raises(CarrierError) as caught:
            await place(carrier, a_call(1, A, Does.ANSWERS))
        assert str(caught.value) == f"no trunk is up for +34600•••001; {expected}"
        await carrier.close()


async def test_a_taken_port_is_a_clear_error_at_start() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind((HOST, 0))
        port = taken.getsockname()[1]
        carrier = a_carrier(Trunk("main", HOST, 5060), bind=(HOST, port))
        with pytest.raises(CarrierError) as caught:
            await carrier.start(Recorder())
        await carrier.close()
    assert str(caught.value).startswith(f"can't listen for SIP on {HOST}:{port}: ")
    assert str(caught.value).endswith("; change sip.bind or free the port")


# --- notes ---


@asynccontextmanager
async def two_phones(behaviour: PhoneBehaviour) -> AsyncIterator[tuple[SipCarrier, Recorder, Phone]]:
    """Both sides up and joined."""
    async with Phone.open(behaviour) as phone, started(Trunk("phone", *phone.address)) as (carrier, told):
        for side in Side:
            await place(carrier, to(f"+3460000000{1 if side is A else 2}", side))
            await told.saw(ONE, Answered(side))
        await carrier.join(ONE)
        yield carrier, told, phone


async def test_keys_are_noted() -> None:
    behaviour = PhoneBehaviour(answer_after_s=0, keys="5#", keys_after_s=0.05)
    async with two_phones(behaviour) as (_carrier, told, phone):
        await told.until(lambda: all(len(told.notes_of(ONE, "digit", side)) == 2 for side in Side))

        def heard(call: PhoneCall) -> bool:
            return call.heard.keys == "5#"

        async with asyncio.timeout(LIMIT_S):
            while not all(map(heard, phone.calls)):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    for side in Side:
        assert [note.facts["digit"] for note in told.notes_of(ONE, "digit", side)] == ["5", "#"]


async def test_what_a_far_end_can_make_without_end_is_not_all_recorded(bench: Bench) -> None:
    """Keys at a thousand a second would fill the disk; what hanging up and accounting need is still noted."""
    party = await bench.rung(A)
    for _ in range(3):
        party.incoming.ring()
    party.answer()
    await bench.told.saw(ONE, Answered(A))
    leg = bench.sip._sessions[ONE].legs[A]
    for _ in range(1_500):
        leg.on_info("application/dtmf-relay", b"Signal=5\r\nDuration=100\r\n")
    assert len(bench.told.notes_of(ONE, "digit", A)) == 1_000
    assert bench.told.of(ONE) == [Dialed(A), Ringing(A), Answered(A)]
    second = await bench.party(B)
    assert len(bench.told.notes_of(ONE, "dialog", B)) == 1
    second.incoming.hangup()
    bench.sip.hangup(to("", A).id)
    await bench.told.until(lambda: all(bench.told.notes_of(ONE, "statistics", side) for side in Side))


async def test_statistics_are_noted_at_the_end() -> None:
    async with two_phones(PhoneBehaviour(answer_after_s=0, tone_hz=1000)) as (carrier, told, phone):
        async with asyncio.timeout(LIMIT_S):
            while any(call.heard.packets < 20 for call in phone.calls):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        for side in Side:
            carrier.hangup(to("", side).id)
        await told.until(lambda: all(told.notes_of(ONE, "statistics", side) for side in Side))
        for side in Side:
            (note,) = told.notes_of(ONE, "statistics", side)
            assert list(note.facts) == ["received", "sent", "lost", "jitter_ms", "refused"]
            assert int(note.facts["received"] or 0) >= 20
            assert int(note.facts["sent"] or 0) >= 20
            assert note.facts["lost"] == 0
            # The phone speaks as it answers: what overtakes its 200 comes from a stranger still.
            assert int(note.facts["refused"] or 0) <= 3
            (source,) = told.notes_of(ONE, "media_source", side)
            assert source.facts["host"] == HOST


async def test_what_it_takes_to_hang_up_is_noted_before_the_answer_is_told(bench: Bench) -> None:
    """After a crash the dialog's facts are needed for every leg that may have been up."""
    noted: list[bool] = []
    bench.told.reaction = lambda _connection, event: (
        noted.append(bool(bench.told.notes_of(ONE, "dialog", A))) if event == Answered(A) else None
    )
    party = await bench.party(A)
    assert noted == [True]
    (note,) = bench.told.notes_of(ONE, "dialog", A)
    assert note.facts["call_id"] == party.incoming.call_id
    assert str(note.facts["call_id"]).startswith(f"{ONE}-a-")


class SlowRecord(Recorder):
    """Has nothing on disk until it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.unkept: list[Callable[[], None]] = []

    def noted(self, connection_id: ConnectionId, note: Note, kept: Callable[[], None] | None = None) -> None:
        super().noted(connection_id, note)
        if kept is not None:
            self.unkept.append(kept)


async def test_the_ack_waits_for_a_disk_that_takes_its_time() -> None:
    """Killed after the ACK and before the dialog is on disk, nobody would know of the call any more."""
    async with sip_far_end() as far:
        bench = Bench(far)
        told = bench.told = SlowRecord()
        await far.sip.start(told)
        party = await bench.rung(A)
        party.answer()
        await told.saw(ONE, Answered(A))
        await asyncio.sleep(1.0)  # in which the far end repeats its answer
        assert not party.confirmed.is_set()
        for kept in told.unkept:
            kept()
        await asyncio.wait_for(party.confirmed.wait(), LIMIT_S)
        await far.sip.close()


# --- what an earlier process left ---


async def test_a_leftover_is_hung_up_by_the_note_of_its_dialog(bench: Bench) -> None:
    party = await bench.party(A)
    (dialog,) = bench.told.notes_of(ONE, "dialog", A)
    # Another carrier on the same trunks stands for the next process.
    async with started(Trunk("exchange", *bench.far.exchange.agent.local)) as (next_one, told):
        leftover = Leftover(ONE, A, dialog=dialog.facts)
        assert await asyncio.wait_for(next_one.take_back(leftover), LIMIT_S) is Released.HUNG_UP
        await asyncio.wait_for(party.over.wait(), LIMIT_S)
        assert await asyncio.wait_for(next_one.take_back(leftover), LIMIT_S) is Released.NOTHING
    assert party.end is not None
    assert (party.end.cause, party.end.by) == (EndCause.HANGUP, "remote")
    assert told.events == []


async def test_a_way_that_was_given_up_before_the_answer_is_taken_back_too(bench: Bench) -> None:
    """Killed before its CANCEL had arrived, the service left a phone ringing that only the dial's facts tell of."""
    given_up = await place(bench.sip, a_call(2, A, Does.CROSSES))
    await bench.told.saw(ConnectionId(f"{2:026d}"), Ringing(A))
    ringing = bench.far.exchange.parties[-1]
    answered = await bench.party(A)
    (dialog,) = bench.told.notes_of(ONE, "dialog", A)
    async with started(Trunk("exchange", *bench.far.exchange.agent.local)) as (next_one, told):
        leftover = Leftover(ONE, A, dials=[given_up.facts], dialog=dialog.facts)
        assert await asyncio.wait_for(next_one.take_back(leftover), LIMIT_S) is Released.HUNG_UP
        await asyncio.wait_for(ringing.over.wait(), LIMIT_S)
        await asyncio.wait_for(answered.over.wait(), LIMIT_S)
    assert ringing.end is not None
    assert (ringing.end.cause, ringing.end.by) == (EndCause.CANCELLED, "remote")
    assert told.events == []


@pytest.mark.parametrize("facts", [{}, {"destination": "x"}, {"destination": "127.0.0.1 y"}])
async def test_a_note_that_is_no_dialog_hangs_nobody_up(
    bench: Bench, facts: dict[str, str | int | float | None]
) -> None:
    assert await bench.sip.take_back(Leftover(ONE, A, dialog=facts)) is Released.UNCONFIRMED
    assert bench.far.sip.agent.open_calls == 0


# --- a far end that says nothing ---


async def test_a_leg_of_unknown_fate_has_its_end_when_the_carrier_closes() -> None:
    """No CANCEL may leave before a provisional answer (RFC 3261 §9.1), so there is nobody to confirm anything."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute:
        mute.bind((HOST, 0))
        async with started(Trunk("mute", *mute.getsockname()), close_timeout_s=0.05) as (carrier, told):
            await place(carrier, to("+34600000001"))
        assert [event for _, event in told.events] == [
            Dialed(A),
            Ended(A, EndReason.FAILED, "the far end didn't confirm the hang-up before the shutdown"),
        ]
        assert carrier.open_sessions == 0


# --- silence ---


@pytest.mark.parametrize("hang_up", [False, True], ids=["noted", "hung up"])
async def test_a_silent_leg_is_noted_and_hung_up_if_asked(hang_up: bool) -> None:
    async with Exchange.open() as exchange:
        relay = WorkerRelay(MediaSettings(HOST, HOST, media_ports(), silence_s=0.3))
        carrier = SipCarrier(
            trunks=[Trunk("exchange", *exchange.agent.local)], relay=relay, bind=(HOST, 0), hang_up_silent=hang_up
        )
        told = Recorder()
        await carrier.start(told)
        try:
            await place(carrier, to("+34600000001"))
            party = await exchange.party()
            party.answer()
            await told.until(lambda: told.notes_of(ONE, "silent", A))
            assert float(told.notes_of(ONE, "silent", A)[0].facts["for_s"] or 0) >= 0.3
            if hang_up:
                await told.saw(ONE, Ended(A, EndReason.FAILED))
                assert told.events[-1][1] == Ended(A, EndReason.FAILED, "no audio for 0 s")
                await asyncio.wait_for(party.over.wait(), LIMIT_S)
            else:
                assert party.end is None
        finally:
            await carrier.close()


# --- capture ---


async def test_what_the_legs_said_is_captured_to_the_last_answer(bench: Bench) -> None:
    await bench.party(A)
    bench.sip.hangup(leg_id(ONE, A))
    await bench.ended(A)
    await bench.told.until(lambda: bench.told.captures)
    said = [(message.ours, message.data.split()[:2]) for message in unpack(bench.told.captures[ONE]).messages]
    words = [(ours, (second if first == b"SIP/2.0" else first).decode()) for ours, (first, second) in said]
    expected = [(True, "INVITE"), (False, "180"), (False, "200"), (True, "ACK"), (True, "BYE"), (False, "200")]
    assert expected == words
