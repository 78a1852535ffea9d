"""Our own calls until they are answered or given up, with every race on the way (RFC 3261 §9, §13, §17.1)."""

from dataclasses import replace

import pytest

from dosvoces.sip.api import CallEnd, EndCause, Hop, Invitation
from dosvoces.sip.digest import Credentials, check
from dosvoces.sip.message import MessageError, Request, quoted_branch, tag
from tests.sip_stage import ANSWER, OFFER, TRUNK, Recorder, Stage

CREDENTIALS = Credentials("user", "secret")
INVITATION = Invitation(
    request_uri="sip:600@example.com",
    destination=TRUNK,
    from_uri="sip:910@example.com",
    to_uri="sip:600@example.com",
    call_id="leg-a",
    body=OFFER,
)
CHALLENGE = ("Proxy-Authenticate", 'Digest realm="trunk", nonce="n1", qop="auth", algorithm=MD5')


def cancelled(status: int | None = None, phrase: str = "", detail: str = "") -> CallEnd:
    return CallEnd(EndCause.CANCELLED, "local", status, phrase, detail)


def hung_up(detail: str = "") -> CallEnd:
    return CallEnd(EndCause.HANGUP, "local", None, "", detail)


def test_the_invite_on_the_wire() -> None:
    stage = Stage()
    stage.invite()
    assert stage.ua.outbox == [
        (
            b"INVITE sip:600@example.com SIP/2.0\r\n"
            b"Via: SIP/2.0/UDP 198.51.100.7:5060;rport;branch=z9hG4bK0000000000000002\r\n"
            b"Max-Forwards: 70\r\n"
            b"From: <sip:910@example.com>;tag=0000000000000001\r\n"
            b"To: <sip:600@example.com>\r\n"
            b"Call-ID: leg-a\r\n"
            b"CSeq: 1 INVITE\r\n"
            b"Contact: <sip:dosvoces@198.51.100.7:5060>\r\n"
            b"Allow: INVITE, ACK, CANCEL, BYE, OPTIONS, UPDATE, INFO\r\n"
            b"User-Agent: Dosvoces\r\n"
            b"Supported: timer, 100rel\r\n"
            b"Session-Expires: 1800\r\n"
            b"Content-Type: application/sdp\r\n"
            b"Content-Length: 9\r\n"
            b"\r\n"
            b"our offer",
            Hop(*TRUNK),
        )
    ]


def test_display_name_and_further_headers() -> None:
    stage = Stage()
    stage.ua.invite(
        Invitation(
            request_uri="sip:1@192.0.2.99",
            destination=TRUNK,
            from_uri="sip:a@example.com",
            from_name='Casa "Ñ" \\ \n',
            to_uri="sip:1@example.com",
            call_id="x",
            body=b"",
            headers=(("P-Asserted-Identity", "<sip:+34910000000@example.com>"),),
        ),
        Recorder(),
    )
    ((message, destination),) = stage.messages()
    assert destination == TRUNK  # the first hop is the invitation's, even if the target is a literal address
    assert message.header("from") == '"Casa \\"Ñ\\" \\\\ " <sip:a@example.com>;tag=0000000000000001'
    assert message.header("p-asserted-identity") == "<sip:+34910000000@example.com>"
    assert message.header("content-type") == ""


def test_a_line_break_in_a_header_is_refused_and_leaves_nothing() -> None:
    stage = Stage()
    with pytest.raises(MessageError):
        stage.ua.invite(
            Invitation(
                request_uri="sip:1@example.com",
                destination=TRUNK,
                from_uri="sip:a@example.com\r\nX: y",
                to_uri="sip:1@example.com",
                call_id="x",
                body=b"",
            ),
            Recorder(),
        )
    assert stage.ua.idle


def test_call_answered_and_hung_up() -> None:
    stage = Stage()
    call = stage.invite()
    invite = stage.request()
    stage.answer(invite, 100, "Trying")
    stage.answer(invite, 180, "Ringing")
    stage.answer(invite, 183, "Session Progress", body=b"early")
    stage.answer(invite, 200, "OK", body=ANSWER)
    ack = stage.request("ACK")
    assert (ack.uri, ack.header("to"), ack.header("cseq")) == (
        "sip:agent@192.0.2.10:5060",
        "<sip:600@example.com>;tag=peer",
        "1 ACK",
    )
    assert stage.recorder.told == [(180, "Ringing", b""), (183, "Session Progress", b"early"), ("answer", ANSWER)]
    assert stage.recorder.facts == call.facts
    stage.wait(60)
    call.hangup("Q.850;cause=16")
    call.hangup()
    bye = stage.request("BYE")
    assert (bye.header("cseq"), bye.header("reason")) == ("2 BYE", "Q.850;cause=16")
    assert stage.recorder.told[3:] == []  # not before nobody is left on the line
    stage.answer(bye, 200)
    assert stage.recorder.end == hung_up()
    assert (call.answered, call.over, stage.woken) == (True, True, 1)
    stage.rest()


def test_invite_is_repeated_until_timer_b() -> None:
    stage = Stage()
    stage.invite()
    assert stage.sent() == ["INVITE"]
    assert stage.moments(32) == [
        *((at, "INVITE") for at in (0.5, 1.5, 3.5, 7.5, 15.5, 31.5)),
        (32.0, "CANCEL"),
    ]
    assert stage.recorder.end == CallEnd(EndCause.TIMEOUT, "remote", None, "no answer to the INVITE")
    stage.rest()


def test_a_phone_whose_ringing_was_never_heard_of_is_cancelled_when_it_is_given_up() -> None:
    """All that its trunk said is lost. The CANCEL is repeated like any request, and the 487 gets its ACK."""
    stage = Stage()
    stage.invite()
    invite = stage.request()
    stage.wait(31.9)
    stage.sent()
    assert stage.moments(6) == [(at, "CANCEL") for at in (0.1, 0.6, 1.6, 3.6)]
    stage.wait(2)
    cancel = stage.request("CANCEL")
    assert (cancel.uri, cancel.header("via"), cancel.header("cseq"), cancel.header("to")) == (
        invite.uri,
        invite.header("via"),
        "1 CANCEL",
        invite.header("to"),
    )
    stage.answer(cancel, 200)
    stage.answer(invite, 487)
    assert stage.sent() == ["ACK"]
    assert stage.moments(60) == []
    assert stage.recorder.end == CallEnd(EndCause.TIMEOUT, "remote", None, "no answer to the INVITE")
    stage.rest()


def test_a_phone_that_rings_after_its_cancel_was_refused_is_cancelled_again() -> None:
    """The CANCEL overtook the INVITE."""
    stage = Stage()
    stage.invite()
    invite = stage.request()
    stage.wait(31.9)
    stage.sent()
    stage.wait(0.1)
    stage.answer(stage.request("CANCEL"), 481)
    stage.answer(invite, 180)
    stage.answer(stage.request("CANCEL"), 200)
    stage.answer(invite, 180)
    assert stage.sent() == []  # what was accepted isn't repeated
    stage.answer(invite, 487)
    assert stage.sent() == ["ACK"]
    stage.rest()


def test_a_provisional_answer_stops_the_repeats_and_timer_b() -> None:
    """S5, S6: 100 after 3 s, then 183 for ever."""
    stage = Stage()
    call = stage.invite()
    invite = stage.request()
    stage.wait(3)
    stage.sent()
    stage.answer(invite, 100)
    assert stage.moments(300) == []
    call.hangup()
    cancel = stage.request("CANCEL")
    assert (cancel.header("via"), cancel.header("cseq"), cancel.header("to")) == (
        invite.header("via"),
        "1 CANCEL",
        invite.header("to"),
    )
    stage.answer(cancel, 200)
    stage.answer(invite, 487, "Request Terminated")
    assert stage.sent() == ["ACK"]
    assert stage.recorder.end == cancelled(487, "Request Terminated")
    stage.rest()


@pytest.mark.parametrize("code", [302, 403, 404, 408, 480, 484, 486, 488, 500, 503, 600, 603, 699])
def test_a_refusal_is_acknowledged_each_time_and_ends_the_call(code: int) -> None:
    """S22, S23: nothing is followed, the cause is kept."""
    stage = Stage()
    stage.invite()
    invite = stage.request()
    stage.answer(invite, code, "No", headers=[("Reason", 'Q.850;cause=17;text="busy"')])
    ack = stage.request("ACK")
    assert (ack.uri, ack.header("via"), ack.header("to"), ack.header("cseq")) == (
        invite.uri,
        invite.header("via"),
        "<sip:600@example.com>;tag=peer",
        "1 ACK",
    )
    stage.answer(invite, code, "No")
    assert stage.sent() == ["ACK"]
    assert stage.recorder.told == [CallEnd(EndCause.REJECTED, "remote", code, "No", 'Q.850;cause=17;text="busy"')]
    stage.wait(33)
    stage.answer(invite, code, "No")  # after Timer D nobody answers any more
    assert stage.sent() == []
    stage.rest()


def test_cancel_waits_for_a_provisional_answer() -> None:
    """S8, RFC 3261 §9.1."""
    stage = Stage()
    call = stage.invite()
    invite = stage.request()
    call.hangup("SIP;cause=200")
    assert stage.sent() == []
    stage.wait(2)
    assert stage.sent() == ["INVITE", "INVITE"]
    stage.answer(invite, 100)
    cancel = stage.request("CANCEL")
    assert cancel.header("reason") == "SIP;cause=200"
    stage.answer(invite, 180)
    assert stage.sent() == []  # one CANCEL, and no progress is told any more
    stage.answer(invite, 487)
    assert stage.recorder.told == [cancelled(487)]
    stage.rest()


def test_cancel_asked_and_never_a_word_from_the_peer() -> None:
    stage = Stage()
    call = stage.invite()
    call.hangup()
    stage.wait(32)
    assert stage.recorder.end == cancelled(detail="INVITE: timeout")
    assert stage.sent()[-1] == "CANCEL"  # a phone may be ringing all the same
    stage.rest()


def test_cancel_asked_and_the_invite_fails_otherwise() -> None:
    stage = Stage()
    call = stage.invite()
    invite = stage.request()
    stage.answer(invite, 180)
    call.hangup()
    stage.answer(invite, 486, "Busy Here")
    assert stage.recorder.end == CallEnd(EndCause.REJECTED, "remote", 486, "Busy Here")
    stage.rest()


def test_challenge_after_hangup_is_not_answered() -> None:
    stage = Stage()
    call = stage.invite(CREDENTIALS)
    invite = stage.request()
    call.hangup()
    stage.answer(invite, 407, headers=[CHALLENGE])
    assert stage.sent() == ["ACK"]
    assert stage.recorder.end == cancelled(407)
    stage.rest()


def test_answer_that_crosses_the_cancel_is_acknowledged_and_hung_up() -> None:
    """S9: 200 after CANCEL."""
    stage = Stage()
    call = stage.invite()
    invite = stage.request()
    stage.answer(invite, 180)
    call.hangup()
    cancel = stage.request("CANCEL")
    stage.answer(invite, 200, body=ANSWER)
    bye = stage.request("BYE")
    stage.answer(cancel, 200)
    stage.answer(invite, 200, body=ANSWER)
    assert stage.sent() == []  # the ACK waits until the BYE has arrived
    assert not any(isinstance(each, CallEnd) for each in stage.recorder.told)
    stage.answer(bye, 200)
    first = stage.ua.outbox[:]
    assert stage.sent() == ["ACK"]
    stage.answer(invite, 200, body=ANSWER)
    assert stage.ua.outbox == first  # again the ACK, no second BYE
    assert stage.recorder.end == cancelled(detail="answered meanwhile")
    stage.rest()


def test_whoever_refuses_a_bye_before_the_ack_gets_another_one_after_it() -> None:
    stage = Stage()
    call = stage.invite()
    invite = stage.request()
    stage.answer(invite, 180)
    call.hangup()
    stage.request("CANCEL")
    stage.answer(invite, 200)
    stage.answer(stage.request("BYE"), 481)
    (ack, _), (bye, _) = stage.messages()
    assert isinstance(ack, Request)
    assert isinstance(bye, Request)
    assert (ack.method, bye.method, bye.cseq) == ("ACK", "BYE", 3)
    assert not any(isinstance(each, CallEnd) for each in stage.recorder.told)
    stage.answer(bye, 200)
    assert stage.recorder.end == cancelled(detail="answered meanwhile")
    stage.rest()


def test_a_bye_that_is_ignored_before_the_ack_is_repeated_after_it() -> None:
    stage = Stage()
    call = stage.invite()
    invite = stage.request()
    call.hangup()
    stage.answer(invite, 200)
    assert stage.sent() == ["BYE"]
    assert stage.moments(8) == [*((at, "BYE") for at in (0.5, 1.5, 3.5)), (4.0, "ACK"), (7.5, "BYE")]
    stage.rest()
    assert stage.recorder.end == cancelled(detail="answered meanwhile; BYE: timeout")


def test_answer_before_a_held_cancel() -> None:
    stage = Stage()
    call = stage.invite()
    invite = stage.request()
    call.hangup()
    stage.answer(invite, 200)
    stage.answer(stage.request("BYE"), 200)
    assert stage.sent() == ["ACK"]
    assert stage.recorder.end == cancelled(detail="answered meanwhile")
    stage.rest()


def test_answer_after_487_is_acknowledged_and_hung_up() -> None:
    """S9: 200 after 487, from another branch of a proxy."""
    stage = Stage()
    call = stage.invite()
    invite = stage.request()
    stage.answer(invite, 180)
    call.hangup()
    stage.answer(invite, 487)
    stage.sent()
    stage.answer(invite, 200, to_tag="other")
    bye = stage.request("BYE")
    stage.answer(invite, 200, to_tag="other")
    assert stage.sent() == []
    stage.answer(bye, 200)
    assert stage.sent() == ["ACK"]
    stage.answer(invite, 200, to_tag="other")
    assert stage.sent() == ["ACK"]
    stage.answer(invite, 487)
    assert stage.sent() == ["ACK"]
    assert stage.recorder.end == cancelled(487)
    stage.rest()


def test_no_final_answer_after_cancel() -> None:
    """S7: forgotten after 64*T1; a later 200 is acknowledged and hung up, once."""
    stage = Stage()
    call = stage.invite()
    invite = stage.request()
    stage.answer(invite, 180)
    call.hangup()
    stage.answer(stage.request("CANCEL"), 200)
    stage.wait(31.9)
    assert len(stage.recorder.told) == 1
    stage.wait(0.2)
    assert stage.recorder.end == cancelled(detail="no answer after CANCEL")
    stage.answer(invite, 183)
    assert stage.sent() == []
    stage.wait(20)
    stage.answer(invite, 200)
    stage.answer(stage.request("BYE"), 200)
    assert stage.sent() == ["ACK"]
    stage.answer(invite, 200)
    assert stage.sent() == ["ACK"]
    stage.rest()


def test_late_refusal_after_giving_up_is_acknowledged_and_not_told() -> None:
    stage = Stage()
    stage.invite()
    invite = stage.request()
    stage.wait(32)
    stage.sent()
    stage.answer(invite, 486)
    stage.answer(invite, 486)
    assert stage.sent() == ["ACK", "ACK"]
    assert stage.recorder.end.cause is EndCause.TIMEOUT
    stage.rest()


def test_late_answer_after_the_time_out_is_hung_up() -> None:
    stage = Stage()
    stage.invite()
    invite = stage.request()
    stage.wait(32)
    stage.sent()
    stage.answer(invite, 200)
    stage.answer(stage.request("BYE"), 200)
    assert stage.sent() == ["ACK"]
    assert stage.recorder.end.cause is EndCause.TIMEOUT
    stage.rest()


def test_repeated_answer_gets_the_identical_ack() -> None:
    """S11: our ACK was lost."""
    stage = Stage()
    stage.invite()
    invite = stage.request()
    stage.answer(invite, 200, body=ANSWER)
    first = stage.ua.outbox[:]
    stage.ua.outbox.clear()
    stage.answer(invite, 200, body=ANSWER)
    assert stage.ua.outbox == first
    assert stage.recorder.told == [("answer", ANSWER)]


def test_far_end_that_hears_no_ack_hangs_up_after_32_s_and_that_is_the_end() -> None:
    """S12: each repeat of its answer gets the very same ACK; its BYE, 64*T1 after the answer, ends the call once."""
    stage = Stage()
    call = stage.invite()
    invite = stage.request()
    stage.answer(invite, 200, body=ANSWER)
    assert stage.sent() == ["ACK"]
    for pause in (0.5, 1.0, 2.0, *[4.0] * 7):
        stage.wait(pause)
        stage.answer(invite, 200, body=ANSWER)
        assert stage.sent() == ["ACK"]
    assert len(stage.recorder.told) == 1
    stage.ask("BYE", local_tag=call.local_tag, headers=[("Reason", 'SIP;cause=408;text="ACK timeout"')])
    assert stage.sent() == [200]
    assert stage.recorder.end == CallEnd(EndCause.HANGUP, "remote", None, "BYE", 'SIP;cause=408;text="ACK timeout"')
    stage.rest()


def test_second_answer_of_a_fork_is_acknowledged_and_hung_up() -> None:
    """S10; sippy drops it, so that someone talks to nobody."""
    stage = Stage()
    call, invite = stage.talking()
    stage.answer(invite, 200, to_tag="loser", contact="<sip:loser@192.0.2.20>")
    ((bye, to_bye),) = stage.messages()
    assert isinstance(bye, Request)
    stage.answer(invite, 200, to_tag="loser")
    stage.answer(bye, 200)
    ((ack, to_ack),) = stage.messages()
    assert (ack.header("cseq"), ack.header("to"), to_ack) == (
        "1 ACK",
        "<sip:600@example.com>;tag=loser",
        ("192.0.2.20", 5060),
    )
    assert (bye.uri, bye.header("to"), to_bye) == (
        "sip:loser@192.0.2.20",
        "<sip:600@example.com>;tag=loser",
        ("192.0.2.20", 5060),
    )
    stage.answer(invite, 200, to_tag="loser")
    assert stage.sent() == ["ACK"]
    # The loser hangs up too: its BYE crosses ours, and the call goes on.
    stage.ask("BYE", local_tag=call.local_tag, from_tag="loser", source=("192.0.2.20", 5060))
    assert stage.sent() == [200]
    stage.ask("INFO", local_tag=call.local_tag, from_tag="loser", source=("192.0.2.20", 5060))
    stage.ask("ACK", local_tag=call.local_tag, from_tag="loser", source=("192.0.2.20", 5060))
    assert stage.sent() == [481]
    assert stage.recorder.told == []
    call.hangup()
    stage.answer(stage.request("BYE"), 200)
    assert stage.recorder.end == hung_up()
    stage.rest()


def test_more_forks_than_any_honest_proxy_has_are_ignored() -> None:
    stage = Stage()
    _call, invite = stage.talking()
    for number in range(40):
        stage.answer(invite, 180, to_tag=f"t{number}")
        stage.answer(invite, 200, to_tag=f"t{number}")
    assert stage.sent() == ["BYE"] * 15


def test_bye_before_the_answer_is_answered_and_the_invite_withdrawn() -> None:
    """S14: the 200 was lost, the peer hung up at once."""
    stage = Stage()
    call = stage.invite()
    invite = stage.request()
    stage.answer(invite, 180)
    stage.ask("BYE", local_tag=call.local_tag, headers=[("Reason", "Q.850;cause=16")])
    assert stage.sent() == [200, "CANCEL"]
    stage.answer(invite, 200)
    stage.answer(stage.request("BYE"), 481, "Gone")
    assert stage.sent() == ["ACK", "BYE"]
    stage.wait(33)
    assert stage.recorder.end == CallEnd(EndCause.HANGUP, "remote", None, "BYE", "Q.850;cause=16")
    stage.rest()


@pytest.mark.parametrize("outcome", ["refused", "silent"])
def test_bye_before_the_answer_and_no_answer_ever(outcome: str) -> None:
    stage = Stage()
    call = stage.invite()
    invite = stage.request()
    stage.ask("BYE", local_tag=call.local_tag, from_tag="whoever")
    assert stage.sent() == [200]
    if outcome == "refused":
        stage.answer(invite, 487)
    stage.wait(33)
    assert stage.recorder.end == CallEnd(EndCause.HANGUP, "remote", None, "BYE")
    stage.rest()


def test_second_bye_while_leaving_before_the_answer() -> None:
    stage = Stage()
    call = stage.invite()
    invite = stage.request()
    stage.answer(invite, 180)
    call.hangup()
    stage.sent()
    stage.ask("BYE", local_tag=call.local_tag)
    stage.ask("ACK", local_tag=call.local_tag)
    assert stage.sent() == [200]
    stage.answer(invite, 487)
    assert stage.recorder.end == cancelled(487)
    stage.rest()


@pytest.mark.parametrize(
    ("method", "body", "code"),
    [
        ("OPTIONS", b"", 200),
        ("INFO", b"Signal=1", 200),
        ("UPDATE", b"", 200),
        ("UPDATE", b"offer", 491),
        ("INVITE", b"offer", 491),
        ("PRACK", b"", 481),
        ("FROBNICATE", b"", 501),
    ],
)
def test_requests_in_an_early_dialog(method: str, body: bytes, code: int) -> None:
    stage = Stage()
    call = stage.invite()
    invite = stage.request()
    stage.ask(method, local_tag=call.local_tag, body=body)
    assert stage.sent() == [481]  # no early dialog with that tag yet
    stage.answer(invite, 180)
    stage.ask(method, local_tag=call.local_tag, body=body)
    assert stage.sent() == [code]


@pytest.mark.parametrize(
    ("code", "header"), [(407, CHALLENGE), (401, ("WWW-Authenticate", CHALLENGE[1])), (422, ("Min-SE", "3600"))]
)
def test_no_contact_of_a_far_end_is_dialled(code: int, header: tuple[str, str]) -> None:
    """An UPDATE moves its own early dialog; were it the INVITE's target, the next sending would call any number."""
    stage = Stage()
    call = stage.invite(CREDENTIALS)
    invite = stage.request()
    stage.answer(invite, 180)
    premium = "<sip:+34807000000@192.0.2.10>"
    stage.ask("UPDATE", local_tag=call.local_tag, contact=premium)
    assert stage.sent() == [200]
    stage.answer(invite, code, headers=[header])
    _ack, (again, _) = stage.messages()
    assert isinstance(again, Request)
    assert (again.method, again.uri, again.header("cseq")) == ("INVITE", invite.uri, "2 INVITE")


def test_a_target_that_moves_before_the_answer() -> None:
    """RFC 3311 §5.1; the answer's Contact is the last word (RFC 3261 §12.1.2)."""
    stage = Stage()
    call = stage.invite()
    invite = stage.request()
    reliable = ("Require", "100rel")
    stage.answer(invite, 183, headers=[reliable, ("RSeq", "1")], body=ANSWER)
    stage.answer(stage.request("PRACK"), 200)
    stage.ask("UPDATE", local_tag=call.local_tag, contact="<sip:one@192.0.2.11>")
    assert stage.sent() == [200]
    stage.answer(invite, 180, headers=[reliable, ("RSeq", "2")])
    ((prack, to),) = stage.messages()
    assert isinstance(prack, Request)
    assert (prack.uri, to) == ("sip:one@192.0.2.11", ("192.0.2.11", 5060))
    stage.answer(prack, 200)
    stage.ask("UPDATE", local_tag=call.local_tag, cseq=2, body=b"offer", contact="<sip:two@192.0.2.12>")
    assert stage.sent() == [200]
    stage.answer(invite, 200, body=ANSWER)  # with the Contact that it began with
    assert stage.request("ACK").uri == "sip:agent@192.0.2.10:5060"
    call.hangup()
    bye = stage.request("BYE")
    assert (bye.uri, bye.header("cseq")) == ("sip:agent@192.0.2.10:5060", "4 BYE")


def test_unreachable_destination_ends_the_call_at_once() -> None:
    """S2: ICMP port unreachable."""
    stage = Stage()
    stage.invite()
    ((data, destination),) = stage.ua.outbox
    stage.ua.unreachable(destination, data, stage.now)
    assert stage.recorder.end == CallEnd(EndCause.TRANSPORT, "remote", None, "destination unreachable")
    stage.ua.unreachable(destination, data, stage.now)
    stage.rest()


def test_an_invite_that_a_broken_connection_may_have_carried_is_cancelled() -> None:
    """The trunk may have passed it on before it broke off: the phone rings, while we try the next way."""
    stage = Stage()
    hop = Hop(*TRUNK, "tcp")
    stage.ua.invite(replace(INVITATION, destination=hop), stage.recorder)
    data, _ = stage.ua.outbox[0]
    invite = stage.request()
    stage.ua.lost(hop, stage.now)
    assert stage.request().header("via") == invite.header("via")
    stage.ua.unreachable(hop, data, stage.now)
    ((cancel, to),) = stage.messages()
    assert (cancel.header("cseq"), cancel.header("via"), to) == ("1 CANCEL", invite.header("via"), hop)
    assert stage.recorder.end == CallEnd(EndCause.TRANSPORT, "remote", None, "destination unreachable")
    stage.answer(invite, 487)
    assert stage.sent() == ["ACK"]
    stage.rest()


def test_an_invite_whose_repeat_finds_nobody_any_more_is_cancelled() -> None:
    stage = Stage()
    stage.invite()
    data, destination = stage.ua.outbox[0]
    stage.wait(0.6)
    assert stage.sent() == ["INVITE", "INVITE"]
    stage.ua.unreachable(destination, data, stage.now)
    assert stage.sent() == ["CANCEL"]
    assert stage.recorder.end == CallEnd(EndCause.TRANSPORT, "remote", None, "destination unreachable")
    stage.rest()


def test_a_long_invite_that_tcp_may_have_carried_does_not_go_by_udp_too() -> None:
    """It would be another INVITE, with the next CSeq number: the phone that has the first one would be rung again."""
    stage = Stage()
    stage.ua.invite(replace(INVITATION, destination=Hop(*TRUNK, tcp_too=True), body=b"x" * 1_300), stage.recorder)
    ((data, hop),) = stage.ua.outbox
    assert hop.transport == "tcp"
    stage.ua.lost(hop, stage.now)
    assert stage.sent() == ["INVITE", "INVITE"]
    stage.ua.unreachable(hop, data, stage.now)
    assert [(each.header("cseq"), to) for each, to in stage.messages()] == [("1 CANCEL", hop)]
    assert stage.recorder.end == CallEnd(EndCause.TRANSPORT, "remote", None, "destination unreachable")
    stage.rest()


def test_unreachable_without_a_quotation_finds_the_call_by_its_destination() -> None:
    stage = Stage()
    stage.invite()
    stage.ua.unreachable(Hop("192.0.2.99", 5060), b"", stage.now)
    assert stage.recorder.told == []
    stage.ua.unreachable(Hop(*TRUNK), b"INVITE sip:600@", stage.now)
    assert stage.recorder.end.cause is EndCause.TRANSPORT
    stage.rest()


def test_unreachable_once_the_peer_was_heard_is_no_reason_to_give_up() -> None:
    stage = Stage()
    stage.invite()
    ((data, destination),) = stage.ua.outbox
    stage.answer(stage.request(), 100)
    stage.ua.unreachable(destination, data, stage.now)
    stage.ua.unreachable(destination, b"branch=z9hG4bKunknown", stage.now)
    assert stage.recorder.told == []


def test_unreachable_while_hanging_up() -> None:
    stage = Stage()
    call, _invite = stage.talking()
    call.hangup()
    ((data, destination),) = stage.ua.outbox
    assert quoted_branch(data)
    stage.ua.unreachable(destination, data, stage.now)
    assert stage.recorder.end == hung_up("BYE: transport")
    stage.rest()


def test_a_bye_that_meets_an_icmp_error_goes_on() -> None:
    """The end is told at once; whoever is behind a route that comes back, or asks for credentials, is hung up still."""
    stage = Stage()
    call, _invite = stage.talking(replace(CREDENTIALS, realm="trunk"))
    call.hangup()
    ((data, destination),) = stage.ua.outbox
    bye = stage.request("BYE")
    stage.ua.unreachable(destination, data, stage.now)
    assert stage.recorder.end == hung_up("BYE: transport")
    assert stage.moments(4) == [(0.5, "BYE"), (1.5, "BYE"), (3.5, "BYE")]
    stage.ua.unreachable(destination, data, stage.now)
    stage.answer(bye, 407, headers=[CHALLENGE])
    again = stage.request("BYE")
    assert check(again.header("proxy-authorization"), CREDENTIALS, method="BYE", realm="trunk", nonce="n1")
    stage.answer(again, 200)
    assert stage.moments(40) == []
    assert stage.recorder.end == hung_up("BYE: transport")
    stage.rest()


@pytest.mark.parametrize("code", [199, 299])
def test_unknown_codes_count_by_their_hundreds(code: int) -> None:
    """S24."""
    stage = Stage()
    stage.invite()
    stage.answer(stage.request(), code)
    assert stage.sent() == ([] if code == 199 else ["ACK"])
    assert stage.recorder.told == [(199, "", b"")] if code == 199 else [("answer", b"")]


def test_messages_leave_in_the_order_in_which_they_were_made() -> None:
    """sippy's three sender threads swap them."""
    stage = Stage()
    calls = [stage.invite() for _ in range(10)]
    invites = [message for message, _ in stage.messages()]
    for invite in invites:
        assert isinstance(invite, Request)
        stage.answer(invite, 200)
    for call in calls:
        call.hangup()
    tags = [call.local_tag for call in calls]
    sent = [(tag(message.header("from")), message.cseq_method) for message, _ in stage.messages()]
    assert sent == [(each, "ACK") for each in tags] + [(each, "BYE") for each in tags]


def test_hangup_from_within_the_handler() -> None:
    class Impatient(Recorder):
        def on_progress(self, status: int, phrase: str, body: bytes) -> None:
            call.hangup()

    stage = Stage()
    recorder = Impatient()
    call = stage.ua.invite(
        Invitation(
            request_uri="sip:1@example.com",
            destination=TRUNK,
            from_uri="sip:a@example.com",
            to_uri="sip:1@example.com",
            call_id="x",
            body=OFFER,
        ),
        recorder,
    )
    stage.answer(stage.request(), 180)
    assert stage.sent() == ["CANCEL"]


def test_forgotten_when_the_invite_could_not_leave() -> None:
    stage = Stage()
    call = stage.invite()
    stage.ua.outbox.clear()
    stage.ua.forget(call)
    assert stage.recorder.told == []
    stage.rest()


@pytest.mark.parametrize(
    "contact",
    [
        "<sip:agent@192.0.2.30;transport=UDP>",
        "<SIP:agent@192.0.2.30:5060>;expires=60",
        '"A, <B>" <sip:agent@192.0.2.30>',
        "sip:agent@192.0.2.30;expires=60",
    ],
)
def test_contact_in_any_case_is_hung_up(contact: str) -> None:
    """SIPp's stock phone sends `;transport=UDP`; sippy raised on it and never ended the leg."""
    stage = Stage()
    call = stage.invite()
    stage.answer(stage.request(), 200, contact=contact)
    ((_ack, to_ack),) = stage.messages()
    call.hangup()
    ((bye, to_bye),) = stage.messages()
    assert (to_ack, to_bye) == (("192.0.2.30", 5060), ("192.0.2.30", 5060))
    assert isinstance(bye, Request)
    stage.answer(bye, 200)
    assert stage.recorder.end == hung_up()


@pytest.mark.parametrize("contact", ["", "<tel:+34600>", "<sip:a b@x>", "*", "<sip:ñ@192.0.2.30>", "<sip:a@pbx1>"])
def test_contact_that_leads_nowhere_goes_to_the_trunk(contact: str) -> None:
    stage = Stage()
    call = stage.invite()
    stage.answer(stage.request(), 200, contact=contact)
    call.hangup()
    assert [destination for _message, destination in stage.messages()] == [TRUNK, TRUNK]


def test_invite_answered_by_a_peer_without_to_tag() -> None:
    """A peer of RFC 2543."""
    stage = Stage()
    call = stage.invite()
    invite = stage.request()
    stage.answer(invite, 200, to_tag="", body=ANSWER)
    stage.answer(invite, 200, to_tag="", body=ANSWER)
    assert stage.sent() == ["ACK", "ACK"]
    call.hangup()
    assert stage.sent() == ["BYE"]


# -- the ACK that waits until the dialog is written down ----------------------------------------------------------


class Patient:
    """A call whose answer waits for `confirm`, just answered."""

    def __init__(self) -> None:
        self.stage = Stage()
        invitation = Invitation(
            request_uri="sip:600@example.com",
            destination=TRUNK,
            from_uri="sip:910@example.com",
            to_uri="sip:600@example.com",
            call_id="leg-a",
            body=OFFER,
            ack_patience_s=0.25,
        )
        self.call = self.stage.ua.invite(invitation, self.stage.recorder)
        self.invite = self.stage.request()
        self.stage.answer(self.invite, 200, body=ANSWER)
        assert (self.stage.recorder.told, self.stage.sent()) == ([("answer", ANSWER)], [])


def test_the_ack_waits_until_the_dialog_is_written_down() -> None:
    patient = Patient()
    patient.stage.answer(patient.invite, 200, body=ANSWER)
    assert patient.stage.sent() == []
    patient.call.confirm()
    patient.call.confirm()
    assert patient.stage.sent() == ["ACK"]
    patient.stage.answer(patient.invite, 200, body=ANSWER)
    assert patient.stage.sent() == ["ACK"]
    assert patient.stage.moments(1) == []
    assert patient.stage.recorder.told == [("answer", ANSWER)]


def test_the_ack_waits_no_longer_than_it_may() -> None:
    """The record can't be written: the call goes on."""
    patient = Patient()
    assert patient.stage.moments(1) == [(0.25, "ACK")]
    patient.call.confirm()
    assert patient.stage.sent() == []


def test_a_hang_up_while_the_ack_waits_comes_before_it() -> None:
    """Killed now, the next process hears of the answer again."""
    patient = Patient()
    patient.call.hangup()
    bye = patient.stage.request("BYE")
    patient.call.confirm()
    assert patient.stage.moments(0.4) == []
    patient.stage.answer(bye, 200)
    assert patient.stage.sent() == ["ACK"]


def test_a_fork_that_answers_while_the_ack_waits_is_hung_up_at_once() -> None:
    patient = Patient()
    patient.stage.answer(patient.invite, 200, to_tag="other")
    assert patient.stage.sent() == ["BYE"]
    patient.call.confirm()
    assert patient.stage.sent() == ["ACK"]


def test_a_change_of_codec_while_the_ack_waits_sends_it_first() -> None:
    patient = Patient()
    patient.call.reinvite(OFFER, lambda _status, _body: None)
    assert patient.stage.sent() == ["ACK", "INVITE"]
