"""What a webhook says: the connection as it stands, as JSON. Pure."""

import json
from datetime import UTC, datetime
from typing import Any

from dosvoces.store import ConnectionRecord, LegRecord
from dosvoces.store.reports import Report


def message(report: Report, record: ConnectionRecord) -> str:
    """
    The body for `report` (Standard Webhooks: `type`, `timestamp`, `data`).

    The data has the names of `GET /v1/connections/{id}`, with the numbers and the lead in full: who gets it is the
    operator's own, and it is signed and, outside of his network, encrypted.
    """
    return json.dumps(
        {"type": report.event, "timestamp": _iso(report.at), "data": _data(report, record)}, ensure_ascii=False
    )


def _data(report: Report, record: ConnectionRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "sequence": report.number,
        "side": report.side,
        "created_at": _iso(record.created_at),
        "not_before": _iso(record.not_before),
        "expires_at": _iso(record.expires_at),
        "test": record.test,
        "phase": record.phase,
        "outcome": record.outcome,
        "ended_by": record.ended_by,
        "interval_s": record.interval_s,
        "joined_at": _iso(record.joined_at),
        "ended_at": _iso(record.ended_at),
        "first_number": record.first,
        "second_number": record.second,
        "email": record.email,
        "lead": record.lead,
        "legs": [_leg(leg) for leg in record.legs],
    }


def _leg(leg: LegRecord) -> dict[str, Any]:
    return {
        "side": leg.side,
        "number": leg.number,
        "state": leg.state,
        "dialed_at": _iso(leg.dialed_at),
        "answered_at": _iso(leg.answered_at),
        "ended_at": _iso(leg.ended_at),
        "reason": leg.reason,
        "detail": leg.detail,
    }


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).isoformat().replace("+00:00", "Z")
