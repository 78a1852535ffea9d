"""What a webhook says: the connection as it stands, as JSON. Pure."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from dosvoces.model import Facts
from dosvoces.snapshot import quality, sip_code
from dosvoces.store import ConnectionRecord, Entry, LegRecord
from dosvoces.store.reports import Report


def message(report: Report, record: ConnectionRecord, statistics: Sequence[Entry] = ()) -> str:
    """
    The body for `report` (Standard Webhooks: `type`, `timestamp`, `data`).

    The data is all that `GET /v1/connections/{id}` shows, with the numbers and the lead in full: who gets it is the
    operator's own, and it is signed and, outside of his network, encrypted. `statistics` are those of its journal.
    """
    return json.dumps(
        {"type": report.event, "timestamp": _iso(report.at), "data": _data(report, record, statistics)},
        ensure_ascii=False,
    )


def _data(report: Report, record: ConnectionRecord, statistics: Sequence[Entry]) -> dict[str, Any]:
    figures = quality(statistics)
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
        "mail": record.mail,
        "interval_s": record.interval_s,
        "ring_timeout_s": record.ring_timeout_s,
        "talk_limit_s": record.talk_limit_s,
        "locale": record.locale,
        "metadata": dict(record.metadata),
        "webhook_url": record.webhook_url or None,
        "joined_at": _iso(record.joined_at),
        "ended_at": _iso(record.ended_at),
        "first_number": record.first,
        "second_number": record.second,
        "email": record.email,
        "lead": record.lead,
        "legs": [_leg(leg, figures.get(leg.side)) for leg in record.legs],
    }


def _leg(leg: LegRecord, figures: Facts | None) -> dict[str, Any]:
    return {
        "side": leg.side,
        "number": leg.number,
        "state": leg.state,
        "dialed_at": _iso(leg.dialed_at),
        "answered_at": _iso(leg.answered_at),
        "ended_at": _iso(leg.ended_at),
        "reason": leg.reason,
        "sip_code": sip_code(leg),
        "detail": leg.detail,
        "quality": figures,
    }


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).isoformat().replace("+00:00", "Z")
