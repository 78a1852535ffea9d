"""A capture is bounded, holds no secret, and reads as a ladder and as a file for Wireshark."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dosvoces.capture import MAX_BYTES, MAX_MESSAGES, Capture, Captured, NotACapture, Ring, pack, redacted, unpack
from dosvoces.capture.ladder import ladder, side_of
from dosvoces.capture.pcap import pcap
from dosvoces.model import Side

HERE, TRUNK = ("127.0.0.1", 5060), ("127.0.0.1", 5070)
LEG_A = "01m83ajpb70000000000000dk0-a"
LEG_B = "01m83ajpb70000000000000dk0-b"


def message(
    at_ms: float, first: str, *, ours: bool, leg: str = LEG_A, method: str = "INVITE", more: str = ""
) -> Captured:
    text = f"{first}\r\nVia: SIP/2.0/UDP 127.0.0.1\r\nCall-ID: {leg}-0a1b\r\nCSeq: 1 {method}\r\n{more}\r\n"
    return Captured(1_790_000_000_000_000 + round(at_ms * 1000), ours, "udp", HERE, TRUNK, text.encode())


CALL = Capture(
    (
        message(
            0, "INVITE sip:+34600000011@127.0.0.1:5070 SIP/2.0", ours=True, more="Content-Type: application/sdp\r\n"
        ),
        message(12, "SIP/2.0 180 Ringing", ours=False),
        message(900, "SIP/2.0 200 OK", ours=False, more="c: application/sdp\r\n"),
        message(900.4, "ACK sip:phone@127.0.0.1:5070 SIP/2.0", ours=True, method="ACK"),
        message(901, "INVITE sip:+34960000022@127.0.0.1:5070 SIP/2.0", ours=True, leg=LEG_B),
        message(1401, "INVITE sip:+34960000022@127.0.0.1:5070 SIP/2.0", ours=True, leg=LEG_B),
        message(1410, "SIP/2.0 486 Busy Here", ours=False, leg=LEG_B),
        message(1420, "BYE sip:phone@127.0.0.1:5070 SIP/2.0", ours=True, method="BYE"),
        message(1430, "SIP/2.0 200 OK", ours=False, method="BYE"),
    )
)


def test_a_ladder_shows_both_legs() -> None:
    """A message that was sent again is counted where it was sent first."""
    expected = """\
           A                             Dosvoces                              B
           127.0.0.1:5070 udp                                 127.0.0.1:5070 udp
    0.000  |<-------- INVITE (SDP) -------|       |                              |
    0.012  |-------- 180 Ringing -------->|       |                              |
    0.900  |-------- 200 OK (SDP) ------->|       |                              |
    0.900  |<------------ ACK ------------|       |                              |
    0.901  |                              |       |----- INVITE ×2 to 1.4 s ---->|
    1.410  |                              |       |<------- 486 Busy Here -------|
    1.420  |<------------ BYE ------------|       |                              |
    1.430  |-------- 200 OK (BYE) ------->|       |                              |"""
    assert expected == ladder(CALL)


SECOND: tuple[str, int] = ("2001:db8::2", 5061)
DIALS_TWICE = Capture(
    (
        message(0, "INVITE sip:+34960000022@127.0.0.1:5070 SIP/2.0", ours=True, leg=LEG_B),
        message(500, "INVITE sip:+34960000022@127.0.0.1:5070 SIP/2.0", ours=True, leg=LEG_B),
        message(1500, "INVITE sip:+34960000022@127.0.0.1:5070 SIP/2.0", ours=True, leg=LEG_B),
        message(
            6000,
            "INVITE sip:+34960000022@second SIP/2.0",
            ours=True,
            leg=LEG_B,
            more="Content-Type: application/sdp\r\n",
        )._replace(peer=SECOND, transport="tls"),
        message(6010, "SIP/2.0 486 Busy Here", ours=False, leg=LEG_B)._replace(peer=SECOND, transport="tls"),
        message(9000, "BYE sip:x SIP/2.0", ours=True, method="BYE")._replace(peer=("203.0.113.9", 5060)),
    )
)


def test_a_ladder_tells_where_a_dial_went_that_moved_on() -> None:
    expected = """\
           A                             Dosvoces                              B
           203.0.113.9:5060 udp                               127.0.0.1:5070 udp
    0.000  |                              |       |----- INVITE ×3 to 1.5 s ---->|
           |                              |       |    now [2001:db8::2]:5061 tls|
    6.000  |                              |       |-------- INVITE (SDP) ------->|
    6.010  |                              |       |<------- 486 Busy Here -------|
    9.000  |<------------ BYE ------------|       |                              |"""
    assert expected == ladder(DIALS_TWICE)


def test_an_empty_capture_says_so() -> None:
    assert "No SIP messages were captured." == ladder(Capture(()))


def test_a_message_finds_its_leg_by_the_call_id() -> None:
    assert (Side.A, Side.B, None) == (
        side_of(CALL.messages[0].data),
        side_of(CALL.messages[4].data),
        side_of(b"OPTIONS sip:x SIP/2.0\r\ni: 12345\r\n\r\n"),
    )


def test_the_oldest_go_when_the_ring_is_full() -> None:
    ring = Ring()
    for number in range(MAX_MESSAGES + 5):
        ring.add(message(number, f"OPTIONS sip:{number} SIP/2.0", ours=True))
    assert (MAX_MESSAGES, 5) == (len(ring.capture.messages), ring.capture.dropped)
    assert ring.capture.messages[0].data.startswith(b"OPTIONS sip:5 ")


def test_a_ring_is_bounded_in_bytes_too() -> None:
    ring = Ring()
    for number in range(10):
        ring.add(Captured(number, True, "udp", HERE, TRUNK, b"x" * (MAX_BYTES // 4)))
    assert sum(len(kept.data) for kept in ring.capture.messages) <= MAX_BYTES


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (
            'Authorization: Digest username="u", response="6629fae49393a05397450978507c4ef1", cnonce="0a4f113b"',
            "6629fae4",
        ),
        ('Proxy-Authorization: Digest response = "abc", cnonce="top"', "top"),
        ('Authentication-Info: qop=auth, rspauth="6629fae49393a05397450978507c4ef1", nc=00000001', "6629fae4"),
        ('Proxy-Authentication-Info: rspauth="6629fae4", cnonce="0a4f113b"', "0a4f113b"),
        ("a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:d0RmdmcmVCspeEc3QGZiNWpVLFJhQX1cfHAwJSoj|2^20", "d0Rmdm"),
    ],
)
def test_secrets_are_crossed_out_and_lengths_stay(text: str, secret: str) -> None:
    clean = redacted(text.encode())
    assert secret.encode() not in clean
    assert len(text) == len(clean)


def test_a_challenge_and_ordinary_text_stay_as_they_are() -> None:
    data = b"SIP/2.0 200 OK\r\nSubject: response=yes\r\n\r\n"
    assert data == redacted(data)


@given(
    st.lists(
        st.builds(
            Captured,
            at_us=st.integers(0, 2**32 * 1_000_000 - 1),
            ours=st.booleans(),
            transport=st.sampled_from(("udp", "tcp", "tls")),
            here=st.just(HERE),
            peer=st.tuples(st.sampled_from(("192.0.2.1", "2001:db8::1")), st.integers(1, 65535)),
            size=st.integers(0, 1500),
            data=st.binary(max_size=200).filter(lambda data: redacted(data) == data),
        ),
        max_size=5,
    )
)
def test_what_is_packed_comes_back_and_can_be_drawn(messages: list[Captured]) -> None:
    capture = Capture(tuple(message._replace(size=0) for message in messages), 3, tuple(messages))
    assert capture == unpack(pack(capture))
    assert ladder(capture)
    assert pcap(capture)


@given(st.binary(max_size=100))
def test_garbage_is_no_capture(data: bytes) -> None:
    with pytest.raises(NotACapture):
        unpack(data)


def test_wireshark_reads_the_file(tmp_path: Path) -> None:
    tshark = shutil.which("tshark")
    assert tshark is not None, "tshark is missing: requirements/debian.txt names its package"
    file = tmp_path / "call.pcap"
    file.write_bytes(pcap(CALL))
    command = [
        tshark,
        "-r",
        str(file),
        "-d",
        "udp.port==5070,sip",
        "-T",
        "json",
        "-e",
        "sip.Call-ID",
        "-e",
        "sip.CSeq.method",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    packets = [packet["_source"]["layers"] for packet in json.loads(done.stdout)]
    methods = [packet["sip.CSeq.method"] for packet in packets]
    assert [["INVITE"], ["INVITE"], ["INVITE"], ["ACK"], *[["INVITE"]] * 3, ["BYE"], ["BYE"]] == methods
    assert {f"{LEG_A}-0a1b", f"{LEG_B}-0a1b"} == {packet["sip.Call-ID"][0] for packet in packets}


def test_wireshark_sees_where_a_dial_went_that_moved_on(tmp_path: Path) -> None:
    second = ("198.51.100.9", 5080)
    moved = Capture(tuple(m._replace(peer=second) if m.peer == SECOND else m for m in DIALS_TWICE.messages))
    file = tmp_path / "call.pcap"
    file.write_bytes(pcap(moved))
    fields = [word for name in ("ip.src", "udp.srcport", "ip.dst", "udp.dstport") for word in ("-e", name)]
    command = ["tshark", "-r", str(file), "-T", "fields", *fields]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    here = f"{HERE[0]}\t{HERE[1]}"
    first, other, border = f"{TRUNK[0]}\t{TRUNK[1]}", f"{second[0]}\t{second[1]}", "203.0.113.9\t5060"
    sent = [f"{here}\t{first}"] * 3 + [f"{here}\t{other}"]
    assert [*sent, f"{other}\t{here}", f"{here}\t{border}"] == done.stdout.splitlines()


def test_wireshark_reads_the_heads_of_rtp_packets(tmp_path: Path) -> None:
    heads = tuple(
        Captured(CALL.messages[3].at_us + 20_000 * n, bool(n % 2), "rtp", HERE, ("192.0.2.7", 4000), head, 172)
        for n, head in enumerate(bytes.fromhex(f"8008{number:04x}0000000000000001") for number in (7, 8, 9))
    )
    file = tmp_path / "call.pcap"
    file.write_bytes(pcap(Capture(CALL.messages, packets=heads)))
    fields = ["-e", "rtp.seq", "-e", "udp.length"]
    command = ["tshark", "-r", str(file), "-d", "udp.port==4000,rtp", "-Y", "rtp", "-T", "fields", *fields]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert ["7\t180", "8\t180", "9\t180"] == done.stdout.splitlines()
    assert ladder(Capture(CALL.messages, packets=heads)) == ladder(CALL)
