"""
A client of the service for `dosvoces call` and the demo: one POST, with what the answer says.

The standard library's, and blocking: a command has nothing else to do. Proxies of the environment are not used.
"""

import http.client
import json
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dosvoces.errors import DosvocesError, NotAllowed

MAX_ANSWER = 65_536  # bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What the service answered."""

    status: int
    text: str
    """The sentence in it: the `Message` of an error, else the body."""
    body: str
    location: str
    """The Location header; empty where there is none."""

    @property
    def connection_id(self) -> str:
        """The connection that came of it; empty where none did."""
        return self.location.rpartition("/")[2]

    @property
    def errors(self) -> list[str]:
        """What is wrong with the request, a line for each of its fields, such as `email is missing`."""
        answer = _object(self.body)
        listed = answer.get("Errors")
        each = [error for error in listed if isinstance(error, dict)] if isinstance(listed, list) else []
        return [f"{error.get('field', '')} {error.get('message', '')}".strip() for error in each]


def service_url(host: str, port: int) -> str:
    """Where a service that listens on `host` is reached from this machine."""
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    return f"http://{f'[{reached}]' if ':' in reached else reached}:{port}"


def post_call(url: str, fields: Mapping[str, object], *, timeout_s: float, key: str = "") -> Answer:
    """
    `POST {url}/call` with `fields` as JSON; waits until the calls are made or have failed.

    `key` is the API key, where one is needed. Raises `NotAllowed` for a URL or a key that is none, `DosvocesError` when
    the service can't be reached or doesn't answer.
    """
    parts = split_address(url)
    if not key.isascii() or not key.isprintable():
        raise NotAllowed("the API key has characters that no key has; it begins with dv_live_ or dv_test_")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=timeout_s)
    try:
        path = parts.path.rstrip("/").removesuffix("/call") + "/call"
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        connection.request("POST", path, json.dumps(dict(fields)), headers)
        response = connection.getresponse()
        body = response.read(MAX_ANSWER).decode("utf-8", "replace")
        return Answer(response.status, _sentence(body), body, response.getheader("Location", ""))
    except TimeoutError as error:
        raise DosvocesError(f"{url} gave no answer within {timeout_s:.0f} s; look with `dosvoces list`") from error
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DosvocesError(f"{url} can't be reached: {why}; is `dosvoces serve` running there?") from error
    finally:
        connection.close()


def no_address(url: str) -> NotAllowed:
    """The error for a URL at which there can be no service."""
    return NotAllowed(f"{url!r} is no address of a service; write http://127.0.0.1:8080")


def split_address(url: str) -> urllib.parse.SplitResult:
    """`url` in its parts, the host and the port such as can be asked for. Raises `NotAllowed`."""
    try:
        parts = urllib.parse.urlsplit(url if "//" in url else f"//{url}")
        # What the standard library stumbles over only when it connects: the port's number, a name that the DNS can't
        # have, and what can't stand in a request's first line.
        parsed = parts.port, (parts.hostname or "").encode("idna"), parts.path.encode("ascii")
    except ValueError:
        raise no_address(url) from None
    if parts.scheme not in ("", "http", "https") or not parsed[1] or not url.isprintable() or " " in url:
        raise no_address(url)
    return parts


def _sentence(body: str) -> str:
    message = _object(body).get("Message")
    return message if isinstance(message, str) else body.strip()


def _object(body: str) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}
