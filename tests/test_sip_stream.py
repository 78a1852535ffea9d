"""Messages out of a stream, in whatever pieces it comes; pings between them."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dosvoces.sip.message import MAX_MESSAGE, MessageError, parse
from dosvoces.sip.stream import LINE_BREAK, MAX_HEAD, Framer, Pulse


def message(body: bytes = b"", length: str | None = None, extra: str = "", name: str = "Content-Length") -> bytes:
    length = str(len(body)) if length is None else length
    head = f"OPTIONS sip:a@b SIP/2.0\r\nVia: SIP/2.0/TCP a\r\n{extra}{name}: {length}\r\n\r\n"
    return head.encode() + body


PLAIN = message()
WITH_BODY = message(b"v=0\r\n\r\nSIP/2.0 200 OK\r\n\r\n")


def framed(data: bytes, cuts: list[int] | None = None) -> tuple[list[bytes], str]:
    framer, found = Framer(), []
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts or ())})
    for begin, end in itertools.pairwise(edges):
        found += framer.feed(data[begin:end])
    return found, framer.fault


def test_two_messages_in_one_piece() -> None:
    assert framed(PLAIN + WITH_BODY) == ([PLAIN, WITH_BODY], "")


def test_one_byte_at_a_time() -> None:
    data = LINE_BREAK * 3 + WITH_BODY + PLAIN
    framer = Framer()
    assert [each for byte in data for each in framer.feed(bytes([byte]))] == [*[LINE_BREAK] * 3, WITH_BODY, PLAIN]
    assert not framer.waiting


def test_half_a_message_waits() -> None:
    framer = Framer()
    assert (framer.feed(WITH_BODY[:-1]), framer.waiting) == ([], True)
    assert (framer.feed(WITH_BODY[-1:]), framer.waiting) == ([WITH_BODY], False)


@pytest.mark.parametrize("name", ["Content-Length", "l", "CONTENT-LENGTH ", "L\t"])
@pytest.mark.parametrize("length", ["3", " 3 ", "\r\n 3"])
def test_the_length_in_all_spellings(name: str, length: str) -> None:
    data = message(b"abc", length, name=name)
    assert framed(data + PLAIN) == ([data, PLAIN], "")


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"OPTIONS sip:a@b SIP/2.0\r\nVia: SIP/2.0/TCP a\r\n\r\n", "no Content-Length"),
        (message(length=""), "no Content-Length"),
        (message(length="-1"), "no Content-Length"),
        (message(length="1e3"), "no Content-Length"),
        (message(length="9" * 10), "no Content-Length"),
        (message(extra="Content-Length: 5\r\n"), "two different Content-Lengths"),
        (message(extra="l: x\r\n"), "no Content-Length"),
        (message(length="999999999"), f"a message of {len(message(length='999999999')) + 999999999} bytes, "),
        (b"\x16\x03\x01\x02\x00\x01\x00", "not SIP"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "not SIP"),
        (b"INVITE sip:a@b SIP/3.0\r\n", "not SIP"),
        (b"A" * 9_000, "not SIP"),
        (b"\n\n", "a bare CR or LF"),
        (b"\rINVITE", "a bare CR or LF"),
        (PLAIN[:-2] + b"X: " + b"x" * MAX_HEAD, "headers of more than"),
        (b"OPTIONS sip:a@b SIP/2.0\r\nX: " + b"x" * MAX_HEAD + b"\r\n\r\n", "headers of more than"),
    ],
)
def test_what_has_no_measure_ends_the_stream(data: bytes, fault: str) -> None:
    found, why = framed(PLAIN + data)
    assert found == [PLAIN]
    assert why.startswith(fault)
    pieces, piecewise = framed(PLAIN + data, list(range(0, len(data), 7)))
    assert (pieces, bool(piecewise)) == ([PLAIN], True)


def test_nothing_comes_after_a_fault() -> None:
    framer = Framer()
    framer.feed(b"\x00")
    assert (framer.feed(PLAIN), framer.waiting, framer.fault) == ([], False, "not SIP")


def test_the_longest_message() -> None:
    room = MAX_MESSAGE - len(message(length="65000"))
    longest = message(b"x" * room)
    assert framed(longest) == ([longest], "")
    assert framed(message(b"x" * (room + 1)))[1] == f"a message of {MAX_MESSAGE + 1} bytes, {MAX_MESSAGE} at most"


_BODIES = st.lists(st.one_of(st.none(), st.binary(max_size=60)), max_size=6)


@given(_BODIES, st.lists(st.integers(0, 2_000), max_size=12))
def test_pieces_change_nothing(bodies: list[bytes | None], cuts: list[int]) -> None:
    sent = [LINE_BREAK if body is None else message(body) for body in bodies]
    assert framed(b"".join(sent), cuts) == (sent, "")


@given(st.lists(st.sampled_from([PLAIN, WITH_BODY, LINE_BREAK, b"\r", b"x", b"\x00", b"SIP/2.0 200"])), st.binary())
def test_nothing_is_raised_and_pieces_change_nothing_in_garbage(parts: list[bytes], tail: bytes) -> None:
    data = b"".join(parts) + tail
    whole = framed(data)
    assert framed(data, list(range(len(data)))) == whole
    for each in whole[0]:
        if each != LINE_BREAK:
            try:
                parse(each)
            except MessageError:
                pass


def test_a_ping_is_answered_and_a_pong_is_not() -> None:
    pulse = Pulse()
    assert [pulse.line_break() for _ in range(4)] == [b"", b"\r\n", b"", b"\r\n"]
    assert pulse.ping() == b"\r\n\r\n"
    assert (pulse.line_break(), pulse.dead) == (b"", False)
    assert (pulse.line_break(), pulse.line_break()) == (b"", b"\r\n")


def test_only_who_has_answered_before_is_missed() -> None:
    pulse = Pulse()
    pulse.ping()
    assert not pulse.dead
    pulse.line_break()
    pulse.ping()
    assert pulse.dead
    pulse.message()
    assert not pulse.dead


def test_who_pings_and_answers_no_ping_is_not_missed() -> None:
    pulse = Pulse()
    for _ in range(3):
        pulse.ping()
        pulse.line_break()
        pulse.line_break()
    pulse.ping()
    assert not pulse.dead


def test_who_pings_and_answers_is_missed() -> None:
    pulse = Pulse()
    pulse.ping()
    for _ in range(3):
        pulse.line_break()
    pulse.ping()
    assert pulse.dead
