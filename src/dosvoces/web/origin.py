"""
Which web pages may send requests: none but ours and those that the settings name.

A browser sends whatever a page wants, with the network of who looks at it: that is how a foreign page would make a
service inside dial. It always says whose page it is (`Origin`), and reads answers only where we say that it may (CORS).
"""

import urllib.parse
from collections.abc import Collection

from starlette.types import Message, Scope, Send

from dosvoces.keys import address_of
from dosvoces.web.answers import Header, Reply, message

PREFLIGHT_S = 600
"""How long a browser may remember that a page may send requests."""

_FOREIGN = message(403, "Requests from this page's origin are not taken; [http] origins names those that are")
_METHODS = b"GET, POST"
_REQUEST_HEADERS = b"authorization, content-type, idempotency-key, last-event-id, prefer, x-api-key"
_ANSWER_HEADERS = b"location, retry-after, idempotent-replayed, ratelimit, ratelimit-policy"


class Origins:
    """Judges the `Origin` of requests."""

    def __init__(self, allowed: Collection[str] = ()) -> None:
        """`allowed` as browsers write them: `https://www.example.com`."""
        self._allowed = frozenset(allowed)

    def refuse(self, scope: Scope) -> Reply | None:
        """What to answer instead of the application: a refusal, or what a preflight is to be told."""
        origins = _values(scope, b"origin")
        if not origins:
            return None
        if len(origins) == 1 and origins[0] in self._allowed:
            asked = scope["method"] == "OPTIONS" and _values(scope, b"access-control-request-method")
            return _preflight(origins[0]) if asked else None
        own = len(origins) == 1 and _is_own(origins[0], scope)
        return None if own else _FOREIGN

    def admit(self, scope: Scope, send: Send) -> Send:
        """`send`, which lets the page read the answer if it is one of those allowed."""
        origins = _values(scope, b"origin")
        if not self._allowed:
            return send
        allowed = [origin for origin in origins if origin in self._allowed]

        async def send_readable(told: Message) -> None:
            if told["type"] == "http.response.start":
                # Also without an Origin: a cache must not give one page's answer to another.
                extra = [(b"vary", b"origin"), *(_readable(allowed[0]) if allowed else [])]
                told = {**told, "headers": [*told.get("headers", []), *extra]}
            await send(told)

        return send_readable


def _values(scope: Scope, wanted: bytes) -> list[str]:
    return [value.decode("latin-1") for name, value in scope["headers"] if name == wanted]


def _is_own(origin: str, scope: Scope) -> bool:
    """
    Whether the page is from this very service.

    Only where we are called by an address or `localhost`: a name may be its owner's, who points it at us for a moment
    (DNS rebinding). Services with a name have it in `[http] origins`.
    """
    hosts = _values(scope, b"host")
    try:
        parts = urllib.parse.urlsplit(origin)
        name = parts.hostname or ""
    except ValueError:
        return False
    if len(hosts) != 1 or parts.scheme not in ("http", "https") or parts.netloc != hosts[0]:
        return False
    return name == "localhost" or address_of(name) is not None


def _readable(origin: str) -> list[Header]:
    return [
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-expose-headers", _ANSWER_HEADERS),
    ]


def _preflight(origin: str) -> Reply:
    return Reply(
        204,
        "",
        (
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-allow-headers", _REQUEST_HEADERS),
            (b"access-control-max-age", str(PREFLIGHT_S).encode()),
            (b"vary", b"origin"),
        ),
    )
