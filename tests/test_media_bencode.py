"""Bencoding: there and back, and hostile bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dosvoces.media.bencode import MAX_DEPTH, BencodeError, Value, decode, encode

VALUES = st.recursive(
    st.integers() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=20,
)


def test_what_rtpengine_is_sent() -> None:
    message: dict[str, Value] = {
        "command": "offer",
        "flags": ["strict source"],
        "delete-delay": 30,
        "blob": b"\xff\x00",
    }
    assert encode(message) == b"d7:command5:offer5:flagsl13:strict sourcee12:delete-delayi30e4:blob2:\xff\x00e"


@given(VALUES)
def test_there_and_back(value: object) -> None:
    assert decode(encode(value)) == value  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "data",
    [
        b"l" * (MAX_DEPTH + 2) + b"e" * (MAX_DEPTH + 2),
        b"",
        b"i",
        b"i1",
        b"ixe",
        b"3:ab",
        b"-1:",
        b"l",
        b"li1e",
        b"d",
        b"di1ei1ee",
        b"d1:ae",
        b"i1ei2e",
        b"x",
        b"e",
    ],
)
def test_what_is_refused(data: bytes) -> None:
    with pytest.raises(BencodeError):
        decode(data)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    try:
        decode(data)
    except BencodeError:
        pass


def test_text_that_is_no_utf_8_is_replaced() -> None:
    assert decode(b"2:\xffa") == "�a"
