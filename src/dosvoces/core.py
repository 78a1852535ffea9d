"""
The rules of a connection, pure: `step(connection, event, now) -> (connection, commands)`.

Two leg machines as one table, a handful of joint rules applied until nothing changes, and one list of timers that
serves both `step` and `deadline`. No socket, no clock, no log, no randomness, no await. What is not in the table is
late or doubled: it changes nothing.
"""

import enum
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from dosvoces.events import (
    Answered,
    Cancel,
    Command,
    Dial,
    Dialed,
    Elapsed,
    Ended,
    Event,
    Hangup,
    Join,
    Joined,
    LostAtRestart,
    MailRefused,
    MailSent,
    PlayRinging,
    Report,
    Ringing,
    SendMail,
    Started,
    Unjoined,
    Unreached,
)
from dosvoces.model import EndReason, Outcome, Side


@dataclass(frozen=True, slots=True)
class Terms:
    """The limits of one connection, in seconds."""

    interval_s: float = 0.0
    """From dialling A to dialling B, at least."""
    ring_timeout_s: float = 30.0
    """From dialling a leg to giving it up."""
    talk_limit_s: float = 3600.0
    """From the join to the end."""
    mail_timeout_s: float = 15.0
    """From the start to giving the mail up; the mailbox's own limit is shorter."""
    join_timeout_s: float = 5.0
    """From the order to join to giving it up."""
    release_timeout_s: float = 40.0
    """From a hang-up to writing the leg off: above 64*T1 = 32 s, RFC 3261 §17.1.1.2."""
    max_attempts: int = 5
    """Ways tried to reach one party, while nobody can have been rung."""


class LegState(enum.StrEnum):
    IDLE = "idle"
    DIALING = "dialing"
    RINGING = "ringing"
    ANSWERED = "answered"
    RELEASING = "releasing"
    """We hung up; the far end has not confirmed it."""
    ENDED = "ended"


class MailState(enum.StrEnum):
    PENDING = "pending"
    SENDING = "sending"
    SENT = "sent"
    REFUSED = "refused"


class Phase(enum.StrEnum):
    """Where a connection stands, in one word: derived, for people and for the record."""

    RECORDED = "recorded"
    MAILING = "mailing"
    DIALING_FIRST = "dialing_first"
    RINGING_FIRST = "ringing_first"
    WAITING = "waiting"
    DIALING_SECOND = "dialing_second"
    RINGING_SECOND = "ringing_second"
    JOINING = "joining"
    JOINED = "joined"
    RELEASING = "releasing"
    ENDED = "ended"


class Leg(NamedTuple):
    """One of the two calls. A named tuple: `_replace` takes a third of what it takes a frozen dataclass."""

    state: LegState = LegState.IDLE
    dialed_at: datetime | None = None
    """When its INVITE left; until that is known, when the order to dial was given."""
    answered_at: datetime | None = None
    released_at: datetime | None = None
    """When we hung up."""
    ended_at: datetime | None = None
    rang: bool = False
    """Whether it ever rang or answered."""
    reason: EndReason | None = None
    """Why it ended; known before the end where we hang up because nobody answered."""
    detail: str = ""
    tried: tuple[str, ...] = ()
    """The ways, in the carrier's words, that reached nobody."""

    @property
    def attempt(self) -> int:
        """Of the dial that is under way, or would be next: 1, 2 …"""
        return len(self.tried) + 1

    @property
    def live(self) -> bool:
        """Whether somebody may be on this line, or be rung on it."""
        return self.state not in (LegState.IDLE, LegState.ENDED)


class Connection(NamedTuple):
    """Two legs to be joined. Values only: `step` returns a new one."""

    terms: Terms
    a: Leg = Leg()
    b: Leg = Leg()
    mail: MailState = MailState.PENDING
    started_at: datetime | None = None
    ringback: bool = False
    """Whether A was given the ringing tone to hear while B is called."""
    join_ordered_at: datetime | None = None
    joined_at: datetime | None = None
    verdict: Outcome | None = None
    """Why it closes: set once, with the first thing that ends it. The outcome is this, once both legs are over."""
    failed_side: Side | None = None
    """The party whose call failed or who hung up, if that ended it."""
    ended_by: str = ""
    """Who ended it: `a`, `b`, `timer`, or who cancelled."""
    outcome: Outcome | None = None

    def leg(self, side: Side) -> Leg:
        return self.a if side is Side.A else self.b

    @property
    def phase(self) -> Phase:
        """The phase, derived from what is true of the legs."""
        if self.outcome is not None:
            return Phase.ENDED
        if self.verdict is not None:
            return Phase.RELEASING
        if self.joined_at is not None:
            return Phase.JOINED
        if self.join_ordered_at is not None:
            return Phase.JOINING
        return _PHASE_BY_LEGS.get((self.a.state, self.b.state), self._phase_before_dialing)

    @property
    def _phase_before_dialing(self) -> Phase:
        return Phase.RECORDED if self.started_at is None else Phase.MAILING


_PHASE_BY_LEGS = {
    (LegState.DIALING, LegState.IDLE): Phase.DIALING_FIRST,
    (LegState.RINGING, LegState.IDLE): Phase.RINGING_FIRST,
    (LegState.ANSWERED, LegState.IDLE): Phase.WAITING,
    (LegState.ANSWERED, LegState.DIALING): Phase.DIALING_SECOND,
    (LegState.ANSWERED, LegState.RINGING): Phase.RINGING_SECOND,
}


# --- the leg's table ---

LEG_TABLE: dict[tuple[LegState, type[Event]], LegState] = {
    (LegState.DIALING, Dialed): LegState.DIALING,
    (LegState.DIALING, Ringing): LegState.RINGING,
    (LegState.DIALING, Answered): LegState.ANSWERED,
    (LegState.DIALING, Ended): LegState.ENDED,
    # Idle again: the joint rules dial it by another way; after the last attempt it is ended.
    (LegState.DIALING, Unreached): LegState.IDLE,
    (LegState.RINGING, Answered): LegState.ANSWERED,
    (LegState.RINGING, Ended): LegState.ENDED,
    (LegState.ANSWERED, Ended): LegState.ENDED,
    # A driver that told of ringing must not say this; whatever it says, nobody is rung twice.
    (LegState.RINGING, Unreached): LegState.ENDED,
    (LegState.ANSWERED, Unreached): LegState.ENDED,
    (LegState.RELEASING, Unreached): LegState.ENDED,
    # An answer that crosses our hang-up is the driver's to end (ACK and BYE): here it is late and changes nothing.
    (LegState.RELEASING, Ended): LegState.ENDED,
}
"""
What a carrier's event does to a leg. Beside it, `Dial` makes `dialing` of `idle`, and `Hangup` makes `releasing` of
what is live.
"""


def step(connection: Connection, event: Event, now: datetime) -> tuple[Connection, list[Command]]:
    """
    What the connection is after `event`, and what is to be done about it, in order.

    Total: any event is legal in any state. After the outcome nothing changes and nothing is commanded.
    """
    if connection.outcome is not None:
        return connection, []
    return _settle(_apply(connection, event, now), now)


def deadline(connection: Connection) -> datetime | None:
    """When `Elapsed` should be given next, `None` if nothing is due ever."""
    return min([timer.due for timer in _timers(connection)], default=None)


def _apply(c: Connection, event: Event, now: datetime) -> Connection:
    match event:
        case Started():
            return c._replace(started_at=c.started_at or now)
        case MailSent():
            # A mail accepted after we gave up is late: the caller was told that it failed.
            return c._replace(mail=MailState.SENT) if _mailing(c) else c
        case MailRefused():
            return _close(c._replace(mail=MailState.REFUSED), Outcome.MAIL_FAILED, "mail") if _mailing(c) else c
        case Joined():
            joinable = c.join_ordered_at is not None and c.joined_at is None and c.verdict is None
            return c._replace(joined_at=now) if joinable else c
        case Unjoined():
            return _close(c, Outcome.INTERRUPTED, "media") if c.a.live or c.b.live else c
        case Cancel(by=by):
            return _close(c, Outcome.CANCELLED if c.joined_at is None else Outcome.COMPLETED, by)
        case LostAtRestart(by=by):
            return _close(c, Outcome.INTERRUPTED, by)
        case Elapsed():
            return _elapse(c, now)
        case _:
            return _apply_to_leg(c, event, now)


def _mailing(c: Connection) -> bool:
    return c.mail is MailState.SENDING


def _apply_to_leg(c: Connection, event: Dialed | Ringing | Answered | Ended | Unreached, now: datetime) -> Connection:
    side, leg = event.side, c.leg(event.side)
    state = LEG_TABLE.get((leg.state, type(event)))
    if state is None:
        return c
    if isinstance(event, Unreached):
        if state is LegState.IDLE and leg.attempt < c.terms.max_attempts:
            return _with_leg(c, side, Leg(tried=(*leg.tried, event.way)))
        event, state = Ended(side, EndReason.UNREACHABLE, event.detail), LegState.ENDED
    match event:
        case Dialed():
            leg = leg._replace(dialed_at=now)
        case Ringing():
            leg = leg._replace(state=state, rang=True)
        case Answered():
            leg = leg._replace(state=state, rang=True, answered_at=now)
        case Ended(reason=reason, detail=detail):
            c = _close(c, _verdict(c, side, reason), side, failed_side=side)
            leg = leg._replace(state=state, ended_at=now, reason=leg.reason or reason, detail=detail)
    return _with_leg(c, side, leg)


def _with_leg(c: Connection, side: Side, leg: Leg) -> Connection:
    return c._replace(a=leg) if side is Side.A else c._replace(b=leg)


def _close(c: Connection, verdict: Outcome, by: str, failed_side: Side | None = None) -> Connection:
    """Give the verdict, unless it was given: the first cause counts."""
    if c.verdict is not None:
        return c
    return c._replace(verdict=verdict, ended_by=str(by), failed_side=failed_side)


_VERDICTS: dict[EndReason, tuple[Outcome, Outcome]] = {
    EndReason.BUSY: (Outcome.FIRST_BUSY, Outcome.SECOND_BUSY),
    EndReason.NO_ANSWER: (Outcome.FIRST_NO_ANSWER, Outcome.SECOND_NO_ANSWER),
    EndReason.HANGUP: (Outcome.FIRST_HUNG_UP, Outcome.SECOND_HUNG_UP),
}


def _verdict(c: Connection, side: Side, reason: EndReason) -> Outcome:
    """The outcome when this leg is the first to end."""
    if c.joined_at is not None:
        return Outcome.COMPLETED
    first, second = _VERDICTS.get(reason, (Outcome.FIRST_FAILED, Outcome.SECOND_FAILED))
    return first if side is Side.A else second


# --- timers: one list for `step` and `deadline` ---


def _after(start: datetime, seconds: float) -> datetime:
    return start + timedelta(seconds=seconds)


class _Kind(enum.Enum):
    MAIL = enum.auto()
    RING = enum.auto()
    INTERVAL = enum.auto()
    JOIN = enum.auto()
    TALK = enum.auto()
    RELEASE = enum.auto()


class _Timer(NamedTuple):
    due: datetime
    kind: _Kind
    side: Side | None = None


def _timers(c: Connection) -> list[_Timer]:
    """All that runs; none after the outcome."""
    terms, timers = c.terms, []
    if c.outcome is not None:
        return []
    if c.verdict is None:
        if _mailing(c) and c.started_at is not None:
            timers.append(_Timer(_after(c.started_at, terms.mail_timeout_s), _Kind.MAIL))
        if _waits_for_interval(c) and c.a.dialed_at is not None:
            timers.append(_Timer(_after(c.a.dialed_at, terms.interval_s), _Kind.INTERVAL))
        if c.join_ordered_at is not None and c.joined_at is None:
            timers.append(_Timer(_after(c.join_ordered_at, terms.join_timeout_s), _Kind.JOIN))
        if c.joined_at is not None:
            timers.append(_Timer(_after(c.joined_at, terms.talk_limit_s), _Kind.TALK))
    for side, leg in ((Side.A, c.a), (Side.B, c.b)):
        if leg.state in (LegState.DIALING, LegState.RINGING) and leg.dialed_at is not None:
            timers.append(_Timer(_after(leg.dialed_at, terms.ring_timeout_s), _Kind.RING, side))
        if leg.state is LegState.RELEASING and leg.released_at is not None:
            timers.append(_Timer(_after(leg.released_at, terms.release_timeout_s), _Kind.RELEASE, side))
    return timers


def _elapse(c: Connection, now: datetime) -> Connection:
    for timer in _timers(c):
        if timer.due <= now:
            c = _expire(c, timer, now)
    return c


def _expire(c: Connection, timer: _Timer, now: datetime) -> Connection:
    match timer.kind, timer.side:
        case _Kind.MAIL, _:
            return _close(c._replace(mail=MailState.REFUSED), Outcome.MAIL_FAILED, "timer")
        case _Kind.RING, Side() as side:
            c = _with_leg(c, side, c.leg(side)._replace(reason=EndReason.NO_ANSWER))
            return _close(c, _verdict(c, side, EndReason.NO_ANSWER), "timer", failed_side=side)
        case _Kind.JOIN, _:
            return _close(c, Outcome.INTERRUPTED, "media")
        case _Kind.TALK, _:
            return _close(c, Outcome.COMPLETED, "timer")
        case _Kind.RELEASE, Side() as side:
            ended = c.leg(side)._replace(
                state=LegState.ENDED,
                ended_at=now,
                reason=c.leg(side).reason or EndReason.FAILED,
                detail="the far end never confirmed the hang-up",
            )
            return _with_leg(c, side, ended)
        case _:  # The interval: the joint rules look at the clock themselves.
            return c


# --- the joint rules ---


def _settle(c: Connection, now: datetime) -> tuple[Connection, list[Command]]:
    """Apply the joint rules until nothing changes."""
    commands: list[Command] = []
    while True:
        after, command = _next(c, now)
        if command is not None:
            commands.append(command)
        if after is c:
            return c, commands
        c = after


def _next(c: Connection, now: datetime) -> tuple[Connection, Command | None]:
    """The first joint rule that applies; the connection itself, unchanged, if none does."""
    if c.outcome is not None or (c.started_at is None and c.verdict is None):
        return c, None
    if c.verdict is not None:
        return _release(c, c.verdict, now)
    if c.mail is MailState.PENDING:
        return c._replace(mail=MailState.SENDING), SendMail()
    if c.mail is MailState.SENDING:
        return c, None
    if c.a.state is LegState.IDLE:
        return _dial(c, Side.A, now)
    if c.a.state is LegState.ANSWERED and c.b.state is not LegState.ANSWERED and not c.ringback:
        return c._replace(ringback=True), PlayRinging(Side.A)
    if _waits_for_interval(c) and c.a.dialed_at is not None and _after(c.a.dialed_at, c.terms.interval_s) <= now:
        return _dial(c, Side.B, now)
    if c.a.state is LegState.ANSWERED and c.b.state is LegState.ANSWERED and c.join_ordered_at is None:
        return c._replace(join_ordered_at=now), Join()
    return c, None


def _dial(c: Connection, side: Side, now: datetime) -> tuple[Connection, Command]:
    leg = c.leg(side)._replace(state=LegState.DIALING, dialed_at=now)
    return _with_leg(c, side, leg), Dial(side, leg.attempt)


def _waits_for_interval(c: Connection) -> bool:
    """Design rule 2: B is dialled when the interval has passed and A has answered."""
    return c.a.state is LegState.ANSWERED and c.b.state is LegState.IDLE


def _release(c: Connection, verdict: Outcome, now: datetime) -> tuple[Connection, Command | None]:
    """Closing: hang up every live leg, and when both are over, the outcome."""
    for side, leg in ((Side.A, c.a), (Side.B, c.b)):
        if leg.live and leg.state is not LegState.RELEASING:
            return _with_leg(c, side, leg._replace(state=LegState.RELEASING, released_at=now)), Hangup(side)
    if c.a.live or c.b.live:
        return c, None
    return c._replace(outcome=verdict), Report(verdict)


# --- what the client is told ---


class AnswerKind(enum.StrEnum):
    MADE = "made"
    """Both calls were made: B rings or has answered."""
    MAIL_FAILED = "mail_failed"
    CALL_FAILED = "call_failed"
    NOT_TRIED = "not_tried"  # The service let go before anybody was dialled: it may be asked for anew.


@dataclass(frozen=True, slots=True)
class Answer:
    """What `POST /call` answers, given once."""

    kind: AnswerKind
    side: Side | None = None
    """The party whose call failed, or who hung up before B rang."""


def answer(c: Connection) -> Answer | None:
    """The answer, or `None` while it is open."""
    if c.b.rang:
        return Answer(AnswerKind.MADE)
    if c.verdict is None:
        return None
    if c.verdict is Outcome.INTERRUPTED and c.a.dialed_at is None:
        return Answer(AnswerKind.NOT_TRIED)
    if c.mail is not MailState.SENT:  # Cancelled meanwhile, or refused: no call was tried.
        return Answer(AnswerKind.MAIL_FAILED)
    trying = Side.A if c.a.answered_at is None else Side.B
    return Answer(AnswerKind.CALL_FAILED, c.failed_side or trying)
