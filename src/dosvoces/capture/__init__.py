"""
What a connection's legs said to the carrier, kept for people: a bounded ring of messages, secrets blacked out.

Pure: `ladder.py` draws it, `pcap.py` writes it for Wireshark. The SIP driver feeds it, the record keeps it.
"""

import json
import re
import zlib
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

MAX_MESSAGES = 200  # kept of one connection, the newest
MAX_BYTES = 256 * 1024  # of messages kept of one connection
MAX_PACKED = 8 * 1024 * 1024  # read back from a record: no capture of ours is near it
# zlib's default takes 256 KiB anew for each capture, which costs three times the compressing of so little text.
WINDOW_BITS = 13  # 8 KiB, about a connection's messages
MEMORY_LEVEL = 7

Endpoint = tuple[str, int]
"""A literal IP address (IPv6 without brackets) and a port."""


class NotACapture(ValueError):
    """The bytes are not what `pack` made."""


class Captured(NamedTuple):
    """One message as it went over the wire."""

    at_us: int
    """Microseconds since 1970, UTC."""
    ours: bool
    """Whether we sent it."""
    transport: str
    """`udp`, `tcp` or `tls` of SIP, `rtp` of audio."""
    here: Endpoint
    peer: Endpoint
    data: bytes
    size: int = 0
    """Bytes of the whole, where `data` is only its beginning; 0: it is all."""


@dataclass(frozen=True, slots=True)
class Capture:
    """The messages of a connection, oldest first."""

    messages: tuple[Captured, ...]
    dropped: int = 0
    """Older ones that found no more room."""
    packets: tuple[Captured, ...] = ()
    """The heads of RTP packets, if they were asked for."""


class Ring:
    """Collects a connection's messages; when it is full the oldest go."""

    __slots__ = ("_bytes", "_messages", "dropped", "packets")

    def __init__(self) -> None:
        self._messages: deque[Captured] = deque()
        self._bytes = 0
        self.dropped = 0
        self.packets: list[Captured] = []
        """Heads of RTP packets; whoever adds them keeps them few."""

    def add(self, message: Captured) -> None:
        messages = self._messages
        messages.append(message)
        self._bytes += len(message.data)
        while len(messages) > MAX_MESSAGES or (self._bytes > MAX_BYTES and len(messages) > 1):
            self._bytes -= len(messages.popleft().data)
            self.dropped += 1

    @property
    def capture(self) -> Capture:
        return Capture(tuple(self._messages), self.dropped, tuple(self.packets))


# What whoever sees a capture must not read: from a digest's answer the password can be guessed (RFC 7616 §5.10), from
# the server's own (`rspauth`, §3.5) too, and an SDES key opens the audio (RFC 4568 §6.1).
_SECRETS = (
    re.compile(rb'(\b(?:response|rspauth|cnonce)\s*=\s*)("[^"\r\n]*"|[^\s,;]+)', re.IGNORECASE),
    re.compile(rb"(\binline:)([A-Za-z0-9+/=]+)", re.IGNORECASE),
)


def redacted(data: bytes) -> bytes:
    """`data` of the same length with every secret in it crossed out, so that lengths and offsets stay true."""
    # Nearly no message has any, and this looks seven times as fast as one expression that ignores case.
    lower = data.lower()
    if b"authorization" not in lower and b"authentication-info" not in lower and b"inline:" not in lower:
        return data
    for secret in _SECRETS:
        data = secret.sub(_cross_out, data)
    return data


def _cross_out(match: re.Match[bytes]) -> bytes:
    quoted = match[2].startswith(b'"')
    return match[1] + (b'"' + b"x" * (len(match[2]) - 2) + b'"' if quoted else b"x" * len(match[2]))


def pack(capture: Capture) -> bytes:
    """The capture as the record keeps it: redacted and compressed, about 1.5 kB a connection."""
    rows = [_row(m, redacted(m.data)) for m in capture.messages]
    packets = [[*_row(p, p.data), p.size] for p in capture.packets]
    text = json.dumps([capture.dropped, rows, packets], separators=(",", ":")).encode()
    compressor = zlib.compressobj(1, zlib.DEFLATED, WINDOW_BITS, MEMORY_LEVEL)
    return compressor.compress(text) + compressor.flush()


def _row(m: Captured, data: bytes) -> list[object]:
    return [m.at_us, int(m.ours), m.transport, *m.here, *m.peer, data.decode("latin-1")]


def unpack(packed: bytes) -> Capture:
    """What `pack` made. Raises `NotACapture` for anything else."""
    try:
        text = zlib.decompressobj().decompress(packed, MAX_PACKED)
        dropped, rows, packets = json.loads(text)
        return Capture(tuple(_messages(rows)), int(dropped), tuple(_messages(packets)))
    except (zlib.error, ValueError, TypeError) as error:
        raise NotACapture(f"not a capture: {error}") from error


def _messages(rows: Iterable[list[object]]) -> Iterable[Captured]:
    for at_us, ours, transport, here, here_port, peer, peer_port, data, *size in rows:
        yield Captured(
            at_us=int(str(at_us)),
            ours=bool(ours),
            transport=str(transport),
            here=(str(here), int(str(here_port))),
            peer=(str(peer), int(str(peer_port))),
            data=str(data).encode("latin-1"),
            size=int(str(size[0])) if size else 0,
        )
