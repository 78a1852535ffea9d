"""
How a voice sounds, estimated from what the network did to it: ITU-T G.107 (06/2015), the E-model.

Pure. The full model has twenty parameters of rooms and telephones that a relay can't know; with their default values
(G.107 table 2) it comes down to R = 93.2 - Idd - Ie,eff, and that is what stands here.
"""

import math

DEFAULT_RATING = 93.2  # G.107 §7.7: R with all parameters at their defaults
FREE_DELAY_MS = 100  # G.107 §7.4: delay that nobody notices
MIN_BUFFER_MS = 40  # what a telephone's jitter buffer holds at least, two frames; our assumption

# Ie and Bpl by ITU-T G.113 appendix I, for random loss. G.711's Bpl is that with packet loss concealment (4.3 without):
# every telephone of this century conceals. G.722 and Opus have no values on the narrow band's scale, so no estimate.
_IMPAIRMENT = {"PCMA": (0.0, 25.1), "PCMU": (0.0, 25.1)}


def rating(codec: str, *, loss: float, delay_ms: float) -> float | None:
    """
    The transmission rating R, 0 to 93.2; None for a codec without published values.

    `loss` is the share of packets that don't arrive in time, 0 to 1; `delay_ms` is one way, from mouth to ear.
    """
    impairment = _IMPAIRMENT.get(codec)
    if impairment is None:
        return None
    ie, bpl = impairment
    percent = 100 * loss
    # G.107 §7.5 with BurstR = 1: loss is random.
    effective = ie + (95 - ie) * percent / (percent + bpl)
    return max(0.0, DEFAULT_RATING - _delay_impairment(delay_ms) - effective)


def _delay_impairment(delay_ms: float) -> float:
    """Idd of G.107 §7.4; the talker's echo is cancelled, or it would spoil the call long before."""
    if delay_ms <= FREE_DELAY_MS:
        return 0.0
    x = math.log2(delay_ms / FREE_DELAY_MS)
    return float(25 * ((1 + x**6) ** (1 / 6) - 3 * (1 + (x / 3) ** 6) ** (1 / 6) + 2))


def mean_opinion(r: float) -> float:
    """The mean opinion score that a rating stands for, 1 to 4.5 (G.107 annex B)."""
    if r <= 6.5:
        return 1.0  # below it the polynomial falls under 1
    if r >= 100:
        return 4.5
    return 1 + 0.035 * r + r * (r - 60) * (100 - r) * 7e-6


def estimate(codec: str, *, loss: float, round_trip_ms: float | None, jitter_ms: float, packet_ms: int) -> float | None:
    """
    The mean opinion score of one direction of one leg, to two places; None for a codec without published values.

    The delay is half the round trip (none, if it isn't known), one packet, and a jitter buffer of twice the jitter.
    """
    delay_ms = (round_trip_ms or 0.0) / 2 + packet_ms + max(MIN_BUFFER_MS, 2 * jitter_ms)
    r = rating(codec, loss=loss, delay_ms=delay_ms)
    return None if r is None else round(mean_opinion(r), 2)
