"""
What stands in the worker's table for a socket that isn't plain RTP: an encrypted line, and RTCP.

The worker's loop asks a socket's lock for its source, and its line whether a packet may be taken. A gate answers both
with no, and takes the packet all the way itself. So a plain voice pays nothing for what others need.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from dosvoces.media.session import Line
from dosvoces.media.source import SocketAddress

if TYPE_CHECKING:
    from dosvoces.media.srtp import Shield

Send = Callable[[bytes | memoryview, SocketAddress], int]
Clock = Callable[[], float]


class SecureGate:
    """The packets of a party that encrypts."""

    __slots__ = ("_clock", "_line", "_send", "source")

    def __init__(self, line: Line, send: Send, clock: Clock) -> None:
        """`send` takes what goes to the other party."""
        self._line, self._send, self._clock = line, send, clock
        self.source = None

    def admit(self, packet: bytearray, size: int, source: SocketAddress) -> bool:
        """False: it has been done."""
        line = self._line
        size = line.unlock(packet, size, source)
        if size and (source == line.lock.source or line.admit(packet, size, source)):
            destination = line.incoming.receive(packet, size, self._clock())
            if destination is not None:
                try:
                    self._send(memoryview(packet)[:size], destination)
                except OSError:
                    pass  # no route, or the buffer is full: a packet lost, as on any network
        return False


class RtcpGate:
    """The reports of a party."""

    __slots__ = ("_clock", "_line", "source")

    def __init__(self, line: Line, clock: Clock) -> None:
        self._line, self._clock = line, clock
        self.source = None

    def admit(self, packet: bytearray, size: int, source: SocketAddress) -> bool:
        """False: it has been done."""
        self._line.take_rtcp(packet, size, source, self._clock())
        return False


def sealing(shield: "Shield", send: Send) -> Send:
    """`send` for a party that wants its packets encrypted."""

    def seal_and_send(packet: bytes | memoryview, to: SocketAddress) -> int:
        sealed = shield.seal(bytes(packet))
        return send(sealed, to) if sealed else 0

    return seal_and_send
