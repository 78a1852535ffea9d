"""
What a trial phone says and hears: a source of RTP packets and an ear that measures tones.

Pure: the phone has the socket and the clock.
"""

import math
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from dosvoces.media import g711, rtp
from dosvoces.media.goertzel import FULL_SCALE, FULL_SCALE_DBM0, level_dbm0, total_dbm0

FRAME_MS = 20
FRAME_SAMPLES = g711.SAMPLE_RATE * FRAME_MS // 1000
KEY_MS = 100  # how long a key is held down; ITU-T Q.24 asks for 40 at least
KEY_GAP_MS = 80  # and how long it is let go, likewise
END_PACKETS = 3  # RFC 4733 §2.5.1.4
MAX_KEYS = 64  # waiting to be sent

MAX_WINDOWS = 72_000  # two hours of windows of 100 ms; older ones are forgotten
MAX_GAP_S = 30.0  # a longer one in the timestamps means that they were started anew
AUDIBLE_DBM0 = -45.0
DOMINANT_DB = 6.0  # a tone is what is heard if no more than this below the whole: each of a pair of tones passes


@cache
def tone_frames(codec: str, frequency_hz: int | None, tone_dbm0: float) -> tuple[bytes, ...]:
    """One second of a tone (a whole number of Hz, so that it repeats) or of silence, in frames of 20 ms."""
    if frequency_hz is None:
        return (bytes([g711.SILENCE[codec]]) * FRAME_SAMPLES,)
    amplitude = FULL_SCALE * 10 ** ((tone_dbm0 - FULL_SCALE_DBM0) / 20)
    step = 2 * math.pi * frequency_hz / g711.SAMPLE_RATE
    coded = g711.encode(codec, [round(amplitude * math.sin(step * at)) for at in range(g711.SAMPLE_RATE)])
    return tuple(coded[at : at + FRAME_SAMPLES] for at in range(0, len(coded), FRAME_SAMPLES))


class Source:
    """One RTP stream: a tone or silence, with keys in between. Each `packet` is 20 ms of it."""

    __slots__ = ("_at", "_events", "_frames", "_key_began", "_marker", "_sequence", "_ssrc", "_timestamp", "_tone")

    def __init__(
        self, codec: str, *, frequency_hz: int | None, tone_dbm0: float, ssrc: int, sequence: int, timestamp: int
    ) -> None:
        """`codec` is `PCMA` or `PCMU`; the last three should be random (RFC 3550 §5.1)."""
        self._tone = frequency_hz, tone_dbm0
        self.speak(codec)
        self._at = 0
        self._ssrc, self._sequence, self._timestamp = ssrc, sequence, timestamp
        self._marker = True
        self._events: deque[rtp.TelephoneEvent | None] = deque()
        self._key_began = 0

    def speak(self, codec: str) -> None:
        """Go on in `codec`, `PCMA` or `PCMU`, from the next packet on."""
        self._frames = tone_frames(codec, *self._tone)

    def press(self, keys: str) -> None:
        """
        Send `keys` one after the other, from the next packet on. Raises `ValueError` on one that isn't a key.

        What goes beyond `MAX_KEYS` waiting keys is an error too.
        """
        if len(self._events) + len(keys) * len(_key_packets("0")) > MAX_KEYS * len(_key_packets("0")):
            raise ValueError(f"more than {MAX_KEYS} keys at once")
        for key in keys:
            self._events.extend(_key_packets(key))

    def skip(self) -> None:
        """Let 20 ms pass without a packet: time goes on, the sequence doesn't (RFC 3550 §5.1)."""
        self._timestamp = (self._timestamp + FRAME_SAMPLES) & 0xFFFFFFFF
        self._marker = True  # the next packet begins a talkspurt, RFC 3551 §4.1

    def packet(self, payload_type: int, dtmf_payload_type: int | None) -> bytes:
        """The next 20 ms: audio numbered `payload_type`, or a key (dropped where `dtmf_payload_type` is `None`)."""
        event = self._events.popleft() if self._events else None
        if event is not None and dtmf_payload_type is not None:
            first = event.duration == FRAME_SAMPLES
            if first:
                self._key_began = self._timestamp
            # RFC 4733 §2.5.1.1: all packets of a key bear the time of its beginning; the marker is on the first.
            made = rtp.Packet(
                dtmf_payload_type, self._sequence, self._key_began, self._ssrc, rtp.build_event(event), first
            )
        else:
            frame = self._frames[self._at % len(self._frames)]
            made = rtp.Packet(payload_type, self._sequence, self._timestamp, self._ssrc, frame, self._marker)
            self._marker = False
        self._at += 1
        self._sequence = (self._sequence + 1) & 0xFFFF
        self._timestamp = (self._timestamp + FRAME_SAMPLES) & 0xFFFFFFFF
        return rtp.build(made)


@cache
def _key_packets(key: str) -> tuple[rtp.TelephoneEvent | None, ...]:
    """What a key sends every 20 ms: start, growing duration, its end three times, then audio for the gap."""
    code = rtp.KEYS.find(key.upper()) if key else -1
    if code < 0:
        raise ValueError(f"{key!r} is no key; they are {rtp.KEYS}")
    length = KEY_MS // FRAME_MS
    growing = [rtp.TelephoneEvent(code, False, FRAME_SAMPLES * count) for count in range(1, length)]
    end = rtp.TelephoneEvent(code, True, FRAME_SAMPLES * length)
    return (*growing, *[end] * END_PACKETS, *[None] * (KEY_GAP_MS // FRAME_MS))


@dataclass(frozen=True, slots=True)
class Window:
    """What a stretch of the received audio held."""

    start_s: float
    """Since the call was answered."""
    levels_dbm0: tuple[float, ...]
    """One per frequency that the ear listens for."""
    total_dbm0: float


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time in which one thing was heard."""

    frequency_hz: int | None
    """`None`: silence, or nothing that the ear listens for."""
    start_s: float
    end_s: float
    audible: bool = True


@dataclass(frozen=True, slots=True)
class Heard:
    """What a phone heard in one call."""

    frequencies_hz: tuple[int, ...]
    """What was listened for."""
    windows: tuple[Window, ...]
    window_s: float
    packets: int
    """Audio packets that came, late ones included."""
    first_packet_s: float | None
    """When the first one came, since the answer; `None` if none did."""
    keys: str = ""
    """The keys that the other side pressed (RFC 4733)."""

    def between(self, start_s: float = 0.0, end_s: float = math.inf) -> tuple[Window, ...]:
        """The windows that lie wholly inside."""
        slack = self.window_s / 1000
        return tuple(
            window
            for window in self.windows
            if window.start_s >= start_s - slack and window.start_s + self.window_s <= end_s + slack
        )

    def dominant(self, windows: Sequence[Window] | None = None) -> int | None:
        """The frequency that most of `windows` (all, if left out) is; `None`: silence, or something else."""
        found = [self._dominant(window) for window in (self.windows if windows is None else windows)]
        return statistics.mode(found) if found else None

    def level_dbm0(self, frequency_hz: int, windows: Sequence[Window] | None = None) -> float:
        """The median level of a frequency listened for. Raises `ValueError` for another, or without a window."""
        at = self.frequencies_hz.index(frequency_hz)
        return statistics.median(window.levels_dbm0[at] for window in (self.windows if windows is None else windows))

    def timeline(self) -> list[Span]:
        """What was heard, in order; a single odd window (a change of tone) counts as what came before it."""
        spans: list[Span] = []
        for window in self.windows:
            tone, audible = self._dominant(window), window.total_dbm0 >= AUDIBLE_DBM0
            end_s = window.start_s + self.window_s
            last = spans[-1] if spans else None
            touching = last is not None and window.start_s - last.end_s < self.window_s / 2
            if last and touching and (last.frequency_hz, last.audible) == (tone, audible):
                spans[-1] = Span(tone, last.start_s, end_s, audible)
            else:
                spans.append(Span(tone, window.start_s, end_s, audible))
        return self._without_flicker(spans)

    def describe(self, names: Mapping[int, str] | None = None) -> str:
        """The timeline in words: `425 Hz ringing 0.0–1.5 s, silence 1.5–3.0 s, 1000 Hz 3.0–8.0 s`."""
        if not self.packets:
            return "nothing"
        names = names or {}
        said = []
        for span in self.timeline():
            if span.frequency_hz is None:
                what = "something else" if span.audible else "silence"
            else:
                what = f"{span.frequency_hz} Hz {names.get(span.frequency_hz, '')}".rstrip()
            said.append(f"{what} {span.start_s:.1f}–{span.end_s:.1f} s")
        return ", ".join(said) or f"{self.packets} packets, too few to tell"

    def _dominant(self, window: Window) -> int | None:
        return dominant(self.frequencies_hz, window)

    def _without_flicker(self, spans: list[Span]) -> list[Span]:
        kept: list[Span] = []
        for span in spans:
            last = kept[-1] if kept else None
            short = span.end_s - span.start_s < 1.5 * self.window_s
            same = last is not None and (last.frequency_hz, last.audible) == (span.frequency_hz, span.audible)
            if last and (short or same) and span.start_s - last.end_s < self.window_s / 2:
                kept[-1] = Span(last.frequency_hz, last.start_s, span.end_s, last.audible)
            else:
                kept.append(span)
        return kept


def dominant(frequencies_hz: Sequence[int], window: Window) -> int | None:
    """The frequency that `window` mostly consists of; `None`: silence, or something else."""
    if not window.levels_dbm0:
        return None
    loudest = max(range(len(frequencies_hz)), key=window.levels_dbm0.__getitem__)
    level = window.levels_dbm0[loudest]
    if level < AUDIBLE_DBM0 or level < window.total_dbm0 - DOMINANT_DB:
        return None
    return frequencies_hz[loudest]


class Ear:
    """Puts received audio in order by its timestamps and measures it window by window."""

    __slots__ = (
        "_frequencies", "_length", "_next", "_pending", "_ssrc", "_start_s", "_windows", "first_packet_s", "keys",
        "packets",
    )  # fmt: skip

    def __init__(self, frequencies_hz: Sequence[int], *, window_ms: int = 100) -> None:
        self._frequencies = tuple(frequencies_hz)
        self._length = window_ms * g711.SAMPLE_RATE // 1000
        self._windows: deque[Window] = deque(maxlen=MAX_WINDOWS)
        self._pending: list[int] = []
        self._ssrc: int | None = None
        self._next = 0  # the timestamp expected
        self._start_s = 0.0  # of what is pending
        self.packets = 0
        self.first_packet_s: float | None = None
        self.keys = ""

    def take(self, codec: str, packet: rtp.Packet, now_s: float) -> list[Window]:
        """The windows that `packet` (G.711) completes. `now_s` counts from the answer."""
        if self.first_packet_s is None:
            self.first_packet_s = now_s
        self.packets += 1
        ahead = ((packet.timestamp - self._next + 0x80000000) & 0xFFFFFFFF) - 0x80000000
        if packet.ssrc != self._ssrc or abs(ahead) > MAX_GAP_S * g711.SAMPLE_RATE:
            # Another stream: its clock has nothing to do with the one before, so ours places it.
            self._ssrc, ahead = packet.ssrc, 0
            self._pending.clear()
            self._start_s = now_s
        elif ahead < 0:
            return []  # late; what stands in its place is measured already
        # RFC 3550 §5.1: the timestamp tells of packets lost or not sent; that time was silent.
        self._pending += [0] * ahead
        self._pending += g711.decode(codec, packet.payload)
        self._next = (packet.timestamp + len(packet.payload)) & 0xFFFFFFFF
        return self._measure()

    def report(self) -> Heard:
        """What was heard until now."""
        return Heard(
            frequencies_hz=self._frequencies,
            windows=tuple(self._windows),
            window_s=self._length / g711.SAMPLE_RATE,
            packets=self.packets,
            first_packet_s=self.first_packet_s,
            keys=self.keys,
        )

    def _measure(self) -> list[Window]:
        measured = []
        while len(self._pending) >= self._length:
            samples = self._pending[: self._length]
            del self._pending[: self._length]
            levels = tuple(level_dbm0(samples, frequency) for frequency in self._frequencies)
            measured.append(Window(self._start_s, levels, total_dbm0(samples)))
            self._start_s += self._length / g711.SAMPLE_RATE
        self._windows.extend(measured)
        return measured
