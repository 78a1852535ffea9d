"""The checker of a chaos run catches each broken promise in a log made by hand, and nothing in a log without one."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from dosvoces.model import Side
from tests.chaos.checker import check
from tests.chaos.evidence import (
    BY_ITSELF,
    CLIENTS,
    FAULTS,
    MAILS,
    PHONES,
    RECORD,
    TERMS,
    WEBHOOKS,
    Cancellation,
    Claim,
    Evidence,
    Fault,
    Leg,
    Mail,
    Post,
    Terms,
    Webhook,
    legs_of,
    read,
)
from tests.chaos.report import PROMISES, as_text
from tests.peers.sipp import stream_messages

T = 1_795_000_000.0
"""When the made run begins."""
CONNECTION = "01m8gdfpvsnbwdfh4f4rr4yj1n"
TERMS_ALONE = Terms(
    ports={5060: "one"}, ring_timeout_s=3, talk_limit_s=4, fence_s=3, dead_s=6, alone=True, over_at=T + 60
)
TERMS_OF_TWO = replace(TERMS_ALONE, ports={5060: "one", 5070: "two"}, alone=False)


def leg(side: Side, at: float, ended: float | None, connection: str = CONNECTION, **seen: object) -> Leg:
    """Answered a tenth of a second after it was dialled, `at` seconds after the begin."""
    facts: dict[str, object] = {
        "rang_at": T + at,
        "answered_at": T + at + 0.1,
        "acked_at": T + at + 0.1,
        "branches": {f"z9hG4bK{side}"},
        **seen,
    }
    made = Leg(7, side, f"{connection}-{side}-1", "one", dialed_at=T + at)
    for name, value in facts.items():
        setattr(made, name, value)
    made.ended_at = None if ended is None else T + ended
    return made


def first(ended: float | None = 3.0, **seen: Any) -> Leg:
    return leg(Side.A, 1.0, ended, **seen)


def second(ended: float | None = 3.0, **seen: Any) -> Leg:
    return leg(Side.B, 1.2, ended, **seen)


def claim(outcome: str | None = "completed", **facts: object) -> Claim:
    made = Claim(CONNECTION, 7, outcome, created_at=T + 0.5, ended_at=T + 3.1)
    return replace(made, **facts)  # type: ignore[arg-type]


MAIL = Mail(T + 0.9, 7, "<one@example.com>")
POST = Post(7, True, T + 0.4, T + 1.3, 200, "Data received successfully", CONNECTION)
WEBHOOK = Webhook(T + 3.2, 7, CONNECTION, f"{CONNECTION}.1", "completed", "d1")


def good(**changes: object) -> Evidence:
    """A request that went as it should: mailed, both answered, both talked, the second hung up."""
    made = Evidence(
        terms=TERMS_ALONE,
        legs=[first(), second(left_at=T + 3.0)],
        mails=[MAIL],
        posts=[POST],
        cancellations=[],
        faults=[],
        claims=[claim()],
        webhooks=[WEBHOOK],
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def broken(evidence: Evidence) -> set[str]:
    """The kinds of promises broken."""
    return {violation.kind for violation in check(evidence).violations}


def test_a_request_that_went_as_it_should_breaks_nothing() -> None:
    assert check(good()).violations == []


DOWN = [Fault(T + 2, "killed", "one", "random"), Fault(T + 2.1, "started", "one"), Fault(T + 3.5, "ready", "one")]
INTERRUPTED = {"claims": [claim("interrupted")], "webhooks": [replace(WEBHOOK, outcome="interrupted")]}


def interrupted(**changes: object) -> Evidence:
    """Its node was killed while both talked, and the next process hung up both."""
    return good(**{"faults": DOWN, "legs": [first(3.4), second(3.4)], **INTERRUPTED, **changes})


def test_a_request_that_a_kill_interrupted_breaks_nothing() -> None:
    assert check(interrupted()).violations == []


ANOTHER = "01m8gdzzzzzzzzzzzzzzzzzzzz"
OPEN_THEN = replace(POST, at=T + 0.2, answered_at=T + 0.25, status=409, body="no answer yet", connection=ANOTHER)


def test_what_was_open_when_its_client_was_told_that_it_is_not_recorded_may_be_gone() -> None:
    """The database died in the commit: the first client was told 503, a repeat meanwhile saw the connection."""
    taken_back = replace(POST, at=T + 0.1, answered_at=T + 0.3, status=503, body="can't be recorded", connection="")
    assert check(good(posts=[taken_back, OPEN_THEN, POST])).violations == []


EVIL: dict[str, tuple[str, Callable[[], Evidence]]] = {
    "an accepted request that is not in the record": ("lost", lambda: good(claims=[], webhooks=[])),
    "an open request that is gone, and nobody was told so": ("lost", lambda: good(posts=[OPEN_THEN, POST])),
    "a connection without a final state": ("lost", lambda: good(claims=[claim(None)], webhooks=[])),
    "a dial that no record knows": (
        "lost",
        lambda: good(legs=[first(), leg(Side.B, 1.2, 3.0, "01m8gdzzzzzzzzzzzzzzzzzzzz", left_at=T + 3)]),
    ),
    "a dial before any mail was taken": ("lost", lambda: good(mails=[replace(MAIL, at=T + 2.5)])),
    "no mail at all": ("lost", lambda: good(mails=[])),
    "a second INVITE to one party": (
        "dialled twice",
        lambda: good(legs=[first(branches={"z9hG4bK1", "z9hG4bK2"}), second(left_at=T + 3)]),
    ),
    "a second call to one party": (
        "dialled twice",
        lambda: good(legs=[first(), leg(Side.A, 2.0, 2.5), second(left_at=T + 3)]),
    ),
    "a leg up after the other party left": ("left up", lambda: good(legs=[first(9.0), second(left_at=T + 3)])),
    "a leg up for ever": ("left up", lambda: good(legs=[first(None), second(left_at=T + 3)])),
    "a leg longer than anybody may talk": ("left up", lambda: good(legs=[first(18.0), second(18.0)])),
    "a phone that rings for too long": (
        "left up",
        lambda: good(
            legs=[first(9.5, answered_at=None, acked_at=None, cancelled_at=T + 9.5)],
            claims=[claim("first_no_answer")],
            webhooks=[],
            posts=[],
        ),
    ),
    "a leg up long after the restart": ("left up", lambda: interrupted(legs=[first(3.4), second(7.3)])),
    "a leg up long after a slow restart served": (
        "left up",
        lambda: interrupted(faults=[*DOWN[:2], Fault(T + 12.0, "ready", "one")], legs=[first(12.0), second(13.1)]),
    ),
    "a leg of a frozen node that no heir ended": (
        "left up",
        lambda: interrupted(
            terms=TERMS_OF_TWO,
            faults=[Fault(T + 2, "frozen", "one"), Fault(T + 40, "thawed", "one")],
            legs=[first(14.5), second(14.5)],
        ),
    ),
    "a leg of a node that had long been cut off": (
        "left up",
        lambda: interrupted(
            terms=TERMS_OF_TWO,
            faults=[Fault(T + 2, "database_down", how="killed"), Fault(T + 30, "database_up")],
            legs=[first(11.5), second(11.5)],
        ),
    ),
    "an answer that got no ACK": (
        "left up",
        lambda: good(legs=[first(None, acked_at=None)], claims=[claim("first_failed")], webhooks=[], posts=[]),
    ),
    "a second party dialled before the first answered": (
        "pointless second call",
        lambda: good(legs=[first(answered_at=T + 1.5), second(left_at=T + 3)]),
    ),
    "a second party dialled after the first left": (
        "pointless second call",
        lambda: good(
            legs=[first(1.3, left_at=T + 1.3), leg(Side.B, 2.0, 2.5)], claims=[claim("first_hung_up")], webhooks=[]
        ),
    ),
    "completed, and the second never answered": (
        "false final state",
        lambda: good(legs=[first(), second(answered_at=None, acked_at=None, cancelled_at=T + 3)]),
    ),
    "busy, and the phone had answered": ("false final state", lambda: good(claims=[claim("second_busy")], webhooks=[])),
    "unanswered, and the phone was busy": (
        "false final state",
        lambda: good(
            legs=[first(), second(answered_at=None, acked_at=None, refused=486)],
            claims=[claim("second_no_answer")],
            webhooks=[],
        ),
    ),
    "the first busy, and the second dialled": (
        "false final state",
        lambda: good(legs=[first(refused=486), second()], claims=[claim("first_busy")], webhooks=[]),
    ),
    "hung up, and no phone did": (
        "false final state",
        lambda: good(legs=[first(), second()], claims=[claim("first_hung_up")], webhooks=[]),
    ),
    "the mail failed, and somebody was dialled": (
        "false final state",
        lambda: good(claims=[claim("mail_failed")], webhooks=[]),
    ),
    "interrupted by nothing": ("false final state", lambda: good(**INTERRUPTED)),
    "cancelled by nobody": ("false final state", lambda: good(claims=[claim("cancelled")], webhooks=[])),
    "an outcome that isn't one": ("false final state", lambda: good(claims=[claim("perhaps")], webhooks=[])),
    "two mails with other Message-IDs": (
        "mail doubled",
        lambda: good(mails=[MAIL, replace(MAIL, at=T + 2, message_id="<two@example.com>")]),
    ),
    "200, and the second was not dialled": (
        "false answer",
        lambda: good(legs=[first(left_at=T + 3)], claims=[claim("first_hung_up")], webhooks=[]),
    ),
    "no mail could be sent, and somebody was dialled": (
        "false answer",
        lambda: good(posts=[replace(POST, status=500, body="Could not send email to r7@example.com")]),
    ),
    "a call could not be made, and no mail was sent": (
        "false answer",
        lambda: good(posts=[replace(POST, status=500, body="Could not make call to +34961000007")], mails=[]),
    ),
    "nothing tried, and somebody was dialled": (
        "false answer",
        lambda: good(posts=[replace(POST, status=503, connection="")]),
    ),
    "an answer that nobody expects": ("false answer", lambda: good(posts=[POST, replace(POST, status=400)])),
    "two answers under one key": (
        "false answer",
        lambda: good(posts=[POST, replace(POST, status=500, body="Could not make call to +34961000007")]),
    ),
    "a webhook that tells another outcome": (
        "false webhook",
        lambda: good(webhooks=[replace(WEBHOOK, outcome="second_busy")]),
    ),
    "a webhook that comes again with another body": (
        "false webhook",
        lambda: good(webhooks=[WEBHOOK, replace(WEBHOOK, digest="d2")]),
    ),
    "a call that nobody asked for": ("strangers", lambda: good(strangers=["a call to +34600000000"])),
    "a node that ended by itself": (
        "ended by itself",
        lambda: interrupted(faults=[Fault(T + 2, "killed", "one", f"{BY_ITSELF} 1"), *DOWN[1:]]),
    ),
}
"""What is wrong, and the promise that it breaks."""


@pytest.mark.parametrize("name", EVIL)
def test_each_broken_promise_is_caught(name: str) -> None:
    kind, evidence = EVIL[name]
    assert kind in broken(evidence())


def test_every_promise_has_an_example() -> None:
    assert set(PROMISES) == {kind for kind, _ in EVIL.values()} == set(check(good()).broken)


FINE: dict[str, Callable[[], Evidence]] = {
    "legs released four seconds after the restart": lambda: interrupted(legs=[first(6.0), second(6.0)]),
    "legs released as soon as a slow restart serves": lambda: interrupted(
        faults=[*DOWN[:2], Fault(T + 12.0, "ready", "one")], legs=[first(11.9), second(11.9)]
    ),
    "legs of a restart that was killed again": lambda: interrupted(
        faults=[*DOWN, *(replace(fault, at=fault.at + 2) for fault in DOWN)], legs=[first(8.0), second(8.0)]
    ),
    "the first busy": lambda: good(
        legs=[first(1.1, answered_at=None, acked_at=None, refused=486)],
        claims=[claim("first_busy")],
        webhooks=[],
        posts=[replace(POST, status=500, body="Could not make call to +34611000007")],
    ),
    "an answer that crossed the end of the ringing": lambda: good(
        legs=[first(4.1, answered_at=T + 4.0, acked_at=T + 4.1, cancelled_at=T + 4.0)],
        claims=[claim("first_no_answer")],
        webhooks=[],
        posts=[],
    ),
    "a second party dialled while the first was leaving": lambda: good(
        legs=[first(1.3, left_at=T + 1.3), leg(Side.B, 1.4, 1.5)], claims=[claim("first_hung_up")], webhooks=[]
    ),
    "a mail sent again with its Message-ID": lambda: good(mails=[MAIL, replace(MAIL, at=T + 2)]),
    "a webhook sent again": lambda: good(webhooks=[WEBHOOK, WEBHOOK]),
    "cancelled by a client": lambda: good(
        claims=[claim("cancelled")], webhooks=[], cancellations=[Cancellation(7, T + 2)]
    ),
    "a node that ended where the database was down": lambda: interrupted(
        faults=[
            Fault(T + 1.9, "database_down", how="killed"),
            Fault(T + 2, "killed", "one", f"{BY_ITSELF} 1"),
            Fault(T + 2.1, "database_up"),
            *DOWN[1:],
        ]
    ),
}


@pytest.mark.parametrize("name", FINE)
def test_what_may_happen_is_not_called_broken(name: str) -> None:
    assert check(FINE[name]()).violations == []


def test_the_tables_tell_how_many_were_broken_and_what_none_means() -> None:
    text = as_text({"site": check(good(mails=[MAIL, replace(MAIL, message_id="<two@example.com>")]))})
    assert "mail doubled                1 of       2 mails taken\n" in text
    assert "dialled twice               0 of       2 calls to phones; below 150.00% at 95 %\n" in text
    assert "site: mail doubled: request 7: mails with 2 Message-IDs" in text


# --- the logs themselves ---


def message(at: float, way: str, text: str) -> str:
    """As SIPp writes it."""
    clock = datetime.fromtimestamp(T + at).isoformat(sep=" ", timespec="microseconds")
    return f"{'-' * 47} {clock}\nUDP message {way} [{len(text)}] bytes :\n\n{text}\n"


def sip(line: str, number: str, cseq: str, *, branch: str = "z9hG4bK1", tag: str = "") -> str:
    to = f"<sip:{number}@127.0.0.1>{tag and ';tag=' + tag}"
    heads = [
        line,
        f"Via: SIP/2.0/UDP 127.0.0.1:5060;branch={branch}",
        "From: <sip:+34910000000@127.0.0.1>;tag=f",
        f"To: {to}",
        f"Call-ID: {CONNECTION}-a-1",
        f"CSeq: {cseq}",
    ]
    return "\r\n".join([*heads, "", ""])


A_CALL = [
    message(1.0, "received", sip("INVITE sip:a@127.0.0.1 SIP/2.0", "+34610000007", "1 INVITE")),
    message(1.1, "sent", sip("SIP/2.0 180 Ringing", "+34610000007", "1 INVITE", tag="t")),
    message(1.5, "received", sip("INVITE sip:a@127.0.0.1 SIP/2.0", "+34610000007", "1 INVITE")),
    message(1.6, "sent", sip("SIP/2.0 200 OK", "+34610000007", "1 INVITE", tag="t")),
    message(1.7, "received", sip("ACK sip:a@127.0.0.1 SIP/2.0", "+34610000007", "1 ACK", branch="z9hG4bK2", tag="t")),
    message(2.0, "received", sip("BYE sip:a@127.0.0.1 SIP/2.0", "+34610000007", "2 BYE", branch="z9hG4bK3", tag="t")),
    message(2.1, "sent", sip("SIP/2.0 200 OK", "+34610000007", "2 BYE", branch="z9hG4bK3", tag="t")),
]


def test_logs_are_read_as_they_are_written(tmp_path: Path) -> None:
    (tmp_path / PHONES).parent.mkdir()
    (tmp_path / PHONES).write_text("".join(A_CALL), newline="")
    (tmp_path / TERMS).write_text(json.dumps(asdict(TERMS_ALONE)))
    for name, values in {
        MAILS: [{"at": T + 0.9, "to": ["r7@example.com", "who@example.com"], "message_id": "<one@example.com>"}],
        CLIENTS: [asdict(POST), asdict(Cancellation(7, T + 2))],
        FAULTS: [asdict(fault) for fault in DOWN],
        RECORD: [asdict(claim())],
        WEBHOOKS: [asdict(WEBHOOK)],
    }.items():
        (tmp_path / name).write_text("".join(json.dumps(value) + "\n" for value in values))
    evidence = read(tmp_path)
    (call,) = evidence.legs
    seen = (call.dialed_at, call.rang_at, call.answered_at, call.acked_at, call.ended_at)
    assert seen == (T + 1.0, T + 1.1, T + 1.6, T + 1.7, T + 2.0)
    assert (call.request, call.side, call.node, call.connection) == (7, Side.A, "one", CONNECTION)
    assert call.branches == {"z9hG4bK1"}
    rest = replace(evidence, legs=[])
    assert rest == Evidence(
        TERMS_ALONE,
        [],
        [MAIL],
        [POST],
        [Cancellation(7, T + 2)],
        DOWN,
        [claim()],
        [WEBHOOK],
        ["a mail to who@example.com"],
    )


def test_a_call_that_ended_otherwise_is_read_so(tmp_path: Path) -> None:
    (tmp_path / "messages.log").write_text(
        "".join(
            [
                A_CALL[0],
                message(1.2, "received", sip("CANCEL sip:a@127.0.0.1 SIP/2.0", "+34610000007", "1 CANCEL")),
                message(1.3, "sent", sip("SIP/2.0 487 Request Terminated", "+34610000007", "1 INVITE", tag="t")),
            ]
        ),
        newline="",
    )
    strangers: list[str] = []
    (call,) = legs_of(stream_messages(tmp_path / "messages.log"), {5060: "one"}, strangers)
    assert (call.cancelled_at, call.refused, call.ended_at) == (T + 1.2, None, T + 1.3)
    assert strangers == []
