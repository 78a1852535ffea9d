"""Encrypted legs by the trunk's setting, from the offer to what the phones hear."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest

from dosvoces.carriers.sip import SipCarrier
from dosvoces.carriers.trunks import Trunk
from dosvoces.events import Answered, Ended, Ringing
from dosvoces.model import EndReason, Side
from dosvoces.phone import Phone, PhoneBehaviour
from dosvoces.sip import sdp
from dosvoces.sip.sdp import Security
from dosvoces.testing import A, B
from tests.far_ends import HOST, LIMIT_S, Exchange, Party, Recorder, place
from tests.test_carriers_sip import ONE, started, to

NUMBERS = {A: "+34600000001", B: "+34960000002"}
TONES = {A: 440, B: 1000}
SECURE = PhoneBehaviour(answer_after_s=0, srtp=True)
PLAIN = PhoneBehaviour(answer_after_s=0)


@dataclass
class Joined:
    """Two phones in one conversation."""

    carrier: SipCarrier
    told: Recorder
    phones: dict[Side, Phone]

    async def hear_each_other(self) -> None:
        """Each hears the other's tone, and nothing else lately."""
        async with asyncio.timeout(LIMIT_S):
            for side, phone in self.phones.items():
                (call,) = phone.calls
                while call.heard.dominant(call.heard.windows[-3:]) != TONES[side.other]:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)

    def suites(self) -> dict[Side, list[object]]:
        return {side: [note.facts["suite"] for note in self.told.notes_of(ONE, "encryption", side)] for side in Side}

    async def over(self) -> dict[Side, dict[str, str | int | float | None]]:
        """Hang up and return the statistics."""
        for side in Side:
            self.carrier.hangup(to("", side).id)
        await self.told.until(lambda: all(self.told.notes_of(ONE, "statistics", side) for side in Side))
        return {side: self.told.notes_of(ONE, "statistics", side)[0].facts for side in Side}


@asynccontextmanager
async def joined(a: tuple[Security, bool], b: tuple[Security, bool]) -> AsyncIterator[Joined]:
    """Each side: the trunk's setting, and whether its phone can encrypt."""
    async with AsyncExitStack() as stack:
        phones: dict[Side, Phone] = {}
        trunks = []
        for side, (security, srtp) in ((A, a), (B, b)):
            behaviour = PhoneBehaviour(answer_after_s=0, tone_hz=TONES[side], srtp=srtp)
            phones[side] = await stack.enter_async_context(Phone.open(behaviour))
            trunks.append(Trunk(side.name, *phones[side].address, prefixes=(NUMBERS[side][:6],), srtp=security))
        carrier, told = await stack.enter_async_context(started(*trunks))
        for side in Side:
            await place(carrier, to(NUMBERS[side], side))
            await told.saw(ONE, Answered(side))
        await carrier.join(ONE)
        yield Joined(carrier, told, phones)


CM_80 = "AES_CM_128_HMAC_SHA1_80"


@pytest.mark.parametrize(
    ("a", "b", "suites"),
    [
        ((Security.REQUIRED, True), (Security.REQUIRED, True), {A: [CM_80], B: [CM_80]}),
        ((Security.OPTIONAL, True), (Security.OFF, False), {A: [CM_80], B: []}),
        ((Security.OFF, True), (Security.REQUIRED, True), {A: [], B: [CM_80]}),
        ((Security.OPTIONAL, False), (Security.OPTIONAL, True), {A: ["none"], B: [CM_80]}),
    ],
    ids=["both", "a", "b", "where it is known"],
)
async def test_both_hear_each_other(
    a: tuple[Security, bool], b: tuple[Security, bool], suites: dict[Side, list[object]]
) -> None:
    async with joined(a, b) as call:
        await call.hear_each_other()
        assert call.suites() == suites
        for facts in (await call.over()).values():
            assert int(facts["lost"] or 0) == 0
            assert int(facts["refused"] or 0) <= 5, "what overtook the answer"


async def test_the_phone_s_packets_are_encrypted() -> None:
    """A phone that doesn't know the key hears nothing of what the relay sends."""
    async with joined((Security.REQUIRED, True), (Security.OFF, False)) as call:
        await call.hear_each_other()
        (phone_call,) = call.phones[A].calls
        assert phone_call.chosen is not None
        assert phone_call.chosen.keys is not None
        keys = phone_call.chosen.keys
        facts = await call.over()
        assert facts[A]["refused"] in range(6)
        # No key stands in what is told and noted, nor in what a value shows of itself.
        told = repr((call.told.notes, call.told.events, phone_call.chosen, keys))
        for key in (keys.ours, keys.theirs):
            for text in (base64.b64encode(key).decode(), key.hex(), repr(key)[2:-1]):
                assert text not in told


async def failed(security: Security, behaviour: PhoneBehaviour) -> Ended:
    async with Phone.open(behaviour) as phone, started(Trunk("phone", *phone.address, srtp=security)) as (sip, told):
        await place(sip, to(NUMBERS[A]))
        await told.until(lambda: any(isinstance(event, Ended) for _, event in told.events))
        assert not any(isinstance(event, Answered) for _, event in told.events)
        return next(event for _, event in told.events if isinstance(event, Ended))


async def test_a_phone_that_can_t_encrypt_refuses_what_requires_it() -> None:
    ended = await failed(Security.REQUIRED, PLAIN)
    assert (ended.reason, ended.detail) == (EndReason.FAILED, "488 Not Acceptable Here")


# --- at an exchange that answers as some do ---


@asynccontextmanager
async def rung(security: Security) -> AsyncIterator[tuple[SipCarrier, Recorder, Party]]:
    """A party that rings and will answer as the test says."""
    async with Exchange.open() as exchange, started(Trunk("x", *exchange.agent.local, srtp=security)) as (sip, told):
        await place(sip, to(NUMBERS[A]))
        await told.saw(ONE, Ringing(A))
        yield sip, told, exchange.parties[-1]


def body(profile: str, *attributes: str, version: int = 1) -> bytes:
    lines = [
        *("v=0", f"o=- 1 {version} IN IP4 {HOST}", "s=-", f"c=IN IP4 {HOST}", "t=0 0", f"m=audio 40000 {profile} 8"),
        *attributes,
    ]
    return "".join(f"{line}\r\n" for line in lines).encode()


def crypto(tag: int, suite: str, key: bytes, more: str = "") -> str:
    return f"a=crypto:{tag} {suite} inline:{base64.b64encode(key).decode()}{more}"


KEY = bytes(range(30))


async def test_what_is_offered() -> None:
    offers: dict[Security, sdp.Media] = {}
    for security in Security:
        async with rung(security) as (_sip, _told, party):
            (offers[security],) = party.offer.media
    assert [(media.profile, len(media.crypto)) for media in offers.values()] == [
        ("RTP/AVP", 0),
        ("RTP/AVP", 3),
        ("RTP/SAVP", 3),
    ]
    assert [line.suite for line in offers[Security.REQUIRED].crypto] == [CM_80, "AEAD_AES_128_GCM", CM_80[:-2] + "32"]
    keys = [line.key for media in offers.values() for line in media.crypto]
    assert len(set(keys)) == 6, "each key is used once"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (body("RTP/AVP"), "the audio comes without encryption, and we require SRTP with SDES keys"),
        (body("RTP/SAVP"), "the audio is RTP/SAVP with no key that we can use; we do RTP/SAVP with SDES keys"),
        (body("RTP/SAVP", crypto(9, CM_80, KEY)), "the audio is answered with a key that is none of those offered"),
        (
            body("RTP/SAVP", crypto(1, CM_80, KEY, "|2^20|1:4")),
            "the audio is RTP/SAVP with no key that we can use; we do RTP/SAVP with SDES keys",
        ),
        (
            body("RTP/AVP", crypto(1, CM_80, KEY[:20])),
            "the audio comes with no key that we can use, and we require SRTP with SDES keys",
        ),
        (
            body("UDP/TLS/RTP/SAVP", "a=fingerprint:sha-256 00:11"),
            "the audio is UDP/TLS/RTP/SAVP with no key that we can use; we do RTP/SAVP with SDES keys",
        ),
    ],
    ids=["plain", "no key", "another tag", "a master key identifier", "a short key", "DTLS"],
)
async def test_where_it_is_required_an_answer_without_ends_the_call_at_once(answer: bytes, why: str) -> None:
    """An Asterisk endpoint in that place answers the call and stays silent (`engine-asterisk`, trap 11)."""
    async with rung(Security.REQUIRED) as (_sip, told, party):
        party.incoming.answer(answer)
        await asyncio.wait_for(party.over.wait(), LIMIT_S)
        ended = Ended(A, EndReason.FAILED, f"no media: {why}")
        await told.until(lambda: (ONE, ended) in told.events)
        assert not any(isinstance(event, Answered) for _, event in told.events)


@pytest.mark.parametrize(
    ("answer", "suite"),
    [
        (body("RTP/AVP"), "none"),
        (body("RTP/AVP", crypto(1, CM_80, KEY)), CM_80),
        (body("RTP/SAVP", crypto(1, CM_80, KEY, "|2^31")), CM_80),
        (body("RTP/SAVP", crypto(2, "AEAD_AES_128_GCM", KEY[:28], " WSH=128")), "AEAD_AES_128_GCM"),
    ],
    ids=["plain", "best effort", "upgraded", "GCM"],
)
async def test_where_it_is_optional_the_answer_decides(answer: bytes, suite: str) -> None:
    async with rung(Security.OPTIONAL) as (sip, told, party):
        party.incoming.answer(answer)
        await told.saw(ONE, Answered(A))
        assert [note.facts for note in told.notes_of(ONE, "encryption", A)] == [{"suite": suite}]
        sip.hangup(to("").id)


async def test_an_optional_answer_with_a_key_of_nobody_s_ends_the_call() -> None:
    """It would be noise in an ear."""
    async with rung(Security.OPTIONAL) as (_sip, told, party):
        party.incoming.answer(body("RTP/AVP", crypto(7, CM_80, KEY)))
        await asyncio.wait_for(party.over.wait(), LIMIT_S)
        await told.until(lambda: any(isinstance(event, Ended) for _, event in told.events))


async def changed(party: Party, offer: bytes) -> tuple[int | None, bytes]:
    """What a re-INVITE is answered with."""
    done: asyncio.Future[tuple[int | None, bytes]] = asyncio.get_running_loop().create_future()
    party.incoming.reinvite(offer, lambda status, answer: done.set_result((status, answer)))
    return await asyncio.wait_for(done, LIMIT_S)


async def test_a_reinvite_may_change_the_keys() -> None:
    """The same key of the peer's keeps ours; a new one of its brings a new one of ours; none is refused."""
    async with rung(Security.REQUIRED) as (sip, told, party):
        (first,) = [line for line in party.offer.media[0].crypto if line.tag == 1]
        party.incoming.answer(body("RTP/SAVP", crypto(1, CM_80, KEY)))
        await told.saw(ONE, Answered(A))
        await asyncio.wait_for(party.confirmed.wait(), LIMIT_S)

        status, answer = await changed(party, body("RTP/SAVP", crypto(4, CM_80, KEY), version=2))
        (same,) = sdp.parse(answer).media[0].crypto
        assert (status, same) == (200, sdp.Crypto(4, CM_80, first.key))

        gcm = crypto(5, "AEAD_AES_128_GCM", KEY[:28])
        status, answer = await changed(party, body("RTP/SAVP", gcm, crypto(6, CM_80, KEY[::-1]), version=3))
        (media,) = sdp.parse(answer).media
        (new,) = media.crypto
        assert (status, media.profile, new.tag, new.suite) == (200, "RTP/SAVP", 5, "AEAD_AES_128_GCM")
        assert new.key != first.key[:28]

        status, _ = await changed(party, body("RTP/AVP", version=4))
        assert status == 488

        status, answer = await changed(party, body("RTP/SAVP", crypto(1, CM_80, KEY), version=5))
        (again,) = sdp.parse(answer).media[0].crypto
        assert status == 200
        assert again.key not in (first.key, new.key), "a key that was given up is never used again"
        assert [note.facts["suite"] for note in told.notes_of(ONE, "encryption", A)] == [
            CM_80,
            "AEAD_AES_128_GCM",
            CM_80,
        ]
        sip.hangup(to("").id)


async def test_a_key_that_was_given_up_for_plain_audio_is_not_used_again() -> None:
    """With it the stream would begin anew, and two packets be encrypted alike (RFC 3711 §9.1)."""
    async with rung(Security.OPTIONAL) as (sip, told, party):
        (first,) = [line for line in party.offer.media[0].crypto if line.tag == 1]
        party.incoming.answer(body("RTP/AVP", crypto(1, CM_80, KEY)))
        await told.saw(ONE, Answered(A))
        await asyncio.wait_for(party.confirmed.wait(), LIMIT_S)
        assert (await changed(party, body("RTP/AVP", version=2)))[0] == 200
        status, answer = await changed(party, body("RTP/AVP", crypto(1, CM_80, KEY), version=3))
        (again,) = sdp.parse(answer).media[0].crypto
        assert status == 200
        assert again.key != first.key
        assert [note.facts["suite"] for note in told.notes_of(ONE, "encryption", A)] == [CM_80, "none", CM_80]
        sip.hangup(to("").id)


async def test_a_reinvite_without_offer_gets_new_keys() -> None:
    """Whoever answers may be another machine, which can't know how often our stream's sequence has wrapped."""
    async with rung(Security.REQUIRED) as (sip, told, party):
        party.incoming.answer(body("RTP/SAVP", crypto(1, CM_80, KEY)))
        await told.saw(ONE, Answered(A))
        leg = sip._sessions[ONE].legs[A]
        assert leg.chosen is not None
        before = leg.chosen.keys

        offers = [leg.on_offer(None), leg.on_offer(None)]
        lines = [sdp.parse(offer).media[0].crypto for offer in offers if isinstance(offer, bytes)]
        keys = [line.key for offer in (party.offer.media[0].crypto, *lines) for line in offer]
        assert len(set(keys)) == 9, "each key is offered once"
        assert leg.chosen.keys == before, "until it is answered"

        leg.on_answer_to_offer(body("RTP/SAVP", crypto(1, CM_80, KEY[::-1]), version=2))
        assert leg.chosen.keys == sdp.Keys(CM_80, lines[-1][0].key, KEY[::-1])
        sip.hangup(to("").id)
