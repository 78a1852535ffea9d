"""
One function per parser, fed with any bytes: it raises nothing but what the parser's contract names, and what it
gives holds what the contract promises. Each comes with valid inputs to begin from.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from dosvoces.media import rtcp, rtp
from dosvoces.sip import digest, sdp, stun
from dosvoces.sip.api import Hop
from dosvoces.sip.dialog import Dialog
from dosvoces.sip.digest import Credentials, DigestError
from dosvoces.sip.message import MessageError, Request, address_uri, clean, parse, split_values, tag
from dosvoces.sip.registration import granted_s
from dosvoces.sip.reply import ReplyHead, refusal, server_key
from dosvoces.sip.request import seen_address
from dosvoces.sip.sdp import SdpError
from dosvoces.sip.security import Security
from dosvoces.sip.session_timer import DEFAULT_TERMS, agreed_by_answer, agreed_by_request
from dosvoces.sip.stream import LINE_BREAK, Framer
from dosvoces.sip.uri import destination, host_port, is_loose, is_request_uri, without_headers
from tests.rfc4475 import MESSAGES
from tests.sip_stage import CONTACT, Stage
from tests.test_sip_hostile import CHALLENGE, SDP, Theatre

HOP = Hop("192.0.2.10", 5060)


@dataclass(frozen=True, slots=True)
class Target:
    """A parser under fire."""

    name: str
    fuzz_one: Callable[[bytes], None]
    seeds: tuple[bytes, ...]
    files: tuple[str, ...]
    """The modules whose coverage is told, below `dosvoces`."""
    text: bool = True
    """Whether the format is lines of text, for choosing how to change it."""


def message(data: bytes) -> None:
    """A SIP message, and all that is read of it before anybody is asked what to do."""
    try:
        read = parse(data)
    except MessageError:
        return
    dialog = Dialog(
        call_id="x", local="<sip:a@b>;tag=1", local_tag="1", remote="<sip:c@d>", remote_target="sip:c@d", fallback=HOP
    )
    made = dialog.established_by(read)
    uri, routes = made.route()
    assert "\r" not in uri + "".join(routes)
    assert "\n" not in uri + "".join(routes)
    assert isinstance(made.destination, Hop)
    assert made.facts().remote.isprintable()
    granted_s(read, CONTACT, 3600) if not isinstance(read, Request) else None
    seen_address(read)
    for name in ("contact", "record-route", "via"):
        for value in split_values(read.values(name)):
            _uri(address_uri(value))
            tag(value)
    if isinstance(read, Request):
        server_key(read)
        refusal(read)
        agreed_by_request(read, DEFAULT_TERMS, None)
        try:
            parse(ReplyHead(read, HOP, "ours").compose(200, lines=("Contact: <sip:us@192.0.2.1>",)))
        except MessageError as error:
            # The answer repeats the peer's own lines with a little added: only the limits may be passed.
            if "more than" not in str(error):
                raise
    else:
        agreed_by_answer(read, DEFAULT_TERMS)


def _uri(uri: str) -> None:
    hop = destination(uri, HOP)
    assert hop is None or 0 < hop.port < 65_536
    host_port(uri)
    is_loose(uri)
    assert not is_request_uri(uri) or " " not in without_headers(uri)
    clean(uri)


def agent(data: bytes) -> None:
    """
    A user agent amid calls: `@TAG@`, `@TAG2@` and `@TAG3@` in `data` stand for our tags in the call that is up, the one
    that we ring and the one that rings here; `@BRANCH@` for the second's, `@CALL@` for the Call-ID of all.
    """
    stage = Stage(answers_calls=True)
    call, _invite = stage.talking()
    ringing = stage.invite(Credentials("user", "secret"))
    second = stage.request()
    stage.ask("INVITE", local_tag="", branch="z9hG4bKringing", body=SDP)
    incoming = stage.incoming[0]
    if len(data) % 2:
        incoming.answer(SDP)
    branch = second.header("via").rpartition("=")[2].encode()
    for piece in data.split(b"\x00\x00")[:4]:
        for found, meant in (
            (b"@TAG@", call.local_tag.encode()),
            (b"@TAG2@", ringing.local_tag.encode()),
            (b"@TAG3@", incoming.local_tag.encode()),
            (b"@BRANCH@", branch),
            (b"@CALL@", b"leg-a"),
        ):
            piece = piece.replace(found, meant)
        stage.receive(piece)
    stage.wait(100)
    stage.ua.hang_up_all()
    stage.wait(400)
    assert (stage.ua.open_calls, stage.ua.transactions, stage.ua.idle) == (0, 0, True)


def description(data: bytes) -> None:
    """A session description, chosen from and answered under each policy of encryption."""
    try:
        read = sdp.parse(data)
    except SdpError:
        return
    crypto = sdp.new_crypto(bytes)
    for security in Security:
        try:
            sdp.choose(read, security=security, crypto=crypto)
        except SdpError:
            pass
        try:
            answer = sdp.answer_to(read, "192.0.2.1", 30000, session_id=1, security=security, crypto=crypto)
        except SdpError:
            continue
        # RFC 3264 §6: as many m= lines as were offered; and we can read what we write.
        assert len(sdp.parse(answer.body).media) == len(read.media)
        sdp.pass_through(answer.chosen)


def challenge(data: bytes) -> None:
    """A WWW-Authenticate value: read, answered, and the answer is right."""
    text = data.decode("utf-8", "surrogateescape")
    credentials = Credentials("user", "secret")
    digest.check(text, credentials, method="INVITE", realm="r", nonce="n")
    try:
        found = digest.parse_challenges([text])
        answer = digest.answer(found, credentials, method="INVITE", uri="sip:a@b", cnonce="c")
    except DigestError:
        return
    assert "\r" not in answer
    assert "\n" not in answer
    assert any(digest.check(answer, credentials, method="INVITE", realm=each.realm, nonce=each.nonce) for each in found)


def rtp_packet(data: bytes) -> None:
    """An RTP packet with what may be an event in it; it is written again as it was, padding apart."""
    try:
        packet = rtp.parse(data)
    except rtp.RtpError:
        return
    assert rtp.parse(rtp.build(packet)) == packet
    assert data[0] & 0x20 or rtp.build(packet) == data
    try:
        rtp.parse_event(packet.payload)
    except rtp.RtpError:
        pass


def rtcp_packet(data: bytes) -> None:
    """A compound RTCP packet."""
    rtcp.is_report(data)
    try:
        packets = rtcp.parse(data)
    except rtcp.RtcpError:
        return
    assert packets


def stun_answer(data: bytes) -> None:
    """A binding response."""
    if stun.transaction_of(data) is None:
        return
    try:
        host, port = stun.mapped_address(data)
    except stun.StunError:
        return
    assert host
    assert 0 < port < 65_536


def stream(data: bytes) -> None:
    """A stream gives the same messages in whatever pieces it comes, and each is whole for the parser too."""
    whole = Framer()
    found = whole.feed(data)
    size = data[0] % 17 + 1 if data else 1
    pieces = Framer()
    found_in_pieces = [each for at in range(0, len(data), size) for each in pieces.feed(data[at : at + size])]
    assert (found_in_pieces, pieces.fault) == (found, whole.fault) or whole.fault != pieces.fault
    assert found_in_pieces[: len(found)] == found[: len(found_in_pieces)]
    for each in found:
        if each != LINE_BREAK:
            try:
                read = parse(each)
            except MessageError:
                continue
            # What the framer took for the body is what the parser takes: nothing hides in between.
            assert each.endswith(b"\r\n\r\n" + read.body)


# -- what to begin from ----------------------------------------------------------------------------------------------


def _messages() -> tuple[bytes, ...]:
    theatre = Theatre(random.Random(0))
    theatre.open()
    return (*theatre.valid, *(each.data for each in MESSAGES))


def _to_the_agent() -> tuple[bytes, ...]:
    theatre = Theatre(random.Random(0))
    theatre.open()
    secrets = theatre.secrets()
    seeds = []
    for each in theatre.valid:
        for secret in secrets:
            each = each.replace(b"z9hG4bK" + secret, b"@BRANCH@").replace(secret, b"@TAG@")
        head, colon, rest = each.partition(b"Call-ID: ")
        seeds.append(head + colon + b"@CALL@" + rest[rest.index(b"\r\n") :])
        seeds.append(seeds[-1].replace(b"@TAG@", b"@TAG2@"))
        seeds.append(seeds[-2].replace(b"@TAG@", b"@TAG3@").replace(b"CSeq: 3 ACK", b"CSeq: 1 ACK"))
    return tuple(seeds)


def _descriptions() -> list[bytes]:
    return [parse(each.data).body for each in MESSAGES if each.readable]


_RTCP_REPORT = (
    bytes.fromhex("81c8000c") + bytes(range(48)) + bytes.fromhex("81ca0003") + b"\x00\x00\x00\x01\x01\x03abc\x00"
)
_STUN = bytes.fromhex("0101000c2112a442") + b"transaction!" + bytes.fromhex("002000080001a147e112a643")
_STUN6 = bytes.fromhex("010100182112a442") + b"transaction!" + bytes.fromhex("002000140002a147") + bytes(range(16))
_STUN_ERROR = bytes.fromhex("0111000c2112a442") + b"transaction!" + bytes.fromhex("0009000800000401") + b"nope"
_CRYPTO = b"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:" + b"QUJD" * 10 + b"|2^31\r\n"

TARGETS = {
    target.name: target
    for target in (
        Target("message", message, _messages(), ("sip/message.py", "sip/reply.py", "sip/dialog.py", "sip/uri.py")),
        Target("agent", agent, _to_the_agent(), ("sip/ua.py", "sip/call.py", "sip/outgoing.py", "sip/incoming.py")),
        Target(
            "sdp",
            description,
            (SDP, SDP.replace(b"RTP/AVP", b"RTP/SAVP") + _CRYPTO, SDP + _CRYPTO, *_descriptions()),
            ("sip/description.py", "sip/sdp.py", "sip/security.py"),
        ),
        Target(
            "digest",
            challenge,
            (
                CHALLENGE.encode(),
                b'Basic realm="x", Digest realm="r", nonce="n", qop="auth,auth-int", algorithm=MD5-sess, stale=TRUE',
                b'Digest username="user", realm="r", nonce="n", uri="sip:a@b", response="0", qop=auth, nc=00000001',
            ),
            ("sip/digest.py",),
        ),
        Target(
            "rtp",
            rtp_packet,
            (
                rtp.build(rtp.Packet(8, 1, 160, 7, b"x" * 160)),
                rtp.build(rtp.Packet(101, 2, 160, 7, b"\x01\x8a\x03\x20", True, (1, 2), (0xBEDE, b"1234"))),
                b"\xb0\x08" + bytes(10) + b"\x00\x00\x00\x01abcdpay\x00\x00\x03",
            ),
            ("media/rtp.py",),
            text=False,
        ),
        Target(
            "rtcp",
            rtcp_packet,
            (_RTCP_REPORT, _RTCP_REPORT[:52], b"\x80\xc9\x00\x01abcd"),
            ("media/rtcp.py",),
            text=False,
        ),
        Target("stun", stun_answer, (_STUN, _STUN6, _STUN_ERROR), ("sip/stun.py",), text=False),
        Target(
            "stream",
            stream,
            (*_messages()[:60], b"\r\n\r\n".join(_messages()[:3]), b"\r\n\r\n\r\n" * 3, b"".join(_messages()[4:8])),
            ("sip/stream.py",),
        ),
    )
}
