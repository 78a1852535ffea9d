"""
The user agent without sockets: bytes in, bytes out, the next timer; calls and their handlers in between.

`receive`, `unreachable` and `advance` are what the world does; `invite` and the calls' own methods are what the user
does. Whatever is to be sent waits in `outbox`. No socket, no clock, no randomness of its own: a seeded simulator runs
it as well as `agent.Agent` does.

Who is heard (the source rule):
- A packet is looked at only if its source address is a configured peer, or an address that an open call brought:
  its destination, its invitation's `peers`, and the literal hosts in the dialog's Contact and Record-Route. Those stay
  known for 64*T1 after the call. All else is dropped unparsed, and nobody is told.
- A response must carry the branch of an open transaction, which is 64 random bits.
- A request within a call must carry our tag (64 random bits), the Call-ID and the peer's tag, and come from a
  configured peer or an address of that very call.
- A request that belongs to no call is refused (OPTIONS gets 200) if a configured peer sent it; else nobody is told.
- What can't be read is dropped, a configured peer's too: RFC 3261 §8.2 allows 400, but whoever sends what can't be
  read isn't calling us, and an answer to broken bytes, perhaps from a forged address, helps only an attacker.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Protocol

from .api import Address, CallEnd, CallHandler, DialogFacts, Hop, Invitation, InviteFacts, InviteMark
from .call import Call
from .digest import Credentials
from .incoming import IncomingCall
from .message import MessageError, Request, Response, branch, clean, parse, quoted_branch, tag
from .orphan import OrphanedCall, StrayAnswer
from .outgoing import OutgoingCall, from_value
from .recall import RecalledCall
from .reply import ACCEPT, ALLOW, SUPPORTED, ReplyHead, refusal, server_key
from .server_transaction import AnsweredRequest, InviteServer
from .session_timer import DEFAULT_TERMS, SessionTerms, too_short
from .transaction import CANCEL_SUFFIX, TIMEOUT, State, Wire
from .uri import DEFAULT_TLS_PORT

MAX_INCOMING = 2_000  # open calls; a further INVITE of a peer is answered 503
MAX_HOSTS = 32  # addresses that one call may bring
MAX_REMEMBERED = 10_000  # server transactions; beyond, an answer is sent once and not kept for repeats
MAX_KEPT_ANSWER = 4_096  # bytes; one that repeats more of the peer's own headers isn't kept either
MAX_STRAYS = 1_000  # answers that nobody remembers, being hung up at a time; further ones are dropped


class Caller(Protocol):
    """Whatever brings addresses that are heard while it lives."""

    peers: set[str]


class UserAgent:
    """All calls of one local address, as a machine. Not thread-safe; not re-entered by its own handlers' calls."""

    __slots__ = (
        "_clock",
        "_heard",
        "_on_invite",
        "_peers",
        "_wanted",
        "calls",
        "contacts",
        "discarded",
        "hanging_up",
        "local",
        "orphans",
        "request_lines",
        "server_lines",
        "session",
        "strays",
        "tls_port",
        "token",
        "uniform",
        "via_prefixes",
        "wake",
        "wire",
    )

    def __init__(
        self,
        *,
        local: Address,
        tls_port: int = DEFAULT_TLS_PORT,
        user_agent: str,
        clock: Callable[[], float],
        token: Callable[[], str],
        uniform: Callable[[float, float], float],
        peers: Iterable[str] | None = (),
        wake: Callable[[], None] = lambda: None,
        on_invite: Callable[[IncomingCall], CallHandler | None] | None = None,
        session: SessionTerms = DEFAULT_TERMS,
    ) -> None:
        """
        `local` is what Via and Contact say, `tls_port` takes its port's place for TLS.

        `token` gives at least 64 random bits as a token (RFC 3261 §19.3), `uniform` a random number between two.
        `wake` is called when the user's own action left something in `outbox` or set a timer. `peers` are literal
        addresses; `None` hears everybody.
        """
        self.local: Address
        self.tls_port: int
        self.wire = Wire()
        self.token = token
        self.uniform = uniform
        self.wake = wake
        self.calls: dict[str, Call] = {}
        """Calls that are not over, by our tag."""
        self.orphans: set[OrphanedCall | RecalledCall] = set()
        self.discarded = 0
        """Packets of strangers and unreadable ones."""
        self.strays = 0
        """Answers to INVITEs that nobody remembers, hung up."""
        self.hanging_up = 0
        """How many of them linger."""
        self.via_prefixes: dict[str, str] = {}
        self.contacts: dict[str, str] = {}
        self.advertise(local, tls_port)
        name = clean(user_agent)
        self.request_lines: tuple[str, ...] = (ALLOW, f"User-Agent: {name}", SUPPORTED)
        self.server_lines: tuple[str, ...] = (f"Server: {name}",)
        self.session = session
        self._clock = clock
        self._peers = None if peers is None else frozenset(peers)
        self._wanted = self._peers or frozenset()
        """The peers as they will be when those before have been heard out."""
        self._heard: dict[str, int] = {}
        """How many calls brought each address that isn't a peer."""
        self._on_invite = on_invite

    @property
    def outbox(self) -> list[tuple[bytes, Hop]]:
        """What waits to be sent, in order; whoever sends it empties it."""
        return self.wire.outbox

    @property
    def open_calls(self) -> int:
        """Calls whose end has not been reported."""
        return len(self.calls) + len(self.orphans)

    @property
    def transactions(self) -> int:
        """Transactions of both kinds, lingering ones included."""
        return len(self.wire.clients) + len(self.wire.servers)

    @property
    def idle(self) -> bool:
        """Nothing is open and nothing lingers."""
        return not (self.open_calls or self.transactions or self._heard or len(self.wire.timers))

    def next_timer(self) -> float | None:
        """When `advance` is due, `None` if nothing waits."""
        return self.wire.timers.next()

    # -- what the user does -----------------------------------------------------------------------------------------

    def enter(self) -> None:
        """Take the time for an action of the user."""
        self.wire.now = self._clock()

    def advertise(self, local: Address, tls_port: int) -> None:
        """Say this in Via and Contact from now on; requests that have left keep what they said."""
        self.local, self.tls_port = local, tls_port
        host = f"[{local[0]}]" if ":" in local[0] else local[0]
        for transport, port in (("udp", local[1]), ("tcp", local[1]), ("tls", tls_port)):
            self.via_prefixes[transport] = f"SIP/2.0/{transport.upper()} {host}:{port};rport;branch="
            # RFC 3261 §26.2.2 deprecates transport=tls for sips:, which Asterisk and Kamailio by default refuse.
            how = "" if transport == "udp" else f";transport={transport}"
            self.contacts[transport] = f"Contact: <sip:dosvoces@{host}:{port}{how}>"

    def trust(self, host: str) -> None:
        """Hear the literal address `host` as a configured peer."""
        if self._peers is not None:
            self._peers |= {host}
            self._wanted |= {host}

    def trust_only(self, hosts: Iterable[str]) -> None:
        """
        Hear these literal addresses as configured peers in place of those before.

        Open calls keep hearing the addresses that they go to, and what lingers of ended ones is heard out.
        """
        if self._peers is None:
            return
        self.enter()
        wanted = self._wanted = frozenset(hosts)
        gone = self._peers - wanted
        self._peers |= wanted
        if gone:
            # A BYE to a late answer may itself take 64*T1.
            self.wire.after(2 * TIMEOUT, self._forget_peers)
            self.wake()

    def _forget_peers(self) -> None:
        self._peers = self._wanted
        for call in self.calls.values():
            self.learn(call, call.hosts)

    def plan(self, invitation: Invitation) -> tuple[Invitation, InviteFacts]:
        """The invitation as it will be sent, and what taking it back needs; nothing is sent yet."""
        hop = Hop(*invitation.destination)
        sent_by = self.via_prefixes[hop.transport].partition(" ")[2].partition(";")[0]
        mark = InviteMark(self.token(), self.token() + self.token(), sent_by)
        facts = InviteFacts(
            call_id=invitation.call_id,
            local=from_value(invitation, mark.local_tag),
            remote=f"<{invitation.to_uri}>",
            request_uri=invitation.request_uri,
            destination=hop,
            mark=mark,
        )
        return replace(invitation, mark=mark), facts

    def invite(self, invitation: Invitation, handler: CallHandler) -> OutgoingCall:
        """Begin a call; its INVITE is the last in `outbox`. Raises `MessageError` for a line break in a text."""
        self.enter()
        call = OutgoingCall(self, invitation, handler)
        self.calls[call.local_tag] = call
        self.learn(call, (invitation.destination[0], *invitation.peers))
        return call

    def hang_up_orphan(
        self, facts: DialogFacts, credentials: Credentials | None, done: Callable[[CallEnd], None] | None = None
    ) -> None:
        """Send ACK and BYE for a call of an earlier process; `done` gets the end."""
        self.enter()
        self.orphans.add(OrphanedCall(self, facts, credentials, done))
        self.wake()

    def take_back(
        self, facts: InviteFacts, credentials: Credentials | None, done: Callable[[CallEnd], None] | None = None
    ) -> None:
        """Take back an INVITE that an earlier process may have sent; `done` gets what came of it, once."""
        self.enter()
        RecalledCall(self, facts, credentials, done)
        self.wake()

    def hang_up_all(self) -> None:
        for call in list(self.calls.values()):
            call.hangup()

    # -- what the world does ----------------------------------------------------------------------------------------

    def receive(self, data: bytes, source: Hop, now: float) -> None:
        """Handle one message. Whatever the bytes are, nothing is raised but what a handler raises."""
        self.wire.now = now
        peers = self._peers
        if peers is not None and source.host not in peers and source.host not in self._heard:
            self.discarded += 1
            return
        try:
            message = parse(data)
        except MessageError:
            self.discarded += 1
            return
        if isinstance(message, Response):
            self._receive_response(message, source)
        else:
            self._receive_request(message, source)

    def unreachable(self, destination: Hop, quoted: bytes, now: float) -> None:
        """An ICMP error came for a message to `destination`; `quoted` is that message, perhaps cut short."""
        self.wire.now = now
        key = quoted_branch(quoted)
        if key:
            transaction = self.wire.clients.get(key)
            # A CANCEL has its INVITE's branch: that INVITE has heard of the peer, so that it isn't touched.
            if transaction is not None and transaction.destination[:3] == destination[:3]:
                transaction.unreachable()
            return
        for transaction in list(self.wire.clients.values()):
            if transaction.destination[:3] == destination[:3]:
                transaction.unreachable()

    def lost(self, hop: Hop, now: float) -> None:
        """The connection to `hop` broke. Calls stay; what waits for an answer is sent once more, on the next one."""
        self.wire.now = now
        for transaction in list(self.wire.clients.values()):
            if transaction.destination[:4] == hop[:4]:
                transaction.lost()
        for server in list(self.wire.servers.values()):
            if isinstance(server, InviteServer) and server.destination[:4] == hop[:4]:
                server.lost()

    def hears(self, host: str) -> bool:
        """Whether messages from this address are looked at."""
        return self.trusts(host) or host in self._heard

    def in_use(self, hop: Hop) -> bool:
        """Whether a call or a request that has no answer depends on `hop`. Looks at all of them: for rare moments."""
        return any(call.hop[:4] == hop[:4] for call in self.calls.values()) or any(
            client.waits and client.destination[:4] == hop[:4] for client in self.wire.clients.values()
        )

    def advance(self, now: float) -> None:
        """Let all timers fire that are due."""
        self.wire.now = now
        self.wire.timers.run(now)

    # -- responses --------------------------------------------------------------------------------------------------

    def _receive_response(self, response: Response, source: Hop) -> None:
        key = branch(response)
        if response.cseq_method == "CANCEL":
            key += CANCEL_SUFFIX
        transaction = self.wire.clients.get(key)
        if transaction is not None:
            if transaction.takes(response):
                transaction.receive(response)
        elif response.cseq_method == "INVITE" and 200 <= response.code < 300 and self.trusts(source.host):
            call = self.calls.get(tag(response.header("from")))
            if call is not None and call.has_answer(response):
                call.acknowledge_again(response)
            elif self.hanging_up < MAX_STRAYS and StrayAnswer.is_ours(self, response):
                self.strays += 1
                StrayAnswer(self, key, response, source)

    # -- requests ---------------------------------------------------------------------------------------------------

    def _receive_request(self, request: Request, source: Hop) -> None:
        key = server_key(request)
        server = self.wire.servers.get(key)
        if request.method == "ACK":
            if isinstance(server, InviteServer) and server.state is State.COMPLETED:
                server.acknowledged()
                return
        elif server is not None:
            server.repeated()
            return
        if request.method == "CANCEL":
            self._cancel(request, source, key)
            return
        to_tag = tag(request.header("to"))
        if not to_tag:
            self._begin(request, source, key)
            return
        call = self.calls.get(to_tag)
        if call is not None and self._is_of(call, request, source):
            call.serve(request, source, key)
        elif request.method != "ACK" and self.trusts(source.host):
            self.reply(request, source, key, 481)

    def _is_of(self, call: Call, request: Request, source: Hop) -> bool:
        return (
            request.header("call-id") == call.call_id
            and call.knows(tag(request.header("from")))
            and (source.host in call.peers or self.trusts(source.host))
        )

    def trusts(self, host: str) -> bool:
        """Whether the literal address is a configured peer's."""
        return self._peers is None or host in self._peers

    def _cancel(self, request: Request, source: Hop, key: str) -> None:
        server = self.wire.servers.get(server_key(request, "INVITE"))
        if isinstance(server, InviteServer):
            self.reply(request, source, key, 200, to_tag=server.to_tag)
            server.cancelled(request.header("reason"))
        elif self.trusts(source.host):
            self.reply(request, source, key, 481)

    def _begin(self, request: Request, source: Hop, key: str) -> None:
        """A request outside of any dialog."""
        if request.method == "ACK" or not self.trusts(source.host):
            return
        refused = refusal(request)
        if refused is not None:
            self.reply(request, source, key, *refused)
        elif request.method == "OPTIONS":
            self.reply(request, source, key, 200, (ALLOW, ACCEPT))
        elif self._on_invite is None:
            self.reply(request, source, key, 480)  # nobody takes calls here; silence would leave the caller waiting
        elif len(self.calls) >= MAX_INCOMING:
            self.reply(request, source, key, 503)
        elif "replaces" in request.headers:
            self.reply(request, source, key, 481)  # RFC 3891 §3: no call of ours is given to another
        elif "session-expires" in request.headers and too_short(request, self.session):
            self.reply(request, source, key, 422, (f"Min-SE: {self.session.min_s}",))
        else:
            self._ring(self._on_invite, request, source, key)

    def _ring(
        self, on_invite: Callable[[IncomingCall], CallHandler | None], request: Request, source: Hop, key: str
    ) -> None:
        call = IncomingCall(self, request, source, key)
        self.calls[call.local_tag] = call
        call.begin(on_invite(call))

    def reply(
        self,
        request: Request,
        source: Hop,
        key: str,
        code: int,
        lines: Iterable[str] = (),
        body: bytes = b"",
        to_tag: str = "",
    ) -> None:
        """Answer `request` for good; repeats of it get the same answer."""
        head = ReplyHead(request, source, to_tag or self.token())
        data = head.compose(code, lines=(*lines, *self.server_lines), body=body)
        if len(self.wire.servers) >= MAX_REMEMBERED or len(data) > MAX_KEPT_ANSWER:
            # RFC 3261 §8.2.7, a stateless server: a flood under a peer's name must not fill the memory.
            self.wire.send(data, head.destination)
        elif request.method == "INVITE":
            InviteServer(self.wire, key, request.cseq, head.destination, None).respond(code, data)
        else:
            AnsweredRequest(self.wire, key, data, head.destination)

    # -- for the calls ----------------------------------------------------------------------------------------------

    def learn(self, call: Caller, hosts: Iterable[str]) -> None:
        """Hear these addresses for as long as the call lives, and a while longer."""
        for host in hosts:
            if not self.trusts(host) and host not in call.peers and len(call.peers) < MAX_HOSTS:
                call.peers.add(host)
                self._heard[host] = self._heard.get(host, 0) + 1

    def ended(self, call: Call) -> None:
        """The call is over; its end is about to be reported."""
        self.calls.pop(call.local_tag, None)
        self.unlearn_later(call)

    def unlearn_later(self, call: Caller) -> None:
        """Stop hearing a call's addresses when its last transaction can be over."""
        if call.peers:
            hosts, call.peers = call.peers, set()
            # A BYE to a late answer may itself take 64*T1.
            self.wire.after(2 * TIMEOUT, lambda: self._unlearn(hosts))

    def _unlearn(self, hosts: Iterable[str]) -> None:
        for host in hosts:
            self._heard[host] -= 1
            if not self._heard[host]:
                del self._heard[host]

    def forget(self, call: OutgoingCall) -> None:
        """Undo `invite`: the INVITE could not leave."""
        call.forget()
        self.ended(call)
