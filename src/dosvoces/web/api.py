"""
`/v1`: connections as resources: they are listed, read (which is what `Location` points to) and ended; how one is asked
for is in `connections.py`. What is shown of them is in `views.py`, what goes wrong in `problems.py`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Path, Query, Request, Response

from dosvoces.core import Phase
from dosvoces.model import ConnectionId, Outcome
from dosvoces.store import ConnectionRecord, Wanted
from dosvoces.web.answers import Problem
from dosvoces.web.auth import caller_of
from dosvoces.web.described import CANCELLATION, CONNECTION, EVENTS, LIST, MAIL, PROBLEM, STREAM
from dosvoces.web.ports import Canceller, Records
from dosvoces.web.problems import INVALID, KINDS, NO_SUCH_ADDRESS, NO_SUCH_CONNECTION, NOT_A_TRIAL, ProblemError
from dosvoces.web.streams import Streams, wants_stream
from dosvoces.web.views import (
    ConnectionsView,
    ConnectionView,
    EventsView,
    MailView,
    connection_view,
    event_views,
    mail_view,
)

PAGE, MAX_PAGE = 50, 200
"""Connections on a page of the list; events have twice as many."""
MAX_METADATA_FILTERS = 5
_ID = re.compile(r"[0-9a-hjkmnp-tv-z]{26}")
_E164 = re.compile(r"\+[1-9]\d{6,14}", re.ASCII)
_METADATA = re.compile(r"metadata\[([A-Za-z0-9_.-]{1,40})\]")
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Id = Annotated[str, Path(description="As in the Location of POST /call", pattern=f"^{_ID.pattern}$")]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="Most on one page")]
_CURSOR = "`next_cursor` of the page before; opaque"
Cursor = Annotated[str | None, Query(pattern=f"^{_ID.pattern}$", description=_CURSOR)]
EventCursor = Annotated[str | None, Query(pattern="^[0-9]{1,9}$", description=_CURSOR)]
Types = Annotated[
    str | None,
    Query(pattern=r"^[a-z_]{1,40}(,[a-z_]{1,40}){0,29}$", description="In streams: only these, with commas between"),
]
LastEventId = Annotated[
    str | None, Header(description="In streams: the id of the last event that was seen", max_length=40)
]
PhaseName = Literal[
    "scheduled", "queued", "recorded", "mailing", "dialing_first", "ringing_first", "waiting",
    "dialing_second", "ringing_second", "joining", "joined", "releasing", "ended",
]  # fmt: skip
_PHASES = frozenset(PhaseName.__args__)  # type: ignore[attr-defined]
assert {phase.value for phase in Phase} <= _PHASES


def _moment_query(description: str) -> Any:
    """As a text: pydantic would take a bare number for seconds since 1970."""
    return Query(description=description, json_schema_extra={"format": "date-time"})


@dataclass(frozen=True, slots=True)
class ProblemKindView:
    """What a problem's code means."""

    type: str
    code: str
    status: int
    title: str
    remedy: str


def api_routes(records: Records, canceller: Canceller, clock: Callable[[], datetime], streams: Streams) -> APIRouter:
    routes = APIRouter(prefix="/v1", tags=["connections"])
    shown = _Resources(records, canceller, clock, streams)
    one = "/connections/{id}"
    routes.get("/connections", summary="The connections, newest first", responses=LIST)(shown.connections)
    routes.get(one, summary="One connection", responses=CONNECTION)(shown.connection)
    routes.post(
        f"{one}/cancellation",
        summary="End a connection",
        description="Legal in every state and at every node. 202: it is being hung up, which its resource shows when "
        "it is done; 200: it is over already.",
        status_code=202,
        responses=CANCELLATION,
    )(shown.cancel)
    routes.get(
        f"{one}/events",
        summary="What happened to a connection, oldest first",
        description="With `Accept: text/event-stream`, a stream of server-sent events: those there are, then each as "
        "it happens, and as the last one the connection itself (`event: connection`). 204: that was seen already.",
        response_model=EventsView,
        responses=EVENTS,
    )(shown.events)
    routes.get(
        "/events",
        summary="What happens to all connections, as it happens",
        description="Server-sent events. Without `Last-Event-ID` those from now on, with it exactly those that "
        "followed that one.",
        response_class=Response,
        responses=STREAM,
    )(shown.all_events)
    routes.get(f"{one}/mail", summary="What became of a connection's mail", responses=MAIL)(shown.mail)
    routes.get("/problems/{code}", summary="What a problem's code means", responses=PROBLEM)(read_problem)
    return routes


class _Resources:
    """What is answered at each address."""

    def __init__(self, records: Records, canceller: Canceller, clock: Callable[[], datetime], streams: Streams) -> None:
        self._streams = streams
        self._records = records
        self._canceller = canceller
        self._clock = clock

    async def connections(
        self,
        request: Request,
        outcome: Annotated[Outcome | None, Query(description="How they ended")] = None,
        phase: Annotated[PhaseName | None, Query(description="Where they stand")] = None,
        number: Annotated[str | None, Query(pattern=f"^{_E164.pattern}$", description="Either party's, E.164")] = None,
        created_after: Annotated[str | None, _moment_query("From this moment on, RFC 3339")] = None,
        created_before: Annotated[str | None, _moment_query("Before this moment, RFC 3339")] = None,
        test: Annotated[Literal["true", "false"] | None, Query(description="Trial runs alone, or none")] = None,
        limit: Limit = PAGE,
        cursor: Cursor = None,
    ) -> ConnectionsView:
        """Those asked for; `metadata[name]=value`, up to five times, asks for those with that metadata."""
        now = self._clock()
        wanted = Wanted(
            outcome=outcome,
            phase=phase,
            number=number,
            created_after=_moment("created_after", created_after),
            created_before=_moment("created_before", created_before),
            metadata=_metadata(request),
            test=None if test is None else test == "true",
        )
        before = None if cursor is None else ConnectionId(cursor)
        # One more than asked for tells whether there is a next page.
        found = await self._records.connections(limit=limit + 1, before=before, wanted=wanted, now=now)
        shown = found[:limit]
        statistics = await self._records.statistics([record.id for record in shown]) if shown else []
        return ConnectionsView(
            data=[connection_view(record, statistics, now) for record in shown],
            next_cursor=shown[-1].id if len(found) > limit else None,
        )

    async def connection(self, id: Id) -> ConnectionView:
        record = await self._existing(id)
        return connection_view(record, await self._records.statistics([record.id]), self._clock())

    async def cancel(self, id: Id, request: Request, response: Response) -> ConnectionView:
        if caller_of(request.scope).test and not (await self._existing(id)).test:
            raise ProblemError(NOT_A_TRIAL)
        asked = await self._canceller.cancel(ConnectionId(id), by="api", who=caller_of(request.scope).signature)
        if asked is None:
            raise ProblemError(NO_SUCH_CONNECTION)
        response.status_code = 202 if asked else 200
        return await self.connection(id)

    async def events(
        self,
        request: Request,
        id: Id,
        limit: Limit = MAX_PAGE,
        cursor: EventCursor = None,
        types: Types = None,
        last_event_id: LastEventId = None,
    ) -> EventsView | Response:
        after = int(cursor or 0)
        record = await self._existing(id)
        if wants_stream(request):
            return await self._streams.of_one(request, record, _types(types))
        left = [entry for entry in await self._records.entries(record.id) if entry.number > after]
        shown = left[:limit]
        return EventsView(event_views(shown), str(shown[-1].number) if len(left) > limit else None)

    async def all_events(self, request: Request, types: Types = None, last_event_id: LastEventId = None) -> Response:
        return await self._streams.of_all(request, _types(types))

    async def mail(self, id: Id) -> MailView:
        record = await self._existing(id)
        return mail_view(record, await self._records.entries(record.id), await self._records.mails_of(record))

    async def _existing(self, id: str) -> ConnectionRecord:
        record = await self._records.connection(ConnectionId(id))
        if record is None:
            raise ProblemError(NO_SUCH_CONNECTION)
        return record


async def read_problem(code: Annotated[str, Path(max_length=40)]) -> ProblemKindView:
    """What stands behind the `type` of an answer that is a problem."""
    kind = KINDS.get(code)
    if kind is None:
        raise ProblemError(NO_SUCH_ADDRESS, "There is no such code")
    return ProblemKindView(kind.type, kind.code, kind.status, kind.title, kind.remedy)


def _types(text: str | None) -> frozenset[str]:
    return frozenset(() if text is None else text.split(","))


def _wrong(name: str, what: str, code: str = "format") -> ProblemError:
    return ProblemError(INVALID, f"Missing or invalid: {name}", [Problem(name, code, what)])


def _moment(name: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text) if _RFC3339.fullmatch(text) else None
    except ValueError:
        moment = None
    if moment is None:
        raise _wrong(name, "is no moment with a time zone, as in 2026-05-09T09:30:00+02:00")
    try:
        return max(moment.astimezone(UTC), _EPOCH)
    except OverflowError as error:
        raise _wrong(name, "is beyond the years that there are", "range") from error


def _metadata(request: Request) -> tuple[tuple[str, str], ...]:
    asked: list[tuple[str, str]] = []
    for name, value in request.query_params.multi_items():
        if (match := _METADATA.fullmatch(name)) is not None:
            asked.append((match[1], value))
    if len(asked) > MAX_METADATA_FILTERS:
        raise _wrong("metadata", f"is asked for more than {MAX_METADATA_FILTERS} times", "too_many")
    if any("\0" in value for _, value in asked):
        raise _wrong("metadata", "has a NUL, which no text has")
    return tuple(asked)
