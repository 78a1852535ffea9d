"""
Writes the mails: what a lead's mail says, as text and as HTML, in the language asked for. Pure.

The words are in `templates/lead/<locale>.toml`, the layout in the three templates beside them, so a language is one
file. The templates get facts by name; a lead's text is only ever a value in them, never a template.
"""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any
from urllib.parse import quote

import phonenumbers
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from dosvoces.errors import SettingsError
from dosvoces.mail import Mail
from dosvoces.mail.address import Sender, ascii_address, parse_sender
from dosvoces.mail.mime import alternative_message
from dosvoces.model import Order, PhoneNumber

SUBJECT_LIMIT = 100  # characters of the lead's own text in the subject; a phone's list of mails shows fewer


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the lead's table."""

    label: str
    value: str
    href: str | None = None
    """Where a tap leads: `tel:`, `http:` or `https:`."""
    host: str | None = None
    """The host of a web link, in ASCII: shown, so that nobody is led astray by the rest of the address."""


@dataclass(frozen=True, slots=True)
class Words:
    """A mail's fixed texts in one language."""

    locale: str
    subject: str
    intro: str
    sent_to: str
    reference: str
    labels: dict[str, str]


def compose_lead(order: Order, *, sender: str, locale: str = "es") -> Mail:
    """
    The mail that tells `order.lead.email` about the lead: the same bytes however often it is composed.

    Raises `MailError` (permanent) if the recipient can't be written in ASCII, `SettingsError` if `sender` or `locale`
    can't be used.
    """
    words, source = lead_words(order.locale or locale), parse_sender(sender)
    recipient = ascii_address(order.lead.email)
    rows = list(_rows(order, words.labels))
    facts: dict[str, object] = {
        "words": words,
        "locale": words.locale,
        "about": about_of(order),
        "rows": rows,
        "recipient": recipient,
        "reference": order.id,
    }
    templates = layout("lead")
    subject = templates["subject.txt"].render(facts)
    text = templates["body.txt"].render(facts)
    message_id = lead_message_id(order, source)
    content = alternative_message(
        sender=source,
        recipient=recipient,
        subject=subject,
        created_at=order.created_at,
        message_id=message_id,
        boundary=f"=_{order.id}",
        text=text,
        html=templates["body.html"].render(facts),
    )
    return Mail(message_id, recipient, subject, text, content)


def lead_message_id(order: Order, sender: Sender) -> str:
    """The same however often it is sent, also by a connection that resumes; the mail about the outcome refers to it."""
    return f"<{order.resumes or order.id}@{sender.domain}>"


def locales() -> list[str]:
    """The languages there are words for."""
    return sorted(file.name.removesuffix(".toml") for file in _folder("lead").iterdir() if file.name.endswith(".toml"))


@lru_cache(maxsize=32)
def lead_words(locale: str) -> Words:
    """The words for `locale` (`es`, `es-ES`, `es_ES`). Raises `SettingsError` if there are none."""
    code, words = words_of("lead", locale)
    return Words(locale=code, **words)


def words_of(mail: str, locale: str) -> tuple[str, dict[str, Any]]:
    """The language that `locale` means, and a mail's words in it. Raises `SettingsError` if there are none."""
    code = re.split("[-_]", locale.lower(), maxsplit=1)[0]
    if code not in locales():
        raise SettingsError(f"mail.locale is {locale!r}; there are {', '.join(locales())}")
    return code, tomllib.loads((_folder(mail) / f"{code}.toml").read_text("utf-8"))


# Controls (C0, DEL, C1 with U+0085), line and paragraph separators: whatever some reader takes for the end of a line.
_BREAKS = re.compile(
    r"[\x00-\x20\x7f-\x9f\u2028\u2029]*[\x00-\x1f\x7f-\x9f\u2028\u2029][\x00-\x20\x7f-\x9f\u2028\u2029]*"
)
# Bidirectional embeddings, overrides and isolates: they make `exe.jpg` of `gpj.exe`. Surrogates: can't be written.
_TRICKS = re.compile(r"[\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def clean(text: str | None) -> str | None:
    """`text` on one line, without controls and direction overrides; `None` if nothing is left to show."""
    if text is None:
        return None
    if not text.isprintable():
        text = _TRICKS.sub("", _BREAKS.sub(" ", text))
    return text.strip() or None


def _rows(order: Order, labels: dict[str, str]) -> Iterator[Row]:
    lead = order.lead
    yield number_row(labels["first_number"], order.first)
    yield number_row(labels["second_number"], order.second)
    for name in ("property_name", "agent_name", "city", "area_m2", "price"):
        if value := clean(getattr(lead, name)):
            yield Row(labels[name], value)
    if url := clean(lead.url):
        yield _url_row(labels["url"], url)
    for name, text in lead.more:
        if (label := clean(name)) and (value := clean(text)):
            yield Row(label, value)
    if order.interval_s:
        yield Row(labels["interval"], f"{order.interval_s} s")


def number_row(label: str, number: PhoneNumber) -> Row:
    """A number that a tap dials."""
    return Row(label, readable(number), href=f"tel:{number.e164}")  # RFC 3966 §5.1.4: global number


def readable(number: PhoneNumber) -> str:
    """`+34 600 00 00 11`: as people of its country group it; the bare number if grouping would change a digit."""
    try:
        parsed = phonenumbers.parse(number.e164)
    except phonenumbers.NumberParseException:  # A country code that the tables don't know yet.
        return number.e164
    grouped = phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.INTERNATIONAL)
    return grouped if _SEPARATORS.sub("", grouped) == number.e164 else number.e164


_SEPARATORS = re.compile("[ .()/-]")


# No user info (`https://bank.example@evil.example`), no backslash, no quote or blank: what mail clients read
# differently from each other is no link. A port of digits; no IPv6 literal.
_WEB_URL = re.compile(
    r"""(?P<scheme>https?)://(?P<host>[^\s/?#@:\\<>"'`\[\]%]+)(?P<port>:\d{1,5})?(?P<rest>(?:[/?#][^\s\\<>"`]*)?)""",
    re.IGNORECASE,
)
_HOST = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?")
_URL_SAFE = "/?#&=%:;,+!$'()*@~.-_[]"


def _url_row(label: str, url: str) -> Row:
    """A link if `url` is plain http or https; else text, `milmoh.com` and `javascript:` alike: we don't guess."""
    match = _WEB_URL.fullmatch(url)
    host = _ascii_host(match["host"]) if match else None
    if match is None or host is None:
        return Row(label, url)
    rest = quote(match["rest"], safe=_URL_SAFE)
    return Row(label, url, href=f"{match['scheme'].lower()}://{host}{match['port'] or ''}{rest}", host=host)


def _ascii_host(host: str) -> str | None:
    """`host` as the DNS has it: a Cyrillic `о` in the name shows as `xn--…`. `None` if it can't be a host."""
    try:
        name = host.lower().encode("idna").decode("ascii")
    except UnicodeError:
        return None
    return name if _HOST.fullmatch(name) else None


def about_of(order: Order) -> str:
    """What the mail is about, for the subject: the property and its city, or the first number."""
    parts = [part for part in (clean(order.lead.property_name), clean(order.lead.city)) if part]
    about = ", ".join(parts) or readable(order.first)
    return about if len(about) <= SUBJECT_LIMIT else about[: SUBJECT_LIMIT - 1].rstrip() + "…"


def _folder(mail: str) -> Traversable:
    return files("dosvoces.mail") / "templates" / mail


@lru_cache(maxsize=2)
def layout(mail: str) -> dict[str, Template]:
    """A mail's templates: `subject.txt`, `body.txt`, `body.html`."""
    environment = Environment(
        loader=PackageLoader("dosvoces.mail"),
        autoescape=lambda name: name is not None and name.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return {name: environment.get_template(f"{mail}/{name}") for name in ("subject.txt", "body.txt", "body.html")}
