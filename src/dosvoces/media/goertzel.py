"""
How loud one frequency is in a stretch of samples (G. Goertzel, American Mathematical Monthly 65, 1958).

Cheaper than a Fourier transform where only a few frequencies matter, and needs no numpy. Pure.
"""

import math
from collections.abc import Sequence

SILENCE_DBM0 = -90.0  # what digital silence is reported as; G.711's smallest step is near -66 dBm0
FULL_SCALE = 32_767
FULL_SCALE_DBM0 = 3.14  # a sine of ±32,767 in A-law, ITU-T G.711


def level_dbm0(samples: Sequence[int], frequency_hz: float, sample_rate: int = 8000) -> float:
    """
    The level of the sine of `frequency_hz` in `samples` (16 bits), `SILENCE_DBM0` at least.

    Neighbours leak in: over N samples, what is further than `sample_rate / N` Hz away is at least 13 dB down.
    """
    if not samples:
        return SILENCE_DBM0
    turn = 2.0 * math.cos(2.0 * math.pi * frequency_hz / sample_rate)
    last = before = 0.0
    for sample in samples:
        last, before = sample + turn * last - before, last
    power = last * last + before * before - turn * last * before
    return _decibels(2.0 * math.sqrt(max(power, 0.0)) / len(samples))


def total_dbm0(samples: Sequence[int]) -> float:
    """The level of all that is in `samples`, as the sine of the same power."""
    if not samples:
        return SILENCE_DBM0
    return _decibels(math.sqrt(2.0 * sum(sample * sample for sample in samples) / len(samples)))


def _decibels(amplitude: float) -> float:
    if amplitude < 1e-3:
        return SILENCE_DBM0
    return max(SILENCE_DBM0, 20.0 * math.log10(amplitude / FULL_SCALE) + FULL_SCALE_DBM0)
