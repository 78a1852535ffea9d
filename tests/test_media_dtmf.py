"""Each key press once, whatever happens to its packets."""

from hypothesis import given
from hypothesis import strategies as st

from dosvoces.media.dtmf import KeyPress, KeyPresses
from dosvoces.media.rtp import TelephoneEvent


def press(key: int, timestamp: int, *, at: float = 0.0) -> list[tuple[TelephoneEvent, int, float]]:
    """A key press of 100 ms: five packets, and the end thrice (RFC 4733 §2.5.1.4)."""
    durations = [160, 320, 480, 640, 800, 800, 800]
    return [(TelephoneEvent(key, i >= 4, units), timestamp, at + min(i, 4) * 0.02) for i, units in enumerate(durations)]


def pressed(packets: list[tuple[TelephoneEvent, int, float]]) -> list[KeyPress]:
    keys = KeyPresses()
    return [found for packet in packets for found in keys.take(*packet)] + keys.flush()


def test_a_key_press_is_seen_once_with_its_duration() -> None:
    assert pressed(press(5, 1000) + press(11, 3000)) == [KeyPress("5", 800), KeyPress("#", 800)]


@given(st.sets(st.integers(0, 6), min_size=1))
def test_any_packet_of_it_is_enough(kept: set[int]) -> None:
    heard = pressed([packet for i, packet in enumerate(press(5, 1000)) if i in kept])
    assert [found.key for found in heard] == ["5"]


@given(st.permutations(range(7)))
def test_disorder_makes_no_second_press(order: list[int]) -> None:
    packets = press(5, 1000)
    assert [found.key for found in pressed([packets[i] for i in order])] == ["5"]


def test_a_late_repeat_of_the_key_before_is_nothing_new() -> None:
    packets = press(5, 1000)
    assert pressed([*packets[:6], *press(6, 3000), packets[6]]) == [KeyPress("5", 800), KeyPress("6", 800)]


def test_a_lost_end_is_told_by_the_next_key() -> None:
    assert pressed(press(1, 1000)[:3] + press(1, 3000)) == [KeyPress("1", 480), KeyPress("1", 800)]


def test_a_lost_end_is_told_by_time() -> None:
    keys = KeyPresses()
    for packet in press(1, 1000, at=10.0)[:3]:
        assert keys.take(*packet) == []
    assert keys.settle(10.1) == []
    assert keys.settle(10.25) == [KeyPress("1", 480)]
    assert keys.settle(11.0) == []
    assert keys.take(*press(1, 1000, at=10.3)[5]) == [], "its end comes after all"


def test_a_long_event_in_segments_is_one_press() -> None:
    segments = [
        (TelephoneEvent(1, False, 0xFFFF), 1000, 0.0),
        (TelephoneEvent(1, False, 160), 1000 + 0xFFFF, 8.2),
        (TelephoneEvent(1, True, 320), 1000 + 0xFFFF, 8.22),
    ]
    assert pressed(segments) == [KeyPress("1", 0xFFFF + 320)]


def test_the_timestamp_may_wrap_between_keys() -> None:
    assert pressed(press(1, 0xFFFFFF00) + press(2, 0x500)) == [KeyPress("1", 800), KeyPress("2", 800)]


def test_what_is_no_key_is_ignored() -> None:
    assert pressed([(TelephoneEvent(16, True, 800), 1000, 0.0), (TelephoneEvent(255, True, 800), 2000, 0.0)]) == []
