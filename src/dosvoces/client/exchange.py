"""What is sent and what comes back, without the sending: shared by both clients. Pure but for new idempotency keys."""

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

import httpx
from pydantic import TypeAdapter

from dosvoces.client.contract import no_address, split_address
from dosvoces.client.problems import error_of
from dosvoces.errors import NotAllowed
from dosvoces.resources import ConnectionsView, ConnectionView, EventView, MailView

T = TypeVar("T")

PATH = "/v1/connections"
TRIES = 4
"""Of a request that is safe to repeat, while no answer comes or the service says 503."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 10.0
REPEATED = frozenset({503})
TIMEOUT_S = 30.0
MAX_WAIT_S = 60
"""Longest that the service holds an answer back, whatever `Prefer: wait` asks for."""
STREAM_TIMEOUT_S = 45.0
"""Silence after which a stream is opened anew: the service says something every 15 s."""

ONE: TypeAdapter[ConnectionView] = TypeAdapter(ConnectionView)
PAGE: TypeAdapter[ConnectionsView] = TypeAdapter(ConnectionsView)
MAIL: TypeAdapter[MailView] = TypeAdapter(MailView)
_EVENT: TypeAdapter[EventView] = TypeAdapter(EventView)


@dataclass(frozen=True, slots=True)
class Ask:
    """One request."""

    method: str
    path: str
    members: Mapping[str, object] | None = None
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = TIMEOUT_S
    """Longest silence before the answer; to be connected takes no longer than for any other."""

    def arguments(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """Of the HTTP client's `request`; a `timeout` among the caller's `own` options counts before ours."""
        return {
            "method": self.method,
            "url": self.path,
            "json": self.members,
            "params": dict(self.query),
            "headers": dict(self.headers),
            "timeout": own.get("timeout", httpx.Timeout(TIMEOUT_S, read=self.timeout_s)),
        }


def options(url: str, key: str) -> dict[str, Any]:
    """Of the HTTP client. Raises `NotAllowed` for a URL or a key that can't be one."""
    split_address(url)
    try:
        named = url.startswith(("http://", "https://")) and httpx.URL(url).host != ""
    except (httpx.InvalidURL, UnicodeError):
        named = False
    if not named:
        raise no_address(url)
    if not (key.isascii() and key.isprintable()):
        raise NotAllowed("the API key has characters that no key has; it begins with dv_live_ or dv_test_")
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return {"base_url": url.rstrip("/"), "headers": headers, "timeout": TIMEOUT_S, "trust_env": False}


def creation(members: Mapping[str, object], idempotency_key: str | None, wait_s: int | None) -> Ask:
    """`POST /v1/connections`; without a key of the caller's it gets a new one, so that it may be repeated."""
    headers = {"idempotency-key": json.dumps(idempotency_key or str(uuid.uuid4()))}
    if wait_s is not None:
        headers["prefer"] = f"wait={wait_s}"
    asked = {name: value.isoformat() if isinstance(value, datetime) else value for name, value in members.items()}
    sent = {name: value for name, value in asked.items() if value is not None}
    return Ask("POST", PATH, sent, {}, headers, TIMEOUT_S + min(wait_s or 0, MAX_WAIT_S))


def listing(wanted: Mapping[str, object], cursor: str | None) -> Ask:
    """A page of the list."""
    query = {name: _written(value) for name, value in wanted.items() if value is not None}
    return Ask("GET", PATH, query=query | ({"cursor": cursor} if cursor else {}))


def _written(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.isoformat() if isinstance(value, datetime) else str(value)


def taken(response: httpx.Response, kind: TypeAdapter[T]) -> T:
    """What the answer says. Raises `ApiError`."""
    if not response.is_success:
        raise error_of(response)
    return kind.validate_json(response.content)


def pause_s(tried: int, response: httpx.Response | None) -> float | None:
    """How long to wait before the next try; `None`: it is over, and the answer counts."""
    if tried >= TRIES or (response is not None and response.status_code not in REPEATED):
        return None
    said = 0.0 if response is None else error_of(response).retry_after_s
    return min(max(said, FIRST_PAUSE_S * float(1 << (tried - 1))), LONGEST_PAUSE_S)


@dataclass(slots=True)
class Stream:
    """Reads server-sent events, and remembers where it stands."""

    last_id: str = ""
    over: ConnectionView | None = None
    """The connection, once its stream has ended for good."""
    _name: str = ""
    _data: str = ""
    _id: str = ""

    def read(self, lines: Iterable[str]) -> Iterator[EventView]:
        """The events in `lines`."""
        for line in lines:
            if (event := self.line(line)) is not None:
                yield event

    def line(self, line: str) -> EventView | None:
        """One line of a stream; the event that is whole with it."""
        name, _, value = line.partition(": ")
        if not line:
            return self._message()
        if name == "event":
            self._name = value
        elif name == "data":
            self._data = value
        elif name == "id":
            self._id = value
        return None

    def _message(self) -> EventView | None:
        """What was read up to an empty line; an id without data is no event, but where to come back to."""
        name, data = self._name, self._data
        self._name = self._data = ""
        self.last_id = self._id or self.last_id
        if name == "connection":
            self.over = ONE.validate_json(data)
            return None
        return _EVENT.validate_json(data) if data else None

    def opened(self) -> dict[str, str]:
        """The headers to open it with, anew: of a message that broke off, nothing counts."""
        self._name = self._data = self._id = ""
        return {"accept": "text/event-stream", **({"last-event-id": self.last_id} if self.last_id else {})}
