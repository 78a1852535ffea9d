"""
What is said to rtpengine of one side, and what it says of a call: session descriptions and counters. Pure.

The descriptions are read by rtpengine only, so they are as short as it takes; those of the phones are `sip/sdp.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dosvoces.errors import MediaError
from dosvoces.media import Address, Format
from dosvoces.model import Side

DISCARD_PORT = 9  # RFC 863: where the media of a side go that has none yet
PCMA = Format("PCMA", 8)


@dataclass(frozen=True, slots=True)
class Traffic:
    """What came from one side so far."""

    accepted: int
    refused: int
    """From a stranger's address."""


def describe(ours: Address | None, remote: Address | None, format: Format | None, rtcp_port: int | None) -> str:
    """One audio stream at `remote`, in `format`; None: nowhere yet. `ours` says of which family."""
    format = format or PCMA
    if remote is None:
        remote = Address("::1" if ours is not None and ":" in ours.host else "127.0.0.1", DISCARD_PORT)
    family = "IP6" if ":" in remote.host else "IP4"
    channels = "/2" if format.name.lower() == "opus" else ""  # RFC 7587 §7
    numbers = str(format.payload_type)
    maps = f"a=rtpmap:{format.payload_type} {format.name}/{format.clock_rate}{channels}\r\n"
    if format.dtmf_payload_type is not None:
        numbers += f" {format.dtmf_payload_type}"
        maps += f"a=rtpmap:{format.dtmf_payload_type} telephone-event/{format.clock_rate}\r\n"
    rtcp = "" if rtcp_port is None else f"a=rtcp:{rtcp_port}\r\n"
    return (
        f"v=0\r\no=- 1 1 IN {family} {remote.host}\r\ns=-\r\nc=IN {family} {remote.host}\r\nt=0 0\r\n"
        f"m=audio {remote.port} RTP/AVP {numbers}\r\n{maps}{rtcp}a=sendrecv\r\na=ptime:{format.packet_ms}\r\n"
    )


def local_address(answer: Mapping[str, Any]) -> Address:
    """Where rtpengine receives, from the description that it made. Raises `MediaError`."""
    host, port = "", 0
    for line in str(answer.get("sdp", "")).splitlines():
        fields = line.split()
        if line.startswith("c=IN ") and len(fields) == 3:
            host = fields[2]
        elif line.startswith("m=audio ") and len(fields) > 1 and fields[1].isdecimal():
            port = int(fields[1])
    if not host or not port:
        raise MediaError("rtpengine gave no port: is one of its interfaces of the right family, and a port free?")
    return Address(host, port)


def traffic(answer: Mapping[str, Any]) -> dict[Side, Traffic]:
    """The counters of both sides, from the answer to `query`; what is missing or odd counts as nothing."""
    return {side: _traffic(answer, side) for side in Side}


def _traffic(answer: Mapping[str, Any], side: Side) -> Traffic:
    try:
        # The first stream of the first media is RTP, the second one RTCP.
        stats = answer["tags"][side.value]["medias"][0]["streams"][0]["stats"]
        packets, errors = int(stats["packets"]), int(stats["errors"])
    except (LookupError, TypeError, ValueError):
        return Traffic(0, 0)
    return Traffic(max(0, packets - errors), errors)
