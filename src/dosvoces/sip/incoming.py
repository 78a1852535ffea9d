"""A call of the peer until we answer it: ringing, early media, answer, refusal, and the peer's CANCEL."""

from typing import TYPE_CHECKING

from .api import SDP, CallEnd, CallHandler, CallStateError, EndCause, Hop
from .call import Call, Phase, hung_up_by_peer
from .dialog import Dialog
from .message import Request, address_uri, clean, split_values, tag
from .reply import ALLOW, ReplyHead
from .server_transaction import InviteServer

if TYPE_CHECKING:
    from .ua import UserAgent


class IncomingCall(Call):
    """A call to us. Nothing is sent until one of its methods is used, but for 100 Trying."""

    __slots__ = (
        "_bye_lines",
        "_confirmed",
        "_head",
        "_timed",
        "content_type",
        "from_uri",
        "offer",
        "request_uri",
        "source",
        "to_uri",
    )

    def __init__(self, ua: "UserAgent", request: Request, source: Hop, key: str) -> None:
        local_tag = ua.token()
        remote = request.header("from")
        dialog = Dialog(
            call_id=request.header("call-id"),
            local=f"{request.header('to')};tag={local_tag}",
            local_tag=local_tag,
            remote=remote,
            remote_target=address_uri(remote),
            fallback=source,
        )
        dialog.remote_tag = tag(remote)
        dialog.remote_cseq = request.cseq
        dialog.route_set = tuple(split_values(request.values("record-route")))  # RFC 3261 §12.1.1: in order
        dialog.refresh_target(request)
        super().__init__(ua, dialog, None, None)
        self.source = source
        """Where the INVITE came from."""
        self.request_uri = clean(request.uri)
        self.from_uri = clean(address_uri(remote))
        self.to_uri = clean(address_uri(request.header("to")))
        self.offer = request.body
        """The caller's SDP; empty if it wants ours (its answer then comes with `on_confirmed`)."""
        self.content_type = request.content_type
        self._timed = request if "session-expires" in request.headers else None
        """The INVITE, if it asks for a session timer."""
        self._bye_lines: tuple[str, ...] | None = None
        """Not `None` when a hang-up waits for the ACK."""
        self._confirmed = False
        """Whether the ACK of the first INVITE has come."""
        self._head: ReplyHead | None = ReplyHead(request, source, local_tag)
        self._server = InviteServer(ua.wire, key, request.cseq, self._head.destination, self, local_tag)
        ua.learn(self, [source[0], *dialog.hosts()])

    def begin(self, handler: CallHandler | None) -> None:
        """Take the handler that the user's callback returned; `None` is silence, unless an answer has left already."""
        if self._phase is Phase.OVER:
            if handler is not None and self._end is not None:
                handler.on_ended(self._end)
            return
        self._handler = handler
        if self._phase is Phase.STARTING and self._server is not None and not self._server.answering:
            if handler is None:
                self._server.forget()
                self._server = None
                self._phase = Phase.OVER
                self._ua.ended(self)
            else:
                self.provisional(100)

    def ring(self) -> None:
        """Send 180. May be used again; nothing happens once the call is answered or over."""
        self.provisional(180)

    def progress(self, body: bytes) -> None:
        """Send 183 with early media's SDP."""
        self.provisional(183, body)

    def provisional(self, code: int, body: bytes = b"") -> None:
        """Send a provisional answer."""
        if self._phase is Phase.STARTING:
            self._respond(code, "", (self.contact, ALLOW) if code > 100 else (), body)

    def answer(self, body: bytes, content_type: str = SDP) -> None:
        """
        Accept with our SDP. The 200 is repeated until the ACK comes; without one the call is hung up after 32 s.

        Raises `CallStateError` if the call is answered or over already.
        """
        if self._phase is not Phase.STARTING:
            raise CallStateError("the call is answered or over")
        self.answered = True
        self._phase = Phase.TALKING
        self._described = body
        self._ua.enter()
        lines = self._refreshed_by(self._timed) if self._timed is not None else ()
        self._respond(200, "", (self.contact, ALLOW, *lines), body, content_type)
        self._head = self._timed = None

    def reject(self, status: int = 603, phrase: str = "", headers: tuple[tuple[str, str], ...] = ()) -> None:
        """Refuse with a final answer of 300 to 699. Raises `CallStateError` if the call is answered or over already."""
        if self._phase is not Phase.STARTING:
            raise CallStateError("the call is answered or over")
        if not 300 <= status <= 699:
            raise CallStateError(f"{status} refuses nothing")
        self._refuse_call(status, phrase, tuple(f"{name}: {value}" for name, value in headers))
        self._finish(CallEnd(EndCause.REJECTED, "local", status, phrase))

    def _respond(
        self, code: int, phrase: str, lines: tuple[str, ...], body: bytes = b"", content_type: str = SDP
    ) -> None:
        assert self._head is not None
        assert self._server is not None
        self._ua.enter()
        lines = (*lines, *self._ua.server_lines)
        self._server.respond(code, self._head.compose(code, phrase, lines, body, content_type))
        self._ua.wake()

    def _refuse_call(self, status: int, phrase: str = "", lines: tuple[str, ...] = ()) -> None:
        self._respond(status, phrase, lines)
        self._server = self._head = None

    def _withdraw(self, extra: tuple[str, ...]) -> None:
        self._refuse_call(480, "", extra)
        self._finish(CallEnd(EndCause.HANGUP, "local", 480))

    def _send_bye(self, extra: tuple[str, ...] = ()) -> None:
        if self._server is not None and not self._confirmed:
            # RFC 3261 §15: the callee's BYE waits for the ACK to its 2xx, or until there won't be one.
            self._bye_lines = extra
            return
        super()._send_bye(extra)

    def _acknowledged(self, body: bytes) -> None:
        if self._confirmed:
            super()._acknowledged(body)
            return
        self._confirmed = True
        if self._bye_lines is not None:
            super()._send_bye(self._bye_lines)
        elif self._handler is not None:
            self._handler.on_confirmed(body)

    def _serve_early(self, request: Request, source: Hop, key: str) -> None:
        if request.method == "BYE":
            # RFC 3261 §15: the caller may end an early dialog with BYE; the INVITE then gets 487.
            self._reply(request, source, key, 200)
            self._refuse_call(487)
            self._finish(hung_up_by_peer(request))
        elif request.method == "INVITE":
            self._refuse(request, source, key, 500, self._retry_after())  # RFC 3261 §14.2
        elif request.method == "UPDATE" and request.body:
            self._refuse(request, source, key, 500, self._retry_after())  # RFC 3311 §5.2: we owe an answer
        else:
            self._dialog.remote_cseq = request.cseq
            self._SERVED.get(request.method, Call._serve_other)(self, request, source, key)

    def on_cancel(self, reason: str) -> None:
        if self._phase is Phase.STARTING:
            self._refuse_call(487)
            self._finish(CallEnd(EndCause.CANCELLED, "remote", 487, "", clean(reason)))
        else:
            super().on_cancel(reason)

    def on_unacknowledged(self) -> None:
        self._server = None
        if self._bye_lines is not None:
            super()._send_bye(self._bye_lines)
        else:
            super().on_unacknowledged()
