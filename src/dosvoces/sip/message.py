"""
The parser's boundary: bytes of a peer become a `Request` or a `Response`, or a `MessageError`, never anything else.

Here are the limits, line folding and compact forms (RFC 3261 §7.3), the mandatory headers (§8.1.1) and a
Content-Length that lies (§18.3). Header values are kept as the text that came, so that what goes back to the peer
(Contact, Record-Route, Via, tags) loses nothing by being parsed and printed again.

We diverge from sipmessage's own `Message.parse` and take only its table of compact forms: it refuses a Request-URI
with a host such as `pbx1`, drops a message for one byte that is not UTF-8, and its header list is searched linearly at
each `add`. The tests hold both parsers against each other on what both accept.
"""

import re
from collections.abc import Iterable

from sipmessage.message import COMPACT_FORMS

MAX_MESSAGE = 65_535  # bytes; the largest UDP payload there is
MAX_HEADERS = 128  # lines
MAX_LINE = 8_192  # bytes of one header, unfolded

MANDATORY = ("via", "from", "to", "call-id", "cseq")  # Max-Forwards is often left out and forgiven
ONCE = ("from", "to", "call-id", "cseq")  # RFC 3261 §7.3.1: no second one, however equal

_COMPACT = {short: name.lower() for short, name in COMPACT_FORMS.items()}
_FOLD = re.compile(r"\r\n[ \t]+")  # without the blanks before: to look for them takes their number squared
_TAG = re.compile(r";\s*tag\s*=\s*([^\s;,>]+)", re.IGNORECASE)
_BRANCH = re.compile(r";\s*branch\s*=\s*([^\s;,]+)", re.IGNORECASE)
_NOTHING_BETWEEN = re.compile(r"[;,]\s*(?:[;,]|$)")
_QUOTED_PAIR = re.compile(r"\\.")
_CSEQ = re.compile(r"([0-9]{1,10})[ \t]+([A-Za-z0-9\-.!%*_+`'~]+)$")
_METHOD = re.compile(r"[A-Za-z0-9\-.!%*_+`'~]+$")
_STATUS = re.compile(r"SIP/2\.0 ([1-6][0-9][0-9])(?: (.*))?$", re.IGNORECASE)


class MessageError(ValueError):
    """The bytes are no SIP message that we would act on; the text says why, without quoting the peer at length."""


class Message:
    """What requests and responses share. Header names are in lower case, compact forms spelt out."""

    __slots__ = ("body", "cseq", "cseq_method", "headers")

    headers: dict[str, list[str]]
    body: bytes
    cseq: int
    cseq_method: str

    def header(self, name: str) -> str:
        """The first value of the header (`name` in lower case), `""` where there is none."""
        values = self.headers.get(name)
        return values[0] if values else ""

    def values(self, name: str) -> list[str]:
        """The header's lines in order."""
        return self.headers.get(name, [])

    @property
    def content_type(self) -> str:
        """The media type in lower case without parameters, `""` where there is none."""
        return self.header("content-type").partition(";")[0].strip().lower()


class Request(Message):
    """A SIP request; the Request-URI is text."""

    __slots__ = ("method", "uri")

    method: str
    uri: str


class Response(Message):
    """A SIP response."""

    __slots__ = ("code", "phrase")

    code: int
    phrase: str


def parse(data: bytes) -> Request | Response:
    """
    Parse one datagram or one framed message.

    The body is cut to Content-Length where that is shorter; one that promises more than came is an error
    (RFC 3261 §18.3). Bytes that are not UTF-8 survive as surrogates. Raises `MessageError` and nothing else.
    """
    if len(data) > MAX_MESSAGE:
        raise MessageError(f"message of {len(data)} bytes, {MAX_MESSAGE} at most")
    # RFC 3261 §7.5: leading CRLFs are to be ignored.
    head, separator, body = data.lstrip(b"\r\n").partition(b"\r\n\r\n")
    if not separator:
        raise MessageError("no end of headers")
    text = head.decode("utf-8", "surrogateescape")
    _check_limits(text)
    if "\r\n " in text or "\r\n\t" in text:
        text = _FOLD.sub(" ", text)
    lines = text.split("\r\n")
    message = _start_line(lines[0])
    message.headers = _headers(lines)
    _check_mandatory(message)
    message.body = _body(message, body)
    return message


def _check_limits(text: str) -> None:
    lines = text.count("\r\n")
    if lines > MAX_HEADERS:
        raise MessageError(f"more than {MAX_HEADERS} header lines")
    if text.count("\r") != lines or text.count("\n") != lines:
        # A value with a bare CR or LF would forge a header wherever it is echoed.
        raise MessageError("a bare CR or LF")
    if len(text) > MAX_LINE and any(len(line) > MAX_LINE for line in text.split("\r\n")):
        raise MessageError(f"a header line of more than {MAX_LINE} characters")


def _start_line(line: str) -> Request | Response:
    if line[:4].upper() == "SIP/":
        match = _STATUS.match(line)
        if match is None:
            raise MessageError("not a status line")
        response = Response()
        response.code = int(match[1])
        response.phrase = match[2] or ""
        return response
    words = line.split(" ")
    if len(words) != 3 or words[2].upper() != "SIP/2.0" or not words[1] or not _METHOD.match(words[0]):
        raise MessageError("neither a request nor a response")
    if "<" in words[1] or ">" in words[1] or '"' in words[1]:
        raise MessageError("a Request-URI in brackets or quotes")
    request = Request()
    request.method, request.uri = words[0], words[1]
    return request


def _headers(lines: list[str]) -> dict[str, list[str]]:
    headers: dict[str, list[str]] = {}
    for at in range(1, len(lines)):
        name, colon, value = lines[at].partition(":")
        name = name.rstrip(" \t").lower()
        if not colon or not name:
            raise MessageError("a header line without a name")
        if len(name) == 1:
            name = _COMPACT.get(name, name)
        values = headers.get(name)
        if values is None:
            headers[name] = [value.strip()]
        else:
            values.append(value.strip())
    return headers


def _check_mandatory(message: Request | Response) -> None:
    headers = message.headers
    for name in MANDATORY:
        values = headers.get(name)
        if not values or not values[0]:
            raise MessageError(f"no {name} header")
    for name in ONCE:
        if len(headers[name]) > 1:
            raise MessageError(f"two {name} headers")
    match = _CSEQ.match(headers["cseq"][0])
    if match is None or int(match[1]) >= 1 << 31:  # RFC 3261 §8.1.1.5
        raise MessageError("CSeq is not valid")
    message.cseq, message.cseq_method = int(match[1]), match[2]
    if isinstance(message, Request):
        if message.cseq_method != message.method:
            raise MessageError("the CSeq names another method")
        if _NOTHING_BETWEEN.search(headers["via"][0]):
            raise MessageError("a Via with an empty parameter or value")
    for name in ("from", "to"):
        # They go back to the peer as they came, with a tag behind.
        if '"' in (value := headers[name][0]) and _QUOTED_PAIR.sub("", value).count('"') % 2:
            raise MessageError(f"a quote in {name} that doesn't end")


def _body(message: Message, body: bytes) -> bytes:
    promised = message.headers.get("content-length")
    if promised is None:
        return body
    text = promised[0]
    if not (text.isascii() and text.isdigit()) or len(text) > 9 or any(other != text for other in promised):
        raise MessageError("Content-Length is no number")
    length = int(text)
    if length > len(body):
        raise MessageError("the body is shorter than Content-Length")
    return body[:length] if length < len(body) else body


def tag(value: str) -> str:
    """The tag of a From or To value, `""` where there is none."""
    # A quoted display name or a URI may hold `;tag=` too: only what follows the address counts.
    match = _TAG.search(value, value.rfind(">") + 1)
    return match[1] if match else ""


def branch(message: Message) -> str:
    """The branch of the topmost Via, `""` where there is none (a peer of RFC 2543)."""
    via = message.headers["via"][0]
    match = _BRANCH.search(via.partition(",")[0] if "," in via else via)
    return match[1] if match else ""


def quoted_branch(data: bytes) -> str:
    """The first branch in a message that may be cut short (an ICMP error's quotation), `""` where there is none."""
    match = _BRANCH.search(data.decode("utf-8", "replace"))
    return match[1] if match else ""


def split_values(values: Iterable[str]) -> list[str]:
    """
    The single values of a comma-separated header (Contact, Record-Route, Via) in order, text unchanged.

    Commas inside quotes or angle brackets separate nothing.
    """
    found: list[str] = []
    for value in values:
        if "," in value:
            found += _split(value)
        else:
            found.append(value.strip())
    return [value for value in found if value]


def _split(value: str) -> list[str]:
    found: list[str] = []
    start = depth = 0
    quoted = escaped = False
    for at, char in enumerate(value):
        if escaped:
            escaped = False
        elif quoted:
            escaped = char == "\\"
            quoted = char != '"'
        elif char == '"':
            quoted = True
        elif char == "<":
            depth += 1
        elif char == ">":
            depth = max(0, depth - 1)
        elif char == "," and depth == 0:
            found.append(value[start:at].strip())
            start = at + 1
    found.append(value[start:].strip())
    return found


def address_uri(value: str) -> str:
    """The URI of a name-addr or addr-spec (RFC 3261 §20.10), as text: `"A" <sip:a@b;lr>;x=1` → `sip:a@b;lr`."""
    if "<" in value:
        # A quoted display name may hold a `<`; the URI's own bracket is the last one opened.
        return value[value.rfind("<") + 1 :].partition(">")[0].strip()
    return value.partition(";")[0].strip()


def clean(text: str) -> str:
    """`text` fit for a log or a record: control characters and undecodable bytes become U+FFFD."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def seconds(text: str) -> int | None:
    """Delta-seconds of Expires, Retry-After … without comment and parameters (RFC 3261 §20.19, §20.33)."""
    text = text.partition(";")[0].partition("(")[0].strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else None


def compose(start_line: str, headers: Iterable[tuple[str, str]], body: bytes = b"") -> bytes:
    """
    The message on the wire; Content-Length is added.

    Values come from configuration or from a parsed message; a line break in one would forge a header and is refused.
    """
    return compose_lines([start_line, *(f"{name}: {value}" for name, value in headers)], body)


def compose_lines(lines: list[str], body: bytes = b"") -> bytes:
    """As `compose`, from whole lines without their ends; an empty line is an error. Raises `MessageError`."""
    text = "\r\n".join(lines)
    breaks = len(lines) - 1
    if text.count("\n") != breaks or text.count("\r") != breaks:
        raise MessageError("a line break in a header")
    return f"{text}\r\nContent-Length: {len(body)}\r\n\r\n".encode("utf-8", "surrogateescape") + body
