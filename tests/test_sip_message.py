"""The parser: what is accepted, what is refused, and agreement with sipmessage on what both read."""

import pytest
import sipmessage
from hypothesis import given, settings
from hypothesis import strategies as st

from dosvoces.sip.message import (
    MAX_HEADERS,
    MAX_LINE,
    MAX_MESSAGE,
    MessageError,
    Request,
    Response,
    address_uri,
    branch,
    clean,
    compose,
    parse,
    quoted_branch,
    split_values,
    tag,
)

HEADERS = (
    b"Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:c@d>\r\n"
    b"Call-ID: x\r\nCSeq: 1 INVITE\r\n"
)
INVITE = b"INVITE sip:c@d SIP/2.0\r\n" + HEADERS


def test_request() -> None:
    message = parse(INVITE + b"Content-Type: Application/SDP;x=y\r\nContent-Length: 4\r\n\r\nbodymore")
    assert isinstance(message, Request)
    assert (message.method, message.uri, message.cseq, message.cseq_method, message.body, message.content_type) == (
        "INVITE",
        "sip:c@d",
        1,
        "INVITE",
        b"body",
        "application/sdp",
    )
    assert (message.header("subject"), message.values("subject"), message.values("call-id")) == ("", [], ["x"])


@pytest.mark.parametrize(
    ("line", "code", "phrase"),
    [
        ("SIP/2.0 200 OK", 200, "OK"),
        ("SIP/2.0 183 Session Progress", 183, "Session Progress"),
        ("SIP/2.0 486 ", 486, ""),
        ("SIP/2.0 603", 603, ""),
        ("sip/2.0 299 Ünknown", 299, "Ünknown"),
    ],
)
def test_status_lines(line: str, code: int, phrase: str) -> None:
    message = parse(f"\r\n\r\n{line}\r\n".encode() + HEADERS + b"\r\n")
    assert isinstance(message, Response)
    assert (message.code, message.phrase) == (code, phrase)


def test_compact_forms_folding_case_and_spaces() -> None:
    """Of RFC 4475 §3.1.1.1."""
    message = parse(
        b"INVITE sip:vivekg@chair-dnrc.example.com;unknownparam SIP/2.0\r\n"
        b"TO :\r\n sip:vivekg@chair-dnrc.example.com ;   tag    = 1918181833n\r\n"
        b'from   : "J Rosenberg \\\\\\""       <sip:jdrosen@example.com>\r\n  ;\r\n  tag = 98asjd8\r\n'
        b"MaX-fOrWaRdS: 0068\r\nCall-ID: wsinv.ndaksdj@192.0.2.1\r\nCSeq: 0009\r\n  INVITE\r\n"
        b"v:  SIP  / 2.0  / TCP     spindle.example.com   ;\r\n  branch  =   z9hG4bK9ikj8  ,\r\n"
        b" SIP  /    2.0   / UDP  192.168.255.111   ; branch=\r\n z9hG4bK30239\r\ns :\r\n\r\n"
    )
    assert (tag(message.header("to")), tag(message.header("from")), message.cseq, branch(message)) == (
        "1918181833n",
        "98asjd8",
        9,
        "z9hG4bK9ikj8",
    )
    assert message.header("subject") == ""


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\r\n\r\n",
        INVITE,  # no end of headers
        b"INVITE sip:c@d SIP/3.0\r\n" + HEADERS + b"\r\n",
        b"INVITE  sip:c@d SIP/2.0\r\n" + HEADERS + b"\r\n",
        b"INVITE sip:c@d\r\n" + HEADERS + b"\r\n",
        b"IN(VITE sip:c@d SIP/2.0\r\n" + HEADERS + b"\r\n",
        b"SIP/2.0 20000 OK\r\n" + HEADERS + b"\r\n",
        b"SIP/2.0 700 OK\r\n" + HEADERS + b"\r\n",
        b"SIP/2.0 099 OK\r\n" + HEADERS + b"\r\n",
        b"SIP/7.0 200 OK\r\n" + HEADERS + b"\r\n",
        b"BYE sip:c@d SIP/2.0\r\n" + HEADERS + b"\r\n",  # the CSeq says INVITE
        INVITE + b"no colon\r\n\r\n",
        INVITE + b": no name\r\n\r\n",
        INVITE + b"X: a\nY: b\r\n\r\n",
        INVITE + b"X: a\rY: b\r\n\r\n",
        INVITE + b"X: " + b"a" * MAX_LINE + b"\r\n\r\n",
        INVITE + b"X: a\r\n" * MAX_HEADERS + b"\r\n",
        INVITE + b"f: <sip:e@f>\r\n\r\n",  # a second From
        INVITE + b"l: 5\r\n\r\nbody",
        INVITE + b"l: -1\r\n\r\nbody",
        INVITE + b"l: \xc2\xb2\r\n\r\nbody",
        INVITE + b"l: 9999999999\r\n\r\nbody",
        INVITE + b"l: 4\r\nContent-Length: 0\r\n\r\nbody",
        INVITE.replace(b"1 INVITE", b"2147483648 INVITE") + b"\r\n",
        INVITE.replace(b"1 INVITE", b"INVITE") + b"\r\n",
        INVITE.replace(b"1 INVITE", b"\xd9\xa1 INVITE") + b"\r\n",
        INVITE.replace(b"Call-ID: x", b"Call-ID: ") + b"\r\n",
        INVITE.replace(b"To: <sip:c@d>\r\n", b"") + b"\r\n",
        INVITE + b"\r\n" + b"x" * MAX_MESSAGE,
    ],
)
def test_refused(data: bytes) -> None:
    with pytest.raises(MessageError):
        parse(data)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.integers(0, len(INVITE)))
def test_never_raises_anything_else(garbage: bytes, at: int) -> None:
    for data in (garbage, INVITE[:at] + garbage + INVITE[at:] + b"\r\n"):
        try:
            parse(data)
        except MessageError:
            pass


SAMPLES = [
    INVITE + b"m: <sip:a@192.0.2.1>\r\nRecord-Route: <sip:p;lr>, <sip:q;lr>\r\nRecord-Route: <sip:r>\r\n\r\nbody",
    b"SIP/2.0 180 Ringing\r\n" + HEADERS + b"X-Other: 1\r\nx-other: 2\r\n\r\n",
    b"BYE sip:a@192.0.2.1 SIP/2.0\r\n" + HEADERS.replace(b"INVITE", b"BYE") + b"Reason: Q.850;cause=16\r\n\r\n",
]


@pytest.mark.parametrize("data", SAMPLES)
def test_agrees_with_sipmessage(data: bytes) -> None:
    ours, theirs = parse(data), sipmessage.Message.parse(data)
    assert ours.headers == {name.lower(): theirs.headers.getlist(name) for name in theirs.headers.keys()}
    assert ours.body == theirs.body
    if isinstance(theirs, sipmessage.Request):
        assert isinstance(ours, Request)
        assert (ours.method, ours.uri) == (theirs.method, str(theirs.uri))
    else:
        assert isinstance(ours, Response)
        assert (ours.code, ours.phrase) == (theirs.code, theirs.phrase)


def test_values_are_split_outside_quotes_and_brackets() -> None:
    assert split_values(['"a, \\", b" <sip:x,y@h>, <sip:z>;q=1', "", " sip:w ,, <sip:v>>, u"]) == [
        '"a, \\", b" <sip:x,y@h>',
        "<sip:z>;q=1",
        "sip:w",
        "<sip:v>>",
        "u",
    ]


@pytest.mark.parametrize(
    ("value", "uri"),
    [
        ('"A <b>" <sip:a@b;lr>;x=1', "sip:a@b;lr"),
        ("sip:a@b;x=1", "sip:a@b"),
        ("<sip:a@b", "sip:a@b"),
        ("", ""),
    ],
)
def test_address_uri(value: str, uri: str) -> None:
    assert address_uri(value) == uri


def test_tags_and_branches() -> None:
    assert tag('"x;tag=no" <sip:a;tag=no>;p=1; TAG = yes') == "yes"
    assert tag("<sip:a;tag=no>") == ""
    assert branch(parse(INVITE.replace(b"branch=z9hG4bK1", b"rport") + b"\r\n")) == ""
    assert (quoted_branch(INVITE[:80]), quoted_branch(b"\xff")) == ("z9hG4bK1", "")


def test_compose() -> None:
    data = compose("BYE sip:a SIP/2.0", [("To", "<sip:\udce9>")], b"body")
    assert data == b"BYE sip:a SIP/2.0\r\nTo: <sip:\xe9>\r\nContent-Length: 4\r\n\r\nbody"
    with pytest.raises(MessageError):
        compose("BYE sip:a SIP/2.0", [("To", "x\r\nEvil: 1")])


def test_clean() -> None:
    assert (clean("plain ñ"), clean("a\x00b\r\n\udce9")) == ("plain ñ", "a�b���")
