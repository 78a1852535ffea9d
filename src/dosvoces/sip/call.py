"""
A call of either direction once its dialog stands: BYE, re-INVITE and UPDATE both ways, OPTIONS, INFO, and one end.

What comes before the answer differs by direction and is in `outgoing` and `incoming`.
"""

import enum
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from .api import SDP, CallEnd, CallHandler, CallStateError, DialogFacts, EndCause, Hop, Later
from .dialog import Dialog
from .exchange import Account, Exchange
from .message import Request, Response, clean, tag
from .reply import ACCEPT, ALLOW, KNOWN_METHODS, ReplyHead
from .timers import Timer
from .transaction import T1, TIMEOUT, Failure, InviteServer

if TYPE_CHECKING:
    from .ua import UserAgent

MAX_RETRY_AFTER = 10  # seconds, RFC 3261 §14.2
GLARE_WAIT_OWNER = (2.1, 4.0)  # seconds, RFC 3261 §14.1: whoever made the Call-ID
GLARE_WAIT_OTHER = (0.0, 2.0)  # seconds, RFC 3261 §14.1

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


class Call:
    """
    One call. Its methods may be used at any moment, in the handler's methods too; times are the user agent's.

    After `on_ended` it is of no more use; what must still be cleaned up on the wire goes on without it.
    """

    __slots__ = (
        "_account",
        "_dialog",
        "_end",
        "_glare_wait",
        "_handler",
        "_offered",
        "_open_offer",
        "_phase",
        "_reinvite",
        "_reinvite_body",
        "_reinvite_done",
        "_reinvite_timer",
        "_server",
        "_ua",
        "answered",
        "peers",
    )

    def __init__(self, ua: "UserAgent", dialog: Dialog, handler: CallHandler | None, account: Account | None) -> None:
        self.peers: set[str] = set()
        """Addresses whose requests are this call's, besides the agent's own peers."""
        self.answered = False
        """Whether a 2xx was sent or received; stays true after the end."""
        self._ua = ua
        self._dialog = dialog
        self._handler = handler
        self._account = account
        self._phase = Phase.STARTING
        self._end: CallEnd | None = None
        self._server: InviteServer | None = None
        """The peer's INVITE that has no final answer or whose 2xx has no ACK."""
        self._offered = False
        """Whether that 2xx carried our offer, so that the ACK carries the answer."""
        self._open_offer: tuple[Request, ReplyHead] | None = None
        """The peer's re-INVITE that the handler answers later."""
        self._reinvite: Exchange | None = None
        self._reinvite_body = b""
        self._reinvite_done: ReinviteDone | None = None
        self._reinvite_timer: Timer | None = None
        self._glare_wait = GLARE_WAIT_OTHER

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
    def over(self) -> bool:
        """Whether the end has been reported."""
        return self._phase is Phase.OVER

    @property
    def facts(self) -> DialogFacts:
        """What a later process needs to hang this call up; good from the answer on."""
        return self._dialog.facts()

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

    def reinvite(self, body: bytes, done: ReinviteDone) -> None:
        """
        Offer another session. Glare (491) is tried again once, as RFC 3261 §14.1 says.

        Raises `CallStateError` when the call isn't up or an offer of either side is under way. `done` isn't called
        if the call ends first by other means.
        """
        if self._phase is not Phase.TALKING or self._reinvite_done is not None or self._server is not None:
            raise CallStateError("the call is not up, or an offer is under way")
        self._ua.enter()
        self._reinvite_body = body
        self._reinvite_done = done
        self._send_reinvite(self._reinvite_event)
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

    def _withdraw(self, extra: tuple[str, ...]) -> None:
        """End a call that has no final answer."""
        raise NotImplementedError

    def _acknowledged(self, body: bytes) -> None:
        """The ACK to our 2xx came."""
        if self._offered and self._handler is not None:
            self._offered = False
            self._handler.on_answer_to_offer(body)

    def _serve_early(self, request: Request, source: Hop, key: str) -> None:
        """A request of the peer before the answer."""
        raise NotImplementedError

    def knows(self, remote_tag: str) -> bool:
        """Whether a request with this From tag is of this call."""
        return remote_tag == self._dialog.remote_tag

    # -- the end ----------------------------------------------------------------------------------------------------

    def _leave(self, end: CallEnd, extra: tuple[str, ...] = ()) -> None:
        """Send BYE; `end` is reported when that is over."""
        self._drop_offer()
        self._phase = Phase.LEAVING
        self._end = end
        self._ua.wire.timers.stop(self._reinvite_timer)
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
            end = _with_detail(end, f"BYE: {event.code} {clean(event.phrase)}")
        self._finish(end)

    def _finish(self, end: CallEnd) -> None:
        if self._phase is Phase.OVER:
            return
        self._drop_offer()
        self._phase = Phase.OVER
        self._end = end
        self._ua.wire.timers.stop(self._reinvite_timer)
        if self._reinvite is not None:
            self._reinvite.abandon()
        self._reinvite = self._reinvite_timer = self._reinvite_done = None
        self._reinvite_body = b""
        self._ua.ended(self)
        handler, self._handler = self._handler, None
        if handler is not None:
            handler.on_ended(end)

    # -- our re-INVITE ----------------------------------------------------------------------------------------------

    def _send_reinvite(self, event: Callable[[Exchange, Response | Failure], None]) -> None:
        self._reinvite = Exchange(
            self._ua, self._dialog, "INVITE", event, account=self._account, body=self._reinvite_body
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
                return
            if event.code < 300:
                # RFC 3261 §12.2.1.2: the target first, the ACK goes there.
                self._dialog.refresh_target(event)
                exchange.acknowledge(event, self._dialog)
        if exchange is not self._reinvite or self._phase is not Phase.TALKING:
            return
        exchange.release()
        self._ua.wire.timers.stop(self._reinvite_timer)
        self._settle_reinvite(event)

    def _reinvite_timeout(self) -> None:
        if self._reinvite is not None and self._phase is Phase.TALKING:
            self._reinvite.abandon()
            self._settle_reinvite(Failure.TIMEOUT)

    def _settle_reinvite(self, event: Response | Failure) -> None:
        done, self._reinvite, self._reinvite_done = self._reinvite_done, None, None
        status = event.code if isinstance(event, Response) else None
        if done is not None:
            done(status, event.body if isinstance(event, Response) and event.code < 300 else b"")
        if self._phase is not Phase.TALKING:
            return
        # RFC 3261 §12.2.1.2, §14.1: after 481, 408 or silence the dialog is over.
        if status == 481:
            self._finish(CallEnd(EndCause.PROTOCOL, "remote", 481, "Call/Transaction Does Not Exist", "re-INVITE"))
        elif status in (None, 408):
            self._leave(CallEnd(EndCause.TIMEOUT, "remote", status, "re-INVITE not answered"))

    # -- requests of the peer ---------------------------------------------------------------------------------------

    def serve(self, request: Request, source: Hop, key: str) -> None:
        """Answer a request within this call; `key` names its server transaction, which is a new one."""
        if request.method == "ACK":
            self._serve_ack(request)
            return
        if request.cseq < self._dialog.remote_cseq and self._of_dialog(request):
            self._refuse(request, source, key, 500)  # RFC 3261 §12.2.2: out of order
            return
        required = request.values("require")
        if required and request.method != "BYE":  # a BYE is never refused for what it asks besides
            self._refuse(request, source, key, 420, f"Unsupported: {', '.join(required)}")  # RFC 3261 §8.2.2.3
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
        else:
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
        server.respond(200, head.compose(200, lines=(self.contact, ALLOW, *self._ua.server_lines), body=body))

    def _drop_offer(self) -> None:
        """RFC 3261 §15.1.2: what waits for an answer when the call ends gets 487."""
        if self._open_offer is not None and self._server is not None:
            self._server.respond(487, self._open_offer[1].compose(487, lines=self._ua.server_lines))
            self._server = None
        self._open_offer = None

    def _serve_update(self, request: Request, source: Hop, key: str) -> None:
        if self._phase is Phase.LEAVING:
            self._refuse(request, source, key, 481)
        elif not request.body:
            self._dialog.refresh_target(request)
            self._reply(request, source, key, 200, (self.contact, ALLOW))
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
            self._reply(request, source, key, 200, (self.contact, ALLOW), body)

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
        # RFC 3261 §8.2.1; 501 for what nobody knows.
        if request.method in KNOWN_METHODS:
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
    return CallEnd(EndCause.HANGUP, "remote", None, "BYE", clean(request.header("reason")))


def _with_detail(end: CallEnd, detail: str) -> CallEnd:
    together = f"{end.detail}; {detail}" if end.detail else detail
    return CallEnd(end.cause, end.by, end.status, end.phrase, together)
