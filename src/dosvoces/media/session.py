"""
A connection's media without sockets and without a clock: the rules of `MediaRelay`, joined from its parts.

A `Session` has two `Line`s. A line has the source lock of its party, what the party sends (`Incoming`) and the stream
that the party hears (`Outgoing`).
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from dosvoces.media import Address, Digit, Format, Heard, Silent, Srtp, Statistics, quality, tones
from dosvoces.media.dtmf import KeyPress
from dosvoces.media.g711 import SILENCE
from dosvoces.media.incoming import Incoming
from dosvoces.media.outgoing import Outgoing
from dosvoces.media.reports import Reports
from dosvoces.media.rtcp import is_report
from dosvoces.media.source import SocketAddress, SourceLock
from dosvoces.model import ConnectionId, Side

if TYPE_CHECKING:
    from dosvoces.media.srtp import Shield

Report = Callable[[Digit | Heard | Silent], None]
Entropy = Callable[[int], int]
"""A random number of so many bits."""

LAST_PORT = 65535
MIN_RATED_PACKETS = 50  # a second of voice; with less an estimate of its quality is no estimate


class Line:
    """One side of a connection."""

    __slots__ = (
        "_id", "_quiet_since", "_received", "_report", "_side", "_watched", "incoming", "lock", "on_hold", "out",
        "reports", "rtcp_lock", "shield",
    )  # fmt: skip

    def __init__(self, id: ConnectionId, side: Side, report: Report, entropy: Entropy) -> None:
        self._id, self._side, self._report = id, side, report
        self.lock = SourceLock()
        self.incoming = Incoming(self._pressed)
        # RFC 3711 §3.3.1: a sequence that wraps while its first packets are lost would spoil an encrypted stream.
        self.out = Outgoing(ssrc=entropy(32), sequence=entropy(16) & 0x7FFF, timestamp=entropy(32))
        self.shield: Shield | None = None
        self.reports = Reports(self.incoming, self.out, entropy)
        self.rtcp_lock = SourceLock()
        self.on_hold = False
        self._watched = False  # whether it should send
        self._received = 0  # packets, when last looked
        self._quiet_since: float | None = None  # monotonic seconds; None: not known yet, or its silence was told

    def connect(
        self,
        remote: tuple[str, int] | None,
        format: Format,
        *,
        plays_from: tuple[str, int] | None,
        sends: bool,
        srtp: Srtp | None,
        rtcp_port: int | None,
    ) -> None:
        """
        Take media from `remote` and send it there; None: send nothing, and take it from `plays_from`, or else from
        where it came until now.
        """
        place = remote or plays_from
        if place is not None:
            self.lock.expect(place)
            # RFC 3550 §11: the port above. Above the last one there is none: a peer with that one gets its RTCP there.
            self.rtcp_lock.expect((place[0], rtcp_port or min(place[1] + 1, LAST_PORT)))
        if self.on_hold and remote is not None:
            self.lock.relearn()
            self.rtcp_lock.relearn()
        if srtp != (self.shield.srtp if self.shield is not None else None):
            self.shield = None if srtp is None else _shield(srtp, self.shield)
        self.on_hold = remote is None
        watched = sends and not self.on_hold
        if watched and not self._watched:
            self._received, self._quiet_since = -1, None  # it starts to count at the next look
        self._watched = watched
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

    def unlock(self, packet: bytearray, size: int, source: SocketAddress) -> int:
        """
        Decrypt the packet in `packet[:size]` in place; its new size, or 0: refused and counted.

        What can't be the party's by its host isn't worth the decryption.
        """
        assert self.shield is not None
        signalled = self.lock.signalled
        plain = self.shield.open(bytes(packet[:size])) if signalled and source[0] == signalled[0] else None
        if plain is None:
            self.incoming.refused += 1
            return 0
        packet[: len(plain)] = plain
        return len(plain)

    def take_rtcp(self, packet: bytearray, size: int, source: SocketAddress, now: float) -> None:
        """Take what came to the port for RTCP; what isn't the party's is dropped."""
        signalled = self.rtcp_lock.signalled
        if signalled is None or source[0] != signalled[0]:
            return
        data: bytes | None = bytes(packet[:size])
        if self.shield is not None:
            data = self.shield.open_rtcp(bytes(packet[:size]))
        if data is not None and is_report(data) and self.rtcp_lock.admit(source):
            self.reports.take(data, now)

    def report(self, now: float) -> tuple[bytes, SocketAddress] | None:
        """The report that is due, and where it goes."""
        return self._sealed(self.reports.write(now))

    def goodbye(self, now: float) -> tuple[bytes, SocketAddress] | None:
        """What the party is told last, and where."""
        data = self.reports.goodbye(now)
        return None if data is None else self._sealed(data)

    def _sealed(self, data: bytes) -> tuple[bytes, SocketAddress] | None:
        to = self.rtcp_lock.reply_to
        if to is None:
            return None
        return data if self.shield is None else self.shield.seal_rtcp(data), to

    def _aim(self) -> None:
        self.out.destination = None if self.on_hold else self.lock.reply_to

    def settle(self, now: float, silence_s: float) -> None:
        """What time alone brings about: a key that must be let go, a silence that is worth telling."""
        self.incoming.settle(now)
        if self.rtcp_lock.signalled is not None:
            self.reports.start(now)
        if not self._watched:
            return
        received = self.incoming.received
        if received != self._received:
            self._received, self._quiet_since = received, now
        elif self._quiet_since is not None and now - self._quiet_since >= silence_s:
            self._report(Silent(self._id, self._side, round(now - self._quiet_since, 1)))
            self._quiet_since = None

    def _pressed(self, press: KeyPress) -> None:
        rate = self.out.format.clock_rate if self.out.format else 8000
        self._report(Digit(self._id, self._side, press.key, press.units * 1000 // rate))

    @property
    def statistics(self) -> Statistics:
        incoming, out, reports = self.incoming, self.out, self.reports
        round_trip_ms, lost_there, jitter_there_ms = reports.round_trip_ms, reports.lost_there, reports.jitter_there_ms
        return Statistics(
            packets_received=incoming.received,
            packets_sent=out.sent,
            packets_lost=incoming.lost,
            jitter_ms=round(incoming.jitter_ms, 3),
            packets_refused=incoming.refused,
            round_trip_ms=None if round_trip_ms is None else round(round_trip_ms, 1),
            lost_there=lost_there,
            jitter_there_ms=None if jitter_there_ms is None else round(jitter_there_ms, 3),
            mos=self._rated(incoming.received, incoming.lost, incoming.jitter_ms),
            mos_there=None
            if lost_there is None or jitter_there_ms is None
            else self._rated(out.sent - lost_there, lost_there, jitter_there_ms),
        )

    def _rated(self, arrived: int, lost: int, jitter_ms: float) -> float | None:
        format = self.out.format
        if format is None or arrived + lost < MIN_RATED_PACKETS:
            return None
        return quality.estimate(
            format.name,
            loss=lost / (arrived + lost),
            round_trip_ms=self.reports.round_trip_ms,
            jitter_ms=jitter_ms,
            packet_ms=format.packet_ms,
        )


class Session:
    """Both lines of a connection, and who hears whom."""

    __slots__ = ("_country", "_joined", "_silence_s", "lines")

    def __init__(
        self, id: ConnectionId, country: str, report: Report, entropy: Entropy, *, silence_s: float = math.inf
    ) -> None:
        """`silence_s`: how long a side that should send may be quiet before that is reported."""
        self._country = country
        self._silence_s = silence_s
        self._joined = False
        self.lines = {side: Line(id, side, report, entropy) for side in Side}

    def connect(
        self,
        side: Side,
        remote: tuple[str, int] | None,
        format: Format,
        *,
        plays_from: tuple[str, int] | None = None,
        sends: bool = True,
        srtp: Srtp | None = None,
        rtcp_port: int | None = None,
    ) -> None:
        """`MediaRelay.connect`; the host is spelt as the kernel spells it."""
        out = self.lines[side].out
        coded = out.format
        line = self.lines[side]
        line.connect(remote, format, plays_from=plays_from, sends=sends, srtp=srtp, rtcp_port=rtcp_port)
        if out.ringing and coded is not None and coded.name != format.name:
            # A tone in the old codec is noise in the new one.
            out.stop_tone()
            self.play_ringing(side)
        self._wire()

    def play_ringing(self, side: Side) -> None:
        """`MediaRelay.play_ringing`."""
        out = self.lines[side].out
        if out.format is not None and out.format.name in SILENCE and not out.ringing:
            out.start_tone(tones.encoded(tones.ringing_tone(self._country), out.format.name))
        self._wire()

    def play_warning(self, side: Side) -> None:
        """`MediaRelay.play_warning`."""
        out = self.lines[side].out
        if out.format is not None and out.format.name in SILENCE:
            out.start_tone(tones.warning(out.format.name))
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
            line.settle(now, self._silence_s)

    def end(self) -> dict[Side, Statistics]:
        """Report what is still open, and what went over each side."""
        for line in self.lines.values():
            line.incoming.stop()
        return {side: line.statistics for side, line in self.lines.items()}


def _shield(srtp: Srtp, before: "Shield | None") -> "Shield":
    # libsrtp and its OpenSSL are 5 MB and 10 ms, for the first one who wants them.
    from dosvoces.media.srtp import Shield

    return Shield(srtp, before)


def _alike(one: Format | None, other: Format | None) -> bool:
    # Payload types may differ, the codec may not: noise in an ear is worse than silence.
    return one is not None and other is not None and (one.name, one.clock_rate) == (other.name, other.clock_rate)
