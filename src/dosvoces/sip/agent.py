"""
The asyncio shell of the user agent: the sockets, one timer, nothing else that waits.

The rules are in `ua` and below it; here are the clock, the randomness, the names to be resolved and the log. One
`call_at` serves all timers of all calls. What a handler raises is logged here, at the loop's edge, and hurts no other
call.
"""

import asyncio
import logging
import os
import random
import socket
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import ClassVar

from .api import Address, CallEnd, CallHandler, DialogFacts, Hop, Invitation, InviteFacts
from .connections import Connections
from .digest import Credentials
from .incoming import IncomingCall
from .message import Response
from .outgoing import OutgoingCall
from .public_address import INTERVAL_S, PublicAddress
from .request import Series
from .session_timer import DEFAULT_TERMS, SessionTerms
from .sockets import open_sockets
from .tls import Tls
from .transaction import TIMEOUT, Failure
from .transport import UdpTransport, reachable_address
from .ua import UserAgent
from .uri import DEFAULT_TLS_PORT

__all__ = ["Agent", "IncomingCall", "OutgoingCall", "SipTransportError"]

log = logging.getLogger(__name__)

CLOSE_TIMEOUT_S = 5.0


Done = Callable[[CallEnd], None]

Tap = Callable[[bool, bytes, Hop], None]
"""Is shown a message: whether it is ours, its bytes, and whom it goes to or comes from."""


class SipTransportError(OSError):
    """The INVITE could not leave the machine; nobody was called."""


class Agent:
    """
    A SIP user agent on one address of the running loop: a UDP socket, and TCP and TLS connections as hops ask for them.

    Who is heard: the addresses in `peers`, and for the length of a call those that its invitation or its dialog
    (Contact, Record-Route) names; everybody else is dropped unread. `peers=None` hears everybody, which is for trial
    phones. Without `on_invite` an INVITE of a peer's that belongs to no call is answered with 480; a
    stranger's gets no answer.
    """

    __slots__ = (
        "_closed",
        "_connections",
        "_loop",
        "_public",
        "_quiet",
        "_running",
        "_tap",
        "_timer",
        "_timer_at",
        "_transport",
        "_ua",
    )

    transports: ClassVar[tuple[str, ...]] = ("udp", "tcp", "tls")
    """What it speaks, the best first."""

    def __init__(self) -> None:
        """Use `open`."""
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._running = 0
        self._closed = False
        self._tap: Tap | None = None
        self._public: PublicAddress | None = None
        self._quiet: asyncio.Future[None] | None = None
        self._connections: Connections
        self._transport: UdpTransport
        self._ua: UserAgent

    @classmethod
    async def open(
        cls,
        *,
        bind: Address = ("0.0.0.0", 5060),
        advertised: Address | None = None,
        tcp: bool = False,
        tls: Tls | None = None,
        user_agent: str = "Dosvoces",
        peers: Iterable[str] | None = (),
        on_invite: Callable[[IncomingCall], CallHandler | None] | None = None,
        tap: Tap | None = None,
        session: SessionTerms = DEFAULT_TERMS,
    ) -> "Agent":
        """
        Bind and listen: on UDP, with `tcp` on the same port of TCP too, with `tls` and a certificate on its port.

        Connections to peers are made whenever a hop asks for them. `peers` are hosts (addresses or names, resolved
        once, here). `advertised` is what Via and Contact say; left out it is the bound address, port 0 in it stands
        for the bound port. `on_invite` gets each new incoming call and returns its handler; it may ring, answer or
        reject at once; `None` leaves the caller without any answer. `tap` is shown every message, before it is read
        or as it is sent. `session` are the session timer's intervals. Raises `OSError` when a port is taken or a name
        is unknown, `TlsError` when a certificate can't be used.
        """
        agent = cls()
        agent._tap = tap
        family = socket.AF_INET6 if ":" in bind[0] else socket.AF_INET
        known = None if peers is None else [(await _resolve(host, 5060, family))[0] for host in peers]
        transport, connections = open_sockets(
            bind,
            tcp=tcp,
            tls=tls or Tls(),
            receiver=agent._receive,
            unreachable=agent._unreachable,
            lost=agent._lost,
            settled=agent._settle,
            admits=agent._admits,
            in_use=agent._in_use,
        )
        try:
            tls_port = connections.listen("tls") if tls is not None and tls.listen else DEFAULT_TLS_PORT
        except BaseException:
            transport.close()
            await connections.close()
            raise
        towards = next(iter(known or ()), "2001:db8::1" if family == socket.AF_INET6 else "192.0.2.1")
        host, port = advertised or (reachable_address(transport.local[0], towards), 0)
        agent._transport = transport
        agent._connections = connections
        agent._ua = UserAgent(
            local=(host, port or transport.local[1]),
            tls_port=tls_port,
            user_agent=user_agent,
            peers=known,
            clock=agent._loop.time,
            token=_token,
            uniform=random.uniform,
            wake=agent._settle,
            on_invite=on_invite,
            session=session,
        )
        return agent

    @property
    def local(self) -> Address:
        """The bound address, with the port that the system chose where 0 was asked for."""
        return self._transport.local

    @property
    def advertised(self) -> Address:
        """What Via and Contact say."""
        return self._ua.local

    @property
    def tls_port(self) -> int:
        """What Via and Contact say instead of the port where TLS is spoken."""
        return self._ua.tls_port

    @property
    def connections(self) -> int:
        """Open TCP and TLS connections, of either direction."""
        return self._connections.count

    def why_unreachable(self, hop: Hop) -> str:
        """What the last attempt to connect with `hop` failed for; empty if it didn't, or none was made."""
        return self._connections.why(hop)

    def certificate_ends(self, hop: Hop) -> datetime | None:
        """When the certificate ends that `hop` shows on its open connection, if it was looked at."""
        return self._connections.certificate_ends(hop)

    def set_advertised(self, host: str, port: int | None = None) -> None:
        """
        Say another address in Via and Contact of what is sent from now on; open calls go on.

        `port` left out stays as it is.
        """
        self._ua.advertise((host, port or self._ua.local[1]), self._ua.tls_port)

    def learn_public_address(
        self,
        server: Address,
        changed: Callable[[Address], None],
        *,
        advertise: bool = True,
        interval_s: float = INTERVAL_S,
    ) -> PublicAddress:
        """
        Ask the STUN server, a name or an address, from the SIP socket from now on; with `advertise`, say what it says.

        `changed` is told of the first address and of each other one.
        """

        def learned(address: Address) -> None:
            if advertise:
                self.set_advertised(*address)
            changed(address)

        self._public = PublicAddress(
            server=lambda: self.resolve(*server), send=self._transport.send, changed=learned, interval_s=interval_s
        )
        return self._public

    @property
    def session(self) -> SessionTerms:
        """The session timer's intervals; set, they are those of calls from now on."""
        return self._ua.session

    @session.setter
    def session(self, terms: SessionTerms) -> None:
        self._ua.session = terms

    @property
    def open_calls(self) -> int:
        """Calls that have begun and whose end has not been reported."""
        return self._ua.open_calls

    @property
    def transactions(self) -> int:
        """Transactions of both kinds, lingering ones included (up to 32 s after a call)."""
        return self._ua.transactions

    @property
    def idle(self) -> bool:
        """Nothing open, nothing lingering."""
        return self._ua.idle

    async def resolve(self, host: str, port: int = 5060) -> Address:
        """`host` as a literal address of this agent's family. Raises `OSError`."""
        family = socket.AF_INET6 if ":" in self._transport.local[0] else socket.AF_INET
        return await _resolve(host, port, family)

    def trust(self, host: str) -> None:
        """Hear the literal address `host` from now on, as if it were in `peers`."""
        self._ua.trust(host)

    def trust_only(self, hosts: Iterable[str]) -> None:
        """Hear these literal addresses in place of the peers before; open calls keep the addresses they brought."""
        self._ua.trust_only(hosts)

    def contact(self, transport: str = "udp") -> str:
        """Our own URI, in angle brackets, as Contact says it over this transport."""
        return self._ua.contacts[transport].partition(": ")[2]

    def series(self, request_uri: str, *, from_uri: str, to_uri: str, credentials: Credentials | None = None) -> Series:
        """Begin a series of requests outside of any dialog, for `ask`."""
        return Series(self._ua, request_uri=request_uri, from_uri=from_uri, to_uri=to_uri, credentials=credentials)

    async def ask(
        self,
        series: Series,
        method: str,
        hop: Hop,
        *,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        limit_s: float = TIMEOUT,
    ) -> Response | Failure:
        """
        Send a request of this series to `hop`; its final answer, or why there is none, after `limit_s` at most.

        Whoever stops waiting stops nothing: an answer that comes is dropped.
        """
        if self._closed:
            return Failure.TRANSPORT
        answer: asyncio.Future[Response | Failure] = self._loop.create_future()

        def answered(event: Response | Failure) -> None:
            if not answer.done():
                answer.set_result(event)

        self._ua.enter()
        series.send(method, hop, answered, headers=headers, body=body, limit_s=limit_s)
        self._settle()
        return await answer

    async def request(
        self,
        method: str,
        request_uri: str,
        hop: Hop,
        *,
        from_uri: str,
        to_uri: str,
        headers: Iterable[tuple[str, str]] = (),
        credentials: Credentials | None = None,
        body: bytes = b"",
        limit_s: float = TIMEOUT,
    ) -> Response | Failure:
        """A request of its own outside of any dialog, such as OPTIONS; see `ask`."""
        series = self.series(request_uri, from_uri=from_uri, to_uri=to_uri, credentials=credentials)
        return await self.ask(series, method, hop, headers=headers, body=body, limit_s=limit_s)

    def plan(self, invitation: Invitation) -> tuple[Invitation, InviteFacts]:
        """The invitation as `invite` will send it, and what `take_back` needs; nothing is sent yet."""
        return self._ua.plan(invitation)

    def invite(self, invitation: Invitation, handler: CallHandler) -> OutgoingCall:
        """
        Send an INVITE; all that follows comes to `handler`, never before this returns.

        Raises `SipTransportError` if the INVITE could not leave the machine; then nothing follows.
        """
        if self._closed:
            raise SipTransportError("the SIP agent is closed")
        call = self._ua.invite(invitation, handler)
        data, destination = self._ua.outbox.pop()
        try:
            self._send(data, destination)
        except OSError as error:
            self._ua.forget(call)
            raise SipTransportError(f"cannot send to {destination[0]}: {error}") from error
        self._settle()
        return call

    def hang_up_orphan(self, facts: DialogFacts, credentials: Credentials | None, done: Done | None = None) -> None:
        """
        Hang up a call that an earlier process left: ACK (it may have died before sending it) and BYE.

        `done` gets the end when the BYE was answered or has timed out.
        """
        self._ua.hang_up_orphan(facts, credentials, done)

    def take_back(self, facts: InviteFacts, credentials: Credentials | None, done: Done | None = None) -> None:
        """Take back an INVITE that an earlier process may have sent (see `recall`); `done` gets what came of it."""
        self._ua.take_back(facts, credentials, done)

    async def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Hang up what is left, wait `timeout_s` at most for it to be over, and close the socket. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._ua.hang_up_all()
        if self._ua.open_calls:
            self._quiet = self._loop.create_future()
            try:
                await asyncio.wait_for(self._quiet, timeout_s)
            except TimeoutError:
                log.warning("closed with %d calls still being hung up", self._ua.open_calls)
        if self._timer is not None:
            self._timer.cancel()
        if self._public is not None:
            await self._public.close()
        await self._connections.close()
        self._transport.close()

    # -- the loop's edge --------------------------------------------------------------------------------------------

    def _receive(self, data: bytes, source: Hop) -> None:
        if self._public is not None and self._public.takes(data, source[:2]):
            return
        if self._tap is not None:
            self._tap(False, data, source)
        self._guard(self._ua.receive, data, source)

    def _unreachable(self, destination: Hop, quoted: bytes) -> None:
        self._guard(self._ua.unreachable, destination, quoted)

    def _lost(self, hop: Hop) -> None:
        self._guard(self._ua.lost, hop)

    def _admits(self, host: str) -> bool:
        return self._ua.hears(host)

    def _in_use(self, hop: Hop) -> bool:
        return not self._closed and self._ua.in_use(hop)

    def _advance(self) -> None:
        self._timer = None
        self._guard(self._ua.advance)
        self._settle()

    def _guard(self, action: Callable[..., None], *arguments: object) -> None:
        self._running += 1
        try:
            action(*arguments, self._loop.time())
        except Exception:
            # A handler's fault, or ours; either way the other calls go on.
            log.exception("error while handling a SIP event")
        finally:
            self._running -= 1

    def _settle(self) -> None:
        """Send what waits and set the timer; put off while a batch is being handled."""
        if self._running:
            return
        try:
            self._flush()
        except OSError as error:
            log.warning("cannot send: %s", error)
        self._arm()
        if self._quiet is not None and not self._quiet.done() and not self._ua.open_calls:
            self._quiet.set_result(None)

    def _flush(self) -> None:
        """Send all that waits. Raises the last `OSError`, after trying the rest."""
        outbox = self._ua.outbox
        failure: OSError | None = None
        while outbox:
            waiting = outbox[:]
            outbox.clear()
            for data, destination in waiting:
                try:
                    self._send(data, destination)
                except OSError as error:
                    failure = error
                    self._unreachable(destination, data)
        if failure is not None:
            raise failure

    def _send(self, data: bytes, destination: Hop) -> None:
        if destination.transport == "udp":
            self._transport.send(data, destination)
        else:
            self._connections.send(data, destination)
        if self._tap is not None:
            self._tap(True, data, destination)

    def _arm(self) -> None:
        due = self._ua.next_timer()
        if due is None:
            return
        if self._timer is not None:
            if self._timer_at <= due:
                return  # wakes early at worst, and sets itself again
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self._advance)
        self._timer_at = due


def _token() -> str:
    return os.urandom(8).hex()  # RFC 3261 §19.3 asks for 32 random bits, these are 64


async def _resolve(host: str, port: int, family: socket.AddressFamily) -> Address:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host.strip("[]"), port, family=family, type=socket.SOCK_DGRAM)
    address = found[0][4]
    return str(address[0]), int(address[1])
