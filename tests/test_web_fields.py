"""The members of `POST /call`: what is accepted, and the codes of what is not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dosvoces.dialplan import NumberRules
from dosvoces.model import Lead, PhoneNumber
from dosvoces.web.body import Number
from dosvoces.web.fields import Fields, check_fields, missing_arguments
from dosvoces.web.recipient import Domains, check_recipient

GOOD: dict[str, object] = {"firstnumber": "+34600000011", "secondnumber": "+34 960 000 022", "email": "Ana@Milmoh.com"}
RULES = NumberRules()


def problems(**members: object) -> list[str]:
    checked = check_fields({**GOOD, **members}, RULES, 0)
    assert isinstance(checked, list)
    return [f"{problem.field}.{problem.code}" for problem in checked]


def test_a_whole_request_becomes_an_order() -> None:
    members = GOOD | {
        "nombre_propiedad": "Ático",
        "nombre_comercializador": "Begoña",
        "url_anuncio": "https://milmoh.com/1",
        "ciudad_propiedad": "",
        "m2_vivienda": Number("123"),
        "precio_vivienda": Number("456.50"),
        "call_interval": Number("15"),
        "utm_source": {"a": [Number("1")]},
    }
    assert check_fields(members, RULES, 0) == Fields(
        first=PhoneNumber("+34600000011", "+34600000011"),
        second=PhoneNumber("+34960000022", "+34 960 000 022"),
        lead=Lead("Ana@milmoh.com", "Ático", "Begoña", "https://milmoh.com/1", None, "123", "456.50"),
        email_as_received="Ana@Milmoh.com",
        interval_s=15,
    )


def test_all_that_is_wrong_is_told_at_once() -> None:
    checked = check_fields({"firstnumber": True, "email": "x", "m2_vivienda": [], "call_interval": "1"}, RULES, 0)
    assert isinstance(checked, list)
    assert [f"{problem.field}.{problem.code}" for problem in checked] == [
        "firstnumber.type",
        "secondnumber.missing",
        "email.format",
        "m2_vivienda.type",
        "call_interval.type",
    ]


def test_nobody_is_joined_with_himself() -> None:
    assert problems(secondnumber="0034 600-000-011") == ["secondnumber.same_number"]


@pytest.mark.parametrize(
    ("text", "want_s"), [("0", 0), ("300", 300), ("1.0", 1), ("1e0", 1), ("1.5e1", 15), ("-0", 0), ("3e2", 300)]
)
def test_a_whole_interval_is_accepted_however_written(text: str, want_s: int) -> None:
    checked = check_fields(GOOD | {"call_interval": Number(text)}, RULES, 7)
    assert isinstance(checked, Fields)
    assert checked.interval_s == want_s


@pytest.mark.parametrize(
    ("value", "want"),
    [
        (Number("-1"), "range"),
        (Number("301"), "range"),
        (Number("1e999999999"), "range"),
        (Number("9" * 4300), "range"),
        (Number("1.5"), "type"),
        (Number("1e-400"), "type"),
        (Number("1e-99999999999999999999"), "type"),
        ("15", "type"),
        (True, "type"),
        ([], "type"),
    ],
)
def test_other_intervals_are_refused(value: object, want: str) -> None:
    assert problems(call_interval=value) == [f"call_interval.{want}"]


def test_the_default_interval_counts_when_it_is_absent() -> None:
    for members in (GOOD, GOOD | {"call_interval": None}):
        checked = check_fields(members, RULES, 7)
        assert isinstance(checked, Fields)
        assert checked.interval_s == 7


def test_texts_have_limits() -> None:
    assert problems(nombre_propiedad="x" * 2001) == ["nombre_propiedad.too_long"]
    assert problems(ciudad_propiedad="a\0b") == ["ciudad_propiedad.format"]
    assert problems(url_anuncio="a\udc00b") == ["url_anuncio.format"]
    assert isinstance(check_fields(GOOD | {"nombre_propiedad": "ñ" * 2000}, RULES, 0), Fields)


def test_the_sentence_quotes_what_was_received_but_not_its_controls() -> None:
    assert missing_arguments({}) == "Missing arguments firstnumber: , secondnumber: , email: "
    assert (
        missing_arguments({"firstnumber": "+34\r\n\u202e6\ud800", "secondnumber": Number("34"), "email": "x" * 65})
        == f"Missing arguments firstnumber: +346, secondnumber: 34, email: {'x' * 64}"
    )
    assert (
        missing_arguments({"firstnumber": True, "secondnumber": ["+34"], "email": {"to": "a"}})
        == "Missing arguments firstnumber: true, secondnumber: […], email: {…}"
    )


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("artur.temporal@milmoh.com", "artur.temporal@milmoh.com"),
        (" leads+valencia@MILMOH.com\t", "leads+valencia@milmoh.com"),
        ("o'brien@milmoh.com", "o'brien@milmoh.com"),
        ("a" * 64 + "@milmoh.com", "a" * 64 + "@milmoh.com"),
        ("ana@españa.es", "ana@xn--espaa-rta.es"),
        ("ana@例え.jp", "ana@xn--r8jz45g.jp"),
    ],
)
def test_plain_addresses_are_taken(text: str, want: str) -> None:
    assert check_recipient(text) == want


@pytest.mark.parametrize(
    "text",
    [
        "a@milm\u043eh.com", "a%b@milmoh.com", "a!b@milmoh.com", "-oQ/tmp@milmoh.com", "|/bin/sh@milmoh.com", "a@b",
        "a@[127.0.0.1]", "a@192.168.0.1", "a@x.local", "a@x.test", '"a b"@milmoh.com', "añ@milmoh.com",
        "A <a@milmoh.com>", "a@milmoh.com,b@milmoh.com", "a" * 65 + "@milmoh.com", "a@" + "b" * 60 + "." + "c" * 200,
        "a@milmoh.com\n", "a\ud83d@milmoh.com", "a@milmoh.com\0", "a@@b.es", "", "@", "a@-b.es", "a@b..es",
        "a@" + "ñ" * 63 + ".es",
    ],
)  # fmt: skip
def test_what_a_relay_could_misread_is_refused(text: str) -> None:
    assert check_recipient(text) is None


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.text()
    | st.from_regex(r"-?[0-9]+(\.[0-9]+)?(e-?[0-9]+)?", fullmatch=True).map(Number),
    lambda inner: st.lists(inner, max_size=2),
    max_leaves=3,
)


@given(st.dictionaries(st.sampled_from([*GOOD, "nombre_propiedad", "m2_vivienda", "call_interval"]), _VALUES))
def test_any_members_are_judged_without_an_error(members: dict[str, object]) -> None:
    checked = check_fields(members, RULES, 0)
    assert isinstance(checked, Fields) or checked
    assert missing_arguments(members).isprintable()


@pytest.mark.parametrize(
    ("email", "found"),
    [
        ("ana@milmoh.com", []),
        ("ana@MILMOH.com", []),
        ("ana@sales.example.es", []),
        ("ana@a.b.example.es", []),
        ("ana@example.es", ["email.domain"]),
        ("ana@sales.milmoh.com", ["email.domain"]),
        ("ana@evilmilmoh.com", ["email.domain"]),
        ("ana@milmoh.com.evil.com", ["email.domain"]),
        ("ana", ["email.format"]),
    ],
)
def test_only_the_domains_that_are_allowed_are_mailed_to(email: str, found: list[str]) -> None:
    domains = Domains(["milmoh.com", "*.example.es"])
    checked = check_fields({**GOOD, "email": email}, RULES, 0, domains=domains)
    assert found == ([f"{each.field}.{each.code}" for each in checked] if isinstance(checked, list) else [])
