"""
`/v1`: connections as resources: one can be read, which is what `Location` points to, and ended. How one is asked for
is in `connections.py`.

There are no keys yet, so nothing here is confidential: numbers are masked, the lead is left out.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path, Response

from dosvoces.model import ConnectionId, mask_number, mask_text
from dosvoces.store import ConnectionRecord, Entry, LegRecord
from dosvoces.web.ports import Canceller, Records

_ID = re.compile(r"[0-9a-hjkmnp-tv-z]{26}")
_PRIVATE_NOTES = frozenset({"dialog"})
"""Notes that say what it takes to hang up after a crash, and so what it takes to forge a hang-up."""


@dataclass(frozen=True, slots=True)
class LegView:
    """One call to one number."""

    side: str
    number: str
    state: str
    dialed_at: datetime | None
    answered_at: datetime | None
    ended_at: datetime | None
    reason: str | None
    detail: str


@dataclass(frozen=True, slots=True)
class EntryView:
    """One line of the journal."""

    at: datetime
    event: str
    side: str | None
    before: str
    after: str
    facts: dict[str, str | int | float | None]


@dataclass(frozen=True, slots=True)
class ConnectionView:
    """Two legs to be joined, and what became of them."""

    id: str
    created_at: datetime
    not_before: datetime | None
    expires_at: datetime | None
    phase: str
    """`scheduled` before its time, `queued` while no node has room; then as in docs/reference/states.md."""
    outcome: str | None
    ended_by: str
    interval_s: int
    joined_at: datetime | None
    ended_at: datetime | None
    legs: list[LegView]
    journal: list[EntryView]


_NO_SUCH: dict[int | str, dict[str, Any]] = {404: {"description": "No such connection"}}
Id = Annotated[str, Path(description="As in the Location of POST /call: 26 characters")]


def api_routes(records: Records, canceller: Canceller, clock: Callable[[], datetime]) -> APIRouter:
    routes = APIRouter(prefix="/v1", tags=["connections"])

    @routes.get("/connections/{id}", summary="One connection", responses=_NO_SUCH)
    async def read_connection(id: Id) -> ConnectionView:
        record = await records.connection(ConnectionId(id)) if _ID.fullmatch(id) else None
        if record is None:
            raise HTTPException(404, "There is no such connection")
        return connection_view(record, await records.entries(record.id), clock())

    @routes.post(
        "/connections/{id}/cancellation",
        summary="End a connection",
        description="Legal in every state and at every node. 202: it is being hung up, which its resource shows when "
        "it is done; 200: it is over already.",
        status_code=202,
        responses={200: {"model": ConnectionView}, **_NO_SUCH, 503: {"description": "The record can't be reached"}},
    )
    async def cancel_connection(id: Id, response: Response) -> ConnectionView:
        asked = await canceller.cancel(ConnectionId(id), by="api") if _ID.fullmatch(id) else None
        record = await records.connection(ConnectionId(id)) if asked is not None else None
        if record is None:
            raise HTTPException(404, "There is no such connection")
        response.status_code = 202 if asked else 200
        return connection_view(record, await records.entries(record.id), clock())

    return routes


def connection_view(record: ConnectionRecord, entries: Sequence[Entry], now: datetime) -> ConnectionView:
    """The connection as a resource."""
    return ConnectionView(
        id=record.id,
        created_at=record.created_at,
        not_before=record.not_before,
        expires_at=record.expires_at,
        phase=_phase(record, now),
        outcome=record.outcome,
        ended_by=record.ended_by,
        interval_s=record.interval_s,
        joined_at=record.joined_at,
        ended_at=record.ended_at,
        legs=[_leg_view(leg) for leg in record.legs],
        journal=[_entry_view(entry) for entry in entries if entry.event not in _PRIVATE_NOTES],
    )


def _phase(record: ConnectionRecord, now: datetime) -> str:
    if record.owner is not None or record.outcome is not None:
        return record.phase
    return "scheduled" if record.not_before is not None and record.not_before > now else "queued"


def _leg_view(leg: LegRecord) -> LegView:
    return LegView(
        side=leg.side,
        number=mask_number(leg.number),
        state=leg.state,
        dialed_at=leg.dialed_at,
        answered_at=leg.answered_at,
        ended_at=leg.ended_at,
        reason=leg.reason,
        detail=mask_text(leg.detail),
    )


def _entry_view(entry: Entry) -> EntryView:
    return EntryView(
        at=entry.at,
        event=entry.event,
        side=entry.side,
        before=entry.before,
        after=entry.after,
        facts={name: mask_text(fact) if isinstance(fact, str) else fact for name, fact in entry.facts.items()},
    )
