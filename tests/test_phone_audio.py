"""What a trial phone says and hears, without a network: Goertzel, the packets of tones and keys, the timeline."""

import math

import pytest

from dosvoces.media import g711, rtp
from dosvoces.media.goertzel import SILENCE_DBM0, level_dbm0, total_dbm0
from dosvoces.media.phone_audio import AUDIBLE_DBM0, MAX_KEYS, Ear, Heard, Source, Window


def sine(frequency_hz: float, amplitude: float, length: int = 800) -> list[int]:
    return [round(amplitude * math.sin(2 * math.pi * frequency_hz * at / 8000)) for at in range(length)]


def source(codec: str = "PCMA", frequency_hz: int | None = 1000, tone_dbm0: float = -15.0) -> Source:
    return Source(codec, frequency_hz=frequency_hz, tone_dbm0=tone_dbm0, ssrc=7, sequence=0xFFFF, timestamp=0xFFFFFF60)


@pytest.mark.parametrize("frequency_hz", [350, 425, 440, 1000, 1633, 3400])
@pytest.mark.parametrize(("amplitude", "expected_dbm0"), [(32_767, 3.14), (3_276.7, -16.86), (327.67, -36.86)])
def test_the_level_of_a_sine_is_measured(frequency_hz: int, amplitude: float, expected_dbm0: float) -> None:
    samples = sine(frequency_hz, amplitude)
    assert level_dbm0(samples, frequency_hz) == pytest.approx(expected_dbm0, abs=0.1)
    assert total_dbm0(samples) == pytest.approx(expected_dbm0, abs=0.1)


def test_other_frequencies_are_told_apart() -> None:
    samples = sine(425, 8_000)
    here = level_dbm0(samples, 425)
    assert here - level_dbm0(samples, 440) > 12
    assert here - level_dbm0(samples, 1000) > 35


def test_the_level_of_one_tone_among_two() -> None:
    both = [a + b for a, b in zip(sine(400, 3_276.7), sine(1000, 327.67), strict=True)]
    assert level_dbm0(both, 400) == pytest.approx(-16.86, abs=0.1)
    assert level_dbm0(both, 1000) == pytest.approx(-36.86, abs=0.1)


def test_silence_has_a_floor() -> None:
    assert level_dbm0([], 425) == total_dbm0([]) == SILENCE_DBM0
    assert level_dbm0([0] * 800, 425) == total_dbm0([0] * 800) == SILENCE_DBM0


@pytest.mark.parametrize("codec", ["PCMA", "PCMU"])
@pytest.mark.parametrize("frequency_hz", [425, 441, 1000])
def test_a_source_sends_its_tone_without_a_break(codec: str, frequency_hz: int) -> None:
    speaker = source(codec, frequency_hz)
    packets = [rtp.parse(speaker.packet(8, None)) for _ in range(120)]
    samples = g711.decode(codec, b"".join(packet.payload for packet in packets))
    for start in range(0, len(samples) - 800, 800):
        stretch = samples[start : start + 800]
        assert level_dbm0(stretch, frequency_hz) == pytest.approx(-15.0, abs=0.3)
        assert total_dbm0(stretch) == pytest.approx(-15.0, abs=0.3)
    assert [packet.sequence for packet in packets[:3]] == [0xFFFF, 0, 1]
    assert [packet.timestamp for packet in packets[:3]] == [0xFFFFFF60, 0, 160]
    assert [packet.marker for packet in packets] == [True] + [False] * 119
    assert {packet.ssrc for packet in packets} == {7}


def test_a_source_without_a_tone_sends_silence() -> None:
    assert rtp.parse(source("PCMU", None).packet(0, None)).payload == b"\xff" * 160


def test_a_key_is_sent_as_rfc_4733_has_it() -> None:
    speaker = source()
    speaker.packet(8, 101)  # so that the key begins at timestamp 0
    speaker.press("5")
    packets = [rtp.parse(speaker.packet(8, 101)) for _ in range(12)]
    events = [rtp.parse_event(packet.payload) for packet in packets[:7]]
    assert [packet.payload_type for packet in packets] == [101] * 7 + [8] * 5
    assert [(event.code, event.end, event.duration) for event in events] == [
        (5, False, 160),
        (5, False, 320),
        (5, False, 480),
        (5, False, 640),
        (5, True, 800),
        (5, True, 800),
        (5, True, 800),
    ]
    assert [packet.timestamp for packet in packets] == [0] * 7 + [1120, 1280, 1440, 1600, 1760]
    assert [packet.sequence for packet in packets] == list(range(12))
    assert [packet.marker for packet in packets] == [True] + [False] * 11


def test_keys_come_apart_and_are_dropped_where_they_were_not_agreed() -> None:
    speaker = source()
    speaker.press("#A")
    numbers = [rtp.parse(speaker.packet(8, 101)).payload_type for _ in range(22)]
    assert numbers == ([101] * 7 + [8] * 4) * 2
    speaker.press("1")
    assert rtp.parse(speaker.packet(8, None)).payload_type == 8


@pytest.mark.parametrize(("keys", "why"), [("x", "no key"), ("1" * (MAX_KEYS + 1), "more than 64")])
def test_what_is_no_key_is_refused(keys: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        source().press(keys)


def test_time_goes_on_while_nothing_is_sent() -> None:
    speaker = source()
    speaker.packet(8, None)
    speaker.skip()
    packet = rtp.parse(speaker.packet(8, None))
    assert (packet.sequence, packet.timestamp, packet.marker) == (0, 160, True)


def heard(*parts: tuple[int | None, float], drop: tuple[int, ...] = ()) -> Heard:
    """What an ear makes of these tones and their seconds; `drop`: packets that don't arrive."""
    ear = Ear((425, 440, 1000))
    number = 0
    for frequency_hz, seconds in parts:
        speaker = source("PCMA", frequency_hz)
        for _ in range(round(seconds * 50)):
            payload = rtp.parse(speaker.packet(8, None)).payload
            if number not in drop:
                packet = rtp.Packet(8, number & 0xFFFF, 160 * number, 9, payload)
                ear.take("PCMA", packet, 0.5 + number * 0.02)
            number += 1
    return ear.report()


def test_a_timeline_of_what_was_heard() -> None:
    report = heard((425, 1.5), (None, 0.75), (1000, 1.0))
    assert report.describe({425: "ringing"}) == "425 Hz ringing 0.5–2.0 s, silence 2.0–2.7 s, 1000 Hz 2.7–3.7 s"
    assert report.packets == 163
    assert report.first_packet_s == 0.5
    assert report.dominant() == 425
    assert report.dominant(report.between(2.9)) == 1000
    assert report.dominant(report.between(2.0, 2.7)) is None
    assert report.level_dbm0(1000, report.between(2.9)) == pytest.approx(-15.0, abs=0.3)
    assert report.level_dbm0(425, report.between(2.9)) < AUDIBLE_DBM0


def test_lost_packets_are_silence_in_their_place() -> None:
    # The timestamps, not the arrivals, say where the audio belongs.
    report = heard((440, 0.5), (440, 0.4), (440, 0.5), drop=tuple(range(25, 45)))
    assert report.describe() == "440 Hz 0.5–1.0 s, silence 1.0–1.4 s, 440 Hz 1.4–1.9 s"


def test_a_late_packet_and_another_stream() -> None:
    ear = Ear((1000,))
    speaker = source()
    packets = [rtp.parse(speaker.packet(8, None)) for _ in range(5)]
    assert [len(ear.take("PCMA", packet, 0.0)) for packet in packets] == [0, 0, 0, 0, 1]
    assert ear.take("PCMA", packets[0], 0.1) == []
    other = [rtp.Packet(8, n, 5_000 + 160 * n, 1234, packet.payload) for n, packet in enumerate(packets)]
    assert [len(ear.take("PCMA", packet, 3.0)) for packet in other] == [0, 0, 0, 0, 1]
    assert [window.start_s for window in ear.report().windows] == [0.0, 3.0]
    assert ear.report().packets == 11


def test_what_is_no_tone_is_called_something_else() -> None:
    report = heard((700, 0.5))
    assert report.dominant() is None
    assert report.describe() == "something else 0.5–1.0 s"


def test_nothing_heard_is_said() -> None:
    report = Ear(()).report()
    assert (report.describe(), report.dominant(), report.first_packet_s) == ("nothing", None, None)
    assert heard((425, 0.02)).describe() == "1 packets, too few to tell"
    with pytest.raises(ValueError, match="not in tuple"):
        report.level_dbm0(425)


def test_two_equal_tones_are_both_dominant_enough() -> None:
    report = Heard((400, 450), (Window(0.0, (-13.0, -13.2), -10.0),), 0.1, 5, 0.0)
    assert report.dominant() == 400
