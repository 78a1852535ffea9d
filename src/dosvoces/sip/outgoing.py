"""
A call of ours until it is answered: INVITE, provisional answers, CANCEL, forks, and the races between them.

Whoever answers is either the call's peer or is hung up at once: a second fork, an answer after CANCEL, an answer after
we gave up.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from .account import Account
from .api import SDP, CallEnd, CallHandler, EndCause, Hop, Invitation, Later, header_lines, quoted
from .call import GLARE_WAIT_OWNER, Call, Phase, ReinviteDone, hung_up_by_peer, reason_text
from .dialog import Dialog
from .exchange import Exchange
from .message import Request, Response, clean, seconds, tag
from .reliable import Kind
from .reply import ALLOW
from .session_timer import agreed_by_answer
from .timers import Timer
from .transaction import MAX_FORKS, TIMEOUT, Failure, InviteClient, State
from .unwanted import UnwantedAnswer

if TYPE_CHECKING:
    from .ua import UserAgent


class OutgoingCall(Call):
    """A call that we make."""

    __slots__ = (
        "_ack",
        "_ack_patience",
        "_cancel_lines",
        "_cancel_timer",
        "_cancelled",
        "_early",
        "_early_cseq",
        "_heard",
        "_invite",
        "_losers",
    )

    def __init__(self, ua: "UserAgent", invitation: Invitation, handler: CallHandler) -> None:
        """Send the INVITE."""
        mark = invitation.mark
        local_tag = mark.local_tag if mark is not None else ua.token()
        destination = Hop(*invitation.destination)
        dialog = Dialog(
            call_id=invitation.call_id,
            local=from_value(invitation, local_tag),
            local_tag=local_tag,
            remote=f"<{invitation.to_uri}>",
            remote_target=invitation.request_uri,
            fallback=destination,
        )
        account = Account(invitation.credentials) if invitation.credentials else None
        super().__init__(ua, dialog, handler, account)
        self._glare_wait = GLARE_WAIT_OWNER
        self._ack_patience = invitation.ack_patience_s
        self._ack: Callable[[], None] | None = None
        """Sends the answer's ACK, while that waits for `confirm`, or for a BYE's answer."""
        self._early: dict[str, _Early] | None = None
        """By To tag."""
        self._early_cseq = 0
        """The highest number that was used in an early dialog, once the call is answered."""
        self._losers: set[str] | None = None
        """To tags of forks that answered and were hung up."""
        self._cancel_lines: tuple[str, ...] | None = None
        """Not `None` once a hang-up was asked for; holds the CANCEL's further headers."""
        self._cancelled = False
        """Whether a CANCEL has left that wasn't refused."""
        self._cancel_timer: Timer | None = None
        self._heard = 0
        """The highest provisional status that came."""
        self._described = invitation.body
        # A name as target goes to `destination`, so that an outbound proxy needs no Route header.
        self._invite: Exchange | None = Exchange(
            ua,
            dialog,
            "INVITE",
            self._invite_event,
            account=account,
            body=invitation.body,
            content_type=invitation.content_type,
            extra=(*ua.session.lines, *header_lines(invitation.headers)),
            destination=destination,
            limit=TIMEOUT if invitation.silence_limit_s is None else invitation.silence_limit_s,
            mark=mark,
        )

    def forget(self) -> None:
        """Undo a start that could not leave the machine."""
        self._phase = Phase.OVER
        self._handler = None
        if self._invite is not None and isinstance(self._invite.transaction, InviteClient):
            self._invite.transaction.forget()

    def knows(self, remote_tag: str) -> bool:
        if not self.answered:
            return True  # the 200 may be lost or late, and the peer's BYE be here before it; our tag is secret enough
        return remote_tag == self._dialog.remote_tag or (self._losers is not None and remote_tag in self._losers)

    # -- the INVITE's answers ---------------------------------------------------------------------------------------

    def _invite_event(self, exchange: Exchange, event: Response | Failure) -> None:
        if isinstance(event, Failure):
            self._failed(exchange, event)
        elif event.code < 200:
            self._provisional(exchange, event)
        elif event.code < 300:
            self._accepted(exchange, event)
        else:
            self._rejected(event)

    def _provisional(self, exchange: Exchange, response: Response) -> None:
        self._heard = max(self._heard, response.code)
        if self._phase is Phase.OVER:
            self._cancel(exchange)  # given up before it gave a sign; now it stirs
            return
        if self._cancel_lines is not None:
            self._send_cancel()
            return
        if response.code == 100:
            return
        early = self._early_dialog(response) if self._phase is Phase.STARTING else None
        if early is not None:
            kind = self._acknowledge_reliable(early.dialog, response)
            if kind is Kind.STALE:
                return
            if kind is Kind.NEXT:
                early.answered_with(response.body)
        if self._handler is not None:
            self._handler.on_progress(response.code, clean(response.phrase), response.body)

    def _early_dialog(self, response: Response) -> "_Early | None":
        """The early dialog that a provisional answer is of (RFC 3261 §12.1), `None` if it has no tag."""
        to_tag = tag(response.header("to"))
        if not to_tag:
            return None
        if self._early is None:
            self._early = {}
        early = self._early.get(to_tag)
        if early is None and len(self._early) < MAX_FORKS:
            early = self._early[to_tag] = _Early(self._dialog.established_by(response), response)
            self._ua.learn(self, early.dialog.hosts())
        return early

    def _established(self, response: Response, early: "_Early | None") -> Dialog:
        """The dialog that a 2xx makes (RFC 3261 §13.2.2.4): the early one, if that says the same of its route."""
        if early is not None and early.same_route(response):
            return early.dialog
        dialog = self._dialog.established_by(response)
        # PRACKs went before, in a loser's dialog too: numbered below them its BYE would be refused with 500 (§12.2.2).
        used = early.dialog.local_cseq if early is not None else self._early_cseq
        dialog.local_cseq = max(dialog.local_cseq, used)
        self._ua.learn(self, dialog.hosts())
        return dialog

    def _accepted(self, exchange: Exchange, response: Response) -> None:
        early = self._early.get(tag(response.header("to"))) if self._early else None
        dialog = self._established(response, early)
        acknowledge = partial(exchange.acknowledge, response, dialog)
        exchange.hold(response)
        exchange.release()
        if self._phase is Phase.OVER or self.answered:
            self._hang_up_loser(dialog, acknowledge)
            if self._phase is Phase.OVER:
                self._ua.unlearn_later(self)
            return
        self.answered = True
        self._ack = acknowledge
        self._dialog = dialog
        self._invite = None
        if self._early is not None:
            self._early_cseq = max(each.dialog.local_cseq for each in self._early.values())
            self._early = None
        self._ua.wire.timers.stop(self._cancel_timer)
        if self._phase is Phase.LEAVING:
            # RFC 3261 §9.1, §15: the answer overtook the CANCEL, so it takes a BYE.
            self._end = self._end or CallEnd(EndCause.CANCELLED, "local", None, "", "answered meanwhile")
            self._send_bye(self._cancel_lines or ())
            return
        self._phase = Phase.TALKING
        if self._ack_patience:
            self._ua.wire.after(self._ack_patience, self._acknowledge)
        else:
            self._acknowledge()
        if "session-expires" in response.headers:
            self._agree(agreed_by_answer(response, self._ua.session), response)
        if self._handler is not None:
            # RFC 3262 §5: where a reliable answer brought the SDP, the 2xx needs none. If it has another one after all
            # we take it, where RFC 3261 §13.2.1 would have it ignored: it is the peer's last word.
            body = response.body
            if early is not None:
                early.answered_with(body)
                body = early.described
            self._handler.on_answer(body, self._facts(dialog))

    def confirm(self) -> None:
        """What hanging up needs is written down: the ACK that waited for that leaves. Idempotent."""
        if self._ack is not None:
            self._ua.enter()
            self._acknowledge()
            self._ua.wake()

    def reinvite(self, body: bytes, done: ReinviteDone) -> None:
        self.confirm()
        super().reinvite(body, done)

    def _send_bye(self, extra: tuple[str, ...] = ()) -> None:
        acknowledge, self._ack = self._ack, None
        if acknowledge is None:
            super()._send_bye(extra)
        else:
            UnwantedAnswer(self._ua, self._dialog, acknowledge, self._bye_event, account=self._account, extra=extra)

    def _acknowledge(self) -> None:
        send, self._ack = self._ack, None
        if send is not None:
            send()

    def _hang_up_loser(self, dialog: Dialog, acknowledge: Callable[[], None]) -> None:
        if self._losers is None:
            self._losers = set()
        self._losers.add(dialog.remote_tag)
        UnwantedAnswer(self._ua, dialog, acknowledge, _nothing_more, account=self._account)

    def _rejected(self, response: Response) -> None:
        # RFC 3261 §8.1.3.4 would allow to follow a 3xx; but whoever sends one could make us dial anything.
        reason = reason_text(response)
        wanted = self._phase is Phase.STARTING and self._cancel_lines is None
        if response.code == 422 and wanted and self._invite is not None and self._ask_longer(self._invite, response):
            return  # still the same attempt: who refuses the interval has rung nobody
        if self._end is not None:
            self._conclude(self._end)
        elif self._cancel_lines is not None and response.code in (401, 407, 487):
            self._conclude(CallEnd(EndCause.CANCELLED, "local", response.code, clean(response.phrase), reason))
        else:
            withheld = self._invite.withheld if self._invite is not None else None
            phrase, retry_after_s = clean(response.phrase), seconds(response.header("retry-after"))
            self._conclude(
                CallEnd(
                    EndCause.REJECTED, "remote", response.code, phrase, reason, self._heard, retry_after_s, withheld
                )
            )

    def _failed(self, exchange: Exchange, failure: Failure) -> None:
        if failure is Failure.TIMEOUT or exchange.may_have_arrived:
            # We diverge from RFC 3261 §9.1, which wants a provisional answer first: all of them may be lost, and the
            # phone ring on; so it may where a connection broke under the INVITE, or a server died before its repeat.
            # By now the INVITE isn't repeated any more, so that no CANCEL overtakes it; who never got it says 481.
            self._cancel(exchange)
        if self._end is not None:
            self._conclude(self._end)
        elif self._cancel_lines is not None:
            self._conclude(CallEnd(EndCause.CANCELLED, "local", None, "", f"INVITE: {failure.value}"))
        elif failure is Failure.TIMEOUT:
            self._conclude(CallEnd(EndCause.TIMEOUT, "remote", None, "no answer to the INVITE", "", self._heard))
        else:
            self._conclude(CallEnd(EndCause.TRANSPORT, "remote", None, "destination unreachable", "", self._heard))

    def _conclude(self, end: CallEnd) -> None:
        if self._invite is not None:
            self._invite.release()
            self._invite = None
        self._ua.wire.timers.stop(self._cancel_timer)
        self._finish(end)

    # -- giving up --------------------------------------------------------------------------------------------------

    def _withdraw(self, extra: tuple[str, ...]) -> None:
        self._phase = Phase.LEAVING
        self._cancel_lines = extra
        if self._invite is not None:
            self._invite.stopped = True
            if self._invite.transaction.state is State.PROCEEDING:
                self._send_cancel()
        # RFC 3261 §9.1: before any provisional answer the CANCEL is held back; the next 1xx or the time-out lets it go.

    def _send_cancel(self) -> None:
        if self._invite is None:
            return
        self._cancel(self._invite)
        if self._cancel_timer is None:
            self._cancel_timer = self._ua.wire.after(TIMEOUT, self._cancel_timeout)

    def _cancel(self, exchange: Exchange) -> None:
        if not self._cancelled:
            self._cancelled = True
            exchange.cancel(self._cancel_lines or (), self._cancel_answered)

    def _cancel_answered(self, event: Response | Failure) -> None:
        # Who knew nothing of the INVITE and rings after all is cancelled again.
        self._cancelled = isinstance(event, Response) and event.code < 300

    def _cancel_timeout(self) -> None:
        """RFC 3261 §9.1: no final answer 64*T1 after the CANCEL; the INVITE is given up, a late 2xx is hung up."""
        if self._invite is not None:
            self._invite.abandon()
            self._conclude(self._end or CallEnd(EndCause.CANCELLED, "local", None, "", "no answer after CANCEL"))

    # -- requests of the peer before the answer ---------------------------------------------------------------------

    def serve(self, request: Request, source: Hop, key: str) -> None:
        from_tag = tag(request.header("from"))
        if self._losers is not None and from_tag in self._losers and from_tag != self._dialog.remote_tag:
            # A fork that lost: its dialog ends whatever it says.
            if request.method != "ACK":
                self._refuse(request, source, key, 200 if request.method == "BYE" else 481)
            return
        if not self.answered and self._phase is Phase.LEAVING:
            if request.method != "ACK":
                self._serve_early(request, source, key)
            return
        super().serve(request, source, key)

    def _serve_early_offer(self, early: "_Early", request: Request, source: Hop, key: str) -> None:
        """RFC 3311 §5.1: once a reliable answer has settled our offer, the peer may make one of its own by UPDATE."""
        handler = self._handler if request.content_type == SDP else None
        body = handler.on_offer(request.body) if handler is not None else None
        if body is None or isinstance(body, Later):
            self._refuse(request, source, key, 488)
            return
        early.described = request.body
        early.refresh_target(request)
        self._described = body
        self._reply(request, source, key, 200, (self.contact, ALLOW), body)

    def _serve_early_update(self, early: "_Early", request: Request, source: Hop, key: str) -> None:
        if self._phase is Phase.LEAVING:
            self._refuse(request, source, key, 481)
        elif not self._refused_as_too_short(request, source, key):
            # The early dialog's target, never that of the INVITE: sent again after a challenge, it would dial it.
            early.refresh_target(request)
            self._reply(request, source, key, 200, (self.contact, ALLOW))

    def _serve_early(self, request: Request, source: Hop, key: str) -> None:
        method = request.method
        if method == "BYE":
            # RFC 3261 §15 forbids it to the callee before its 200, which may be lost or late: it is hung up too.
            self._reply(request, source, key, 200)
            if self._end is None and self._phase is Phase.STARTING:
                self._end = hung_up_by_peer(request)
                self._withdraw(())
        elif self._early is None or (early := self._early.get(tag(request.header("from")))) is None:
            self._refuse(request, source, key, 481)
        elif method == "UPDATE" and request.body and early.described:
            self._serve_early_offer(early, request, source, key)
        elif method in ("INVITE", "UPDATE") and (request.body or method == "INVITE"):
            self._refuse(request, source, key, 491)  # RFC 3311 §5.2: our first offer has no answer yet
        elif method == "UPDATE":
            self._serve_early_update(early, request, source, key)
        elif method == "INFO":
            self._serve_info(request, source, key)
        elif method == "OPTIONS":
            self._serve_options(request, source, key)
        else:
            self._serve_other(request, source, key)


def from_value(invitation: Invitation, local_tag: str) -> str:
    name = f"{quoted(invitation.from_name)} " if invitation.from_name else ""
    return f"{name}<{invitation.from_uri}>;tag={local_tag}"


class _Early:
    """An early dialog (RFC 3261 §12.1)."""

    __slots__ = ("_answer", "_contact", "_record_route", "_to", "described", "dialog")

    def __init__(self, dialog: Dialog, response: Response) -> None:
        self.dialog = dialog
        self.described = b""
        """The peer's session description, once it is binding: told reliably, or offered after that."""
        self._answer = b""
        headers = response.headers
        self._to, self._contact, self._record_route = headers["to"], headers.get("contact"), headers.get("record-route")

    def answered_with(self, body: bytes) -> None:
        """Take the description of an answer. A repeat (RFC 3261 §13.2.1) takes back no offer that came since."""
        if body and body != self._answer:
            self._answer = self.described = body

    def refresh_target(self, request: Request) -> None:
        """The peer moved (RFC 3311 §5.1); an answer with the Contact of before moves it back."""
        self.dialog.refresh_target(request)
        self._contact = request.headers.get("contact")

    def same_route(self, response: Response) -> bool:
        headers = response.headers
        return (
            headers["to"] == self._to
            and headers.get("contact") == self._contact
            and headers.get("record-route") == self._record_route
            and response.cseq == self.dialog.invite_cseq
        )


def _nothing_more(exchange: Exchange, event: Response | Failure) -> None:
    """The BYE to a fork that lost: its dialog is nobody's."""
