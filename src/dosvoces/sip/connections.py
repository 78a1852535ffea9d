"""
All TCP and TLS connections of one agent: opened when something is to be sent, shared by all that goes there, accepted
from peers, and opened again with growing pauses.

One connection serves a hop both ways, whoever opened it: ours leave from the port that our Contact names, so that a
peer with a request for us finds that connection in its own table and opens none. Knows no SIP but two things: which
messages may wait for a peer to come back, and that an answer to a connection that is gone goes where its Via says.
"""

import asyncio
import errno
import logging
import random
import socket
import ssl
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import TypeAlias

from .api import Hop
from .connection import Connection
from .reply import via_hop
from .tls import Tls, refusal

log = logging.getLogger(__name__)

CONNECT_LIMIT_S = 5.0  # for TCP and TLS together; less than a caller waits before the next trunk is tried
PATIENCE_S = 32.0  # how long a message waits for a connection; 64*T1, then its transaction is over
FIRST_PAUSE_S = 1.0  # before the second attempt to connect; doubled at each
LONGEST_PAUSE_S = 60.0
MAX_WAITING = 1_000  # messages for one hop that has no connection
MAX_ACCEPTED = 1_000  # connections that peers opened
MAX_ACCEPTED_PER_HOST = 100
MAX_LINES = 1_000  # hops that are remembered; those with nothing to do are forgotten first
ACCEPT_BATCH = 64  # per wake-up
ACCEPT_PAUSE_S = 1.0  # when no descriptor is left
BACKLOG = 128
USER_TIMEOUT_MS = (
    20_000  # unacknowledged bytes end a connection (tcp(7)); the system's own limit is a quarter of an hour
)

_BUSY = (errno.EADDRINUSE, errno.EADDRNOTAVAIL)
# If these are lost, somebody stays on a line; all else is better tried elsewhere at once.
_PATIENT = (b"BYE ", b"ACK ", b"CANCEL ", b"SIP/2.0 ")

_Key: TypeAlias = tuple[str, int, str, str]
"""A hop without what concerns UDP alone; a connection that was made for one name is not for another's messages."""


class _Line:
    """What waits for a connection to one hop, and when the next attempt is due."""

    __slots__ = ("attempting", "failures", "heard", "hop", "next", "not_before", "waiting", "why")

    def __init__(self, hop: Hop) -> None:
        self.hop = hop
        self.waiting: list[tuple[float, bytes]] = []
        """With the time at which each is given up."""
        self.attempting = False
        self.failures = 0
        """Attempts that failed since a message last came from there."""
        self.heard = False
        """Whether a message came on the connection."""
        self.not_before = 0.0
        self.next: asyncio.TimerHandle | None = None
        self.why = ""

    def rest(self, now: float) -> None:
        """Put the next attempt off: it failed once more."""
        self.failures += 1
        longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self.failures - 1, 10))
        self.not_before = now + longest * random.uniform(0.75, 1.0)  # so that many don't come back at once


class Connections:
    """See the module. `send` never waits and never raises: what can't be sent is told to `unreachable`."""

    def __init__(
        self,
        *,
        bind_host: str,
        port: int,
        tls: Tls,
        receiver: Callable[[bytes, Hop], None],
        unreachable: Callable[[Hop, bytes], None],
        lost: Callable[[Hop], None],
        settled: Callable[[], None],
        admits: Callable[[str], bool],
        in_use: Callable[[Hop], bool],
    ) -> None:
        """
        `receiver`, `unreachable` and `settled` are as `UdpTransport` has them; `lost` is told of each hop whose
        connection broke. `admits` says whether an address may connect, `in_use` whether a call needs the hop.

        Raises `TlsError`.
        """
        self.discarded = 0
        """Connections of strangers, closed unread."""
        self._bind_host = bind_host
        self._ports = {"tcp": port, "tls": tls.port if tls.listen else 0}
        self._receiver = receiver
        self._unreachable = unreachable
        self._lost = lost
        self._settled = settled
        self._admits = admits
        self._in_use = in_use
        self._loop = asyncio.get_running_loop()
        self._tls = tls
        self._contexts: dict[bool, ssl.SSLContext] = {}
        self._server_context = tls.server_context()
        if tls.ca_file or tls.certificate_file:
            self._context(verified=True)  # files that can't be used are told now, not at the first call
        self._listeners: list[socket.socket] = []
        self._open: dict[_Key, Connection] = {}
        self._all: set[Connection] = set()
        """Those in `_open`, and those whose place there a newer one has taken."""
        self._lines: dict[_Key, _Line] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self._empty: asyncio.Future[None] | None = None
        """Done when the last connection is gone, while closing."""

    # -- for the agent ----------------------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """Open connections."""
        return len(self._all)

    def listen(self, transport: str) -> int:
        """
        Take connections on the transport's port; returns the port, which the system chose where it was 0.

        TLS without a certificate only keeps the port, to connect from. Raises `OSError`.
        """
        made = bound_socket(self._bind_host, self._ports[transport])
        self._listeners.append(made)
        port: int = made.getsockname()[1]
        self._ports[transport] = port
        if transport == "tcp" or self._server_context is not None:
            made.listen(BACKLOG)
            self._loop.add_reader(made.fileno(), self._acceptable, made, transport)
        return port

    def send(self, data: bytes, hop: Hop) -> None:
        """Send one message over the hop's connection, which is opened if there is none."""
        connection = self._open.get(hop[:4])
        if connection is None and data.startswith(b"SIP/"):
            # RFC 3261 §18.2.2: the connection that the request came on is gone; the Via says where to go then.
            hop = via_hop(data, hop) or hop
            connection = self._open.get(hop[:4])
        if connection is not None:
            connection.send(data)
        elif not self._closed:
            self._wait(data, hop)

    def why(self, hop: Hop) -> str:
        """Why the hop can't be reached, as far as the last attempt told; empty if it can, or wasn't tried."""
        line = self._lines.get(hop[:4])
        return line.why if line is not None else ""

    def certificate_ends(self, hop: Hop) -> datetime | None:
        """When the certificate ends that the hop showed on its open connection."""
        connection = self._open.get(hop[:4])
        return connection.certificate_ends if connection is not None else None

    async def close(self, limit_s: float = 1.0) -> None:
        """Send what waits in open connections, then close all. Idempotent."""
        self._closed = True
        for listener in self._listeners:
            self._loop.remove_reader(listener.fileno())
            listener.close()
        self._listeners.clear()
        for line in self._lines.values():
            if line.next is not None:
                line.next.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in self._all:
            connection.close()
        if self._all:
            self._empty = self._loop.create_future()
            await asyncio.wait([self._empty], timeout=limit_s)
        for connection in self._all:
            connection.abort()

    # -- connections of ours ----------------------------------------------------------------------------------------

    def _wait(self, data: bytes, hop: Hop) -> None:
        line = self._lines.get(hop[:4])
        if line is None:
            self._forget_idle()
            line = self._lines[hop[:4]] = _Line(hop)
        now = self._loop.time()
        resting = not line.attempting and now < line.not_before
        if len(line.waiting) >= MAX_WAITING or (resting and not data.startswith(_PATIENT)):
            self._loop.call_soon(self._give_up, line.hop, [data])
            return
        line.waiting.append((now + PATIENCE_S, data))
        if not resting:
            self._attempt(line)
        elif line.next is None:
            line.next = self._loop.call_at(line.not_before, self._attempt, line)

    def _attempt(self, line: _Line) -> None:
        if line.next is not None:
            line.next.cancel()
            line.next = None
        if not line.attempting and not self._closed:
            line.attempting = True
            self._start(self._connect(line))

    def _forget_idle(self) -> None:
        if len(self._lines) >= MAX_LINES:
            busy = {key: line for key, line in self._lines.items() if line.waiting or line.attempting or line.next}
            self._lines = busy

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, line: _Line) -> None:
        connection = Connection(self, line.hop, outgoing=True)
        try:
            async with asyncio.timeout(CONNECT_LIMIT_S):
                await self._dial(connection)
        except (OSError, ssl.CertificateError, ValueError) as error:
            line.attempting = False
            self._failed(line, refusal(error))
        else:
            line.attempting = False
        self._settled()

    async def _dial(self, connection: Connection) -> None:
        hop = connection.hop
        context = name = None
        if hop.transport == "tls":
            name = hop.name or hop.host
            context = self._context(verified=name not in self._tls.unverified)
        made = await self._tcp(hop)
        try:
            await self._loop.create_connection(lambda: connection, sock=made, ssl=context, server_hostname=name)
        except BaseException:
            made.close()
            raise

    async def _tcp(self, hop: Hop) -> socket.socket:
        try:
            return await self._tcp_from(self._ports[hop.transport], hop)
        except OSError as error:
            if error.errno not in _BUSY:
                raise
            # Another program has that port, or the pair of both ports rests in TIME_WAIT from the connection before.
            return await self._tcp_from(0, hop)

    async def _tcp_from(self, port: int, hop: Hop) -> socket.socket:
        made = bound_socket(self._bind_host, port)
        try:
            await self._loop.sock_connect(made, (hop.host, hop.port))
        except BaseException:
            made.close()
            raise
        return made

    def _context(self, *, verified: bool) -> ssl.SSLContext:
        if verified not in self._contexts:
            self._contexts[verified] = self._tls.client_context(verified=verified)
        return self._contexts[verified]

    def _failed(self, line: _Line, why: str) -> None:
        if why != line.why:
            log.warning("cannot connect with %s: %s", line.hop, why)
        line.why = why
        line.rest(self._loop.time())
        now = self._loop.time()
        waiting, line.waiting = line.waiting, []
        given_up: list[bytes] = []
        for until, data in waiting:
            if data.startswith(_PATIENT) and now < until:
                line.waiting.append((until, data))
            else:
                given_up.append(data)
        self._give_up(line.hop, given_up)
        self._plan(line)

    def _plan(self, line: _Line) -> None:
        """Try again by ourselves only for somebody who needs it."""
        if not self._closed and line.next is None and (line.waiting or self._in_use(line.hop)):
            line.next = self._loop.call_at(line.not_before, self._attempt, line)

    def _give_up(self, hop: Hop, messages: list[bytes]) -> None:
        for data in messages:
            self._unreachable(hop, data)
        if messages:
            self._settled()

    # -- connections of peers ---------------------------------------------------------------------------------------

    def _acceptable(self, listener: socket.socket, transport: str) -> None:
        for _ in range(ACCEPT_BATCH):
            try:
                made, source = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                log.warning("cannot accept a connection: %s", error)
                self._loop.remove_reader(listener.fileno())
                self._loop.call_later(ACCEPT_PAUSE_S, self._accept_again, listener, transport)
                return
            if self._refuses(source[0]):
                self.discarded += 1
                made.close()
                continue
            made.setblocking(False)
            _tune(made)
            self._start(self._accept(made, Hop(source[0], source[1], transport)))

    def _accept_again(self, listener: socket.socket, transport: str) -> None:
        if listener.fileno() >= 0:
            self._loop.add_reader(listener.fileno(), self._acceptable, listener, transport)

    def _refuses(self, host: str) -> bool:
        if not self._admits(host):
            return True
        accepted = [each for each in self._all if not each.outgoing]
        return len(accepted) >= MAX_ACCEPTED or sum(each.hop.host == host for each in accepted) >= MAX_ACCEPTED_PER_HOST

    async def _accept(self, made: socket.socket, hop: Hop) -> None:
        connection = Connection(self, hop, outgoing=False)
        context = self._server_context if hop.transport == "tls" else None
        try:
            async with asyncio.timeout(CONNECT_LIMIT_S):
                await self._loop.connect_accepted_socket(lambda: connection, made, ssl=context)
        except OSError as error:
            log.info("connection from %s not taken: %s", hop, refusal(error))
            made.close()
        except BaseException:
            made.close()
            raise

    # -- Owner ------------------------------------------------------------------------------------------------------

    def opened(self, connection: Connection) -> None:
        key = connection.hop[:4]
        # Both may have connected at once, from the ports that both know: the newer connection is as good.
        self._open[key] = connection
        self._all.add(connection)
        line = self._lines.get(key)
        if line is None:
            return
        if line.why:
            log.info("connected with %s again", line.hop)
        line.why, line.heard = "", False
        waiting, line.waiting = line.waiting, []
        for _until, data in waiting:
            connection.send(data)

    def received(self, connection: Connection, data: bytes) -> None:
        line = self._lines.get(connection.hop[:4])
        if line is not None and not line.heard:
            line.heard, line.failures = True, 0
        self._receiver(data, connection.hop)

    def settled(self) -> None:
        self._settled()

    def lost(self, connection: Connection) -> None:
        hop = connection.hop
        self._all.discard(connection)
        if self._open.get(hop[:4]) is connection:
            del self._open[hop[:4]]
        if self._closed:
            if self._empty is not None and not self._all and not self._empty.done():
                self._empty.set_result(None)
            return
        log.info("connection with %s lost: %s", hop, connection.why)
        line = self._lines.get(hop[:4])
        if line is not None and not line.heard:
            # With TLS 1.3 a peer that refuses our certificate says so after the handshake is over for us.
            line.why = connection.why
            if line.failures:
                line.rest(self._loop.time())  # it may accept connections only to close them
            line.failures = max(1, line.failures)
        self._lost(hop)
        if line is None and self._in_use(hop):
            line = self._lines[hop[:4]] = _Line(hop)
        if line is not None:
            self._plan(line)
        self._settled()


def bound_socket(host: str, port: int) -> socket.socket:
    """
    A TCP socket on this port, which other sockets of ours share.

    Raises `OSError`.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # The listening socket and each connection of ours have the same local port.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        _tune(made)
        made.bind((host, port))
    except BaseException:
        made.close()
        raise
    return made


def _tune(made: socket.socket) -> None:
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
