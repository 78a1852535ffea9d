"""
An answer that nobody wants, hung up: BYE first, and the ACK when that has arrived.

No record knows of such an answer: a further fork's, one that crosses a CANCEL or follows the 487, one of an earlier
process. Its callee repeats it until the ACK comes (RFC 3261 §13.3.1.4), so that whoever comes after us hears of it
should we be killed before the BYE arrived. RFC 3261 §15 allows the caller a BYE as soon as the dialog stands.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from .account import Account
from .dialog import Dialog
from .exchange import Done, Exchange
from .message import Response
from .timers import Timer
from .transaction import T2, Failure

if TYPE_CHECKING:
    from .ua import UserAgent

ACK_BY_S = (
    T2  # a far end that ignores a BYE before the ACK hears no more than this of nobody; by then it was sent 4 times
)


class UnwantedAnswer:
    """A dialog from its 2xx to the end of its BYE. Whoever begins it holds the ACK back."""

    __slots__ = ("_account", "_acknowledge", "_dialog", "_done", "_timer", "_ua")

    def __init__(
        self,
        ua: "UserAgent",
        dialog: Dialog,
        acknowledge: Callable[[], None],
        done: Done,
        *,
        account: Account | None = None,
        extra: tuple[str, ...] = (),
    ) -> None:
        """Send the BYE; `done` gets what came of it, after `acknowledge` was called."""
        self._ua = ua
        self._dialog = dialog
        self._acknowledge: Callable[[], None] | None = acknowledge
        self._done = done
        self._account = account
        Exchange(ua, dialog, "BYE", self._answered, account=account, extra=extra)
        self._timer: Timer | None = ua.wire.after(ACK_BY_S, self._confirm)

    def _answered(self, exchange: Exchange, event: Response | Failure) -> None:
        held = self._acknowledge is not None
        self._ua.wire.timers.stop(self._timer)
        self._confirm()
        if held and isinstance(event, Response) and event.code >= 300 and event.code not in (401, 407):
            # Perhaps it knows no dialog before the ACK; to who is gone a second BYE does no harm.
            Exchange(self._ua, self._dialog, "BYE", self._done, account=self._account)
        else:
            self._done(exchange, event)

    def _confirm(self) -> None:
        acknowledge, self._acknowledge = self._acknowledge, None
        if acknowledge is not None:
            acknowledge()
