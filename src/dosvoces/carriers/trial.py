"""
What the parties of a trial run do, by the last four digits of their number. Pure.

The endings are the same in every country, so that each installation has such numbers among those that it may dial.
Statuses stand in them as SIP has them: `0486` is 486 Busy Here. `docs/howto/testing.md` has them as a table.
"""

from dosvoces.carriers import Call
from dosvoces.carriers.end_reasons import STATUS_REASONS
from dosvoces.carriers.fake import Script
from dosvoces.model import EndReason, Side

TRIAL_TRUNK = "(test)"
"""The trunk that the record names: no real one can have that name."""
RINGS_AFTER_S = 0.2
ANSWERS_AFTER_S = 1.0
TALKS_S = 10.0
"""So long after its answer an ordinary second party hangs up; an ordinary first party stays."""
DECLINES_AFTER_S = 2.0
VOICEMAIL_ANSWERS_AFTER_S = 5.0
VOICEMAIL_TALKS_S = 20.0

REFUSALS: dict[str, tuple[int, str, float]] = {
    "0486": (486, "Busy Here", RINGS_AFTER_S),
    "0480": (480, "Temporarily Unavailable", DECLINES_AFTER_S),
    "0603": (603, "Decline", DECLINES_AFTER_S),
    "0404": (404, "Not Found", RINGS_AFTER_S),
    "0503": (503, "Service Unavailable", RINGS_AFTER_S),
}
"""By ending: the status that the call is refused with, its phrase, and how many seconds after the dial."""
RINGS_FOR_EVER = "0408"
NO_WAY = "0599"
VOICEMAIL = "9300"
HANGS_UP = "91"
"""And two digits: so many seconds after its answer."""
SLOW = "92"
"""And two digits: after so many seconds of ringing it answers."""

_DECLINED_RINGING = frozenset({480, 603})
"""Somebody's phone rang before these."""


def trial_script(call: Call) -> Script:
    """What the party of this leg does."""
    ending = call.number.e164[-4:]
    if (refusal := REFUSALS.get(ending)) is not None:
        return _refuses(*refusal)
    kind, seconds = ending[:2], float(ending[2:])
    if ending == RINGS_FOR_EVER:
        return Script(rings_after_s=RINGS_AFTER_S, answers_after_s=None)
    if ending == NO_WAY:
        return Script(unreachable=True)
    if ending == VOICEMAIL:
        return _answers(VOICEMAIL_ANSWERS_AFTER_S, VOICEMAIL_TALKS_S, "voicemail")
    if kind == HANGS_UP:
        return _answers(ANSWERS_AFTER_S, seconds)
    talks_s = TALKS_S if call.side is Side.B else None
    return _answers(max(seconds, RINGS_AFTER_S) if kind == SLOW else ANSWERS_AFTER_S, talks_s)


def _answers(after_s: float, talks_s: float | None, detail: str = "") -> Script:
    return Script(rings_after_s=RINGS_AFTER_S, answers_after_s=after_s, hangs_up_after_s=talks_s, detail=detail)


def _refuses(status: int, phrase: str, after_s: float) -> Script:
    return Script(
        rings_after_s=RINGS_AFTER_S if status in _DECLINED_RINGING else None,
        answers_after_s=None,
        fails_after_s=after_s,
        reason=STATUS_REASONS.get(status, EndReason.FAILED),
        detail=f"{status} {phrase}",
    )
