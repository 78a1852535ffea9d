"""An INVITE of a process that died, taken back by the next one (RFC 3261 §9.1, §13.2.2.4)."""

from dataclasses import replace

import pytest

from dosvoces.sip.api import CallEnd, EndCause, Hop, Invitation, InviteFacts
from dosvoces.sip.digest import Credentials, check
from dosvoces.sip.message import Request, branch
from dosvoces.sip.recall import GRACE_S
from dosvoces.sip.transaction import TIMEOUT
from tests.sip_stage import ANSWER, OFFER, TRUNK, Recorder, Stage

CREDENTIALS = Credentials("user", "secret")
CHALLENGE = ("Proxy-Authenticate", 'Digest realm="trunk", nonce="n1", qop="auth", algorithm=MD5')
INTERVAL = ("Min-SE", "3600")


class Dead:
    """The process that died: what it wrote down before the INVITE, and the INVITEs that it sent."""

    def __init__(self, credentials: Credentials | None = None, destination: Hop | None = None) -> None:
        self.stage = Stage()
        self.credentials = credentials
        invitation = Invitation(
            request_uri="sip:600@example.com",
            destination=destination or TRUNK,
            from_uri="sip:910@example.com",
            from_name="Casa",
            to_uri="sip:600@example.com",
            call_id="leg-a",
            body=b"",
            credentials=credentials,
        )
        self.invitation, self.facts = self.stage.ua.plan(invitation)
        assert self.stage.ua.outbox == []

    def sends(self, *refusals: tuple[int, tuple[str, str]]) -> Request:
        """Its last INVITE, after these refusals."""
        # What it says of itself may change in between; the INVITE says what was written down.
        self.stage.ua.advertise(("203.0.113.99", 5066), 5067)
        self.stage.token_from(1000)
        self.stage.ua.invite(self.invitation, Recorder())
        invite = self.stage.request()
        for status, header in refusals:
            self.stage.answer(invite, status, headers=[header])
            (_ack, _), (again, _) = self.stage.messages()
            assert isinstance(again, Request)
            invite = again
        return invite


class Heir:
    """The next process, taking that back."""

    def __init__(self, dead: Dead) -> None:
        self.stage = Stage()
        self.stage.token_from(5000)
        self.ends: list[CallEnd] = []
        self.stage.ua.take_back(dead.facts, dead.credentials, self.ends.append)

    def cancels(self) -> list[Request]:
        found = [message for message, _hop in self.stage.messages() if isinstance(message, Request)]
        assert {each.method for each in found} <= {"CANCEL"}
        return found


def test_the_cancel_is_that_of_the_invite_byte_for_byte() -> None:
    """RFC 3261 §9.1: same Request-URI, Call-ID, To, From, CSeq number and topmost Via."""
    dead = Dead()
    invite = dead.sends()
    (cancel,) = Heir(dead).cancels()
    assert cancel.uri == invite.uri
    for name in ("call-id", "to", "from"):
        assert cancel.header(name) == invite.header(name)
    assert (
        cancel.values("via") == invite.values("via") == ["SIP/2.0/UDP 198.51.100.7:5060;rport;branch=" + branch(invite)]
    )
    assert (cancel.cseq, cancel.header("cseq"), cancel.values("route")) == (invite.cseq, "1 CANCEL", [])


def test_a_ringing_phone_is_cancelled_with_one_cancel() -> None:
    dead = Dead()
    invite = dead.sends()
    heir = Heir(dead)
    (cancel,) = heir.cancels()
    heir.stage.answer(cancel, 200)
    heir.stage.answer(invite, 487, "Request Terminated")
    ack = heir.stage.request("ACK")
    assert (branch(ack), ack.header("cseq")) == (branch(invite), "1 ACK")
    heir.stage.answer(invite, 487, "Request Terminated")
    assert heir.stage.sent() == ["ACK"]
    assert heir.stage.moments(TIMEOUT) == []
    assert heir.ends == [CallEnd(EndCause.CANCELLED, "local", 487, "Request Terminated")]
    heir.stage.rest()


@pytest.mark.parametrize("cancelled_first", [True, False])
def test_an_answer_that_nobody_acknowledged_gets_bye_and_ack(cancelled_first: bool) -> None:
    """The far end repeats its 200 until the BYE has arrived, so that a third process would hear of it too."""
    dead = Dead()
    invite = dead.sends()
    heir = Heir(dead)
    (cancel,) = heir.cancels()
    if cancelled_first:
        heir.stage.answer(cancel, 200)
        heir.stage.wait(0.25)
        heir.stage.messages()
    heir.stage.answer(invite, 200, "OK", headers=[("Record-Route", "<sip:192.0.2.41;lr>")])
    ((bye, to_bye),) = heir.stage.messages()
    assert isinstance(bye, Request)
    heir.stage.answer(invite, 200, "OK")
    assert heir.stage.sent() == []
    heir.stage.answer(bye, 200, "OK")
    ((ack, to_ack),) = heir.stage.messages()
    assert (ack.header("cseq"), to_ack, to_bye) == ("1 ACK", ("192.0.2.41", 5060), ("192.0.2.41", 5060))
    assert (bye.method, bye.uri, bye.header("to")) == ("BYE", "sip:agent@192.0.2.10:5060", ack.header("to"))
    assert bye.cseq > invite.cseq
    heir.stage.answer(invite, 200, "OK")
    assert heir.stage.sent() == ["ACK"]
    assert heir.ends == [CallEnd(EndCause.HANGUP, "local", 200, "OK")]
    heir.stage.rest()


def test_an_answer_that_this_process_can_t_hear_is_hung_up_by_the_tag_of_the_cancel_s() -> None:
    dead = Dead()
    invite = dead.sends()
    heir = Heir(dead)
    (cancel,) = heir.cancels()
    heir.stage.answer(cancel, 200, to_tag="phone")
    heir.stage.wait(0.31)
    (bye,) = [m for m, _hop in heir.stage.messages() if isinstance(m, Request) and m.method == "BYE"]
    assert (bye.header("to"), bye.header("from")) == ("<sip:600@example.com>;tag=phone", invite.header("from"))
    assert (bye.uri, bye.cseq > invite.cseq) == (invite.uri, True)
    heir.stage.answer(bye, 200, "OK")
    assert heir.ends == [CallEnd(EndCause.HANGUP, "local", 200, "OK")]
    # Should it repeat its answer all the same, it is acknowledged, so that it stops.
    heir.stage.messages()
    heir.stage.answer(invite, 200, to_tag="phone")
    heir.stage.answer(heir.stage.request("BYE"), 481)
    assert heir.stage.sent()[0] == "ACK"
    assert len(heir.ends) == 1
    heir.stage.rest()


def test_an_answer_that_comes_before_it_is_taken_back_is_hung_up_once() -> None:
    """The port listens before the record is read."""
    dead = Dead()
    invite = dead.sends()
    stage = Stage()
    stage.answer(invite, 200, "OK")
    bye = stage.request("BYE")
    ends: list[CallEnd] = []
    stage.ua.take_back(dead.facts, None, ends.append)
    assert (stage.sent(), ends) == ([], [])
    stage.answer(bye, 200, "OK")
    assert stage.sent() == ["ACK"]
    assert ends == [CallEnd(EndCause.HANGUP, "local", 200, "OK")]
    stage.answer(invite, 200, "OK")
    assert stage.sent() == ["ACK"]
    stage.rest()


@pytest.mark.parametrize("asked_first", [True, False])
def test_where_the_trunk_wants_the_password_that_bye_is_sent_again_with_it(asked_first: bool) -> None:
    """Whether it asks before or after the record was read."""
    dead = Dead(CREDENTIALS)
    invite = dead.sends()
    stage = Stage()
    stage.token_from(5000)
    ends: list[CallEnd] = []
    stage.answer(invite, 200, "OK")
    bye = stage.request("BYE")
    if not asked_first:
        stage.ua.take_back(dead.facts, CREDENTIALS, ends.append)
    stage.answer(bye, 407, headers=[CHALLENGE])
    if asked_first:
        assert stage.sent() == ["ACK"]
        stage.ua.take_back(dead.facts, CREDENTIALS, ends.append)
    *_, (again, _) = stage.messages()
    assert isinstance(again, Request)
    assert (again.method, again.header("to"), again.cseq) == ("BYE", bye.header("to"), bye.cseq + 1)
    stage.answer(again, 407, headers=[CHALLENGE])
    proven = stage.request("BYE")
    assert check(proven.header("proxy-authorization"), CREDENTIALS, method="BYE", realm="trunk", nonce="n1")
    assert ends == []
    stage.answer(proven, 200, "OK")
    assert ends == [CallEnd(EndCause.HANGUP, "local", 200, "OK")]
    stage.rest()


@pytest.mark.parametrize("second", [200, 403])
def test_of_two_phones_that_answered_before_it_was_taken_back_both_are_waited_for(second: int) -> None:
    dead = Dead(CREDENTIALS)
    invite = dead.sends()
    stage = Stage()
    stage.token_from(5000)
    ends: list[CallEnd] = []
    byes = []
    for to_tag in ("one", "two"):
        stage.answer(invite, 200, to_tag=to_tag)
        byes.append(stage.request("BYE"))
    stage.answer(byes[0], 200)
    assert stage.sent() == ["ACK"]
    stage.ua.take_back(dead.facts, CREDENTIALS, ends.append)
    stage.answer(byes[1], 407, headers=[CHALLENGE])
    assert ends == []
    *_, (again, _) = stage.messages()
    assert isinstance(again, Request)
    stage.answer(again, second)
    assert ends == [CallEnd(EndCause.HANGUP, "local", second)]
    stage.rest()


def test_a_phone_that_answers_after_all_was_told_is_hung_up_with_the_password_too() -> None:
    dead = Dead(CREDENTIALS)
    invite = dead.sends()
    stage = Stage()
    stage.token_from(5000)
    ends: list[CallEnd] = []
    stage.answer(invite, 200, to_tag="one")
    stage.answer(stage.request("BYE"), 200)
    assert stage.sent() == ["ACK"]
    stage.ua.take_back(dead.facts, CREDENTIALS, ends.append)
    assert ends == [CallEnd(EndCause.HANGUP, "local", 200)]
    stage.answer(invite, 200, to_tag="two")
    stage.answer(stage.request("BYE"), 407, headers=[CHALLENGE])
    *_, (again, _) = stage.messages()
    assert isinstance(again, Request)
    stage.answer(again, 407, headers=[CHALLENGE])
    proven = stage.request("BYE")
    assert check(proven.header("proxy-authorization"), CREDENTIALS, method="BYE", realm="trunk", nonce="n1")
    stage.answer(proven, 200)
    assert len(ends) == 1
    stage.rest()


def test_an_accepted_cancel_is_not_the_end_while_a_bye_is_on_its_way() -> None:
    """The far end takes a CANCEL that its answer crossed (RFC 3261 §9.2), and is slow with the BYE."""
    dead = Dead()
    invite = dead.sends()
    heir = Heir(dead)
    (cancel,) = heir.cancels()
    heir.stage.answer(cancel, 200)
    heir.stage.answer(invite, 200)
    bye = heir.stage.request("BYE")
    heir.stage.wait(GRACE_S + 1)
    assert heir.ends == []
    heir.stage.answer(bye, 200, "OK")
    assert heir.ends == [CallEnd(EndCause.HANGUP, "local", 200, "OK")]
    heir.stage.rest()


def test_what_this_very_process_is_giving_up_is_left_to_it() -> None:
    """A node that was cut off comes back under another name, and finds its own dial in the record."""
    dead = Dead()
    recorder = Recorder()
    call = dead.stage.ua.invite(dead.invitation, recorder)
    invite = dead.stage.request()
    dead.stage.answer(invite, 180)
    call.hangup()
    assert dead.stage.sent() == ["CANCEL"]
    ends: list[CallEnd] = []
    dead.stage.ua.take_back(dead.facts, None, ends.append)
    assert dead.stage.sent() == []
    assert [end.cause for end in ends] == [EndCause.CANCELLED]
    dead.stage.answer(invite, 487)
    assert dead.stage.sent() == ["ACK"]
    assert recorder.end.cause is EndCause.CANCELLED


def test_a_tag_that_the_far_end_does_not_know_is_no_end() -> None:
    """A proxy answers a CANCEL with a tag of its own."""
    dead = Dead()
    invite = dead.sends()
    heir = Heir(dead)
    (cancel,) = heir.cancels()
    heir.stage.answer(cancel, 200, to_tag="proxy")
    heir.stage.wait(0.31)
    for message, _hop in heir.stage.messages():
        assert isinstance(message, Request)
        heir.stage.answer(message, 481)
    assert heir.ends == []
    heir.stage.answer(invite, 487)
    assert [end.cause for end in heir.ends] == [EndCause.CANCELLED]


def test_an_answer_just_before_the_watch_ends_is_hung_up() -> None:
    dead = Dead()
    invite = dead.sends()
    heir = Heir(dead)
    heir.stage.wait(TIMEOUT - 0.1)
    heir.stage.messages()
    heir.stage.answer(invite, 200)
    assert heir.stage.sent() == ["BYE"]


def test_two_forks_that_answered_are_both_hung_up() -> None:
    dead = Dead()
    invite = dead.sends()
    heir = Heir(dead)
    heir.cancels()
    for to_tag in ("one", "two"):
        heir.stage.answer(invite, 200, to_tag=to_tag)
        bye = heir.stage.request("BYE")
        heir.stage.answer(bye, 200)
        ack = heir.stage.request("ACK")
        assert [ack.header("to"), bye.header("to")] == [f"<sip:600@example.com>;tag={to_tag}"] * 2


@pytest.mark.parametrize(
    ("credentials", "most"),
    [(None, 4), (CREDENTIALS, 6)],
)
def test_where_nothing_ever_came_each_that_could_have_is_asked_for_and_that_is_told(
    credentials: Credentials | None, most: int
) -> None:
    """K9: the intent was committed and nothing left. One, and what may follow 401, 407 or 422."""
    heir = Heir(Dead(credentials))
    numbers = []
    while cancels := heir.cancels():
        numbers += [cancel.cseq for cancel in cancels]
        for cancel in cancels:
            heir.stage.answer(cancel, 481)
    assert numbers == list(range(1, most + 1))
    assert heir.ends == [CallEnd(EndCause.PROTOCOL, "local", None, "", "CANCEL: nothing there")]
    heir.stage.rest()


@pytest.mark.parametrize(
    "refusals",
    [[(407, CHALLENGE)], [(422, INTERVAL)], [(407, CHALLENGE), (422, INTERVAL)]],
    ids=["challenge", "interval", "both"],
)
@pytest.mark.parametrize("old_one", [200, 481, None], ids=["accepts", "knows none", "is silent"])
def test_the_invite_that_counts_is_found_after_refusals(
    refusals: list[tuple[int, tuple[str, str]]], old_one: int | None
) -> None:
    """Whatever the far end says to the CANCEL of an INVITE that it refused already."""
    dead = Dead(CREDENTIALS)
    invite = dead.sends(*refusals)
    assert invite.cseq == 1 + len(refusals)
    heir = Heir(dead)
    reached_at = None
    begun = heir.stage.now
    while reached_at is None:
        for message, _hop in heir.stage.messages():
            assert isinstance(message, Request)
            if message.method == "BYE":
                heir.stage.answer(message, 481)
            elif branch(message) == branch(invite):
                reached_at = heir.stage.now
                assert message.values("via") == invite.values("via")
                heir.stage.answer(message, 200)
                heir.stage.answer(invite, 487, "Request Terminated")
            elif old_one is not None:
                heir.stage.answer(message, old_one)
        heir.stage.wait(0.05)
    assert reached_at - begun < 1.0
    assert heir.ends == [CallEnd(EndCause.CANCELLED, "local", 487, "Request Terminated")]
    heir.stage.rest()


def test_a_refusal_that_was_answered_with_a_new_invite_is_no_end() -> None:
    """The ACK to a 407 was lost: the far end repeats it while the phone rings for the INVITE after it."""
    dead = Dead(CREDENTIALS)
    invite = dead.sends()
    heir = Heir(dead)
    heir.cancels()
    heir.stage.answer(invite, 407, headers=[CHALLENGE])
    assert heir.stage.sent() == ["ACK"]
    assert heir.ends == []
    heir.stage.wait(0.3)
    assert 2 in [cancel.cseq for cancel in heir.cancels()]


def test_a_phone_that_stirs_after_it_knew_nothing_is_cancelled_again() -> None:
    dead = Dead()
    invite = dead.sends()
    heir = Heir(dead)
    while cancels := heir.cancels():
        for cancel in cancels:
            heir.stage.answer(cancel, 481)
    heir.stage.wait(5)
    heir.stage.answer(invite, 180)
    (cancel,) = heir.cancels()
    assert branch(cancel) == branch(invite)
    heir.stage.answer(cancel, 200)
    heir.stage.answer(invite, 487)
    assert heir.stage.sent() == ["ACK"]
    assert len(heir.ends) == 1


def test_a_far_end_that_is_silent_is_asked_again_and_given_up() -> None:
    heir = Heir(Dead())
    heir.stage.wait(0.7)
    assert {cancel.cseq for cancel in heir.cancels()} == {1, 2, 3, 4}
    assert heir.stage.moments(TIMEOUT)[-1][0] > TIMEOUT - 6
    assert [end.cause for end in heir.ends] == [EndCause.TIMEOUT]
    heir.stage.rest()


def test_a_cancel_accepted_once_before_is_over_soon() -> None:
    """K24: the recovery itself was killed. The far end repeats its 200 to the CANCEL and has no more to say."""
    dead = Dead()
    dead.sends()
    heir = Heir(dead)
    while not heir.ends:
        for message, _hop in heir.stage.messages():
            assert isinstance(message, Request)
            heir.stage.answer(message, 200 if message.cseq == 1 else 481)
        heir.stage.wait(0.1)
    assert heir.ends == [CallEnd(EndCause.CANCELLED, "local", None, "", "CANCEL accepted")]
    assert heir.stage.now < 5


def test_a_hop_that_also_takes_tcp_is_cancelled_by_both() -> None:
    """Which of them a long INVITE took is not known before it is sent."""
    dead = Dead(destination=Hop(*TRUNK, "udp", "", tcp_too=True))
    heir = Heir(dead)
    seen: list[tuple[int, str]] = []
    while waiting := heir.stage.messages():
        for message, _hop in waiting:
            assert isinstance(message, Request)
            seen.append((message.cseq, message.header("via").split(" ")[0].rpartition("/")[2]))
            heir.stage.answer(message, 481)
    assert seen == [(cseq, transport) for cseq in range(1, 6) for transport in ("UDP", "TCP")]


@pytest.mark.parametrize("tcp_too", [False, True])
def test_a_long_invite_can_be_taken_back_by_the_transport_that_it_took(tcp_too: bool) -> None:
    dead = Dead(destination=Hop(*TRUNK, "udp", "", tcp_too))
    dead.stage.ua.invite(replace(dead.invitation, body=OFFER * 300), Recorder())
    ((invite, hop),) = dead.stage.messages()
    assert isinstance(invite, Request)
    assert (len(hop) > 2) == tcp_too
    heir = Heir(dead)
    heir.stage.wait(0.25)
    vias = [message.values("via") for message, _hop in heir.stage.messages()]
    assert invite.values("via") in vias


def test_the_bye_counts_above_an_hour_of_challenged_refreshes() -> None:
    """Below what the far end has seen it would be refused with 500 (RFC 3261 §12.2.2), and the phone stay up."""
    dead = Stage()
    session = [("Session-Expires", "90;refresher=uac"), ("Require", "timer"), ("Allow", "UPDATE")]
    dead.invite(CREDENTIALS)
    dead.answer(dead.request(), 407, headers=[CHALLENGE])
    (_ack, _), (last, _) = dead.messages()
    assert isinstance(last, Request)
    dead.answer(last, 200, headers=session, body=ANSWER)
    assert dead.sent() == ["ACK"]
    while dead.now < 3600:
        dead.wait(45)
        dead.answer(dead.request("UPDATE"), 407, headers=[CHALLENGE])
        last = dead.request("UPDATE")
        dead.answer(last, 200, headers=session)
    heir = Stage()
    assert dead.recorder.facts is not None
    heir.ua.hang_up_orphan(dead.recorder.facts, CREDENTIALS)
    (_ack, _), (bye, _) = heir.messages()
    assert isinstance(bye, Request)
    assert bye.cseq > last.cseq


def test_branches_are_secret_and_none_tells_another() -> None:
    facts: InviteFacts = Dead().facts
    branches = {facts.mark.branch(cseq, how) for cseq in range(1, 50) for how in ("udp", "tcp", "tls")}
    assert len(branches) == 49 * 3
    assert {len(each) for each in branches} == {len("z9hG4bK") + 16}
    assert len(facts.mark.seed) >= 32
    assert facts.mark.seed not in "".join(branches)
