"""The client for programs that wait."""

import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import httpx

from dosvoces.client.exchange import (
    MAIL,
    ONE,
    PAGE,
    PATH,
    STREAM_TIMEOUT_S,
    TRIES,
    Ask,
    Stream,
    creation,
    listing,
    options,
    pause_s,
    taken,
)
from dosvoces.client.problems import Unreachable, error_of
from dosvoces.resources import ConnectionView, EventView, MailView


class Client:
    """One service, by its URL and an API key. Used by `with`, or closed by `close`."""

    def __init__(self, url: str, *, key: str = "", **more: Any) -> None:
        """`more` is httpx's. Raises `NotAllowed` for a URL or a key that is none."""
        self._more = more
        self._http = httpx.Client(**(options(url, key) | more))

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back; idempotent."""
        self._http.close()

    def create(
        self, *, idempotency_key: str | None = None, wait_s: int | None = None, **members: object
    ) -> ConnectionView:
        """
        Ask for a connection, with the members of `POST /v1/connections`; repeated by itself until it is taken.

        Raises `ApiError`, and `Unreachable` when no answer came.
        """
        return taken(self._send(creation(members, idempotency_key, wait_s)), ONE)

    def get(self, connection: str) -> ConnectionView:
        """One connection. Raises `NotThere`."""
        return taken(self._send(Ask("GET", f"{PATH}/{connection}")), ONE)

    def list(self, **wanted: object) -> Iterator[ConnectionView]:
        """All that are `wanted` (`outcome`, `phase`, `number`, `test` …), the newest first, page after page."""
        cursor: str | None = None
        while True:
            page = taken(self._send(listing(wanted, cursor)), PAGE)
            yield from page.data
            if (cursor := page.next_cursor) is None:
                return

    def cancel(self, connection: str) -> ConnectionView:
        """Have it ended, in whatever state it is."""
        return taken(self._send(Ask("POST", f"{PATH}/{connection}/cancellation")), ONE)

    def mail(self, connection: str) -> MailView:
        """What became of its mail."""
        return taken(self._send(Ask("GET", f"{PATH}/{connection}/mail")), MAIL)

    def events(self, connection: str) -> Iterator[EventView]:
        """What happened and happens to it, as it happens, each once, until it is over; lost streams are taken up."""
        stream, lost = Stream(), 0
        while stream.over is None:
            before = stream.last_id
            try:
                with self._http.stream(
                    "GET", f"{PATH}/{connection}/events", headers=stream.opened(), timeout=STREAM_TIMEOUT_S
                ) as response:
                    if response.status_code == 204:
                        return
                    if not response.is_success:
                        response.read()
                        raise error_of(response)
                    yield from stream.read(response.iter_lines())
            except httpx.TransportError as error:
                if lost >= TRIES and before == stream.last_id:
                    raise Unreachable(f"the events of {connection} stay away: {error}") from error
            lost = lost + 1 if before == stream.last_id else 0
            if stream.over is None:
                time.sleep(pause_s(min(max(lost, 1), TRIES - 1), None) or 0.0)

    def _send(self, ask: Ask) -> httpx.Response:
        for tried in range(1, TRIES + 1):
            try:
                response = self._http.request(**ask.arguments(self._more))
            except httpx.TransportError as error:
                if (pause := pause_s(tried, None)) is None:
                    raise Unreachable(f"{self._http.base_url} can't be reached: {error}") from error
            else:
                if (pause := pause_s(tried, response)) is None:
                    return response
            time.sleep(pause)
        raise AssertionError("the last try returns or raises")
