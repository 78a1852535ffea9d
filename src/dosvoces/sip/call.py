"""
A call of either direction once its dialog stands: BYE, re-INVITE and UPDATE both ways, OPTIONS, INFO, and one end.

What comes before the answer differs by direction and is in `outgoing` and `incoming`.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from .account import Account
from .api import SDP, CallEnd, CallHandler, DialogFacts, EndCause, Hop, Later
from .dialog import Dialog
from .exchange import Exchange, ack
from .message import Message, Request, Response, clean, tag
from .offering import GLARE_WAIT_OWNER, Offering, Phase, ReinviteDone
from .reply import ACCEPT, ALLOW, KNOWN_METHODS, ReplyHead, unsupported
from .server_transaction import InviteServer
from .session_timer import Agreement, agreed_by_request, too_short
from .transaction import Failure

if TYPE_CHECKING:
    from .ua import UserAgent

MAX_RETRY_AFTER = 10  # seconds, RFC 3261 §14.2

__all__ = ["GLARE_WAIT_OWNER", "Call", "Phase", "ReinviteDone", "hung_up_by_peer", "reason_text"]


class Call(Offering):
    """
    One call. Its methods may be used at any moment, in the handler's methods too; times are the user agent's.

    After `on_ended` it is of no more use; what must still be cleaned up on the wire goes on without it.
    """

    __slots__ = ("_end", "_offered", "_open_offer", "answered", "peers")

    def __init__(self, ua: "UserAgent", dialog: Dialog, handler: CallHandler | None, account: Account | None) -> None:
        super().__init__(ua, dialog, handler, account)
        self.peers: set[str] = set()
        """Addresses whose requests are this call's, besides the agent's own peers."""
        self.answered = False
        """Whether a 2xx was sent or received; stays true after the end."""
        self._end: CallEnd | None = None
        self._offered = False
        """Whether the 2xx to the peer's open INVITE carried our offer, so that the ACK carries the answer."""
        self._open_offer: tuple[Request, ReplyHead] | None = None
        """The peer's re-INVITE that the handler answers later."""

    @property
    def call_id(self) -> str:
        return self._dialog.call_id

    @property
    def local_tag(self) -> str:
        return self._dialog.local_tag

    @property
    def contact(self) -> str:
        """Our Contact line: by the transport that the dialog began with."""
        return self._ua.contacts[self._dialog.fallback.transport]

    @property
    def hop(self) -> Hop:
        """Where the next request of this call would go."""
        return self._dialog.destination

    @property
    def hosts(self) -> list[str]:
        """The addresses that this call goes to: its requests may come from there."""
        return [self._dialog.fallback.host, *self._dialog.hosts()]

    @property
    def offer_waits(self) -> bool:
        """Whether an offer of the peer waits for `answer_offer`; not if it was cancelled."""
        return self._open_offer is not None

    @property
    def over(self) -> bool:
        """Whether the end has been reported."""
        return self._phase is Phase.OVER

    @property
    def facts(self) -> DialogFacts:
        """What a later process needs to hang this call up; good from the answer on."""
        return self._facts(self._dialog)

    def _facts(self, dialog: Dialog) -> DialogFacts:
        realms = self._account.realms if self._account is not None else ()
        return replace(dialog.facts(), realms=tuple(sorted(map(clean, realms))))

    # -- what the user asks for -------------------------------------------------------------------------------------

    def hangup(self, reason: str | None = None) -> None:
        """
        End the call, whatever its state; idempotent. `on_ended` follows when nobody is left on the line.

        `reason` is the value of a Reason header (RFC 3326) for the CANCEL or BYE.
        """
        if self._phase in (Phase.LEAVING, Phase.OVER):
            return
        self._ua.enter()
        extra = (f"Reason: {clean(reason)}",) if reason else ()
        if self._phase is Phase.STARTING:
            self._withdraw(extra)
        else:
            self._leave(CallEnd(EndCause.HANGUP, "local"), extra)
        self._ua.wake()

    def answer_offer(self, body: bytes | None) -> None:
        """Answer the offer that `on_offer` put off; `None` refuses it with 488. Nothing happens if nobody waits."""
        if self._open_offer is None or self._phase is not Phase.TALKING:
            return
        self._ua.enter()
        (request, head), self._open_offer = self._open_offer, None
        self._settle_offer(request, head, body)
        self._ua.wake()

    # -- what differs by direction ----------------------------------------------------------------------------------

    @abstractmethod
    def _withdraw(self, extra: tuple[str, ...]) -> None:
        """End a call that has no final answer."""

    def _acknowledged(self, body: bytes) -> None:
        """The ACK to our 2xx came."""
        if self._offered and self._handler is not None:
            self._offered = False
            self._handler.on_answer_to_offer(body)

    @abstractmethod
    def _serve_early(self, request: Request, source: Hop, key: str) -> None:
        """A request of the peer before the answer."""

    def knows(self, remote_tag: str) -> bool:
        """Whether a request with this From tag is of this call."""
        return remote_tag == self._dialog.remote_tag

    def has_answer(self, response: Response) -> bool:
        """Whether this 2xx to an INVITE is of this call's own, answered dialog."""
        dialog = self._dialog
        same_call = self.answered and response.header("call-id") == dialog.call_id
        return same_call and tag(response.header("to")) == dialog.remote_tag

    def acknowledge_again(self, response: Response) -> None:
        """
        ACK a 2xx whose branch no transaction knows any more: it comes late, or the peer changed the Via.

        RFC 3261 §13.2.2.4 wants an ACK for each; a BYE would end a call that is up.
        """
        if 0 < response.cseq <= self._dialog.local_cseq:
            destination = self._dialog.destination
            self._ua.wire.send(ack(self._ua, self._dialog, destination, response.cseq), destination)

    # -- the end ----------------------------------------------------------------------------------------------------

    def _leave(self, end: CallEnd, extra: tuple[str, ...] = ()) -> None:
        """Send BYE; `end` is reported when that is over."""
        self._drop_offer()
        self._phase = Phase.LEAVING
        self._end = end
        self._stop_timers()
        self._send_bye(extra)

    def _send_bye(self, extra: tuple[str, ...] = ()) -> None:
        Exchange(self._ua, self._dialog, "BYE", self._bye_event, account=self._account, extra=extra)

    def _bye_event(self, exchange: Exchange, event: Response | Failure) -> None:
        end = self._end
        assert end is not None  # set by whoever sends a BYE
        if end.cause is EndCause.HANGUP and end.by == "remote":
            pass  # the peer was first, so that a 481 is no news
        elif isinstance(event, Failure):
            end = _with_detail(end, f"BYE: {event.value}")
        elif event.code >= 300:
            # Gone in any case (RFC 3261 §15.1.1); that it was no 200 is worth knowing.
            end = replace(_with_detail(end, f"BYE: {event.code} {clean(event.phrase)}"), withheld=exchange.withheld)
        self._finish(end)

    def _finish(self, end: CallEnd) -> None:
        if self._phase is Phase.OVER:
            return
        self._drop_offer()
        self._phase = Phase.OVER
        self._end = end
        self._stop_timers()
        if self._reinvite is not None:
            self._reinvite.abandon()
        self._reinvite = self._reinvite_done = None
        self._reinvite_body = self._described = b""
        self._ua.ended(self)
        handler, self._handler = self._handler, None
        if handler is not None:
            handler.on_ended(end)

    # -- requests of the peer ---------------------------------------------------------------------------------------

    def serve(self, request: Request, source: Hop, key: str) -> None:
        """Answer a request within this call; `key` names its server transaction, which is a new one."""
        if request.method == "ACK":
            self._serve_ack(request)
            return
        if request.cseq < self._dialog.remote_cseq and self._of_dialog(request):
            self._refuse(request, source, key, 500)  # RFC 3261 §12.2.2: out of order
            return
        unknown = unsupported(request)
        if unknown and request.method != "BYE":  # a BYE is never refused for what it asks besides
            self._refuse(request, source, key, 420, f"Unsupported: {', '.join(unknown)}")  # RFC 3261 §8.2.2.3
        elif self._phase is Phase.STARTING:
            self._serve_early(request, source, key)
        else:
            self._dialog.remote_cseq = request.cseq
            serve = self._SERVED.get(request.method, Call._serve_other)
            serve(self, request, source, key)

    def _of_dialog(self, request: Request) -> bool:
        return tag(request.header("from")) == self._dialog.remote_tag

    def _serve_ack(self, request: Request) -> None:
        server = self._server
        if server is not None and request.cseq == server.cseq and server.acknowledged():
            self._server = None
            self._acknowledged(request.body)

    def _serve_bye(self, request: Request, source: Hop, key: str) -> None:
        self._reply(request, source, key, 200)
        self._drop_offer()
        if self._server is not None:
            # RFC 3261 §15.1.2: the peer that hangs up won't acknowledge any more.
            self._server.acknowledged()
            self._server = None
        if self._phase is Phase.LEAVING and self._end is not None:
            self._finish(self._end)  # both hung up: our BYE may get a 481, which is fine
        else:
            self._finish(hung_up_by_peer(request))

    def _serve_invite(self, request: Request, source: Hop, key: str) -> None:
        if self._phase is Phase.LEAVING:
            self._refuse(request, source, key, 481)
        elif self._reinvite is not None:
            self._refuse(request, source, key, 491)  # RFC 3261 §14.2: glare
        elif self._server is not None:
            self._refuse(request, source, key, 500, self._retry_after())  # RFC 3261 §14.2, RFC 5407 §3.1.5
        elif request.body and request.content_type != SDP:
            self._refuse(request, source, key, 415, ACCEPT)
        elif "replaces" in request.headers:
            self._refuse(request, source, key, 400)  # RFC 3891 §3: it has no place within a dialog
        elif not self._refused_as_too_short(request, source, key):
            self._answer_offer(request, source, key)

    def _answer_offer(self, request: Request, source: Hop, key: str) -> None:
        head = ReplyHead(request, source, self.local_tag)
        server = InviteServer(self._ua.wire, key, request.cseq, head.destination, self)
        self._server = server
        body = self._handler.on_offer(request.body or None) if self._handler is not None else None
        if isinstance(body, Later):
            server.respond(100, head.compose(100))
            self._open_offer = request, head
            body.ask()
        else:
            self._settle_offer(request, head, body)

    def _settle_offer(self, request: Request, head: ReplyHead, body: bytes | None) -> None:
        server = self._server
        assert server is not None, "the offer is open"
        if body is None or self._phase is not Phase.TALKING:
            self._server = None
            server.respond(488, head.compose(488, lines=self._ua.server_lines))
            return
        self._offered = not request.body
        self._dialog.refresh_target(request)
        self._ua.learn(self, self._dialog.hosts())
        self._described = body
        lines = (self.contact, ALLOW, *self._refreshed_by(request), *self._ua.server_lines)
        server.respond(200, head.compose(200, lines=lines, body=body))

    def _refused_as_too_short(self, request: Request, source: Hop, key: str) -> bool:
        """RFC 4028 §9: 422 to whoever wants to refresh more often than we stand for."""
        if "session-expires" not in request.headers or not too_short(request, self._ua.session):
            return False
        self._refuse(request, source, key, 422, f"Min-SE: {self._ua.session.min_s}")
        return True

    def _refreshed_by(self, request: Request) -> tuple[str, ...]:
        """The peer's request is about to be accepted: begin the session timer anew; what our 2xx says of it."""
        if self._agreement is None and "session-expires" not in request.headers:
            return ()
        agreement: Agreement | None = agreed_by_request(request, self._ua.session, self._agreement)
        self._agree(agreement, request)
        return agreement.answer_lines if agreement is not None else ()

    def _drop_offer(self) -> None:
        """RFC 3261 §15.1.2: what waits for an answer when the call ends gets 487."""
        if self._open_offer is not None and self._server is not None:
            self._server.respond(487, self._open_offer[1].compose(487, lines=self._ua.server_lines))
            self._server = None
        self._open_offer = None

    def _serve_update(self, request: Request, source: Hop, key: str) -> None:
        if self._phase is Phase.LEAVING:
            self._refuse(request, source, key, 481)
        elif self._refused_as_too_short(request, source, key):
            return
        elif not request.body:
            self._dialog.refresh_target(request)
            lines = self._refreshed_by(request) if self._phase is Phase.TALKING else ()
            self._reply(request, source, key, 200, (self.contact, ALLOW, *lines))
        elif request.content_type != SDP:
            self._refuse(request, source, key, 415, ACCEPT)
        elif self._reinvite is not None:
            self._refuse(request, source, key, 491)  # RFC 3311 §5.2: our offer is out
        elif self._server is not None:
            self._refuse(request, source, key, 500, self._retry_after())
        else:
            body = self._handler.on_offer(request.body) if self._handler is not None else None
            if body is None or isinstance(body, Later):
                self._refuse(request, source, key, 488)
                return
            self._dialog.refresh_target(request)
            self._described = body
            self._reply(request, source, key, 200, (self.contact, ALLOW, *self._refreshed_by(request)), body)

    def _serve_options(self, request: Request, source: Hop, key: str) -> None:
        self._reply(request, source, key, 200, (ALLOW, ACCEPT))

    def _serve_info(self, request: Request, source: Hop, key: str) -> None:
        if self._phase is Phase.LEAVING:
            self._refuse(request, source, key, 481)
            return
        self._reply(request, source, key, 200)
        if self._handler is not None:
            self._handler.on_info(clean(request.content_type), request.body)

    def _serve_other(self, request: Request, source: Hop, key: str) -> None:
        # RFC 3261 §8.2.1; 501 for what nobody knows. RFC 3262 §3: 481 to a PRACK, since we answer nothing reliably.
        if request.method == "PRACK":
            self._refuse(request, source, key, 481)
        elif request.method in KNOWN_METHODS:
            self._refuse(request, source, key, 405, ALLOW)
        else:
            self._refuse(request, source, key, 501, ALLOW)

    _SERVED: ClassVar[dict[str, Callable[["Call", Request, Hop, str], None]]] = {
        "BYE": _serve_bye,
        "INVITE": _serve_invite,
        "UPDATE": _serve_update,
        "OPTIONS": _serve_options,
        "INFO": _serve_info,
    }

    def _retry_after(self) -> str:
        return f"Retry-After: {int(self._ua.uniform(0, MAX_RETRY_AFTER))}"

    def _refuse(self, request: Request, source: Hop, key: str, code: int, *lines: str) -> None:
        self._ua.reply(request, source, key, code, lines, to_tag=self.local_tag)

    def _reply(
        self, request: Request, source: Hop, key: str, code: int, lines: tuple[str, ...] = (), body: bytes = b""
    ) -> None:
        self._ua.reply(request, source, key, code, lines, body, self.local_tag)

    # -- InviteServerUser -------------------------------------------------------------------------------------------

    def on_cancel(self, reason: str) -> None:
        """Of a re-INVITE whose answer was put off."""
        self._drop_offer()

    def on_unacknowledged(self) -> None:
        self._server = None
        if self._phase is Phase.TALKING:
            # RFC 3261 §13.3.1.4, §14.2: no ACK, no session.
            self._leave(CallEnd(EndCause.TIMEOUT, "remote", None, "no ACK to our answer"))


def hung_up_by_peer(request: Request) -> CallEnd:
    """The end that a BYE of the peer makes."""
    return CallEnd(EndCause.HANGUP, "remote", None, "BYE", reason_text(request))


def reason_text(message: Message) -> str:
    """The Reason header (RFC 3326) with all its values, as it came."""
    return clean(", ".join(message.values("reason")))


def _with_detail(end: CallEnd, detail: str) -> CallEnd:
    together = f"{end.detail}; {detail}" if end.detail else detail
    return replace(end, detail=together)
