"""
G.711 A-law and mu-law (ITU-T G.711, 11/1988), between 16-bit linear samples and bytes.

Pure, and without `audioop`, which Python 3.13 no longer has. A sine of full scale, ±32,767, is +3.14 dBm0 in A-law and
+3.17 dBm0 in mu-law (G.711 tables 5 and 6); both are coded from the same 16-bit scale here.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable
from functools import cache
from itertools import pairwise

SAMPLE_RATE = 8000  # Hz
SILENCE = {"PCMA": 0xD5, "PCMU": 0xFF}
"""The byte of the smallest positive value: what silence is filled with."""


def _alaw_value(code: int) -> int:
    """The 16-bit value of one A-law byte (G.711 table 1; every other bit inverted, note 2)."""
    code ^= 0x55
    segment, step = (code & 0x70) >> 4, code & 0x0F
    magnitude = (step << 4) + 8 if segment == 0 else ((step << 4) + 0x108) << (segment - 1)
    return magnitude if code & 0x80 else -magnitude


def _mulaw_value(code: int) -> int:
    """The 16-bit value of one mu-law byte (G.711 table 2; all bits inverted)."""
    code = ~code & 0xFF
    magnitude = ((((code & 0x0F) << 3) + 0x84) << ((code & 0x70) >> 4)) - 0x84
    return -magnitude if code & 0x80 else magnitude


DECODED: dict[str, tuple[int, ...]] = {
    "PCMA": tuple(_alaw_value(code) for code in range(256)),
    "PCMU": tuple(_mulaw_value(code) for code in range(256)),
}
"""The 16-bit value of each byte, by codec."""


@cache
def _encoder(codec: str) -> Callable[[int], int]:
    """A function from a 16-bit sample to the byte whose value is nearest."""
    values = DECODED[codec]
    # mu-law has two zeros: of equal values the greater code is taken, 0xFF, which is silence.
    codes = sorted({value: code for code, value in enumerate(values)}.items())
    ordered = bytes(code for _, code in codes)
    limits = [(low[0] + high[0] + 1) // 2 for low, high in pairwise(codes)]
    return lambda sample: ordered[bisect_right(limits, sample)]


def encode(codec: str, samples: Iterable[int]) -> bytes:
    """
    `samples` (16 bits; louder is clipped) in `codec`, `PCMA` or `PCMU`. Raises `KeyError` on another.

    Each sample becomes the nearest of the codec's values, which is G.711's own decision to within one unit of the
    16-bit scale.
    """
    return bytes(map(_encoder(codec), samples))


def decode(codec: str, data: bytes) -> list[int]:
    """The 16-bit samples of `data`. Raises `KeyError` on a codec that isn't G.711."""
    return list(map(DECODED[codec].__getitem__, data))
