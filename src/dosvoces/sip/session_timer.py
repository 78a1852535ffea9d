"""
Session timers (RFC 4028): what the two ends agree on, and when it is due.

A session that nobody refreshes in time is over, so that a far end that died doesn't keep a line open that is paid for.
Values only: whoever holds a call sends the refreshes and keeps the clock.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple

from .message import Message

DEFAULT_EXPIRES_S = 1800  # RFC 4028 §4: recommended
MIN_EXPIRES_S = 90  # RFC 4028 §5: nobody may ask for less
GIVE_UP_S = 32  # RFC 4028 §10: the BYE comes that long before the end, or a third of the interval
MAX_EXPIRES_S = 2**31 - 1
MAX_DIGITS = 10

_REFRESHER = re.compile(r";\s*refresher\s*=\s*(uac|uas)\s*(?:;|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class SessionTerms:
    """What one user agent asks for and stands for."""

    expires_s: int = DEFAULT_EXPIRES_S
    """Offered with each INVITE of ours; 0 offers nothing, and takes what the peer asks for."""
    min_s: int = MIN_EXPIRES_S
    """A peer that asks for less gets 422."""

    @property
    def floor_s(self) -> int:
        """The shortest interval that is believed where refusing is no longer possible: a bound on the refreshes."""
        return max(1, self.min_s // 3)

    @property
    def lines(self) -> tuple[str, ...]:
        """
        What an INVITE that begins a call says.

        RFC 4028 §7.1: without `refresher`, so that the peer chooses; without Min-SE, which is 90 where it is absent.
        """
        return (f"Session-Expires: {self.expires_s}",) if self.expires_s else ()


DEFAULT_TERMS = SessionTerms()


class Agreement(NamedTuple):
    """A session timer that runs."""

    interval_s: int
    ours: bool
    """Whether it is us who refresh."""

    @property
    def refresh_after_s(self) -> float:
        """RFC 4028 §7.2: half of the interval is recommended."""
        return self.interval_s / 2

    @property
    def give_up_after_s(self) -> float:
        """When to send BYE if no refresh came or got through (RFC 4028 §10)."""
        return self.interval_s - min(GIVE_UP_S, self.interval_s / 3)

    @property
    def request_lines(self) -> tuple[str, ...]:
        """What our request says to refresh it; who refreshes stays (RFC 4028 §7.4)."""
        return (f"Session-Expires: {self.interval_s};refresher={'uac' if self.ours else 'uas'}",)

    @property
    def answer_lines(self) -> tuple[str, ...]:
        """What our 2xx says (RFC 4028 §9): Require wherever the peer must do something."""
        if self.ours:
            return (f"Session-Expires: {self.interval_s};refresher=uas",)
        return (f"Session-Expires: {self.interval_s};refresher=uac", "Require: timer")


def asked_for(message: Message) -> int | None:
    """The seconds in Session-Expires, `None` if there is none that can be read."""
    return _seconds(message.header("session-expires"))


def least(message: Message) -> int:
    """The seconds in Min-SE, 0 if there is none that can be read."""
    return _seconds(message.header("min-se")) or 0


def too_short(request: Message, terms: SessionTerms) -> bool:
    """Whether 422 is the answer: not where the sender doesn't know the extension and a proxy wrote it (§9)."""
    seconds = asked_for(request)
    return seconds is not None and seconds < terms.min_s and supports(request)


def supports(message: Message) -> bool:
    """Whether the sender knows session timers."""
    for name in ("supported", "require"):
        if name in message.headers and "timer" in option_tags(message, name):
            return True
    return False


def option_tags(message: Message, name: str) -> list[str]:
    """The option tags in this header (Supported, Require), in lower case."""
    return [tag.strip().lower() for value in message.values(name) for tag in value.split(",") if tag.strip()]


def agreed_by_answer(response: Message, terms: SessionTerms) -> Agreement | None:
    """What the peer's 2xx to a request of ours makes of the timer (RFC 4028 §7.2); `None`: there is none (any more)."""
    seconds = asked_for(response)
    if seconds is None:
        return None
    # Without a refresher, which the RFC forbids, it is the safe choice that it is us.
    return Agreement(max(seconds, terms.floor_s), ours=_refresher(response) != "uas")


def agreed_by_request(request: Message, terms: SessionTerms, current: Agreement | None) -> Agreement | None:
    """What a request of the peer makes of the timer when we accept it (RFC 4028 §9)."""
    seconds = asked_for(request)
    if seconds is None:
        # It says nothing of the timer that runs: that goes on unless the peer would have to do what it doesn't know.
        return current if current is not None and (current.ours or supports(request)) else None
    refresher = _refresher(request)
    if refresher:
        ours = refresher == "uas"
    elif current is not None:
        ours = current.ours
    else:
        ours = not supports(request)
    return Agreement(max(seconds, terms.floor_s), ours)


def _seconds(value: str) -> int | None:
    digits = value.partition(";")[0].strip()
    if not digits.isascii() or not digits.isdigit() or len(digits) > MAX_DIGITS:
        return None
    return min(int(digits), MAX_EXPIRES_S)


def _refresher(message: Message) -> str:
    value = message.header("session-expires")
    match = _REFRESHER.search(value) if ";" in value else None
    return match[1].lower() if match else ""
