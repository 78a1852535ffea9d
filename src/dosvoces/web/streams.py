"""
Events as they happen: server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html).

Every event's id names its place for ever, on every node: who comes back with `Last-Event-ID` gets exactly
what followed. A message of an id alone names a place, too: up to there, nothing happened that the client asked for.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import AsyncExitStack
from datetime import datetime, timedelta

import structlog
from fastapi.sse import format_sse_event
from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from dosvoces.core import Phase
from dosvoces.errors import StoreError
from dosvoces.model import ConnectionId
from dosvoces.store import ConnectionRecord, Entry
from dosvoces.store.feed import Feed, Position
from dosvoces.web.answers import Problem
from dosvoces.web.feed import Listeners, NoMoreStreamsError, Subscription
from dosvoces.web.ports import Records
from dosvoces.web.problems import INVALID, NO_MORE_STREAMS, NO_SUCH_EVENT, ProblemError
from dosvoces.web.views import ConnectionView, EventView, connection_view, event_views

MEDIA_TYPE = "text/event-stream"
HEARTBEAT_S = 15.0
RECONNECT_MS = 2000
"""What a browser is told to wait before it comes back."""
LIFETIME_S = 900.0
"""After so long a stream is ended: who comes back is asked for his key again."""
SEND_LIMIT_S = 20.0
"""How long a client may let what was sent lie unread, once the buffers are full (64 KiB)."""
ENDING_LIMIT_S = 1.0
"""The same for a stream that is ended by us."""
LOOK_S = 2.0
"""How often it is looked whether a connection is over that says nothing."""
ENDING_LOOK_S = 0.2
LATE = timedelta(seconds=1)
"""How long after its end a connection's statistics may come."""
PAGE = 200
TRANSPORT = "dosvoces.transport"
"""The key in the ASGI scope: what is under the request, to be cut off."""

PLACE_TRIES, PLACE_RETRY_S = 5, 0.2

_END = -1
_LAST_ID = re.compile(r"([0-9a-hjkmnp-tv-z]{26})-(\d{1,9}|end)")
_EVENT: TypeAdapter[EventView] = TypeAdapter(EventView)
_CONNECTION: TypeAdapter[ConnectionView] = TypeAdapter(ConnectionView)
_HEADERS = ((b"content-type", MEDIA_TYPE.encode()), (b"cache-control", b"no-store"), (b"x-accel-buffering", b"no"))

log = structlog.get_logger(__name__)


def wants_stream(request: Request) -> bool:
    """Whether the client asks for a stream where there is a page, too: `Accept` names it."""
    accepted = ",".join(request.headers.getlist("accept"))
    return any(one.partition(";")[0].strip().lower() == MEDIA_TYPE for one in accepted.split(","))


class Streams:
    """The streams of this node."""

    def __init__(self, *, feed: Feed, listeners: Listeners, records: Records, clock: Callable[[], datetime]) -> None:
        self._feed = feed
        self._listeners = listeners
        self._records = records
        self._clock = clock

    async def of_all(self, request: Request, types: Collection[str]) -> Response:
        """What happens to all connections from now on, or after `Last-Event-ID`."""
        last = _last_event_id(request)
        after = None if last is None else await self._position_of(*last)
        return await self._open(None, lambda subscription: self._all(subscription, after, types))

    async def of_one(self, request: Request, record: ConnectionRecord, types: Collection[str]) -> Response:
        """What happened and happens to one, until it is over; 204 for who has seen its end (it says: stay away)."""
        last = _last_event_id(request)
        if last == (record.id, _END):
            return Response(status_code=204)
        if last is not None and last[0] != record.id:
            raise _wrong_id("is of another connection")
        after = 0 if last is None else last[1]
        return await self._open(record.id, lambda subscription: self._one(subscription, record.id, after, types))

    async def _position_of(self, connection_id: ConnectionId, number: int) -> Position:
        """Where that event stands among all; one that is quite new may have no place yet."""
        for _ in range(PLACE_TRIES):
            if (position := await self._feed.position_of(connection_id, number)) is not None:
                return position
            await asyncio.sleep(PLACE_RETRY_S)
        raise ProblemError(NO_SUCH_EVENT)

    async def _open(
        self, connection_id: ConnectionId | None, chunks: "Callable[[Subscription], AsyncIterator[bytes]]"
    ) -> Response:
        stack = AsyncExitStack()
        try:
            subscription = await stack.enter_async_context(self._listeners.subscribe(connection_id))
        except NoMoreStreamsError as error:
            raise ProblemError(NO_MORE_STREAMS, str(error), headers=((b"retry-after", b"5"),)) from error
        return _Stream(chunks(subscription), subscription, stack)

    async def _all(
        self, subscription: Subscription, after: Position | None, types: Collection[str]
    ) -> AsyncIterator[bytes]:
        # Who comes without a place gets one at once: the stream may end before anything happens.
        yield format_sse_event(retry=RECONNECT_MS, id=_id_of(subscription.since) if after is None else None)
        teller = _Teller(types)
        while after is not None and not subscription.over:
            page = await self._feed.since(after, limit=PAGE, upto=subscription.since)
            yield teller.tell([entry for _, entry in page])
            after = page[-1][0] if page else None
        while not subscription.over:
            yield teller.tell(await subscription.take(teller.quiet_s))

    async def _one(
        self, subscription: Subscription, connection_id: ConnectionId, seen: int, types: Collection[str]
    ) -> AsyncIterator[bytes]:
        yield format_sse_event(retry=RECONNECT_MS)
        teller = _Teller(types)
        entries = await self._records.entries(connection_id)
        while not subscription.over:
            news = [entry for entry in entries if entry.number > seen]
            if news:
                seen = news[-1].number
            yield teller.tell(news)
            record = await self._records.connection(connection_id)
            if record is None:
                return  # Forgotten meanwhile.
            if record.outcome is not None and self._is_complete(record):
                left = [entry for entry in await self._records.entries(connection_id) if entry.number > seen]
                yield _events(left, types) + await self._end(record)
                return
            entries = await subscription.take(ENDING_LOOK_S if record.phase == Phase.ENDED else LOOK_S)

    def _is_complete(self, record: ConnectionRecord) -> bool:
        return record.ended_at is None or record.ended_at + LATE <= self._clock()

    async def _end(self, record: ConnectionRecord) -> bytes:
        """The resource, as the last word: it has what no event has, the outcome."""
        view = connection_view(record, await self._records.statistics([record.id]), self._clock())
        return format_sse_event(
            data_str=_CONNECTION.dump_json(view, ensure_ascii=True).decode(), event="connection", id=f"{record.id}-end"
        )


class _Teller:
    """What is sent of that which happened: what is asked for, and a sign of life where that is nothing for long."""

    def __init__(self, types: Collection[str]) -> None:
        self._types = types
        self._taken: str | None = None
        """The id of the last event taken, shown or not."""
        self._sent_at = _now()

    @property
    def quiet_s(self) -> float:
        """How long nothing need be sent."""
        return self._sent_at + HEARTBEAT_S - _now()

    def tell(self, entries: Sequence[Entry]) -> bytes:
        """What to send now, which may be nothing."""
        if entries:
            self._taken = _id_of(entries[-1])
        chunk = _events(entries, self._types)
        if not chunk and self.quiet_s <= 0:
            # HTML standard §9.2.6: an id without data is where to come back to, and no event.
            chunk = format_sse_event(comment="", id=self._taken)
        if chunk:
            self._sent_at = _now()
        return chunk


def _now() -> float:
    return asyncio.get_running_loop().time()


class _Stream(Response):
    """An answer that goes on until its chunks end, its client leaves or reads no more, or its time is over."""

    def __init__(self, chunks: AsyncIterator[bytes], subscription: Subscription, stack: AsyncExitStack) -> None:
        super().__init__()
        self._chunks = chunks
        self._subscription = subscription
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._stack:
            await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
            tasks = [
                asyncio.create_task(one)
                for one in (self._send(scope, send), _left(receive), self._subscription.ended(ENDING_LIMIT_S))
            ]
            try:
                await asyncio.wait(tasks, timeout=LIFETIME_S, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        await self._write(scope, send, b"", ENDING_LIMIT_S)

    async def _write(self, scope: Scope, send: Send, chunk: bytes, limit_s: float = SEND_LIMIT_S) -> None:
        """Send it; an empty one is the last."""
        try:
            async with asyncio.timeout(limit_s):
                await send({"type": "http.response.body", "body": chunk, "more_body": bool(chunk)})
        except TimeoutError:
            log.info("event_stream_not_read", client=str(scope.get("client")))
            # Closing would wait for the client to read what is unsent.
            if (transport := scope.get(TRANSPORT)) is not None:
                transport.abort()

    async def _send(self, scope: Scope, send: Send) -> None:
        try:
            async for chunk in self._chunks:
                if chunk:
                    await self._write(scope, send, chunk)
        except StoreError as error:
            # Its client comes back, and hears of it then.
            log.warning("event_stream_broken_off", reason=str(error))


async def _left(receive: Receive) -> None:
    """Return when the client has."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _events(entries: Iterable[Entry], types: Collection[str]) -> bytes:
    shown = (entry for entry in entries if not types or entry.event in types)
    return b"".join(
        format_sse_event(data_str=_EVENT.dump_json(view, ensure_ascii=True).decode(), event=view.event, id=view.id)
        for view in event_views(shown)
    )


def _id_of(what: Entry | Position) -> str | None:
    """The id of the event that is or stands there; `None` before the first."""
    return f"{what.connection_id}-{what.number}" if what.connection_id else None


def _last_event_id(request: Request) -> tuple[ConnectionId, int] | None:
    """The connection and the number in it, `_END` behind its last."""
    text = request.headers.get("last-event-id", "")
    if not text:
        return None
    match = _LAST_ID.fullmatch(text)
    if match is None:
        raise _wrong_id("is no id of an event of ours")
    return ConnectionId(match[1]), _END if match[2] == "end" else int(match[2])


def _wrong_id(what: str) -> ProblemError:
    return ProblemError(INVALID, "Missing or invalid: Last-Event-ID", [Problem("Last-Event-ID", "format", what)])
