"""What `/openapi.json` says of the answers of `/v1`: an example of each. Pure; a test keeps it true."""

import json
from typing import Any

from dosvoces.web.answers import Problem
from dosvoces.web.problems import (
    AT_THE_DOOR,
    FAILED,
    FORBIDDEN,
    INVALID,
    KEY_REUSED,
    MEDIA,
    MEDIA_TYPE,
    NO_MORE_STREAMS,
    NO_RECORD,
    NO_SUCH_ADDRESS,
    NO_SUCH_CONNECTION,
    NO_SUCH_DELIVERY,
    NO_SUCH_ENDPOINT,
    NO_SUCH_EVENT,
    NOT_A_TRIAL,
    NOT_NOW,
    TOO_LARGE,
    TOO_MANY,
    TOO_SLOW,
    Kind,
    details,
)

Responses = dict[int | str, dict[str, Any]]

_ID = "01m8gcrrkzkq5pr8w64r5rrn30"
_LEG: dict[str, Any] = {
    "side": "a",
    "number": "+34600•••011",
    "state": "ended",
    "dialed_at": "2026-05-09T07:35:25.180000Z",
    "answered_at": "2026-05-09T07:35:29.402000Z",
    "ended_at": "2026-05-09T07:37:02.911000Z",
    "reason": "hangup",
    "sip_code": 200,
    "detail": "BYE",
    "quality": {
        "received": 4675,
        "sent": 4381,
        "lost": 2,
        "jitter_ms": 0.41,
        "round_trip_ms": 31.0,
        "mos": 4.36,
        "mos_there": 4.35,
        "lost_there": 3,
        "jitter_there_ms": 0.9,
    },
}
CONNECTION_EXAMPLE: dict[str, Any] = {
    "id": _ID,
    "created_at": "2026-05-09T07:35:25.123000Z",
    "not_before": None,
    "expires_at": None,
    "phase": "ended",
    "outcome": "completed",
    "ended_by": "a",
    "mail": "sent",
    "interval_s": 3,
    "ring_timeout_s": 25,
    "talk_limit_s": None,
    "locale": "es",
    "metadata": {"lead_id": "4711"},
    "webhook_url": None,
    "test": False,
    "joined_at": "2026-05-09T07:35:33.020000Z",
    "ended_at": "2026-05-09T07:37:02.950000Z",
    "legs": [_LEG, _LEG | {"side": "b", "number": "+34960•••022", "reason": "cancelled"}],
}
OPEN_EXAMPLE: dict[str, Any] = CONNECTION_EXAMPLE | {
    "phase": "recorded",
    "outcome": None,
    "ended_by": "",
    "mail": "pending",
    "joined_at": None,
    "ended_at": None,
    "legs": [
        dict.fromkeys(_LEG) | {"side": side, "number": number, "state": "idle", "detail": ""}
        for side, number in (("a", "+34600•••011"), ("b", "+34960•••022"))
    ],
}
_EVENT = {
    "id": f"{_ID}-7",
    "connection": _ID,
    "number": 7,
    "at": "2026-05-09T07:35:29.402000Z",
    "event": "answered",
    "side": "a",
    "before": "ringing_first",
    "after": "waiting",
    "facts": {},
}
_SSE = "text/event-stream"
_STREAMED: dict[str, Any] = {
    "schema": {"type": "string"},
    "example": f"id: {_EVENT['id']}\nevent: {_EVENT['event']}\ndata: {json.dumps(_EVENT)}\n\n",
}
_MAIL = {
    "state": "sent",
    "recipient": "a•••@example.com",
    "detail": "",
    "kept": [
        {
            "number": 12,
            "message_id": f"<{_ID}@example.com>",
            "recipient": "a•••@example.com",
            "kept_at": "2026-05-09T07:35:25.150000Z",
            "size": 2318,
        }
    ],
}
PROBLEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "Problem details (RFC 9457)",
    "required": ["type", "title", "status", "code"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string", "description": "Stable, for programs; see docs/reference/problems.md"},
        "detail": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["field", "code", "message"],
                "properties": {name: {"type": "string"} for name in ("field", "code", "message")},
            },
        },
    },
}


def problems(*kinds: Kind) -> Responses:
    """What is said of these answers, by status, and of those that every address has."""
    said: Responses = {}
    for kind in (*kinds, *AT_THE_DOOR, FAILED, NO_RECORD):
        errors = [Problem("limit", "range", "Input should be less than or equal to 200")] if kind is INVALID else []
        said.setdefault(kind.status, _problem(kind.title))
        content = said[kind.status]["content"][MEDIA_TYPE]
        content["examples"][kind.code] = {"summary": kind.title, "value": details(kind, "", errors)}
        if kind.status in (429, 503):
            retry = {"Retry-After": {"description": "Seconds", "schema": {"type": "integer"}}}
            said[kind.status]["headers"] = retry
    return said


def _problem(title: str) -> dict[str, Any]:
    content = {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": {}}
    return {"description": title, "content": {MEDIA_TYPE: content}}


_NULL = "null, as FastAPI would leave it out"


def with_nulls(said: Any) -> Any:
    """What FastAPI made of examples, with the nulls in them that it would have left out."""
    return _replaced(said, _NULL, None)


def _replaced(value: Any, old: Any, new: Any) -> Any:
    if isinstance(value, dict):
        return {name: _replaced(one, old, new) for name, one in value.items()}
    if isinstance(value, list):
        return [_replaced(one, old, new) for one in value]
    return new if value == old else value


def _shown(status: int, example: Any, description: str = "Successful Response") -> Responses:
    shown = {"example": _replaced(example, None, _NULL)}
    return {status: {"description": description, "content": {"application/json": shown}}}


_OVER = _shown(200, CONNECTION_EXAMPLE, "It is over already")
_OVER[200]["content"]["application/json"]["schema"] = {"$ref": "#/components/schemas/ConnectionView"}

LIST = _shown(200, {"data": [CONNECTION_EXAMPLE], "next_cursor": None}) | problems(INVALID)
CONNECTION = _shown(200, CONNECTION_EXAMPLE) | problems(NO_SUCH_CONNECTION)
CANCELLATION = _shown(202, OPEN_EXAMPLE, "It is being hung up") | _OVER | problems(NOT_A_TRIAL, NO_SUCH_CONNECTION)
_SEEN: Responses = {204: {"description": "In a stream: its end was seen already"}}
EVENTS = (
    _shown(200, {"data": [_EVENT], "next_cursor": None})
    | _SEEN
    | problems(INVALID, NO_SUCH_CONNECTION, NO_MORE_STREAMS)
)
EVENTS[200]["content"][_SSE] = _STREAMED
_LIVE: Responses = {200: {"description": "Events as they happen", "content": {_SSE: _STREAMED}}}
STREAM = _LIVE | problems(INVALID, NO_SUCH_EVENT, NO_MORE_STREAMS)
MAIL = _shown(200, _MAIL) | problems(NO_SUCH_CONNECTION)
PROBLEM = _shown(
    200,
    {
        "type": NO_SUCH_ADDRESS.type,
        "code": NO_SUCH_ADDRESS.code,
        "status": 404,
        "title": NO_SUCH_ADDRESS.title,
        "remedy": NO_SUCH_ADDRESS.remedy,
    },
) | problems(NO_SUCH_ADDRESS)
STOP = problems(FORBIDDEN)
_DELIVERY = {
    "webhook_id": f"{_ID}.7",
    "event": "connection.ended",
    "endpoint": "crm",
    "state": "waiting",
    "tries": 1,
    "answer": "HTTP 503",
    "at": "2026-05-09T07:37:02.950000Z",
    "tried_at": "2026-05-09T07:37:03.120000Z",
    "next_at": "2026-05-09T07:37:08.030000Z",
}
_WEBHOOK = {
    "name": "crm",
    "url": "https://crm.example.com/dosvoces",
    "events": ["connection.ended"],
    "state": "disabled",
    "failing_since": "2026-05-04T07:36:10.400000Z",
    "disabled_at": "2026-05-09T07:37:03.120000Z",
    "why": "HTTP 503",
}
DELIVERIES = _shown(200, {"data": [_DELIVERY]}) | problems(NO_SUCH_CONNECTION)
REPLAY = _shown(202, {"data": [_DELIVERY]}, "It is told once more, or waits already") | problems(
    INVALID, NO_SUCH_CONNECTION, NO_SUCH_DELIVERY
)
WEBHOOKS = _shown(200, {"data": [_WEBHOOK]}) | problems()
_ENABLED = {"state": "enabled", "failing_since": None, "disabled_at": None, "why": ""}
ENABLED = _shown(200, _WEBHOOK | _ENABLED) | problems(FORBIDDEN, NO_SUCH_ENDPOINT)
ASKED = problems(INVALID, TOO_SLOW, TOO_LARGE, MEDIA, KEY_REUSED, TOO_MANY, NOT_NOW)
