"""
The messages of RFC 5118 (torture tests of IPv6), by section, as the RFC prints them; lines end in CRLF on the wire.

4.5 is two messages: brackets around `received` as RFC 3261's grammar has it not, and as implementations wrote it.
"""

_REST = (
    "To: sip:user@example.com\nFrom: sip:user@example.com;tag=81x2\nVia: SIP/2.0/UDP [2001:db8::9:1];"
    "branch=z9hG4bKas3-111\nCall-ID: SSG9559905523997077@hlau_4100\nMax-Forwards: 70\n"
    'Contact: "Caller" <sip:caller@[2001:db8::1]>\nCSeq: 98176 REGISTER\nContent-Length: 0\n\n'
)


def _via(received: str) -> str:
    return (
        "BYE sip:[2001:db8::10] SIP/2.0\nTo: sip:user@example.com;tag=bd76ya\nFrom: sip:user@example.com;tag=81x2\n"
        f"Via: SIP/2.0/UDP [2001:db8::9:1];received={received};branch=z9hG4bKas3-111\n"
        "Call-ID: SSG9559905523997077@hlau_4100\nMax-Forwards: 70\nCSeq: 321 BYE\nContent-Length: 0\n\n"
    )


_HEAD_4_6 = (
    "INVITE sip:user@[2001:db8::10] SIP/2.0\nTo: sip:user@[2001:db8::10]\nFrom: sip:user@example.com;tag=81x2\n"
    "Via: SIP/2.0/UDP [2001:db8::20];branch=z9hG4bKas3-111\nCall-ID: SSG9559905523997077@hlau_4100\n"
    'Contact: "Caller" <sip:caller@[2001:db8::20]>\nCSeq: 8612 INVITE\nMax-Forwards: 70\n'
    "Content-Type: application/sdp\n"
)
_BODY_4_6 = (
    "v=0\no=assistant 971731711378798081 0 IN IP6 2001:db8::20\ns=Live video feed for today's meeting\n"
    "c=IN IP6 2001:db8::20\nt=3338481189 3370017201\nm=audio 6000 RTP/AVP 2\na=rtpmap:2 G726-32/8000\n"
    "m=video 6024 RTP/AVP 107\na=rtpmap:107 H263-1998/90000\n"
)
_BODY_4_8 = (
    "v=0\no=bob 280744730 28977631 IN IP4 host.example.com\ns=\nt=0 0\nm=audio 22334 RTP/AVP 0\n"
    "c=IN IP4 192.0.2.1\nm=video 6024 RTP/AVP 107\nc=IN IP6 2001:db8::1\na=rtpmap:107 H263-1998/90000\n"
)
_BODY_4_9 = (
    "v=0\no=assistant 971731711378798081 0 IN IP6 ::ffff:192.0.2.2\ns=Call me soon, please!\n"
    "c=IN IP6 ::ffff:192.0.2.2\nt=3338481189 3370017201\nm=audio 6000 RTP/AVP 2\na=rtpmap:2 G726-32/8000\n"
    "m=video 6024 RTP/AVP 107\na=rtpmap:107 H263-1998/90000\n"
)

MESSAGES = {
    "4.1": "REGISTER sip:[2001:db8::10] SIP/2.0\n" + _REST,
    "4.2": "REGISTER sip:2001:db8::10 SIP/2.0\n" + _REST,
    "4.3": "REGISTER sip:[2001:db8::10:5070] SIP/2.0\n" + _REST,
    "4.4": "REGISTER sip:[2001:db8::10]:5070 SIP/2.0\n" + _REST,
    "4.5 bare": _via("2001:db8::9:255"),
    "4.5 brackets": _via("[2001:db8::9:255]"),
    "4.6": _HEAD_4_6 + "\n" + _BODY_4_6,
    "4.7": (
        "BYE sip:user@host.example.net SIP/2.0\nVia: SIP/2.0/UDP [2001:db8::9:1]:6050;branch=z9hG4bKas3-111\n"
        "Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKjhja8781hjuaij65144\n"
        "Via: SIP/2.0/TCP [2001:db8::9:255];branch=z9hG4bK451jj;received=192.0.2.200\nCall-ID: 997077@lau_4100\n"
        "Max-Forwards: 70\nCSeq: 89187 BYE\nTo: sip:user@example.net;tag=9817--94\n"
        "From: sip:user@example.com;tag=81x2\nContent-Length: 0\n\n"
    ),
    "4.8": (
        "INVITE sip:user@[2001:db8::10] SIP/2.0\nTo: sip:user@[2001:db8::10]\n"
        "From: sip:user@example.com;tag=81x2\nVia: SIP/2.0/UDP [2001:db8::9:1];branch=z9hG4bKas3-111\n"
        'Call-ID: SSG9559905523997077@hlau_4100\nContact: "Caller" <sip:caller@[2001:db8::9:1]>\n'
        "Max-Forwards: 70\nCSeq: 8912 INVITE\nContent-Type: application/sdp\n\n" + _BODY_4_8
    ),
    "4.9": (
        "INVITE sip:user@example.com SIP/2.0\nTo: sip:user@example.com\nFrom: sip:user@east.example.com;tag=5491\n"
        "Via: SIP/2.0/UDP [::ffff:192.0.2.10]:19823;branch=z9hG4bKbh19\n"
        "Via: SIP/2.0/UDP [::ffff:192.0.2.2];branch=z9hG4bKas3-111\nCall-ID: SSG9559905523997077@hlau_4100\n"
        'Contact: "T. desk phone" <sip:ted@[::ffff:192.0.2.2]>\nCSeq: 612 INVITE\nMax-Forwards: 70\n'
        "Content-Type: application/sdp\n\n" + _BODY_4_9
    ),
    "4.10": (
        "OPTIONS sip:user@[2001:db8:::192.0.2.1] SIP/2.0\nTo: sip:user@[2001:db8:::192.0.2.1]\n"
        "From: sip:user@example.com;tag=810x2\nVia: SIP/2.0/UDP lab1.east.example.com;branch=z9hG4bKas3-111\n"
        "Call-ID: G9559905523997077@hlau_4100\nCSeq: 689 OPTIONS\nMax-Forwards: 70\n"
        'Contact: "Caller" <sip:caller@[2001:db8:::192.0.2.1]>\nContent-Length: 0\n\n'
    ),
}


def data(section: str) -> bytes:
    """The message on the wire."""
    return MESSAGES[section].replace("\n", "\r\n").encode()
