"""
The UDP socket under the user agent: bytes in, bytes out, and which destinations can't be reached.

Knows no SIP. TCP and TLS are in `connections`.
"""

import asyncio
import errno
import ipaddress
import socket
import struct
import sys
from collections.abc import Callable

from .api import Address, Hop

BUFFER_BYTES = 4 << 20  # with the usual 200 kB a burst of answers overflows and calls fail (tried; facts of the trial)
BATCH = 8  # datagrams read per wake-up, some two milliseconds of work, so that all others get their turn
MAX_DATAGRAM = 65_535  # bytes
MAX_HOPS = 1_024  # senders that are kept as hops
MAX_ERRORS = 4_096  # read from the error queue at a time
SEND_ATTEMPTS = 3  # per message, as each attempt may meet the ICMP error of another

# Linux: linux/in.h and linux/in6.h; the socket module doesn't have them.
_IP_RECVERR = 11
_IPV6_RECVERR = 25
_ERRQUEUE = getattr(socket, "MSG_ERRQUEUE", 0) if sys.platform == "linux" else 0
# What an ICMP error comes as when it says that nobody is there (icmp_err_convert in net/ipv4/icmp.c).
_GONE = frozenset({errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENOPROTOOPT})


class UdpTransport:
    """
    One UDP socket, read by the loop's own reader.

    `add_reader` and `recvfrom` cost less than a `DatagramProtocol` (no transport buffer, no call per datagram through
    the protocol) and give access to the socket's error queue, where Linux says *which* destination refused.
    """

    __slots__ = ("_hops", "_loop", "_socket", "_unreachable", "dropped", "local", "received", "receiver", "settled")

    def __init__(
        self,
        bind: Address,
        *,
        receiver: Callable[[bytes, Hop], None],
        unreachable: Callable[[Hop, bytes], None],
        settled: Callable[[], None],
    ) -> None:
        """
        Bind and begin to read in the running loop. Raises `OSError`.

        `receiver` gets each datagram, `unreachable` a destination and what could be quoted of the message sent there;
        `settled` is called once after each wake-up.
        """
        self.receiver = receiver
        self.settled = settled
        self.received = 0
        self.dropped = 0
        """Messages that found the send buffer full; SIP's own repeats make up for them."""
        self._unreachable = unreachable
        self._hops: dict[tuple[str, int], Hop] = {}
        """By where datagrams came from: nearly all come from the same few."""
        self._loop = asyncio.get_running_loop()
        self._socket = _bound_socket(bind)
        host, port = self._socket.getsockname()[:2]
        self.local: Address = (host, port)
        self._listen()

    def send(self, data: bytes, destination: Address | Hop) -> None:
        """Send one datagram, or drop it if the buffer is full. Raises `OSError` where the system refuses."""
        for attempt in range(SEND_ATTEMPTS):
            try:
                self._socket.sendto(data, destination[:2])
                return
            except (BlockingIOError, InterruptedError):
                self.dropped += 1
                return
            except OSError as error:
                if error.errno not in _GONE or attempt + 1 == SEND_ATTEMPTS:
                    raise
                # Most likely the ICMP error of an earlier message, which the system reports to whatever comes next.
                self._read_errors()

    def close(self) -> None:
        """Idempotent."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()

    def _readable(self) -> None:
        receive, deliver, hops = self._socket.recvfrom, self.receiver, self._hops
        for turn in range(BATCH):
            try:
                data, source = receive(MAX_DATAGRAM)
            except (BlockingIOError, InterruptedError):
                if turn == 0:
                    self._read_errors()  # woken by the error queue alone
                break
            except OSError:
                self._read_errors()
                continue
            self.received += 1
            deliver(data, hops.get(source) or self._hop(source))
            if self._socket.fileno() < 0:
                return  # closed by what was delivered
        self.settled()

    def _hop(self, source: tuple[str, int]) -> Hop:
        if len(self._hops) >= MAX_HOPS:
            self._hops.clear()
        hop = self._hops[source] = Hop(source[0], source[1])
        return hop

    def _listen(self) -> None:
        """
        Read from now on, again after an error: libuv, and so uvloop, ends a poll handle at the first POLLERR.

        That is in uv__poll_io; without this the socket would be deaf ever after one unreachable peer.
        """
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._loop.add_reader(self._socket.fileno(), self._readable)

    def _read_errors(self) -> None:
        """Empty the error queue (ip(7), IP_RECVERR) and report who can't be reached."""
        self._loop.call_soon(self._listen)
        if not _ERRQUEUE:
            return
        for _ in range(MAX_ERRORS):
            try:
                quoted, ancillary, _flags, destination = self._socket.recvmsg(MAX_DATAGRAM, 512, _ERRQUEUE)
            except OSError:
                return
            for level, kind, data in ancillary:
                known = (level, kind) in ((socket.IPPROTO_IP, _IP_RECVERR), (socket.IPPROTO_IPV6, _IPV6_RECVERR))
                if known and len(data) >= 4 and destination and struct.unpack_from("=I", data)[0] in _GONE:
                    self._unreachable(Hop(destination[0], destination[1]), quoted)


def _bound_socket(bind: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in bind[0] else socket.AF_INET
    made = socket.socket(family, socket.SOCK_DGRAM)
    try:
        made.setblocking(False)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            made.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
        if _ERRQUEUE:
            if family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
            else:
                made.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # one family an agent, whatever the system says
        made.bind(bind)
    except BaseException:
        made.close()
        raise
    return made


def reachable_address(bind_host: str, towards: str) -> str:
    """
    The local address that a peer at `towards` would see: `bind_host` itself unless that is a wildcard.

    Asks the system's routing table; nothing is sent.
    """
    if not ipaddress.ip_address(bind_host).is_unspecified:
        return bind_host
    family = socket.AF_INET6 if ":" in bind_host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((towards, 9))  # port 9: discard, RFC 863; connecting UDP sends nothing
            return str(probe.getsockname()[0])
        except OSError:
            return "::1" if family == socket.AF_INET6 else "127.0.0.1"
