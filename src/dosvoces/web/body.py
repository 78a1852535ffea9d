"""
Reads a request's body: bounded in bytes and time, then strictly as one JSON object.

Stricter than Python's `json`, which keeps the last of two equal keys, takes NaN, and decodes UTF-16 silently.
"""

import asyncio
import json
from dataclasses import dataclass
from typing import NoReturn

from starlette.types import Receive

from dosvoces.errors import NotAllowed
from dosvoces.web.answers import Header, Problem

MAX_BODY_BYTES = 64 * 1024
BODY_TIMEOUT_S = 10.0
MAX_MEMBERS = 100
MAX_NUMBER_CHARS = 4300
"""Python's own limit for turning a text into an integer (`sys.int_info`); above it the body counts as not JSON."""

_BOM = b"\xef\xbb\xbf"


class BodyTooLarge(NotAllowed):
    """More than `MAX_BODY_BYTES`, declared or received."""


class BodyTooSlow(NotAllowed):
    """Not complete within `BODY_TIMEOUT_S`."""


class ClientGone(NotAllowed):
    """The client left before its request was complete."""


class BadBody(NotAllowed):
    """Not one JSON object."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.problem = Problem("body", code, text)


@dataclass(frozen=True, slots=True)
class Number:
    """A JSON number, as it was written."""

    text: str


def is_json(headers: list[Header]) -> bool:
    """Whether the one Content-Type is `application/json`, in UTF-8 if it names a charset (RFC 8259 §8.1)."""
    types = [value for name, value in headers if name == b"content-type"]
    if types == [b"application/json"]:
        return True
    if len(types) != 1:
        return False
    media_type, *parameters = types[0].decode("latin-1").lower().split(";")
    charsets = [p.partition("=")[2].strip(' \t"') for p in parameters if p.partition("=")[0].strip() == "charset"]
    return media_type.strip() == "application/json" and all(c in ("utf-8", "utf8") for c in charsets)


async def read_body(headers: list[Header], receive: Receive) -> bytes:
    """The whole body. Raises `BodyTooLarge` without reading on, `BodyTooSlow`, `ClientGone`."""
    declared = next((value for name, value in headers if name == b"content-length"), b"0")
    if not declared.isdigit() or len(declared) > 9 or int(declared) > MAX_BODY_BYTES:
        raise BodyTooLarge(f"The body is larger than {MAX_BODY_BYTES} bytes")
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await _read(receive)
    except TimeoutError as error:
        raise BodyTooSlow(f"The body did not arrive within {BODY_TIMEOUT_S:g} seconds") from error


async def _read(receive: Receive) -> bytes:
    body: bytes = b""
    while True:
        part = await receive()
        if part["type"] == "http.disconnect":
            raise ClientGone("The client left")
        body += part.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise BodyTooLarge(f"The body is larger than {MAX_BODY_BYTES} bytes")
        if not part.get("more_body", False):
            return body


def parse_object(body: bytes) -> dict[str, object]:
    """
    The members of the one JSON object that `body` is, numbers as `Number`. Raises `BadBody`.

    A byte order mark is ignored, as RFC 8259 §8.1 allows.
    """
    try:
        text = body.removeprefix(_BOM).decode()
    except UnicodeDecodeError as error:
        raise BadBody("not_utf8", "The body is not UTF-8") from error
    try:
        value = _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise BadBody("not_json", "The body is not JSON") from error
    if not isinstance(value, dict):
        raise BadBody("not_object", "The body is not a JSON object")
    if len(value) > MAX_MEMBERS:
        raise BadBody("too_many_members", f"The body has more than {MAX_MEMBERS} members")
    return value


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise BadBody("duplicate_key", "The body names a member twice")
    return members


def _number(text: str) -> Number:
    if len(text) > MAX_NUMBER_CHARS:
        raise ValueError("a number with too many digits")
    return Number(text)


def _constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_number, parse_float=_number, parse_constant=_constant)
