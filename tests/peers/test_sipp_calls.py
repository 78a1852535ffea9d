"""Whole calls between SIPp phones: every way in which one ends, who was told what, and that nobody stays on a line."""

import asyncio
import time
from pathlib import Path

import httpx
import pytest

from dosvoces.model import Side
from tests.peers.sipp import until
from tests.peers.trial import FIRST, SECOND, Phone, SippTrial, trial

NOBODY = Phone("answer", calls=0)
RELEASE_LIMIT_S = 0.2
"""When one hangs up, the other is released within 200 ms."""


def made(response: httpx.Response) -> bool:
    return (response.status_code, response.text) == (200, "Data received successfully")


def not_made(response: httpx.Response, number: str) -> bool:
    return (response.status_code, response.json()) == (500, {"Message": f"Could not make call to {number}"})


@pytest.mark.parametrize("speaker", Side)
async def test_both_hear_each_other(tmp_path: Path, speaker: Side) -> None:
    """One phone streams a file, the other echoes what it hears: the packets go there and come back."""
    audio = tmp_path / "tone.al"
    audio.write_bytes(bytes(range(256)) * 32)  # about a second; what it sounds like is the demo's business
    speaks = Phone("talk", {"audio": str(audio), "talk_ms": 1500})
    echoes = Phone("answer", options=("-rtp_echo",))
    a, b = (speaks, echoes) if speaker is Side.A else (echoes, speaks)
    async with trial(tmp_path, a=a, b=b) as t:
        response = await t.post()
        talking, listening = t.phones[speaker], t.phones[speaker.other]
        await t.seen("media_source", Side.A)
        await t.seen("media_source", Side.B)
        await until(lambda: time.time() > talking.received("ACK")[0].at + 1, "a second of talk")
        talking.note_audio()
        listening.note_audio()
    assert made(response)
    assert (t.outcome, t.ended_by) == ("completed", speaker)
    # SIPp's own figures after a second, ours at the end of a second and a half.
    assert 40 <= talking.audio.streamed <= 80
    assert listening.audio.echoed >= 40
    spoken, echoed = t.statistics(speaker), t.statistics(speaker.other)
    assert talking.audio.streamed <= spoken["received"] <= 80
    assert listening.audio.echoed <= echoed["received"] <= echoed["sent"]
    assert spoken["sent"] >= 40
    assert spoken["lost"] == echoed["lost"] == spoken["refused"] == echoed["refused"] == 0


async def test_b_hangs_up_and_a_is_released(tmp_path: Path) -> None:
    async with trial(tmp_path, a=Phone("answer"), b=Phone("hang_up")) as t:
        response = await t.post()
    assert made(response)
    assert (t.outcome, t.ended_by) == ("completed", "b")
    (their_bye,), (our_bye,) = t.b.sent("BYE"), t.a.received("BYE")
    assert our_bye.at - their_bye.at < RELEASE_LIMIT_S


async def test_a_hangs_up_and_b_is_released(tmp_path: Path) -> None:
    async with trial(tmp_path, a=Phone("hang_up"), b=Phone("answer")) as t:
        response = await t.post()
    assert made(response)
    assert (t.outcome, t.ended_by) == ("completed", "a")
    (their_bye,), (our_bye,) = t.a.sent("BYE"), t.b.received("BYE")
    assert our_bye.at - their_bye.at < RELEASE_LIMIT_S


REFUSALS = [
    ("486 Busy Here", "busy"),
    ("600 Busy Everywhere", "busy"),
    ("480 Temporarily Unavailable", "no_answer"),
    ("603 Decline", "failed"),
    ("404 Not Found", "failed"),
    ("503 Service Unavailable", "failed"),
    ("302 Moved Temporarily", "failed"),
]


@pytest.mark.parametrize(("status", "why"), REFUSALS)
async def test_first_phone_refuses(tmp_path: Path, status: str, why: str) -> None:
    async with trial(tmp_path, a=Phone("reject", {"status": status}), b=NOBODY) as t:
        response = await t.post()
    assert not_made(response, FIRST)
    assert (t.outcome, t.ended_by) == (f"first_{why}", "a")
    assert t.detail(Side.A)["detail"] == status


@pytest.mark.parametrize(("status", "why"), REFUSALS[:5])
async def test_second_phone_refuses(tmp_path: Path, status: str, why: str) -> None:
    phone = Phone("reject", {"status": status, "reason": 'Reason: Q.850;cause=17;text="as they say"'})
    async with trial(tmp_path, a=Phone("answer"), b=phone) as t:
        response = await t.post()
    assert not_made(response, SECOND)
    # 480 is vague, so that the cause counts; what is plain stands.
    expected = "busy" if status.startswith("480") else why
    assert (t.outcome, t.ended_by) == (f"second_{expected}", "b")
    assert t.detail(Side.B)["detail"] == f'{status}; Q.850;cause=17;text="as they say"'
    assert t.a.received("BYE")[0].header("Reason") == 'Q.850;cause=16;text="Normal call clearing"'
    released_after = t.a.received("BYE")[0].at - [m.at for m in t.b.messages if m.sent][-1]
    assert released_after < RELEASE_LIMIT_S


async def test_first_phone_never_answers(tmp_path: Path) -> None:
    async with trial(tmp_path, a=Phone("ring_on"), b=NOBODY, ring_timeout_s=1) as t:
        response = await t.post()
    assert not_made(response, FIRST)
    assert (t.outcome, t.ended_by) == ("first_no_answer", "timer")
    assert 0.9 < rang_for(t, Side.A) < 1.5


async def test_second_phone_never_answers(tmp_path: Path) -> None:
    async with trial(tmp_path, a=Phone("answer"), b=Phone("ring_on"), ring_timeout_s=1) as t:
        response = await t.post()
    assert made(response)  # B rang: both calls were made
    assert (t.outcome, t.ended_by) == ("second_no_answer", "timer")
    assert 0.9 < rang_for(t, Side.B) < 1.5


def rang_for(t: SippTrial, side: Side) -> float:
    """Seconds from the INVITE to the CANCEL, by the phone's clock."""
    phone = t.phones[side]
    (cancel,) = phone.received("CANCEL")
    return cancel.at - phone.received("INVITE")[0].at


async def test_cancel_waits_for_a_provisional_answer(tmp_path: Path) -> None:
    async with trial(tmp_path, a=Phone("late_ringing", {"silent_ms": 1400}), b=NOBODY, ring_timeout_s=1) as t:
        response = await t.post()
    assert not_made(response, FIRST)
    assert t.outcome == "first_no_answer"
    (ringing,) = [m for m in t.a.messages if m.sent and m.status == 180]
    (cancel,) = t.a.received("CANCEL")
    assert 0 < cancel.at - ringing.at < RELEASE_LIMIT_S


async def test_a_hangs_up_while_waiting_and_b_is_never_rung(tmp_path: Path) -> None:
    async with trial(tmp_path, a=Phone("hang_up"), b=NOBODY) as t:
        response = await t.post(call_interval=2)
    assert not_made(response, FIRST)  # the number of who hung up
    assert (t.outcome, t.ended_by) == ("first_hung_up", "a")


async def test_b_is_rung_when_the_interval_has_passed(tmp_path: Path) -> None:
    async with trial(tmp_path, a=Phone("answer"), b=Phone("hang_up")) as t:
        response = await t.post(call_interval=1)
    assert made(response)
    first, second = t.a.received("INVITE")[0], t.b.received("INVITE")[0]
    assert 1.0 <= second.at - first.at < 1.3


async def test_a_hangs_up_while_b_rings(tmp_path: Path) -> None:
    async with trial(tmp_path, a=Phone("hang_up", {"talk_ms": 500}), b=Phone("ring_on")) as t:
        response = await t.post()
    assert made(response)
    assert (t.outcome, t.ended_by) == ("first_hung_up", "a")
    (their_bye,), (cancel,) = t.a.sent("BYE"), t.b.received("CANCEL")
    assert cancel.at - their_bye.at < RELEASE_LIMIT_S


async def test_both_hang_up_at_once(tmp_path: Path) -> None:
    async with trial(tmp_path, a=Phone("hang_up"), b=Phone("byes_cross")) as t:
        await t.post()
    assert (t.outcome, t.ended_by) == ("completed", "a")
    assert (len(t.b.received("BYE")), len(t.b.sent("BYE"))) == (1, 1)


async def test_talk_limit_hangs_up_both(tmp_path: Path) -> None:
    async with trial(tmp_path, a=Phone("answer"), b=Phone("answer"), talk_limit_s=1) as t:
        await t.post()
    assert (t.outcome, t.ended_by) == ("completed", "timer")
    (joined,) = t.entries("joined")
    assert all(0.9 < phone.received("BYE")[0].at - joined.at.timestamp() < 1.5 for phone in (t.a, t.b))


async def test_answer_without_media_is_hung_up(tmp_path: Path) -> None:
    async with trial(tmp_path, a=Phone("no_media"), b=NOBODY) as t:
        response = await t.post()
    assert not_made(response, FIRST)
    assert (t.outcome, t.ended_by) == ("first_failed", "a")
    assert str(t.detail(Side.A)["detail"]).startswith("no media")


async def test_second_answer_without_media_is_hung_up(tmp_path: Path) -> None:
    async with trial(tmp_path, a=Phone("answer"), b=Phone("no_media")) as t:
        response = await t.post()
    assert made(response)
    assert (t.outcome, t.ended_by) == ("second_failed", "b")


HERE = "c=IN IP4 127.0.0.1"
ODD_MEDIA = {
    "refused": (HERE, "m=audio 0 RTP/AVP 8"),
    "another codec": (HERE, "m=audio 6000 RTP/AVP 18"),
    "video only": (HERE, "m=video 6000 RTP/AVP 96"),
    "encrypted": (HERE, "m=audio 6000 RTP/SAVP 8"),
    "no address": ("b=AS:64", "m=audio 6000 RTP/AVP 8"),
    "a name": ("c=IN IP4 phone.invalid", "m=audio 6000 RTP/AVP 8"),
    "the other family": ("c=IN IP6 2001:db8::9", "m=audio 6000 RTP/AVP 8"),
    "nowhere": ("c=IN IP4 0.0.0.0", "m=audio 6000 RTP/AVP 8"),
    "nonsense": (HERE, "m=audio"),
}


@pytest.mark.parametrize("odd", ODD_MEDIA)
async def test_answer_that_nobody_could_hear_is_hung_up(tmp_path: Path, odd: str) -> None:
    connection, media = ODD_MEDIA[odd]
    phone = Phone("odd_media", {"connection": connection, "media": media})
    async with trial(tmp_path, a=phone, b=NOBODY) as t:
        response = await t.post()
    assert not_made(response, FIRST)
    assert (t.outcome, t.ended_by) == ("first_failed", "a")
    assert str(t.detail(Side.A)["detail"]).startswith("no media")


async def silenced(tmp_path: Path, a: Phone, **post: int) -> SippTrial:
    """A trial whose silent legs are hung up after a second; B never rings."""
    async with trial(tmp_path, a=a, b=NOBODY, media={"silence_s": 1, "silence_action": "hangup"}) as t:
        assert not_made(await t.post(**post), FIRST)
    assert (t.outcome, t.ended_by) == ("first_failed", "a")
    assert t.detail(Side.A)["detail"] == "no audio for 1 s"
    (answered,), (ended,) = t.entries("answered"), t.entries("ended", Side.A)
    assert 1.0 <= (ended.at - answered.at).total_seconds() < 3.0
    return t


async def test_answer_with_an_address_that_is_not_there_is_hung_up_as_silent(tmp_path: Path) -> None:
    """S13: a private address may be right, behind a tunnel, and is only found out to be wrong by what doesn't come."""
    phone = Phone("odd_media", {"connection": "c=IN IP4 127.77.77.77", "media": "m=audio 6000 RTP/AVP 8"})
    t = await silenced(tmp_path, phone, call_interval=60)
    assert t.statistics(Side.A)["received"] == 0


async def test_phone_whose_audio_stops_is_hung_up(tmp_path: Path) -> None:
    """S30: it speaks for half a second and then, though the call is up, no more."""
    audio = tmp_path / "half.al"
    audio.write_bytes(b"\xd5" * 4000)
    phone = Phone("falls_silent", {"audio": str(audio)})
    t = await silenced(tmp_path, phone, call_interval=60)
    assert t.statistics(Side.A)["received"] > 10


async def test_early_media_counts_as_ringing(tmp_path: Path) -> None:
    a, b = Phone("early_media"), Phone("early_media", {"ring_ms": 300})
    async with trial(tmp_path, a=a, b=b, talk_limit_s=1) as t:
        response = await t.post()
        answered = [m for m in t.b.messages if m.sent and m.status == 200]
    assert made(response)
    assert answered == []  # the client had its answer when B began to ring
    assert t.outcome == "completed"
    assert len(t.entries("ringing")) == 2


async def test_two_connections_at_once_stay_apart(tmp_path: Path) -> None:
    async with trial(tmp_path, a=Phone("answer"), b=Phone("hang_up"), calls=2) as t:
        responses = await asyncio.gather(t.post(), t.post())
    assert all(made(response) for response in responses)
    assert [record.outcome for record in t.records] == ["completed", "completed"]


async def test_fifty_connections(tmp_path: Path) -> None:
    async def later(number: int) -> httpx.Response:
        await asyncio.sleep(number / 25)  # 25 a second: the rate is what is tested
        return await t.post()

    async with trial(tmp_path, a=Phone("answer"), b=Phone("hang_up", {"talk_ms": 500}), calls=50) as t:
        responses = await asyncio.gather(*(later(number) for number in range(50)))
    assert all(made(response) for response in responses)
    assert [record.outcome for record in t.records] == ["completed"] * 50
    assert not [m for phone in (t.a, t.b) for m in phone.messages if m.status and m.status >= 400]


async def test_each_phone_sees_its_own_number(tmp_path: Path) -> None:
    trunk = {
        "caller_id": None,
        "caller_ids": ["+34910000000", "+34910000001"],
        "caller_id_second": "+34910000001",
        "identity": "pai",
    }
    async with trial(tmp_path, a=Phone("answer"), b=Phone("hang_up"), trunk=trunk) as t:
        assert made(await t.post())
    for phone, number in ((t.a, "+34910000000"), (t.b, "+34910000001")):
        (invite,) = phone.received("INVITE")
        uri = f"<sip:{number}@127.0.0.1:{phone.port}>"
        assert (invite.header("From").partition(";")[0], invite.header("P-Asserted-Identity")) == (uri, uri)


async def test_hidden_number_is_only_told_to_the_trunk(tmp_path: Path) -> None:
    trunk = {"identity": "ppi", "privacy": "id"}
    async with trial(tmp_path, a=Phone("answer"), b=Phone("hang_up"), trunk=trunk) as t:
        assert made(await t.post())
    (invite,) = t.b.received("INVITE")
    assert invite.header("From").startswith('"Anonymous" <sip:anonymous@anonymous.invalid>;tag=')
    assert invite.header("P-Preferred-Identity") == f"<sip:+34910000000@127.0.0.1:{t.b.port}>"
    assert invite.header("Privacy") == "id"


async def test_cancel_says_why(tmp_path: Path) -> None:
    async with trial(tmp_path, a=Phone("answer"), b=Phone("ring_on"), ring_timeout_s=1) as t:
        await t.post()
    assert t.outcome == "second_no_answer"
    assert t.b.received("CANCEL")[0].header("Reason") == 'Q.850;cause=16;text="Normal call clearing"'
