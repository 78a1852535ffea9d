"""Calls to us, as a trial phone takes them (RFC 3261 §13.3, §17.2.1)."""

import pytest

from dosvoces.sip.api import CallEnd, CallStateError, EndCause, Hop
from dosvoces.sip.incoming import IncomingCall
from dosvoces.sip.message import Request, tag
from tests.sip_stage import OFFER, TRUNK, Stage


def ringing(body: bytes = OFFER, headers: tuple[tuple[str, str], ...] = ()) -> tuple[Stage, IncomingCall, str]:
    """A stage with a call that has just come in, and the INVITE's branch; the 100 is taken."""
    stage = Stage(answers_calls=True)
    branch = stage.ask("INVITE", local_tag="", body=body, headers=headers)
    assert stage.sent() == [100]
    (call,) = stage.incoming
    return stage, call, branch


def talking() -> tuple[Stage, IncomingCall]:
    stage, call, _branch = ringing()
    call.answer(b"our answer")
    stage.ask("ACK", local_tag=call.local_tag)
    assert stage.sent() == [200]
    stage.recorder.told.clear()
    return stage, call


def test_what_came_with_the_call() -> None:
    _stage, call, _branch = ringing()
    assert (call.from_uri, call.to_uri, call.request_uri, call.source, call.offer, call.content_type) == (
        "sip:600@example.com",
        "sip:910@example.com",
        "sip:dosvoces@198.51.100.7",
        Hop(*TRUNK),
        OFFER,
        "application/sdp",
    )


def test_ring_answer_and_hang_up() -> None:
    stage, call, _branch = ringing(headers=(("Record-Route", "<sip:192.0.2.10;lr>"),))
    call.ring()
    call.progress(b"early")
    call.answer(b"our answer")
    responses = [message for message, _ in stage.messages()]
    tagged = f"<sip:910@example.com>;tag={call.local_tag}"
    assert [(each.header("to"), each.header("record-route"), each.body) for each in responses] == [
        (tagged, "<sip:192.0.2.10;lr>", b""),
        (tagged, "<sip:192.0.2.10;lr>", b"early"),
        (tagged, "<sip:192.0.2.10;lr>", b"our answer"),
    ]
    assert responses[2].header("contact") == "<sip:dosvoces@198.51.100.7:5060>"
    stage.ask("ACK", local_tag=call.local_tag)
    assert stage.recorder.told == [("confirmed", b"")]
    call.hangup()
    ((bye, destination),) = stage.messages()
    assert isinstance(bye, Request)
    assert (bye.uri, bye.values("route"), destination) == (
        "sip:agent@192.0.2.10:5060",
        ["<sip:192.0.2.10;lr>"],
        ("192.0.2.10", 5060),
    )
    assert (bye.header("from"), bye.header("to")) == (tagged, "<sip:600@example.com>;tag=peer")
    stage.answer(bye, 200)
    assert stage.recorder.end == CallEnd(EndCause.HANGUP, "local")
    assert call.facts.invite_cseq == 0
    stage.rest()


def test_repeated_invite_gets_the_last_provisional_answer() -> None:
    stage, call, branch = ringing()
    call.ring()
    stage.ask("INVITE", local_tag="", branch=branch, body=OFFER)
    assert stage.sent() == [180, 180]
    assert len(stage.incoming) == 1


def test_answer_is_repeated_until_the_ack() -> None:
    stage, call, branch = ringing()
    call.answer(b"our answer")
    assert stage.sent() == [200]
    assert [at for at, _ in stage.moments(8)] == [0.5, 1.5, 3.5, 7.5]
    stage.ask("INVITE", local_tag="", branch=branch, body=OFFER)
    stage.ask("ACK", local_tag=call.local_tag)
    stage.ask("ACK", local_tag=call.local_tag)
    stage.ask("INVITE", local_tag="", branch=branch, body=OFFER)
    assert stage.moments(60) == []
    assert stage.recorder.told == [("confirmed", b"")]


def test_answer_that_is_never_acknowledged_is_hung_up() -> None:
    """S12 from the other side."""
    stage, call, _branch = ringing()
    call.answer(b"our answer")
    stage.wait(32)
    bye = stage.messages()[-1][0]
    assert isinstance(bye, Request)
    stage.answer(bye, 200)
    assert stage.recorder.end == CallEnd(EndCause.TIMEOUT, "remote", None, "no ACK to our answer")
    stage.rest()


def test_bye_waits_for_the_ack() -> None:
    """RFC 3261 §15."""
    stage, call, _branch = ringing()
    call.answer(b"our answer")
    call.hangup("SIP;cause=200")
    assert stage.sent() == [200]
    stage.ask("ACK", local_tag=call.local_tag)
    bye = stage.request("BYE")
    assert bye.header("reason") == "SIP;cause=200"
    stage.answer(bye, 200)
    assert stage.recorder.told == [CallEnd(EndCause.HANGUP, "local")]
    stage.rest()


def test_bye_goes_when_there_will_be_no_ack() -> None:
    stage, call, _branch = ringing()
    call.answer(b"our answer")
    call.hangup()
    stage.wait(32)
    assert stage.sent()[-1] == "BYE"
    stage.rest()


def test_peers_bye_before_its_ack() -> None:
    stage, call, _branch = ringing()
    call.answer(b"our answer")
    stage.ask("BYE", local_tag=call.local_tag, cseq=2)
    assert stage.sent() == [200, 200]
    assert stage.moments(40) == []
    assert stage.recorder.told == [CallEnd(EndCause.HANGUP, "remote", None, "BYE")]
    stage.rest()


@pytest.mark.parametrize(("status", "phrase"), [(486, "Busy Here"), (603, "Decline"), (404, "Nobody")])
def test_refusal_is_repeated_until_the_ack(status: int, phrase: str) -> None:
    stage, call, branch = ringing()
    call.reject(status, phrase, (("Reason", "Q.850;cause=17"),))
    response = stage.response()
    assert (response.code, response.phrase, response.header("reason")) == (status, phrase, "Q.850;cause=17")
    assert stage.moments(2) == [(0.5, status), (1.5, status)]
    stage.ask("ACK", local_tag=call.local_tag, branch=branch)
    stage.ask("ACK", local_tag=call.local_tag, branch=branch)
    assert stage.moments(40) == []
    assert stage.recorder.told == [CallEnd(EndCause.REJECTED, "local", status, phrase)]
    stage.rest()


def test_cancel_by_the_caller() -> None:
    stage, call, branch = ringing()
    call.ring()
    stage.sent()
    stage.ask("CANCEL", local_tag="", branch=branch, headers=[("Reason", "SIP;cause=200")])
    assert stage.sent() == [200, 487]
    stage.ask("CANCEL", local_tag="", branch=branch)
    assert stage.sent() == [200]
    stage.ask("ACK", local_tag=call.local_tag, branch=branch)
    assert stage.recorder.told == [CallEnd(EndCause.CANCELLED, "remote", 487, "", "SIP;cause=200")]
    assert call.over
    stage.rest()


def test_cancel_after_the_answer_changes_nothing() -> None:
    stage, call, branch = ringing()
    call.answer(b"our answer")
    stage.ask("CANCEL", local_tag="", branch=branch)
    assert stage.sent() == [200, 200]
    assert not call.over


@pytest.mark.parametrize("answered", [False, True])
def test_the_answer_to_a_cancel_says_the_tag_of_the_call(answered: bool) -> None:
    """RFC 3261 §9.2: whoever missed our answer to the INVITE can hang up by it."""
    stage, call, branch = ringing()
    if answered:
        call.answer(b"our answer")
    stage.messages()
    stage.ask("CANCEL", local_tag="", branch=branch)
    first, *_rest = [message for message, _hop in stage.messages()]
    assert (first.header("cseq"), tag(first.header("to"))) == ("1 CANCEL", call.local_tag)


def test_cancel_of_nothing() -> None:
    stage = Stage(answers_calls=True)
    stage.ask("CANCEL", local_tag="")
    assert stage.sent() == [481]


def test_hangup_while_ringing_refuses() -> None:
    stage, call, _branch = ringing()
    call.hangup()
    call.hangup()
    assert stage.sent() == [480]
    assert stage.recorder.told == [CallEnd(EndCause.HANGUP, "local", 480)]
    stage.rest()


def test_bye_while_ringing() -> None:
    stage, call, _branch = ringing()
    stage.ask("BYE", local_tag=call.local_tag, cseq=2)
    assert stage.sent() == [200, 487]
    assert stage.recorder.told == [CallEnd(EndCause.HANGUP, "remote", None, "BYE")]
    stage.rest()


@pytest.mark.parametrize(
    ("method", "body", "code"),
    [("INVITE", b"x", 500), ("UPDATE", b"x", 500), ("UPDATE", b"", 200), ("OPTIONS", b"", 200), ("REFER", b"", 405)],
)
def test_requests_while_ringing(method: str, body: bytes, code: int) -> None:
    stage, call, _branch = ringing()
    stage.ask(method, local_tag=call.local_tag, cseq=2, body=body)
    assert stage.sent() == [code]


def test_call_without_an_offer() -> None:
    stage, call, _branch = ringing(body=b"")
    assert call.offer == b""
    call.answer(b"our offer")
    stage.ask("ACK", local_tag=call.local_tag, body=b"their answer")
    assert stage.recorder.told == [("confirmed", b"their answer")]


def test_reinvite_both_ways() -> None:
    stage, call = talking()
    stage.ask("INVITE", local_tag=call.local_tag, cseq=2)
    assert stage.sent() == [200]
    stage.ask("ACK", local_tag=call.local_tag, cseq=2, body=b"their answer")
    assert stage.recorder.told == [("offer", None), ("answer to offer", b"their answer")]
    results: list[tuple[int | None, bytes]] = []
    call.reinvite(b"new offer", lambda status, body: results.append((status, body)))
    stage.answer(stage.request(), 491)
    assert stage.sent() == ["ACK"]
    stage.wait(1.1)  # RFC 3261 §14.1: 0 to 2 s for whoever didn't make the Call-ID
    stage.answer(stage.request(), 200, body=b"new answer")
    assert (stage.sent(), results) == (["ACK"], [(200, b"new answer")])


def test_answered_or_refused_once() -> None:
    stage, call = talking()
    with pytest.raises(CallStateError):
        call.answer(b"again")
    with pytest.raises(CallStateError):
        call.reject(486)
    call.ring()
    assert stage.sent() == []
    _stage, other, _branch = ringing()
    with pytest.raises(CallStateError):
        other.reject(200)


def test_without_a_handler_the_caller_hears_nothing() -> None:
    stage = Stage(answers_calls=True)
    stage.handles = False
    branch = stage.ask("INVITE", local_tag="", body=OFFER)
    stage.ask("CANCEL", local_tag="", branch=branch)
    assert stage.sent() == [481]
    assert stage.ua.open_calls == 0
    assert stage.ua.idle is False  # the 481 lingers
    stage.rest()


class Hasty(Stage):
    """Decides while the call comes in."""

    def _on_invite(self, call: IncomingCall):  # type: ignore[no-untyped-def]
        if self.handles:
            call.reject(486)
            return self.recorder
        call.answer(b"our answer")
        return None


def test_refused_while_it_comes_in() -> None:
    stage = Hasty(answers_calls=True)
    stage.ask("INVITE", local_tag="", body=OFFER)
    assert stage.sent() == [486]
    assert stage.recorder.told == [CallEnd(EndCause.REJECTED, "local", 486)]
    stage.rest()


def test_answered_without_a_handler_is_a_call_all_the_same() -> None:
    stage = Hasty(answers_calls=True)
    stage.handles = False
    stage.ask("INVITE", local_tag="", body=OFFER)
    response = stage.response()
    tag = response.header("to").partition("tag=")[2]
    stage.ask("ACK", local_tag=tag)
    stage.ask("INVITE", local_tag=tag, cseq=2, body=b"hold")
    stage.ask("UPDATE", local_tag=tag, cseq=3, body=b"hold")
    stage.ask("INFO", local_tag=tag, cseq=4)
    stage.ask("BYE", local_tag=tag, cseq=5)
    assert stage.sent() == [488, 488, 200, 200]
    stage.rest()


def test_required_extension_of_a_new_call() -> None:
    stage = Stage(answers_calls=True)
    stage.ask("INVITE", local_tag="", body=OFFER, headers=[("Require", "100rel")])
    response = stage.response()
    assert (response.code, response.header("unsupported"), stage.incoming) == (420, "100rel", [])


def test_more_calls_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dosvoces.sip.ua.MAX_INCOMING", 1)
    stage, _call, _branch = ringing()
    stage.ask("INVITE", local_tag="", body=OFFER, call_id="other")
    assert stage.sent() == [503]


def test_response_goes_where_rfc_3581_says() -> None:
    stage = Stage(answers_calls=True)
    head = "INVITE sip:me@198.51.100.7 SIP/2.0\r\n"
    rest = "From: <sip:a@b>;tag=1\r\nTo: <sip:me@b>\r\nCall-ID: c\r\nCSeq: 1 INVITE\r\n\r\n"
    vias = {
        "v: SIP/2.0/UDP 10.0.0.1:5070;branch=z9hG4bK1;rport\r\n": (
            "SIP/2.0/UDP 10.0.0.1:5070;branch=z9hG4bK1;rport=1234;received=192.0.2.10",
            ("192.0.2.10", 1234),
        ),
        "Via: SIP/2.0/UDP 10.0.0.1:5070;received=6.6.6.6;branch=z9hG4bK2, SIP/2.0/UDP x\r\n": (
            "SIP/2.0/UDP 10.0.0.1:5070;branch=z9hG4bK2;received=192.0.2.10, SIP/2.0/UDP x",
            ("192.0.2.10", 5070),
        ),
        "Via: SIP / 2.0 / UDP 192.0.2.10 ;branch=z9hG4bK3\r\n": (
            "SIP / 2.0 / UDP 192.0.2.10 ;branch=z9hG4bK3",
            ("192.0.2.10", 5060),
        ),
        "Via: nonsense;branch=z9hG4bK4\r\n": ("nonsense;branch=z9hG4bK4", ("192.0.2.10", 5060)),
        "Via: SIP/2.0/UDP old.example.com\r\n": (
            "SIP/2.0/UDP old.example.com;received=192.0.2.10",
            ("192.0.2.10", 5060),
        ),
    }
    for via, expected in vias.items():
        stage.receive((head + via + rest).encode(), ("192.0.2.10", 1234))
        ((response, destination),) = stage.messages()
        assert (response.header("via"), destination) == expected


def test_peer_of_rfc_2543_is_served() -> None:
    """No branch: the transaction is told by all that must be equal, and its ACK has a To tag, the INVITE none."""
    stage = Stage(answers_calls=True)

    def send(method: str, to_tag: str = "") -> None:
        stage.receive(
            (
                f"{method} sip:me@198.51.100.7 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.10\r\nFrom: <sip:a@b>;tag=1\r\n"
                f"To: <sip:me@b>{to_tag}\r\nCall-ID: c\r\nCSeq: 1 {method}\r\n\r\n"
            ).encode()
        )

    send("INVITE")
    send("INVITE")
    assert (stage.sent(), len(stage.incoming)) == ([100, 100], 1)
    send("CANCEL")
    assert stage.sent() == [200, 487]
    send("ACK", f";tag={stage.incoming[0].local_tag}")
    assert stage.moments(20) == []


@pytest.mark.parametrize(
    ("headers", "code"),
    [([("Replaces", "leg-a;to-tag=1;from-tag=2")], 481), ([("Require", "replaces"), ("Replaces", "x")], 420)],
)
def test_no_call_is_replaced_by_another(headers: list[tuple[str, str]], code: int) -> None:
    stage = Stage(answers_calls=True)
    stage.ask("INVITE", local_tag="", call_id="theirs", body=b"offer", headers=headers)
    assert (stage.sent(), stage.incoming) == ([code], [])


def test_strangers_that_would_replace_a_call_get_silence() -> None:
    stage = Stage(answers_calls=True)
    headers = [("Replaces", "x;to-tag=1;from-tag=2")]
    stage.ask("INVITE", local_tag="", call_id="theirs", body=b"offer", headers=headers, source=("203.0.113.9", 5060))
    assert (stage.sent(), stage.incoming) == ([], [])
