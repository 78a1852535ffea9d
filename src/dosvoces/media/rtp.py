"""
RTP packets (RFC 3550 §5.1) and telephone-event payloads (RFC 4733 §2.3) as values.

Pure. The relay's hot path reads headers in place (`session.py`) and uses only `payload_bounds` from here; phones and
tests use the values.
"""

import struct
from dataclasses import dataclass

HEADER = struct.Struct("!BBHII")
"""Version, padding, extension and CSRC count; marker and payload type; sequence; timestamp; SSRC."""
HEADER_SIZE = HEADER.size  # 12 bytes, RFC 3550 §5.1
PLAIN = 0x80
"""The first byte of nearly all packets: version 2, no padding, no extension, no CSRC."""
MARKER = 0x80
"""In the second byte, above the payload type."""

KEYS = "0123456789*#ABCD"
"""The keys by event code (RFC 4733 §3.2, table 3)."""


class RtpError(ValueError):
    """These bytes are no RTP packet, or no telephone-event."""


@dataclass(frozen=True, slots=True)
class Packet:
    """One RTP packet. Padding is taken off when it is read and never written."""

    payload_type: int
    """0 to 127."""
    sequence: int
    timestamp: int
    ssrc: int
    payload: bytes
    marker: bool = False
    csrcs: tuple[int, ...] = ()
    """At most 15 contributing sources."""
    extension: tuple[int, bytes] | None = None
    """The profile's 16 bits and a multiple of 4 bytes (RFC 3550 §5.3.1)."""


@dataclass(frozen=True, slots=True)
class TelephoneEvent:
    """What one packet says about a key (RFC 4733 §2.3)."""

    code: int
    """0 to 15 are keys; others are tones of the line (flash, modem …)."""
    end: bool
    duration: int
    """Timestamp units since the event began."""
    volume: int = 10
    """-dBm0, 0 to 63."""


def payload_bounds(data: bytes | bytearray | memoryview, size: int) -> tuple[int, int] | None:
    """
    Where the payload of the packet in `data[:size]` starts and ends; None if that is no RTP packet.

    `data` may be longer than `size`: it is the buffer that was received into.
    """
    if size < HEADER_SIZE or data[0] >> 6 != 2:
        return None
    first = data[0]
    start, end = HEADER_SIZE + 4 * (first & 0x0F), size
    if first & 0x10:  # an extension: 16 bits of the profile's own, 16 bits of length in words
        if start + 4 > size:
            return None
        start += 4 + 4 * int.from_bytes(data[start + 2 : start + 4], "big")
    if first & 0x20:  # padding: its last byte counts all of it, itself included
        if start >= end or not 0 < data[end - 1] <= end - start:
            return None
        end -= data[end - 1]
    return (start, end) if start <= end else None


def parse(data: bytes) -> Packet:
    """The packet in `data`. Raises `RtpError` if it is none, and nothing else whatever the bytes."""
    bounds = payload_bounds(data, len(data))
    if bounds is None:
        raise RtpError(f"not an RTP packet: {len(data)} bytes, starting {bytes(data[:4]).hex()}")
    first, second, sequence, timestamp, ssrc = HEADER.unpack_from(data)
    after_csrcs = HEADER_SIZE + 4 * (first & 0x0F)
    extension = None
    if first & 0x10:
        end = after_csrcs + 4 + 4 * int.from_bytes(data[after_csrcs + 2 : after_csrcs + 4], "big")
        extension = (int.from_bytes(data[after_csrcs : after_csrcs + 2], "big"), bytes(data[after_csrcs + 4 : end]))
    return Packet(
        payload_type=second & 0x7F,
        sequence=sequence,
        timestamp=timestamp,
        ssrc=ssrc,
        payload=bytes(data[bounds[0] : bounds[1]]),
        marker=bool(second & MARKER),
        csrcs=struct.unpack_from(f"!{first & 0x0F}I", data, HEADER_SIZE),
        extension=extension,
    )


def build(packet: Packet) -> bytes:
    """`packet` as it goes over the wire."""
    first = PLAIN | len(packet.csrcs) | (0x10 if packet.extension else 0)
    second = packet.payload_type | (MARKER if packet.marker else 0)
    parts = [HEADER.pack(first, second, packet.sequence, packet.timestamp, packet.ssrc)]
    parts += [csrc.to_bytes(4, "big") for csrc in packet.csrcs]
    if packet.extension:
        profile, words = packet.extension
        parts += [struct.pack("!HH", profile, len(words) // 4), words]
    parts.append(packet.payload)
    return b"".join(parts)


_EVENT = struct.Struct("!BBH")


def parse_event(payload: bytes | bytearray | memoryview) -> TelephoneEvent:
    """
    The event in a telephone-event payload; what follows the first four bytes is ignored. Raises `RtpError`.
    """
    if len(payload) < _EVENT.size:
        raise RtpError(f"a telephone-event of {len(payload)} bytes")
    code, flags, duration = _EVENT.unpack_from(payload)
    return TelephoneEvent(code=code, end=bool(flags & 0x80), duration=duration, volume=flags & 0x3F)


def build_event(event: TelephoneEvent) -> bytes:
    """`event` as a payload."""
    return _EVENT.pack(event.code, (0x80 if event.end else 0) | event.volume, event.duration)
