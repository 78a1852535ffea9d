"""
A call of ours until it is answered: INVITE, provisional answers, CANCEL, forks, and the races between them.

Whoever answers is either the call's peer or is hung up at once: a second fork, an answer after CANCEL, an answer after
we gave up.
"""

from typing import TYPE_CHECKING

from .api import CallEnd, CallHandler, EndCause, Hop, Invitation, header_lines, quoted
from .call import GLARE_WAIT_OWNER, Call, Phase, hung_up_by_peer
from .dialog import Dialog
from .exchange import Account, Exchange
from .message import Request, Response, clean, tag
from .timers import Timer
from .transaction import MAX_FORKS, TIMEOUT, Failure, InviteClient, State

if TYPE_CHECKING:
    from .ua import UserAgent


class OutgoingCall(Call):
    """A call that we make."""

    __slots__ = ("_cancel_lines", "_cancel_timer", "_cancelled", "_early", "_heard", "_invite", "_losers")

    def __init__(self, ua: "UserAgent", invitation: Invitation, handler: CallHandler) -> None:
        """Send the INVITE."""
        local_tag = ua.token()
        destination = Hop(*invitation.destination)
        name = f"{quoted(invitation.from_name)} " if invitation.from_name else ""
        dialog = Dialog(
            call_id=invitation.call_id,
            local=f"{name}<{invitation.from_uri}>;tag={local_tag}",
            local_tag=local_tag,
            remote=f"<{invitation.to_uri}>",
            remote_target=invitation.request_uri,
            fallback=destination,
        )
        account = Account(invitation.credentials) if invitation.credentials else None
        super().__init__(ua, dialog, handler, account)
        self._glare_wait = GLARE_WAIT_OWNER
        self._early: set[str] | None = None
        self._losers: set[str] | None = None
        """To tags of forks that answered and were hung up."""
        self._cancel_lines: tuple[str, ...] | None = None
        """Not `None` once a hang-up was asked for; holds the CANCEL's further headers."""
        self._cancelled = False
        """Whether the CANCEL has left."""
        self._cancel_timer: Timer | None = None
        self._heard = 0
        """The highest provisional status that came."""
        # A name as target goes to `destination`, so that an outbound proxy needs no Route header.
        self._invite: Exchange | None = Exchange(
            ua,
            dialog,
            "INVITE",
            self._invite_event,
            account=account,
            body=invitation.body,
            content_type=invitation.content_type,
            extra=header_lines(invitation.headers),
            destination=destination,
            limit=TIMEOUT if invitation.silence_limit_s is None else invitation.silence_limit_s,
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
            self._failed(event)
        elif event.code < 200:
            self._provisional(exchange, event)
        elif event.code < 300:
            self._accepted(exchange, event)
        else:
            self._rejected(event)

    def _provisional(self, exchange: Exchange, response: Response) -> None:
        self._heard = max(self._heard, response.code)
        if self._phase is Phase.OVER:
            if not self._cancelled:
                # Given up before it gave a sign (RFC 3261 §9.1 forbids to cancel then); now it stirs.
                self._cancelled = True
                exchange.cancel()
            return
        if self._cancel_lines is not None:
            self._send_cancel()
            return
        if response.code == 100:
            return
        to_tag = tag(response.header("to"))
        if to_tag and self._phase is Phase.STARTING:
            if self._early is None:
                self._early = set()
            if to_tag not in self._early and len(self._early) < MAX_FORKS:
                self._early.add(to_tag)
                self._ua.learn(self, self._dialog.established_by(response).hosts())
        if self._handler is not None:
            self._handler.on_progress(response.code, clean(response.phrase), response.body)

    def _accepted(self, exchange: Exchange, response: Response) -> None:
        dialog = self._dialog.established_by(response)
        self._ua.learn(self, dialog.hosts())
        exchange.acknowledge(response, dialog)
        exchange.release()
        if self._phase is Phase.OVER or self.answered:
            self._hang_up_loser(dialog)
            if self._phase is Phase.OVER:
                self._ua.unlearn_later(self)
            return
        self.answered = True
        self._dialog = dialog
        self._invite = None
        self._early = None
        self._ua.wire.timers.stop(self._cancel_timer)
        if self._phase is Phase.LEAVING:
            # RFC 3261 §9.1, §15: the answer overtook the CANCEL, so it takes a BYE.
            self._end = self._end or CallEnd(EndCause.CANCELLED, "local", None, "", "answered meanwhile")
            self._send_bye(self._cancel_lines or ())
            return
        self._phase = Phase.TALKING
        if self._handler is not None:
            self._handler.on_answer(response.body, dialog.facts())

    def _hang_up_loser(self, dialog: Dialog) -> None:
        if self._losers is None:
            self._losers = set()
        self._losers.add(dialog.remote_tag)
        Exchange(self._ua, dialog, "BYE", _nothing_more, account=self._account)

    def _rejected(self, response: Response) -> None:
        # RFC 3261 §8.1.3.4 would allow to follow a 3xx; but whoever sends one could make us dial anything.
        reason = clean(response.header("reason"))
        if self._end is not None:
            self._conclude(self._end)
        elif self._cancel_lines is not None and response.code in (401, 407, 487):
            self._conclude(CallEnd(EndCause.CANCELLED, "local", response.code, clean(response.phrase), reason))
        else:
            phrase, retry_after_s = clean(response.phrase), _retry_after_s(response)
            self._conclude(
                CallEnd(EndCause.REJECTED, "remote", response.code, phrase, reason, self._heard, retry_after_s)
            )

    def _failed(self, failure: Failure) -> None:
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
        # RFC 3261 §9.1: before any provisional answer the CANCEL is held back; the next 1xx lets it go.

    def _send_cancel(self) -> None:
        if self._cancelled or self._invite is None:
            return
        self._cancelled = True
        self._invite.cancel(self._cancel_lines or ())
        self._cancel_timer = self._ua.wire.after(TIMEOUT, self._cancel_timeout)

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

    def _serve_early(self, request: Request, source: Hop, key: str) -> None:
        method = request.method
        if method == "BYE":
            # RFC 3261 §15 forbids it to the callee before its 200, which may be lost or late: it is hung up too.
            self._reply(request, source, key, 200)
            if self._end is None and self._phase is Phase.STARTING:
                self._end = hung_up_by_peer(request)
                self._withdraw(())
        elif self._early is None or tag(request.header("from")) not in self._early:
            self._refuse(request, source, key, 481)
        elif method in ("INVITE", "UPDATE") and (request.body or method == "INVITE"):
            self._refuse(request, source, key, 491)  # RFC 3311 §5.2: our first offer has no answer yet
        elif method == "UPDATE":
            self._serve_update(request, source, key)
        elif method == "INFO":
            self._serve_info(request, source, key)
        elif method == "OPTIONS":
            self._serve_options(request, source, key)
        else:
            self._serve_other(request, source, key)


def _retry_after_s(response: Response) -> int | None:
    """Retry-After without its comment and parameters (RFC 3261 §20.33)."""
    value = response.header("retry-after").partition(";")[0].partition("(")[0].strip()
    return int(value) if value.isascii() and value.isdigit() and len(value) <= 6 else None


def _nothing_more(exchange: Exchange, event: Response | Failure) -> None:
    """The BYE to a fork that lost: its dialog is nobody's."""
