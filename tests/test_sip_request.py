"""Requests outside of a dialog, how long an INVITE may meet silence, and what a call's end tells of how far it came."""

import pytest

from dosvoces.sip.api import CallEnd, EndCause, Hop, Invitation
from dosvoces.sip.digest import Credentials
from dosvoces.sip.message import Response, parse
from dosvoces.sip.outgoing import OutgoingCall
from dosvoces.sip.request import Series, seen_address
from dosvoces.sip.transaction import Failure
from tests.sip_stage import OFFER, TRUNK, Recorder, Stage

HOP = Hop("192.0.2.77", 5070)
CHALLENGE = ("WWW-Authenticate", 'Digest realm="trunk", nonce="n1", qop="auth", algorithm=SHA-256')


class Asking:
    """A series of requests to `HOP`, which is no configured peer."""

    def __init__(self, credentials: Credentials | None = None) -> None:
        self.stage = Stage()
        self.series = Series(
            self.stage.ua,
            request_uri="sip:example.com",
            from_uri="sip:us@example.com",
            to_uri="sip:us@example.com",
            credentials=credentials,
        )
        self.told: list[int | Failure] = []

    def ask(self, method: str = "REGISTER", limit_s: float = 32.0) -> None:
        self.stage.ua.enter()
        self.series.send(method, HOP, self._answered, headers=[("Expires", "60")], limit_s=limit_s)

    def _answered(self, event: Response | Failure) -> None:
        self.told.append(event.code if isinstance(event, Response) else event)


def answered(asking: Asking, code: int, *headers: tuple[str, str]) -> None:
    """The other end answers the only request that waits."""
    request = asking.stage.request("REGISTER")
    lines = [f"SIP/2.0 {code} x", *(f"Via: {via}" for via in request.values("via"))]
    lines += [f"{name}: {request.header(name.lower())}" for name in ("From", "To", "Call-ID", "CSeq")]
    lines += [f"{name}: {value}" for name, value in headers]
    asking.stage.receive(("\r\n".join(lines) + "\r\n\r\n").encode(), HOP)


def test_a_series_keeps_its_call_id_and_counts_on() -> None:
    asking = Asking()
    seen = []
    for _ in range(2):
        asking.ask()
        (waiting, destination) = asking.stage.ua.outbox[0]
        message = parse(waiting)
        seen.append((message.header("call-id"), message.header("from"), message.cseq, message.header("expires")))
        assert destination == HOP
        answered(asking, 200)
    first, second = seen
    assert second == (first[0], first[1], first[2] + 1, "60")
    assert asking.told == [200, 200]
    asking.stage.rest()


def test_a_challenge_is_answered_and_the_next_request_answers_it_in_advance() -> None:
    asking = Asking(Credentials("us", "secret"))
    asking.ask()
    answered(asking, 401, CHALLENGE)
    answered(asking, 200)
    asking.ask()
    request = asking.stage.request("REGISTER")
    assert "nc=00000002" in request.header("authorization")
    assert asking.told == [200]


def test_only_the_configured_realm_gets_an_answer() -> None:
    asking = Asking(Credentials("us", "secret", realm="another"))
    asking.ask()
    answered(asking, 401, CHALLENGE)
    assert (asking.told, asking.stage.sent()) == ([401], [])


def test_silence_ends_a_request_at_its_own_limit() -> None:
    asking = Asking()
    asking.ask("OPTIONS", limit_s=4.0)
    asking.stage.messages()
    assert [at for at, _method in asking.stage.moments(10)] == [0.5, 1.5, 3.5]
    assert asking.told == [Failure.TIMEOUT]


def test_a_port_where_nobody_listens_ends_a_request_at_once() -> None:
    asking = Asking()
    asking.ask("OPTIONS")
    asking.stage.messages()
    asking.stage.ua.unreachable(HOP, b"", 0.0)
    assert asking.told == [Failure.TRANSPORT]


@pytest.mark.parametrize(
    ("via", "expected"),
    [
        ("SIP/2.0/UDP 10.0.0.1:5060;rport=61234;received=203.0.113.7;branch=z9hG4bKx", ("203.0.113.7", 61234)),
        ("SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bKx;received=2001:db8::7;rport=5060", ("2001:db8::7", 5060)),
        ("SIP/2.0/UDP 10.0.0.1:5060;rport;branch=z9hG4bKx;received=203.0.113.7", None),
        ("SIP/2.0/UDP 10.0.0.1:5060;rport=5060;branch=z9hG4bKx", None),
        ("SIP/2.0/UDP 10.0.0.1:5060;rport=0;received=203.0.113.7", None),
        ("SIP/2.0/UDP 10.0.0.1:5060;rport=5060;received=example.com", None),
    ],
)
def test_our_address_as_the_other_end_saw_it(via: str, expected: tuple[str, int] | None) -> None:
    response = parse(f"SIP/2.0 200 OK\r\nVia: {via}\r\nFrom: <sip:a>\r\nTo: <sip:a>\r\n".encode() + REST)
    assert seen_address(response) == expected


REST = b"Call-ID: c\r\nCSeq: 1 REGISTER\r\n\r\n"


# --- an INVITE that meets silence ---


def dial(stage: Stage) -> OutgoingCall:
    stage.recorder = Recorder()
    invitation = Invitation(
        request_uri="sip:600@example.com",
        destination=TRUNK,
        from_uri="sip:910@example.com",
        to_uri="sip:600@example.com",
        call_id="leg-a",
        body=OFFER,
        silence_limit_s=6.0,
    )
    return stage.ua.invite(invitation, stage.recorder)


def test_an_invite_is_given_up_at_its_own_limit() -> None:
    stage = Stage()
    dial(stage)
    stage.messages()
    assert stage.moments(6.0) == [*((at, "INVITE") for at in (0.5, 1.5, 3.5)), (6.0, "CANCEL")]
    assert stage.recorder.end == CallEnd(EndCause.TIMEOUT, "remote", None, "no answer to the INVITE")
    assert stage.recorder.end.heard == 0
    stage.rest()


def test_who_stirs_after_we_gave_up_is_cancelled_once() -> None:
    stage = Stage()
    dial(stage)
    invite = stage.request()
    stage.wait(5.9)
    stage.messages()
    stage.wait(0.1)
    cancel = stage.request("CANCEL")
    stage.answer(invite, 100)
    stage.answer(invite, 180)
    assert stage.sent() == []
    stage.answer(cancel, 200)
    stage.answer(invite, 180)
    stage.answer(invite, 487)
    assert stage.sent() == ["ACK"]
    stage.rest()


def test_who_answers_after_we_gave_up_is_hung_up() -> None:
    stage = Stage()
    dial(stage)
    invite = stage.request()
    stage.wait(6.0)
    stage.messages()
    stage.answer(invite, 200)
    stage.answer(stage.request("BYE"), 200)
    assert stage.sent() == ["ACK"]
    stage.rest()


def test_a_trying_stops_the_clock() -> None:
    stage = Stage()
    dial(stage)
    stage.answer(stage.request(), 100)
    stage.wait(20)
    assert stage.recorder.told == []


@pytest.mark.parametrize(("provisional", "heard"), [((), 0), ((100,), 100), ((100, 180, 100), 180), ((183,), 183)])
def test_the_end_tells_what_was_heard_before(provisional: tuple[int, ...], heard: int) -> None:
    stage = Stage()
    dial(stage)
    invite = stage.request()
    for code in provisional:
        stage.answer(invite, code)
    stage.answer(invite, 503, headers=[("Retry-After", "18 (overload);duration=60")])
    assert (stage.recorder.end.heard, stage.recorder.end.retry_after_s) == (heard, 18)


@pytest.mark.parametrize("value", ["soon", "", "-1", "9999999999"])
def test_a_retry_after_that_cannot_be_read_is_none(value: str) -> None:
    stage = Stage()
    dial(stage)
    stage.answer(stage.request(), 503, headers=[("Retry-After", value)])
    assert stage.recorder.end.retry_after_s is None
