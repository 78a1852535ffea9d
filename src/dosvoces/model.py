"""
The words of the project as values: what a connection, a leg, a lead and an outcome are.

Pure: no clock, no socket, no randomness. Everything else may import it; it imports nothing of ours.
"""

import enum
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NewType, TypeAlias

ConnectionId = NewType("ConnectionId", str)
LegId = NewType("LegId", str)
NodeId = NewType("NodeId", str)
"""Of one run of the process: a restarted one is another node."""

Facts: TypeAlias = dict[str, str | int | float | None]
"""Texts and numbers by name, fit for the record: what an adapter wants kept and alone understands."""


Texts: TypeAlias = tuple[tuple[str, str], ...]
"""Texts by name, in the client's order."""


class Side(enum.StrEnum):
    """Which of the two legs: `A` is dialled first, `B` second."""

    A = "a"
    B = "b"

    @property
    def other(self) -> "Side":
        return Side.B if self is Side.A else Side.A


class EndReason(enum.StrEnum):
    """Why a leg ended; the carrier's own words go beside it, in a detail."""

    HANGUP = "hangup"
    BUSY = "busy"
    NO_ANSWER = "no_answer"
    REJECTED = "rejected"
    UNREACHABLE = "unreachable"
    CANCELLED = "cancelled"
    FAILED = "failed"


class Outcome(enum.StrEnum):
    """How a connection ended; set once."""

    COMPLETED = "completed"
    FIRST_BUSY = "first_busy"
    FIRST_NO_ANSWER = "first_no_answer"
    FIRST_FAILED = "first_failed"
    FIRST_HUNG_UP = "first_hung_up"
    SECOND_BUSY = "second_busy"
    SECOND_NO_ANSWER = "second_no_answer"
    SECOND_FAILED = "second_failed"
    SECOND_HUNG_UP = "second_hung_up"
    CANCELLED = "cancelled"
    MAIL_FAILED = "mail_failed"
    INTERRUPTED = "interrupted"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class PhoneNumber:
    """A number that may be dialled, made by `dialplan` and by nothing else."""

    e164: str
    """`+` and 7 to 15 digits (ITU-T E.164)."""
    as_received: str
    """What the client wrote; answers quote it."""

    def __str__(self) -> str:
        return self.e164

    @property
    def masked(self) -> str:
        """`+34600•••011`: enough to tell two calls apart in a log, too little to dial."""
        return mask_number(self.e164)


def mask_number(number: str) -> str:
    """`+34600000011` → `+34600•••011`; what is too short to hide in is hidden whole."""
    return f"{number[:6]}•••{number[-3:]}" if len(number) >= 11 else "•••"


def mask_email(address: str) -> str:
    """`ana@example.com` → `a•••@example.com`."""
    local, at, domain = address.rpartition("@")
    return f"{local[:1]}•••{at}{domain}" if at else "•••"


_NUMBER_IN_TEXT = re.compile(r"\+?\d[\d .()-]{6,}\d")
# It begins where a word does: a long text without blanks must not be read once for each of its letters.
_EMAIL_IN_TEXT = re.compile(r"(?<![^\s<>\"'@])[^\s<>\"'@]++@[^\s<>\"']+")


def mask_text(text: str) -> str:
    """`text` with all that looks like a phone number or an e-mail address masked."""
    text = _EMAIL_IN_TEXT.sub(lambda m: mask_email(m[0]), text)
    return _NUMBER_IN_TEXT.sub(lambda m: mask_number(re.sub(r"[^\d+]", "", m[0])), text)


@dataclass(frozen=True, slots=True)
class Lead:
    """What came with the request, for the person who handles it. Absent texts are `None`."""

    email: str
    """Whom the lead is mailed to: one addr-spec."""
    property_name: str | None = None
    agent_name: str | None = None
    url: str | None = None
    """As received; not fetched, and a link only if it is http or https."""
    city: str | None = None
    area_m2: str | None = None
    price: str | None = None
    more: Texts = field(default=(), kw_only=True)
    """Whatever else the client wants the recipient to read, under its own names."""


@dataclass(frozen=True, slots=True)
class Repeats:
    """When a request counts as a repeat of an earlier one, so that nobody is rung for it again."""

    key_lifetime_s: int = 24 * 3600
    """Of an idempotency key, from the first request under it; one that is still open keeps its key."""
    coalesce_s: int | None = None
    """Without a key: how long after the end of an identical request; `None`: each request is carried out."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a client stands against one of its ceilings, after its request was counted or refused."""

    name: str
    """`key-hour`, `source-day` …"""
    most: int
    window_s: int
    left: int
    reset_s: int
    """Seconds until it is counted anew."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """That a connection was the one with which so much of a ceiling is used up."""

    ceiling: str
    """`calls-day`, `key-hour` …"""
    key: str
    """The API key's id, where it is a key's ceiling."""
    percent: int
    used: int | float
    most: int | float
    """Calls or mails, minutes, or units of the rates' currency."""


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asked for a connection, as far as that is known."""

    key: str = ""
    """The API key's id; empty for whoever needs none."""
    source: str = ""
    """The network address that it came from; of IPv6 the /64, of which one host has as many addresses as it likes."""
    limits: Mapping[str, int | float | str] = field(default_factory=dict)
    """The key's own ceilings by name (`keys.OWN_LIMITS`)."""
    standing: list[Standing] = field(default_factory=list, compare=False)
    """Filled in by the record when it counts the request."""
    alarms: list[Alarm] = field(default_factory=list, compare=False)
    """Likewise."""


@dataclass(frozen=True, slots=True)
class Order:
    """One accepted request: whom to connect, and when. Checked and normalised, not yet recorded."""

    id: ConnectionId
    created_at: datetime
    first: PhoneNumber
    second: PhoneNumber
    lead: Lead
    interval_s: int
    """0 to 300 seconds from dialling A to dialling B."""
    idempotency_key: str | None = None
    fingerprint: str = ""
    """SHA-256 (hex) of what was asked for, however it was written: equal for a request and its repeats."""
    repeats: Repeats = Repeats()
    """What it may be a repeat of; not recorded."""
    resumes: ConnectionId | None = None
    """The connection that tried the same first and was ended by a crash before anybody was dialled."""
    mailed: bool = False
    """Whether that one's mail was accepted: it isn't sent again."""
    caller_id_first: str = ""
    """What the first party sees, in E.164, of the trunk's `caller_ids`; empty: what the settings say."""
    caller_id_second: str = ""
    not_before: datetime | None = None
    """When it may begin, in UTC; `None`: at once."""
    expires_at: datetime | None = None
    """When it is refused if it has not begun; `None`: never."""
    ring_timeout_s: int | None = None
    """Longest that a number is rung, never beyond what the settings say; `None`: that."""
    talk_limit_s: int | None = None
    """Longest conversation, never beyond what the settings say; `None`: that."""
    locale: str = ""
    """The language of its mails; empty: what the settings say."""
    metadata: Texts = ()
    """The client's own; kept and given back."""
    webhook_url: str = ""
    """Who is told what happens to it, beside those in the settings; empty: nobody."""
    asker: Asker = field(default_factory=Asker)
    """Whose ceilings it counts against."""
    test: bool = False
    """A trial run: everything is done but that nobody is rung and no mail leaves."""

    def caller_id(self, side: Side) -> str:
        return self.caller_id_first if side is Side.A else self.caller_id_second

    def number(self, side: Side) -> PhoneNumber:
        return self.first if side is Side.A else self.second


Trunks = Mapping[Side, Sequence[str]]
"""The names of the trunks that could take each side."""
NO_TRUNKS: Trunks = {}


def leg_id(connection: ConnectionId, side: Side) -> LegId:
    """The leg's own id, the same at every place: in the record, in the log and in the Call-ID."""
    return LegId(f"{connection}-{side}")


_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"


def connection_id(now: datetime, entropy: int) -> ConnectionId:
    """
    A new id: 26 characters, sorted by time (48 bits of milliseconds, 80 bits of `entropy`), a ULID in lower case.
    """
    value = (int(now.timestamp() * 1000) << 80) | (entropy & ((1 << 80) - 1))
    return ConnectionId("".join(_CROCKFORD[(value >> shift) & 31] for shift in range(125, -1, -5)))


def node_id(now: datetime, entropy: int) -> NodeId:
    """A new id of a node: made like a connection's."""
    return NodeId(connection_id(now, entropy))


@dataclass(frozen=True, slots=True)
class Note:
    """Something worth keeping that changes no state: a digit, a hold, a leg's statistics, a dialog's identifiers."""

    kind: str
    """`digit`, `hold`, `resume`, `silent`, `statistics`, `dialog`, `media_source` …"""
    side: "Side | None" = None
    facts: Facts = field(default_factory=dict)
