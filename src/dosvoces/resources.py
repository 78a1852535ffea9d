"""
The resources of `/v1` as values: what the service shows, and what `dosvoces.client` gives back.

Light on purpose: nothing of the service is imported with it.
"""

from dataclasses import dataclass
from datetime import datetime


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
    webhook_url: str | None
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
