"""The rules of a connection: dialogues as they happen, then an exhaustive walk through every reachable state."""

from datetime import timedelta

import pytest

from dosvoces.core import Answer, AnswerKind, Connection, LegState, MailState, Phase, Terms, answer, deadline, step
from dosvoces.events import (
    Answered,
    Cancel,
    Command,
    Dial,
    Dialed,
    Elapsed,
    Ended,
    Event,
    Hangup,
    Join,
    Joined,
    LostAtRestart,
    MailRefused,
    MailSent,
    PlayRinging,
    Report,
    Ringing,
    SendMail,
    Started,
    Unjoined,
    Unreached,
)
from dosvoces.model import EndReason, Outcome, Side
from dosvoces.testing import T0, WALK_TERMS, A, B, walk


class Dialogue:
    """Plays events at given seconds and keeps what was commanded."""

    def __init__(self, **terms: float) -> None:
        self.connection = Connection(Terms(**terms))  # type: ignore[arg-type]
        self.commands: list[Command] = []

    def play(self, *events: tuple[float, Event]) -> "Dialogue":
        for at_s, event in events:
            self.connection, commands = step(self.connection, event, T0 + timedelta(seconds=at_s))
            self.commands += commands
        return self

    def talking(self) -> "Dialogue":
        return self.play(
            (0, Started()),
            (0, MailSent()),
            (0, Dialed(A)),
            (1, Ringing(A)),
            (2, Answered(A)),
            (2, Dialed(B)),
            (3, Ringing(B)),
            (4, Answered(B)),
            (4, Joined()),
        )


def test_a_connection_from_record_to_completed() -> None:
    talk = Dialogue().talking().play((60, Ended(A, EndReason.HANGUP)), (60.1, Ended(B, EndReason.HANGUP)))
    expected = [SendMail(), Dial(A), PlayRinging(A), Dial(B), Join(), Hangup(B), Report(Outcome.COMPLETED)]
    assert expected == talk.commands
    assert (Outcome.COMPLETED, "a", Side.A) == (
        talk.connection.outcome,
        talk.connection.ended_by,
        talk.connection.failed_side,
    )


def test_nobody_is_dialed_when_the_mail_is_refused() -> None:
    talk = Dialogue().play((0, Started()), (1, MailRefused("550")))
    assert [SendMail(), Report(Outcome.MAIL_FAILED)] == talk.commands
    assert Answer(AnswerKind.MAIL_FAILED) == answer(talk.connection)


def test_what_is_let_go_before_anybody_is_dialled_may_be_asked_for_anew() -> None:
    talk = Dialogue().play((0, Started()), (1, LostAtRestart("fence")), (2, MailSent()))
    assert [SendMail(), Report(Outcome.INTERRUPTED)] == talk.commands
    assert Answer(AnswerKind.NOT_TRIED) == answer(talk.connection)


def test_a_connection_cancelled_while_it_is_mailed_made_no_call() -> None:
    talk = Dialogue().play((0, Started()), (1, Cancel("shutdown")))
    assert Answer(AnswerKind.MAIL_FAILED) == answer(talk.connection)


def test_a_mail_accepted_too_late_dials_nobody() -> None:
    talk = Dialogue(mail_timeout_s=10).play((0, Started()), (10, Elapsed()), (11, MailSent()))
    assert [SendMail(), Report(Outcome.MAIL_FAILED)] == talk.commands


def test_b_is_dialed_when_the_interval_has_passed_and_a_has_answered() -> None:
    early = Dialogue(interval_s=15).play((0, Started()), (0, MailSent()), (0, Dialed(A)), (3, Answered(A)))
    assert Dial(B) not in early.commands
    assert T0 + timedelta(seconds=15) == deadline(early.connection)
    assert Dial(B) not in early.play((14.999, Elapsed())).commands
    assert Dial(B) in early.play((15, Elapsed())).commands

    late = Dialogue(interval_s=15).play((0, Started()), (0, MailSent()), (0, Dialed(A)), (16, Elapsed()))
    assert Dial(B) not in late.commands
    assert Dial(B) in late.play((20, Answered(A))).commands


def test_the_interval_counts_from_the_invite_not_from_the_order_to_dial() -> None:
    talk = Dialogue(interval_s=5).play((0, Started()), (0, MailSent()), (2, Dialed(A)), (3, Answered(A)))
    assert T0 + timedelta(seconds=7) == deadline(talk.connection)


@pytest.mark.parametrize(
    ("side", "reason", "expected"),
    [
        (A, EndReason.BUSY, Outcome.FIRST_BUSY),
        (A, EndReason.NO_ANSWER, Outcome.FIRST_NO_ANSWER),
        (A, EndReason.REJECTED, Outcome.FIRST_FAILED),
        (A, EndReason.UNREACHABLE, Outcome.FIRST_FAILED),
        (A, EndReason.FAILED, Outcome.FIRST_FAILED),
        (B, EndReason.BUSY, Outcome.SECOND_BUSY),
        (B, EndReason.NO_ANSWER, Outcome.SECOND_NO_ANSWER),
        (B, EndReason.REJECTED, Outcome.SECOND_FAILED),
        (B, EndReason.UNREACHABLE, Outcome.SECOND_FAILED),
        (B, EndReason.FAILED, Outcome.SECOND_FAILED),
    ],
)
def test_a_call_that_fails_names_its_side_and_reason(side: Side, reason: EndReason, expected: Outcome) -> None:
    talk = Dialogue().play((0, Started()), (0, MailSent()))
    if side is B:
        talk.play((1, Answered(A)))
    talk.play((2, Ended(side, reason)))
    assert Answer(AnswerKind.CALL_FAILED, side) == answer(talk.connection)
    talk.play((3, Ended(side.other, EndReason.HANGUP)))
    assert expected == talk.connection.outcome
    assert (side is B) == (Hangup(A) in talk.commands)


def test_a_hangs_up_while_waiting() -> None:
    talk = Dialogue(interval_s=9).play(
        (0, Started()), (0, MailSent()), (1, Answered(A)), (2, Ended(A, EndReason.HANGUP))
    )
    assert [SendMail(), Dial(A), PlayRinging(A), Report(Outcome.FIRST_HUNG_UP)] == talk.commands
    assert Answer(AnswerKind.CALL_FAILED, A) == answer(talk.connection)


def test_a_hangs_up_while_b_rings() -> None:
    talk = Dialogue().play(
        (0, Started()), (0, MailSent()), (1, Answered(A)), (2, Ringing(B)), (3, Ended(A, EndReason.HANGUP))
    )
    assert Hangup(B) == talk.commands[-1]
    # The client was told when B rang: the answer doesn't change after that.
    assert Answer(AnswerKind.MADE) == answer(talk.connection)
    talk.play((4, Ended(B, EndReason.CANCELLED, "487 Request Terminated")))
    assert Outcome.FIRST_HUNG_UP == talk.connection.outcome


def test_ring_timeout_is_told_as_no_answer_though_the_carrier_says_cancelled() -> None:
    talk = Dialogue(ring_timeout_s=30).play((0, Started()), (0, MailSent()), (0, Ringing(A)), (30, Elapsed()))
    assert Hangup(A) == talk.commands[-1]
    talk.play((30.1, Ended(A, EndReason.CANCELLED, "487 Request Terminated")))
    assert (Outcome.FIRST_NO_ANSWER, EndReason.NO_ANSWER) == (talk.connection.outcome, talk.connection.a.reason)


def test_talk_limit_ends_both() -> None:
    talk = Dialogue(talk_limit_s=100).talking().play((104, Elapsed()))
    assert [Hangup(A), Hangup(B)] == talk.commands[-2:]
    assert "timer" == talk.connection.ended_by


def test_b_that_hangs_up_before_the_join_is_done() -> None:
    talk = Dialogue().play(
        (0, Started()), (0, MailSent()), (1, Answered(A)), (2, Answered(B)), (2, Ended(B, EndReason.HANGUP))
    )
    talk.play((2.1, Joined()), (3, Ended(A, EndReason.HANGUP)))
    assert Outcome.SECOND_HUNG_UP == talk.connection.outcome


def test_media_that_is_lost_interrupts() -> None:
    talk = Dialogue().talking().play((9, Unjoined("worker gone")))
    assert [Hangup(A), Hangup(B)] == talk.commands[-2:]
    talk.play((10, Ended(A, EndReason.HANGUP)), (10, Ended(B, EndReason.HANGUP)))
    assert Outcome.INTERRUPTED == talk.connection.outcome


def test_a_join_that_never_comes_interrupts() -> None:
    talk = Dialogue(join_timeout_s=5).play((0, Started()), (0, MailSent()), (1, Answered(A)), (2, Answered(B)))
    talk.play((7, Elapsed()))
    assert [Join(), Hangup(A), Hangup(B)] == talk.commands[-3:]


@pytest.mark.parametrize("at", ["before the record", "mailing", "ringing", "waiting", "talking"])
def test_cancel_is_legal_in_every_state(at: str) -> None:
    before: dict[str, list[tuple[float, Event]]] = {
        "before the record": [],
        "mailing": [(0, Started())],
        "ringing": [(0, Started()), (0, MailSent()), (1, Ringing(A))],
        "waiting": [(0, Started()), (0, MailSent()), (1, Answered(A))],
    }
    talk = Dialogue(interval_s=9)
    talk = talk.talking() if at == "talking" else talk.play(*before[at])
    if at == "talking":
        talk = Dialogue().talking()
    talk.play((10, Cancel("operator")), (11, Ended(A, EndReason.HANGUP)), (11, Ended(B, EndReason.HANGUP)))
    # People who talked had their connection; the record says who ended it.
    assert (Outcome.COMPLETED if at == "talking" else Outcome.CANCELLED) == talk.connection.outcome
    assert "operator" == talk.connection.ended_by


def test_a_leg_that_never_confirms_the_hangup_is_written_off() -> None:
    talk = (
        Dialogue(release_timeout_s=40)
        .talking()
        .play((5, Cancel("operator")), (6, Ended(A, EndReason.HANGUP)), (45, Elapsed()))
    )
    assert (Outcome.COMPLETED, EndReason.FAILED) == (talk.connection.outcome, talk.connection.b.reason)


def test_lost_at_restart_hangs_up_what_was_up() -> None:
    talk = Dialogue().talking().play((9, LostAtRestart()))
    assert [Hangup(A), Hangup(B)] == talk.commands[-2:]


def test_an_answer_after_the_hangup_changes_nothing() -> None:
    talk = Dialogue(ring_timeout_s=5).play((0, Started()), (0, MailSent()), (5, Elapsed()))
    before = talk.connection
    assert before == talk.play((5.1, Answered(A))).connection


# --- another way ---


def test_a_party_that_cannot_have_been_rung_is_dialed_by_another_way() -> None:
    talk = Dialogue().play(
        (0, Started()), (0, MailSent()), (0, Dialed(A)), (6, Unreached(A, "main")), (6, Dialed(A)), (7, Ringing(A))
    )
    assert [SendMail(), Dial(A), Dial(A, attempt=2)] == talk.commands
    assert (("main",), T0 + timedelta(seconds=6), None) == (
        talk.connection.a.tried,
        talk.connection.a.dialed_at,
        answer(talk.connection),
    )
    # Its ring time-out counts from the INVITE that rings.
    assert T0 + timedelta(seconds=36) == deadline(talk.connection)


def test_b_is_dialed_by_another_way_while_a_waits() -> None:
    talk = Dialogue(interval_s=1).play((0, Started()), (0, MailSent()), (1, Answered(A)), (2, Unreached(B, "main")))
    assert [SendMail(), Dial(A), PlayRinging(A), Dial(B), Dial(B, attempt=2)] == talk.commands
    assert Phase.DIALING_SECOND is talk.connection.phase


def test_the_last_attempt_that_reaches_nobody_is_the_end() -> None:
    talk = Dialogue(max_attempts=2).play(
        (0, Started()), (0, MailSent()), (1, Unreached(A, "main")), (2, Unreached(A, "spare", "503"))
    )
    assert [SendMail(), Dial(A), Dial(A, attempt=2), Report(Outcome.FIRST_FAILED)] == talk.commands
    leg = talk.connection.a
    assert (LegState.ENDED, EndReason.UNREACHABLE, "503") == (leg.state, leg.reason, leg.detail)


@pytest.mark.parametrize("before", [Ringing(A), Answered(A)])
def test_a_party_that_was_rung_is_never_dialed_again(before: Event) -> None:
    talk = Dialogue(interval_s=9).play((0, Started()), (0, MailSent()), (1, before), (2, Unreached(A, "main")))
    assert 1 == sum(isinstance(command, Dial) for command in talk.commands)
    assert Outcome.FIRST_FAILED is talk.connection.outcome


def test_a_cancelled_dial_that_reached_nobody_is_not_repeated() -> None:
    talk = Dialogue().play((0, Started()), (0, MailSent()), (1, Cancel("operator")), (2, Unreached(A, "main")))
    assert [SendMail(), Dial(A), Hangup(A), Report(Outcome.CANCELLED)] == talk.commands


# --- the walk ---


def check(before: Connection, commands: list[Command], after: Connection) -> None:
    for command in commands:
        match command:
            case Dial(side=side, attempt=attempt):
                leg, then = before.leg(side), after.leg(side)
                assert not leg.rang, "a side rings at most once"
                unreached = leg.state is LegState.DIALING and len(then.tried) == leg.attempt
                assert leg.state is LegState.IDLE or unreached, "dialled again only after an attempt that rang nobody"
                assert attempt == then.attempt <= WALK_TERMS.max_attempts
                assert before.mail is MailState.SENT or after.mail is MailState.SENT
                assert before.verdict is None
                if side is B:
                    assert after.a.state is LegState.ANSWERED, "nobody is rung for a party who is not there"
            case Join():
                assert LegState.ANSWERED is after.a.state is after.b.state
                assert before.join_ordered_at is None
            case Hangup(side=side):
                assert before.leg(side).live or Dial(side) in commands, "only a live leg is hung up"
                assert after.leg(side).state in (LegState.RELEASING, LegState.ENDED)
            case Report(outcome=outcome):
                assert before.outcome is None
                assert after.outcome is outcome
            case SendMail():
                assert before.mail is MailState.PENDING
            case PlayRinging(side=side):
                assert side is A
                assert after.a.answered_at is not None
    assert len(commands) == len(set(commands))
    for side in Side:
        tried = before.leg(side).tried
        assert tried == after.leg(side).tried[: len(tried)], "an attempt's number is never used again"
    if before.outcome is not None:
        assert (before, []) == (after, commands), "after the outcome nothing changes"
    if after.outcome is not None:
        assert not after.a.live
        assert not after.b.live
        assert deadline(after) is None
    if answer(before) is not None and answer(before) != answer(after):
        # Told once; only a failure before B ever rang may be known more exactly later.
        pytest.fail(f"the answer changed from {answer(before)} to {answer(after)}")
    if after.verdict is not None and after.outcome is None:
        for leg in (after.a, after.b):
            assert not leg.live or leg.state is LegState.RELEASING, "closing leaves no leg standing"


def test_every_reachable_state_keeps_the_rules() -> None:
    seen = walk(check)
    assert {connection.phase for connection in seen} == set(Phase)
    outcomes = {connection.outcome for connection in seen if connection.outcome}
    assert set(Outcome) - {Outcome.REFUSED} == outcomes, "all but that of a request refused before it was recorded"
    for state in seen:
        assert ends_in_silence(state)


def ends_in_silence(state: Connection) -> bool:
    """Whether the connection ends by its own timers when nothing is heard any more."""
    now = T0
    for _ in range(12):
        if state.outcome is not None or state == Connection(WALK_TERMS) or state.started_at is None:
            return True
        due = deadline(state)
        assert due is not None, f"nothing would ever end {state}"
        now = max(now, due)
        state, commands = step(state, Elapsed(), now)
        assert not any(isinstance(command, Dial) and command.side is A for command in commands)
    return False
