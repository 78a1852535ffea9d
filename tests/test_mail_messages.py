"""What the lead's mail says and can't be made to say; the bytes are read back by the standard library."""

import dataclasses
import email
import email.policy
import re
from datetime import UTC, datetime
from email.message import EmailMessage
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dosvoces.errors import MailError, SettingsError
from dosvoces.mail import Mail
from dosvoces.mail.address import Sender, ascii_address, parse_sender
from dosvoces.mail.messages import clean, compose_lead, lead_words, locales, readable
from dosvoces.mail.mime import alternative_message
from dosvoces.model import ConnectionId, Lead, Order, PhoneNumber

GOLDEN = Path(__file__).parent / "data" / "mail"
SENDER = "Dosvoces <leads@example.com>"
EXAMPLE = Order(
    id=ConnectionId("01jd9q3m5c0000000000000000"),
    created_at=datetime(2025, 11, 23, 4, 10, tzinfo=UTC),
    first=PhoneNumber("+34222222222", "+34222222222"),
    second=PhoneNumber("+34111111111", "+34111111111"),
    lead=Lead(
        email="artur.temporal@milmoh.com",
        property_name="Propriedad",
        agent_name="Comercializador",
        url="milmoh.com",
        city="Valencia",
        area_m2="123",
        price="456",
    ),
    interval_s=15,
)
BARE = dataclasses.replace(
    EXAMPLE,
    first=PhoneNumber("+34600000011", "600 000 011"),
    second=PhoneNumber("+34960000022", "+34960000022"),
    lead=Lead(email="artur.temporal@milmoh.com"),
    interval_s=0,
)
FULL = dataclasses.replace(
    BARE,
    interval_s=5,
    lead=Lead(
        email="leads+valencia@milmoh.com",
        property_name="Ático en L'Eixample – 3ª planta €",
        agent_name="Begoña Núñez 李雷 👋",
        url="https://www.milmoh.com/anuncio/77?vista=mar&año=2025",
        city="Vitòria-Gasteiz",
        area_m2="<b>90</b> & más",
        price="{{ 7 * 7 }} %s {0} 350.000 €",
    ),
)
CASES = [("example.es", EXAMPLE, "es"), ("example.en", EXAMPLE, "en"), ("bare.es", BARE, "es"), ("full.es", FULL, "es")]
HEADERS = ["Date", "From", "To", "Subject", "Message-ID", "Auto-Submitted", "MIME-Version", "Content-Type"]


def with_lead(**texts: str | None) -> Order:
    return dataclasses.replace(BARE, lead=dataclasses.replace(BARE.lead, **texts))  # type: ignore[arg-type]


def parsed(mail: Mail) -> EmailMessage:
    return email.message_from_bytes(mail.content, policy=email.policy.default)


def part(mail: Mail, kind: str) -> str:
    body = parsed(mail).get_body((kind,))
    assert body is not None
    content = body.get_content()
    assert isinstance(content, str)
    return content


class Page(HTMLParser):
    """The tags, links and words of an HTML part."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.hrefs: list[str] = []
        self.attributes: set[str] = set()
        self.words = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)
        self.hrefs += [value or "" for name, value in attrs if name == "href"]

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.mark.parametrize(("name", "order", "locale"), CASES)
def test_mail_is_the_golden_file(name: str, order: Order, locale: str) -> None:
    """The files are what a person has looked at; `python -m tests.test_mail_messages` writes them anew."""
    expected = (GOLDEN / f"{name}.eml").read_bytes()
    assert compose_lead(order, sender=SENDER, locale=locale).content == expected


def test_composing_again_gives_the_same_bytes() -> None:
    assert compose_lead(FULL, sender=SENDER) == compose_lead(FULL, sender=SENDER)


def test_envelope_and_headers() -> None:
    mail = compose_lead(EXAMPLE, sender=SENDER)
    assert (mail.message_id, mail.recipient, mail.subject) == (
        "<01jd9q3m5c0000000000000000@example.com>",
        "artur.temporal@milmoh.com",
        "Nuevo contacto: Propriedad, Valencia",
    )
    assert [(name, str(value)) for name, value in parsed(mail).items()] == [
        ("Date", "Sun, 23 Nov 2025 04:10:00 +0000"),
        ("From", "Dosvoces <leads@example.com>"),
        ("To", "artur.temporal@milmoh.com"),
        ("Subject", "Nuevo contacto: Propriedad, Valencia"),
        ("Message-ID", "<01jd9q3m5c0000000000000000@example.com>"),
        ("Auto-Submitted", "auto-generated"),
        ("MIME-Version", "1.0"),
        ("Content-Type", 'multipart/alternative; boundary="=_01jd9q3m5c0000000000000000"'),
    ]
    assert [part.get_content_type() for part in parsed(mail).iter_parts()] == ["text/plain", "text/html"]


def test_text_names_every_field() -> None:
    assert compose_lead(FULL, sender=SENDER).text.splitlines() == [
        "Nuevo contacto: Ático en L'Eixample – 3ª planta €, Vitòria-Gasteiz",
        "",
        "Dosvoces está llamando a los dos números para ponerlos en contacto. "
        "Si no recibe la llamada, puede marcarlos desde aquí.",
        "",
        "Primer número: +34 600 00 00 11",
        "Segundo número: +34 960 00 00 22",
        "Inmueble: Ático en L'Eixample – 3ª planta €",
        "Comercializador: Begoña Núñez 李雷 👋",
        "Ciudad: Vitòria-Gasteiz",
        "Superficie (m²): <b>90</b> & más",
        "Precio: {{ 7 * 7 }} %s {0} 350.000 €",
        "Anuncio: https://www.milmoh.com/anuncio/77?vista=mar&año=2025 (www.milmoh.com)",
        "Espera entre llamadas: 5 s",
        "",
        "Enviado a: leads+valencia@milmoh.com",
        "Referencia: 01jd9q3m5c0000000000000000",
    ]


def test_text_part_is_the_text() -> None:
    mail = compose_lead(FULL, sender=SENDER)
    assert part(mail, "plain").replace("\r\n", "\n") == mail.text


def test_absent_and_blank_fields_leave_no_trace() -> None:
    blank = with_lead(property_name="", agent_name=" \u2028 ", url="\x00", city=None)
    assert compose_lead(blank, sender=SENDER) == compose_lead(BARE, sender=SENDER)
    assert [line.partition(":")[0] for line in compose_lead(BARE, sender=SENDER).text.splitlines()[4:]] == [
        "Primer número",
        "Segundo número",
        "",
        "Enviado a",
        "Referencia",
    ]


def test_html_says_the_same_and_numbers_can_be_tapped() -> None:
    page = Page(part(compose_lead(FULL, sender=SENDER), "html"))
    assert page.hrefs == [
        "tel:+34600000011",
        "tel:+34960000022",
        "https://www.milmoh.com/anuncio/77?vista=mar&a%C3%B1o=2025",
    ]
    for words in ("+34 600 00 00 11", "Begoña Núñez 李雷 👋", "<b>90</b> & más", "{{ 7 * 7 }} %s {0} 350.000 €"):
        assert words in page.words
    assert not page.tags & {"script", "img", "link", "iframe", "form", "b"}


@pytest.mark.parametrize(
    ("url", "href", "host"),
    [
        ("https://milmoh.com", "https://milmoh.com", "milmoh.com"),
        ("HTTP://Milmoh.COM:8080/a", "http://milmoh.com:8080/a", "milmoh.com"),
        ("https://milmoh.com?x='", "https://milmoh.com?x='", "milmoh.com"),
        ("https://milmоh.com/x", "https://xn--milmh-mye.com/x", "xn--milmh-mye.com"),  # a Cyrillic о
        (
            "https://anuncios.españa.example/ñ",
            "https://anuncios.xn--espaa-rta.example/%C3%B1",
            "anuncios.xn--espaa-rta.example",
        ),
    ],
)
def test_web_link_shows_its_host(url: str, href: str, host: str) -> None:
    mail = compose_lead(with_lead(url=url), sender=SENDER)
    assert Page(part(mail, "html")).hrefs[2:] == [href]
    assert f"Anuncio: {url} ({host})" in mail.text


@pytest.mark.parametrize(
    "url",
    [
        "milmoh.com",
        "www.milmoh.com/x",
        "//milmoh.com",
        "javascript:alert(1)",
        "data:text/html,<script>alert(1)</script>",
        "file:///etc/passwd",
        "ftp://milmoh.com",
        "https://",
        "https:///x",
        "https:milmoh.com",
        "https://milmoh.com@evil.example/",
        "https://milmoh.com\\@evil.example/",
        "https://a b.example",
        "https://milmoh.com/a b",
        'https://milmoh.com/"onmouseover=alert(1)',
        "https://[::1]/",
        "https://milmoh.com:port/",
        "https://evil.example℀milmoh.com/",
        "https://..",
        "java\nscript:alert(1)",
        " javascript:alert(1)//https://milmoh.com",
    ],
)
def test_anything_else_is_text_and_no_link(url: str) -> None:
    mail = compose_lead(with_lead(url=url), sender=SENDER)
    page = Page(part(mail, "html"))
    assert page.hrefs == ["tel:+34600000011", "tel:+34960000022"]
    assert (clean(url) or "") in page.words
    assert f"Anuncio: {clean(url)}\n" in mail.text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\r\nBcc: x@y.es", "a Bcc: x@y.es"),
        ("a\x00b\x1bc\x7fd\x85e\x9ff", "a b c d e f"),
        ("a\u2028b\u2029c\x0bd\x0ce\x1cf", "a b c d e f"),
        ("Ana \u202egpj.exe\u202c \u2066x\u2069", "Ana gpj.exe x"),
        ("a\t \r\n  b", "a b"),
        ("two  blanks", "two  blanks"),
        ("  \u00a0x\u00a0 ", "x"),
        ("\ud83d alone", "alone"),
        ("👋🏽 שלום e\u0301", "👋🏽 שלום e\u0301"),
        ("\u2028", None),
        ("", None),
        (None, None),
    ],
)
def test_lead_text_is_one_line_without_tricks(text: str | None, shown: str | None) -> None:
    assert clean(text) == shown


def test_encoded_word_arrives_as_it_was_typed() -> None:
    """RFC 2047 smuggling: decoded once more, this would be a Bcc header."""
    typed = "=?utf-8?q?x=0D=0ABcc:_x@y.es?="
    mail = compose_lead(with_lead(property_name=typed), sender=SENDER)
    assert parsed(mail)["Subject"] == f"Nuevo contacto: {typed}"
    assert typed.encode() not in mail.content.partition(b"\r\n\r\n")[0]


@pytest.mark.parametrize("value", ["<a\nb@c>", "<a\r\nBcc: x@y.es>", "<a\r\n\r\nb>", "<\x00>", "<ñ>", "<\x85>"])
def test_header_that_would_end_early_is_never_written(value: str) -> None:
    with pytest.raises(MailError, match="Message-ID header"):
        alternative_message(
            sender=Sender("", "a@b.es"),
            recipient="c@d.es",
            subject="x",
            created_at=BARE.created_at,
            message_id=value,
            boundary="=_1",
            text="x",
            html="x",
        )


def test_long_subject_is_cut_and_folded() -> None:
    mail = compose_lead(with_lead(property_name="Ático " * 300), sender=SENDER)
    assert mail.subject == "Nuevo contacto: " + ("Ático " * 300)[:99].rstrip() + "…"
    assert parsed(mail)["Subject"] == mail.subject
    assert max(map(len, mail.content.partition(b"\r\n\r\n")[0].split(b"\r\n"))) <= 76


leads = st.builds(
    Lead,
    email=st.sampled_from(["artur.temporal@milmoh.com", "o'brien@milmoh.com"]),
    **dict.fromkeys(
        ("property_name", "agent_name", "url", "city", "area_m2", "price"),
        st.one_of(
            st.none(),
            st.text(st.characters(), max_size=60),
            st.text("\r\n\t .:=?<>\"'&-_@{}%\\\x00\x0b\x85\u2028\u202eañ👋utf8qb", max_size=60),
            st.from_regex(r"https?://\S{1,30}"),
        ),
    ),
)


@settings(max_examples=150, deadline=None)
@given(leads)
@example(Lead("a@b.es", "x\r\nBcc: evil@example.com\r\n\r\n--=_01jd9q3m5c0000000000000000--", "\n.\n", "\r\n.\r\n"))
@example(Lead("a@b.es", "</title><script>alert(1)</script>", '"><img src=x onerror=alert(1)>', 'https://a/"><script>'))
@example(Lead("a@b.es", "{{ config.items() }}{% import os %}{# x #}", "{0.__class__.__mro__} %s %n"))
def test_no_lead_text_breaks_out(lead: Lead) -> None:
    """Whatever the lead says: one recipient, our headers and no other, two parts, our links and no script."""
    mail = compose_lead(dataclasses.replace(BARE, lead=lead), sender=SENDER)
    head, _, _ = mail.content.partition(b"\r\n\r\n")
    assert re.findall(rb"^([^ :]+):", head, re.MULTILINE) == [name.encode() for name in HEADERS]
    assert all(line[:1] == b" " or re.match(rb"[A-Za-z-]+: ", line) for line in head.split(b"\r\n"))
    assert re.fullmatch(rb"(?:[\x20-\x7e\t]{0,998}\r\n)*", mail.content)
    message = parsed(mail)
    assert [str(address) for address in message["To"].addresses] == [lead.email]
    assert message["Subject"] == mail.subject
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]
    assert not message.defects
    assert part(mail, "plain").replace("\r\n", "\n") == mail.text
    page = Page(part(mail, "html"))
    assert page.tags == TAGS | ({"br", "span"} & page.tags)
    assert page.attributes <= ATTRIBUTES
    assert page.hrefs[:2] == ["tel:+34600000011", "tel:+34960000022"]
    assert len(page.hrefs) <= 3
    assert all(re.fullmatch(r"https?://[a-z0-9._-]+(:\d+)?([/?#][!-~]*)?", href) for href in page.hrefs[2:])
    for text in (lead.property_name, lead.agent_name, lead.city, lead.area_m2, lead.price):
        assert (clean(text) or "") in page.words


TAGS = Page(part(compose_lead(BARE, sender=SENDER), "html")).tags
ATTRIBUTES = Page(part(compose_lead(FULL, sender=SENDER), "html")).attributes


@pytest.mark.parametrize(
    "address",
    ["artur.temporal@milmoh.com", "leads+valencia@milmoh.com", "o'brien@milmoh.com", "a" * 64 + "@milmoh.com", "a@b"],
)
def test_plain_address_stays_as_it_is(address: str) -> None:
    assert ascii_address(address) == address


def test_international_domain_is_written_in_ascii() -> None:
    mail = compose_lead(dataclasses.replace(BARE, lead=Lead(email="ventas@casas-españa.es")), sender=SENDER)
    assert (mail.recipient, str(parsed(mail)["To"])) == ("ventas@xn--casas-espaa-beb.es",) * 2


@pytest.mark.parametrize(
    "address",
    [
        "",
        "ana",
        "@milmoh.com",
        "ana@",
        "ana@milmoh.com\n",
        "ana@milmoh.com\r\nBcc: eve@example.com",
        "ana@milmoh.com, eve@example.com",
        "Ana <ana@milmoh.com>",
        '"ana maria"@milmoh.com',
        "ana@[192.0.2.1]",
        "ana..maria@milmoh.com",
        "ana@-milmoh.com",
        "ana maria@milmoh.com",
        "a" * 65 + "@milmoh.com",
        "begoña@milmoh.com",
        "ana@milmoh.com\u2028",
        "ana@\u202emilmoh.com",
    ],
)
def test_what_is_no_plain_address_is_refused_for_good(address: str) -> None:
    with pytest.raises(MailError) as caught:
        ascii_address(address)
    assert caught.value.permanent
    assert "ana@milmoh" not in str(caught.value)


@pytest.mark.parametrize(
    ("sender", "name"),
    [
        ("leads@example.com", ""),
        ("Dosvoces <leads@example.com>", "Dosvoces"),
        ('"Casas, S.A." <leads@example.com>', "Casas, S.A."),
        ("Casas, S.A. <leads@example.com>", "Casas, S.A."),
        ('El "mejor" \\ <leads@example.com>', 'El "mejor" \\'),
        ("Inmobiliaria Ñ <leads@example.com>", "Inmobiliaria Ñ"),
    ],
)
def test_sender_is_shown_as_set(sender: str, name: str) -> None:
    assert parse_sender(sender) == Sender(name, "leads@example.com")
    message = parsed(compose_lead(BARE, sender=sender))
    assert [(address.display_name, address.addr_spec) for address in message["From"].addresses] == [
        (name, "leads@example.com")
    ]


@pytest.mark.parametrize(
    "sender", ["", "Dosvoces", "a@b.es, c@d.es", "x\r\nBcc: y <a@b.es>", "<ñ@b.es>", "A <a@b.es> B"]
)
def test_unusable_sender_is_a_settings_error(sender: str) -> None:
    with pytest.raises(SettingsError, match=r"^mail\.from"):
        compose_lead(BARE, sender=sender)


def test_every_language_says_everything() -> None:
    assert locales() == ["en", "es"]
    words = [lead_words(locale) for locale in locales()]
    assert {frozenset(language.labels) for language in words} == {frozenset(words[0].labels)}
    for language in words:
        assert all([language.subject, language.intro, language.sent_to, language.reference, *language.labels.values()])


@pytest.mark.parametrize("locale", ["es", "ES", "es-ES", "es_MX.UTF-8"])
def test_a_country_speaks_its_language(locale: str) -> None:
    assert lead_words(locale).locale == "es"


@pytest.mark.parametrize("locale", ["fr", "", "../es", "C"])
def test_unknown_language_names_those_there_are(locale: str) -> None:
    with pytest.raises(SettingsError, match=r"^mail\.locale is .*; there are en, es$"):
        lead_words(locale)


@given(st.from_regex(r"\A\+[1-9][0-9]{6,14}\Z"))
def test_any_number_can_be_written(number: str) -> None:
    digits = re.sub(r"\D", "", readable(PhoneNumber(number, number)))
    assert digits == number[1:]


if __name__ == "__main__":
    for name, order, locale in CASES:
        (GOLDEN / f"{name}.eml").write_bytes(compose_lead(order, sender=SENDER, locale=locale).content)
