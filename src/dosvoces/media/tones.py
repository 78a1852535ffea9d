"""
The ringing tone of each country and the warning, ready to be sent: G.711 frames of 20 ms, made once per codec.

Sources: ITU-T E.180 Supplement 2 (01/1994) and its successor "Various tones used in national networks" (annex to
ITU Operational Bulletin 781, 02/2003); for the United Kingdom BT SIN 350; for North America the precise tone plan of
ANSI T1.401. Where a network allows a range, its usual value is taken. The warning is the special information tone of
ITU-T E.180/Q.35, clause 7, which is the same in all networks.
"""

import math
from dataclasses import dataclass
from functools import cache

from dosvoces.media import g711

FRAME_MS = 20
FRAME_SAMPLES = g711.SAMPLE_RATE * FRAME_MS // 1000  # 160, one byte each
LEVEL_DBM0 = -13.0
"""Of the whole tone: inside the -10 ± 5 dBm0 that ITU-T E.180 asks for at a point of zero relative level."""
RAMP_MS = 5
"""Each burst rises and falls this long: a tone that starts at once clicks."""

_FULL_SCALE_DBM0 = 3.14  # a sine of ±32,767 in A-law, ITU-T G.711


@dataclass(frozen=True, slots=True)
class Tone:
    """A tone with its cadence, repeated for ever."""

    frequencies: tuple[int, ...]
    """Hz, sounded together."""
    cadence_ms: tuple[int, ...]
    """On, off, on, off …; the sum is a whole number of frames."""

    def __post_init__(self) -> None:
        assert len(self.cadence_ms) % 2 == 0, self
        assert sum(self.cadence_ms) % FRAME_MS == 0, self


_COMMON = Tone((425,), (1000, 4000))
"""Inside what E.180 recommends, and what most of Europe and Latin America uses."""
_NORTH_AMERICA = Tone((440, 480), (2000, 4000))
_BRITISH = Tone((400, 450), (400, 200, 400, 2000))

RINGING: dict[str, Tone] = {
    **dict.fromkeys(
        "BG BR CH CZ DE DK EE FI GR IT LT MX NL NO PL RU VE".split(),
        _COMMON,
    ),
    "AT": Tone((420,), (1000, 5000)),
    "BE": Tone((425,), (1000, 3000)),
    "CL": Tone((400,), (1000, 3000)),
    "ES": Tone((425,), (1500, 3000)),
    "FR": Tone((440,), (1500, 3500)),
    "HU": Tone((425,), (1250, 3750)),
    "PT": Tone((425,), (1000, 5000)),
    "SE": Tone((425,), (1000, 5000)),
    "GB": _BRITISH,
    "IE": _BRITISH,
    "US": _NORTH_AMERICA,
    "CA": _NORTH_AMERICA,
}
"""By country (ISO 3166 alpha-2)."""


WARNING = (Tone((950,), (340, 20)), Tone((1400,), (340, 20)), Tone((1800,), (340, 1040)))
"""
Before a call is cut: the special information tone, known everywhere as the sign that what follows isn't as usual.

Three tones of 330 ± 70 ms, with at most 30 ms between them, then a second of silence (1000 ± 250 ms).
"""


def ringing_tone(country: str) -> Tone:
    """The ringing tone of `country`; of a country we don't know, the one most use."""
    return RINGING.get(country.upper(), _COMMON)


@cache
def encoded(tone: Tone, codec: str) -> bytes:
    """
    One round of `tone`'s cadence in `codec` (`PCMA` or `PCMU`): a whole number of frames, silence included.

    Kept for ever: a few tens of kilobytes for each tone in use. Raises `KeyError` on a codec that isn't G.711.
    """
    silence = bytes([g711.SILENCE[codec]])
    on, off = tone.cadence_ms[0::2], tone.cadence_ms[1::2]
    return b"".join(
        g711.encode(codec, _burst(tone.frequencies, _samples(sounding))) + silence * _samples(silent)
        for sounding, silent in zip(on, off, strict=True)
    )


@cache
def warning(codec: str) -> bytes:
    """One round of the warning in `codec`, as `encoded` gives a tone."""
    return b"".join(encoded(tone, codec) for tone in WARNING)


def _samples(milliseconds: int) -> int:
    return milliseconds * g711.SAMPLE_RATE // 1000


def _burst(frequencies: tuple[int, ...], length: int) -> list[int]:
    """`length` samples of the tone, from silence to silence."""
    # All sines start at 0 and have whole frequencies, so the sum repeats after this many samples: worked out once.
    repeat = min(length, g711.SAMPLE_RATE // math.gcd(g711.SAMPLE_RATE, *frequencies))
    share = 10 ** ((LEVEL_DBM0 - _FULL_SCALE_DBM0) / 20) / math.sqrt(len(frequencies))
    steps = [2 * math.pi * frequency / g711.SAMPLE_RATE for frequency in frequencies]
    once = [32767 * share * sum(math.sin(step * i) for step in steps) for i in range(repeat)]
    wave = (once * -(-length // repeat))[:length]
    ramp = _samples(RAMP_MS)
    for i in range(min(ramp, length // 2)):
        gain = (1 - math.cos(math.pi * i / ramp)) / 2
        wave[i] *= gain
        wave[-1 - i] *= gain
    return [round(sample) for sample in wave]
