"""
Writes the record for people: a list of connections, one connection as a timeline, the kept mails.

Pure text of at most 80 columns, without colour, so that it reads the same in a terminal, a pipe and a ticket. What came
from outside (a carrier's words, a mail) has its control characters taken out: they could rewrite a terminal.
"""

import email.message
import email.policy
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from email import message_from_bytes

from dosvoces.model import Side
from dosvoces.store import ConnectionRecord, Entry, KeptMail, LegRecord

WIDTH = 80
_LABEL = 11
_SECONDS = 10
_WHAT = 48


def render_list(records: Sequence[ConnectionRecord], now: datetime) -> str:
    """The connections as given, two lines each, as they stand at `now`."""
    if not records:
        return "No connections yet."
    return "\n".join(line for record in records for line in _list_lines(record, now))


def render_connection(record: ConnectionRecord, entries: Sequence[Entry], now: datetime) -> str:
    """What was asked, how it ended, how long each part took, and all that happened, in seconds from the start."""
    parts = [_title(record, now), *_facts(record, _rang_at(entries)), "", *_timeline(record.created_at, entries)]
    return "\n".join(parts)


def render_mail_list(mails: Sequence[KeptMail]) -> str:
    """The mails as given, one line each."""
    if not mails:
        return "No mails kept."
    lines = ["    no  kept (UTC)           to                        subject"]
    for mail in mails:
        kept = f"{mail.kept_at:%Y-%m-%d %H:%M:%S}"
        lines.append(f"{mail.number:>6}  {kept}  {_fit(mail.recipient, 24):<24}  {_fit(mail.subject, 25)}".rstrip())
    return "\n".join(lines)


def render_mail(mail: KeptMail) -> str:
    """A mail's headers and its plain text, as the recipient reads it."""
    message = message_from_bytes(mail.content, policy=email.policy.default)
    lines = [f"Mail {mail.number}, kept {mail.kept_at:%Y-%m-%d %H:%M:%S} UTC for {_clean(mail.recipient)}", ""]
    for name in ("From", "To", "Subject", "Date", "Message-ID"):
        if (value := message.get(name)) is not None:
            lines.append(_clean(f"{name}: {value}"))
    lines += ["", *(_clean(line) for line in _plain_text(message).splitlines())]
    return "\n".join(lines)


# --- a connection ---


def _list_lines(record: ConnectionRecord, now: datetime) -> Iterator[str]:
    created = f"{record.created_at:%Y-%m-%d %H:%M:%S}"
    talked = _talk_seconds(record)
    end = ("test: " if record.test else "") + (_spoken(record.outcome) if record.outcome else _standing(record, now))
    yield f"{created}  {record.id}  {end}{'' if talked is None else f', {_clock(talked)}'}"
    yield _fit(f"{'':19}  {record.first} → {record.second}  {record.email}", WIDTH)


def _standing(record: ConnectionRecord, now: datetime) -> str:
    """Of one that isn't over: `ringing first …`; without the year, which is this one or the next, it fits the line."""
    phase = record.phase_at(now)
    if phase == "scheduled" and record.not_before is not None:
        return f"scheduled, {record.not_before:%m-%d %H:%M}"
    return f"{_spoken(phase)} …"


def _title(record: ConnectionRecord, now: datetime) -> str:
    if record.outcome is None:
        return f"Connection {record.id}: {_spoken(record.phase_at(now))}"
    by = f", ended by {_who(record.ended_by)}" if record.ended_by else ""
    return _clean(f"Connection {record.id}: {_spoken(record.outcome)}{by}")


def _facts(record: ConnectionRecord, rang_at: Mapping[Side, datetime]) -> Iterator[str]:
    if record.test:
        yield from _labelled("test", "a trial run: nobody is rung, no mail leaves")
    yield from _labelled("asked", f"{record.created_at:%Y-%m-%d %H:%M:%S.%f}"[:-3] + " UTC")
    for label, at in (("begins", record.not_before), ("expires", record.expires_at)):
        if at is not None:
            yield from _labelled(label, f"{at:%Y-%m-%d %H:%M:%S} UTC")
    yield from _labelled("interval", f"{record.interval_s} s")
    for name, number, side in (("A, first", record.first, Side.A), ("B, second", record.second, Side.B)):
        yield from _labelled(name, " · ".join([number, *_leg_words(_leg(record, side))]))
    yield from _labelled("mail to", record.email)
    for name, value in record.lead.items():
        if value is not None:
            yield from _labelled(_LEAD_LABELS.get(name, _spoken(name)), value)
    if record.answer_status is not None:
        yield from _labelled("answered", str(record.answer_status))
    for label, duration in _durations(record, rang_at):
        yield from _labelled(label, duration)


_LEAD_LABELS = {"property_name": "property", "agent_name": "agent", "area_m2": "area m²"}


def _leg_words(leg: LegRecord | None) -> Iterator[str]:
    if leg is None or leg.state == "idle":
        yield "not dialled"
    elif leg.state != "ended":
        yield leg.state
    else:
        yield _spoken(leg.reason or "ended")
        if leg.detail:
            yield leg.detail


def _rang_at(entries: Iterable[Entry]) -> dict[Side, datetime]:
    """When each phone began to ring; whoever was busy, or not there, never did."""
    rang_at: dict[Side, datetime] = {}
    for entry in entries:
        if entry.event == "ringing" and entry.side is not None:
            rang_at.setdefault(entry.side, entry.at)
    return rang_at


def _durations(record: ConnectionRecord, rang_at: Mapping[Side, datetime]) -> Iterator[tuple[str, str]]:
    """How long each rang, how long A waited for B, how long they talked."""
    legs = {side: _leg(record, side) for side in Side}
    for side, leg in legs.items():
        if leg is not None and side in rang_at and (until := leg.answered_at or leg.ended_at) is not None:
            yield f"{side.name} rang", _seconds(rang_at[side], until)
    a = legs[Side.A]
    if a is not None and a.answered_at is not None and (until := record.joined_at or a.ended_at) is not None:
        yield "A waited", _seconds(a.answered_at, until)
    if record.joined_at is not None and (until := _talk_end(record)) is not None:
        yield "talked", _seconds(record.joined_at, until)


def _talk_end(record: ConnectionRecord) -> datetime | None:
    """
    The first leg that ended ends the talk; the other one is only released.

    After a crash nobody knows: the legs' ends in the record are those of the next start, maybe hours later.
    """
    if record.ended_by == "restart":
        return None
    ends = [leg.ended_at for leg in record.legs if leg.ended_at is not None]
    return min(ends, default=record.ended_at)


def _talk_seconds(record: ConnectionRecord) -> float | None:
    end = _talk_end(record)
    return None if record.joined_at is None or end is None else (end - record.joined_at).total_seconds()


def _leg(record: ConnectionRecord, side: Side) -> LegRecord | None:
    return next((leg for leg in record.legs if leg.side is side), None)


# --- the timeline ---


def _timeline(start: datetime, entries: Iterable[Entry]) -> Iterator[str]:
    yield f"{'seconds':>{_SECONDS}}    what happened"
    for entry in entries:
        yield from _entry_lines(start, entry)


def _entry_lines(start: datetime, entry: Entry) -> Iterator[str]:
    """`     2.106 A  answered · 200 OK            → waiting`; what doesn't fit goes on below."""
    at = (entry.at - start).total_seconds()
    who = "" if entry.side is None else entry.side.name
    what = _wrap(" · ".join([_spoken(entry.event), *_fact_words(entry)]), _WHAT)
    change = "" if entry.after == entry.before else f"→ {_spoken(entry.after)}"
    yield f"{at:>{_SECONDS}.3f} {who:<2} {what[0]:<{_WHAT}} {change}".rstrip()
    for line in what[1:]:
        yield f"{'':{_SECONDS + 4}}  {line}"


_FACTS_THAT_SPEAK = ("reason", "detail", "code", "text", "digit", "by")
"""Facts whose value says what it is; all others are shown with their name."""
_FACTS_SHOWN = {"dialog": ("call_id",)}
"""Of these only some facts are for people: the Call-ID finds the call in a carrier's log, the rest is for us."""


def _fact_words(entry: Entry) -> Iterator[str]:
    shown = _FACTS_SHOWN.get(entry.event, entry.facts)
    facts = {name: value for name, value in entry.facts.items() if name in shown}
    for name in _FACTS_THAT_SPEAK:
        if (value := facts.get(name)) not in (None, ""):
            yield _spoken(str(value)) if name == "reason" else str(value)
    for name, value in facts.items():
        if name not in _FACTS_THAT_SPEAK and value is not None:
            yield f"{_spoken(name)} {round(value, 3) if isinstance(value, float) else value}"


# --- words ---


def _labelled(label: str, value: str) -> Iterator[str]:
    lines = _wrap(value, WIDTH - _LABEL - 2)
    yield f"  {label:<{_LABEL}}{lines[0]}".rstrip()
    for line in lines[1:]:
        yield f"  {'':{_LABEL}}{line}"


def _wrap(value: str, width: int) -> list[str]:
    return textwrap.wrap(_clean(value), width) or [""]


def _spoken(name: str) -> str:
    return name.replace("_", " ")


def _who(ended_by: str) -> str:
    return ended_by.upper() if ended_by in ("a", "b") else ended_by


def _seconds(start: datetime, end: datetime) -> str:
    return f"{(end - start).total_seconds():.3f} s"


def _clock(seconds: float) -> str:
    """`1:05` for 65 s."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02}"


def _fit(value: str, width: int) -> str:
    value = _clean(value)
    return value if len(value) <= width else value[: width - 1] + "…"


def _clean(value: str) -> str:
    return "".join(char if char.isprintable() else " " for char in value)


def _plain_text(message: email.message.EmailMessage) -> str:
    body = message.get_body(preferencelist=("plain", "html"))
    if body is None:
        return ""
    try:
        return str(body.get_content())
    except (KeyError, LookupError, ValueError):  # No text, or in a character set that nobody knows.
        return "(this mail's text can't be read)"
