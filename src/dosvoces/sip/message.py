"""
The parser's boundary: bytes of a peer become a `Request` or a `Response`, or a `MessageError`, never anything else.

`sipmessage` does the parsing; what it leaves out stands here: limits, line folding (RFC 3261 §7.3.1), the mandatory
headers (§8.1.1), a Content-Length that lies (§18.3). Header values that come back to the peer (Contact, Record-Route,
Via) are kept as the text that came, so that nothing is lost by parsing and printing them again.
"""

import re
from collections.abc import Iterable

from sipmessage import Message, Request, Response

MAX_MESSAGE = 65_535  # bytes; the largest UDP payload there is
MAX_HEADERS = 128  # lines
MAX_LINE = 8_192  # bytes of one header, unfolded

MANDATORY = ("Via", "From", "To", "Call-ID", "CSeq")  # RFC 3261 §8.1.1; Max-Forwards is often left out and forgiven

_FOLD = re.compile(rb"\r\n[ \t]+")
_TAG = re.compile(r";\s*tag\s*=\s*([^\s;,>]+)", re.IGNORECASE)
_BRANCH = re.compile(r";\s*branch\s*=\s*([^\s;,]+)", re.IGNORECASE)
_CSEQ = re.compile(r"^(\d{1,10})\s+([A-Za-z0-9\-.!%*_+`'~]+)$")


class MessageError(ValueError):
    """The bytes are no SIP message that we would act on; the text says why, without quoting the peer at length."""


def parse(data: bytes) -> Request | Response:
    """
    Parse one datagram or one framed message.

    The body is cut to Content-Length where that is shorter; one that promises more than came is an error
    (RFC 3261 §18.3). Raises `MessageError` on anything else that can't be trusted.
    """
    if len(data) > MAX_MESSAGE:
        raise MessageError(f"message of {len(data)} bytes, {MAX_MESSAGE} at most")
    # RFC 3261 §7.5: leading CRLFs are to be ignored.
    data = data.lstrip(b"\r\n")
    head, separator, _body = data.partition(b"\r\n\r\n")
    if not separator:
        raise MessageError("no end of headers")
    _check_limits(head)
    try:
        message = Message.parse(_FOLD.sub(b" ", head) + data[len(head) :] if b"\r\n " in head or b"\r\n\t" in head else data)
        _check_mandatory(message)
    except MessageError:
        raise
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        # sipmessage promises ValueError; a parameter named `self` makes it a TypeError, so the net is wider.
        raise MessageError(f"not parsable: {error}") from error
    return message


def _check_limits(head: bytes) -> None:
    if head.count(b"\r\n") > MAX_HEADERS:
        raise MessageError(f"more than {MAX_HEADERS} header lines")
    if len(head) > MAX_LINE and any(len(line) > MAX_LINE for line in head.split(b"\r\n")):
        raise MessageError(f"a header line of more than {MAX_LINE} bytes")


def _check_mandatory(message: Request | Response) -> None:
    headers = message.headers
    for name in MANDATORY:
        if not headers.get(name):
            raise MessageError(f"no {name} header")
    _number, method = cseq(message)
    if isinstance(message, Request):
        if method != message.method:
            raise MessageError("the CSeq names another method")
    elif not 100 <= message.code <= 699:
        raise MessageError(f"status {message.code}")
    promised = headers.get("Content-Length")
    if promised is not None:
        if not (promised.isascii() and promised.isdigit()) or len(promised) > 9:
            raise MessageError("Content-Length is no number")
        if int(promised) > len(message.body):
            raise MessageError("the body is shorter than Content-Length")
        message.body = message.body[: int(promised)]


def cseq(message: Request | Response) -> tuple[int, str]:
    """The number and method of CSeq. Raises `MessageError`."""
    match = _CSEQ.match(message.headers["CSeq"].strip())
    if match is None or int(match[1]) >= 1 << 31:  # RFC 3261 §8.1.1.5
        raise MessageError("CSeq is not valid")
    return int(match[1]), match[2]


def tag(value: str) -> str:
    """The tag of a From or To value, `""` where there is none."""
    # A quoted display name or a URI may hold `;tag=` too: only what follows the address counts.
    match = _TAG.search(value, value.rfind(">") + 1)
    return match[1] if match else ""


def branch(message: Request | Response) -> str:
    """The branch of the topmost Via, `""` where there is none (a peer of RFC 2543)."""
    match = _BRANCH.search(message.headers["Via"].partition(",")[0])
    return match[1] if match else ""


def split_values(values: Iterable[str]) -> list[str]:
    """
    The single values of a comma-separated header (Contact, Record-Route, Via) in order, text unchanged.

    Commas inside quotes or angle brackets separate nothing.
    """
    found: list[str] = []
    for value in values:
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
    return [value for value in found if value]


def address_uri(value: str) -> str:
    """The URI of a name-addr or addr-spec (RFC 3261 §20.10), as text: `"A" <sip:a@b;lr>;x=1` → `sip:a@b;lr`."""
    if "<" in value:
        # A quoted display name may hold a `<`; the URI's own bracket is the last one opened.
        return value[value.rfind("<") + 1 :].partition(">")[0].strip()
    return value.partition(";")[0].strip()


def compose(start_line: str, headers: Iterable[tuple[str, str]], body: bytes = b"") -> bytes:
    """
    The message on the wire; Content-Length is added.

    Values come from configuration or from a parsed message; a line break in one would forge a header and is refused.
    """
    lines = [start_line]
    for name, value in headers:
        if "\r" in value or "\n" in value:
            raise MessageError(f"a line break in {name}")
        lines.append(f"{name}: {value}")
    lines.append(f"Content-Length: {len(body)}\r\n\r\n")
    return "\r\n".join(lines).encode() + body
