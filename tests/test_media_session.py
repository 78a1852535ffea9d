"""What a session does to packets: source lock, continuity, payload types, keys, hold, statistics."""

import gc
import itertools
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dosvoces.media import Address, Digit, Format, Heard, Silent, Statistics, rtp, tones
from dosvoces.media.rtp import Packet, TelephoneEvent
from dosvoces.media.session import Line, Session
from dosvoces.media.source import SocketAddress
from dosvoces.model import ConnectionId, Side

ID = ConnectionId("connection")
A_FORMAT = Format("PCMA", 8, dtmf_payload_type=101)
B_FORMAT = Format("PCMA", 98, dtmf_payload_type=96)
A_AT, B_AT = ("192.0.2.1", 4000), ("192.0.2.2", 5000)


class Desk:
    """A session with its clock and its events; `hear` is a packet that comes in."""

    def __init__(self, silence_s: float = 30.0) -> None:
        self.events: list[Digit | Heard | Silent] = []
        self.now = 1000.0
        entropy = random.Random(1).getrandbits
        self.session = Session(ID, "ES", self.events.append, entropy, silence_s=silence_s)

    def connected(self) -> "Desk":
        self.session.connect(Side.A, A_AT, A_FORMAT)
        self.session.connect(Side.B, B_AT, B_FORMAT)
        return self

    def joined(self) -> "Desk":
        self.connected().session.join()
        return self

    def hear(self, side: Side, data: bytes | Packet, source: SocketAddress | None = None) -> Packet | None:
        """What the other side gets of it, as the worker would do it."""
        data = rtp.build(data) if isinstance(data, Packet) else data
        source = source or (A_AT if side is Side.A else B_AT)
        buffer, line = bytearray(2048), self.session.lines[side]
        buffer[: len(data)] = data
        if source != line.lock.source and not line.admit(buffer, len(data), source):
            return None
        destination = line.incoming.receive(buffer, len(data), self.now)
        if destination is None:
            return None
        assert destination == self.session.lines[side.other].out.destination
        return rtp.parse(bytes(buffer[: len(data)]))

    def voice(self, side: Side, number: int, *, ssrc: int = 7, start: int = 100, base: int = 5000) -> Packet | None:
        """The numbered packet of a voice, at its time."""
        self.now = 1000.0 + number * 0.02
        sequence, timestamp = (start + number) & 0xFFFF, (base + number * 160) & 0xFFFFFFFF
        payload_type = (A_FORMAT if side is Side.A else B_FORMAT).payload_type
        return self.hear(side, Packet(payload_type, sequence, timestamp, ssrc, bytes([number & 255]) * 160))

    def ring(self, side: Side) -> Packet:
        packet = self.session.lines[side].out.tone_packet(self.now)
        assert packet is not None
        return rtp.parse(packet)


def some(packet: Packet | None) -> Packet:
    assert packet is not None
    return packet


def follows(before: Packet, after: Packet, units: int) -> bool:
    """Whether `after` continues the stream of `before`, so many timestamp units later."""
    return (after.ssrc, after.sequence, after.timestamp) == (
        before.ssrc,
        (before.sequence + 1) & 0xFFFF,
        (before.timestamp + units) & 0xFFFFFFFF,
    )


def test_nothing_is_taken_before_connect() -> None:
    desk = Desk()
    assert desk.voice(Side.A, 0) is None
    assert desk.events == []
    assert desk.session.end()[Side.A] == Statistics(packets_refused=1)


def test_nothing_is_forwarded_before_join_but_all_is_counted() -> None:
    desk = Desk().connected()
    assert [desk.voice(Side.A, n) for n in range(3)] == [None] * 3
    assert desk.events == [Heard(ID, Side.A, Address(*A_AT))]
    assert desk.session.end()[Side.A] == Statistics(packets_received=3)


def test_a_joined_packet_keeps_its_payload_and_gets_the_leg_s_payload_type() -> None:
    desk = Desk().joined()
    first, second = some(desk.voice(Side.A, 0)), some(desk.voice(Side.A, 1))
    assert (first.payload_type, first.payload, first.marker) == (98, bytes(160), True)
    assert (second.payload_type, second.payload, second.marker) == (98, b"\x01" * 160, False)
    assert follows(first, second, 160)


def test_another_host_is_refused_and_counted() -> None:
    desk = Desk().joined()
    desk.voice(Side.A, 0)
    stranger = Packet(8, 101, 5160, 7, b"x" * 160)
    assert desk.hear(Side.A, stranger, ("192.0.2.66", A_AT[1])) is None
    assert desk.hear(Side.A, stranger, (A_AT[0], 6666)) is None, "locked: not even another port"
    assert desk.session.end()[Side.A] == Statistics(packets_received=1, packets_refused=2)


def test_a_nat_s_port_is_learned_once_and_answered() -> None:
    desk = Desk().joined()
    natted = (A_AT[0], 61000)
    for number in range(5):
        assert desk.hear(Side.A, Packet(8, number, number * 160, 7, b"x" * 160), natted) is not None
    assert desk.session.lines[Side.A].out.destination == natted
    assert desk.hear(Side.A, Packet(8, 5, 800, 7, b"x" * 160), A_AT) is None, "final after five packets"
    assert desk.events == [Heard(ID, Side.A, Address(*natted))]


def test_a_nat_s_port_is_learned_again_after_a_hold() -> None:
    """While nothing is sent a NAT forgets its mapping, and gives another port when the party goes on."""
    desk = Desk().joined()
    natted, later = (A_AT[0], 61000), (A_AT[0], 62000)
    for number in range(5):
        assert desk.hear(Side.A, Packet(8, number, number * 160, 7, b"x" * 160), natted) is not None
    line = desk.session.lines[Side.A]
    desk.session.connect(Side.A, None, A_FORMAT)
    desk.session.connect(Side.A, A_AT, A_FORMAT)
    assert line.out.destination == natted, "until more is known"
    for number in range(5, 10):
        assert desk.hear(Side.A, Packet(8, number, number * 160, 7, b"x" * 160), later) is not None
    assert line.out.destination == later
    assert desk.hear(Side.A, Packet(8, 10, 1600, 7, b"x" * 160), natted) is None, "final again"
    desk.session.connect(Side.A, A_AT, A_FORMAT)
    assert desk.hear(Side.A, Packet(8, 10, 1600, 7, b"x" * 160), natted) is None, "a refresh is no hold"
    assert desk.events == [Heard(ID, Side.A, Address(*natted)), Heard(ID, Side.A, Address(*later))]


def test_who_is_behind_no_nat_stays_locked_after_a_hold() -> None:
    desk = Desk().joined()
    assert desk.voice(Side.A, 0) is not None
    desk.session.connect(Side.A, None, A_FORMAT)
    desk.session.connect(Side.A, A_AT, A_FORMAT)
    assert desk.hear(Side.A, Packet(8, 101, 5160, 7, b"x" * 160), (A_AT[0], 61000)) is None
    assert desk.voice(Side.A, 1) is not None


def test_while_learning_the_signalled_port_wins_over_a_stray() -> None:
    desk = Desk().joined()
    stray = (A_AT[0], 61000)
    desk.hear(Side.A, Packet(8, 900, 0, 1, b"x" * 160), stray)
    assert desk.voice(Side.A, 0) is not None
    assert desk.hear(Side.A, Packet(8, 901, 160, 1, b"x" * 160), stray) is None
    assert desk.session.lines[Side.A].out.destination == A_AT
    assert desk.events == [Heard(ID, Side.A, Address(*stray)), Heard(ID, Side.A, Address(*A_AT))]


def test_a_stray_before_its_first_packet_does_not_shut_out_a_party_behind_a_nat() -> None:
    desk = Desk().joined()
    stray, natted = (A_AT[0], 61000), (A_AT[0], 62000)
    assert desk.hear(Side.A, Packet(8, 900, 0, 1, b"x" * 160), stray) is not None
    heard = [desk.hear(Side.A, Packet(8, n, n * 160, 7, b"x" * 160), natted) is not None for n in range(8)]
    assert heard == [False] * 4 + [True] * 4, "as many as it takes to be final"
    assert desk.hear(Side.A, Packet(8, 901, 160, 1, b"x" * 160), stray) is None
    assert desk.session.lines[Side.A].out.destination == natted
    assert desk.events == [Heard(ID, Side.A, Address(*stray)), Heard(ID, Side.A, Address(*natted))]


def test_ports_that_each_send_a_little_take_no_line() -> None:
    desk = Desk().joined()
    desk.hear(Side.A, Packet(8, 900, 0, 1, b"x" * 160), (A_AT[0], 61000))
    for number in range(40):
        source = (A_AT[0], 62000 + number // 4 % 2)  # four in a row, and then the other one
        assert desk.hear(Side.A, Packet(8, number, number * 160, 7, b"x" * 160), source) is None
    assert desk.voice(Side.A, 0) is not None, "the port that was signalled wins still"


def test_a_source_isn_t_learned_from_what_was_not_agreed() -> None:
    desk = Desk().joined()
    assert desk.hear(Side.A, b"\x80\xc8\x00\x01" + bytes(24), (A_AT[0], 61000)) is None
    assert desk.hear(Side.A, Packet(0, 1, 1, 1, b"x"), (A_AT[0], 61001)) is None
    assert desk.session.lines[Side.A].lock.heard is None


def test_connect_elsewhere_moves_and_the_same_again_changes_nothing() -> None:
    desk = Desk().joined()
    before = some(desk.voice(Side.A, 0))
    desk.session.connect(Side.A, A_AT, A_FORMAT)
    after = some(desk.voice(Side.A, 1))
    assert follows(before, after, 160)
    assert not after.marker
    moved = ("192.0.2.9", 7000)
    desk.session.connect(Side.A, moved, A_FORMAT)
    assert desk.voice(Side.A, 2) is None, "the old address is a stranger now"
    assert desk.hear(Side.A, Packet(8, 103, 5480, 7, b"x" * 160), moved) is not None
    assert desk.session.lines[Side.A].out.destination == moved


def test_a_side_on_hold_gets_nothing_and_is_still_heard() -> None:
    desk = Desk().joined()
    before = some(desk.voice(Side.A, 0))
    desk.session.connect(Side.B, None, B_FORMAT)
    assert [desk.voice(Side.A, n) for n in range(1, 51)] == [None] * 50
    assert desk.voice(Side.B, 50) is not None
    desk.session.connect(Side.B, B_AT, B_FORMAT)
    after = some(desk.voice(Side.A, 51))
    assert follows(before, after, 51 * 160)
    assert after.marker


def test_ringing_goes_over_into_the_peer_s_voice_as_one_stream() -> None:
    desk = Desk().connected()
    desk.session.play_ringing(Side.A)
    tones = []
    for _ in range(10):
        tones.append(desk.ring(Side.A))
        desk.now += 0.02
    assert [tone.marker for tone in tones] == [True] + [False] * 9
    assert all(follows(a, b, 160) for a, b in itertools.pairwise(tones))
    desk.session.join()
    assert desk.session.lines[Side.A].out.tone_packet(desk.now) is None
    desk.now += 0.01  # 30 ms after the last tone's packet
    voice = some(desk.hear(Side.B, Packet(98, 65000, 99, 0xBEEF, b"v" * 160)))
    assert follows(tones[-1], voice, 240)
    assert voice.marker
    assert (voice.payload_type, voice.payload) == (8, b"v" * 160)


def test_no_ringing_on_another_codec() -> None:
    desk = Desk()
    desk.session.connect(Side.A, A_AT, Format("opus", 111, clock_rate=48000))
    desk.session.play_ringing(Side.A)
    assert desk.session.lines[Side.A].out.tone_packet(desk.now) is None


def test_sides_that_are_coded_differently_hear_nothing() -> None:
    desk = Desk()
    desk.session.connect(Side.A, A_AT, A_FORMAT)
    desk.session.connect(Side.B, B_AT, Format("PCMU", 0))
    desk.session.join()
    assert desk.voice(Side.A, 0) is None


def test_a_new_ssrc_goes_on_in_the_same_stream() -> None:
    desk = Desk().joined()
    before = some(desk.voice(Side.A, 0))
    after = some(desk.voice(Side.A, 1, ssrc=99, start=40000, base=1))
    assert follows(before, after, 160)
    assert after.marker


def test_a_jump_in_sequence_is_taken_when_confirmed() -> None:
    desk = Desk().joined()
    before = some(desk.voice(Side.A, 0))
    assert desk.voice(Side.A, 1, start=30000) is None, "one alone is a stray"
    after = some(desk.voice(Side.A, 2, start=30000))
    assert follows(before, after, 320)
    assert desk.session.end()[Side.A] == Statistics(packets_received=2, packets_refused=1)


def test_a_jump_in_time_is_smoothed() -> None:
    desk = Desk().joined()
    before = some(desk.voice(Side.A, 0))
    after = some(desk.voice(Side.A, 1, base=0x7000_0000))
    assert follows(before, after, 160)
    assert desk.session.end()[Side.A].jitter_ms == 0


def test_sequence_and_timestamp_wrap() -> None:
    desk = Desk().joined()
    heard = [some(desk.voice(Side.A, n, start=65530, base=0xFFFFFE00)) for n in range(20)]
    assert all(follows(a, b, 160) for a, b in itertools.pairwise(heard))
    assert [p.marker for p in heard] == [True] + [False] * 19
    statistics = desk.session.end()
    assert (statistics[Side.A].packets_received, statistics[Side.A].packets_lost) == (20, 0)
    assert statistics[Side.A].jitter_ms == pytest.approx(0, abs=0.01)
    assert statistics[Side.B].packets_sent == 20


def test_loss_reordering_and_repeats_are_passed_on_as_they_are() -> None:
    desk = Desk().joined()
    numbers = [0, 1, 4, 3, 3, 6]
    heard = [some(desk.voice(Side.A, n)) for n in numbers]
    assert [(p.sequence - heard[0].sequence) & 0xFFFF for p in heard] == numbers
    assert [(p.timestamp - heard[0].timestamp) & 0xFFFFFFFF for p in heard] == [n * 160 for n in numbers]


def test_loss_is_what_the_sequence_lacks() -> None:
    desk = Desk().joined()
    for number in range(100):
        if number % 10 != 5:
            desk.voice(Side.A, number)
    desk.voice(Side.A, 0, ssrc=8, start=9000)
    desk.voice(Side.A, 3, ssrc=8, start=9000)
    statistics = desk.session.end()[Side.A]
    assert (statistics.packets_received, statistics.packets_lost) == (92, 12)


def test_jitter_follows_the_rfc() -> None:
    desk = Desk().joined()
    expected, transit = 0.0, None
    for number in range(50):
        late_ms = (number * 7) % 10
        desk.now = 1000.0 + number * 0.02 + late_ms / 1000
        desk.hear(Side.A, Packet(8, number, number * 160, 7, b"x" * 160))
        if transit is not None:
            expected += (abs(late_ms - transit) - expected) / 16
        transit = late_ms
    assert desk.session.end()[Side.A].jitter_ms == pytest.approx(expected, abs=0.01)


def test_an_unknown_payload_type_is_dropped_and_leaves_no_gap() -> None:
    desk = Desk().joined()
    before = some(desk.voice(Side.A, 0))
    assert desk.hear(Side.A, Packet(13, 101, 5160, 7, b"\x40")) is None
    assert follows(before, some(desk.voice(Side.A, 2)), 320)
    assert desk.session.end()[Side.A] == Statistics(packets_received=3)


def test_a_party_may_change_to_another_codec_that_both_have_agreed_to() -> None:
    """RFC 3264 §6.1: it needs no re-INVITE. What only one of them has is dropped."""
    desk = Desk()
    desk.session.connect(Side.A, A_AT, replace(A_FORMAT, others=(0, 9)))
    desk.session.connect(Side.B, B_AT, replace(B_FORMAT, others=(9, 18)))
    desk.session.join()

    def say(number: int, payload_type: int, *, marker: bool = False) -> Packet | None:
        desk.now = 1000.0 + number * 0.02
        return desk.hear(Side.A, Packet(payload_type, number, number * 160, 7, b"x" * 160, marker))

    before = some(say(0, 9))
    assert (before.payload_type, before.marker) == (9, True)
    heard = [some(say(number, numbered)) for number, numbered in ((1, 9), (2, 8), (3, 9))]
    assert [(p.payload_type, p.marker) for p in heard] == [(9, False), (98, False), (9, False)]
    assert all(follows(a, b, 160) for a, b in itertools.pairwise([before, *heard]))
    assert some(say(4, 9, marker=True)).marker
    assert [say(5, 0), say(6, 18)] == [None, None]
    assert follows(heard[-1], replace(some(say(7, 8)), sequence=heard[-1].sequence + 1), 640)
    assert desk.session.end()[Side.A] == Statistics(packets_received=8)


def test_a_source_is_learned_from_another_codec_too() -> None:
    desk = Desk()
    desk.session.connect(Side.A, A_AT, replace(A_FORMAT, others=(0,)))
    assert desk.hear(Side.A, Packet(0, 1, 1, 1, b"x"), (A_AT[0], 61001)) is None
    assert desk.session.lines[Side.A].lock.heard == (A_AT[0], 61001)


@pytest.mark.parametrize("number", [101, 96])
def test_a_key_comes_by_our_number_and_by_the_party_s(number: int) -> None:
    """RFC 3264 §5.1: a party that answers with 96 for our 101 sends 101. Many send their own."""
    desk = Desk()
    answered = Format("PCMA", 8, dtmf_payload_type=96, payload_type_here=8, dtmf_payload_type_here=101)
    desk.session.connect(Side.A, A_AT, answered)
    desk.session.connect(Side.B, B_AT, Format("PCMA", 8, dtmf_payload_type=97))
    desk.session.join()
    desk.voice(Side.A, 0)
    key = Packet(number, 101, 5160, 7, rtp.build_event(TelephoneEvent(5, True, 800)))
    assert some(desk.hear(Side.A, key)).payload_type == 97
    assert desk.events[1:] == [Digit(ID, Side.A, "5", 100)]
    back = Packet(97, 101, 5160, 7, rtp.build_event(TelephoneEvent(6, True, 800)))
    assert some(desk.hear(Side.B, back)).payload_type == 96


@pytest.mark.parametrize(("number", "is_key"), [(98, False), (101, True), (103, True)])
def test_our_number_means_what_we_said_where_the_party_means_something_else(number: int, is_key: bool) -> None:
    desk = Desk()
    crossed = Format("PCMA", 101, dtmf_payload_type=103, payload_type_here=98, dtmf_payload_type_here=101)
    desk.session.connect(Side.A, A_AT, crossed)
    desk.session.connect(Side.B, B_AT, A_FORMAT)
    desk.session.join()
    packet = Packet(number, 1, 160, 7, rtp.build_event(TelephoneEvent(5, True, 800)))
    assert some(desk.hear(Side.A, packet)).payload_type == (101 if is_key else 8)


def test_a_key_is_reported_once_and_passed_on() -> None:
    desk = Desk().joined()
    desk.voice(Side.A, 0)
    passed = []
    for i, units in enumerate([160, 320, 480, 640, 800, 800, 800]):
        event = rtp.build_event(TelephoneEvent(9, i >= 4, units))
        desk.now += 0.02
        passed.append(some(desk.hear(Side.A, Packet(101, 101 + i, 5160, 7, event, marker=i == 0))))
    assert [(p.payload_type, p.marker, p.timestamp) for p in passed] == [
        (96, i == 0, passed[0].timestamp) for i in range(7)
    ]
    assert desk.events == [Heard(ID, Side.A, Address(*A_AT)), Digit(ID, Side.A, "9", 100)]
    assert some(desk.voice(Side.A, 8)).payload_type == 98


def test_a_key_whose_end_was_lost_is_reported_at_the_end() -> None:
    desk = Desk().connected()
    desk.hear(Side.A, Packet(101, 1, 100, 7, rtp.build_event(TelephoneEvent(3, False, 400))))
    desk.session.end()
    assert desk.events[-1] == Digit(ID, Side.A, "3", 50)


@pytest.mark.parametrize(
    "data",
    [b"", b"\x80", bytes(12), b"\x80\x08" + bytes(9), b"\xff" * 172, b"\x80\x08" + bytes(2046)],
    ids=["empty", "one byte", "version 0", "eleven bytes", "all ones", "too long"],
)
def test_what_is_no_packet_is_refused(data: bytes) -> None:
    desk = Desk().joined()
    desk.voice(Side.A, 0)
    assert desk.hear(Side.A, data) is None
    assert desk.session.end()[Side.A] == Statistics(packets_received=1, packets_refused=1)


@given(st.lists(st.binary(max_size=60) | st.binary(max_size=40).map(lambda b: b"\x80\x08" + b), max_size=30))
def test_no_bytes_raise(datagrams: list[bytes]) -> None:
    desk = Desk().joined()
    desk.voice(Side.A, 0)
    for data in datagrams:
        desk.hear(Side.A, data)
    statistics = desk.session.end()
    assert statistics[Side.A].packets_received + statistics[Side.A].packets_refused == len(datagrams) + 1


@given(st.lists(st.tuples(st.integers(0, 300), st.sampled_from([7, 7, 7, 8])), min_size=1, max_size=60))
def test_the_quick_way_and_the_general_way_agree(course: list[tuple[int, int]]) -> None:
    quick, general = Desk().joined(), Desk().joined()
    incoming = general.session.lines[Side.A].incoming
    for number, ssrc in course:
        heard = quick.voice(Side.A, number, ssrc=ssrc)
        general.now = quick.now
        buffer = bytearray(rtp.build(Packet(8, 100 + number, 5000 + number * 160, ssrc, bytes([number & 255]) * 160)))
        assert general.session.lines[Side.A].lock.admit(A_AT)
        destination = incoming._receive_otherwise(buffer, len(buffer), general.now)
        assert (None if destination is None else rtp.parse(bytes(buffer))) == heard
    assert general.session.lines[Side.A].statistics == quick.session.lines[Side.A].statistics


def test_a_session_that_ended_leaves_no_cycle() -> None:
    """The worker has no garbage collector: what an ended session is made of must go by itself."""
    gc.disable()
    try:
        desk = Desk().joined()
        desk.voice(Side.A, 0)
        desk.voice(Side.B, 0)
        parts = {id(desk.session), *(id(line) for line in desk.session.lines.values())}
        desk.session.end()
        del desk
        assert not parts & {id(left) for left in gc.get_objects() if isinstance(left, Session | Line)}
    finally:
        gc.enable()


def quiet(desk: Desk, *seconds: float) -> list[Silent]:
    """Look at the session at those times, and what silence was told."""
    for at in seconds:
        desk.session.settle(1000.0 + at)
    return [event for event in desk.events if isinstance(event, Silent)]


def test_a_side_that_says_nothing_is_silent_once_and_again_after_it_was_heard() -> None:
    desk = Desk(silence_s=3.0).connected()
    desk.session.connect(Side.B, B_AT, B_FORMAT, sends=False)
    assert quiet(desk, 0.0, 0.2, 2.9) == []
    assert quiet(desk, 3.0, 3.2, 60.0) == [Silent(ID, Side.A, 3.0)]
    desk.voice(Side.A, 0)
    assert len(quiet(desk, 61.0, 63.9)) == 1
    assert quiet(desk, 64.1, 80.0) == [Silent(ID, Side.A, 3.0), Silent(ID, Side.A, 3.1)]


def test_a_side_on_hold_isn_t_silent_and_counts_anew_when_resumed() -> None:
    desk = Desk(silence_s=3.0).connected()
    desk.session.connect(Side.A, None, A_FORMAT)
    desk.session.connect(Side.B, B_AT, B_FORMAT, sends=False)
    assert quiet(desk, 0.0, 5.0, 10.0) == []
    desk.session.connect(Side.A, A_AT, A_FORMAT)
    desk.session.connect(Side.A, A_AT, A_FORMAT)
    assert quiet(desk, 10.2, 13.0) == []
    assert quiet(desk, 13.2) == [Silent(ID, Side.A, 3.0)]


def test_packets_that_are_refused_don_t_break_a_silence() -> None:
    desk = Desk(silence_s=1.0).connected()
    for number in range(8):
        desk.hear(Side.A, Packet(8, number, number * 160, 7, b"x" * 160), ("192.0.2.66", 4000))
        desk.voice(Side.B, number)
        quiet(desk, number * 0.2)
    assert desk.events == [Heard(ID, Side.B, Address(*B_AT)), Silent(ID, Side.A, 1.0)]


def test_a_tone_goes_on_in_the_new_codec_when_its_hearer_changes() -> None:
    desk = Desk().connected()
    desk.session.play_ringing(Side.A)
    assert desk.ring(Side.A).payload_type == 8
    desk.session.connect(Side.A, A_AT, Format("PCMU", 0))
    packet = desk.ring(Side.A)
    assert (packet.payload_type, packet.payload[:20]) == (0, tones.encoded(tones.ringing_tone("ES"), "PCMU")[:20])
    desk.session.connect(Side.A, A_AT, Format("G722", 9))
    assert not desk.session.lines[Side.A].out.ringing, "no tone is better than noise"
