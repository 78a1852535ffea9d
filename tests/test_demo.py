"""The demo's verdict, by what a phone may have heard; the whole demo is run by `make demo`."""

from dataclasses import replace

import pytest

from dosvoces.demo import REQUEST, RINGING_HZ, TONES_HZ, Verdict, behaviour, judge
from dosvoces.model import Side
from dosvoces.phone import Heard, Window

FREQUENCIES = (RINGING_HZ, *TONES_HZ.values())


def heard(*spans: tuple[int | None, float], echo_dbm0: float = -90.0) -> Heard:
    """What a phone heard: a frequency (or silence) for so many seconds, one after the other."""
    windows: list[Window] = []
    for frequency, seconds in spans:
        levels = tuple(-15.0 if frequency == f else echo_dbm0 if frequency else -90.0 for f in FREQUENCIES)
        for _ in range(round(seconds / 0.1)):
            windows.append(Window(len(windows) * 0.1, levels, -15.0 if frequency else -90.0))
    return Heard(FREQUENCIES, tuple(windows), 0.1, packets=len(windows) * 5, first_packet_s=0.0)


def test_a_party_that_heard_the_other_is_good() -> None:
    verdict = judge(Side.A, heard((RINGING_HZ, 1.5), (None, 2.5), (TONES_HZ[Side.B], 3.0)))
    rounded = replace(verdict, ringing_s=round(verdict.ringing_s, 3), other_s=round(verdict.other_s, 3))
    assert rounded == Verdict(Side.A, ringing_s=1.5, other_s=3.0, other_dbm0=-15.0, own_dbm0=-90.0, own_s=0.0)
    assert verdict.good


@pytest.mark.parametrize(
    "wrong",
    [
        heard(),
        heard((None, 3.0)),
        heard((TONES_HZ[Side.A], 3.0)),
        heard((TONES_HZ[Side.B], 0.5)),
        heard((TONES_HZ[Side.B], 3.0), (TONES_HZ[Side.A], 0.1)),
        heard((TONES_HZ[Side.B], 3.0), echo_dbm0=-40.0),
    ],
    ids=["nothing", "silence", "itself", "too short", "itself too", "an echo"],
)
def test_a_party_that_did_not_is_not(wrong: Heard) -> None:
    assert not judge(Side.A, wrong).good


def test_one_phone_behaves_as_the_number_called() -> None:
    assert behaviour(str(REQUEST["firstnumber"])).tone_hz == TONES_HZ[Side.A]
    assert behaviour(str(REQUEST["secondnumber"])).tone_hz == TONES_HZ[Side.B]
