"""Within a call, with real phones: session timers, reliable answers, glare, and what is refused (RFC 4028, 3262)."""

import re
from pathlib import Path

import pytest

from dosvoces.model import Side, leg_id
from dosvoces.sip.session_timer import SessionTerms
from tests.peers.trial import FIRST, Phone, trial

NOBODY = Phone("answer", calls=0)
ANSWERS = Phone("answer")
SECONDS = SessionTerms(expires_s=2, min_s=1)
"""A session timer that a test has time for; on the air nobody may ask for less than 90 s."""
NO_UPDATE = "INVITE, ACK, BYE, CANCEL"


async def test_answer_in_a_reliable_183_and_a_200_without_any(tmp_path: Path) -> None:
    async with trial(tmp_path, a=ANSWERS, b=Phone("prack")) as t:
        response = await t.post()
    assert response.status_code == 200
    assert (t.outcome, t.ended_by) == ("completed", "b")
    (invite,) = t.b.received("INVITE")
    assert "100rel" in invite.header("Supported")
    racks = [m.header("RAck") for m in t.b.received("PRACK")]
    assert list(dict.fromkeys(racks)) == ["4711 1 INVITE", "4712 1 INVITE"]
    assert len(t.entries("ringing", Side.B)) >= 1


async def test_other_media_offered_before_the_answer(tmp_path: Path) -> None:
    """As networks do that play an announcement first: 183, PRACK, UPDATE, 200."""
    async with trial(tmp_path, a=ANSWERS, b=Phone("update_before_answer")) as t:
        response = await t.post()
    assert response.status_code == 200
    assert (t.outcome, t.ended_by) == ("completed", "b")
    (answer,) = [m for m in t.b.messages if not m.sent and m.status == 200 and m.method == "UPDATE"]
    (invite,) = t.b.received("INVITE")
    port = re.findall(r"m=audio (\d+) ", invite.body)
    assert re.findall(r"m=audio (\d+) RTP/AVP 8 101\r", answer.body) == port


async def test_we_refresh_by_update_and_answer_the_challenge(tmp_path: Path) -> None:
    # A realm that did not ask for the INVITE is answered only where it is named.
    login = {"username": "anexo", "password": "secret", "realm": "trunk"}
    phone = Phone("wants_refresh", {"nonce": "dcd98b7102dd"})
    async with trial(tmp_path, a=ANSWERS, b=phone, session=SECONDS, trunk=login) as t:
        await t.post()
    assert (t.outcome, t.ended_by) == ("completed", "b")
    bare, proved, next_one = t.b.received("UPDATE")
    assert (bare.header("Proxy-Authorization"), bare.body.strip()) == ("", "")
    assert "Digest" in proved.header("Proxy-Authorization")
    assert [m.header("Session-Expires") for m in (bare, proved, next_one)] == ["2;refresher=uac"] * 3
    assert 0.9 <= next_one.at - proved.at <= 1.3  # half of the interval


async def test_we_refresh_by_reinvite_where_update_is_not_allowed(tmp_path: Path) -> None:
    async with trial(tmp_path, a=ANSWERS, b=Phone("wants_reinvite", {"allow": NO_UPDATE}), session=SECONDS) as t:
        await t.post()
    assert (t.outcome, t.ended_by) == ("completed", "b")
    first, second, third = t.b.received("INVITE")
    assert first.body == second.body == third.body  # the same description, o= and all: nothing changes
    assert t.entries("hold") == t.entries("resume") == []


async def test_phone_refreshes_by_update_and_by_reinvite(tmp_path: Path) -> None:
    """The call outlives its interval, and each refresh is told that it counts."""
    async with trial(tmp_path, a=ANSWERS, b=Phone("refreshes", {"refresher": "uas"}), session=SECONDS) as t:
        await t.post()
    assert (t.outcome, t.ended_by) == ("completed", "b")
    answers = [m for m in t.b.messages if not m.sent and m.status == 200 and m.method in ("UPDATE", "INVITE")]
    assert [m.header("Session-Expires") for m in answers] == ["2;refresher=uac"] * 2
    assert [m.header("Require") for m in answers] == ["timer"] * 2


@pytest.mark.parametrize("side", Side)
async def test_phone_that_never_refreshes_is_hung_up(tmp_path: Path, side: Side) -> None:
    silent = Phone("never_refreshes", {"refresher": "uas", "expires": 3})
    a, b = (silent, ANSWERS) if side is Side.A else (ANSWERS, silent)
    async with trial(tmp_path, a=a, b=b, session=SECONDS) as t:
        await t.post()
    assert (t.outcome, t.ended_by) == ("completed", side)
    phone = t.phones[side]
    (bye,) = phone.received("BYE")
    assert bye.header("Reason") == 'Q.850;cause=102;text="Recovery on timer expiry"'
    # RFC 4028 §10: a third before the end of the interval.
    assert 1.9 <= bye.at - phone.received("ACK")[0].at <= 2.3
    assert "session not refreshed" in str(t.detail(side)["detail"])
    (other,) = t.phones[side.other].received("BYE")
    assert other.at - bye.at < 0.2


async def test_longer_interval_is_offered_when_it_is_asked_for(tmp_path: Path) -> None:
    async with trial(tmp_path, a=ANSWERS, b=Phone("too_short", {"min_se": 3600})) as t:
        response = await t.post()
    assert response.status_code == 200
    assert (t.outcome, t.ended_by) == ("completed", "b")
    first, second = t.b.received("INVITE")
    assert [m.header("Session-Expires") for m in (first, second)] == ["1800", "3600"]
    assert (second.call_id, second.from_tag, second.cseq) == (first.call_id, first.from_tag, first.cseq + 1)
    assert len(t.entries("dialed", Side.B)) == 1  # it is one attempt


async def test_offers_that_meet_are_both_refused_and_ours_comes_again(tmp_path: Path) -> None:
    async with trial(tmp_path, a=ANSWERS, b=Phone("glare")) as t:
        await t.post()
        await t.seen("joined")
        leg = t.carrier._leg(leg_id(t.posted[0], Side.B))
        assert leg is not None
        assert leg.call is not None
        told: list[int | None] = []
        leg.call.reinvite(leg.local_sdp, lambda status, body: told.append(status))
    assert told == [200]
    assert (t.outcome, t.ended_by) == ("completed", "b")
    _invite, first, second = t.b.received("INVITE")
    # RFC 3261 §14.1: whoever made the Call-ID waits 2.1 to 4 s.
    assert 2.0 <= second.at - first.at <= 4.3


async def test_redirect_is_followed_by_nobody(tmp_path: Path) -> None:
    """The other trunk leads to phone B: a 3xx that names a number there, or a dear one, rings nothing."""
    moved = "Contact: <sip:+34806000000@127.0.0.1>, <sip:+34960000022@127.0.0.1>"
    phone = Phone("reject", {"status": "302 Moved Temporarily", "reason": moved})
    async with trial(tmp_path, a=phone, b=NOBODY) as t:
        response = await t.post()
    assert response.json() == {"Message": f"Could not make call to {FIRST}"}
    assert t.outcome == "first_failed"
    assert len(t.a.received("INVITE")) == 1
    assert t.detail(Side.A)["detail"] == "302 Moved Temporarily"


@pytest.mark.parametrize(
    ("method", "headers", "expected"),
    [
        ("REFER", "Refer-To: <sip:+34806000000@127.0.0.1>", 405),
        ("REFER", "Refer-To: <sip:b@127.0.0.1?Replaces=1%3Bto-tag%3D2%3Bfrom-tag%3D3>", 405),
        ("INVITE", "Require: replaces", 420),
        ("UPDATE", "Require: replaces", 420),
        ("PRACK", "RAck: 1 1 INVITE", 481),
    ],
)
async def test_nobody_is_handed_over(tmp_path: Path, method: str, headers: str, expected: int) -> None:
    phone = Phone("in_dialog", {"method": method, "expected": expected, "headers": headers})
    async with trial(tmp_path, a=ANSWERS, b=phone) as t:
        await t.post()
    assert (t.outcome, t.ended_by) == ("completed", "b")
    assert len(t.a.received("INVITE")) == 1
