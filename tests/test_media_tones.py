"""The ringing tones: frequency, cadence, level, and no clicks."""

import cmath
import itertools
import math

import pytest

from dosvoces.media import g711, tones
from dosvoces.media.tones import FRAME_SAMPLES, Tone


def level_dbm0(samples: list[int], frequency: int) -> float:
    """The level of one frequency in `samples`."""
    turn = -2j * math.pi * frequency / g711.SAMPLE_RATE
    amplitude = 2 * abs(sum(s * cmath.exp(turn * i) for i, s in enumerate(samples))) / len(samples)
    return 20 * math.log10(max(amplitude, 1e-9) / 32767) + 3.14


COUNTRIES = [
    ("ES", (425,), (1500, 3000)),
    ("FR", (440,), (1500, 3500)),
    ("PT", (425,), (1000, 5000)),
    ("IT", (425,), (1000, 4000)),
    ("DE", (425,), (1000, 4000)),
    ("GB", (400, 450), (400, 200, 400, 2000)),
    ("US", (440, 480), (2000, 4000)),
    ("cl", (400,), (1000, 3000)),
    ("ZZ", (425,), (1000, 4000)),
    ("", (425,), (1000, 4000)),
]


@pytest.mark.parametrize(("country", "frequencies", "cadence_ms"), COUNTRIES)
def test_a_country_has_its_tone(country: str, frequencies: tuple[int, ...], cadence_ms: tuple[int, ...]) -> None:
    assert tones.ringing_tone(country) == Tone(frequencies, cadence_ms)


@pytest.mark.parametrize("codec", ["PCMA", "PCMU"])
@pytest.mark.parametrize("country", ["ES", "GB", "HU"])
def test_the_cadence_is_exact_to_the_sample(country: str, codec: str) -> None:
    tone = tones.ringing_tone(country)
    data = tones.encoded(tone, codec)
    assert len(data) == sum(tone.cadence_ms) * 8
    assert len(data) % FRAME_SAMPLES == 0
    at = 0
    for sounding, silent in zip(tone.cadence_ms[0::2], tone.cadence_ms[1::2], strict=True):
        burst = g711.decode(codec, data[at : at + sounding * 8])
        assert max(abs(s) for s in burst[-80:]) > 1000, "it sounds to its end"
        at += sounding * 8
        assert set(data[at : at + silent * 8]) == {g711.SILENCE[codec]}
        at += silent * 8


@pytest.mark.parametrize("codec", ["PCMA", "PCMU"])
@pytest.mark.parametrize("country", ["ES", "US"])
def test_the_level_is_minus_13_dbm0_and_nothing_else_sounds(country: str, codec: str) -> None:
    tone = tones.ringing_tone(country)
    samples = g711.decode(codec, tones.encoded(tone, codec))[800:8800]
    each = -13 - 10 * math.log10(len(tone.frequencies))
    assert [level_dbm0(samples, f) for f in tone.frequencies] == [pytest.approx(each, abs=0.3)] * len(tone.frequencies)
    assert max(level_dbm0(samples, f) for f in (300, 350, 500, 1000, 1275)) < -45


def test_no_step_is_greater_than_the_tone_itself_makes() -> None:
    tone = tones.ringing_tone("ES")
    samples = g711.decode("PCMA", tones.encoded(tone, "PCMA") * 2)
    peak = max(map(abs, samples))
    steepest = peak * 2 * math.pi * 425 / 8000
    quantum = 256  # of A-law at this level
    assert max(abs(b - a) for a, b in itertools.pairwise(samples)) <= steepest + 2 * quantum
    assert max(map(abs, samples[:8])) < peak / 5, "it rises and doesn't start"


def test_it_is_made_once() -> None:
    assert tones.encoded(tones.ringing_tone("ES"), "PCMA") is tones.encoded(tones.ringing_tone("es"), "PCMA")
