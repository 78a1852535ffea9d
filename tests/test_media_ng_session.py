"""What rtpengine is told of a side, and what its answers come to; WAV files of tones."""

import io
import wave

import pytest

from dosvoces.errors import MediaError
from dosvoces.media import Address, Format
from dosvoces.media.ng_session import Traffic, describe, local_address, traffic
from dosvoces.media.tones import RINGING
from dosvoces.media.wav import ringing_wav
from dosvoces.model import Side


def test_a_side_is_described() -> None:
    format = Format("opus", 111, 48000, dtmf_payload_type=110, packet_ms=40)
    expected = """\
v=0
o=- 1 1 IN IP4 192.0.2.1
s=-
c=IN IP4 192.0.2.1
t=0 0
m=audio 4000 RTP/AVP 111 110
a=rtpmap:111 opus/48000/2
a=rtpmap:110 telephone-event/48000
a=rtcp:4005
a=sendrecv
a=ptime:40
"""
    text = describe(Address("203.0.113.1", 30000), Address("192.0.2.1", 4000), format, 4005)
    assert text == expected.replace("\n", "\r\n")


@pytest.mark.parametrize(("ours", "nowhere"), [("203.0.113.1", "IN IP4 127.0.0.1"), ("2001:db8::1", "IN IP6 ::1")])
def test_a_side_that_is_not_connected_has_its_media_nowhere(ours: str, nowhere: str) -> None:
    text = describe(Address(ours, 30000), None, None, None)
    assert f"c={nowhere}\r\n" in text
    assert "m=audio 9 RTP/AVP 8\r\na=rtpmap:8 PCMA/8000\r\n" in text


def test_where_rtpengine_receives() -> None:
    assert local_address({"sdp": "v=0\r\nc=IN IP6 2001:db8::1\r\nm=audio 30002 RTP/AVP 8\r\n"}) == Address(
        "2001:db8::1", 30002
    )


@pytest.mark.parametrize("answer", [{}, {"sdp": ""}, {"sdp": "c=IN IP4 192.0.2.1\r\nm=audio 0 RTP/AVP 8"}, {"sdp": 5}])
def test_an_answer_without_a_port_is_a_clear_error(answer: dict[str, object]) -> None:
    with pytest.raises(MediaError, match="rtpengine gave no port"):
        local_address(answer)


def test_traffic_is_what_came_less_what_was_refused() -> None:
    def tag(packets: object, errors: object) -> dict[str, object]:
        return {"medias": [{"streams": [{"stats": {"packets": packets, "errors": errors}}, {}]}]}

    assert traffic({"tags": {"a": tag(43, 3), "b": tag(5, 0)}}) == {Side.A: Traffic(40, 3), Side.B: Traffic(5, 0)}
    assert traffic({"tags": {"a": tag("x", 3), "b": {"medias": []}}}) == {side: Traffic(0, 0) for side in Side}
    assert traffic({}) == {side: Traffic(0, 0) for side in Side}


@pytest.mark.parametrize("country", sorted(RINGING))
def test_a_tone_is_a_wav_file_that_fits_one_datagram(country: str) -> None:
    data = ringing_wav(country)
    assert len(data) < 50_000
    with pytest.raises(wave.Error, match="unknown format: 6"):  # A-law: the library reads the frame around it
        wave.open(io.BytesIO(data))
