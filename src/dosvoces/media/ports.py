"""
The worker's UDP ports: random even ones with the odd one above for RTCP, never given again before they have rested.

No clock of its own; the sockets are real.
"""

import errno
import os
import socket
from collections import deque
from dataclasses import dataclass

from dosvoces.errors import MediaError

REST_S = 30.0  # how long late packets of an ended call may still come
RTCP_BUFFER = 4096  # bytes; the kernel doubles it, and counts its own overhead in
MAX_TRIES = 200  # ports of the range that others may hold before an allocation gives up


@dataclass(frozen=True, slots=True)
class PortPair:
    """An even port for RTP and the one above it for RTCP (RFC 3550 §11), both bound and non-blocking."""

    port: int
    rtp: socket.socket
    rtcp: socket.socket

    def close(self) -> None:
        self.rtp.close()
        self.rtcp.close()


class PortPool:
    """
    Gives out ports of a range at random, which makes them hard to guess (RTP bleed).

    A port that is given back stays bound for `rest_s`, so that nobody else gets the late packets of its call; the
    kernel drops them. Opening and resting take the same time however full the range is.
    """

    def __init__(self, host: str, ports: list[int], *, rest_s: float = REST_S) -> None:
        self._host = host
        self._family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._free = list(ports)
        self._rest_s = rest_s
        self._resting: deque[tuple[float, int, PortPair | None]] = deque()

    @property
    def resting(self) -> int:
        return len(self._resting)

    def open(self, now: float) -> PortPair:
        """Bind a pair. Raises `MediaError` if there is none, or the process may open no more."""
        self.wake(now)
        for _ in range(min(MAX_TRIES, len(self._free))):
            at = int.from_bytes(os.urandom(4)) % len(self._free)
            port, self._free[at] = self._free[at], self._free[-1]
            self._free.pop()
            try:
                return self._bind(port)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    self._free.append(port)
                    raise MediaError(f"can't open UDP port {port} of {self._host}: {error.strerror}") from error
            self._resting.append((now + self._rest_s, port, None))  # another program's; tried again later
        raise MediaError(f"no media port is free ({len(self._resting)} rest or are taken): widen media.ports")

    def _bind(self, port: int) -> PortPair:
        sockets: list[socket.socket] = []
        try:
            for number in (port, port + 1):
                sockets.append(socket.socket(self._family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK))
                sockets[-1].bind((self._host, number))
        except OSError:
            for opened in sockets:
                opened.close()
            raise
        # The default receive buffer (net.core.rmem_default, 208 KiB) holds seconds of voice. RTCP comes once in
        # seconds: what a flood adds is dropped by the kernel at no cost.
        sockets[1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RTCP_BUFFER)
        return PortPair(port, sockets[0], sockets[1])

    def rest(self, pair: PortPair, now: float) -> None:
        """Take a pair back: bound, unread, and closed when it has rested."""
        _shut(pair.rtp)
        _shut(pair.rtcp)
        self._resting.append((now + self._rest_s, pair.port, pair))

    def give_back(self, pair: PortPair) -> None:
        """Take back a pair that nobody was told of."""
        pair.close()
        self._free.append(pair.port)

    def avoid(self, ports: list[int], now: float) -> None:
        """Let ports rest that an earlier worker had in use when it died."""
        free = set(ports)
        self._free = [port for port in self._free if port not in free]
        self._resting.extend((now + self._rest_s, port, None) for port in ports)

    def wake(self, now: float) -> None:
        """Make the ports free again that have rested."""
        while self._resting and self._resting[0][0] <= now:
            _, port, pair = self._resting.popleft()
            if pair is not None:
                pair.close()
            self._free.append(port)

    def close(self) -> None:
        """Close what rests; what is in use is its holder's."""
        for _, _, pair in self._resting:
            if pair is not None:
                pair.close()
        self._resting.clear()


def _shut(unread: socket.socket) -> None:
    unread.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the kernel makes it its smallest, 2,304 bytes
