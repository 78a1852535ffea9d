"""RTP headers and telephone-events: what is written is read, and no bytes raise anything but `RtpError`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dosvoces.media import rtp
from dosvoces.media.rtp import Packet, RtpError, TelephoneEvent

packets = st.builds(
    Packet,
    payload_type=st.integers(0, 127),
    sequence=st.integers(0, 0xFFFF),
    timestamp=st.integers(0, 0xFFFFFFFF),
    ssrc=st.integers(0, 0xFFFFFFFF),
    payload=st.binary(max_size=200),
    marker=st.booleans(),
    csrcs=st.lists(st.integers(0, 0xFFFFFFFF), max_size=15).map(tuple),
    extension=st.none() | st.tuples(st.integers(0, 0xFFFF), st.binary(max_size=40).map(lambda b: b[: len(b) // 4 * 4])),
)


@given(packets)
def test_what_is_built_is_parsed(packet: Packet) -> None:
    assert rtp.parse(rtp.build(packet)) == packet


@given(st.binary(max_size=100) | st.binary(max_size=60).map(lambda rest: b"\xbf\x08" + rest))
def test_arbitrary_bytes_raise_only_rtp_error(data: bytes) -> None:
    try:
        packet = rtp.parse(data)
    except RtpError:
        assert rtp.payload_bounds(data, len(data)) is None
    else:
        start, end = rtp.payload_bounds(data, len(data)) or (0, 0)
        assert data[start:end] == packet.payload


def test_a_header_is_laid_out_as_in_the_rfc() -> None:
    assert rtp.build(Packet(8, 0x1234, 0x01020304, 0x0A0B0C0D, b"ab", marker=True)) == bytes.fromhex(
        "8088 1234 01020304 0a0b0c0d 6162"
    )


def test_padding_is_taken_off() -> None:
    padded = bytes.fromhex("a008 0001 00000002 00000003 6162 0003") + b"\x03"
    assert rtp.parse(padded).payload == b"ab"


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "80",
        "80080001 00000002 000000",  # eleven bytes
        "00080001 00000002 00000003 61",  # version 0
        "c0080001 00000002 00000003 61",  # version 3
        "81080001 00000002 00000003",  # a CSRC that isn't there
        "90080001 00000002 00000003 0000",  # half an extension header
        "90080001 00000002 00000003 00000002 00000000",  # an extension longer than the packet
        "a0080001 00000002 00000003",  # padding without a byte
        "a0080001 00000002 00000003 6100",  # padding of 0
        "a0080001 00000002 00000003 6103",  # padding longer than the payload
    ],
)
def test_what_is_no_rtp_is_refused(bad: str) -> None:
    with pytest.raises(RtpError):
        rtp.parse(bytes.fromhex(bad))


def test_the_buffer_may_be_longer_than_the_packet() -> None:
    stale = bytearray(rtp.build(Packet(8, 1, 2, 3, b"new")) + b"old")
    assert rtp.payload_bounds(stale, 15) == (12, 15)
    assert rtp.payload_bounds(stale, 11) is None


@given(st.builds(TelephoneEvent, st.integers(0, 255), st.booleans(), st.integers(0, 0xFFFF), st.integers(0, 63)))
def test_an_event_that_is_built_is_parsed(event: TelephoneEvent) -> None:
    assert rtp.parse_event(rtp.build_event(event)) == event


def test_half_an_event_is_refused() -> None:
    with pytest.raises(RtpError):
        rtp.parse_event(b"\x01\x80\x03")
