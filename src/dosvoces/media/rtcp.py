"""
RTCP packets (RFC 3550 §6) as values: sender and receiver reports, source descriptions, goodbyes.

Pure. Whatever the bytes, `parse` gives packets or raises `RtcpError`; no length in a packet is believed before it is
compared with what came.
"""

import struct
from dataclasses import dataclass

SENDER_REPORT, RECEIVER_REPORT, SOURCE_DESCRIPTION, GOODBYE = 200, 201, 202, 203
MAX_PACKETS = 32  # in one datagram; a report, a description and a goodbye are three
CNAME = 1  # RFC 3550 §6.5.1

_HEADER = struct.Struct("!BBH")
_BLOCK = struct.Struct("!IIIIII")
_SENDER = struct.Struct("!QIII")  # after the SSRC


class RtcpError(ValueError):
    """These bytes are no RTCP."""


@dataclass(frozen=True, slots=True)
class ReportBlock:
    """What somebody received of one stream (RFC 3550 §6.4.1)."""

    ssrc: int
    fraction_lost: int
    """Of 256, since the report before."""
    lost: int
    """Since the beginning; negative where packets came twice."""
    highest: int
    """The highest sequence number, with its cycles above the lower 16 bits."""
    jitter: int
    """Timestamp units."""
    last_report: int = 0
    """The middle 32 bits of the NTP time of the last sender report; 0 if none came."""
    delay: int = 0
    """Since that report came, in 1/65,536 s."""


@dataclass(frozen=True, slots=True)
class SenderReport:
    """What a sender sent until now, and what it received."""

    ssrc: int
    ntp: int
    """64 bits: seconds, and fractions of one."""
    timestamp: int
    """The same moment on the RTP stream's clock."""
    packets: int
    octets: int
    """Of payload alone."""
    blocks: tuple[ReportBlock, ...] = ()


@dataclass(frozen=True, slots=True)
class ReceiverReport:
    """The same of somebody who doesn't send."""

    ssrc: int
    blocks: tuple[ReportBlock, ...] = ()


@dataclass(frozen=True, slots=True)
class SourceName:
    """A source description of one chunk: who the SSRC is."""

    ssrc: int
    cname: str
    """At most 255 bytes."""


@dataclass(frozen=True, slots=True)
class Goodbye:
    """These sources leave."""

    ssrcs: tuple[int, ...]


Report = SenderReport | ReceiverReport
Packet = SenderReport | ReceiverReport | SourceName | Goodbye


def is_report(data: bytes) -> bool:
    """Whether `data` begins as all RTCP does (RFC 3550 §A.2)."""
    return len(data) >= 8 and data[0] >> 6 == 2 and data[1] in (SENDER_REPORT, RECEIVER_REPORT)


def parse(data: bytes | bytearray | memoryview) -> tuple[Packet, ...]:
    """
    The packets of a compound packet that we know, in order; others (feedback, extended reports) are passed over.

    Raises `RtcpError`. RFC 3550 §A.2: a report is first, padding is on the last one alone, the lengths add up.
    """
    packets: list[Packet] = []
    at, size, count = 0, len(data), 0
    while at < size:
        count += 1
        if size - at < _HEADER.size or count > MAX_PACKETS:
            raise RtcpError(f"{size - at} bytes of RTCP are left over" if count <= MAX_PACKETS else "too many packets")
        first, kind, words = _HEADER.unpack_from(data, at)
        end = at + 4 + 4 * words
        if first >> 6 != 2 or end > size or (count == 1 and kind not in (SENDER_REPORT, RECEIVER_REPORT)):
            raise RtcpError(f"not an RTCP packet: {size} bytes, type {kind}")
        body = bytes(data[at + 4 : end])
        if first & 0x20:
            if end != size or not body or not 0 < body[-1] <= len(body) or body[-1] % 4:
                raise RtcpError("padding where none may be")
            body = body[: -body[-1]]
        packet = _read(kind, first & 0x1F, body)
        if packet is not None:
            packets.append(packet)
        at = end
    if not packets:
        raise RtcpError("an empty packet")
    return tuple(packets)


def _read(kind: int, count: int, body: bytes) -> Packet | None:
    match kind:
        case 200:
            _enough(body, 4 + _SENDER.size + _BLOCK.size * count)
            ntp, timestamp, packets, octets = _SENDER.unpack_from(body, 4)
            return SenderReport(_word(body), ntp, timestamp, packets, octets, _blocks(body, 24, count))
        case 201:
            _enough(body, 4 + _BLOCK.size * count)
            return ReceiverReport(_word(body), _blocks(body, 4, count))
        case 202:
            return _source_name(body) if count else None
        case 203:
            _enough(body, 4 * count)
            return Goodbye(struct.unpack_from(f"!{count}I", body))
    return None


def _enough(body: bytes, needed: int) -> None:
    # AST-2017-008: counts that promise more than there is.
    if len(body) < needed:
        raise RtcpError(f"an RTCP packet of {len(body)} bytes that says it has {needed}")


def _word(body: bytes) -> int:
    return int.from_bytes(body[:4], "big")


def _blocks(body: bytes, at: int, count: int) -> tuple[ReportBlock, ...]:
    blocks = []
    for number in range(count):
        ssrc, loss, highest, jitter, last, delay = _BLOCK.unpack_from(body, at + number * _BLOCK.size)
        lost = loss & 0xFFFFFF
        # RFC 3550 §6.4.1: 24 bits with a sign.
        signed = lost - 0x1000000 if lost & 0x800000 else lost
        blocks.append(ReportBlock(ssrc, loss >> 24, signed, highest, jitter, last, delay))
    return tuple(blocks)


def _source_name(body: bytes) -> SourceName | None:
    """The first chunk's canonical name; the rest of it is of no use to a call of two."""
    _enough(body, 4)
    at = 4
    while at < len(body) and body[at]:
        _enough(body, at + 2)
        item, length = body[at], body[at + 1]
        _enough(body, at + 2 + length)
        if item == CNAME:
            return SourceName(_word(body), body[at + 2 : at + 2 + length].decode("utf-8", "replace"))
        at += 2 + length
    return None


def build(*packets: Packet) -> bytes:
    """`packets` as one compound packet; a report must be the first."""
    return b"".join(_written(packet) for packet in packets)


def _written(packet: Packet) -> bytes:
    match packet:
        case SenderReport():
            sender = _SENDER.pack(packet.ntp, packet.timestamp, packet.packets, packet.octets)
            body = packet.ssrc.to_bytes(4, "big") + sender + _written_blocks(packet.blocks)
            return _framed(SENDER_REPORT, len(packet.blocks), body)
        case ReceiverReport():
            body = packet.ssrc.to_bytes(4, "big") + _written_blocks(packet.blocks)
            return _framed(RECEIVER_REPORT, len(packet.blocks), body)
        case SourceName():
            name = packet.cname.encode()
            chunk = packet.ssrc.to_bytes(4, "big") + bytes([CNAME, len(name)]) + name
            # RFC 3550 §6.5: a zero ends the items, and more of them fill the word.
            return _framed(SOURCE_DESCRIPTION, 1, chunk + bytes(4 - len(chunk) % 4))
        case Goodbye():
            return _framed(GOODBYE, len(packet.ssrcs), struct.pack(f"!{len(packet.ssrcs)}I", *packet.ssrcs))


def _written_blocks(blocks: tuple[ReportBlock, ...]) -> bytes:
    return b"".join(
        _BLOCK.pack(
            *(block.ssrc, block.fraction_lost << 24 | block.lost & 0xFFFFFF, block.highest),
            *(block.jitter, block.last_report, block.delay),
        )
        for block in blocks
    )


def _framed(kind: int, count: int, body: bytes) -> bytes:
    return _HEADER.pack(0x80 | count, kind, len(body) // 4) + body
