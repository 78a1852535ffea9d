"""
A call's own re-INVITEs and refreshes, and the end of a session that nobody refreshes (RFC 3261 §14.1, RFC 4028).

The peer's are in `call`, which this is a part of.
"""

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from .account import Account
from .api import CallEnd, CallHandler, CallStateError, EndCause
from .dialog import Dialog
from .exchange import Exchange
from .message import Message, Response
from .reliable import Kind, ReliableAnswers, prack
from .server_transaction import InviteServer
from .session_timer import Agreement, agreed_by_answer, least
from .timers import Timer
from .transaction import T1, TIMEOUT, Failure

if TYPE_CHECKING:
    from .ua import UserAgent

GLARE_WAIT_OWNER = (2.1, 4.0)  # seconds, RFC 3261 §14.1: whoever made the Call-ID
GLARE_WAIT_OTHER = (0.0, 2.0)  # seconds, RFC 3261 §14.1
MAX_LONGER = 3  # 422 answers heeded per request: each proxy on the way may have a Min-SE of its own (RFC 4028 §7.4)
TIMER_EXPIRED = 'Reason: Q.850;cause=102;text="Recovery on timer expiry"'

ReinviteDone: TypeAlias = Callable[[int | None, bytes], None]
"""Gets the final status (`None`: there was none) and the peer's SDP."""


class Phase(enum.Enum):
    """Where a call is in its life."""

    STARTING = enum.auto()
    """The INVITE has no final answer."""
    TALKING = enum.auto()
    LEAVING = enum.auto()
    """We hang up: a CANCEL or BYE is under way."""
    OVER = enum.auto()


class Offering(ABC):
    """The part of a `Call` that asks; what it has in common with the rest is set up here."""

    __slots__ = (
        "_account",
        "_agreement",
        "_described",
        "_dialog",
        "_expires_at",
        "_glare_wait",
        "_handler",
        "_longer",
        "_phase",
        "_reinvite",
        "_reinvite_body",
        "_reinvite_done",
        "_reinvite_timer",
        "_reliable",
        "_server",
        "_session_timer",
        "_ua",
        "_update_allowed",
    )

    def __init__(self, ua: "UserAgent", dialog: Dialog, handler: CallHandler | None, account: Account | None) -> None:
        self._ua = ua
        self._dialog = dialog
        self._handler = handler
        self._account = account
        self._phase = Phase.STARTING
        self._server: InviteServer | None = None
        """The peer's INVITE that has no final answer or whose 2xx has no ACK."""
        self._reinvite: Exchange | None = None
        self._reinvite_body = b""
        self._reinvite_done: ReinviteDone | None = None
        self._reinvite_timer: Timer | None = None
        self._reliable: ReliableAnswers | None = None
        self._glare_wait = GLARE_WAIT_OTHER
        self._described = b""
        """Our session description as the peer last accepted it: a refresh by re-INVITE repeats it."""
        self._longer = 0
        """How often the request under way was sent again after a 422."""
        self._agreement: Agreement | None = None
        self._session_timer: Timer | None = None
        """Runs while there is an agreement: to the next refresh of ours, or to the end."""
        self._expires_at = 0.0
        self._update_allowed = False

    def reinvite(self, body: bytes, done: ReinviteDone) -> None:
        """
        Offer another session. Glare (491) is tried again once, as RFC 3261 §14.1 says.

        Raises `CallStateError` when the call isn't up or an offer of either side is under way. `done` isn't called
        if the call ends first by other means.
        """
        if self._phase is not Phase.TALKING or self._reinvite_done is not None or self._server is not None:
            raise CallStateError("the call is not up, or an offer is under way")
        self._ua.enter()
        self._begin_reinvite(body, done)
        self._ua.wake()

    @abstractmethod
    def _leave(self, end: CallEnd, extra: tuple[str, ...] = ()) -> None:
        """Send BYE; `end` is reported when that is over."""

    @abstractmethod
    def _finish(self, end: CallEnd) -> None:
        """Report the end."""

    def _stop_timers(self) -> None:
        timers = self._ua.wire.timers
        timers.stop(self._reinvite_timer)
        timers.stop(self._session_timer)
        self._reinvite_timer = self._session_timer = self._agreement = None

    # -- our re-INVITE ----------------------------------------------------------------------------------------------

    def _begin_reinvite(self, body: bytes, done: ReinviteDone) -> None:
        self._reinvite_body = body
        self._reinvite_done = done
        self._longer = 0
        self._send_reinvite(self._reinvite_event)

    def _send_reinvite(self, event: Callable[[Exchange, Response | Failure], None]) -> None:
        # RFC 4028 §7.4: each is a refresh too, and one without Session-Expires would switch the timer off.
        extra = self._agreement.request_lines if self._agreement is not None else ()
        body = self._reinvite_body
        self._reinvite = Exchange(
            self._ua, self._dialog, "INVITE", event, account=self._account, body=body, extra=extra
        )
        # INVITE has no time-out after a 1xx; a machine that says 100 and then nothing is not there.
        self._reinvite_timer = self._ua.wire.after(TIMEOUT, self._reinvite_timeout)

    def _reinvite_event(self, exchange: Exchange, event: Response | Failure) -> None:
        if isinstance(event, Response) and event.code == 491 and self._phase is Phase.TALKING:
            self._ua.wire.timers.stop(self._reinvite_timer)
            self._reinvite = None
            wait = self._ua.uniform(*self._glare_wait)
            self._reinvite_timer = self._ua.wire.after(wait, self._retry_reinvite)
        else:
            self._last_reinvite_event(exchange, event)

    def _retry_reinvite(self) -> None:
        if self._server is not None:
            # RFC 3261 §14.1: not while the peer's own is open.
            self._reinvite_timer = self._ua.wire.after(T1, self._retry_reinvite)
        else:
            self._send_reinvite(self._last_reinvite_event)

    def _last_reinvite_event(self, exchange: Exchange, event: Response | Failure) -> None:
        """The first try's final answer, or the second try's whatever it is."""
        if isinstance(event, Response):
            if event.code < 200:
                self._acknowledge_reliable(self._dialog, event)
                return
            if event.code < 300:
                # RFC 3261 §12.2.1.2: the target first, the ACK goes there.
                self._dialog.refresh_target(event)
                exchange.acknowledge(event, self._dialog)
        if exchange is not self._reinvite or self._phase is not Phase.TALKING:
            return
        if isinstance(event, Response) and event.code == 422 and self._ask_longer(exchange, event):
            return
        exchange.release()
        self._ua.wire.timers.stop(self._reinvite_timer)
        if isinstance(event, Response) and event.code < 300:
            self._described = self._reinvite_body
            self._agree(agreed_by_answer(event, self._ua.session), event)
        self._settle_reinvite(event)

    def _reinvite_timeout(self) -> None:
        if self._reinvite is not None and self._phase is Phase.TALKING:
            self._reinvite.abandon()
            self._settle_reinvite(Failure.TIMEOUT)

    def _settle_reinvite(self, event: Response | Failure) -> None:
        done, self._reinvite, self._reinvite_done = self._reinvite_done, None, None
        status = _status(event)
        if done is not None:
            done(status, event.body if isinstance(event, Response) and event.code < 300 else b"")
        self._end_if_gone(status, "re-INVITE")

    def _end_if_gone(self, status: int | None, request: str) -> None:
        """RFC 3261 §12.2.1.2, §14.1, RFC 4028 §10: after 481, 408 or silence the dialog is over."""
        if self._phase is not Phase.TALKING:
            return
        if status == 481:
            self._finish(CallEnd(EndCause.PROTOCOL, "remote", 481, "Call/Transaction Does Not Exist", request))
        elif status in (None, 408):
            self._leave(CallEnd(EndCause.TIMEOUT, "remote", status, f"{request} not answered"))

    def _ask_longer(self, exchange: Exchange, response: Response) -> bool:
        """After a 422: send the request again with the interval that it names (RFC 4028 §7.3), if that makes sense."""
        interval = least(response)
        current = self._agreement
        offered = current.interval_s if current is not None else self._ua.session.expires_s
        if not offered or interval <= offered or self._longer >= MAX_LONGER:
            return False
        self._longer += 1
        if current is not None:
            self._agreement = Agreement(interval, current.ours)
            lines = self._agreement.request_lines
        else:
            lines = (f"Session-Expires: {interval}",)
        exchange.send_again(*lines, f"Min-SE: {interval}")
        return True

    def _acknowledge_reliable(self, dialog: Dialog, response: Response) -> Kind:
        """Send the PRACK that a provisional answer asks for (RFC 3262)."""
        if "rseq" not in response.headers:
            return Kind.UNRELIABLE
        if self._reliable is None:
            self._reliable = ReliableAnswers()
        kind = self._reliable.take(response)
        if kind is Kind.NEXT:
            prack(self._ua, dialog, response, self._account)
        return kind

    # -- the session timer ------------------------------------------------------------------------------------------

    def _agree(self, agreement: Agreement | None, message: Message) -> None:
        """
        Take what a 2xx, sent or received, made of the timer: it begins anew, or there is none (RFC 4028 §7.2, §9).

        `message` is the peer's part of it.
        """
        wire = self._ua.wire
        wire.timers.stop(self._session_timer)
        self._session_timer = None
        self._agreement = agreement
        if agreement is None:
            return
        if allowed := message.headers.get("allow"):
            self._update_allowed = "UPDATE" in (allowed[0] if len(allowed) == 1 else ",".join(allowed))
        self._expires_at = wire.now + agreement.give_up_after_s
        if agreement.ours:
            self._session_timer = wire.after(agreement.refresh_after_s, self._refresh)
        else:
            self._session_timer = wire.after(agreement.give_up_after_s, self._expire)

    def _refresh(self) -> None:
        """Send a refresh; from now on the end of the session is what is waited for."""
        agreement, wire = self._agreement, self._ua.wire
        if agreement is None or self._phase is not Phase.TALKING:
            return
        self._session_timer = wire.after(max(0.0, self._expires_at - wire.now), self._expire)
        if self._update_allowed:
            self._longer = 0
            # RFC 4028 §7.4: an UPDATE needs no offer, so nothing can be changed by it.
            Exchange(
                self._ua,
                self._dialog,
                "UPDATE",
                self._update_event,
                account=self._account,
                extra=agreement.request_lines,
            )
        elif self._reinvite_done is None and self._server is None and self._described:
            self._begin_reinvite(self._described, self._refreshed)
        else:
            # An offer is under way, which refreshes the session if it succeeds.
            self._refresh_later(2 * T1)

    def _update_event(self, exchange: Exchange, event: Response | Failure) -> None:
        if self._phase is not Phase.TALKING or self._agreement is None:
            return
        if isinstance(event, Failure):
            self._refused(_status(event), "session refresh")
        elif event.code < 300:
            self._dialog.refresh_target(event)
            self._agree(agreed_by_answer(event, self._ua.session), event)
        elif event.code in (405, 501):
            self._update_allowed = False  # whatever its Allow said
            self._ua.wire.timers.stop(self._session_timer)
            self._refresh()
        elif event.code == 422 and self._ask_longer(exchange, event):
            return
        else:
            self._refused(event.code, "session refresh")

    def _refreshed(self, status: int | None, body: bytes) -> None:
        """The answer to a refresh by re-INVITE; what ends the call is seen to by whoever tells it."""
        if status is None or status in (408, 481):
            return
        if status >= 300:
            self._refused(status, "re-INVITE")
        elif body and self._handler is not None:
            self._handler.on_answer_to_offer(body)

    def _refused(self, status: int | None, request: str) -> None:
        """A refresh was refused: the session lives on until its end, and until then it may be tried again."""
        if status in (None, 408, 481):
            self._end_if_gone(status, request)
        elif status == 491:
            self._refresh_later(self._ua.uniform(*self._glare_wait))
        else:
            self._refresh_later((self._expires_at - self._ua.wire.now) / 2)

    def _refresh_later(self, wait: float) -> None:
        """Try again after `wait`, unless the session is over by then; never more often than each T1."""
        wire = self._ua.wire
        left = self._expires_at - wire.now
        wire.timers.stop(self._session_timer)
        wait = max(wait, T1)
        if wait < left:
            self._session_timer = wire.after(wait, self._refresh)
        else:
            self._session_timer = wire.after(max(0.0, left), self._expire)

    def _expire(self) -> None:
        self._session_timer = None
        if self._phase is Phase.TALKING:
            # RFC 4028 §10: a BYE, and the line isn't paid for any longer.
            self._leave(CallEnd(EndCause.TIMEOUT, "remote", None, "session not refreshed"), (TIMER_EXPIRED,))


def _status(event: Response | Failure) -> int | None:
    """
    The final status; `None` if there was none.

    RFC 3261 §8.1.3.1: a transport error counts as 503. It ends no dialog: the route may be back in a second.
    """
    if isinstance(event, Response):
        return event.code
    return 503 if event is Failure.TRANSPORT else None
