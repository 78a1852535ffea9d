"""The number rules: what is called, how it is normalised, and why the rest is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from phonenumbers import SUPPORTED_REGIONS, PhoneNumberFormat, PhoneNumberType, example_number_for_type, format_number

from dosvoces.dialplan import EMERGENCY_NUMBERS, NumberRules, Refusal, as_e164, check_number, steps
from dosvoces.dialplan.data import COUNTRY_PREFIXES, INTERNATIONAL_PREFIXES
from dosvoces.model import PhoneNumber

SPAIN = NumberRules(own_numbers=frozenset({"+34960000000"}))
WIDE = NumberRules(countries=frozenset({"ES", "PT", "FR", "GB", "US", "DE", "IT"}))


def code(text: str, rules: NumberRules = SPAIN) -> str:
    checked = check_number(text, rules)
    return checked.code if isinstance(checked, Refusal) else checked.e164


@pytest.mark.parametrize(
    "text",
    ["+34600000011", "0034600000011", "+34 600-000.011", " +34600000011 ", "(+34) 600 000 011", "00 34 600 00 00 11"],
)
def test_a_number_is_normalised_and_keeps_how_it_was_written(text: str) -> None:
    assert PhoneNumber("+34600000011", text) == check_number(text, SPAIN)


@pytest.mark.parametrize("text", ["+34222222222", "+34111111111", "+34900123456", "+34800123456"])
def test_possible_is_enough(text: str) -> None:
    """The contract's own numbers are assigned to nobody."""
    assert text == code(text)


@pytest.mark.parametrize(
    "text",
    [
        "+", "+34", "+3460000001", "+346000000111", "+3460000001112345", "+" + "3" * 1000, "+0034600000011",
        "+34+600000011", "600000011", "+34 SEISCIENTOS", "+34600000011p9", "tel:+34600000011", "+34600000011;ext=9",
        "+34600000011\n", "+34600000011\0", "+34\u200b600000011", "+３４600000011", "１１２", "+34600²00011",
        "+٣٤600000011", "+34 (0) 600000011", "+34600000011" + " " * 60 + "(", "192.168.1.1", "-", "()", "++34600000011",
    ],
)  # fmt: skip
def test_what_is_no_international_number_is_refused(text: str) -> None:
    assert code(text) == "format"


@pytest.mark.parametrize(
    "text",
    ["112", "1-1-2", "(112)", "+112", "00112", "+34112", "0034112", "+0034112", "+34 (0) 112", "061", "+34061", "017",
     "000", "911", "+1911", "+44999", "+4415", "116111", "+34116111", "+351112"],
)  # fmt: skip
def test_emergency_lines_are_never_called_in_any_spelling(text: str) -> None:
    assert code(text) == "emergency"
    assert code(text, NumberRules(countries=frozenset())) == "emergency"


@pytest.mark.parametrize("text", ["11888", "1004", "22", "123456"])
def test_short_codes_are_never_called(text: str) -> None:
    assert code(text) == "short_code"


@pytest.mark.parametrize("text", ["+34960000000", "+34 960 000 000", "0034-960-000-000"])
def test_our_own_number_is_not_called(text: str) -> None:
    assert code(text) == "own_number"


@pytest.mark.parametrize(
    "text",
    ["+870773123456", "+881612345678", "+979123456789", "+80012345678", "+12684641234", "+12025550123", "+37121234567",
     "+29051234", "+21012345678", "+393331234567"],
)  # fmt: skip
def test_only_allowed_countries_are_called(text: str) -> None:
    assert code(text) == "country"


def test_area_codes_tell_the_countries_of_a_shared_code_apart() -> None:
    assert code("+12025550123", WIDE) == "+12025550123"
    assert code("+12684641234", WIDE) == "country"  # Antigua
    assert code("+14165550123", WIDE) == "country"  # Toronto
    assert code("+15550123456", WIDE) == "country"  # nobody's area code
    assert code("+447797123456", WIDE) == "country"  # Jersey
    assert code("+442079460123", WIDE) == "+442079460123"
    assert code("+390612345678", WIDE) == "+390612345678"
    assert code("+390669812345", WIDE) == "country"  # the Vatican
    assert code("+393331234567", WIDE) == "+393331234567"


@pytest.mark.parametrize(
    "text", [f"+34{prefix}{'0' * (9 - len(prefix))}" for prefix in "803 806 807 905 907 901 902 70 118 51 59".split()]
)
def test_dear_numbers_of_spain_are_refused(text: str) -> None:
    assert code(text) == "destination"


def test_a_dear_prefix_counts_whatever_the_length() -> None:
    assert code("+3411888") == "destination"


@pytest.mark.parametrize("text", ["+447012345678", "+449012345678", "+448712345678", "+33899123456", "+391991234567"])
def test_dear_numbers_of_other_countries_are_refused(text: str) -> None:
    assert code(text, WIDE) == "destination"


@pytest.mark.parametrize(
    "text",
    ["+49 (0)900 1234567", "+49 (0)30 1234567", "+4900900 1234567", "+44 (0)20 7946 0123", "+33 (0)899 123456",
     "+1 1 202 555 0123"],
)  # fmt: skip
def test_what_is_dialled_only_inside_a_country_hides_no_range(text: str) -> None:
    rules = NumberRules(countries=frozenset({"DE", "FR", "GB", "US"}))
    refusal = check_number(text, rules)
    assert isinstance(refusal, Refusal)
    assert refusal.code == "format"
    assert "+49 30" in refusal.message
    assert as_e164(text) is None


def test_no_country_s_own_numbers_are_taken_for_that() -> None:
    everywhere = NumberRules(countries=frozenset(SUPPORTED_REGIONS))
    examples = [
        format_number(example, PhoneNumberFormat.E164)
        for region in sorted(SUPPORTED_REGIONS)
        for kind in (PhoneNumberType.FIXED_LINE, PhoneNumberType.MOBILE, PhoneNumberType.TOLL_FREE)
        if (example := example_number_for_type(region, kind)) is not None
    ]
    assert [text for text in examples if as_e164(text) is None] == []
    assert as_e164("+378886377") == "+378886377"  # San Marino, to which an area code is added
    assert len(examples) > 500
    assert [text for text in examples if code(text, everywhere) == "format"] == []


def test_a_number_that_lacks_its_area_code_is_refused() -> None:
    assert code("+3519123456", WIDE) == "format"


def test_a_number_with_a_digit_too_many_is_told_that() -> None:
    spanish = Refusal("format", "has too few or too many digits: a Spanish number has nine after +34")
    assert [spanish] * 2 == [check_number(text, SPAIN) for text in ("+3460000001", "+346000000111")]
    french = Refusal("format", "has too few or too many digits for a number of its country")
    assert check_number("+3361234567", NumberRules(countries=frozenset({"FR"}))) == french


def test_nothing_written_is_missing() -> None:
    assert [code(text) for text in ("", "  ", "\u00a0\u2003", "\t\r\n")] == ["missing"] * 4


@given(st.text(max_size=80) | st.text("+0123456789 -.()", max_size=30))
def test_whatever_is_written_is_judged_without_an_error(text: str) -> None:
    checked = check_number(text, WIDE)
    if isinstance(checked, PhoneNumber):
        assert checked.e164[0] == "+"
        assert checked.e164[1:].isascii()
        assert checked.e164[1:].isdigit()
        assert 8 <= len(checked.e164) <= 16


@given(st.integers(10**6, 10**15 - 1))
def test_what_is_called_is_in_spain_and_not_dear(digits: int) -> None:
    checked = check_number(f"+{digits}", SPAIN)
    if isinstance(checked, PhoneNumber):
        assert str(digits)[:2] == "34"
        assert len(str(digits)) == 11
        assert not str(digits)[2:].startswith(("803", "806", "807", "905", "70"))


@given(st.sampled_from(sorted(EMERGENCY_NUMBERS)), st.sampled_from(["", "+", "00", "+34", "0034", "+1", "+44", "+351"]))
def test_every_emergency_line_is_known_behind_every_code(number: str, prefix: str) -> None:
    assert isinstance(check_number(prefix + number, WIDE), Refusal)
    assert code(prefix + number, WIDE) == "emergency"


# --- what settings open and close ---


def test_a_closed_range_is_not_called() -> None:
    rules = NumberRules(denied_prefixes=("+3469",))
    assert [code("+34690000011", rules), code("+34600000011", rules)] == ["destination", "+34600000011"]


def test_closed_wins_over_opened() -> None:
    assert code("+34902123456", NumberRules(denied_prefixes=("+34902",), allowed_prefixes=("+34902",))) == "destination"


@pytest.mark.parametrize("text", ["+34902123456", "+34807123456", "+881612345678"])
def test_an_opened_range_is_called(text: str) -> None:
    assert code(text, NumberRules(allowed_prefixes=(text[:6],))) == text


@pytest.mark.parametrize(
    ("text", "refused"), [("+34112", "emergency"), ("+34960000000", "own_number"), ("+12684641234", "country")]
)
def test_opening_a_range_opens_nothing_else(text: str, refused: str) -> None:
    rules = NumberRules(own_numbers=frozenset({"+34960000000"}), allowed_prefixes=("+",))
    assert code(text, rules) == refused


def test_a_country_known_for_fraud_takes_two_settings() -> None:
    cuba = "+5352123456"
    verdicts = [
        code(cuba, NumberRules(countries=frozenset(countries), allowed_prefixes=opened))
        for countries in (["ES"], ["ES", "CU"])
        for opened in ((), ("+53",))
    ]
    assert verdicts == ["country", "country", "high_risk", cuba]


@given(st.integers(10**6, 10**15 - 1))
def test_no_range_of_the_data_is_called_unasked(digits: int) -> None:
    """An oracle of its own: whatever is accepted begins with no prefix of the data."""
    rules = NumberRules(countries=frozenset(COUNTRY_PREFIXES) | {"CU", "FJ"})
    if isinstance(check_number(f"+{digits}", rules), PhoneNumber):
        assert not str(digits).startswith(tuple(prefix.digits for prefix in INTERNATIONAL_PREFIXES))


@pytest.mark.parametrize(
    "prefix", [f"{country} {prefix.digits}" for country, prefixes in COUNTRY_PREFIXES.items() for prefix in prefixes]
)
def test_every_range_of_the_data_is_refused(prefix: str) -> None:
    country, digits = prefix.split()
    codes = {"ES": "34", "PT": "351", "FR": "33", "GB": "44", "DE": "49", "IT": "39", "US": "1"}
    number = f"+{codes[country]}{digits.ljust(9, '2') if country != 'US' else digits.ljust(10, '2')}"
    assert code(number, NumberRules(countries=frozenset({country}))) == "destination"


def test_a_verdict_is_explained_step_by_step() -> None:
    asked = [(step.name, step.refusal is None) for step in steps("+34 807 123 456", SPAIN)]
    assert asked == [
        ("shape", True),
        ("emergency", True),
        ("length", True),
        ("own_number", True),
        ("country", True),
        ("range", False),
    ]
