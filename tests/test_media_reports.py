"""What a party is told of its stream and tells of ours: sessions that report to each other on a clock of the test's."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dosvoces.media import Digit, Format, Heard, Silent, Srtp, rtcp, rtp
from dosvoces.media.rtcp import Goodbye, ReceiverReport, ReportBlock, SenderReport, SourceName
from dosvoces.media.rtp import Packet
from dosvoces.media.session import Line, Session
from dosvoces.model import ConnectionId, Side

PCMA = Format("PCMA", 8)
A_AT, B_AT = ("192.0.2.1", 4000), ("192.0.2.2", 5000)
A_RTCP = ("192.0.2.1", 4001)


class Desk:
    """A joined session; what B says goes to A, which is the party that reports."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.session = Session(ConnectionId("c"), "ES", self._told, random.Random(1).getrandbits)
        self.session.connect(Side.A, A_AT, PCMA)
        self.session.connect(Side.B, B_AT, PCMA)
        self.session.join()

    @property
    def a(self) -> Line:
        return self.session.lines[Side.A]

    @property
    def b(self) -> Line:
        return self.session.lines[Side.B]

    def _told(self, event: Digit | Heard | Silent) -> None:
        """Not looked at."""

    def say(self, side: Side, number: int, ssrc: int = 7) -> None:
        """The numbered packet of 20 ms of that side's voice, at the time that it is."""
        line, source = self.session.lines[side], A_AT if side is Side.A else B_AT
        data = rtp.build(Packet(8, number & 0xFFFF, number * 160, ssrc, b"x" * 160))
        buffer = bytearray(2048)
        buffer[: len(data)] = data
        if source == line.lock.source or line.admit(buffer, len(data), source):
            line.incoming.receive(buffer, len(data), self.now)

    def report(self) -> tuple[rtcp.Packet, ...]:
        """What A is told now."""
        written = self.a.report(self.now)
        assert written is not None
        data, to = written
        assert to == A_RTCP
        return rtcp.parse(data)

    def take(self, *packets: rtcp.Packet, source: tuple[str, int] = A_RTCP) -> None:
        """What A tells."""
        data = bytearray(rtcp.build(*packets))
        self.a.take_rtcp(data, len(data), source, self.now)


def test_a_sender_report_says_what_was_sent_and_when() -> None:
    desk = Desk()
    for number in range(10):
        desk.say(Side.B, number)
        desk.now += 0.02
    out = desk.a.out
    report, name = desk.report()
    assert report == SenderReport(
        out.ssrc, int(1000.2 * 2**32), (out.timestamp + 160) & 0xFFFFFFFF, packets=10, octets=1600
    )
    assert isinstance(name, SourceName)
    assert (name.ssrc, len(name.cname)) == (out.ssrc, 24)
    assert desk.report()[1] == name, "the same name for the whole call"


def test_who_sent_nothing_for_two_reports_sends_receiver_reports() -> None:
    """RFC 3550 §6.4."""
    desk = Desk()
    assert isinstance(desk.report()[0], ReceiverReport)
    desk.say(Side.B, 0)
    assert [type(desk.report()[0]) for _ in range(4)] == [SenderReport, SenderReport, ReceiverReport, ReceiverReport]


def test_a_block_says_what_came_and_what_was_lost() -> None:
    desk = Desk()
    for number in range(65530, 65630):
        if number % 10:
            desk.say(Side.A, number)
        desk.now += 0.02
    (block,) = desk.report()[0].blocks  # type: ignore[union-attr]
    assert block == ReportBlock(7, 23, 9, 65629, 0), "9 of 99 known of, the first being lost: 9 · 256 // 99"
    for number in range(65630, 65640):
        desk.say(Side.A, number)
        desk.now += 0.02
    (block,) = desk.report()[0].blocks  # type: ignore[union-attr]
    assert block == ReportBlock(7, 0, 9, 65639, 0), "the fraction is of the time since the last report"
    desk.say(Side.A, 5, ssrc=99)
    (block,) = desk.report()[0].blocks  # type: ignore[union-attr]
    assert block == ReportBlock(99, 0, 0, 5, 0), "another stream begins"


def test_a_party_s_sender_report_is_answered_with_its_time() -> None:
    desk = Desk()
    desk.say(Side.A, 1)
    desk.take(SenderReport(7, 0x11112222_33334444, 160, 1, 160))
    desk.now += 1.5
    (block,) = desk.report()[0].blocks  # type: ignore[union-attr]
    assert (block.last_report, block.delay) == (0x22223333, 98304)


def test_the_round_trip_is_what_is_left_of_the_time() -> None:
    """RFC 3550 §6.4.1, figure 2; the mean of several."""
    desk = Desk()
    for trip_s in (0.080, 0.120):
        desk.say(Side.B, 1)
        (sender, _) = desk.report()
        assert isinstance(sender, SenderReport)
        desk.now += trip_s + 2.0
        block = ReportBlock(sender.ssrc, 0, 3, 1, 40, sender.ntp >> 16 & 0xFFFFFFFF, 2 * 65536)
        desk.take(ReceiverReport(7, (block,)))
    assert desk.a.reports.round_trip_ms == pytest.approx(100, abs=0.1)
    assert desk.a.reports.jitter_there_ms == 5.0
    assert desk.a.reports.lost_there == 2, "never more than was sent"


def test_a_delay_that_was_rounded_up_gives_no_round_trip_below_zero() -> None:
    desk = Desk()
    desk.say(Side.B, 1)
    (sender, _) = desk.report()
    assert isinstance(sender, SenderReport)
    desk.now += 1.0
    desk.take(ReceiverReport(7, (ReportBlock(sender.ssrc, 0, 0, 1, 0, sender.ntp >> 16 & 0xFFFFFFFF, 65536 + 300),)))
    assert desk.a.reports.round_trip_ms == 0.0


def test_what_can_t_be_about_us_tells_nothing() -> None:
    desk = Desk()
    desk.say(Side.B, 1)
    (sender, _) = desk.report()
    assert isinstance(sender, SenderReport)
    ours, at = sender.ssrc, sender.ntp >> 16 & 0xFFFFFFFF
    desk.take(ReceiverReport(7, (ReportBlock(ours ^ 1, 0, 50, 1, 40, at, 0),)))
    assert (desk.a.reports.lost_there, desk.a.reports.round_trip_ms) == (None, None)
    for made_up in (ReportBlock(ours, 0, 0, 1, 40, at ^ 1, 0), ReportBlock(ours, 0, 0, 1, 40, at, 0xFFFFFFF)):
        desk.take(ReceiverReport(7, (made_up,)))
    assert desk.a.reports.round_trip_ms is None


def test_reports_of_strangers_are_not_read() -> None:
    desk = Desk()
    desk.say(Side.B, 1)
    desk.take(ReceiverReport(7), source=("192.0.2.9", 4001))
    assert desk.a.reports.received == 0
    desk.take(ReceiverReport(7))
    desk.take(ReceiverReport(7), source=("192.0.2.1", 6001))
    assert desk.a.reports.received == 1, "once its source is known, another port of it is a stranger too"


def test_reports_go_back_to_where_they_come_from() -> None:
    """Behind a NAT the party doesn't know its port."""
    desk = Desk()
    desk.take(ReceiverReport(7), source=("192.0.2.1", 6001))
    written = desk.a.report(desk.now)
    assert written is not None
    assert written[1] == ("192.0.2.1", 6001)


def test_reports_are_due_after_rfc_3550_s_intervals() -> None:
    desk = Desk()
    reports = desk.a.reports
    assert reports.due == float("inf"), "not before it is known where to"
    desk.session.settle(desk.now)
    assert 1.0 < reports.due - desk.now < 3.1
    pauses = []
    for _ in range(300):
        desk.now = reports.due
        desk.report()
        pauses.append(reports.due - desk.now)
    assert 2.05 <= min(pauses) < 2.3
    assert 5.9 < max(pauses) <= 6.16
    assert sum(pauses) / len(pauses) == pytest.approx(4.1, abs=0.2)


def test_goodbye_is_said_to_whom_something_was_sent() -> None:
    desk = Desk()
    assert desk.a.goodbye(desk.now) is None
    desk.say(Side.B, 1)
    written = desk.a.goodbye(desk.now)
    assert written is not None
    assert rtcp.parse(written[0])[-1] == Goodbye((desk.a.out.ssrc,))


def test_a_leg_is_rated_by_what_it_lost_and_what_it_says_it_lost() -> None:
    desk = Desk()
    for number in range(100):
        if number % 20 != 10:
            desk.say(Side.A, number)
        desk.say(Side.B, number)
        desk.now += 0.02
    statistics = desk.a.statistics
    assert (statistics.mos, statistics.mos_there, statistics.round_trip_ms) == (3.92, None, None)
    (sender, _) = desk.report()
    assert isinstance(sender, SenderReport)
    desk.take(ReceiverReport(7, (ReportBlock(sender.ssrc, 0, 10, 1, 80, 0, 0),)))
    statistics = desk.a.statistics
    assert (statistics.lost_there, statistics.jitter_there_ms, statistics.mos_there) == (10, 10.0, 3.41)


def test_above_the_last_port_there_is_none() -> None:
    desk = Desk()
    desk.session.connect(Side.A, ("192.0.2.1", 65535), PCMA)
    written = desk.a.report(desk.now)
    assert written is not None
    assert written[1] == ("192.0.2.1", 65535)


@given(st.lists(st.binary(max_size=200), max_size=5), st.booleans())
def test_any_bytes_are_taken_without_harm(datagrams: list[bytes], encrypted: bool) -> None:
    desk = Desk()
    if encrypted:
        key = bytes(range(30))
        desk.session.connect(Side.A, A_AT, PCMA, srtp=Srtp("AES_CM_128_HMAC_SHA1_80", key, key))
    for data in datagrams:
        buffer = bytearray(data) + bytearray(2048 - len(data))
        desk.a.take_rtcp(buffer, len(data), A_RTCP, desk.now)
        if encrypted:
            assert desk.a.unlock(buffer, len(data), A_AT) == 0
    assert desk.a.report(desk.now)
    assert desk.a.statistics.packets_received == 0
