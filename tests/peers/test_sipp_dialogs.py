"""Within a call: challenges, routes, spellings of a Contact, and the requests that a phone sends in a dialog."""

import hashlib
import re
from pathlib import Path

import pytest

from dosvoces.model import Side
from tests.peers.sipp import SipMessage
from tests.peers.trial import FIRST, Phone, trial

NOBODY = Phone("answer", calls=0)
LOGIN = {"username": "anexo", "password": 's3cr3t, "quoted"'}
SDP_TYPE = "application/sdp"


# --- challenges ---

HASHES = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256}


def proof(request: SipMessage, header: str, algorithm: str) -> dict[str, str]:
    """The parameters of the credentials in `request`, after checking their response with RFC 7616 alone."""
    scheme, _, rest = request.header(header).partition(" ")
    assert scheme == "Digest"
    given = {name: quoted or bare for name, quoted, bare in re.findall(r'(\w+)=(?:"([^"]*)"|([^,\s]+))', rest)}

    def digest(*parts: str) -> str:
        return HASHES[algorithm](":".join(parts).encode()).hexdigest()

    secret = digest(LOGIN["username"], "trunk", LOGIN["password"])
    action = digest(request.first_line.split(" ")[0], given["uri"])
    assert given["response"] == digest(secret, given["nonce"], given["nc"], given["cnonce"], given["qop"], action)
    assert given["algorithm"] == algorithm
    assert given["uri"] == request.first_line.split(" ")[1]
    return given


@pytest.mark.parametrize("algorithm", HASHES)
@pytest.mark.parametrize(
    ("code", "asks", "answers"),
    [(407, "Proxy-Authenticate", "Proxy-Authorization"), (401, "WWW-Authenticate", "Authorization")],
)
async def test_challenged_invite_and_bye(tmp_path: Path, code: int, asks: str, answers: str, algorithm: str) -> None:
    challenge: dict[str, str | int] = {"code": code, "header": asks, "algorithm": algorithm, "nonce": "dcd98b7102dd"}
    async with trial(tmp_path, a=Phone("challenge", challenge), b=Phone("hang_up"), trunk=LOGIN) as t:
        await t.post()
    assert (t.outcome, t.ended_by) == ("completed", "b")
    bare, with_proof = t.a.received("INVITE")
    assert bare.header(answers) == ""
    first = proof(with_proof, answers, algorithm)
    assert (with_proof.cseq, with_proof.call_id, with_proof.from_tag) == (bare.cseq + 1, bare.call_id, bare.from_tag)
    bye, again = t.a.received("BYE")
    assert again.cseq == bye.cseq + 1 > with_proof.cseq + 1
    last = proof(again, answers, algorithm)
    # RFC 7616 §3.4: a nonce may be used again, with a count that was not used with it.
    assert int(last["nc"], 16) > int(first["nc"], 16)


async def test_endless_challenge_is_given_up(tmp_path: Path) -> None:
    challenge: dict[str, str | int] = {
        "code": 407,
        "header": "Proxy-Authenticate",
        "algorithm": "MD5",
        "nonce": "dcd98b7102dd",
    }
    async with trial(tmp_path, a=Phone("challenge_for_ever", challenge), b=NOBODY, trunk=LOGIN) as t:
        response = await t.post()
    assert response.json() == {"Message": f"Could not make call to {FIRST}"}
    assert t.outcome == "first_failed"
    assert len(t.a.received("INVITE")) == 2


async def test_stale_nonce_is_answered_with_the_new_one(tmp_path: Path) -> None:
    challenge: dict[str, str | int] = {
        "code": 407,
        "header": "Proxy-Authenticate",
        "algorithm": "SHA-256",
        "nonce": "dcd98b7102dd",
    }
    async with trial(tmp_path, a=Phone("stale_challenge", challenge), b=Phone("hang_up"), trunk=LOGIN) as t:
        await t.post()
    assert t.outcome == "completed"
    _bare, *proven = t.a.received("INVITE")
    nonces = [proof(request, "Proxy-Authorization", "SHA-256")["nonce"] for request in proven]
    assert nonces == ["dcd98b7102dd1", "dcd98b7102dd2"]


async def test_challenge_without_a_password_is_a_failure(tmp_path: Path) -> None:
    phone = Phone("reject", {"status": "407 Proxy Authentication Required", "reason": CHALLENGE})
    async with trial(tmp_path, a=phone, b=NOBODY) as t:
        response = await t.post()
    assert response.json() == {"Message": f"Could not make call to {FIRST}"}
    assert t.outcome == "first_failed"


CHALLENGE = 'Proxy-Authenticate: Digest realm="trunk", nonce="a", algorithm=MD5, qop="auth"'


# --- where requests go ---


@pytest.mark.parametrize("parameters", ["", ";transport=UDP", ";transport=udp;ob", ";Transport=Udp;x=%41"])
async def test_contact_in_any_spelling_is_hung_up(tmp_path: Path, parameters: str) -> None:
    async with trial(tmp_path, a=Phone("answer", {"contact_parameters": parameters}), b=Phone("hang_up")) as t:
        await t.post()
    assert t.outcome == "completed"
    target = f"sip:phone@127.0.0.1:{t.a.port}{parameters}"
    assert [m.first_line for m in t.a.received("BYE")] == [f"BYE {target} SIP/2.0"]


async def test_recorded_route_is_taken_in_reverse(tmp_path: Path) -> None:
    hop = "@[local_ip]:[local_port];lr"
    route = f"Record-Route: <sip:near{hop};a=1>\nRecord-Route: <sip:middle{hop}>, <sip:far{hop}>"
    async with trial(tmp_path, a=Phone("answer", {"record_route": route}), b=Phone("hang_up")) as t:
        await t.post()
    assert t.outcome == "completed"
    here = f"127.0.0.1:{t.a.port};lr"
    # RFC 3261 §12.1.2: the client's route set is the Record-Route in reverse; §12.2.1.1: it goes into each request.
    expected = [f"<sip:far@{here}>", f"<sip:middle@{here}>", f"<sip:near@{here};a=1>"]
    for request in (*t.a.received("ACK"), *t.a.received("BYE")):
        assert [part.strip() for value in request.all("Route") for part in value.split(",")] == expected
        assert request.first_line.split(" ")[1] == f"sip:phone@127.0.0.1:{t.a.port}"


# --- what the phone asks for within the call ---


def in_dialog(method: str, expected: int, headers: str = "") -> Phone:
    return Phone("in_dialog", {"method": method, "expected": expected, "headers": headers})


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("OPTIONS", 200),
        ("INFO", 200),
        ("UPDATE", 200),
        ("NOTIFY", 405),
        ("MESSAGE", 405),
        ("REFER", 405),
        ("FROB", 501),
    ],
)
async def test_request_within_the_call_is_answered(tmp_path: Path, side: Side, method: str, expected: int) -> None:
    phones = {side: in_dialog(method, expected), side.other: Phone("answer")}
    async with trial(tmp_path, a=phones[Side.A], b=phones[Side.B]) as t:
        await t.post()
    assert (t.outcome, t.ended_by) == ("completed", side)


@pytest.mark.parametrize("scenario", ["reinvite", "update"])
@pytest.mark.parametrize("side", Side)
async def test_session_refresh_changes_nothing(tmp_path: Path, side: Side, scenario: str) -> None:
    phones = {side: Phone(scenario, {"direction": "sendrecv"}), side.other: Phone("answer")}
    async with trial(tmp_path, a=phones[Side.A], b=phones[Side.B]) as t:
        await t.post()
    assert (t.outcome, t.ended_by) == ("completed", side)
    method = "INVITE" if scenario == "reinvite" else "UPDATE"
    (answer,) = [m for m in t.phones[side].messages if not m.sent and m.status and m.method == method]
    assert (answer.status, answer.header("Content-Type")) == (200, SDP_TYPE)
    ours = re.findall(r"m=audio (\d+) ", t.phones[side].received("INVITE")[0].body)
    assert re.findall(r"m=audio (\d+) RTP/AVP 8 101\r", answer.body) == ours  # our port and the codec stay
    assert t.entries("hold") == t.entries("resume") == []


@pytest.mark.parametrize(("direction", "answered"), [("sendonly", "recvonly"), ("inactive", "inactive")])
async def test_hold_is_answered_and_journalled(tmp_path: Path, direction: str, answered: str) -> None:
    async with trial(tmp_path, a=Phone("answer"), b=Phone("reinvite", {"direction": direction})) as t:
        await t.post()
    assert t.outcome == "completed"
    (answer,) = [m for m in t.b.messages if not m.sent and m.status == 200 and m.method == "INVITE"]
    assert f"a={answered}" in answer.body.split("\r\n")
    assert len(t.entries("hold", Side.B)) == 1


async def test_hold_and_resume(tmp_path: Path) -> None:
    async with trial(tmp_path, a=Phone("hold_and_resume"), b=Phone("answer")) as t:
        await t.post()
    assert (t.outcome, t.ended_by) == ("completed", "a")
    (journal,) = t.journals.values()
    assert [e.event for e in journal if e.event in ("hold", "resume")] == ["hold", "resume"]


async def test_our_offer_is_the_same_session_when_it_is_asked_for(tmp_path: Path) -> None:
    async with trial(tmp_path, a=Phone("answer"), b=Phone("reinvite_without_offer")) as t:
        await t.post()
    assert t.outcome == "completed"
    (offer,) = [m for m in t.b.messages if not m.sent and m.status == 200 and m.method == "INVITE"]
    first = t.b.received("INVITE")[0]
    owner, version = r"o=- (\d+) \d+ ", r"o=- \d+ (\d+) "
    assert re.findall(owner, offer.body) == re.findall(owner, first.body)
    # RFC 3264 §8: the same description keeps its version, another has the next one.
    steps = 0 if offer.body == first.body else 1
    assert int(re.findall(version, offer.body)[0]) - int(re.findall(version, first.body)[0]) == steps
    assert t.entries("hold") == []


async def test_phone_that_forgot_the_call_is_over(tmp_path: Path) -> None:
    async with trial(tmp_path, a=Phone("forgotten_call"), b=Phone("hang_up")) as t:
        await t.post()
    assert (t.outcome, t.ended_by) == ("completed", "b")


# --- shutdown ---


async def test_shutdown_hangs_up_both(tmp_path: Path) -> None:
    async with trial(tmp_path, a=Phone("answer"), b=Phone("answer")) as t:
        await t.post()
        await t.seen("joined")
        await t.service.switchboard.close()
    assert (t.outcome, t.ended_by) == ("completed", "shutdown")


async def test_shutdown_cancels_who_rings(tmp_path: Path) -> None:
    async with trial(tmp_path, a=Phone("answer"), b=Phone("ring_on")) as t:
        response = await t.post()
        await t.service.switchboard.close()
    assert response.status_code == 200
    assert (t.outcome, t.ended_by) == ("cancelled", "shutdown")
