"""
The headers of a connection's RTP packets as they pass the worker's sockets, the newest of them, for a capture.

Never the audio: twelve bytes of a packet are kept, and how long it was. Off, it costs nothing: the worker's sockets are
wrapped only where it is on.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from dosvoces.media.rtp import HEADER_SIZE
from dosvoces.media.source import SocketAddress
from dosvoces.model import Side

PER_MESSAGE = 200  # headers told to the server at a time; one takes some 80 bytes of the 64 KiB

ReceiveInto = Callable[[bytearray], tuple[int, Any]]
Send = Callable[[bytes | memoryview, SocketAddress], int]
Header = tuple[int, str, bool, int, str, int, str]
"""Microseconds since 1970, side, whether we sent it, bytes of the packet, the peer's host and port, the head in hex."""


class HeaderRing:
    """The newest `limit` headers of one connection."""

    __slots__ = ("_ring",)

    def __init__(self, limit: int) -> None:
        self._ring: deque[Header] = deque(maxlen=limit)

    def receiving(self, side: Side, receive_into: ReceiveInto) -> ReceiveInto:
        """`receive_into`, watched."""

        def receive(packet: bytearray) -> tuple[int, Any]:
            size, source = receive_into(packet)
            self._keep(side, False, size, source, packet)
            return size, source

        return receive

    def sending(self, side: Side, send: Send) -> Send:
        """`send`, watched."""

        def watched(packet: bytes | memoryview, to: SocketAddress) -> int:
            self._keep(side, True, len(packet), to, packet)
            return send(packet, to)

        return watched

    def messages(self) -> list[list[Header]]:
        """All that is kept, oldest first, in portions for the control socket."""
        kept = list(self._ring)
        return [kept[at : at + PER_MESSAGE] for at in range(0, len(kept), PER_MESSAGE)]

    def _keep(
        self, side: Side, ours: bool, size: int, peer: SocketAddress, packet: bytes | bytearray | memoryview
    ) -> None:
        header = bytes(packet[: min(size, HEADER_SIZE)]).hex()
        self._ring.append((time.time_ns() // 1000, side.value, ours, size, peer[0], peer[1], header))
