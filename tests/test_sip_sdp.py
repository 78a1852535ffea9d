"""Session descriptions as real peers write them; what we make of them, offer and answer (RFC 8866, RFC 3264)."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dosvoces.sip.description import MAX_BODY
from dosvoces.sip.sdp import (
    DEFAULT_CODECS,
    G722,
    OPUS,
    PCMA,
    PCMU,
    TELEPHONE_EVENT,
    TELEPHONE_EVENT_48K,
    Chosen,
    Codec,
    Direction,
    Media,
    NotAcceptable,
    SdpError,
    SessionDescription,
    answer_to,
    choose,
    offer,
    parse,
    pass_through,
    with_version,
)

EVENT_0_16 = Codec("telephone-event", 101, fmtp="0-16")

ASTERISK = b"""v=0\r
o=- 3918276543 3918276545 IN IP4 198.51.100.20\r
s=Asterisk\r
c=IN IP4 198.51.100.20\r
t=0 0\r
m=audio 17462 RTP/AVP 8 101\r
a=rtpmap:8 PCMA/8000\r
a=rtpmap:101 telephone-event/8000\r
a=fmtp:101 0-16\r
a=ptime:20\r
a=maxptime:150\r
a=sendrecv\r
"""

BARESIP = b"""v=0\r
o=- 2913580342 1731160153 IN IP4 192.0.2.10\r
s=-\r
c=IN IP4 192.0.2.10\r
t=0 0\r
a=tool:baresip 1.0.0\r
m=audio 24582 RTP/AVP 96 9 0 8 101\r
b=AS:125\r
a=rtpmap:96 opus/48000/2\r
a=fmtp:96 stereo=1;sprop-stereo=1\r
a=rtpmap:9 G722/8000\r
a=rtpmap:0 PCMU/8000\r
a=rtpmap:8 PCMA/8000\r
a=rtpmap:101 telephone-event/8000\r
a=fmtp:101 0-15\r
a=rtcp:24583\r
a=sendrecv\r
a=label:1\r
a=rtcp-rsize\r
a=ssrc:1404862402 cname:sip:b@192.0.2.10\r
a=ptime:20\r
"""

SIPP = b"""v=0
o=user1 53655765 2353687637 IN IP4 127.0.0.1
s=-
c=IN IP4 127.0.0.1
t=0 0
m=audio 6000 RTP/AVP 0
a=rtpmap:0 PCMU/8000
"""

CISCO = b"""v=0\r
o=CiscoSystemsCCM-SIP 161095 1 IN IP4 10.10.10.5\r
s=SIP Call\r
b=AS:384\r
t=0 0\r
m=audio 22116 RTP/AVP 9 18 101\r
c=IN IP4 10.10.10.31\r
b=TIAS:64000\r
a=ptime:30\r
a=rtpmap:18 G729/8000\r
a=fmtp:18 annexb=no\r
a=rtpmap:101 Telephone-Event/8000\r
a=sendonly\r
m=video 22118 RTP/AVP 126 97\r
c=IN IP4 10.10.10.31\r
a=rtpmap:126 H264/90000\r
a=content:main\r
m=application 22120 UDP/BFCP *\r
a=floorctrl:c-s\r
"""

IPV6 = b"""v=0\r
o=jdoe 2890844526 2890842807 IN IP6 2001:db8::10\r
s=\r
c=IN IP6 2001:db8::10\r
t=0 0\r
a=recvonly\r
m=audio 49170 RTP/AVP 0 8 97\r
a=rtpmap:97 TELEPHONE-EVENT/8000\r
"""

BROWSER = b"""v=0\r
o=- 4611731400430051336 2 IN IP4 127.0.0.1\r
s=-\r
t=0 0\r
a=group:BUNDLE 0\r
a=ice-options:trickle\r
m=audio 54400 UDP/TLS/RTP/SAVPF 111 0 8 126\r
c=IN IP4 203.0.113.7\r
a=rtcp:9 IN IP4 0.0.0.0\r
a=candidate:1 1 udp 2113937151 192.0.2.77 54400 typ host generation 0 network-cost 999\r
a=ice-ufrag:EsAw\r
a=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r
a=fingerprint:sha-256 19:E2:1C:3B\r
a=setup:actpass\r
a=mid:0\r
a=rtcp-mux\r
a=rtpmap:111 opus/48000/2\r
a=fmtp:111 minptime=10;useinbandfec=1\r
a=rtpmap:126 telephone-event/8000\r
"""


def test_asterisk() -> None:
    assert parse(ASTERISK) == SessionDescription(
        "3918276543",
        "3918276545",
        (
            Media(
                kind="audio",
                port=17462,
                profile="RTP/AVP",
                formats=("8", "101"),
                host="198.51.100.20",
                codecs=(PCMA,),
                events=(EVENT_0_16,),
                ptime_ms=20,
            ),
        ),
    )
    agreed = Chosen(PCMA, 101, "198.51.100.20", 17462, Direction.SENDRECV, 20)
    assert choose(parse(ASTERISK)) == replace(agreed, payload_type_here=8, dtmf_payload_type_here=101)


def test_baresip() -> None:
    opus = Codec("opus", 96, 48000, 2, "stereo=1;sprop-stereo=1")
    assert parse(BARESIP).audio == Media(
        kind="audio",
        port=24582,
        profile="RTP/AVP",
        formats=("96", "9", "0", "8", "101"),
        host="192.0.2.10",
        codecs=(opus, G722, PCMU, PCMA),
        events=(Codec("telephone-event", 101, fmtp="0-15"),),
        ptime_ms=20,
        rtcp_port=24583,
    )
    agreed = Chosen(PCMU, 101, "192.0.2.10", 24582, Direction.SENDRECV, rtcp_port=24583)
    assert choose(parse(BARESIP), [PCMU, PCMA]) == replace(agreed, payload_type_here=0, others=(8,))


def test_sipp_ends_its_lines_with_lf() -> None:
    assert parse(SIPP) == parse(SIPP.replace(b"\n", b"\r\n"))
    agreed = Chosen(PCMU, None, "127.0.0.1", 6000, Direction.SENDRECV)
    assert choose(parse(SIPP)) == replace(agreed, payload_type_here=0)


def test_several_streams_with_their_own_addresses() -> None:
    parsed = parse(CISCO)
    assert parsed.media == (
        Media(
            kind="audio",
            port=22116,
            profile="RTP/AVP",
            formats=("9", "18", "101"),
            host="10.10.10.31",
            codecs=(G722, Codec("G729", 18, fmtp="annexb=no")),
            events=(Codec("telephone-event", 101),),
            direction=Direction.SENDONLY,
            ptime_ms=30,
        ),
        Media("video", 22118, "RTP/AVP", ("126", "97"), "10.10.10.31"),
        Media("application", 22120, "UDP/BFCP", ("*",)),
    )
    agreed = Chosen(G722, 101, "10.10.10.31", 22116, Direction.RECVONLY, 30)
    assert choose(parsed) == replace(agreed, payload_type_here=9, dtmf_payload_type_here=101)


def test_ipv6_and_what_stands_at_session_level() -> None:
    agreed = Chosen(PCMU, 97, "2001:db8::10", 49170, Direction.SENDONLY)
    assert choose(parse(IPV6)) == replace(agreed, payload_type_here=0, dtmf_payload_type_here=101, others=(8,))


def test_a_browser_is_refused_for_its_encryption() -> None:
    parsed = parse(BROWSER)
    assert parsed.audio is None
    assert parsed.media[0].encryption == ("fingerprint", "setup")
    assert parsed.media[0].rtcp_mux
    with pytest.raises(NotAcceptable, match="offered as UDP/TLS/RTP/SAVPF only; we do RTP/AVP"):
        choose(parsed)


def test_plain_audio_beside_encrypted_audio_is_taken() -> None:
    both = SIPP.replace(b"m=audio 6000", b"m=audio 5000 RTP/SAVP 0\na=crypto:1 X inline:a\nm=audio 6000")
    assert choose(parse(both)).port == 6000
    assert (
        b"m=audio 0 RTP/SAVP 0\r\nm=audio 7000 RTP/AVP 0\r\n"
        in answer_to(parse(both), "127.0.0.1", 7000, session_id=1).body
    )


@pytest.mark.parametrize("static", [(0, "PCMU"), (3, "GSM"), (8, "PCMA"), (9, "G722"), (18, "G729")])
def test_static_payload_types_need_no_rtpmap(static: tuple[int, str]) -> None:
    number, name = static
    body = SIPP.replace(b"AVP 0\na=rtpmap:0 PCMU/8000", b"AVP %d 77 200 x" % number)
    assert parse(body).media[0].codecs == (Codec(name, number),)


def test_odd_attributes_are_left_out() -> None:
    body = SIPP + (
        b"a=rtpmap:0 ignored/1\na=rtpmap:96\na=rtpmap:97 /8000\na=rtpmap:98 x/y\na=rtpmap:99 x/\na=fmtp\na=ptime:abc\n"
        b"a=rtcp:abc\na=\n"
    )
    body = body.replace(b"AVP 0", b"AVP 0 96 97 98 99")
    assert parse(body).media[0] == Media("audio", 6000, "RTP/AVP", ("0", "96", "97", "98", "99"), "127.0.0.1", (PCMU,))


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "no v=0"),
        (b"v=1\r\n", "no v=0"),
        (b"v=0\r\n", "no o= line"),
        (b"v=0\r\no=- 1 1 IN IP4\r\n", "no o= line"),
        (b"v=0\r\nhello\r\n", "not a line"),
        (SIPP + b"\0", "zero byte"),
        (SIPP + b"m=audio\r\n", "without its fields"),
        (SIPP + b"m=audio x RTP/AVP 0\r\n", "invalid port"),
        (SIPP + b"m=audio 65536 RTP/AVP 0\r\n", "invalid port"),
        (SIPP + b"m=audio -1 RTP/AVP 0\r\n", "invalid port"),
        (SIPP + b"m=audio 1 RTP/AVP" + b" 0" * 65, "more than 64 formats"),
        (SIPP + b"m=audio 1 RTP/AVP 0\n" * 32, "more than 32 m="),
        (SIPP + b"m=audio 1 RTP/AVP 0\nc=IN IP5 x\n", "isn't of the Internet"),
        (SIPP + b"a=x\n" * 1_000, "more than 1000 lines"),
        (b"v" * (MAX_BODY + 1), "bytes"),
    ],
)
def test_a_malformed_description_is_refused(body: bytes, why: str) -> None:
    with pytest.raises(SdpError, match=why):
        parse(body)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (b"m=audio 17462 RTP/AVP 8", b"m=audio 17462 RTP/AVP 18", "no common codec; the peer has G729/8000"),
        (b"m=audio 17462 RTP/AVP 8", b"m=audio 17462 RTP/AVP 77", "no common codec; the peer has none"),
        (b"m=audio 17462", b"m=audio 0", r"refused \(port 0\)"),
        (b"m=audio", b"m=video", "no audio"),
        (b"RTP/AVP", b"RTP/SAVP", "RTP/SAVP only"),
        (b"c=IN IP4 198.51.100.20", b"c=IN IP4 media.example.com", "'media.example.com', not a literal"),
        (b"c=IN IP4 198.51.100.20\r\n", b"", "no connection address"),
        (b"c=IN IP4 198.51.100.20", b"c=IN IP4 224.2.36.42/127", "multicast"),
    ],
)
def test_an_answer_that_cannot_be_used_says_why(old: bytes, new: bytes, why: str) -> None:
    with pytest.raises(NotAcceptable, match=why):
        choose(parse(ASTERISK.replace(old, new)))


@pytest.mark.parametrize(
    ("address", "attribute", "expected"),
    [
        ("198.51.100.20", "sendrecv", Direction.SENDRECV),
        ("198.51.100.20", "sendonly", Direction.RECVONLY),
        ("198.51.100.20", "recvonly", Direction.SENDONLY),
        ("198.51.100.20", "inactive", Direction.INACTIVE),
        ("0.0.0.0", "sendrecv", Direction.RECVONLY),
        ("0.0.0.0", "recvonly", Direction.INACTIVE),
    ],
)
def test_hold_is_mirrored(address: str, attribute: str, expected: Direction) -> None:
    body = ASTERISK.replace(b"c=IN IP4 198.51.100.20", f"c=IN IP4 {address}".encode())
    body = body.replace(b"a=sendrecv", f"a={attribute}".encode())
    answered = answer_to(parse(body), "192.0.2.1", 4000, session_id=7)
    assert answered.chosen == Chosen(PCMA, 101, address, 17462, expected)
    assert answered.chosen.held is (expected not in (Direction.SENDRECV, Direction.SENDONLY))
    assert parse(answered.body).media[0].direction == expected


def test_our_offer_is_this_text() -> None:
    assert offer("192.0.2.1", 20000, session_id=42) == (
        b"v=0\r\no=- 42 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n"
        b"m=audio 20000 RTP/AVP 8 0 9 96 101 102\r\n"
        b"a=rtpmap:8 PCMA/8000\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:9 G722/8000\r\n"
        b"a=rtpmap:96 opus/48000/2\r\na=fmtp:96 useinbandfec=1\r\n"
        b"a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-16\r\n"
        b"a=rtpmap:102 telephone-event/48000\r\na=fmtp:102 0-16\r\n"
        b"a=ptime:20\r\na=sendrecv\r\n"
    )


def test_our_answer_keeps_every_line_in_its_place() -> None:
    answered = answer_to(parse(CISCO), "192.0.2.1", 20000, session_id=42)
    assert answered.chosen == Chosen(G722, 101, "10.10.10.31", 22116, Direction.RECVONLY, 30)
    assert answered.body == (
        b"v=0\r\no=- 42 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n"
        b"m=audio 20000 RTP/AVP 9 101\r\n"
        b"a=rtpmap:9 G722/8000\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\n"
        b"a=ptime:20\r\na=recvonly\r\n"
        b"m=video 0 RTP/AVP 126 97\r\n"
        b"m=application 0 UDP/BFCP *\r\n"
    )


def test_the_running_codec_is_kept_while_it_is_offered() -> None:
    offered = parse(BARESIP)
    assert answer_to(offered, "127.0.0.1", 2, session_id=1).chosen.codec.name == "opus"
    assert answer_to(offered, "127.0.0.1", 2, session_id=1, in_use=PCMA).chosen.codec == PCMA
    assert answer_to(offered, "127.0.0.1", 2, [PCMA, PCMU], session_id=1, in_use=Codec("x", 99)).chosen.codec == PCMU
    with pytest.raises(NotAcceptable, match="no common codec"):
        answer_to(offered, "127.0.0.1", 2, [Codec("x", 99)], session_id=1, in_use=Codec("y", 99))


def test_the_version_goes_up_only_with_the_text() -> None:
    first = answer_to(parse(ASTERISK), "192.0.2.1", 20000, session_id=42).body
    again = answer_to(parse(ASTERISK), "192.0.2.1", 20000, session_id=42, previous=first).body
    held = parse(ASTERISK.replace(b"sendrecv", b"sendonly"))
    then = answer_to(held, "192.0.2.1", 20000, session_id=42, previous=first).body
    back = answer_to(parse(ASTERISK), "192.0.2.1", 20000, session_id=42, previous=then).body
    assert again == first
    assert then == first.replace(b"o=- 42 1", b"o=- 42 2").replace(b"sendrecv", b"recvonly")
    assert back == first.replace(b"o=- 42 1", b"o=- 42 3")
    moved = offer("192.0.2.9", 20000, [PCMA], session_id=42)
    assert with_version(moved, offer("192.0.2.1", 20000, [PCMA], session_id=42, version=9)) == moved.replace(
        b"o=- 42 1", b"o=- 42 10"
    )


def test_our_own_hold_limits_the_answer() -> None:
    answered = answer_to(parse(ASTERISK), "127.0.0.1", 2, session_id=1, direction=Direction.SENDONLY)
    assert answered.chosen.direction == Direction.SENDONLY


@pytest.mark.parametrize(
    ("codec", "dtmf", "offered"),
    [
        (PCMA, 101, (PCMA, TELEPHONE_EVENT)),
        (PCMA, None, (PCMA, TELEPHONE_EVENT)),
        (PCMU, 96, (PCMU, Codec("telephone-event", 96, fmtp="0-16"))),
        (OPUS, None, (OPUS, TELEPHONE_EVENT_48K)),
        (
            Codec("opus", 102, 48000, 2),
            None,
            (Codec("opus", 102, 48000, 2), Codec("telephone-event", 103, 48000, fmtp="0-16")),
        ),
    ],
)
def test_the_other_leg_is_offered_what_this_one_chose(
    codec: Codec, dtmf: int | None, offered: tuple[Codec, ...]
) -> None:
    assert pass_through(Chosen(codec, dtmf, "192.0.2.1", 2, Direction.SENDRECV)) == offered


def test_what_else_may_be_sent_by_an_answer() -> None:
    """What was offered and answered, of the codec's clock, where the number means the same to everybody."""
    here = [PCMA, PCMU, OPUS, Codec("G722", 100), TELEPHONE_EVENT]
    there = [Codec("PCMA", 97), PCMU, OPUS, G722, Codec("GSM", 3), Codec("telephone-event", 98)]
    chosen = choose(parse(offer("192.0.2.1", 2000, there, session_id=1)), here)
    assert (chosen.codec.payload_type, chosen.payload_type_here, chosen.others) == (97, 8, (0,))
    assert (chosen.dtmf_payload_type, chosen.dtmf_payload_type_here) == (98, 101)


def test_an_answer_about_a_running_stream_must_have_its_codec() -> None:
    answer = parse(offer("192.0.2.1", 2000, [PCMU, PCMA], session_id=1))
    assert choose(answer, in_use=PCMA).codec == PCMA
    with pytest.raises(NotAcceptable, match="no common codec"):
        choose(answer, in_use=G722)


def test_opus_takes_the_events_of_its_own_clock() -> None:
    body = offer("192.0.2.1", 2000, [OPUS, TELEPHONE_EVENT, TELEPHONE_EVENT_48K], session_id=1)
    chosen = choose(parse(body))
    assert (chosen.dtmf_payload_type, chosen.dtmf_clock_rate) == (102, 48000)
    assert parse(answer_to(parse(body), "127.0.0.1", 2, session_id=1).body).media[0].events == (TELEPHONE_EVENT_48K,)
    alone = choose(parse(offer("192.0.2.1", 2000, [OPUS, TELEPHONE_EVENT], session_id=1)))
    assert (alone.dtmf_payload_type, alone.dtmf_clock_rate) == (101, 8000)


@given(st.binary())
def test_arbitrary_bytes_raise_nothing_else(body: bytes) -> None:
    try:
        parse(body)
    except SdpError:
        pass


@given(
    st.sampled_from([ASTERISK, BARESIP, CISCO, IPV6, BROWSER]),
    st.integers(0, 700),
    st.integers(0, 20),
    st.binary(max_size=20),
)
def test_damaged_descriptions_raise_nothing_else(body: bytes, at: int, cut: int, put: bytes) -> None:
    damaged = body[:at] + put + body[at + cut :]
    try:
        answered = answer_to(parse(damaged), "192.0.2.1", 20000, session_id=1)
    except SdpError:
        return
    # What we make of it, we can read ourselves, line for line.
    assert len(parse(answered.body).media) == len(parse(damaged).media)


@given(
    address=st.ip_addresses(),
    port=st.integers(1, 65_535),
    codecs=st.lists(st.sampled_from(DEFAULT_CODECS), unique=True, min_size=1),
    session_id=st.integers(0, 2**63),
    version=st.integers(0, 2**63),
    direction=st.sampled_from(Direction),
)
def test_what_is_offered_is_read_back(
    address: object, port: int, codecs: list[Codec], session_id: int, version: int, direction: Direction
) -> None:
    body = offer(str(address), port, codecs, session_id=session_id, version=version, direction=direction)
    assert parse(body) == SessionDescription(
        str(session_id),
        str(version),
        (
            Media(
                kind="audio",
                port=port,
                profile="RTP/AVP",
                formats=tuple(str(codec.payload_type) for codec in codecs),
                host=str(address),
                codecs=tuple(codec for codec in codecs if codec.name != "telephone-event"),
                events=tuple(codec for codec in codecs if codec.name == "telephone-event"),
                direction=direction,
                ptime_ms=20,
            ),
        ),
    )


@pytest.mark.parametrize("line", ["IN IP6 2001:db8::9", "IN IP6 fe80::1%eth0"])
def test_an_address_that_our_socket_can_t_send_to_is_refused(line: str) -> None:
    theirs = parse(
        f"v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc={line}\r\nt=0 0\r\nm=audio 6000 RTP/AVP 8\r\n".encode()
    )
    with pytest.raises(NotAcceptable, match="address"):
        choose(theirs, address="192.0.2.7")
    with pytest.raises(NotAcceptable, match="address"):
        answer_to(theirs, "192.0.2.7", 4000, session_id=1)
