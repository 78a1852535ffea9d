"""The members of `POST /v1/connections` that `POST /call` doesn't have, checked. Pure."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation

from dosvoces.model import Texts
from dosvoces.web.answers import Problem, quoted
from dosvoces.web.body import Number
from dosvoces.web.webhook_urls import WebhookUrls

MAX_AHEAD = timedelta(days=366)
"""How far in the future a connection may wait."""
MAX_RING_TIMEOUT_S = 300
MAX_TALK_LIMIT_S = 86_400
MAX_LEAD_MEMBERS = 50
MAX_LEAD_NAME = 60
MAX_LEAD_TEXT = 2000
MAX_METADATA_MEMBERS = 20
MAX_METADATA_TEXT = 500
LEAD_NAMES = ("property_name", "agent_name", "url", "city", "area_m2", "price")
"""What a lead has a column for; it may stand beside the numbers, or in `lead`."""

_METADATA_NAME = re.compile(r"[A-Za-z0-9_.-]{1,40}")
_Report = Callable[[Problem], None]


@dataclass(frozen=True, slots=True)
class OwnTerms:
    """What an order says for itself. Without meaning where a problem was reported."""

    not_before: datetime | None
    expires_at: datetime | None
    caller_id_first: str
    caller_id_second: str
    ring_timeout_s: int | None
    talk_limit_s: int | None
    locale: str
    metadata: Texts
    webhook_url: str
    more: Texts


def check_terms(
    members: Mapping[str, object],
    now: datetime,
    locales: frozenset[str],
    report: _Report,
    webhook_urls: WebhookUrls | None = None,
) -> OwnTerms:
    """The order's own terms; what is wrong with them goes to `report`. Without `webhook_urls` it may name none."""
    not_before = _not_before(members, now, report)
    expires_at = _moment(members, "expires_at", now, report)
    if expires_at is not None and expires_at <= max(now, not_before or now):
        report(Problem("expires_at", "range", "is not later than now and than not_before"))
    first_id, second_id = _caller_ids(members, report)
    return OwnTerms(
        not_before=not_before,
        expires_at=expires_at,
        caller_id_first=first_id,
        caller_id_second=second_id,
        ring_timeout_s=_seconds(members, "ring_timeout", MAX_RING_TIMEOUT_S, report),
        talk_limit_s=_seconds(members, "talk_limit", MAX_TALK_LIMIT_S, report),
        locale=_locale(members, locales, report),
        metadata=_metadata(members, report),
        webhook_url=_webhook_url(members, webhook_urls, report),
        more=_more(members, report),
    )


def with_lead(members: dict[str, object], report: _Report) -> dict[str, object]:
    """`members` with those of `lead` beside them that a lead has a column for."""
    lead = members.get("lead")
    if not isinstance(lead, dict):
        return members
    known = {name: lead[name] for name in LEAD_NAMES if lead.get(name) is not None}
    for name in known:
        if members.get(name) is not None:
            report(Problem(f"lead.{name}", "twice", f"is given as {name} too"))
    return members | known


def _more(members: Mapping[str, object], report: _Report) -> Texts:
    lead = members.get("lead")
    if lead is None:
        return ()
    if not isinstance(lead, dict):
        report(Problem("lead", "type", "is not an object of texts and numbers"))
        return ()
    if len(lead) > MAX_LEAD_MEMBERS:
        report(Problem("lead", "too_many", f"has more than {MAX_LEAD_MEMBERS} members"))
        return ()
    more: list[tuple[str, str]] = []
    for name, value in lead.items():
        if name in LEAD_NAMES or value is None:
            continue
        if not (name.strip() and name.isprintable() and len(name) <= MAX_LEAD_NAME):
            report(Problem("lead", "format", f"has a name that is not 1 to {MAX_LEAD_NAME} printable characters"))
            continue
        if (text := _text(value, f"lead.{quoted(name)}", MAX_LEAD_TEXT, report)) is not None:
            more.append((name, text))
    return tuple(more)


def _text(value: object, name: str, most: int, report: _Report) -> str | None:
    match value:
        case Number(text=text) | str(text):
            pass
        case bool():
            text = "true" if value else "false"
        case _:
            report(Problem(name, "type", "is neither a text, a number, true nor false"))
            return None
    if len(text) > most:
        report(Problem(name, "too_long", f"has more than {most} characters"))
    elif "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        report(Problem(name, "format", "has a character that no text has: NUL or half a surrogate pair"))
    else:
        return text
    return None


def _metadata(members: Mapping[str, object], report: _Report) -> Texts:
    value = members.get("metadata")
    if value is None:
        return ()
    if not isinstance(value, dict):
        report(Problem("metadata", "type", "is not an object of texts"))
        return ()
    if len(value) > MAX_METADATA_MEMBERS:
        report(Problem("metadata", "too_many", f"has more than {MAX_METADATA_MEMBERS} members"))
        return ()
    kept: list[tuple[str, str]] = []
    for name, text in value.items():
        if _METADATA_NAME.fullmatch(name) is None:
            report(Problem("metadata", "format", "has a name that is not 1 to 40 letters, digits, _, . and -"))
        elif not isinstance(text, str):
            report(Problem(f"metadata.{name}", "type", "is not a text"))
        elif _text(text, f"metadata.{name}", MAX_METADATA_TEXT, report) is not None:
            kept.append((name, text))
    return tuple(kept)


def _webhook_url(members: Mapping[str, object], allowed: WebhookUrls | None, report: _Report) -> str:
    value = members.get("webhook_url")
    if value is None:
        return ""
    if allowed is None:
        report(Problem("webhook_url", "not_configured", "is not taken: [webhook_urls] of the settings has no secret"))
    elif not isinstance(value, str):
        report(Problem("webhook_url", "type", "is not a text"))
    elif wrong := allowed.problem(value):
        report(Problem("webhook_url", *wrong))
    else:
        return value
    return ""


def _locale(members: Mapping[str, object], locales: frozenset[str], report: _Report) -> str:
    value = members.get("locale")
    if value is None:
        return ""
    code = re.split("[-_]", value.lower(), maxsplit=1)[0] if isinstance(value, str) else ""
    if code in locales:
        return code
    report(Problem("locale", "unknown", f"is not one of {', '.join(sorted(locales))}"))
    return ""


def _seconds(members: Mapping[str, object], name: str, most: int, report: _Report) -> int | None:
    value = members.get(name)
    if value is None:
        return None
    try:
        seconds = Decimal(value.text) if isinstance(value, Number) else None
    except InvalidOperation:
        seconds = None
    if seconds is None or seconds != seconds.to_integral_value():
        report(Problem(name, "type", "is not a whole number of seconds"))
    elif not 1 <= seconds <= most:
        report(Problem(name, "range", f"is not between 1 and {most} seconds"))
    else:
        return int(seconds)
    return None


def _not_before(members: Mapping[str, object], now: datetime, report: _Report) -> datetime | None:
    """`schedule_at` is another name for it."""
    if members.get("schedule_at") is None:
        return _moment(members, "not_before", now, report)
    if members.get("not_before") is not None:
        report(Problem("schedule_at", "twice", "is given as not_before too"))
    return _moment(members, "schedule_at", now, report)


def _moment(members: Mapping[str, object], name: str, now: datetime, report: _Report) -> datetime | None:
    """An RFC 3339 moment, in UTC."""
    value = members.get(name)
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) and len(value) <= 40 else None
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        report(Problem(name, "format", "is no moment with a time zone, as in 2026-05-09T09:30:00+02:00"))
    elif moment > now + MAX_AHEAD:
        report(Problem(name, "range", f"is more than {MAX_AHEAD.days} days ahead"))
    else:
        try:
            return moment.astimezone(UTC)
        except OverflowError:  # Of year 1, east of Greenwich: what some languages send for no date at all.
            report(Problem(name, "range", "is before the first year that there is"))
    return None


def _caller_ids(members: Mapping[str, object], report: _Report) -> tuple[str, str]:
    """What the first and the second party shall see; empty where the settings say it."""
    value = members.get("caller_ids")
    if value is None:
        return "", ""
    if not isinstance(value, dict):
        report(Problem("caller_ids", "type", 'is not an object with "first" and "second"'))
        return "", ""
    return _caller_id(value, "first", report), _caller_id(value, "second", report)


def _caller_id(members: Mapping[str, object], name: str, report: _Report) -> str:
    value = members.get(name)
    if value is None:
        return ""
    digits = value[1:] if isinstance(value, str) and value.startswith("+") else ""
    if not (7 <= len(digits) <= 15 and digits.isascii() and digits.isdigit()):
        report(Problem(f"caller_ids.{name}", "format", "is not a number in E.164, such as +34910000000"))
        return ""
    return quoted(f"+{digits}")
