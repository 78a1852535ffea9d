"""
A capture as a file that Wireshark, tshark and sngrep open: the classic pcap format, packets of raw IP.

What went over TCP or TLS is written as UDP too, decrypted, one datagram a message: a reader sees the SIP, not the
stream. Checksums are left 0, which readers take for offloaded.
"""

import ipaddress
import struct

from dosvoces.capture import Capture, Captured

MAGIC = 0xA1B2C3D4  # microseconds, our byte order
LINKTYPE_RAW = 101  # the packet begins with the IP header, version 4 or 6 (IANA's registry of link types)
SNAP_LENGTH = 65_535
UDP = 17  # protocol number
HOPS = 64
MAX_PAYLOAD = 65_535 - 20 - 8  # what an IPv4 packet has room for beside its headers


def pcap(capture: Capture) -> bytes:
    """The whole file: SIP messages and the heads of RTP packets, by their time."""
    parts = [struct.pack("=IHHiIII", MAGIC, 2, 4, 0, 0, SNAP_LENGTH, LINKTYPE_RAW)]
    for message in sorted((*capture.messages, *capture.packets), key=lambda captured: captured.at_us):
        packet = _ip(message)
        missing = max(0, message.size - len(message.data))
        seconds, microseconds = divmod(message.at_us, 1_000_000)
        parts.append(struct.pack("=IIII", seconds, microseconds, len(packet), len(packet) + missing))
        parts.append(packet)
    return b"".join(parts)


def _ip(message: Captured) -> bytes:
    source, target = (message.here, message.peer) if message.ours else (message.peer, message.here)
    data = message.data[:MAX_PAYLOAD]
    # The lengths are those of the whole packet, as a capture with a snap length has them.
    length = 8 + min(max(len(data), message.size), MAX_PAYLOAD)
    datagram = struct.pack("!HHHH", source[1], target[1], length, 0) + data
    from_, to = ipaddress.ip_address(source[0]), ipaddress.ip_address(target[0])
    if from_.version == 4 and to.version == 4:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 0, 0, HOPS, UDP, 0)
        return head + from_.packed + to.packed + datagram
    head = struct.pack("!IHBB", 6 << 28, length, UDP, HOPS)
    return head + _as_ipv6(from_) + _as_ipv6(to) + datagram


def _as_ipv6(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bytes:
    """RFC 4291 §2.5.5.2: an IPv4 address among IPv6 ones is written `::ffff:a.b.c.d`."""
    return address.packed if address.version == 6 else b"\0" * 10 + b"\xff\xff" + address.packed
