"""Reading a body: media type, size, time, and strict JSON."""

import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message

from dosvoces.web.body import (
    MAX_BODY_BYTES,
    BadBody,
    BodyTooLarge,
    ClientGone,
    Number,
    is_json,
    parse_object,
    read_body,
)


@pytest.mark.parametrize(
    "value",
    ["application/json", "Application/JSON", "application/json; charset=utf-8", 'application/json;charset="UTF-8"',
     "application/json ; charset=utf8", "application/json; version=1"],
)  # fmt: skip
def test_json_is_accepted_however_it_is_written(value: str) -> None:
    assert is_json([(b"content-type", value.encode())])


@pytest.mark.parametrize(
    "value",
    ["", "text/plain", "application/jsonp", "application/json, text/plain", "application/json; charset=latin-1",
     "application/x-www-form-urlencoded", "not a type", "application/problem+json"],
)  # fmt: skip
def test_other_types_are_not_json(value: str) -> None:
    assert not is_json([(b"content-type", value.encode())])


def test_no_type_and_two_types_are_not_json() -> None:
    assert not is_json([])
    assert not is_json([(b"content-type", b"application/json"), (b"content-type", b"application/json")])


class Parts:
    """An ASGI `receive` that gives these parts of a body, and counts how many were asked for."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts = parts
        self.asked = 0

    async def __call__(self) -> Message:
        self.asked += 1
        part = next(self._parts, None)
        return {"type": "http.request", "body": part or b"", "more_body": part is not None}


async def test_a_body_in_parts_is_put_together() -> None:
    assert await read_body([], Parts(iter([b'{"a', b"", b'":1}']))) == b'{"a":1}'


async def test_a_body_of_exactly_the_limit_is_read() -> None:
    body = b"x" * MAX_BODY_BYTES
    assert await read_body([(b"content-length", b"65536")], Parts(iter([body]))) == body


@pytest.mark.parametrize("length", ["65537", "99999999999999999999", "-1", "x"])
async def test_a_declared_excess_is_refused_before_reading(length: str) -> None:
    parts = Parts(iter([b"x"]))
    with pytest.raises(BodyTooLarge):
        await read_body([(b"content-length", length.encode())], parts)
    assert parts.asked == 0


async def test_an_undeclared_excess_is_refused_at_the_limit() -> None:
    parts = Parts(iter([b"x" * 4096] * 1000))
    with pytest.raises(BodyTooLarge):
        await read_body([], parts)
    assert parts.asked == 17


async def test_a_client_that_leaves_is_told_apart() -> None:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    with pytest.raises(ClientGone):
        await read_body([], receive)


def code(body: bytes) -> str:
    with pytest.raises(BadBody) as caught:
        parse_object(body)
    return caught.value.problem.code


def test_numbers_keep_their_text() -> None:
    assert parse_object(b'\xef\xbb\xbf {"a": 1.50, "b": -0, "c": [1e0], "d": "x", "e": null, "f": true}\r\n') == {
        "a": Number("1.50"),
        "b": Number("-0"),
        "c": [Number("1e0")],
        "d": "x",
        "e": None,
        "f": True,
    }


@pytest.mark.parametrize(
    ("body", "want"),
    [
        (b"", "not_json"),
        (b"{'a': 1}", "not_json"),
        (b'{"a": NaN}', "not_json"),
        (b'{"a": -Infinity}', "not_json"),
        (b'{"a": 01}', "not_json"),
        (b'{"a": 1,}', "not_json"),
        (b'{"a": "\t"}', "not_json"),
        (b'{"a": 1} x', "not_json"),
        (b'{"a": ' + b"9" * 4301 + b"}", "not_json"),
        (b'{"a": ' + b"[" * 30000, "not_json"),
        (b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}", "not_json"),
        (b'{"a": "\xe9"}', "not_utf8"),
        ('{"a": 1}'.encode("utf-16"), "not_utf8"),
        (b"[]", "not_object"),
        (b"null", "not_object"),
        (b'"x"', "not_object"),
        (b'{"a": 1, "a": 2}', "duplicate_key"),
        (b'{"a": 1, "\\u0061": 2}', "duplicate_key"),
        (b'{"x": {"a": 1, "a": 2}}', "duplicate_key"),
        (json.dumps({str(i): i for i in range(101)}).encode(), "too_many_members"),
    ],
)
def test_what_is_not_one_json_object_is_refused(body: bytes, want: str) -> None:
    assert code(body) == want


@given(st.binary(max_size=200))
def test_any_bytes_are_an_object_or_refused(body: bytes) -> None:
    try:
        members = parse_object(body)
    except BadBody:
        return
    assert isinstance(members, dict)
