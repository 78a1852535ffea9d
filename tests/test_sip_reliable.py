"""Reliable provisional answers: PRACK, their order, and the SDP that they bring (RFC 3262)."""

from dataclasses import replace

import pytest

from dosvoces.sip.api import CallEnd, EndCause
from dosvoces.sip.digest import Credentials, check
from dosvoces.sip.message import Request
from tests.sip_stage import ANSWER, TRUNK, Stage

CREDENTIALS = Credentials("user", "secret")


def reliable(rseq: int | str) -> list[tuple[str, str]]:
    return [("Require", "100rel"), ("RSeq", str(rseq))]


def test_reliable_answer_is_acknowledged_in_its_early_dialog() -> None:
    stage = Stage()
    stage.invite()
    invite = stage.request()
    assert invite.header("supported") == "timer, 100rel"
    route = ("Record-Route", "<sip:192.0.2.10;lr>")
    stage.answer(invite, 183, "Progress", headers=[*reliable(776656), route], body=ANSWER, contact="<sip:gw@192.0.2.7>")
    prack = stage.request("PRACK")
    assert (prack.uri, prack.header("rack"), prack.header("cseq")) == ("sip:gw@192.0.2.7", "776656 1 INVITE", "2 PRACK")
    assert (prack.header("route"), prack.header("to")) == ("<sip:192.0.2.10;lr>", "<sip:600@example.com>;tag=peer")
    assert stage.recorder.told == [(183, "Progress", ANSWER)]
    stage.answer(prack, 200)
    assert stage.sent() == []


def test_answer_without_sdp_takes_that_of_the_reliable_one() -> None:
    stage = Stage()
    call = stage.invite()
    invite = stage.request()
    stage.answer(invite, 183, headers=reliable(1), body=b"early sdp")
    stage.answer(stage.request("PRACK"), 200)
    stage.answer(invite, 180, headers=reliable(2))
    stage.answer(stage.request("PRACK"), 200)
    stage.answer(invite, 200)
    ack = stage.request("ACK")
    assert ack.header("cseq") == "1 ACK"
    assert stage.recorder.told == [(183, "", b"early sdp"), (180, "", b""), ("answer", b"early sdp")]
    call.hangup()
    # The PRACKs counted in this dialog: a BYE with a number used before would be out of order (RFC 3261 §12.2.2).
    assert stage.request("BYE").header("cseq") == "4 BYE"


def test_sdp_of_an_unreliable_answer_is_no_answer() -> None:
    stage = Stage()
    stage.invite()
    invite = stage.request()
    stage.answer(invite, 183, body=b"preview")
    stage.answer(invite, 200)
    assert stage.sent() == ["ACK"]
    assert stage.recorder.told == [(183, "", b"preview"), ("answer", b"")]


def test_sdp_in_the_final_answer_is_the_last_word() -> None:
    stage = Stage()
    stage.invite()
    invite = stage.request()
    stage.answer(invite, 183, headers=reliable(1), body=b"early sdp")
    stage.answer(invite, 200, body=ANSWER)
    assert stage.recorder.told[-1] == ("answer", ANSWER)


def test_each_fork_has_its_own_reliable_answer_and_count() -> None:
    stage = Stage()
    stage.invite()
    invite = stage.request()
    stage.answer(invite, 183, to_tag="one", headers=reliable(5), body=b"sdp of one")
    stage.answer(invite, 183, to_tag="two", headers=reliable(9), body=b"sdp of two")
    assert [(m.header("rack"), m.header("cseq")) for m, _ in stage.messages()] == [
        ("5 1 INVITE", "2 PRACK"),
        ("9 1 INVITE", "2 PRACK"),
    ]
    stage.answer(invite, 200, to_tag="two")
    assert stage.recorder.told[-1] == ("answer", b"sdp of two")


def test_a_fork_that_lost_is_hung_up_with_a_number_above_its_pracks() -> None:
    """Below them the BYE would be out of order, and be refused with 500 (RFC 3261 §12.2.2): its phone stays up."""
    stage = Stage()
    stage.invite()
    invite = stage.request()
    for rseq in (1, 2):
        stage.answer(invite, 180, to_tag="loser", headers=reliable(rseq))
        stage.answer(stage.request("PRACK"), 200)
    stage.answer(invite, 200, to_tag="winner", body=ANSWER)
    assert stage.sent() == ["ACK"]
    stage.answer(invite, 200, to_tag="loser", body=ANSWER)
    bye = stage.request("BYE")
    assert (bye.header("cseq"), bye.header("to")) == ("4 BYE", "<sip:600@example.com>;tag=loser")


def test_repeats_and_gaps_are_neither_told_nor_acknowledged() -> None:
    """RFC 3262 §4: the PRACK repeats itself; what comes too early comes again."""
    stage = Stage()
    stage.invite()
    invite = stage.request()
    for rseq in (1, 1, 3, 2, 2, 1, 3):
        stage.answer(invite, 180, str(rseq), headers=reliable(rseq))
    assert [m.header("rack") for m, _ in stage.messages()] == ["1 1 INVITE", "2 1 INVITE", "3 1 INVITE"]
    assert stage.recorder.told == [(180, "1", b""), (180, "2", b""), (180, "3", b"")]


def test_lost_prack_is_repeated_and_given_up_without_ending_the_call() -> None:
    stage = Stage()
    stage.invite()
    invite = stage.request()
    stage.answer(invite, 180, headers=reliable(1))
    assert stage.sent() == ["PRACK"]
    assert stage.moments(2) == [(0.5, "PRACK"), (1.5, "PRACK")]
    stage.wait(60)
    stage.messages()
    stage.answer(invite, 200, body=ANSWER)
    assert stage.sent() == ["ACK"]
    assert stage.recorder.told == [(180, "", b""), ("answer", ANSWER)]


def test_a_prack_that_meets_an_icmp_error_is_repeated_all_the_same() -> None:
    """The repeats of what it acknowledges are dropped, so that nothing else would bring another one."""
    stage = Stage()
    stage.invite()
    stage.answer(stage.request(), 180, headers=reliable(1))
    ((prack, hop),) = stage.ua.outbox
    assert stage.sent() == ["PRACK"]
    for _ in range(2):
        stage.ua.unreachable(hop, prack, stage.now)
    assert stage.moments(2) == [(0.5, "PRACK"), (1.5, "PRACK")]
    assert stage.recorder.told == [(180, "", b"")]


def test_challenged_prack_is_sent_again_with_credentials() -> None:
    stage = Stage()
    stage.invite(replace(CREDENTIALS, realm="trunk"))
    invite = stage.request()
    stage.answer(invite, 180, headers=reliable(1))
    challenge = 'Digest realm="trunk", nonce="n1", qop="auth", algorithm=MD5'
    stage.answer(stage.request("PRACK"), 407, headers=[("Proxy-Authenticate", challenge)])
    again = stage.request("PRACK")
    assert (again.header("rack"), again.header("cseq")) == ("1 1 INVITE", "3 PRACK")
    credentials = again.header("proxy-authorization")
    assert check(credentials, CREDENTIALS, method="PRACK", realm="trunk", nonce="n1")


def test_an_invite_sent_again_counts_anew() -> None:
    """The RSeq of an INVITE that was challenged says nothing of the next one's."""
    stage = Stage()
    stage.invite(CREDENTIALS)
    invite = stage.request()
    stage.answer(invite, 183, headers=reliable(7))
    assert stage.sent() == ["PRACK"]
    challenge = 'Digest realm="trunk", nonce="n1", qop="auth", algorithm=MD5'
    stage.answer(invite, 407, headers=[("Proxy-Authenticate", challenge)])
    (_ack, _), (second, _) = stage.messages()
    assert isinstance(second, Request)
    stage.answer(second, 183, headers=reliable(1))
    assert stage.request("PRACK").header("rack") == f"1 {second.cseq} INVITE"


@pytest.mark.parametrize(
    "headers",
    [
        [("RSeq", "1")],
        [("Require", "100rel")],
        [("Require", "100rel"), ("RSeq", "one")],
        [("Require", "100rel"), ("RSeq", "-1")],
        [("Require", "100rel"), ("RSeq", "99999999999")],
    ],
)
def test_half_of_it_is_an_ordinary_answer(headers: list[tuple[str, str]]) -> None:
    stage = Stage()
    stage.invite()
    stage.answer(stage.request(), 180, headers=headers)
    assert stage.sent() == []
    assert stage.recorder.told == [(180, "", b"")]


@pytest.mark.parametrize("rseq", [0, 2**32])
def test_number_out_of_range_is_dropped(rseq: int) -> None:
    stage = Stage()
    stage.invite()
    stage.answer(stage.request(), 180, headers=reliable(rseq))
    assert (stage.sent(), stage.recorder.told) == ([], [])


def test_reliable_answer_to_a_reinvite_is_acknowledged() -> None:
    stage = Stage()
    call, _invite = stage.talking()
    call.reinvite(b"new offer", lambda status, body: stage.recorder.told.append((status, body)))
    reinvite = stage.request()
    stage.answer(reinvite, 183, headers=reliable(1))
    prack = stage.request("PRACK")
    assert (prack.header("rack"), prack.header("cseq")) == ("1 2 INVITE", "3 PRACK")
    stage.answer(prack, 200)
    stage.answer(reinvite, 200, body=b"new answer")
    assert stage.request("ACK").header("cseq") == "2 ACK"
    assert stage.recorder.told == [(200, b"new answer")]


def test_offer_by_update_before_the_answer() -> None:
    """RFC 3311 §5.1: our offer is settled by the reliable answer, so the peer may make one; before that it is 491."""
    stage = Stage()
    call = stage.invite()
    invite = stage.request()
    stage.answer(invite, 180)
    stage.ask("UPDATE", local_tag=call.local_tag, cseq=1, body=b"an offer")
    assert stage.sent() == [491]
    stage.answer(invite, 183, headers=reliable(1), body=b"early sdp")
    assert stage.sent() == ["PRACK"]
    stage.ask("UPDATE", local_tag=call.local_tag, cseq=2, body=b"another offer")
    response = stage.response()
    assert (response.code, response.body) == (200, b"our answer")
    stage.recorder.says = None
    stage.ask("UPDATE", local_tag=call.local_tag, cseq=3, body=b"a bad offer")
    assert stage.sent() == [488]
    stage.answer(invite, 200)
    assert stage.recorder.told[-1] == ("answer", b"another offer")


@pytest.mark.parametrize(
    ("code", "headers"), [(200, []), (180, [("Require", "100rel"), ("RSeq", "2")])], ids=["final", "reliable"]
)
def test_an_answer_that_says_the_first_description_again_takes_back_no_offer(
    code: int, headers: list[tuple[str, str]]
) -> None:
    """RFC 3261 §13.2.1 lets a callee repeat it, and has it ignored: the announcement is over by then."""
    stage = Stage()
    call = stage.invite()
    invite = stage.request()
    stage.answer(invite, 183, headers=reliable(1), body=b"the announcement's")
    stage.answer(stage.request("PRACK"), 200)
    stage.ask("UPDATE", local_tag=call.local_tag, cseq=1, body=b"the phone's")
    assert stage.sent() == [200]
    stage.answer(invite, code, headers=headers, body=b"the announcement's")
    if code == 180:
        stage.answer(stage.request("PRACK"), 200)
        stage.answer(invite, 200)
    assert stage.recorder.told[-1] == ("answer", b"the phone's")


def test_cancelled_call_acknowledges_nothing_more() -> None:
    stage = Stage()
    call = stage.invite()
    invite = stage.request()
    stage.answer(invite, 180, headers=reliable(1))
    assert stage.sent() == ["PRACK"]
    call.hangup()
    assert stage.sent() == ["CANCEL"]
    stage.answer(invite, 183, headers=reliable(2))
    stage.answer(invite, 487)
    assert stage.sent() == ["ACK"]
    assert stage.recorder.end == CallEnd(EndCause.CANCELLED, "local", 487)
    stage.rest()


def test_a_prack_to_us_has_nothing_to_acknowledge() -> None:
    stage = Stage()
    call, _invite = stage.talking()
    stage.ask("PRACK", local_tag=call.local_tag, headers=[("RAck", "1 1 INVITE")])
    assert stage.sent() == [481]


def test_who_insists_on_reliable_answers_from_us_is_refused() -> None:
    stage = Stage(answers_calls=True)
    stage.ask("INVITE", local_tag="", headers=[("Require", "timer, 100rel")], body=b"offer", source=TRUNK)
    response = stage.response()
    assert (response.code, response.header("unsupported")) == (420, "100rel")
