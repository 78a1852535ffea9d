"""What the rtpengine relay knows of a connection: values that `rtpengine.py` keeps, and what follows from them."""

import asyncio
import ipaddress
from dataclasses import dataclass, field

from dosvoces.errors import MediaError
from dosvoces.media import Address, Format, Statistics
from dosvoces.media.ng import Node
from dosvoces.media.ng_session import Traffic
from dosvoces.model import ConnectionId, Side


@dataclass(slots=True, eq=False)
class Line:
    """What is known of one side."""

    format: Format | None = None
    remote: Address | None = None
    """Where it was last; kept while it is on hold."""
    rtcp_port: int | None = None
    held: bool = False
    sends: bool = True
    ringing: bool = False
    passed: bool = False
    """Whether what it says goes to the other side."""
    heard: bool = False
    received: int = 0
    refused: int = 0
    sent: int = 0
    """What the other side said while that was passed on."""
    quiet_since: float | None = None
    """When it was last heard; None: it needn't send, or its silence was told."""


@dataclass(slots=True, eq=False)
class Call:
    """A connection and the daemon that has it."""

    id: ConnectionId
    node: Node
    number: str
    """Its call-id there: never used again, as rtpengine drains the call under it."""
    country: str
    ports: dict[Side, Address]
    lines: dict[Side, Line] = field(default_factory=lambda: {side: Line() for side in Side})
    joined: bool = False
    tail: "asyncio.Task[None] | None" = None
    """The last thing that was ordered; what follows waits for it."""
    look_at: float = 0.0

    def count(self, seen: dict[Side, Traffic]) -> None:
        """Keep what the daemon has counted."""
        for side, counted in seen.items():
            line = self.lines[side]
            if line.passed:
                self.lines[side.other].sent += max(0, counted.accepted - line.received)
            line.received, line.refused = counted.accepted, counted.refused


def hears(ear: Line, mouth: Line) -> bool:
    """Whether `ear` may be sent what `mouth` says."""
    one, other = ear.format, mouth.format
    # The number too: rtpengine passes it on as it is, and another codec's number is noise in an ear.
    alike = one is not None and other is not None and _coding(one) == _coding(other)
    return alike and ear.remote is not None and not ear.held


def _coding(format: Format) -> tuple[str, int, int]:
    return format.name, format.clock_rate, format.payload_type


def statistics(line: Line) -> Statistics:
    return Statistics(packets_received=line.received, packets_sent=line.sent, packets_refused=line.refused)


def check_host(host: str, ours: str) -> None:
    """Raises `MediaError` on what is no literal address of the family that the daemon gave us."""
    try:
        same = ipaddress.ip_address(host).version == ipaddress.ip_address(ours).version
    except ValueError:
        same = False
    if not same:
        raise MediaError(f"media can't go to {host!r}: no address of the family of rtpengine's interface")
