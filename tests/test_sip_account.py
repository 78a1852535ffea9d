"""Which challenges the password answers, and where it goes (threat T10 of a call: CVE-2021-41158)."""

from dataclasses import replace

import pytest

from dosvoces.sip.api import CallEnd, DialogFacts, EndCause, Withheld
from dosvoces.sip.digest import Credentials, check
from dosvoces.sip.message import Request
from dosvoces.sip.outgoing import OutgoingCall
from tests.sip_stage import ANSWER, Stage

CREDENTIALS = Credentials("user", "secret")
OURS = replace(CREDENTIALS, hosts=frozenset(["192.0.2.10", "192.0.2.99"]))
"""The trunk has a second address."""


def challenge(realm: str, *, code: int = 407, nonce: str = "n", algorithm: str = "SHA-256") -> tuple[str, str]:
    name = "Proxy-Authenticate" if code == 407 else "WWW-Authenticate"
    return name, f'Digest realm="{realm}", nonce="{nonce}", qop="auth", algorithm={algorithm}'


def asked(stage: Stage, credentials: Credentials, **answer: object) -> tuple[OutgoingCall, Request, Request]:
    """A call whose INVITE was challenged by realm `trunk` and then answered; it, the INVITE that counts and its ACK."""
    call = stage.invite(credentials)
    stage.answer(stage.request(), 407, headers=[challenge("trunk")])
    _ack, (again, _hop) = stage.messages()
    assert isinstance(again, Request)
    assert check(again.header("proxy-authorization"), credentials, method="INVITE", realm="trunk", nonce="n")
    stage.answer(again, 200, body=ANSWER, **answer)  # type: ignore[arg-type]
    return call, again, stage.request("ACK")


def facts_of(stage: Stage) -> DialogFacts:
    assert stage.recorder.facts is not None
    return stage.recorder.facts


@pytest.mark.parametrize("code", [401, 407])
def test_another_realm_that_challenges_a_bye_gets_nothing(code: int) -> None:
    """CVE-2021-41158: whoever is called asks with the realm of an account that isn't theirs."""
    stage = Stage()
    call, _invite, _ack = asked(stage, OURS)
    call.hangup()
    stage.answer(stage.request("BYE"), code, headers=[challenge("other trunk", code=code, nonce="m")])
    assert stage.sent() == []
    assert call.over
    assert stage.recorder.end.withheld == Withheld("realm", "other trunk")
    stage.rest()


def test_a_call_that_began_without_a_challenge_answers_none_later() -> None:
    """The shape of the attack itself: nobody asked for the INVITE, and the BYE is challenged."""
    stage = Stage()
    call, _invite = stage.talking(OURS)
    call.hangup()
    stage.answer(stage.request("BYE"), 407, headers=[challenge("trunk")])
    assert stage.sent() == []
    assert stage.recorder.end.withheld == Withheld("realm", "trunk")


def test_a_configured_realm_is_answered_whenever_it_asks() -> None:
    stage = Stage()
    call, _invite = stage.talking(replace(OURS, realm="trunk"))
    call.hangup()
    stage.answer(stage.request("BYE"), 407, headers=[challenge("trunk")])
    again = stage.request("BYE")
    assert check(again.header("proxy-authorization"), OURS, method="BYE", realm="trunk", nonce="n")
    stage.answer(again, 200)
    assert (call.over, stage.recorder.end.withheld) == (True, None)


@pytest.mark.parametrize("code", [401, 407])
def test_a_configured_realm_is_the_only_one(code: int) -> None:
    stage = Stage()
    stage.invite(replace(OURS, realm="trunk"))
    stage.answer(stage.request(), code, headers=[challenge("else", code=code)])
    assert stage.sent() == ["ACK"]
    end = stage.recorder.end
    assert (end.cause, end.status, end.withheld) == (EndCause.REJECTED, code, Withheld("realm", "else"))


def test_a_realm_that_changes_within_the_invite_is_refused() -> None:
    """One realm for each kind of challenge: a second 407 is the same proxy's, or nobody's."""
    stage = Stage()
    stage.invite(OURS)
    stage.answer(stage.request(), 407, headers=[challenge("trunk")])
    _ack, (again, _hop) = stage.messages()
    assert isinstance(again, Request)
    stage.answer(again, 407, headers=[challenge("else", nonce="m")])
    assert stage.sent() == ["ACK"]
    assert stage.recorder.end.withheld == Withheld("realm", "else")


def test_the_realms_of_proxy_and_callee_are_answered_in_later_requests_too() -> None:
    stage = Stage()
    call = stage.invite(OURS)
    stage.answer(stage.request(), 407, headers=[challenge("trunk")])
    _ack, (second, _hop) = stage.messages()
    assert isinstance(second, Request)
    stage.answer(second, 401, headers=[challenge("callee", code=401)])
    _ack, (third, _hop) = stage.messages()
    assert isinstance(third, Request)
    stage.answer(third, 200, body=ANSWER)
    assert stage.sent() == ["ACK"]
    call.hangup()
    stage.answer(stage.request("BYE"), 401, headers=[challenge("callee", code=401, nonce="m")])
    again = stage.request("BYE")
    assert check(again.header("authorization"), OURS, method="BYE", realm="callee", nonce="m")


@pytest.mark.parametrize(("host", "ours"), [("192.0.2.10", True), ("192.0.2.99", True), ("203.0.113.5", False)])
@pytest.mark.parametrize("named_by", ["contact", "record-route"])
def test_a_digest_goes_to_the_trunk_and_not_where_a_route_leads(host: str, ours: bool, named_by: str) -> None:
    """Neither a Contact nor a Record-Route vouches for an address: not for the ACK's credentials, nor for the BYE's."""
    stage = Stage(peers=["192.0.2.10", "192.0.2.99"])
    if named_by == "contact":
        call, _invite, ack = asked(stage, OURS, contact=f"<sip:phone@{host}>")
    else:
        call, _invite, ack = asked(stage, OURS, headers=[("Record-Route", f"<sip:{host};lr>")])
    call.hangup()
    bye = stage.request("BYE")
    assert [bool(each.header("proxy-authorization")) for each in (ack, bye)] == [ours, ours]
    stage.answer(bye, 407, headers=[challenge("trunk", nonce="m")])
    assert stage.sent() == (["BYE"] if ours else [])
    assert call.over is not ours
    if not ours:
        assert stage.recorder.end.withheld == Withheld("address", host)


@pytest.mark.parametrize(
    ("route", "realm", "withheld"),
    [
        ("192.0.2.99", "trunk", None),
        ("192.0.2.99", "other trunk", Withheld("realm", "other trunk")),
        ("203.0.113.5", "trunk", Withheld("address", "203.0.113.5")),
    ],
)
def test_the_same_holds_after_a_restart(route: str, realm: str, withheld: Withheld | None) -> None:
    first = Stage()
    asked(first, OURS, headers=[("Record-Route", f"<sip:{route};lr>")])
    facts = facts_of(first)
    assert facts.realms == ("trunk",)
    second = Stage()
    ends: list[CallEnd] = []
    second.ua.hang_up_orphan(facts, OURS, ends.append)
    _ack, (bye, _hop) = second.messages()
    assert isinstance(bye, Request)
    assert not bye.header("proxy-authorization")
    second.answer(bye, 407, headers=[challenge(realm, nonce="m")])
    if withheld is None:
        second.answer(second.request("BYE"), 200)
    assert second.sent() == []
    assert [end.withheld for end in ends] == [withheld]


def test_md5_alone_is_refused_where_it_is_not_allowed() -> None:
    stage = Stage()
    stage.invite(replace(OURS, md5=False))
    stage.answer(stage.request(), 407, headers=[challenge("trunk", algorithm="MD5")])
    assert stage.sent() == ["ACK"]
    assert (stage.recorder.end.cause, stage.recorder.end.status) == (EndCause.REJECTED, 407)


def test_the_better_of_two_is_answered_where_md5_is_not_allowed() -> None:
    stage = Stage()
    credentials = replace(OURS, md5=False)
    stage.invite(credentials)
    both = [challenge("trunk", algorithm="MD5"), challenge("trunk", nonce="better")]
    stage.answer(stage.request(), 407, headers=both)
    _ack, (again, _hop) = stage.messages()
    assert isinstance(again, Request)
    assert check(again.header("proxy-authorization"), credentials, method="INVITE", realm="trunk", nonce="better")
