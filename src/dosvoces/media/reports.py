"""
The RTCP of one party: what we report to it, and what it reports to us. Terminated here, never passed through.

Pure; the other side's address and the socket are `worker.py`'s. Nothing here raises on a packet's bytes.
"""

import math
from collections.abc import Callable

from dosvoces.media.incoming import Incoming
from dosvoces.media.outgoing import Outgoing
from dosvoces.media.rtcp import (
    Goodbye,
    ReceiverReport,
    ReportBlock,
    RtcpError,
    SenderReport,
    SourceName,
    build,
    parse,
)
from dosvoces.media.rtp import HEADER_SIZE

INTERVAL_S = 5.0  # RFC 3550 §6.2: the least; a voice's 5 % of bandwidth would allow a call of two more
COMPENSATION = math.e - 1.5  # RFC 3550 §6.3.1
KEPT_REPORTS = 8  # sender reports of ours that an answer may speak of
LONGEST_ROUND_TRIP_S = 30.0  # beyond it a report is made up or its clock jumped
ROUNDING_S = 0.02
_UNITS = 65536  # of the delays in reports, in a second
_MOST_LOST = 0x7FFFFF  # RFC 3550 §A.3: 24 bits with a sign


class Reports:
    """
    `take` is given what came, `write` gives what is to be sent, at `due` and not before.

    The clock of our sender reports is the monotonic one. RFC 3550 §6.4.1 allows it where there is one stream, which
    nobody has to synchronise with another; and what isn't told can't be wrong.
    """

    __slots__ = (
        "_cname", "_entropy", "_expected", "_incoming", "_jitter_there", "_last_report", "_last_report_at",
        "_lost_there", "_out", "_received", "_round_trips", "_sent_at", "_sent_before", "_ssrc",
        "_sum_of_round_trips", "due", "received", "sent",
    )  # fmt: skip

    def __init__(self, incoming: Incoming, out: Outgoing, entropy: Callable[[int], int]) -> None:
        self._incoming, self._out, self._entropy = incoming, out, entropy
        self.due = math.inf
        """When the next report is due, monotonic seconds; never, before the party is connected."""
        self.received = self.sent = 0
        self._cname = ""
        # what we tell of the party's stream
        self._ssrc = -1
        self._expected = self._received = 0  # at the report before
        self._last_report, self._last_report_at = 0, 0.0
        # what we sent
        self._sent_before = (0, 0)  # packets, at the last two reports
        self._sent_at: tuple[int, ...] = ()  # the middle of the NTP times of our sender reports
        # what the party tells of ours
        self._lost_there: int | None = None
        self._jitter_there: int | None = None
        self._round_trips, self._sum_of_round_trips = 0, 0.0

    def start(self, now: float) -> None:
        """The party is connected: report from now on."""
        if self.due == math.inf:
            self.due = now + self._pause() / 2  # RFC 3550 §6.2: the first one comes after half the time

    def _pause(self) -> float:
        """RFC 3550 §6.3.1: between half and one and a half of the interval, so that reports don't fall in step."""
        return INTERVAL_S * (0.5 + self._entropy(16) / 65536) / COMPENSATION

    # What came

    def take(self, data: bytes | bytearray | memoryview, now: float) -> bool:
        """Whether this was RTCP; then it is noted."""
        try:
            packets = parse(data)
        except RtcpError:
            return False
        self.received += 1
        for packet in packets:
            if isinstance(packet, SenderReport):
                self._last_report, self._last_report_at = packet.ntp >> 16 & 0xFFFFFFFF, now
            if isinstance(packet, SenderReport | ReceiverReport):
                for block in packet.blocks:
                    if block.ssrc == self._out.ssrc:
                        self._note(block, now)
        return True

    def _note(self, block: ReportBlock, now: float) -> None:
        self._lost_there, self._jitter_there = block.lost, block.jitter
        if block.last_report not in self._sent_at:
            return  # none of ours, or none yet
        # RFC 3550 §6.4.1, figure 2.
        units = (_middle(now) - block.last_report - block.delay + 0x80000000) % 0x100000000 - 0x80000000
        # A peer that rounds its delay up comes out a little below 0 where the round trip is short.
        if -ROUNDING_S * _UNITS < units < LONGEST_ROUND_TRIP_S * _UNITS:
            self._round_trips += 1
            self._sum_of_round_trips += max(0, units) / _UNITS

    @property
    def round_trip_ms(self) -> float | None:
        """The mean; None if the party never answered a report of ours."""
        return self._sum_of_round_trips / self._round_trips * 1000 if self._round_trips else None

    @property
    def lost_there(self) -> int | None:
        """Of the packets that we sent, how many the party says it didn't get; None if it never said."""
        return None if self._lost_there is None else min(max(0, self._lost_there), self._out.sent)

    @property
    def jitter_there_ms(self) -> float | None:
        """What the party says."""
        if self._jitter_there is None or self._out.format is None:
            return None
        return self._jitter_there * 1000 / self._out.format.clock_rate

    # What is sent

    def write(self, now: float) -> bytes:
        """The report that is due; the next one is due later."""
        self.due = now + self._pause()
        return self._compound(now)

    def goodbye(self, now: float) -> bytes | None:
        """What the party is told last; None if it never heard of us (RFC 3550 §6.3.7)."""
        if not (self.sent or self._out.sent):
            return None
        return self._compound(now) + build(Goodbye((self._out.ssrc,)))

    def _compound(self, now: float) -> bytes:
        out = self._out
        blocks = self._blocks(now)
        report: SenderReport | ReceiverReport
        # RFC 3550 §6.4: a sender is who sent since the report before the last one.
        if out.sent > self._sent_before[0] and out.format is not None:
            ntp = int(now * 0x100000000)
            self._sent_at = (*self._sent_at[1 - KEPT_REPORTS :], ntp >> 16 & 0xFFFFFFFF)
            timestamp = out.timestamp + round((now - out.at) * out.format.clock_rate)
            report = SenderReport(
                ssrc=out.ssrc,
                ntp=ntp & 0xFFFFFFFFFFFFFFFF,
                timestamp=timestamp & 0xFFFFFFFF,
                packets=out.sent & 0xFFFFFFFF,
                octets=(out.bytes - HEADER_SIZE * out.sent) & 0xFFFFFFFF,
                blocks=blocks,
            )
        else:
            report = ReceiverReport(out.ssrc, blocks)
        self._sent_before = (self._sent_before[1], out.sent)
        self.sent += 1
        # RFC 7022 §4.2: a name of this session alone, so that nobody can tell from it who calls whom.
        self._cname = self._cname or f"{self._entropy(96):024x}"
        return build(report, SourceName(out.ssrc, self._cname))

    def _blocks(self, now: float) -> tuple[ReportBlock, ...]:
        run = self._incoming.run
        if run is None:
            return ()
        if run.ssrc != self._ssrc:
            self._ssrc, self._expected, self._received = run.ssrc, 0, 0
        expected, received = run.expected - self._expected, run.received - self._received
        self._expected, self._received = run.expected, run.received
        lost = max(0, expected - received)  # RFC 3550 §A.3
        since = round((now - self._last_report_at) * _UNITS) if self._last_report else 0
        return (
            ReportBlock(
                ssrc=run.ssrc,
                fraction_lost=min(255, lost * 256 // expected) if expected > 0 else 0,
                lost=max(-_MOST_LOST, min(_MOST_LOST, run.expected - run.received)),
                highest=run.highest & 0xFFFFFFFF,
                jitter=run.jitter & 0xFFFFFFFF,
                last_report=self._last_report,
                delay=min(since, 0xFFFFFFFF),
            ),
        )


def _middle(now: float) -> int:
    """The middle 32 bits of an NTP time."""
    return int(now * _UNITS) & 0xFFFFFFFF
