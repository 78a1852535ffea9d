"""Session timers: what is agreed, refreshed and ended, on a clock that the test turns (RFC 4028)."""

from dataclasses import replace

import pytest

from dosvoces.sip.api import CallEnd, EndCause
from dosvoces.sip.digest import Credentials, check
from dosvoces.sip.message import Request, parse
from dosvoces.sip.outgoing import OutgoingCall
from dosvoces.sip.session_timer import (
    DEFAULT_TERMS,
    Agreement,
    SessionTerms,
    agreed_by_answer,
    agreed_by_request,
    least,
)
from tests.sip_stage import ANSWER, OFFER, Stage

CREDENTIALS = Credentials("user", "secret")
CHALLENGE = ("Proxy-Authenticate", 'Digest realm="trunk", nonce="n1", qop="auth", algorithm=MD5')
ALLOWS_UPDATE = ("Allow", "INVITE, ACK, BYE, CANCEL, UPDATE")
NOT_REFRESHED = CallEnd(EndCause.TIMEOUT, "remote", None, "session not refreshed")


def expires(value: str) -> tuple[str, str]:
    return "Session-Expires", value


def message(**headers: str) -> Request:
    lines = [
        "UPDATE sip:a@b SIP/2.0",
        "Via: SIP/2.0/UDP a;branch=z9hG4bK1",
        "From: <sip:a@b>;tag=1",
        "To: <sip:b@b>;tag=2",
        "Call-ID: 1",
        "CSeq: 1 UPDATE",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]
    made = parse("\r\n".join([*lines, "", ""]).encode())
    assert isinstance(made, Request)
    return made


def refreshing(stage: Stage, *, by: str = "uac", update: bool = True, seconds: int = 100) -> OutgoingCall:
    """A call that is up with a session timer."""
    headers = [expires(f"{seconds};refresher={by}"), ("Require", "timer")]
    call, _invite = stage.talking(replace(CREDENTIALS, realm="trunk"), [*headers, ALLOWS_UPDATE] if update else headers)
    return call


def last_request(stage: Stage) -> Request:
    """Take what waits: all of it requests."""
    request = stage.messages()[-1][0]
    assert isinstance(request, Request)
    return request


# -- what is agreed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "agreed"),
    [
        ("1800;refresher=uac", Agreement(1800, ours=True)),
        ("1800 ; Refresher = UAS ;x=1", Agreement(1800, ours=False)),
        ("90", Agreement(90, ours=True)),
        ("1;refresher=uac", Agreement(30, ours=True)),  # can't be refused any more, but believed only so far
        ("99999999999;refresher=uac", None),
        ("soon", None),
        ("-5", None),
        ("", None),
    ],
)
def test_what_an_answer_agrees_to(value: str, agreed: Agreement | None) -> None:
    assert agreed_by_answer(message(Session_Expires=value), DEFAULT_TERMS) == agreed


OURS, THEIRS = Agreement(200, ours=True), Agreement(200, ours=False)


@pytest.mark.parametrize(
    ("headers", "current", "agreed"),
    [
        ({"Session_Expires": "300;refresher=uas"}, None, Agreement(300, ours=True)),
        ({"Session_Expires": "300;refresher=uac", "Supported": "timer"}, OURS, Agreement(300, ours=False)),
        ({"Session_Expires": "300", "Supported": "timer"}, None, Agreement(300, ours=False)),
        ({"Session_Expires": "300", "Supported": "timer"}, OURS, Agreement(300, ours=True)),
        # A proxy asked, for a peer that knows nothing of it: then it is us (RFC 4028 §9, table 2).
        ({"Session_Expires": "300"}, None, Agreement(300, ours=True)),
        ({"Supported": "100rel, timer"}, None, None),
        ({"Supported": "100rel, timer"}, THEIRS, THEIRS),
        ({}, OURS, OURS),
        ({}, THEIRS, None),
    ],
)
def test_what_a_request_makes_of_it(
    headers: dict[str, str], current: Agreement | None, agreed: Agreement | None
) -> None:
    assert agreed_by_request(message(**headers), DEFAULT_TERMS, current) == agreed


def test_when_it_is_due() -> None:
    assert (Agreement(1800, True).refresh_after_s, Agreement(1800, True).give_up_after_s) == (900, 1768)
    assert Agreement(90, False).give_up_after_s == 60


@pytest.mark.parametrize(("value", "seconds"), [("120", 120), ("120;x=1", 120), ("", 0), ("x", 0), ("99999999999", 0)])
def test_least_interval_of_a_refusal(value: str, seconds: int) -> None:
    assert least(message(Min_SE=value)) == seconds


# -- what is offered -----------------------------------------------------------------------------------------------


def test_offer_can_be_left_out() -> None:
    stage = Stage(session=SessionTerms(expires_s=0))
    stage.invite()
    assert "session-expires" not in stage.request().headers


def test_peer_that_agrees_to_nothing_is_left_alone() -> None:
    stage = Stage()
    call, _invite = stage.talking()
    assert stage.moments(10_000) == []
    assert not call.over


def test_interval_too_short_for_the_trunk_is_offered_again_in_the_same_attempt() -> None:
    stage = Stage()
    stage.invite(CREDENTIALS)
    first = stage.request()
    stage.answer(first, 407, headers=[CHALLENGE])
    second = last_request(stage)
    stage.answer(second, 422, headers=[("Min-SE", "3600")])
    (ack, _), (third, _) = stage.messages()
    assert isinstance(third, Request)
    assert (ack.header("cseq"), third.header("cseq")) == ("2 ACK", "3 INVITE")
    assert (third.header("session-expires"), third.header("min-se")) == ("3600", "3600")
    assert [third.header(name) for name in ("call-id", "from", "to")] == [
        first.header(name) for name in ("call-id", "from", "to")
    ]
    assert third.body == OFFER
    assert check(third.header("proxy-authorization"), CREDENTIALS, method="INVITE", realm="trunk", nonce="n1")
    assert stage.recorder.told == []
    stage.answer(third, 200, headers=[expires("3600;refresher=uac")], body=ANSWER)
    assert stage.sent() == ["ACK"]
    stage.wait(1799)
    assert stage.sent() == []


@pytest.mark.parametrize("min_se", ["", "60", "1800", "x"])
def test_refusal_that_names_no_longer_interval_ends_the_call(min_se: str) -> None:
    stage = Stage()
    stage.invite()
    stage.answer(stage.request(), 422, "Too Small", headers=[("Min-SE", min_se)])
    assert stage.sent() == ["ACK"]
    assert stage.recorder.end == CallEnd(EndCause.REJECTED, "remote", 422, "Too Small")


def test_refusals_without_end_are_given_up() -> None:
    stage = Stage()
    stage.invite()
    request = stage.request()
    for seconds in (2000, 3000, 4000):
        stage.answer(request, 422, headers=[("Min-SE", str(seconds))])
        request = last_request(stage)
    stage.answer(request, 422, headers=[("Min-SE", "5000")])
    assert stage.sent() == ["ACK"]
    assert stage.recorder.end.status == 422


def test_no_new_offer_after_a_hang_up() -> None:
    stage = Stage()
    call = stage.invite()
    invite = stage.request()
    call.hangup()
    stage.answer(invite, 422, headers=[("Min-SE", "3600")])
    assert stage.sent() == ["ACK"]
    assert stage.recorder.end.status == 422
    stage.rest()


# -- we refresh ----------------------------------------------------------------------------------------------------


def test_refresh_by_update_where_the_peer_allows_it() -> None:
    stage = Stage()
    call = refreshing(stage)
    stage.wait(49.9)
    assert stage.sent() == []
    stage.wait(0.1)
    update = stage.request("UPDATE")
    assert (update.body, update.header("content-type")) == (b"", "")
    assert (update.header("session-expires"), update.header("supported")) == ("100;refresher=uac", "timer, 100rel")
    assert update.header("contact") == "<sip:dosvoces@198.51.100.7:5060>"
    moved = "<sip:moved@192.0.2.10>"
    stage.answer(update, 200, headers=[expires("100;refresher=uac")], contact=moved)
    stage.wait(49.9)
    assert stage.sent() == []
    stage.wait(0.1)
    again = stage.request("UPDATE")
    assert (again.uri, again.cseq) == ("sip:moved@192.0.2.10", update.cseq + 1)
    stage.answer(again, 200, headers=[expires("100;refresher=uac")])
    call.hangup()
    assert stage.sent() == ["BYE"]
    assert stage.recorder.told == []
    stage.rest()


def test_refresh_by_reinvite_repeats_our_description() -> None:
    stage = Stage()
    refreshing(stage, update=False)
    stage.wait(50)
    reinvite = stage.request()
    assert (reinvite.body, reinvite.header("session-expires")) == (OFFER, "100;refresher=uac")
    stage.answer(reinvite, 200, headers=[expires("100;refresher=uac")], body=b"same answer")
    assert stage.sent() == ["ACK"]
    # Told as any answer, since the peer may have moved its media meanwhile.
    assert stage.recorder.told == [("answer to offer", b"same answer")]
    stage.wait(50)
    assert stage.request().body == OFFER


def test_refresh_after_a_change_repeats_the_last_description() -> None:
    stage = Stage()
    call = refreshing(stage, update=False)
    stage.ask("INVITE", local_tag=call.local_tag, body=b"their offer", headers=[expires("100"), ("Supported", "timer")])
    assert stage.response().header("session-expires") == "100;refresher=uas"
    stage.ask("ACK", local_tag=call.local_tag)
    stage.wait(50)
    assert stage.request().body == b"our answer"


def test_challenged_refresh_is_sent_again_with_credentials() -> None:
    """sippy raises here, and refreshes no more."""
    for update, method in ((True, "UPDATE"), (False, "INVITE")):
        stage = Stage()
        refreshing(stage, update=update)
        stage.wait(50)
        stage.answer(stage.request(method), 407, headers=[CHALLENGE])
        again = last_request(stage)
        credentials = again.header("proxy-authorization")
        assert check(credentials, CREDENTIALS, method=method, realm="trunk", nonce="n1")
        assert again.header("session-expires") == "100;refresher=uac"
        stage.answer(again, 200, headers=[expires("100;refresher=uac")])
        stage.messages()
        stage.wait(50)
        assert stage.sent() == [method]


def test_update_that_is_not_allowed_after_all_becomes_a_reinvite() -> None:
    for code in (405, 501):
        stage = Stage()
        refreshing(stage)
        stage.wait(50)
        stage.answer(stage.request("UPDATE"), code)
        reinvite = stage.request()
        stage.answer(reinvite, 200, headers=[expires("100;refresher=uac")], body=b"same answer")
        assert stage.sent() == ["ACK"]
        stage.wait(50)
        assert stage.sent() == ["INVITE"]


def test_refresh_refused_as_too_short_is_sent_again() -> None:
    for update, method in ((True, "UPDATE"), (False, "INVITE")):
        stage = Stage()
        refreshing(stage, update=update)
        stage.wait(50)
        stage.answer(stage.request(method), 422, headers=[("Min-SE", "400")])
        again = last_request(stage)
        assert (again.header("session-expires"), again.header("min-se")) == ("400;refresher=uac", "400")
        stage.answer(again, 200, headers=[expires("400;refresher=uac")])
        stage.messages()
        stage.wait(199)
        assert stage.sent() == []
        stage.wait(1)
        assert stage.sent() == [method]


@pytest.mark.parametrize("update", [True, False])
@pytest.mark.parametrize(
    ("code", "end", "sent"),
    [
        (481, CallEnd(EndCause.PROTOCOL, "remote", 481, "Call/Transaction Does Not Exist"), []),
        (408, CallEnd(EndCause.TIMEOUT, "remote", 408), ["BYE"]),
    ],
)
def test_refresh_that_finds_nobody_ends_the_call(update: bool, code: int, end: CallEnd, sent: list[str]) -> None:
    stage = Stage()
    refreshing(stage, update=update)
    stage.wait(50)
    stage.answer(stage.request("UPDATE" if update else "INVITE"), code)
    messages = [m for m, _ in stage.messages() if isinstance(m, Request) and m.method != "ACK"]
    assert [m.method for m in messages] == sent
    for bye in messages:
        stage.answer(bye, 200)
    told = stage.recorder.end
    assert (told.cause, told.by, told.status) == (end.cause, end.by, end.status)
    stage.rest()


@pytest.mark.parametrize("update", [True, False])
def test_refresh_without_an_answer_ends_the_call(update: bool) -> None:
    """RFC 4028 §10: by its own time-out, or when the session is over, whatever is first."""
    stage = Stage()
    refreshing(stage, update=update, seconds=1800)
    stage.wait(900)
    method = "UPDATE" if update else "INVITE"
    assert stage.sent() == [method]
    assert {sent for _, sent in stage.moments(31.9)} == {method}
    assert (32, "BYE") in {(round(at + 31.9), sent) for at, sent in stage.moments(0.2)}
    stage.rest()
    assert stage.recorder.end.cause is EndCause.TIMEOUT


@pytest.mark.parametrize("update", [True, False])
def test_refresh_that_meets_an_icmp_error_does_not_end_the_call(update: bool) -> None:
    """RFC 3261 §8.1.3.1: it counts as 503. A route that is gone for a second is no reason to cut a conversation."""
    stage = Stage()
    refreshing(stage, update=update, seconds=1800)
    stage.wait(900)
    ((data, hop),) = stage.ua.outbox
    stage.ua.outbox.clear()
    stage.ua.unreachable(hop, data, stage.now)
    assert (stage.sent(), stage.recorder.told) == ([], [])
    stage.wait(434)
    method = "UPDATE" if update else "INVITE"
    again = stage.request(method)
    stage.answer(again, 200, headers=[expires("1800;refresher=uac")], body=b"" if update else ANSWER)
    stage.messages()
    stage.wait(899)
    assert (stage.sent(), stage.ua.open_calls) == ([], 1)


def test_refused_refresh_is_tried_again_until_the_session_is_over() -> None:
    stage = Stage()
    refreshing(stage, seconds=1800)
    stage.wait(900)
    at: list[float] = []
    while (request := last_request(stage)).method == "UPDATE":
        at.append(round(stage.now))
        stage.answer(request, 500)
        while not stage.ua.outbox:
            due = stage.ua.next_timer()
            assert due is not None
            stage.wait(due - stage.now)
    assert at[:4] == [900, 1334, 1551, 1660]
    assert len(at) < 16
    bye = request
    assert (bye.method, round(stage.now)) == ("BYE", 1768)
    assert bye.header("reason") == 'Q.850;cause=102;text="Recovery on timer expiry"'
    stage.answer(bye, 200)
    assert stage.recorder.end == NOT_REFRESHED
    stage.rest()


def test_refresh_that_meets_glare_waits_as_the_owner_of_the_call() -> None:
    stage = Stage()
    refreshing(stage)
    stage.wait(50)
    stage.answer(stage.request("UPDATE"), 491)
    assert stage.moments(10)[0] == (3.05, "UPDATE")  # between 2.1 and 4.0 s


def test_refresh_by_reinvite_waits_for_an_offer_under_way() -> None:
    stage = Stage()
    call = refreshing(stage, update=False)
    stage.wait(49.5)
    call.reinvite(b"new offer", lambda status, body: None)
    reinvite = stage.request()
    assert reinvite.header("session-expires") == "100;refresher=uac"
    stage.wait(3)
    stage.messages()
    stage.answer(reinvite, 200, headers=[expires("100;refresher=uac")], body=ANSWER)
    assert stage.sent() == ["ACK"]
    stage.wait(49.9)
    assert stage.sent() == []  # the change was a refresh too
    stage.wait(0.2)
    assert stage.request().body == b"new offer"


def test_answer_to_a_refresh_may_switch_the_timer_off() -> None:
    stage = Stage()
    call = refreshing(stage)
    stage.wait(50)
    stage.answer(stage.request("UPDATE"), 200)
    assert stage.moments(10_000) == []
    assert not call.over


def test_answer_to_a_refresh_may_change_who_refreshes() -> None:
    stage = Stage()
    refreshing(stage)
    stage.wait(50)
    stage.answer(stage.request("UPDATE"), 200, headers=[expires("100;refresher=uas")])
    (bye, *_) = stage.moments(100)
    assert bye == (67.667, "BYE") or bye == (68.0, "BYE")


def test_hang_up_while_a_refresh_is_under_way() -> None:
    stage = Stage()
    call = refreshing(stage)
    stage.wait(50)
    update = stage.request("UPDATE")
    call.hangup()
    bye = stage.request("BYE")
    stage.answer(update, 481)
    stage.answer(bye, 200)
    assert stage.recorder.end == CallEnd(EndCause.HANGUP, "local")
    stage.rest()


# -- the peer refreshes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["UPDATE", "INVITE"])
def test_refresh_of_the_peer_is_taken_and_echoed(method: str) -> None:
    stage = Stage()
    call = refreshing(stage, by="uas")
    for turn in range(1, 4):
        stage.wait(50)
        headers = [expires("100;refresher=uac"), ("Supported", "timer"), ("Require", "timer")]
        body = b"same offer" if method == "INVITE" else b""
        stage.ask(method, local_tag=call.local_tag, cseq=turn, headers=headers, body=body)
        response = stage.response()
        assert (response.code, response.header("session-expires")) == (200, "100;refresher=uac")
        assert response.header("require") == "timer"
        if method == "INVITE":
            stage.ask("ACK", local_tag=call.local_tag, cseq=turn)
    assert not call.over
    assert [sent for _, sent in stage.moments(66)] == []
    assert stage.moments(3)[0] == (2.0, "BYE")  # 32 s before the end
    stage.rest()


def test_peer_that_never_refreshes_is_hung_up() -> None:
    stage = Stage()
    refreshing(stage, by="uas", seconds=90)
    stage.wait(59.9)
    assert stage.sent() == []
    stage.wait(0.1)
    bye = stage.request("BYE")
    assert bye.header("reason") == 'Q.850;cause=102;text="Recovery on timer expiry"'
    stage.answer(bye, 200)
    assert stage.recorder.end == NOT_REFRESHED
    stage.rest()


@pytest.mark.parametrize("method", ["UPDATE", "INVITE"])
def test_interval_too_short_for_us_is_refused(method: str) -> None:
    stage = Stage()
    call = refreshing(stage, by="uas")
    headers = [expires("89"), ("Supported", "timer")]
    stage.ask(method, local_tag=call.local_tag, headers=headers, body=b"offer" if method == "INVITE" else b"")
    response = stage.response()
    assert (response.code, response.phrase, response.header("min-se")) == (422, "Session Interval Too Small", "90")
    assert stage.recorder.told == []


def test_change_by_the_peer_that_says_nothing_of_the_timer_keeps_ours() -> None:
    stage = Stage()
    call = refreshing(stage)
    stage.wait(40)
    stage.ask("UPDATE", local_tag=call.local_tag, body=b"offer")
    assert stage.response().header("session-expires") == "100;refresher=uas"
    stage.wait(49)
    assert stage.sent() == []
    stage.wait(1)
    assert stage.sent() == ["UPDATE"]


# -- calls to us ---------------------------------------------------------------------------------------------------


def called(stage: Stage, *headers: tuple[str, str]) -> None:
    stage.ask("INVITE", local_tag="", headers=headers, body=b"offer")


def test_caller_may_choose_who_refreshes() -> None:
    stage = Stage(answers_calls=True)
    called(stage, expires("200;refresher=uas"), ("Supported", "timer"), ALLOWS_UPDATE)
    (call,) = stage.incoming
    stage.messages()
    call.answer(b"our answer")
    response = stage.response()
    assert (response.header("session-expires"), response.header("require")) == ("200;refresher=uas", "")
    stage.ask("ACK", local_tag=call.local_tag)
    stage.wait(100)
    update = stage.request("UPDATE")
    # The roles are the request's: in ours it is us who are the client (RFC 4028 §7.4).
    assert update.header("session-expires") == "200;refresher=uac"


def test_caller_that_stops_refreshing_is_hung_up() -> None:
    stage = Stage(answers_calls=True)
    called(stage, expires("90"), ("Supported", "timer"))
    (call,) = stage.incoming
    call.answer(b"our answer")
    stage.ask("ACK", local_tag=call.local_tag)
    stage.messages()
    assert stage.moments(61)[0] == (60.0, "BYE")
    stage.rest()


def test_caller_that_asks_for_less_than_we_stand_for_is_refused() -> None:
    stage = Stage(answers_calls=True)
    called(stage, expires("30"), ("Supported", "timer"))
    response = stage.response()
    assert (response.code, response.header("min-se"), stage.incoming) == (422, "90", [])


def test_who_has_no_timer_gets_none() -> None:
    stage = Stage(answers_calls=True)
    called(stage, ("Supported", "timer"))
    (call,) = stage.incoming
    stage.messages()
    call.answer(b"our answer")
    assert "session-expires" not in stage.response().headers
