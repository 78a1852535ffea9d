"""Replies as values: status, headers and body, and how they go out over ASGI."""

import json
from dataclasses import dataclass, field, replace
from http import HTTPStatus

from starlette.types import Message, Receive, Scope, Send

from dosvoces.model import ConnectionId

Header = tuple[bytes, bytes]

_JSON = b"application/json"
_TEXT = b"text/plain; charset=utf-8"
_CLOSE: Header = (b"connection", b"close")
REPLAYED: Header = (b"idempotent-replayed", b"true")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a request, as it stands in `Errors`."""

    field: str
    code: str
    """Stable, for programs."""
    message: str
    """For people; never repeats the value."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One HTTP answer."""

    status: int
    body: str
    headers: tuple[Header, ...] = ()
    unrecorded: ConnectionId | None = field(default=None, compare=False)
    """The connection in whose record this answer is still to be kept."""
    media_type: str = ""
    """Empty: JSON if the body looks like it, else plain text."""

    @property
    def replayed(self) -> bool:
        """Whether it is the answer to an earlier request."""
        return REPLAYED in self.headers

    def with_headers(self, *headers: Header) -> "Reply":
        return replace(self, headers=self.headers + headers)

    async def send(self, send: Send) -> None:
        for message in self._messages():
            await send(message)

    async def send_and_close(self, send: Send) -> None:
        """Send it and announce the end of the connection, but leave the last word to `finish`."""
        start, body = self.with_headers(_CLOSE)._messages()
        await send(start)
        await send({**body, "more_body": True})

    def as_bytes(self) -> bytes:
        """All of it as it goes over the wire, for where there is no ASGI."""
        phrase = HTTPStatus(self.status).phrase
        head = [f"HTTP/1.1 {self.status} {phrase}".encode(), *(b": ".join(header) for header in self._all_headers())]
        return b"\r\n".join([*head, b"", self.body.encode()])

    def _all_headers(self) -> list[Header]:
        content_type = self.media_type.encode() or (_JSON if self.body.startswith("{") else _TEXT)
        length = str(len(self.body.encode())).encode()
        return [(b"content-type", content_type), (b"content-length", length), *self.headers]

    def _messages(self) -> tuple[Message, Message]:
        return (
            {"type": "http.response.start", "status": self.status, "headers": self._all_headers()},
            {"type": "http.response.body", "body": self.body.encode()},
        )


async def finish(send: Send) -> None:
    """The last word after `send_and_close`."""
    await send({"type": "http.response.body", "body": b""})


def message(status: int, text: str, *headers: Header) -> Reply:
    """`{"Message": text}`."""
    return Reply(status, json.dumps({"Message": text}, ensure_ascii=False), headers)


def refusal(text: str, problems: list[Problem]) -> Reply:
    """The 400 of the contract, with a list for programs beside the sentence for people."""
    errors = [{"field": p.field, "code": p.code, "message": p.message} for p in problems]
    return Reply(400, json.dumps({"Message": text, "Errors": errors}, ensure_ascii=False))


MAX_QUOTED = 64
"""Characters of a received value that an answer repeats."""


def quoted(value: str) -> str:
    """`value` as an answer may repeat it: cut, and without what is not printable (controls, surrogates, bidi marks)."""
    cut = value[:MAX_QUOTED]
    return cut if cut.isprintable() else "".join(c for c in cut if c.isprintable())


NOT_FOUND = message(404, "There is nothing at this address")
INTERNAL_ERROR = message(500, "Internal error")


async def not_found(scope: Scope, receive: Receive, send: Send) -> None:
    """The ASGI application for every address that is nobody's."""
    await NOT_FOUND.send(send)
