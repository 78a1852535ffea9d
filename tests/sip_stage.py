"""A user agent on a stage: a clock that the test turns, numbered tokens, and a peer whose messages the test writes."""

from collections.abc import Iterable

from dosvoces.sip.api import Address, CallEnd, CallHandler, DialogFacts, Hop, Invitation, Later
from dosvoces.sip.digest import Credentials
from dosvoces.sip.incoming import IncomingCall
from dosvoces.sip.message import Request, Response, compose, parse
from dosvoces.sip.outgoing import OutgoingCall
from dosvoces.sip.session_timer import DEFAULT_TERMS, SessionTerms
from dosvoces.sip.ua import UserAgent

LOCAL: Address = ("198.51.100.7", 5060)
TRUNK: Address = ("192.0.2.10", 5060)
OFFER = b"our offer"
ANSWER = b"the answer"
CONTACT = "<sip:agent@192.0.2.10:5060>"


class Recorder(CallHandler):
    """Writes down what it is told, and says what it was set up to say."""

    def __init__(self) -> None:
        self.told: list[object] = []
        self.says: bytes | Later | None = b"our answer"
        self.facts: DialogFacts | None = None

    def on_progress(self, status: int, phrase: str, body: bytes) -> None:
        self.told.append((status, phrase, body))

    def on_answer(self, body: bytes, facts: DialogFacts) -> None:
        self.facts = facts
        self.told.append(("answer", body))

    def on_confirmed(self, body: bytes) -> None:
        self.told.append(("confirmed", body))

    def on_offer(self, body: bytes | None) -> bytes | Later | None:
        self.told.append(("offer", body))
        return self.says

    def on_answer_to_offer(self, body: bytes) -> None:
        self.told.append(("answer to offer", body))

    def on_info(self, content_type: str, body: bytes) -> None:
        self.told.append(("info", content_type, body))

    def on_ended(self, end: CallEnd) -> None:
        self.told.append(end)

    @property
    def end(self) -> CallEnd:
        """The only end."""
        (end,) = [each for each in self.told if isinstance(each, CallEnd)]
        assert self.told[-1] is end
        return end


class Stage:
    """`LOCAL` is ours, `TRUNK` is the configured peer."""

    def __init__(
        self,
        *,
        answers_calls: bool = False,
        peers: Iterable[str] | None = (TRUNK[0],),
        session: SessionTerms = DEFAULT_TERMS,
    ) -> None:
        self.now = 0.0
        self.woken = 0
        self.incoming: list[IncomingCall] = []
        self.recorder = Recorder()
        self.handles = True
        self._tokens = 0
        self._peer_branches = 0
        self.ua = UserAgent(
            local=LOCAL,
            user_agent="Dosvoces",
            clock=lambda: self.now,
            token=self._token,
            uniform=lambda low, high: (low + high) / 2,
            peers=peers,
            wake=self._wake,
            on_invite=self._on_invite if answers_calls else None,
            session=session,
        )

    def _token(self) -> str:
        self._tokens += 1
        return f"{self._tokens:016x}"

    def token_from(self, number: int) -> None:
        """Go on with this token: a second process repeats none of the first's."""
        self._tokens = number

    def _wake(self) -> None:
        self.woken += 1

    def _on_invite(self, call: IncomingCall) -> CallHandler | None:
        self.incoming.append(call)
        return self.recorder if self.handles else None

    # -- what we do -------------------------------------------------------------------------------------------------

    def invite(self, credentials: Credentials | None = None, request_uri: str = "sip:600@example.com") -> OutgoingCall:
        self.recorder = Recorder()
        return self.ua.invite(
            Invitation(
                request_uri=request_uri,
                destination=TRUNK,
                from_uri="sip:910@example.com",
                to_uri="sip:600@example.com",
                call_id="leg-a",
                body=OFFER,
                credentials=credentials,
            ),
            self.recorder,
        )

    def talking(
        self, credentials: Credentials | None = None, headers: Iterable[tuple[str, str]] = ()
    ) -> tuple[OutgoingCall, Request]:
        """A call that is up, answered with these `headers`, and its INVITE; the outbox is empty."""
        call = self.invite(credentials)
        invite = self.request()
        self.answer(invite, 200, headers=headers, body=ANSWER)
        assert self.sent() == ["ACK"]
        self.recorder.told.clear()
        return call, invite

    # -- what the peer sees -----------------------------------------------------------------------------------------

    def messages(self) -> list[tuple[Request | Response, Hop | Address]]:
        """Take what waits to be sent; what goes over UDP with an address alone."""
        waiting = [(parse(data), hop if hop.transport != "udp" else hop[:2]) for data, hop in self.ua.outbox]
        self.ua.outbox.clear()
        return waiting

    def sent(self) -> list[str | int]:
        """Take what waits, as methods and codes."""
        return [each.method if isinstance(each, Request) else each.code for each, _destination in self.messages()]

    def request(self, method: str = "INVITE") -> Request:
        """Take the only message that waits, a request."""
        ((message, _destination),) = self.messages()
        assert isinstance(message, Request)
        assert message.method == method
        return message

    def response(self) -> Response:
        """Take the only message that waits, a response."""
        ((message, _destination),) = self.messages()
        assert isinstance(message, Response)
        return message

    # -- what the peer does -----------------------------------------------------------------------------------------

    def receive(self, data: bytes, source: Hop | Address = TRUNK) -> None:
        self.ua.receive(data, Hop(*source), self.now)

    def answer(
        self,
        request: Request,
        code: int,
        phrase: str = "",
        *,
        to_tag: str = "peer",
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        contact: str = CONTACT,
    ) -> None:
        to = request.header("to")
        lines = [("Via", via) for via in request.values("via")]
        lines += [("From", request.header("from"))]
        lines += [("To", to if "tag=" in to or code == 100 else f"{to};tag={to_tag}")]
        lines += [("Call-ID", request.header("call-id")), ("CSeq", request.header("cseq"))]
        if contact:
            lines.append(("Contact", contact))
        if body:
            lines.append(("Content-Type", "application/sdp"))
        self.receive(compose(f"SIP/2.0 {code} {phrase}", [*lines, *headers], body))

    def ask(
        self,
        method: str,
        *,
        local_tag: str,
        cseq: int = 1,
        call_id: str = "leg-a",
        from_tag: str = "peer",
        branch: str = "",
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        content_type: str = "application/sdp",
        contact: str = CONTACT,
        source: Address = TRUNK,
    ) -> str:
        """A request of the peer, within a dialog if `local_tag` says so; returns its branch."""
        self._peer_branches += 1
        branch = branch or f"z9hG4bKpeer{self._peer_branches}"
        to = f"<sip:910@example.com>;tag={local_tag}" if local_tag else "<sip:910@example.com>"
        lines = [
            ("Via", f"SIP/2.0/UDP {source[0]}:{source[1]};rport;branch={branch}"),
            ("From", f"<sip:600@example.com>;tag={from_tag}"),
            ("To", to),
            ("Call-ID", call_id),
            ("CSeq", f"{cseq} {method}"),
            ("Contact", contact),
        ]
        if body:
            lines.append(("Content-Type", content_type))
        self.receive(compose(f"{method} sip:dosvoces@198.51.100.7 SIP/2.0", [*lines, *headers], body), source)
        return branch

    # -- time -------------------------------------------------------------------------------------------------------

    def wait(self, seconds: float) -> None:
        """Let time pass, timer by timer."""
        until = self.now + seconds
        while (due := self.ua.next_timer()) is not None and due <= until:
            self.now = max(self.now, due)
            self.ua.advance(self.now)
        self.now = until

    def moments(self, seconds: float) -> list[tuple[float, str | int]]:
        """Let time pass; when what was sent, counted from now."""
        begin, until = self.now, self.now + seconds
        seen: list[tuple[float, str | int]] = []
        while (due := self.ua.next_timer()) is not None and due <= until:
            self.now = max(self.now, due)
            self.ua.advance(self.now)
            seen += [(round(self.now - begin, 3), each) for each in self.sent()]
        self.now = until
        return seen

    def rest(self) -> None:
        """All linger times pass, the peer says nothing more; asserts that nothing remains."""
        self.wait(200)
        self.ua.outbox.clear()
        assert (self.ua.open_calls, self.ua.transactions, self.ua.idle) == (0, 0, True)
