"""
A connection's media without sockets and without a clock: the rules of `MediaRelay`, joined from its parts.

A `Session` has two `Line`s. A line has the source lock of its party, what the party sends (`Incoming`) and the stream
that the party hears (`Outgoing`).
"""

from collections.abc import Callable

from dosvoces.media import Address, Digit, Format, Heard, Statistics, tones
from dosvoces.media.dtmf import KeyPress
from dosvoces.media.g711 import SILENCE
from dosvoces.media.incoming import Incoming
from dosvoces.media.outgoing import Outgoing
from dosvoces.media.source import SocketAddress, SourceLock
from dosvoces.model import ConnectionId, Side

Report = Callable[[Digit | Heard], None]
Entropy = Callable[[int], int]
"""A random number of so many bits."""


class Line:
    """One side of a connection."""

    __slots__ = ("_id", "_report", "_side", "incoming", "lock", "on_hold", "out")

    def __init__(self, id: ConnectionId, side: Side, report: Report, entropy: Entropy) -> None:
        self._id, self._side, self._report = id, side, report
        self.lock = SourceLock()
        self.incoming = Incoming(self._pressed)
        self.out = Outgoing(ssrc=entropy(32), sequence=entropy(16), timestamp=entropy(32))
        self.on_hold = False

    def connect(self, remote: tuple[str, int] | None, format: Format) -> None:
        """Take media from `remote` and send it there; None: send nothing, and take it from where it came until now."""
        if remote is not None:
            self.lock.expect(remote)
        self.on_hold = remote is None
        self.incoming.code(format)
        self.out.code(format)
        self._aim()

    def admit(self, packet: bytearray, size: int, source: SocketAddress) -> bool:
        """Whether a packet that isn't from the locked source may be taken; what isn't is counted."""
        heard = self.lock.heard
        # Only a packet of an agreed payload type is worth learning a source from.
        if not (self.incoming.knows(packet, size) and self.lock.admit(source)):
            self.incoming.refused += 1
            return False
        if self.lock.heard != heard:
            self._aim()
            self._report(Heard(self._id, self._side, Address(source[0], source[1])))
        return True

    def _aim(self) -> None:
        self.out.destination = None if self.on_hold else self.lock.reply_to

    def _pressed(self, press: KeyPress) -> None:
        rate = self.out.format.clock_rate if self.out.format else 8000
        self._report(Digit(self._id, self._side, press.key, press.units * 1000 // rate))

    @property
    def statistics(self) -> Statistics:
        return Statistics(
            packets_received=self.incoming.received,
            packets_sent=self.out.sent,
            packets_lost=self.incoming.lost,
            jitter_ms=round(self.incoming.jitter_ms, 3),
            packets_refused=self.incoming.refused,
        )


class Session:
    """Both lines of a connection, and who hears whom."""

    __slots__ = ("_country", "_joined", "lines")

    def __init__(self, id: ConnectionId, country: str, report: Report, entropy: Entropy) -> None:
        self._country = country
        self._joined = False
        self.lines = {side: Line(id, side, report, entropy) for side in Side}

    def connect(self, side: Side, remote: tuple[str, int] | None, format: Format) -> None:
        """`MediaRelay.connect`; the host is spelt as the kernel spells it."""
        self.lines[side].connect(remote, format)
        self._wire()

    def play_ringing(self, side: Side) -> None:
        """`MediaRelay.play_ringing`."""
        out = self.lines[side].out
        if out.format is not None and out.format.name in SILENCE and not out.ringing:
            out.start_tone(tones.encoded(tones.ringing_tone(self._country), out.format.name))
        self._wire()

    def stop_ringing(self, side: Side) -> None:
        """`MediaRelay.stop_ringing`."""
        self.lines[side].out.stop_tone()
        self._wire()

    def join(self) -> None:
        """`MediaRelay.join`."""
        self._joined = True
        for line in self.lines.values():
            line.out.stop_tone()
        self._wire()

    def _wire(self) -> None:
        for side, line in self.lines.items():
            out = self.lines[side.other].out
            hears = self._joined and out.destination is not None and not out.ringing
            line.incoming.feed(out if hears and _alike(line.out.format, out.format) else None)

    def settle(self, now: float) -> None:
        """What time alone brings about; to be called a few times a second."""
        for line in self.lines.values():
            line.incoming.settle(now)

    def end(self) -> dict[Side, Statistics]:
        """Report what is still open, and what went over each side."""
        for line in self.lines.values():
            line.incoming.stop()
        return {side: line.statistics for side, line in self.lines.items()}


def _alike(one: Format | None, other: Format | None) -> bool:
    # Payload types may differ, the codec may not: noise in an ear is worse than silence.
    return one is not None and other is not None and (one.name, one.clock_rate) == (other.name, other.clock_rate)
