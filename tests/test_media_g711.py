"""G.711: known values of the tables, and that coding picks the nearest."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dosvoces.media import g711


def test_the_tables_have_the_values_of_the_standard() -> None:
    alaw = {0xD5: 8, 0x55: -8, 0xAA: 32256, 0x2A: -32256, 0xC5: 264, 0x80: 5504}
    mulaw = {0xFF: 0, 0x7F: 0, 0x80: 32124, 0x00: -32124, 0xFE: 8, 0xEF: 132}
    assert {code: g711.DECODED["PCMA"][code] for code in alaw} == alaw
    assert {code: g711.DECODED["PCMU"][code] for code in mulaw} == mulaw


@pytest.mark.parametrize("codec", ["PCMA", "PCMU"])
def test_each_byte_survives_decoding_and_coding(codec: str) -> None:
    data = bytes(code for code in range(256) if (codec, code) != ("PCMU", 0x7F))  # its minus zero becomes zero
    assert g711.encode(codec, g711.decode(codec, data)) == data


@given(st.sampled_from(["PCMA", "PCMU"]), st.integers(-40000, 40000))
def test_no_value_is_nearer_than_the_coded_one(codec: str, sample: int) -> None:
    (value,) = g711.decode(codec, g711.encode(codec, [sample]))
    assert abs(value - sample) == min(abs(other - sample) for other in g711.DECODED[codec])


@pytest.mark.parametrize("codec", ["PCMA", "PCMU"])
def test_silence_is_the_smallest_positive_value(codec: str) -> None:
    assert g711.DECODED[codec][g711.SILENCE[codec]] == min(v for v in g711.DECODED[codec] if v >= 0)
