"""The one RTP stream that we send to a party, continuous whatever feeds it. Pure."""

from dosvoces.media import Format
from dosvoces.media.rtp import HEADER, HEADER_SIZE, MARKER, PLAIN
from dosvoces.media.source import SocketAddress
from dosvoces.media.tones import FRAME_SAMPLES

_TONE_GAP_S = 0.1  # a tone that paused for longer (hold, a stalled process) goes on as after a change of source


class Outgoing:
    """
    Sequence, timestamp and SSRC of what one party hears from us, and the ringing tone.

    `Incoming.receive` of the other side writes `sequence`, `timestamp`, `at`, `sent` and `bytes` for each packet that
    it forwards.
    """

    __slots__ = (
        "_frame_units", "_rate", "_started", "_tone", "_tone_at", "at", "bytes", "destination", "format", "sent",
        "sequence", "ssrc", "timestamp",
    )  # fmt: skip

    def __init__(self, *, ssrc: int, sequence: int, timestamp: int) -> None:
        """All three are random (RFC 3550 §5.1); the first packet is the one after `sequence`."""
        self.ssrc = ssrc
        self.sequence = sequence
        self.timestamp = timestamp
        self.at = 0.0
        """When the packet with this timestamp went out, monotonic seconds."""
        self.sent = 0
        self.bytes = 0
        """Of the packets sent, with their headers."""
        self.destination: SocketAddress | None = None
        """None before the party is connected and while it is on hold."""
        self.format: Format | None = None
        self._rate = 0
        self._frame_units = 0
        self._tone = b""
        self._tone_at = 0
        self._started = False

    def code(self, format: Format) -> None:
        """Say how this stream is coded from here on."""
        self.format = format
        self._rate = format.clock_rate
        self._frame_units = format.clock_rate * format.packet_ms // 1000

    def follow(self, now: float) -> tuple[int, int]:
        """
        Sequence and timestamp of the next packet when its source is a new one.

        RFC 3550 §5.1: the timestamp goes on with the time that passed, and by a whole frame at least, or the receiver
        would take the new source for a repeat of what it plays.
        """
        sequence = (self.sequence + 1) & 0xFFFF
        if not self.sent:
            return sequence, self.timestamp
        passed = max(round((now - self.at) * self._rate), self._frame_units)
        return sequence, (self.timestamp + passed) & 0xFFFFFFFF

    @property
    def ringing(self) -> bool:
        return bool(self._tone)

    def start_tone(self, tone: bytes) -> None:
        """Play `tone` from its start, again and again: whole frames of this stream's codec, never empty."""
        self._tone, self._tone_at, self._started = tone, 0, False

    def stop_tone(self) -> None:
        """Play nothing."""
        self._tone = b""

    def tone_packet(self, now: float) -> bytes | None:
        """The next 20 ms of the tone as a packet; None if there is nobody to hear it or no tone."""
        if self.destination is None or self.format is None or not self._tone:
            return None
        if self._started and now - self.at <= _TONE_GAP_S:
            marker = 0
            self.sequence = (self.sequence + 1) & 0xFFFF
            self.timestamp = (self.timestamp + FRAME_SAMPLES) & 0xFFFFFFFF
        else:
            marker, self._started = MARKER, True
            self.sequence, self.timestamp = self.follow(now)
        frame = self._tone[self._tone_at : self._tone_at + FRAME_SAMPLES]
        self._tone_at = (self._tone_at + FRAME_SAMPLES) % len(self._tone)
        self.at = now
        self.sent += 1
        self.bytes += HEADER_SIZE + len(frame)
        second = self.format.payload_type | marker
        return HEADER.pack(PLAIN, second, self.sequence, self.timestamp, self.ssrc) + frame
