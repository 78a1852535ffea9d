"""
The RTP stream that a party sends us: its statistics, its keys, and its packets rewritten for the other party.

Pure; the hot path of the relay. Nothing here raises on a packet's bytes.
"""

from collections.abc import Callable
from typing import NamedTuple

from dosvoces.media import Format, rtp
from dosvoces.media.dtmf import KeyPress, KeyPresses
from dosvoces.media.outgoing import Outgoing
from dosvoces.media.rtp import HEADER_SIZE, MARKER, PLAIN
from dosvoces.media.source import SocketAddress

MAX_PACKET = 2048  # bytes; what is as long as this is no voice
MAX_DROPOUT = 3000  # packets missing before a sequence counts as another one, RFC 3550 §A.1
MAX_MISORDER = 100  # packets late before a sequence counts as another one, RFC 3550 §A.1
JUMP_S = 5.0  # a timestamp this far from the time that passed was started anew

_read = rtp.HEADER.unpack_from
_write = rtp.HEADER.pack_into


def _nobody(press: KeyPress) -> None:
    """Whom a stopped stream reports to."""


class Run(NamedTuple):
    """How far a run has come; a receiver report tells it (RFC 3550 §6.4.1)."""

    ssrc: int
    highest: int
    """The highest sequence number, which counts on over 65,535."""
    expected: int
    """Packets, from the first to the highest number."""
    received: int
    jitter: int
    """Timestamp units."""


class Incoming:
    """
    What one party sends. `receive` is given what the source lock admitted.

    A *run* is a stretch of packets with one SSRC and one course of sequence numbers; a party that restarts its stream
    begins a new one. Loss is counted within runs (RFC 3550 §A.3).
    """

    __slots__ = (
        "_anchored", "_awaited", "_base", "_codec", "_dtmf", "_dtmf_out", "_extended", "_first_forwarded", "_forms",
        "_jitter", "_jump", "_keys", "_lost_before", "_others", "_out", "_pressed", "_rate", "_received_before",
        "_run", "_sequence_shift", "_ssrc", "_timestamp_shift", "_transit", "refused",
    )  # fmt: skip

    def __init__(self, pressed: Callable[[KeyPress], None]) -> None:
        self._pressed = pressed
        self._keys = KeyPresses()
        self.refused = 0
        # how it is coded
        self._codec: tuple[int, ...] = ()  # by which numbers it comes
        self._dtmf: tuple[int, ...] = ()
        self._others: tuple[int, ...] = ()
        self._dtmf_out = -1
        self._rate, self._jump = 1, 0.0
        self._forms: dict[int, int] = {}  # a voice's second byte, with marker and without, and what it becomes
        # the run
        self._ssrc = -1
        self._base, self._extended = 0, -1  # first and highest sequence number; the highest counts on over 65,535
        self._awaited = -1  # RFC 3550 §A.1, bad_seq: the sequence number that would confirm a jump
        self._run = 0  # packets received in it
        self._transit = 0.0  # arrival less timestamp, of the newest packet, timestamp units
        self._jitter = 0.0  # timestamp units
        self._received_before = self._lost_before = 0  # in earlier runs
        # where it goes
        self._out: Outgoing | None = None
        self._anchored = True  # the shifts hold for `_out`, or there is none
        self._first_forwarded = 0
        self._sequence_shift = self._timestamp_shift = 0

    def code(self, format: Format) -> None:
        """Say how the party codes its packets; `feed` must follow."""
        if format.clock_rate != self._rate:
            self._end_run()
        self._rate, self._jump = format.clock_rate, format.clock_rate * JUMP_S
        # RFC 3264 §5.1: what a party sends carries our numbers. Many send by their own; that is taken where it is free.
        ours, our_dtmf = format.payload_type_here, format.dtmf_payload_type_here
        self._codec = tuple(n for n in (ours, format.payload_type) if n is not None and n != our_dtmf)
        self._dtmf = tuple(n for n in (our_dtmf, format.dtmf_payload_type) if n is not None and n != ours)
        self._others = format.others

    def feed(self, out: Outgoing | None) -> None:
        """Forward to `out`, which is coded alike, from the next packet on; None: to nobody."""
        format = None if out is None else out.format
        self._dtmf_out = -1 if format is None or format.dtmf_payload_type is None else format.dtmf_payload_type
        forms = {number: number if format is None else format.payload_type for number in self._codec}
        # RFC 3264 §6.1: a party may change to any codec of its answer without a word.
        forms |= {number: number for number in self._others if format is None or number in format.others}
        self._forms = forms | {number | MARKER: becomes | MARKER for number, becomes in forms.items()}
        if out is not self._out:
            self._out, self._anchored = out, out is None

    def knows(self, packet: bytearray, size: int) -> bool:
        """Whether this is RTP of a payload type that was agreed."""
        return (
            size < MAX_PACKET
            and rtp.payload_bounds(packet, size) is not None
            and packet[1] & 0x7F in (*self._codec, *self._others, *self._dtmf)
        )

    def receive(self, packet: bytearray, size: int, now: float) -> SocketAddress | None:
        """
        Take the packet in `packet[:size]`; if it goes on, it is rewritten in place and where to is returned.

        `now` is monotonic seconds. This method is the usual case alone, a packet of the codec in its order, and
        `_receive_otherwise` is all cases.
        """
        if HEADER_SIZE <= size < MAX_PACKET:
            first, second, sequence, timestamp, ssrc = _read(packet)
            step = (sequence - self._extended) & 0xFFFF
            drift = now * self._rate - timestamp - self._transit
            if (
                first == PLAIN
                and ssrc == self._ssrc
                and 0 < step < MAX_DROPOUT
                and second in self._forms
                and self._anchored
                and -self._jump < drift < self._jump
            ):
                self._run += 1
                self._extended += step
                self._transit += drift
                self._jitter += ((drift if drift > 0 else -drift) - self._jitter) * 0.0625  # RFC 3550 §A.8
                out = self._out
                if out is None:
                    return None
                out.sequence = sequence = (sequence + self._sequence_shift) & 0xFFFF
                out.timestamp = timestamp = (timestamp + self._timestamp_shift) & 0xFFFFFFFF
                out.at = now
                out.sent += 1
                out.bytes += size
                _write(packet, 0, PLAIN, self._forms[second], sequence, timestamp, out.ssrc)
                return out.destination
        return self._receive_otherwise(packet, size, now)

    def _receive_otherwise(self, packet: bytearray, size: int, now: float) -> SocketAddress | None:
        bounds = rtp.payload_bounds(packet, size) if size < MAX_PACKET else None
        if bounds is None:
            self.refused += 1
            return None
        _, second, sequence, timestamp, ssrc = _read(packet)
        if ssrc != self._ssrc:
            self._begin_run(ssrc, sequence, timestamp, now)
        behind = self._place(sequence, timestamp, now)
        if behind is None:
            self.refused += 1
            return None
        self._run += 1
        if second in self._forms:
            if not behind:
                self._time(timestamp, now)
            return self._forward(packet, size, self._forms[second], behind, now)
        if second & 0x7F in self._dtmf:
            self._press(packet[bounds[0] : bounds[1]], timestamp, now)
            if self._dtmf_out >= 0:
                return self._forward(packet, size, self._dtmf_out | (second & MARKER), behind, now)
        if not behind:
            self._sequence_shift -= 1  # what isn't forwarded must not look like loss
        return None

    def _begin_run(self, ssrc: int, sequence: int, timestamp: int, now: float) -> None:
        self._end_run()
        self._ssrc = ssrc
        self._base = sequence
        self._extended = sequence - 1
        self._transit = now * self._rate - timestamp

    def _end_run(self) -> None:
        self.flush_keys()
        self._keys = KeyPresses()
        self._lost_before, self._received_before = self.lost, self.received
        self._ssrc, self._awaited, self._run, self._base, self._extended = -1, -1, 0, 0, -1
        self._anchored = self._out is None

    def _place(self, sequence: int, timestamp: int, now: float) -> int | None:
        """By how many packets this one comes late: 0 in its order, more if late or repeated; None: not of this run."""
        step = (sequence - self._extended) & 0xFFFF
        if 0 < step < MAX_DROPOUT:
            self._extended += step
            return 0
        if step == 0 or step > 0x10000 - MAX_MISORDER:
            return (-step & 0xFFFF) + 1
        # RFC 3550 §A.1: two in sequence show that the other side made a new start; one alone is a stray.
        if sequence != self._awaited:
            self._awaited = (sequence + 1) & 0xFFFF
            return None
        self._begin_run(self._ssrc, sequence, timestamp, now)
        self._extended += 1
        return 0

    def _time(self, timestamp: int, now: float) -> None:
        transit = now * self._rate - timestamp
        drift = (transit - self._transit + 0x80000000) % 0x100000000 - 0x80000000
        self._transit = transit
        if abs(drift) < self._jump:
            self._jitter += (abs(drift) - self._jitter) / 16  # RFC 3550 §A.8
        else:
            self._anchored = self._out is None

    def _press(self, payload: bytes | bytearray, timestamp: int, now: float) -> None:
        try:
            event = rtp.parse_event(payload)
        except rtp.RtpError:
            return
        for press in self._keys.take(event, timestamp, now):
            self._pressed(press)

    def _forward(self, packet: bytearray, size: int, second: int, behind: int, now: float) -> SocketAddress | None:
        out = self._out
        if out is None:
            return None
        first, _, sequence, timestamp, _ = _read(packet)
        if not self._anchored:
            if behind:
                return None
            next_sequence, next_timestamp = out.follow(now)
            self._sequence_shift, self._timestamp_shift = next_sequence - sequence, next_timestamp - timestamp
            self._first_forwarded, self._anchored = self._extended, True
            second |= MARKER  # RFC 3551 §4.1: a talkspurt begins
        elif behind and self._extended - behind + 1 < self._first_forwarded:
            return None  # its number went to the source before
        sequence = (sequence + self._sequence_shift) & 0xFFFF
        timestamp = (timestamp + self._timestamp_shift) & 0xFFFFFFFF
        out.sent += 1
        out.bytes += size
        if not behind:
            out.sequence = sequence
            if second & 0x7F != self._dtmf_out:  # an event's timestamp stays at its start (RFC 4733 §2.2.1)
                out.timestamp, out.at = timestamp, now
        _write(packet, 0, first, second, sequence, timestamp, out.ssrc)
        return out.destination

    def settle(self, now: float) -> None:
        """Report the key whose end was lost, once it must be over."""
        for press in self._keys.settle(now):
            self._pressed(press)

    def flush_keys(self) -> None:
        """Report the key that is held down: the stream is over."""
        for press in self._keys.flush():
            self._pressed(press)

    def stop(self) -> None:
        """Report what is held down, and let go of everyone: no cycle is left for the collector."""
        self.flush_keys()
        self.feed(None)
        self._pressed = _nobody

    @property
    def run(self) -> Run | None:
        """The run as it is now; None before the first packet."""
        if self._ssrc < 0:
            return None
        return Run(self._ssrc, self._extended, self._extended - self._base + 1, self._run, int(self._jitter))

    @property
    def received(self) -> int:
        return self._received_before + self._run

    @property
    def lost(self) -> int:
        """RFC 3550 §A.3, never below 0."""
        return self._lost_before + max(0, self._extended - self._base + 1 - self._run)

    @property
    def jitter_ms(self) -> float:
        return self._jitter * 1000 / self._rate
