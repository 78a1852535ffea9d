"""How a request of the peer is told apart from others (RFC 3261 §17.2.3), and how it is answered (§8.2.6, §18.2)."""

import re
from collections.abc import Iterable

from .api import SDP, Hop
from .message import Request, branch, compose_lines, tag
from .transaction import CANCEL_SUFFIX
from .uri import DEFAULT_PORT, DEFAULT_TLS_PORT, split_host_port

MAGIC = "z9hG4bK"  # RFC 3261 §8.1.1.7
METHODS = "INVITE, ACK, CANCEL, BYE, OPTIONS, UPDATE, INFO"
ALLOW = f"Allow: {METHODS}"
ACCEPT = f"Accept: {SDP}"
SUPPORTED = "Supported: timer, 100rel"
"""What we can do as the caller; RFC 4028 §7.1 wants it in each request."""
SERVED_EXTENSIONS = frozenset({"timer"})
"""What a request of the peer may require."""
KNOWN_METHODS = frozenset(
    {"PRACK", "SUBSCRIBE", "NOTIFY", "PUBLISH", "REFER", "MESSAGE", "REGISTER", *METHODS.split(", ")}
)
"""Answered with 405 where we don't serve them; any other method is 501 (RFC 3261 §21.4.6, §21.5.2)."""

PHRASES = {
    100: "Trying",
    180: "Ringing",
    183: "Session Progress",
    200: "OK",
    400: "Bad Request",
    405: "Method Not Allowed",
    415: "Unsupported Media Type",
    416: "Unsupported URI Scheme",
    420: "Bad Extension",
    422: "Session Interval Too Small",
    480: "Temporarily Unavailable",
    481: "Call/Transaction Does Not Exist",
    482: "Loop Detected",
    486: "Busy Here",
    487: "Request Terminated",
    488: "Not Acceptable Here",
    491: "Request Pending",
    500: "Server Internal Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    603: "Decline",
}

_SENT_BY = re.compile(r"\s*SIP\s*/\s*2\.0\s*/\s*\w+\s+([^\s;,]+(?:\s*:\s*[0-9]+)?)", re.IGNORECASE)
_RPORT = re.compile(r";\s*rport\s*(?:=[^;,\s]*)?(?=[;,\s]|$)", re.IGNORECASE)
_RECEIVED = re.compile(r";\s*received\s*=[^;,]*", re.IGNORECASE)


def server_key(request: Request, method: str = "") -> str:
    """
    The key of the request's server transaction (RFC 3261 §17.2.3); an ACK has its INVITE's.

    With `method`, the key of the transaction that a request of that method would have: a CANCEL looks for its INVITE.
    """
    method = method or ("INVITE" if request.method == "ACK" else request.method)
    made = branch(request)
    if not made.startswith(MAGIC) or len(made) == len(MAGIC):
        # A peer of RFC 2543, or the cookie alone (RFC 4475 §3.2.1): the branch says nothing, all that must be equal
        # makes the key. An ACK's To has a tag that the INVITE's had not, so the To tag is left out.
        ids = (request.uri, request.header("call-id"), tag(request.header("from")), str(request.cseq))
        return " ".join((*ids, request.header("via"), method))
    sent_by = _SENT_BY.match(request.header("via"))
    key = f"{made} {sent_by[1].lower() if sent_by else ''}"
    if method == "INVITE":
        return key
    return key + CANCEL_SUFFIX if method == "CANCEL" else f"{key} {method}"


def unsupported(request: Request) -> list[str]:
    """The extensions that a request requires and we don't serve, as it wrote them (RFC 3261 §8.2.2.3)."""
    required = request.headers.get("require")
    if not required:
        return []
    tags = [tag.strip() for value in required for tag in value.split(",")]
    return [tag for tag in tags if tag and tag.lower() not in SERVED_EXTENSIONS]


def refusal(request: Request) -> tuple[int, tuple[str, ...]] | None:
    """
    Why a request outside of any dialog is refused, whoever it is for: status and headers, `None` if it isn't.

    In the order of RFC 3261 §8.2: method, Request-URI, extensions, body.
    """
    method = request.method
    if method in ("BYE", "INFO", "PRACK", "UPDATE"):
        return 481, ()
    if method not in ("INVITE", "OPTIONS"):
        return (405 if method in KNOWN_METHODS else 501), (ALLOW,)  # 501 for what nobody knows
    if request.uri.partition(":")[0].lower() not in ("sip", "sips", "tel"):
        return 416, ()
    unknown = unsupported(request)
    if unknown:
        return 420, (f"Unsupported: {', '.join(unknown)}",)
    if method == "INVITE" and request.body and request.content_type != SDP:
        return 415, (ACCEPT,)
    return None


class ReplyHead:
    """What all responses to one request begin with, and where they go."""

    __slots__ = ("destination", "lines", "record_route")

    def __init__(self, request: Request, source: Hop, to_tag: str) -> None:
        """`to_tag` is added to To unless the request brought one."""
        vias = request.values("via")
        top, self.destination = _answered_via(vias[0], source)
        to = request.header("to")
        if to_tag and not tag(to):
            to = f"{to};tag={to_tag}"
        self.lines: tuple[str, ...] = (
            f"Via: {top}",
            *(f"Via: {via}" for via in vias[1:]),
            f"From: {request.header('from')}",
            f"To: {to}",
            f"Call-ID: {request.header('call-id')}",
            f"CSeq: {request.cseq} {request.method}",
        )
        self.record_route: tuple[str, ...] = ()
        if request.method == "INVITE":
            # RFC 3261 §12.1.1: copied, parameters and all, into what makes a dialog.
            self.record_route = tuple(f"Record-Route: {value}" for value in request.values("record-route"))

    def compose(
        self, code: int, phrase: str = "", lines: Iterable[str] = (), body: bytes = b"", content_type: str = SDP
    ) -> bytes:
        """A response on the wire."""
        made = [f"SIP/2.0 {code} {phrase or PHRASES.get(code, '')}", *self.lines]
        if 100 < code < 300:
            made += self.record_route
        made += lines
        if body:
            made.append(f"Content-Type: {content_type}")
        return compose_lines(made, body)


def via_hop(response: bytes, hop: Hop) -> Hop | None:
    """
    Where our response goes when the connection to `hop`, which its request came on, is gone (RFC 3261 §18.2.2).

    That is the address that the request came from, at the port that its sender names in the topmost Via.
    """
    lines = response.split(b"\r\n", 2)
    sent_by = _SENT_BY.match(lines[1].decode("utf-8", "replace").partition(":")[2]) if len(lines) > 1 else None
    if sent_by is None:
        return None
    port = split_host_port(sent_by[1])[1] or (DEFAULT_TLS_PORT if hop.transport == "tls" else DEFAULT_PORT)
    return hop._replace(port=port)


def _answered_via(via: str, source: Hop) -> tuple[str, Hop]:
    """The topmost Via as it goes back, and where the response goes (RFC 3261 §18.2.1-2, RFC 3581 §4)."""
    top, comma, rest = via.partition(",")
    host, port = source.host, source.port
    sent_by = _SENT_BY.match(top)
    # What the peer itself wrote into `received` is not to be believed.
    top = _RECEIVED.sub("", top)
    made, found = _RPORT.subn(f";rport={port}", top, count=1)
    if found:
        return f"{made};received={host}{comma}{rest}", source
    sent_host, sent_port = split_host_port(sent_by[1]) if sent_by else (host, None)
    if sent_host != host:
        top = f"{top};received={host}"
    if source.transport != "udp":
        return f"{top}{comma}{rest}", source  # RFC 3261 §18.2.2: on the connection that the request came on
    return f"{top}{comma}{rest}", Hop(host, sent_port or DEFAULT_PORT)
