"""What a status code and a Q.850 cause beside it come to."""

import pytest

from dosvoces.carriers.circuit import reached_nobody
from dosvoces.carriers.end_reasons import callee_cause, detail_of, reason_of
from dosvoces.model import EndReason
from dosvoces.sip.api import CallEnd, EndCause


def refusal(status: int, reason: str = "") -> CallEnd:
    return CallEnd(EndCause.REJECTED, "remote", status, "So", reason)


@pytest.mark.parametrize(
    ("detail", "reason"),
    [
        ("Q.850;cause=1", EndReason.UNREACHABLE),
        ('Q.850;cause=17;text="User busy"', EndReason.BUSY),
        ("q.850 ; Cause = 18", EndReason.NO_ANSWER),
        ("Q.850;cause=19", EndReason.NO_ANSWER),
        ("Q.850;cause=20", EndReason.NO_ANSWER),
        ('SIP;cause=200;text="a, b", Q.850;text=";cause=1";cause=21', EndReason.REJECTED),
        ("Q.850;cause=22", EndReason.UNREACHABLE),
        ("Q.850;cause=28", EndReason.UNREACHABLE),
        # Of the network, not of the callee.
        *((f"Q.850;cause={cause}", None) for cause in (3, 16, 27, 31, 34, 38, 41, 42, 102, 127)),
        ("SIP;cause=486", None),
        ("Q.850", None),
        ("Q.850;cause=", None),
        ("Q.850;cause=1700", None),
        ("Q.850;cause=x", None),
        ("busy", None),
        ("", None),
    ],
)
def test_what_a_reason_header_says_of_the_callee(detail: str, reason: EndReason | None) -> None:
    assert callee_cause(detail) == reason


@pytest.mark.parametrize("status", [480, 487, 500, 502, 503, 504, 400, 302])
def test_a_vague_status_gives_way_to_the_cause(status: int) -> None:
    assert reason_of(refusal(status, "Q.850;cause=17"), answered=False) is EndReason.BUSY


@pytest.mark.parametrize(
    ("status", "reason"),
    [(486, EndReason.BUSY), (603, EndReason.REJECTED), (404, EndReason.UNREACHABLE), (408, EndReason.NO_ANSWER)],
)
def test_a_plain_status_stands(status: int, reason: EndReason) -> None:
    assert reason_of(refusal(status, "Q.850;cause=21"), answered=False) is reason


def test_without_a_cause_the_status_stands() -> None:
    assert reason_of(refusal(480), answered=False) is EndReason.NO_ANSWER
    assert reason_of(refusal(503, "Q.850;cause=34"), answered=False) is EndReason.FAILED


def test_a_bye_before_the_answer_may_say_why() -> None:
    bye = CallEnd(EndCause.HANGUP, "remote", None, "BYE", "Q.850;cause=17")
    assert reason_of(bye, answered=False) is EndReason.BUSY
    assert reason_of(bye, answered=True) is EndReason.HANGUP
    ours = CallEnd(EndCause.HANGUP, "local", None, "", "Q.850;cause=17")
    assert reason_of(ours, answered=False) is EndReason.HANGUP


def test_a_far_end_that_no_longer_knows_the_call_has_hung_up() -> None:
    gone = CallEnd(EndCause.PROTOCOL, "remote", 481, "Call/Transaction Does Not Exist", "re-INVITE")
    assert reason_of(gone, answered=True) is EndReason.HANGUP
    assert detail_of(gone) == "481 Call/Transaction Does Not Exist; re-INVITE"


@pytest.mark.parametrize(("cause", "nobody"), [(17, False), (19, False), (34, True), (38, True)])
def test_a_busy_line_behind_a_503_is_not_dialled_another_way(cause: int, nobody: bool) -> None:
    assert reached_nobody(refusal(503, f"Q.850;cause={cause}")) is nobody
