"""A call that is up: requests of the peer, our re-INVITE, BYE, credentials and routes (RFC 3261 §12, §14, §15, §22)."""

import re
from dataclasses import replace

import pytest

from dosvoces.sip.api import CallEnd, CallHandler, CallStateError, EndCause, Later
from dosvoces.sip.call import Call
from dosvoces.sip.dialog import Dialog
from dosvoces.sip.digest import Credentials, check
from dosvoces.sip.message import Request
from dosvoces.sip.orphan import CSEQ_LEAP
from dosvoces.sip.outgoing import OutgoingCall
from tests.sip_stage import ANSWER, LOCAL, OFFER, TRUNK, Stage

CREDENTIALS = Credentials("user", "secret")
OF_TRUNK = Credentials("user", "secret", realm="trunk")
HANGUP = CallEnd(EndCause.HANGUP, "local")


def challenge(
    nonce: str, *, name: str = "Proxy-Authenticate", realm: str = "trunk", algorithm: str = "MD5", more: str = ""
) -> tuple[str, str]:
    return name, f'Digest realm="{realm}", nonce="{nonce}", qop="auth", algorithm={algorithm}{more}'


def authorized(request: Request, nonce: str, *, name: str = "proxy-authorization", realm: str = "trunk") -> bool:
    return check(request.header(name), CREDENTIALS, method=request.method, realm=realm, nonce=nonce)


def nonce_count(request: Request) -> str:
    found = re.search(r"nc=([0-9a-f]+)", request.header("proxy-authorization"))
    return found[1] if found else ""


# -- BYE -----------------------------------------------------------------------------------------------------------


def test_bye_of_the_peer() -> None:
    stage = Stage()
    call, _invite = stage.talking()
    branch = stage.ask("BYE", local_tag=call.local_tag, headers=[("Reason", 'Q.850;cause=16;text="bye"')])
    response = stage.response()
    assert (response.code, response.header("to")) == (200, f"<sip:910@example.com>;tag={call.local_tag}")
    assert stage.recorder.told == [CallEnd(EndCause.HANGUP, "remote", None, "BYE", 'Q.850;cause=16;text="bye"')]
    # Repeated: the same answer, by the transaction; another BYE: the dialog is gone.
    stage.ask("BYE", local_tag=call.local_tag, branch=branch)
    stage.ask("BYE", local_tag=call.local_tag, cseq=2)
    assert stage.sent() == [200, 481]
    call.hangup()
    assert stage.sent() == []
    stage.rest()


def test_crossing_byes_are_both_answered() -> None:
    """S16."""
    stage = Stage()
    call, _invite = stage.talking()
    call.hangup()
    bye = stage.request("BYE")
    stage.ask("BYE", local_tag=call.local_tag)
    assert stage.sent() == [200]
    assert stage.recorder.told == [HANGUP]
    stage.answer(bye, 481)
    assert stage.recorder.told == [HANGUP]
    stage.rest()


def test_lost_bye_is_repeated_up_to_t2_and_given_up_after_32_s() -> None:
    """S17; Timers E and F, with the 4 s cap that sippy lacks."""
    stage = Stage()
    call, _invite = stage.talking()
    call.hangup()
    assert stage.sent() == ["BYE"]
    times = [0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]
    assert stage.moments(40) == [(at, "BYE") for at in times]
    assert stage.recorder.told == [CallEnd(EndCause.HANGUP, "local", None, "", "BYE: timeout")]
    stage.rest()


def test_provisional_answer_to_bye_slows_the_repeats() -> None:
    stage = Stage()
    call, _invite = stage.talking()
    call.hangup()
    stage.answer(stage.request("BYE"), 100)
    assert [at for at, _ in stage.moments(10)] == [0.5, 4.5, 8.5]
    stage.rest()


def test_bye_answered_with_an_error_is_over_too() -> None:
    stage = Stage()
    call, _invite = stage.talking()
    call.hangup()
    stage.answer(stage.request("BYE"), 500, "Oops")
    assert stage.recorder.told == [CallEnd(EndCause.HANGUP, "local", None, "", "BYE: 500 Oops")]
    stage.rest()


# -- credentials ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["MD5", "SHA-256"])
def test_challenged_invite_is_sent_again_with_credentials(algorithm: str) -> None:
    stage = Stage()
    call = stage.invite(CREDENTIALS)
    first = stage.request()
    stage.answer(first, 407, headers=[challenge("n1", algorithm=algorithm)])
    (ack, _), (second, _) = stage.messages()
    assert isinstance(second, Request)
    assert (ack.header("cseq"), second.header("cseq")) == ("1 ACK", "2 INVITE")
    assert second.header("call-id") == first.header("call-id")
    assert second.header("from") == first.header("from")
    assert second.header("via") != first.header("via")
    assert (second.header("to"), second.body) == ("<sip:600@example.com>", OFFER)
    assert authorized(second, "n1")
    stage.answer(second, 200, body=ANSWER)
    ack_to_answer = stage.request("ACK")
    # RFC 3261 §13.2.2.4, §22.1: the ACK copies the credentials.
    assert ack_to_answer.header("proxy-authorization") == second.header("proxy-authorization")
    assert stage.recorder.told == [("answer", ANSWER)]
    call.hangup()
    bye = stage.request("BYE")
    assert (authorized(bye, "n1"), nonce_count(bye)) == (True, "00000002")
    stage.answer(bye, 200)
    stage.rest()


def test_challenged_bye_is_sent_again_with_credentials() -> None:
    """sippy doesn't, and the far leg stays up."""
    stage = Stage()
    call, _invite = stage.talking(OF_TRUNK)
    call.hangup("Q.850;cause=16")
    stage.answer(stage.request("BYE"), 401, headers=[challenge("n2", name="WWW-Authenticate")])
    again = stage.request("BYE")
    assert authorized(again, "n2", name="authorization")
    assert (again.header("cseq"), again.header("reason")) == ("3 BYE", "Q.850;cause=16")
    stage.answer(again, 200)
    assert stage.recorder.told == [HANGUP]
    stage.rest()


def test_stale_nonce_is_answered_once_more() -> None:
    stage = Stage()
    stage.invite(CREDENTIALS)
    stage.answer(stage.request(), 407, headers=[challenge("n1")])
    _ack, (second, _) = stage.messages()
    assert isinstance(second, Request)
    stage.answer(second, 407, headers=[challenge("n2", more=", stale=TRUE")])
    _ack, (third, _) = stage.messages()
    assert isinstance(third, Request)
    assert (authorized(third, "n2"), third.cseq, nonce_count(third)) == (True, 3, "00000001")
    stage.answer(third, 407, "Again", headers=[challenge("n3", more=", stale=true")])
    assert stage.sent() == ["ACK"]  # two rounds are enough: S21
    assert stage.recorder.end == CallEnd(EndCause.REJECTED, "remote", 407, "Again")
    stage.rest()


def test_wrong_password_ends_at_once() -> None:
    stage = Stage()
    stage.invite(CREDENTIALS)
    stage.answer(stage.request(), 401, headers=[challenge("n1", name="WWW-Authenticate")])
    _ack, (second, _) = stage.messages()
    assert isinstance(second, Request)
    stage.answer(second, 401, headers=[challenge("n2", name="WWW-Authenticate")])
    assert stage.sent() == ["ACK"]
    assert stage.recorder.end == CallEnd(EndCause.REJECTED, "remote", 401)
    stage.rest()


def test_proxy_and_callee_both_ask() -> None:
    stage = Stage()
    stage.invite(CREDENTIALS)
    stage.answer(stage.request(), 407, headers=[challenge("n1")])
    _ack, (second, _) = stage.messages()
    assert isinstance(second, Request)
    stage.answer(second, 401, headers=[challenge("m1", name="WWW-Authenticate", realm="callee")])
    _ack, (third, _) = stage.messages()
    assert isinstance(third, Request)
    assert authorized(third, "m1", name="authorization", realm="callee")
    assert (authorized(third, "n1"), nonce_count(third)) == (True, "00000002")


@pytest.mark.parametrize(
    "value",
    ["", "Basic realm=x", 'Digest realm="r", nonce="n", algorithm=UNKNOWN', "Digest nonce", 'Digest realm="r'],
)
def test_challenge_that_cannot_be_answered_is_a_refusal(value: str) -> None:
    stage = Stage()
    stage.invite(CREDENTIALS)
    stage.answer(stage.request(), 407, headers=[("Proxy-Authenticate", value)])
    assert stage.sent() == ["ACK"]
    assert stage.recorder.end == CallEnd(EndCause.REJECTED, "remote", 407)


def test_challenge_without_credentials_is_a_refusal() -> None:
    stage = Stage()
    stage.invite()
    stage.answer(stage.request(), 401, headers=[challenge("n1", name="WWW-Authenticate")])
    assert stage.recorder.end == CallEnd(EndCause.REJECTED, "remote", 401)


def test_loser_of_a_fork_that_asks_for_credentials_is_hung_up() -> None:
    stage = Stage()
    _call, invite = stage.talking(OF_TRUNK)
    stage.answer(invite, 200, to_tag="loser")
    stage.answer(stage.request("BYE"), 407, headers=[challenge("n1")])
    again = stage.request("BYE")
    assert authorized(again, "n1")
    stage.answer(again, 200)
    assert stage.sent() == ["ACK"]


# -- routes --------------------------------------------------------------------------------------------------------


def test_loose_routes_are_followed_in_reverse() -> None:
    stage = Stage()
    call = stage.invite()
    routes = [
        ("Record-Route", "<sip:192.0.2.42;lr;x=1>, <sip:p2.example.com;lr>"),
        ("Record-Route", "<sip:192.0.2.41:5070;lr=on>"),
    ]
    stage.answer(stage.request(), 200, headers=routes)
    ((ack, destination),) = stage.messages()
    assert isinstance(ack, Request)
    route_set = ["<sip:192.0.2.41:5070;lr=on>", "<sip:p2.example.com;lr>", "<sip:192.0.2.42;lr;x=1>"]
    assert (ack.uri, ack.values("route"), destination) == (
        "sip:agent@192.0.2.10:5060",
        route_set,
        ("192.0.2.41", 5070),
    )
    call.hangup()
    ((bye, destination),) = stage.messages()
    assert (bye.values("route"), destination) == (route_set, ("192.0.2.41", 5070))


def test_strict_route_takes_the_start_line() -> None:
    """RFC 3261 §12.2.1.1."""
    stage = Stage()
    call = stage.invite()
    routes = [("Record-Route", "<sip:192.0.2.42;lr>, <sip:192.0.2.41;method=INVITE?X=y>")]
    stage.answer(stage.request(), 200, headers=routes)
    stage.sent()
    call.hangup()
    ((bye, destination),) = stage.messages()
    assert isinstance(bye, Request)
    assert (bye.uri, bye.values("route"), destination) == (
        "sip:192.0.2.41",
        ["<sip:192.0.2.42;lr>", "<sip:agent@192.0.2.10:5060>"],
        ("192.0.2.41", 5060),
    )


def test_route_by_name_goes_to_the_trunk() -> None:
    stage = Stage()
    stage.invite()
    stage.answer(stage.request(), 200, headers=[("Record-Route", "<sip:edge.example.com;lr>")])
    ((_ack, destination),) = stage.messages()
    assert destination == TRUNK


def test_target_is_refreshed_by_a_reinvite_of_the_peer() -> None:
    stage = Stage()
    call, _invite = stage.talking()
    stage.ask("INVITE", local_tag=call.local_tag, body=b"hold")
    stage.response()
    dialog: Dialog = call._dialog
    assert dialog.remote_target == "sip:agent@192.0.2.10:5060"
    stage.ask("ACK", local_tag=call.local_tag)
    data = (
        "UPDATE sip:dosvoces@198.51.100.7 SIP/2.0\r\nv: SIP/2.0/UDP 192.0.2.10;branch=z9hG4bKup\r\n"
        f"f: <sip:600@example.com>;tag=peer\r\nt: <sip:910@example.com>;tag={call.local_tag}\r\n"
        "i: leg-a\r\nCSeq: 2 UPDATE\r\nm: <sip:moved@192.0.2.10:5090>\r\n\r\n"
    )
    stage.receive(data.encode())
    assert stage.response().code == 200
    call.hangup()
    ((bye, destination),) = stage.messages()
    assert isinstance(bye, Request)
    assert (bye.uri, destination) == ("sip:moved@192.0.2.10:5090", ("192.0.2.10", 5090))


# -- requests of the peer ------------------------------------------------------------------------------------------


def test_hold_is_answered_and_the_answer_repeated_until_the_ack() -> None:
    stage = Stage()
    call, _invite = stage.talking()
    branch = stage.ask("INVITE", local_tag=call.local_tag, body=b"hold")
    response = stage.response()
    assert (response.code, response.body, response.header("contact")) == (
        200,
        b"our answer",
        "<sip:dosvoces@198.51.100.7:5060>",
    )
    assert [at for at, _ in stage.moments(12)] == [0.5, 1.5, 3.5, 7.5, 11.5]
    stage.ask("INVITE", local_tag=call.local_tag, body=b"hold", branch=branch)
    assert stage.sent() == []  # RFC 6026: absorbed
    stage.ask("ACK", local_tag=call.local_tag)
    stage.ask("ACK", local_tag=call.local_tag)
    assert stage.moments(40) == []
    assert stage.recorder.told == [("offer", b"hold")]
    stage.ask("INVITE", local_tag=call.local_tag, cseq=2, body=b"resume")
    assert stage.sent() == [200]


def test_reinvite_without_an_offer_gets_ours_and_the_ack_answers_it() -> None:
    """sippy took it for hold and lost the answer."""
    stage = Stage()
    call, _invite = stage.talking()
    stage.ask("INVITE", local_tag=call.local_tag)
    assert stage.response().body == b"our answer"
    stage.ask("ACK", local_tag=call.local_tag, body=b"their answer")
    assert stage.recorder.told == [("offer", None), ("answer to offer", b"their answer")]


def test_reinvite_that_is_never_acknowledged_ends_the_call() -> None:
    stage = Stage()
    call, _invite = stage.talking()
    stage.ask("INVITE", local_tag=call.local_tag, body=b"hold")
    stage.wait(31.9)
    assert set(stage.sent()) == {200}
    stage.wait(0.2)
    stage.answer(stage.request("BYE"), 200)
    assert stage.recorder.end == CallEnd(EndCause.TIMEOUT, "remote", None, "no ACK to our answer")
    stage.rest()


def test_bye_instead_of_the_ack_to_a_reinvite() -> None:
    stage = Stage()
    call, _invite = stage.talking()
    stage.ask("INVITE", local_tag=call.local_tag, body=b"hold")
    stage.ask("BYE", local_tag=call.local_tag, cseq=2)
    assert stage.sent() == [200, 200]
    assert stage.moments(40) == []
    stage.rest()


def test_hangup_while_a_reinvite_waits_for_its_ack() -> None:
    stage = Stage()
    call, _invite = stage.talking()
    stage.ask("INVITE", local_tag=call.local_tag, body=b"hold")
    call.hangup()
    assert stage.sent() == [200, "BYE"]
    stage.rest()
    assert stage.recorder.end == CallEnd(EndCause.HANGUP, "local", None, "", "BYE: timeout")


def test_refused_reinvite_leaves_the_call_up() -> None:
    stage = Stage()
    call, _invite = stage.talking()
    stage.recorder.says = None
    branch = stage.ask("INVITE", local_tag=call.local_tag, body=b"video")
    assert stage.sent() == [488]
    assert stage.moments(2) == [(0.5, 488), (1.5, 488)]
    stage.ask("INVITE", local_tag=call.local_tag, body=b"video", branch=branch)
    assert stage.sent() == [488]
    stage.ask("ACK", local_tag=call.local_tag, branch=branch)
    assert stage.moments(40) == []
    assert stage.recorder.told == [("offer", b"video")]


def test_refused_reinvite_without_an_ack_is_forgotten_at_timer_h() -> None:
    stage = Stage()
    call, _invite = stage.talking()
    stage.recorder.says = None
    stage.ask("INVITE", local_tag=call.local_tag, body=b"video")
    stage.wait(33)
    assert (call.over, set(stage.sent())) == (False, {488})


def test_second_invite_before_the_ack_of_the_first() -> None:
    """S20."""
    stage = Stage()
    call, _invite = stage.talking()
    stage.ask("INVITE", local_tag=call.local_tag, body=b"hold")
    stage.response()
    stage.ask("INVITE", local_tag=call.local_tag, cseq=2, body=b"resume")
    response = stage.response()
    assert (response.code, response.header("retry-after")) == (500, "5")
    stage.ask("UPDATE", local_tag=call.local_tag, cseq=3, body=b"resume")
    assert stage.response().code == 500


def test_requests_out_of_order_are_refused() -> None:
    """RFC 3261 §12.2.2."""
    stage = Stage()
    call, _invite = stage.talking()
    stage.ask("OPTIONS", local_tag=call.local_tag, cseq=7)
    stage.ask("INFO", local_tag=call.local_tag, cseq=6)
    stage.ask("BYE", local_tag=call.local_tag, cseq=6)
    assert stage.sent() == [200, 500, 500]
    assert stage.recorder.told == []


@pytest.mark.parametrize(
    ("method", "code", "allow"),
    [
        ("OPTIONS", 200, True),
        ("PRACK", 481, False),
        ("REFER", 405, True),
        ("NOTIFY", 405, True),
        ("MESSAGE", 405, True),
        ("SUBSCRIBE", 405, True),
        ("FROBNICATE", 501, True),
    ],
)
def test_other_methods(method: str, code: int, allow: bool) -> None:
    stage = Stage()
    call, _invite = stage.talking()
    stage.ask(method, local_tag=call.local_tag)
    response = stage.response()
    assert (response.code, "UPDATE" in response.header("allow")) == (code, allow)


def test_info_is_told() -> None:
    stage = Stage()
    call, _invite = stage.talking()
    stage.ask("INFO", local_tag=call.local_tag, body=b"Signal=5", content_type="application/dtmf-relay; x=1")
    assert stage.sent() == [200]
    assert stage.recorder.told == [("info", "application/dtmf-relay", b"Signal=5")]


def test_update_is_answered() -> None:
    """sippy gives no answer at all, so that session timers run out."""
    stage = Stage()
    call, _invite = stage.talking()
    stage.ask("UPDATE", local_tag=call.local_tag)
    assert (stage.response().body, stage.recorder.told) == (b"", [])
    stage.ask("UPDATE", local_tag=call.local_tag, cseq=2, body=b"codec")
    assert (stage.response().body, stage.recorder.told) == (b"our answer", [("offer", b"codec")])
    stage.recorder.says = None
    stage.ask("UPDATE", local_tag=call.local_tag, cseq=3, body=b"codec")
    assert stage.response().code == 488


@pytest.mark.parametrize("method", ["INVITE", "UPDATE"])
def test_body_that_is_no_sdp(method: str) -> None:
    stage = Stage()
    call, _invite = stage.talking()
    stage.ask(method, local_tag=call.local_tag, body=b"x", content_type="text/plain")
    response = stage.response()
    assert (response.code, response.header("accept")) == (415, "application/sdp")


def test_required_extension_is_refused() -> None:
    stage = Stage()
    call, _invite = stage.talking()
    stage.ask("INVITE", local_tag=call.local_tag, body=b"x", headers=[("Require", "100rel, foo"), ("Require", "bar")])
    response = stage.response()
    assert (response.code, response.header("unsupported")) == (420, "100rel, foo, bar")


def test_bye_is_never_refused_for_an_extension() -> None:
    stage = Stage()
    call, _invite = stage.talking()
    stage.ask("BYE", local_tag=call.local_tag, headers=[("Require", "foo")])
    assert (stage.sent(), call.over) == ([200], True)


@pytest.mark.parametrize(("method", "body"), [("INVITE", b"x"), ("UPDATE", b""), ("INFO", b"")])
def test_requests_after_our_bye_are_too_late(method: str, body: bytes) -> None:
    stage = Stage()
    call, _invite = stage.talking()
    call.hangup()
    stage.sent()
    stage.ask(method, local_tag=call.local_tag, body=body)
    assert stage.sent() == [481]


def test_cancel_of_a_reinvite_that_is_answered_already() -> None:
    stage = Stage()
    call, _invite = stage.talking()
    branch = stage.ask("INVITE", local_tag=call.local_tag, body=b"hold")
    stage.sent()
    stage.ask("CANCEL", local_tag=call.local_tag, branch=branch)
    assert stage.sent() == [200]
    stage.ask("ACK", local_tag=call.local_tag)
    assert (call.over, stage.recorder.told) == (False, [("offer", b"hold")])


# -- offers that are answered later ---------------------------------------------------------------------------------


def put_off(method: str = "INVITE") -> tuple[Stage, OutgoingCall, str, list[str]]:
    """A call whose peer's offer the handler answers later; with what was asked of others."""
    stage = Stage()
    call, _invite = stage.talking()
    asked: list[str] = []
    stage.recorder.says = Later(lambda: asked.append("asked"))
    return stage, call, stage.ask(method, local_tag=call.local_tag, body=b"change"), asked


@pytest.mark.parametrize(("body", "code"), [(b"our answer", 200), (None, 488)])
def test_an_offer_is_answered_later(body: bytes | None, code: int) -> None:
    stage, call, branch, asked = put_off()
    assert (stage.sent(), asked) == ([100], ["asked"])
    with pytest.raises(CallStateError):
        call.reinvite(b"ours", lambda _status, _body: None)
    call.answer_offer(body)
    assert stage.response().code == code
    call.answer_offer(b"once more")
    assert stage.sent() == []
    stage.ask("ACK", local_tag=call.local_tag, branch=branch if code == 488 else "")
    call.reinvite(b"ours", lambda _status, _body: None)
    assert stage.sent() == ["INVITE"]


def test_an_offer_that_is_answered_later_may_be_answered_at_once() -> None:
    stage = Stage()
    call, _invite = stage.talking()
    stage.recorder.says = Later(lambda: call.answer_offer(b"our answer"))
    stage.ask("INVITE", local_tag=call.local_tag, body=b"change")
    assert stage.sent() == [100, 200]


def test_an_update_can_t_wait() -> None:
    """RFC 3311 §5.2."""
    stage, _call, _branch, asked = put_off("UPDATE")
    assert (stage.sent(), asked) == ([488], [])


def test_an_offer_that_waits_is_cancelled() -> None:
    stage, call, branch, _asked = put_off()
    stage.ask("CANCEL", local_tag=call.local_tag, branch=branch)
    call.answer_offer(b"too late")
    assert sorted(map(str, stage.sent())) == ["100", "200", "487"]
    assert not call.over


@pytest.mark.parametrize("by", ["us", "peer"])
def test_an_offer_that_waits_is_answered_when_the_call_ends(by: str) -> None:
    """RFC 3261 §15.1.2."""
    stage, call, branch, _asked = put_off()
    if by == "us":
        call.hangup()
        assert stage.sent() == [100, 487, "BYE"]
    else:
        stage.ask("BYE", local_tag=call.local_tag, cseq=2)
        assert stage.sent() == [100, 200, 487]
    call.answer_offer(b"too late")
    stage.ask("ACK", local_tag=call.local_tag, branch=branch)
    stage.rest()


def test_handler_that_hangs_up_over_an_offer() -> None:
    class Leaver(CallHandler):
        def on_offer(self, body: bytes | None) -> bytes | None:
            call.hangup()
            return b"too late"

    stage = Stage()
    call, _invite = stage.talking()
    call._handler = Leaver()
    stage.ask("INVITE", local_tag=call.local_tag, body=b"hold")
    assert stage.sent() == ["BYE", 488]


# -- our re-INVITE -------------------------------------------------------------------------------------------------


class Reoffer:
    """Makes a re-INVITE and writes down what came of it."""

    def __init__(self, stage: Stage, call: Call) -> None:
        self.results: list[tuple[int | None, bytes]] = []
        call.reinvite(b"new offer", lambda status, body: self.results.append((status, body)))


def test_reinvite_accepted() -> None:
    stage = Stage()
    call, _invite = stage.talking()
    reoffer = Reoffer(stage, call)
    invite = stage.request()
    assert (invite.uri, invite.header("cseq"), invite.body) == ("sip:agent@192.0.2.10:5060", "2 INVITE", b"new offer")
    stage.answer(invite, 100)
    stage.answer(invite, 200, body=b"new answer", contact="<sip:moved@192.0.2.10:5099>")
    ((ack, destination),) = stage.messages()
    assert (ack.header("cseq"), destination) == ("2 ACK", ("192.0.2.10", 5099))
    stage.answer(invite, 200, body=b"new answer")
    assert stage.sent() == ["ACK"]
    assert reoffer.results == [(200, b"new answer")]
    Reoffer(stage, call)
    assert stage.sent() == ["INVITE"]


def test_challenged_reinvite_is_sent_again_with_credentials() -> None:
    """sippy raised, and its keep-alives stopped."""
    stage = Stage()
    call, _invite = stage.talking(OF_TRUNK)
    reoffer = Reoffer(stage, call)
    stage.answer(stage.request(), 407, headers=[challenge("n1")])
    _ack, (again, _) = stage.messages()
    assert isinstance(again, Request)
    assert (authorized(again, "n1"), again.body) == (True, b"new offer")
    stage.answer(again, 200, body=b"new answer")
    assert (stage.sent(), reoffer.results) == (["ACK"], [(200, b"new answer")])


def test_refused_reoffer_leaves_the_call_up() -> None:
    stage = Stage()
    call, _invite = stage.talking()
    reoffer = Reoffer(stage, call)
    stage.answer(stage.request(), 488)
    assert (stage.sent(), reoffer.results, call.over) == (["ACK"], [(488, b"")], False)


def test_glare_waits_and_tries_once_more() -> None:
    """S19, RFC 3261 §14.1: 2.1 to 4 s as owner of the Call-ID."""
    stage = Stage()
    call, _invite = stage.talking()
    reoffer = Reoffer(stage, call)
    stage.answer(stage.request(), 491)
    assert stage.sent() == ["ACK"]
    # Meanwhile the peer's own re-INVITE has its turn; ours waits for the ACK.
    stage.ask("INVITE", local_tag=call.local_tag, body=b"hold")
    stage.wait(3.0)
    assert set(stage.sent()) == {200}
    stage.wait(0.3)
    stage.sent()
    stage.ask("ACK", local_tag=call.local_tag)
    stage.wait(0.5)
    second = stage.request()
    stage.answer(second, 491)
    assert (stage.sent(), reoffer.results) == (["ACK"], [(491, b"")])


def test_glare_and_hangup_meanwhile() -> None:
    stage = Stage()
    call, _invite = stage.talking()
    reoffer = Reoffer(stage, call)
    stage.answer(stage.request(), 491)
    stage.sent()
    call.hangup()
    stage.answer(stage.request("BYE"), 200)
    assert (stage.moments(60), reoffer.results) == ([], [])
    stage.rest()


def test_reinvite_of_the_peer_meets_ours() -> None:
    stage = Stage()
    call, _invite = stage.talking()
    Reoffer(stage, call)
    stage.sent()
    stage.ask("INVITE", local_tag=call.local_tag, body=b"hold")
    stage.ask("UPDATE", local_tag=call.local_tag, cseq=2, body=b"hold")
    assert stage.sent() == [491, 491]


def test_reinvite_answered_481_ends_the_call() -> None:
    stage = Stage()
    call, _invite = stage.talking()
    reoffer = Reoffer(stage, call)
    stage.answer(stage.request(), 481)
    assert (stage.sent(), reoffer.results) == (["ACK"], [(481, b"")])
    assert stage.recorder.end == CallEnd(
        EndCause.PROTOCOL, "remote", 481, "Call/Transaction Does Not Exist", "re-INVITE"
    )
    stage.rest()


@pytest.mark.parametrize("how", ["408", "silence", "100 and silence"])
def test_reinvite_without_an_answer_ends_the_call(how: str) -> None:
    stage = Stage()
    call, _invite = stage.talking()
    reoffer = Reoffer(stage, call)
    invite = stage.request()
    if how == "408":
        stage.answer(invite, 408)
    elif how == "100 and silence":
        stage.answer(invite, 100)
    stage.wait(0.0 if how == "408" else 32.0)
    bye = stage.messages()[-1][0]
    assert isinstance(bye, Request)
    assert bye.method == "BYE"
    stage.answer(bye, 200)
    status = 408 if how == "408" else None
    assert reoffer.results == [(status, b"")]
    assert stage.recorder.end == CallEnd(EndCause.TIMEOUT, "remote", status, "re-INVITE not answered")
    stage.rest()


def test_answer_to_a_reinvite_after_the_end_is_acknowledged() -> None:
    stage = Stage()
    call, _invite = stage.talking()
    reoffer = Reoffer(stage, call)
    invite = stage.request()
    stage.ask("BYE", local_tag=call.local_tag)
    stage.sent()
    stage.answer(invite, 200)
    assert (stage.sent(), reoffer.results) == (["ACK"], [])
    stage.rest()


def test_hangup_in_the_callback_of_a_reinvite() -> None:
    stage = Stage()
    call, _invite = stage.talking()
    call.reinvite(OFFER, lambda status, body: call.hangup())
    stage.answer(stage.request(), 481)
    assert stage.sent() == ["ACK", "BYE"]


def test_reinvite_in_the_wrong_state() -> None:
    stage = Stage()
    call = stage.invite()
    with pytest.raises(CallStateError):
        Reoffer(stage, call)
    stage.answer(stage.request(), 200)
    Reoffer(stage, call)
    with pytest.raises(CallStateError):
        Reoffer(stage, call)


def test_facts_hang_up_from_another_process() -> None:
    """After a crash: ACK, since it may have been lost, and BYE with a CSeq that is surely higher."""
    first = Stage()
    first.invite(CREDENTIALS)
    first.answer(first.request(), 200, headers=[("Record-Route", "<sip:192.0.2.41;lr>")])
    facts = first.recorder.facts
    assert facts is not None
    second = Stage()
    ends: list[CallEnd] = []
    second.ua.hang_up_orphan(facts, replace(OF_TRUNK, hosts=frozenset(["192.0.2.41"])), ends.append)
    (ack, to_ack), (bye, to_bye) = second.messages()
    assert isinstance(bye, Request)
    assert (to_ack, to_bye) == (("192.0.2.41", 5060), ("192.0.2.41", 5060))
    assert (ack.header("cseq"), ack.values("route")) == ("1 ACK", ["<sip:192.0.2.41;lr>"])
    assert (bye.cseq, bye.header("from"), bye.header("to")) == (CSEQ_LEAP + 2, facts.local, facts.remote)
    assert second.ua.open_calls == 1
    second.answer(bye, 407, headers=[challenge("n1")])
    again = second.request("BYE")
    assert authorized(again, "n1")
    second.answer(again, 200, "OK")
    assert ends == [CallEnd(EndCause.HANGUP, "local", 200, "OK")]
    second.rest()


def test_facts_of_a_call_that_is_gone() -> None:
    first = Stage()
    first.talking()
    assert first.recorder.facts is not None
    second = Stage()
    ends: list[CallEnd] = []
    second.ua.hang_up_orphan(first.recorder.facts, None, ends.append)
    second.ua.hang_up_orphan(first.recorder.facts, None)
    second.wait(33)
    assert ends == [CallEnd(EndCause.TIMEOUT, "local", None, "", "BYE: timeout")]
    second.rest()


def test_hang_up_all() -> None:
    stage = Stage()
    stage.talking()
    stage.ua.hang_up_all()
    assert stage.sent() == ["BYE"]
    assert stage.ua.local == LOCAL


@pytest.mark.parametrize("first", ["481", "BYE"])
def test_refused_reinvite_and_the_bye_that_it_crossed(first: str) -> None:
    """Whichever comes first ends the call, once; the other finds nobody."""
    stage = Stage()
    call, _invite = stage.talking()
    Reoffer(stage, call)
    reinvite = stage.request()
    if first == "BYE":
        stage.ask("BYE", local_tag=call.local_tag)
        stage.answer(reinvite, 481)
        assert (stage.sent(), stage.recorder.end) == ([200, "ACK"], CallEnd(EndCause.HANGUP, "remote", None, "BYE"))
    else:
        stage.answer(reinvite, 481)
        stage.ask("BYE", local_tag=call.local_tag)
        assert (stage.sent(), stage.recorder.end.cause) == (["ACK", 481], EndCause.PROTOCOL)
    stage.rest()


def test_reinvite_that_would_replace_another_call_is_refused() -> None:
    """RFC 3891 §3: Replaces has no place within a dialog."""
    stage = Stage()
    call, _invite = stage.talking()
    stage.ask("INVITE", local_tag=call.local_tag, body=b"offer", headers=[("Replaces", "x;to-tag=1;from-tag=2")])
    assert (stage.sent(), stage.recorder.told) == ([400], [])


def test_all_values_of_a_reason_are_kept() -> None:
    stage = Stage()
    call, _invite = stage.talking()
    reasons = [("Reason", "SIP;cause=200"), ("Reason", 'Q.850;cause=16;text="bye"')]
    stage.ask("BYE", local_tag=call.local_tag, headers=reasons)
    assert stage.recorder.end.detail == 'SIP;cause=200, Q.850;cause=16;text="bye"'
