"""RTCP packets as bytes and values; hostile ones are refused and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dosvoces.media import rtcp
from dosvoces.media.rtcp import (
    Goodbye,
    Packet,
    ReceiverReport,
    ReportBlock,
    RtcpError,
    SenderReport,
    SourceName,
    build,
    is_report,
    parse,
)

BLOCK = ReportBlock(0x11223344, 64, -2, 0x00010005, 160, 0xAABBCCDD, 65536)
WORD = st.integers(0, 0xFFFFFFFF)
BLOCKS = st.lists(
    st.builds(ReportBlock, WORD, st.integers(0, 255), st.integers(-0x800000, 0x7FFFFF), WORD, WORD, WORD, WORD),
    max_size=31,
).map(tuple)
REPORTS = st.builds(SenderReport, WORD, st.integers(0, 2**64 - 1), WORD, WORD, WORD, BLOCKS) | st.builds(
    ReceiverReport, WORD, BLOCKS
)
NAMES = st.builds(SourceName, WORD, st.text(st.characters(codec="ascii"), max_size=255))
GOODBYES = st.builds(Goodbye, st.lists(WORD, max_size=31).map(tuple))


def test_a_sender_report_as_bytes() -> None:
    report = SenderReport(1, 0x0102030405060708, 9, 10, 11, (BLOCK,))
    written = bytes.fromhex(
        "81c8000c 00000001 0102030405060708 00000009 0000000a 0000000b"
        "11223344 40fffffe 00010005 000000a0 aabbccdd 00010000"
    )
    assert build(report) == written
    assert parse(written) == (report,)


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("", "81ca0002 00000007 0100 0000"),
        ("a", "81ca0002 00000007 0101 61 00"),
        ("ab", "81ca0003 00000007 0102 6162 00000000"),
        ("abc", "81ca0003 00000007 0103 616263 000000"),
    ],
)
def test_a_name_is_filled_up_to_words_and_ended_by_zero(name: str, written: str) -> None:
    """RFC 3550 §6.5."""
    assert build(SourceName(7, name)) == bytes.fromhex(written)


@given(REPORTS, st.lists(NAMES | GOODBYES, max_size=3))
def test_what_is_built_is_read_again(report: rtcp.Report, more: list[Packet]) -> None:
    assert parse(build(report, *more)) == (report, *more)


@given(st.binary(max_size=400))
def test_any_bytes_are_rtcp_or_refused(data: bytes) -> None:
    try:
        assert parse(data)
    except RtcpError:
        pass


@given(REPORTS, st.lists(NAMES | GOODBYES, max_size=3), st.data())
def test_changed_packets_are_rtcp_or_refused(report: rtcp.Report, more: list[Packet], data: st.DataObject) -> None:
    changed = bytearray(build(report, *more))
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    try:
        parse(bytes(changed[: data.draw(st.integers(0, len(changed)))]))
    except RtcpError:
        pass


def test_short_packets_are_refused() -> None:
    """AST-2017-008: every count that promises more than there is."""
    whole = build(SenderReport(1, 2, 3, 4, 5, (BLOCK, BLOCK)))
    for length in range(len(whole)):
        with pytest.raises(RtcpError):
            parse(whole[:length])


@pytest.mark.parametrize(
    ("why", "data"),
    [
        ("no report at the front", "80cb0001 00000001"),
        ("version 1", "40c90001 00000001"),
        ("more blocks than there are", "82c90007 00000001" + "00" * 24),
        ("no room for the sender", "80c80001 00000001"),
        ("an item longer than its packet", "80c90001 00000001 81ca0002 00000007 01ff6161"),
        ("an item cut off", "80c90001 00000001 81ca0002 00000007 02016101"),
        ("more sources than there are", "80c90001 00000001 9fcb0001 00000001"),
        ("padding before the last", "a0c90002 00000001 00000004 80c90001 00000001"),
        ("padding of nothing", "a0c90002 00000001 00000000"),
        ("padding longer than the packet", "a0c90002 00000001 00000010"),
        ("padding that is no word", "a0c90002 00000001 00000003"),
        ("too many packets", "80c90001 00000001" * 33),
    ],
)
def test_what_is_malformed_is_refused(why: str, data: str) -> None:
    with pytest.raises(RtcpError):
        parse(bytes.fromhex(data))


def test_padding_is_taken_off_the_last_packet() -> None:
    assert parse(bytes.fromhex("a0c90002 00000001 00000004")) == (ReceiverReport(1),)
    two = bytes.fromhex("80c90001 00000001 a1cb0003 00000009 00000000 00000008")
    assert parse(two) == (ReceiverReport(1), Goodbye((9,)))


def test_other_kinds_are_passed_over() -> None:
    """Feedback (RFC 4585), extended reports (RFC 3611), and names without a canonical one."""
    data = "80c90001 00000001 81ce0002 00000001 00000002 80cf0001 00000001 81ca0003 00000007 02026162 00000000"
    assert parse(bytes.fromhex(data)) == (ReceiverReport(1),)


def test_what_begins_as_a_report() -> None:
    assert is_report(build(ReceiverReport(1)))
    assert not is_report(build(ReceiverReport(1))[:7])
    assert not is_report(bytes.fromhex("80cb000100000001"))
    assert not is_report(bytes.fromhex("00c9000100000001"))
