"""One codec for both legs: who is offered what, who is asked to change, and what a change in the call comes to."""

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from dosvoces.carriers.trunks import Trunk
from dosvoces.errors import CarrierError
from dosvoces.events import Answered, Ended
from dosvoces.media import rtp
from dosvoces.model import EndReason, Side
from dosvoces.phone import Phone, PhoneBehaviour
from dosvoces.phone.call import PhoneCall
from dosvoces.sip import sdp
from dosvoces.testing import A, B, until
from tests.far_ends import HOST, LIMIT_S, Exchange, Party, place, sip_far_end
from tests.test_carriers_sip import ONE, Bench, started, to


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with sip_far_end() as far:
        made = Bench(far)
        await far.sip.start(made.told)
        yield made
        await far.sip.close()
        assert far.sip.open_sessions == 0


# --- when the second answers ---


async def test_the_first_changes_to_what_the_second_takes(bench: Bench) -> None:
    """Nothing transcodes: A is re-invited, and only then B counts as answered."""
    first = await bench.party(A, sdp.PCMU)
    first.takes = (sdp.PCMA,)
    second = await bench.rung(B)
    told: list[int] = []
    bench.told.reaction = lambda _connection, event: told.append(len(first.offers)) if event == Answered(B) else None
    second.answer(sdp.PCMA)
    await bench.told.saw(ONE, Answered(B))
    assert (first.offers, second.offers, told) == ([(sdp.PCMA,)], [], [1])
    await bench.sip.join(ONE)


async def test_when_the_first_refuses_the_second_is_asked_to_take_the_first_s_codec(bench: Bench) -> None:
    first = await bench.party(A, sdp.PCMU)
    second = await bench.rung(B)
    second.takes = (sdp.PCMU,)
    second.answer(sdp.PCMA)
    await bench.told.saw(ONE, Answered(B))
    assert (first.offers, second.offers) == ([(sdp.PCMA,)], [(sdp.PCMU,)])
    await bench.sip.join(ONE)


async def test_no_common_codec_is_a_clear_failure_before_anyone_hears_silence(bench: Bench) -> None:
    first = await bench.party(A, sdp.PCMU)
    second = await bench.rung(B)
    second.answer(sdp.PCMA)
    end = await bench.ended(B)
    why = "no common codec: one has PCMU and refuses PCMA, which the other took"
    assert end == Ended(B, EndReason.FAILED, why)
    assert (first.offers, second.offers) == ([(sdp.PCMA,)], [(sdp.PCMU,)])
    assert Answered(B) not in bench.told.of(ONE)
    assert first.end is None


async def test_who_hangs_up_while_the_codec_is_settled_leaves_nothing_behind(bench: Bench) -> None:
    first = await bench.party(A, sdp.PCMU)
    first.leaves = True
    second = await bench.rung(B)
    second.answer(sdp.PCMA)
    await bench.told.saw(ONE, Ended(A, EndReason.HANGUP))
    assert Answered(B) not in bench.told.of(ONE)
    bench.sip.hangup(to("", B).id)
    await bench.ended(B)


async def test_wideband_is_spoken_where_the_trunk_prefers_it_and_both_take_it() -> None:
    """A waits in G.711, for the ringing tone; it changes when B has taken G.722."""
    async with Exchange.open() as exchange:
        codecs = (sdp.G722, sdp.PCMU, sdp.PCMA)
        async with started(Trunk("wide", *exchange.agent.local, codecs=codecs)) as (carrier, told):
            await place(carrier, to("+34600000001"))
            first = await exchange.party(0)
            assert first.offer.media[0].codecs == (sdp.PCMU, sdp.PCMA)
            first.takes = (sdp.G722,)
            first.answer(sdp.PCMA)
            await told.saw(ONE, Answered(A))
            await place(carrier, to("+34600000002", B))
            second = await exchange.party(1)
            assert second.offer.media[0].codecs == (sdp.G722, sdp.PCMA, sdp.PCMU)
            second.answer(sdp.G722)
            await told.saw(ONE, Answered(B))
            assert first.offers == [(sdp.G722,)]
            await carrier.join(ONE)


async def test_trunks_without_a_codec_in_common_fail_before_the_second_is_dialled() -> None:
    async with Exchange.open() as exchange:
        trunks = [
            Trunk("a", *exchange.agent.local, prefixes=("+346",), codecs=(sdp.PCMA,)),
            Trunk("u", *exchange.agent.local, prefixes=("+349",), codecs=(sdp.PCMU,)),
        ]
        async with started(*trunks) as (carrier, told):
            await place(carrier, to("+34600000001"))
            (await exchange.party()).answer()
            await told.saw(ONE, Answered(A))
            with pytest.raises(CarrierError, match="no common codec: trunk u has none of PCMA"):
                await place(carrier, to("+34900000001", B))
            assert len(exchange.parties) == 1


# --- in the call ---


async def changed(
    party: Party,
    *codecs: sdp.Codec,
    version: int = 2,
    direction: sdp.Direction = sdp.Direction.SENDRECV,
    instead: tuple[bytes, bytes] = (b"", b""),
) -> tuple[int | None, bytes]:
    """What a re-INVITE of that party with these codecs gets; of `instead` the second is said for the first."""
    done: asyncio.Future[tuple[int | None, bytes]] = asyncio.get_running_loop().create_future()
    offer = sdp.offer(HOST, party.port, codecs, session_id=1, version=version, direction=direction)
    party.incoming.reinvite(offer.replace(*instead), lambda status, body: done.set_result((status, body)))
    return await asyncio.wait_for(done, LIMIT_S)


async def test_a_change_of_codec_is_passed_on(bench: Bench) -> None:
    first, second = await bench.party(A), await bench.party(B)
    await bench.sip.join(ONE)
    second.takes = (sdp.PCMU,)
    status, body = await changed(first, sdp.PCMU)
    assert (status, sdp.parse(body).media[0].codecs, second.offers) == (200, (sdp.PCMU,), [(sdp.PCMU,)])
    await bench.sip.join(ONE)  # joined already; it would be refused if the sides were coded differently


async def test_a_change_of_codec_that_the_other_refuses_is_refused(bench: Bench) -> None:
    first, second = await bench.party(A), await bench.party(B)
    await bench.sip.join(ONE)
    assert (await changed(second, sdp.PCMU))[0] == 488
    assert first.offers == [(sdp.PCMU,)]
    whys = [note.facts["why"] for note in bench.told.notes_of(ONE, "offer_refused", B)]
    assert whys == ["the other side can't change to PCMU"]
    await bench.sip.join(ONE)
    assert (await changed(second, sdp.PCMA, version=3))[0] == 200, "the call goes on as it was"


async def test_a_change_of_codec_that_is_cancelled_is_taken_back_from_the_other(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 3261 §14 lets a re-INVITE be cancelled; the other one has changed for it by then: neither heard anything."""
    first, second = await bench.party(A), await bench.party(B)
    await bench.sip.join(ONE)
    second.takes = (sdp.PCMU, sdp.PCMA)

    def cancel_meanwhile(body: bytes | None) -> bytes | None:
        monkeypatch.undo()
        asked = first.incoming._reinvite
        assert asked is not None
        asked.cancel()
        return second.on_offer(body)

    monkeypatch.setattr(second, "on_offer", cancel_meanwhile)
    assert (await changed(first, sdp.PCMU))[0] == 487
    async with asyncio.timeout(LIMIT_S):
        while len(second.offers) < 2 or second.incoming._server is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert second.offers == [(sdp.PCMU,), (sdp.PCMA,)]
    await bench.sip.join(ONE)  # joined already; it would be refused if the sides were coded differently


BY_NAME = (f"c=IN IP4 {HOST}".encode(), b"c=IN IP4 media.example.com")


async def test_an_offer_that_can_t_be_answered_is_refused_without_asking(bench: Bench) -> None:
    """Asked first, the other would have changed for nothing, and both legs would go on in different codecs."""
    first, second = await bench.party(A), await bench.party(B)
    await bench.sip.join(ONE)
    second.takes = (sdp.PCMU,)
    assert (await changed(first, sdp.PCMU, instead=BY_NAME))[0] == 488
    assert second.offers == []
    whys = [note.facts["why"] for note in bench.told.notes_of(ONE, "offer_refused", A)]
    assert whys == ["the audio's address is 'media.example.com', not a literal IP address"]
    await bench.sip.join(ONE)


async def test_who_accepts_with_an_answer_that_can_t_be_used_is_changed_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As baresip, which says 200 and port 0 where it has no common codec: it would be silence to both."""
    first, second = await bench.party(A), await bench.party(B)
    await bench.sip.join(ONE)
    second.takes = (sdp.PCMU, sdp.PCMA)
    real, port = second.on_offer, f"m=audio {second.port}".encode()

    def without_audio(body: bytes | None) -> bytes | None:
        monkeypatch.undo()
        return (real(body) or b"").replace(port, b"m=audio 0")

    monkeypatch.setattr(second, "on_offer", without_audio)
    assert (await changed(first, sdp.PCMU))[0] == 488
    assert second.offers == [(sdp.PCMU,), (sdp.PCMA,)]
    await bench.sip.join(ONE)


@pytest.mark.parametrize("takes", [(sdp.PCMU,), (sdp.PCMU, sdp.PCMA)], ids=["refused", "unusable"])
async def test_who_can_t_be_changed_back_is_hung_up(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, takes: tuple[sdp.Codec, ...]
) -> None:
    first, second = await bench.party(A), await bench.party(B)
    await bench.sip.join(ONE)
    second.takes = takes
    real = second.on_offer

    def by_name(body: bytes | None) -> bytes | None:
        answer = real(body)
        return answer and answer.replace(*BY_NAME)

    monkeypatch.setattr(second, "on_offer", by_name)
    offer = sdp.offer(HOST, first.port, [sdp.PCMU], session_id=1, version=2)
    first.incoming.reinvite(offer, lambda _status, _body: None)
    end = await bench.ended(B)
    why = "no media: the audio's address is 'media.example.com', not a literal IP address"
    assert end == Ended(B, EndReason.FAILED, why)
    assert second.offers == [(sdp.PCMU,), (sdp.PCMA,)]
    assert first.end is None, "that is for whoever is told of the end to decide"
    bench.sip.hangup(to("", A).id)
    await bench.ended(A)


async def test_a_codec_that_no_trunk_allows_is_refused_without_asking(bench: Bench) -> None:
    first, second = await bench.party(A), await bench.party(B)
    assert (await changed(second, sdp.G722))[0] == 488
    assert first.offers == []


async def test_who_hangs_up_while_the_other_is_asked_ends_like_any_other(bench: Bench) -> None:
    first, second = await bench.party(A), await bench.party(B)
    second.leaves = True
    offer = sdp.offer(HOST, first.port, [sdp.PCMU], session_id=1, version=2)
    first.incoming.reinvite(offer, lambda _status, _body: None)
    await bench.told.saw(ONE, Ended(B, EndReason.HANGUP))
    bench.sip.hangup(to("", A).id)
    await bench.ended(A)
    await asyncio.wait_for(first.over.wait(), LIMIT_S)


async def test_phones_hear_each_other_after_the_first_has_changed() -> None:
    """End to end: A waits in PCMU and hears Spain's tone in it, B can only do PCMA, and then both hear the other."""
    only_a_law = PhoneBehaviour(answer_after_s=0.3, tone_hz=800, listen_hz=(425, 1000), codecs=(sdp.PCMA,))
    both_laws = PhoneBehaviour(answer_after_s=0, tone_hz=1000, listen_hz=(425, 800))
    behaviours = {"+34600000001": both_laws, "+34600000002": only_a_law}
    async with Phone.open(behaviours.get) as phone:
        trunk = Trunk("main", *phone.address, codecs=(sdp.PCMU, sdp.PCMA))
        async with started(trunk) as (carrier, told):
            await place(carrier, to("+34600000001"))
            await told.saw(ONE, Answered(A))
            carrier.play_ringing(to("").id)
            await place(carrier, to("+34600000002", B))
            await told.saw(ONE, Answered(B))
            await carrier.join(ONE)
            first, second = phone.calls
            async with asyncio.timeout(LIMIT_S):
                while not (heard(first, 425) and heard(first, 800) and heard(second, 1000)):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            assert first.chosen is not None
            assert first.chosen.codec.name == "PCMA"


def heard(call: PhoneCall, hz: int) -> bool:
    return any(span.frequency_hz == hz for span in call.heard.timeline())


# --- hold ---


class Voice:
    """A party's RTP socket."""

    def __init__(self, party: Party) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.bind((HOST, 0))
        party.port = self.port = self.socket.getsockname()[1]
        audio = party.offer.media[0]
        self._to = audio.host, audio.port
        self._sequence = 0

    def say(self, payload: bytes, payload_type: int = 8) -> None:
        self._sequence += 1
        packet = rtp.Packet(payload_type, self._sequence, self._sequence * 160, 7, payload)
        self.socket.sendto(rtp.build(packet), self._to)

    async def read(self) -> None:
        """Wait until the worker has read all that was said: commands may overtake what still waits at its socket."""

        async def empty() -> bool:
            return waiting(*self._to) == 0

        await until(empty)

    async def hear(self) -> bytes:
        data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.socket, 2048), LIMIT_S)
        return rtp.parse(data).payload


def waiting(host: str, port: int) -> int:
    """The bytes that wait to be read at a UDP socket, by proc(5): the local address, and then `SENT:RECEIVED`."""
    local = f"{int.from_bytes(socket.inet_aton(host), 'little'):08X}:{port:04X}"
    (row,) = [row for row in Path("/proc/net/udp").read_text().splitlines() if row.split()[1] == local]
    return int(row.split()[4].partition(":")[2], 16)


async def test_the_answer_in_the_ack_of_a_reinvite_without_offer_moves_the_audio(bench: Bench) -> None:
    """As a carrier's own third-party control does it; sippy took it for a hold and left the answer unread."""
    parties = {A: await bench.rung(A)}
    voices = {A: Voice(parties[A])}
    parties[A].answer()
    await bench.told.saw(ONE, Answered(A))
    parties[B] = await bench.party(B)
    await bench.sip.join(ONE)
    voices[B] = Voice(parties[B])  # somewhere else than it answered with
    leg = bench.sip._sessions[ONE].legs[B]
    try:
        offered = leg.on_offer(None)
        assert isinstance(offered, bytes)
        offer = sdp.parse(offered)
        assert offer.audio is not None
        assert (offer.audio.direction, offer.audio.codecs) == (sdp.Direction.SENDRECV, (sdp.PCMA,))
        leg.on_answer_to_offer(sdp.answer_to(offer, HOST, parties[B].port, session_id=9).body)
        await bench.sip.join(ONE)  # joined already; its answer shows that the change has been done
        voices[A].say(b"to the new address")
        assert await voices[B].hear() == b"to the new address"
        leg.on_answer_to_offer(b"")  # no answer, no change (RFC 3264 §8)
        voices[A].say(b"as before")
        assert await voices[B].hear() == b"as before"
    finally:
        for voice in voices.values():
            voice.socket.close()


async def talking(bench: Bench) -> tuple[dict[Side, Party], dict[Side, Voice]]:
    """Both parties, joined, and what they say and hear with."""
    voices: dict[Side, Voice] = {}
    parties: dict[Side, Party] = {}
    for side in Side:
        parties[side] = await bench.rung(side)
        voices[side] = Voice(parties[side])
        parties[side].answer()
        await bench.told.saw(ONE, Answered(side))
        await asyncio.wait_for(parties[side].confirmed.wait(), LIMIT_S)
    await bench.sip.join(ONE)
    return parties, voices


async def test_each_is_heard_in_whatever_the_answers_have_by_our_numbers(bench: Bench) -> None:
    """As Asterisk answers: with all that it has. Neither a refresh nor a key needs the number that an answer names."""
    body = sdp.offer(HOST, 40_000, [sdp.PCMA, sdp.PCMU, replace(sdp.TELEPHONE_EVENT, payload_type=96)], session_id=1)
    voices: dict[Side, Voice] = {}
    try:
        for side in Side:
            party = await bench.rung(side)
            voices[side] = Voice(party)
            party.incoming.answer(body.replace(b"40000", b"%d" % party.port))
            await bench.told.saw(ONE, Answered(side))
        await bench.sip.join(ONE)
        for said in (b"before the refresh", b"after the refresh"):
            voices[A].say(said, sdp.PCMU.payload_type)
            assert await voices[B].hear() == said
            bench.sip._sessions[ONE].legs[A].on_answer_to_offer(body.replace(b"40000", b"%d" % voices[A].port))
            await bench.sip.join(ONE)  # joined already; its answer shows that the refresh has been done
        voices[A].say(rtp.build_event(rtp.TelephoneEvent(5, True, 800)), 101)
        await bench.told.until(lambda: bench.told.notes_of(ONE, "digit", A))
        assert [note.facts["digit"] for note in bench.told.notes_of(ONE, "digit", A)] == ["5"]
    finally:
        for voice in voices.values():
            voice.socket.close()


async def test_hold_music_is_heard_from_the_address_that_the_holder_names(bench: Bench) -> None:
    """Many exchanges have a machine of its own for it, and say so in the re-INVITE."""
    parties, voices = await talking(bench)
    player = Voice(parties[B])  # what B says from now on names the player's port
    try:
        assert (await changed(parties[B], sdp.PCMA, direction=sdp.Direction.SENDONLY))[0] == 200
        await bench.sip.join(ONE)
        player.say(b"music")
        assert await voices[A].hear() == b"music"
        voices[A].say(b"unheard")
        await voices[A].read()
        parties[B].port = voices[B].socket.getsockname()[1]
        assert (await changed(parties[B], sdp.PCMA, version=3))[0] == 200
        await bench.sip.join(ONE)
        voices[A].say(b"after")
        assert await voices[B].hear() == b"after"
    finally:
        for voice in (*voices.values(), player):
            voice.socket.close()


@pytest.mark.parametrize("direction", [sdp.Direction.SENDONLY, sdp.Direction.INACTIVE])
async def test_a_hold_is_silence_to_both_and_no_offer_to_the_other(bench: Bench, direction: sdp.Direction) -> None:
    """The other party isn't asked for anything; it hears what the holder plays, which may be nothing."""
    parties, voices = await talking(bench)
    try:
        voices[A].say(b"before")
        assert await voices[B].hear() == b"before"
        assert (await changed(parties[B], sdp.PCMA, direction=direction))[0] == 200
        await bench.sip.join(ONE)  # joined already; its answer shows that the hold has been done
        voices[A].say(b"unheard")
        await voices[A].read()
        if direction.sends:
            voices[B].say(b"music")
            assert await voices[A].hear() == b"music"
        assert (await changed(parties[B], sdp.PCMA, version=3))[0] == 200
        await bench.sip.join(ONE)
        voices[A].say(b"after")
        assert await voices[B].hear() == b"after"
        assert parties[A].offers == []
        assert [note.kind for _, note in bench.told.notes if note.kind in ("hold", "resume")] == ["hold", "resume"]
    finally:
        for voice in voices.values():
            voice.socket.close()
