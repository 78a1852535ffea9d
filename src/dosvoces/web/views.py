"""
Connections, their events and their mails as resources of `/v1`. Pure.

There may be no keys, so nothing here is confidential: numbers and addresses are masked, the lead is left out. What the
client put into `metadata` is given back as it came.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime

from dosvoces.core import MailState
from dosvoces.model import Facts, mask_email, mask_number, mask_text
from dosvoces.resources import (
    ConnectionsView,
    ConnectionView,
    EventsView,
    EventView,
    KeptMailView,
    LegView,
    MailView,
    QualityView,
)
from dosvoces.snapshot import quality, sip_code
from dosvoces.store import ConnectionRecord, Entry, KeptMail, LegRecord

__all__ = [
    "ConnectionView",
    "ConnectionsView",
    "EventView",
    "EventsView",
    "KeptMailView",
    "LegView",
    "MailView",
    "QualityView",
]

PRIVATE_NOTES = frozenset({"dialog"})
"""Notes that say what it takes to hang up after a crash, and so what it takes to forge a hang-up."""


def connection_view(record: ConnectionRecord, entries: Iterable[Entry], now: datetime) -> ConnectionView:
    """The connection as a resource; of `entries`, its own statistics count."""
    figures = quality(entry for entry in entries if entry.connection_id == record.id)
    return ConnectionView(
        id=record.id,
        created_at=record.created_at,
        not_before=record.not_before,
        expires_at=record.expires_at,
        phase=record.phase_at(now),
        outcome=record.outcome,
        ended_by=record.ended_by,
        mail=record.mail,
        interval_s=record.interval_s,
        ring_timeout_s=record.ring_timeout_s,
        talk_limit_s=record.talk_limit_s,
        locale=record.locale,
        metadata=dict(record.metadata),
        webhook_url=record.webhook_url or None,
        test=record.test,
        joined_at=record.joined_at,
        ended_at=record.ended_at,
        legs=[_leg_view(leg, figures.get(leg.side)) for leg in record.legs],
    )


def event_views(entries: Iterable[Entry]) -> list[EventView]:
    """What may be shown of journals."""
    return [_event_view(entry) for entry in entries if entry.event not in PRIVATE_NOTES]


def mail_view(record: ConnectionRecord, entries: Iterable[Entry], kept: Sequence[KeptMail]) -> MailView:
    """What became of its mail."""
    refused = [entry for entry in entries if entry.event == "mail_refused"]
    detail = str(refused[-1].facts.get("detail") or "") if refused else ""
    return MailView(
        state=MailState(record.mail).value,
        recipient=mask_email(record.email),
        detail=mask_text(detail),
        kept=[
            KeptMailView(mail.number, mail.message_id, mask_email(mail.recipient), mail.kept_at, len(mail.content))
            for mail in kept
        ],
    )


def _leg_view(leg: LegRecord, figures: Facts | None) -> LegView:
    return LegView(
        side=leg.side,
        number=mask_number(leg.number),
        state=leg.state,
        dialed_at=leg.dialed_at,
        answered_at=leg.answered_at,
        ended_at=leg.ended_at,
        reason=leg.reason,
        sip_code=sip_code(leg),
        detail=mask_text(leg.detail),
        quality=None if figures is None else QualityView(**figures),  # type: ignore[arg-type]
    )


def _event_view(entry: Entry) -> EventView:
    return EventView(
        id=f"{entry.connection_id}-{entry.number}",
        connection=entry.connection_id,
        number=entry.number,
        at=entry.at,
        event=entry.event,
        side=entry.side,
        before=entry.before,
        after=entry.after,
        facts={name: mask_text(fact) if isinstance(fact, str) else fact for name, fact in entry.facts.items()},
    )
