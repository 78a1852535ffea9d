"""
Reliable provisional answers (RFC 3262): which of them are new, and the PRACK that acknowledges each.

Only the caller's part: we offer the extension and never use it towards those who call us.
"""

import enum
import re
from typing import TYPE_CHECKING

from .account import Account
from .dialog import Dialog
from .exchange import Exchange
from .message import Response, tag
from .session_timer import option_tags
from .transaction import MAX_FORKS, Failure

if TYPE_CHECKING:
    from .ua import UserAgent

_RSEQ = re.compile(r"[0-9]{1,10}$")
MAX_RSEQ = 2**32 - 1  # RFC 3262 §7.1


class Kind(enum.Enum):
    """What a provisional answer is."""

    UNRELIABLE = enum.auto()
    NEXT = enum.auto()
    """It is to be acknowledged and told."""
    STALE = enum.auto()
    """A repeat, or one that came too early: as if it had not come."""


class ReliableAnswers:
    """Which reliable answers of one INVITE have come, fork by fork."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: dict[tuple[int, str], int] = {}
        """The last RSeq by the INVITE's CSeq number and the fork's To tag: a challenged INVITE counts anew."""

    def take(self, response: Response) -> Kind:
        """
        Tell what this one is, and count it.

        RFC 3262 §4: repeats are dropped, as the PRACK repeats itself; one out of order is neither acknowledged nor
        looked at, since it comes again.
        """
        number = _RSEQ.match(response.header("rseq"))
        if number is None or "100rel" not in option_tags(response, "require"):
            return Kind.UNRELIABLE
        rseq, fork = int(number[0]), (response.cseq, tag(response.header("to")))
        last = self._last.get(fork)
        if not 0 < rseq <= MAX_RSEQ or (last is not None and rseq != last + 1):
            return Kind.STALE
        if last is None and len(self._last) >= MAX_FORKS:
            return Kind.STALE
        self._last[fork] = rseq
        return Kind.NEXT


def prack(ua: "UserAgent", dialog: Dialog, response: Response, account: Account | None) -> None:
    """Acknowledge `response` in its (early) dialog; a challenge is answered as for any request."""
    rack = f"RAck: {response.header('rseq')} {response.cseq} {response.cseq_method}"
    Exchange(ua, dialog, "PRACK", _nothing_more, account=account, extra=(rack,))


def _nothing_more(exchange: Exchange, event: Response | Failure) -> None:
    """Whoever doesn't get the PRACK ends the INVITE itself (RFC 3262 §3)."""
