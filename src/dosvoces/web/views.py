"""
Connections, their events and their mails as resources of `/v1`. Pure.

There may be no keys, so nothing here is confidential: numbers and addresses are masked, the lead is left out. What the
client put into `metadata` is given back as it came.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from dosvoces.core import MailState
from dosvoces.model import Facts, mask_email, mask_number, mask_text
from dosvoces.snapshot import quality, sip_code
from dosvoces.store import ConnectionRecord, Entry, KeptMail, LegRecord

PRIVATE_NOTES = frozenset({"dialog"})
"""Notes that say what it takes to hang up after a crash, and so what it takes to forge a hang-up."""


@dataclass(frozen=True, slots=True)
class QualityView:
    """How a leg's audio fared, by RTP and RTCP; see docs/howto/call-quality.md."""

    received: int | None = None
    """Packets that came from this party."""
    sent: int | None = None
    lost: int | None = None
    jitter_ms: float | None = None
    round_trip_ms: float | None = None
    mos: float | None = None
    """Estimated mean opinion score of what came from this party, 1 to 4.5."""
    mos_there: float | None = None
    """The same of what this party heard."""
    lost_there: int | None = None
    jitter_there_ms: float | None = None


@dataclass(frozen=True, slots=True)
class LegView:
    """One call to one number."""

    side: str
    """`a` is dialled first, `b` second."""
    number: str
    state: str
    dialed_at: datetime | None
    answered_at: datetime | None
    ended_at: datetime | None
    reason: str | None
    """Why it ended: `hangup`, `busy`, `no_answer`, `rejected`, `unreachable`, `cancelled`, `failed`."""
    sip_code: int | None
    """How the far end answered the call: 200 when it was taken, else the final status, if there was one."""
    detail: str
    quality: QualityView | None
    """Known once the connection is over."""


@dataclass(frozen=True, slots=True)
class EventView:
    """One line of a connection's journal."""

    id: str
    connection: str
    number: int
    """1, 2, 3 … within its connection."""
    at: datetime
    event: str
    side: str | None
    before: str
    """The phase before."""
    after: str
    facts: dict[str, str | int | float | None]


@dataclass(frozen=True, slots=True)
class EventsView:
    """A page of events, oldest first."""

    data: list[EventView]
    next_cursor: str | None
    """`cursor` of the next page; null on the last."""


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
    """How it ended, set once; null while it hasn't."""
    ended_by: str
    """Who hung up or ended it: `a`, `b`, `api`, `restart` …; empty while nobody has."""
    mail: str
    """`pending`, `sending`, `sent` or `refused`."""
    interval_s: int
    ring_timeout_s: int | None
    talk_limit_s: int | None
    locale: str
    metadata: dict[str, str]
    test: bool
    """A trial run: nobody was rung, no mail left."""
    joined_at: datetime | None
    ended_at: datetime | None
    legs: list[LegView]


@dataclass(frozen=True, slots=True)
class ConnectionsView:
    """A page of connections, the newest first."""

    data: list[ConnectionView]
    next_cursor: str | None
    """`cursor` of the next page; null on the last."""


@dataclass(frozen=True, slots=True)
class KeptMailView:
    """A mail in the embedded inbox."""

    number: int
    """`dosvoces mail NUMBER` shows all of it."""
    message_id: str
    recipient: str
    kept_at: datetime
    size: int
    """Bytes."""


@dataclass(frozen=True, slots=True)
class MailView:
    """What became of the mail about the lead."""

    state: str
    """`pending`, `sending`, `sent` or `refused`."""
    recipient: str
    detail: str
    """Why it was refused."""
    kept: list[KeptMailView]
    """Where mails are kept in the embedded inbox: those about this connection."""


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
