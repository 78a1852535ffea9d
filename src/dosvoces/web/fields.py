"""The members of `POST /call`, checked: all that is wrong with them at once, or what an order is made of."""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from dosvoces.dialplan import NumberRules, Refusal, check_number
from dosvoces.model import Lead, PhoneNumber
from dosvoces.web.answers import Problem, quoted
from dosvoces.web.body import Number
from dosvoces.web.recipient import ALL_DOMAINS, Domains, check_recipient

MAX_INTERVAL_S = 300
MAX_TEXT = 2000
"""Characters of each descriptive field."""


@dataclass(frozen=True, slots=True)
class Fields:
    """A valid request's members."""

    first: PhoneNumber
    second: PhoneNumber
    lead: Lead
    email_as_received: str
    interval_s: int


@dataclass(frozen=True, slots=True)
class Names:
    """What the members are called."""

    first: str
    second: str
    interval: str
    texts: tuple[str, ...]
    """In the order of `Lead`'s fields after the address."""


CALL_NAMES = Names(
    "firstnumber",
    "secondnumber",
    "call_interval",
    (
        "nombre_propiedad",
        "nombre_comercializador",
        "url_anuncio",
        "ciudad_propiedad",
        "m2_vivienda",
        "precio_vivienda",
    ),
)


def check_fields(
    members: dict[str, object],
    rules: NumberRules,
    default_interval_s: int,
    names: Names = CALL_NAMES,
    domains: Domains = ALL_DOMAINS,
) -> Fields | list[Problem]:
    """What the request asks for, or everything that is wrong with it. Members that nobody knows are ignored."""
    problems: list[Problem] = []
    first = _number(members, names.first, rules, problems.append)
    second = _number(members, names.second, rules, problems.append)
    email = _email(members, domains, problems.append)
    if first is not None and second is not None and first.e164 == second.e164:
        problems.append(Problem(names.second, "same_number", f"is the same as {names.first}"))
    texts = [_text(members, name, problems.append) for name in names.texts]
    interval_s = _interval(members, names.interval, default_interval_s, problems.append)
    if problems or first is None or second is None or email is None:
        return problems
    return Fields(first, second, Lead(email, *texts), str(members["email"]), interval_s)


def missing_arguments(members: dict[str, object]) -> str:
    """The contract's sentence, with the mandatory values as received."""
    values = ", ".join(
        f"{name}: {_as_received(members.get(name))}" for name in ("firstnumber", "secondnumber", "email")
    )
    return f"Missing arguments {values}"


def _as_received(value: object) -> str:
    match value:
        case str():
            return quoted(value)
        case Number(text):
            return quoted(text)
        case bool():
            return "true" if value else "false"
        case dict():
            return "{…}"
        case list():
            return "[…]"
        case _:
            return ""


_Report = Callable[[Problem], None]


def _mandatory(members: dict[str, object], name: str, report: _Report) -> str | None:
    value = members.get(name)
    if value is None or (isinstance(value, str) and not value.strip()):
        report(Problem(name, "missing", "is missing"))
    elif not isinstance(value, str):
        report(Problem(name, "type", "is not a text"))
    else:
        return value
    return None


def _number(members: dict[str, object], name: str, rules: NumberRules, report: _Report) -> PhoneNumber | None:
    text = _mandatory(members, name, report)
    if text is None:
        return None
    checked = check_number(text, rules)
    if isinstance(checked, Refusal):
        report(Problem(name, checked.code, checked.message))
        return None
    return checked


def _email(members: dict[str, object], domains: Domains, report: _Report) -> str | None:
    text = _mandatory(members, "email", report)
    if text is None:
        return None
    address = check_recipient(text)
    if address is None:
        report(Problem("email", "format", "is not one plain e-mail address"))
    elif not domains.allow(address):
        report(Problem("email", "domain", "is in a domain that leads are not mailed to"))
        return None
    return address


def _text(members: dict[str, object], name: str, report: _Report) -> str | None:
    value = members.get(name)
    if isinstance(value, Number):
        value = value.text
    if value is None:
        return None
    if not isinstance(value, str):
        report(Problem(name, "type", "is neither a text nor a number"))
    elif len(value) > MAX_TEXT:
        report(Problem(name, "too_long", f"has more than {MAX_TEXT} characters"))
    elif "\0" in value or not _is_unicode(value):
        report(Problem(name, "format", "has a character that no text has: NUL or half a surrogate pair"))
    elif value.strip():
        return value
    return None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # JSON can escape a lone surrogate; neither a database nor a mail can carry it.
        return False
    return True


def _interval(members: dict[str, object], name: str, default_s: int, report: _Report) -> int:
    value = members.get(name)
    if value is None:
        return default_s
    seconds = _whole(value.text) if isinstance(value, Number) else None
    if seconds is None:
        report(Problem(name, "type", "is not a whole number of seconds"))
    elif not 0 <= seconds <= MAX_INTERVAL_S:
        report(Problem(name, "range", f"is not between 0 and {MAX_INTERVAL_S} seconds"))
    else:
        return int(seconds)
    return default_s


def _whole(text: str) -> Decimal | None:
    """The number if it has no fraction, however it is written (15, 15.0, 1.5e1)."""
    try:
        value = Decimal(text)
        return value if value == value.to_integral_value() else None
    except InvalidOperation:
        return None
