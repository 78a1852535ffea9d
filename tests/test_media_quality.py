"""The E-model against values that ITU-T publishes."""

import pytest

from dosvoces.media.quality import estimate, mean_opinion, rating


@pytest.mark.parametrize(("r", "mos"), [(93.2, 4.41), (90, 4.34), (80, 4.03), (70, 3.60), (60, 3.10), (50, 2.58)])
def test_a_rating_as_a_mean_opinion(r: float, mos: float) -> None:
    """ITU-T G.107 §7.7 for the default rating, and table B.1."""
    assert mean_opinion(r) == pytest.approx(mos, abs=0.01)


def test_ends_of_the_scale() -> None:
    assert [mean_opinion(r) for r in (0.0, 6.5, 100.0, 120.0)] == [1.0, 1.0, 4.5, 4.5]


@pytest.mark.parametrize(("delay_ms", "idd"), [(0, 0), (100, 0), (200, 3.04), (400, 24.07)])
def test_delay(delay_ms: float, idd: float) -> None:
    """Idd of G.107 §7.4, worked out by hand at Ta of one and two doublings of 100 ms."""
    assert rating("PCMA", loss=0, delay_ms=delay_ms) == pytest.approx(93.2 - idd, abs=0.01)


@pytest.mark.parametrize(("loss", "effective"), [(0.0, 0.0), (0.01, 3.64), (0.05, 15.78), (0.2, 42.13), (1.0, 75.94)])
def test_loss(loss: float, effective: float) -> None:
    """Ie,eff of G.107 §7.5 with Ie = 0 and Bpl = 25.1 of G.113 appendix I: 95 · Ppl / (Ppl + Bpl)."""
    assert rating("PCMU", loss=loss, delay_ms=50) == pytest.approx(93.2 - effective, abs=0.01)


def test_a_codec_without_published_values_has_no_estimate() -> None:
    assert rating("opus", loss=0, delay_ms=0) is None
    assert estimate("G722", loss=0, round_trip_ms=10, jitter_ms=1, packet_ms=20) is None


def test_an_estimate_of_a_leg() -> None:
    assert estimate("PCMA", loss=0, round_trip_ms=None, jitter_ms=0, packet_ms=20) == 4.41
    near = estimate("PCMA", loss=0.01, round_trip_ms=40, jitter_ms=3, packet_ms=20)
    far = estimate("PCMA", loss=0.01, round_trip_ms=600, jitter_ms=3, packet_ms=20)
    shaky = estimate("PCMA", loss=0.01, round_trip_ms=40, jitter_ms=120, packet_ms=20)
    assert (near, far, shaky) == (4.33, 3.54, 3.91)
