"""
Which numbers may be dialled, and how they are written: the one place that makes a `PhoneNumber`.

Pure, but for the data beside it (`numbers.toml`), read once. libphonenumber is asked for countries, lengths and types,
never `is_valid`: numbers that no operator has assigned yet (the contract's own +34222222222) are well formed, and its
tables lag behind the operators'.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from phonenumbers import (
    COUNTRY_CODE_TO_REGION_CODE,
    NumberParseException,
    PhoneNumberType,
    ValidationResult,
    is_possible_number_with_reason,
    national_significant_number,
    number_type,
    parse,
    region_code_for_number,
)
from phonenumbers import PhoneNumber as ParsedNumber

from dosvoces.dialplan.data import COUNTRY_PREFIXES, EMERGENCY_NUMBERS, INTERNATIONAL_PREFIXES, Prefix, longest
from dosvoces.dialplan.hours import ALWAYS, CallingHours
from dosvoces.dialplan.rates import Rates
from dosvoces.model import PhoneNumber

__all__ = ["EMERGENCY_NUMBERS", "NumberRules", "Refusal", "Step", "as_e164", "check_number", "steps"]


@dataclass(frozen=True, slots=True)
class NumberRules:
    """What the operator allows. Emergency numbers are refused whatever these say."""

    countries: frozenset[str] = frozenset({"ES"})
    """ISO 3166 alpha-2 codes that may be called."""
    own_numbers: frozenset[str] = frozenset()
    """E.164 numbers of our trunks: a call to one of them would come back to us."""
    denied_prefixes: tuple[str, ...] = ()
    """Never called, beside what the data names: E.164, with `+`."""
    hours: CallingHours = ALWAYS
    """When they may be called."""
    allowed_prefixes: tuple[str, ...] = ()
    """
    Called although the data denies them: E.164, with `+`. Opens dear and risky ranges, and those of no country
    (satellites); never an emergency line, a short code or a number of ours.
    """
    rates: Rates | None = None
    """What calls cost, where there is a budget: a number that it has no rate for is not called."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a number is not dialled."""

    code: str
    """`missing format emergency short_code own_number country destination no_rate`: for programs, stable."""
    message: str
    """For people; doesn't repeat the number."""


_MISSING = Refusal("missing", "is missing")
_FORMAT = Refusal("format", "is not an international number: write + and 7 to 15 digits, such as +34600000011")
_LENGTH = Refusal("format", "has too few or too many digits for a number of its country")
_SPANISH_LENGTH = Refusal("format", "has too few or too many digits: a Spanish number has nine after +34")
_EMERGENCY = Refusal("emergency", "is an emergency or help line, which is never called")
_TRUNK_PREFIX = Refusal(
    "format", "has a digit that is dialled only inside its country: write +49 30 …, not +49 (0)30 …"
)
_SHORT_CODE = Refusal("short_code", "is a short code, which is never called")
_OWN_NUMBER = Refusal("own_number", "is a number of this service itself")
_COUNTRY = Refusal("country", "is in a country or network that the operator doesn't allow")
_DENIED = Refusal("destination", "is in a range that the operator has closed")
_NO_RATE = Refusal("no_rate", "has no rate in the operator's table")
_KINDS = {
    "premium": Refusal("destination", "is a premium-rate number, which is not allowed"),
    "shared_cost": Refusal("destination", "is a shared-cost number, which is not allowed"),
    "personal": Refusal("destination", "is a personal number, which is not allowed"),
    "special": Refusal("destination", "is a number for machines or special services, which is not allowed"),
    "satellite": Refusal("destination", "is a satellite phone, which is not allowed"),
    "international_network": Refusal("destination", "is in an international network, which is not allowed"),
    "high_risk": Refusal("high_risk", "is in a range known for fraud, which the operator hasn't opened"),
}

MAX_TEXT = 64
"""Characters of a number as written, separators and all."""
_MIN_DIGITS = 7  # with the calling code: no subscriber anywhere has fewer
_MAX_DIGITS = 15  # ITU-T E.164 §6.1
_MAX_SHORT_CODE = 6  # digits: the harmonised codes of Europe, 116xxx, are the longest

_SPANISH_DIGITS = 9
_NO_COUNTRY = "001"  # libphonenumber's region of codes that are no country's
_BLANKS = " \t"
_SEPARATORS = str.maketrans("", "", " -.()")


class Step(NamedTuple):
    """One question asked of a number, in the order in which they are asked."""

    name: str
    """`shape emergency short_code length own_number closed opened country range type rate`"""
    answer: str
    """For people."""
    refusal: Refusal | None = None


def check_number(text: str, rules: NumberRules) -> PhoneNumber | Refusal:
    """
    The number that `text` stands for, or why it is not called.

    Separators (blank, hyphen, dot, parentheses) and `00` for `+` are accepted, nothing else but ASCII digits: what
    libphonenumber would fold or cut off (letters, full-width digits, extensions) is refused, because it is more often
    an attempt than a slip.
    """
    for step in steps(text, rules):
        if step.refusal is not None:
            return step.refusal
    return PhoneNumber(f"+{_international(text.strip(_BLANKS).translate(_SEPARATORS))}", text)


def as_e164(text: str) -> str | None:
    """The international number that `text` is, whether it may be called or not; `None` if it is none."""
    compact = text.strip(_BLANKS).translate(_SEPARATORS)
    digits = _international(compact) or ""
    right = digits.isascii() and digits.isdigit() and not digits.startswith("0")
    if not right or not _MIN_DIGITS <= len(digits) <= _MAX_DIGITS:
        return None
    code = _calling_code(digits)
    return None if code is not None and _has_trunk_prefix(code, digits[len(code) :]) else f"+{digits}"


def steps(text: str, rules: NumberRules) -> Iterator[Step]:
    """All that is asked of `text`, up to the first refusal; without one the number is called."""
    if not text or text.isspace():
        yield Step("shape", "nothing is written", _MISSING)
        return
    compact = text.strip(_BLANKS).translate(_SEPARATORS)
    digits = compact.removeprefix("+")
    if len(text) > MAX_TEXT or not digits.isascii() or not digits.isdigit():
        yield Step("shape", "more than digits and separators is written", _FORMAT)
        return
    international = _international(compact)
    yield Step("shape", f"{compact} is written")
    if _is_emergency(digits) or (international is not None and _is_emergency_abroad(international)):
        yield Step("emergency", "an emergency or help line of some country", _EMERGENCY)
        return
    yield Step("emergency", "no emergency or help line")
    if international is None:
        short = len(digits) <= _MAX_SHORT_CODE
        yield Step("short_code", "no country is written", _SHORT_CODE if short else _FORMAT)
        return
    if international.startswith("0") or not _MIN_DIGITS <= len(international) <= _MAX_DIGITS:
        yield Step("length", f"{len(international)} digits", _FORMAT)
        return
    yield Step("length", f"{len(international)} digits")
    if rules.rates is None:
        yield from _destination(international, rules)
        return
    for step in _destination(international, rules):
        yield step
        if step.refusal is not None:
            return
    rate = rules.rates.of(international)
    if rate is None:
        yield Step("rate", "no prefix of the rate table", _NO_RATE)
    else:
        yield Step("rate", f"{rules.rates.currency} {rate}")


def _destination(international: str, rules: NumberRules) -> Iterator[Step]:
    """What is asked of a well-formed number: calling code first, without the plus."""
    number = f"+{international}"
    if number in rules.own_numbers:
        yield Step("own_number", "one of the trunks' numbers", _OWN_NUMBER)
        return
    yield Step("own_number", "none of the trunks' numbers")
    if number.startswith(rules.denied_prefixes):
        yield Step("closed", "in deny_prefixes", _DENIED)
        return
    opened = number.startswith(rules.allowed_prefixes) if rules.allowed_prefixes else False
    if opened:
        yield Step("opened", "in allow_prefixes")
    code = _calling_code(international)
    if code is None:
        yield Step("country", "in no country", None if opened else _COUNTRY)
        return
    yield from _in_country(code, international[len(code) :], rules, opened=opened)


def _in_country(code: str, national: str, rules: NumberRules, *, opened: bool) -> Iterator[Step]:
    if _has_trunk_prefix(code, national):
        yield Step("type", "a trunk prefix after the calling code", _TRUNK_PREFIX)
        return
    regions = COUNTRY_CODE_TO_REGION_CODE[int(code)]
    # Spain has its code to itself and a plan of fixed length: no need to ask libphonenumber, which takes long.
    spain = code == "34"
    parsed = None if spain else _parsed(code, national)
    region = regions[0] if parsed is None else _region(parsed, regions)
    worldwide = longest(INTERNATIONAL_PREFIXES, code + national)
    if region not in rules.countries and not (opened and region == _NO_COUNTRY):
        network = f" ({worldwide.kind.replace('_', ' ')})" if worldwide is not None else ""
        yield Step("country", f"{_named(region)}{network}", _COUNTRY)
        return
    yield Step("country", _named(region))
    found = None if opened else worldwide or longest(COUNTRY_PREFIXES.get(region or "", ()), national)
    if found is not None:
        yield _in_range(found)
        return
    yield Step("range", "opened" if opened else "no dear or risky one")
    if parsed is None:
        nine = len(national) == _SPANISH_DIGITS
        told = "nine digits" if nine else f"{len(national)} digits after +34, not nine"
        yield Step("type", told, None if nine else _SPANISH_LENGTH)
        return
    if not opened and (kind := _DENIED_TYPES.get(number_type(parsed))):
        yield Step("type", kind, _KINDS[kind])
        return
    possible = is_possible_number_with_reason(parsed) == ValidationResult.IS_POSSIBLE
    yield Step(
        "type",
        "of a length that its country has" if possible else "no length of its country's",
        None if possible else _LENGTH,
    )


def _named(region: str | None) -> str:
    return "of no country" if region in (None, _NO_COUNTRY) else f"in {region}"


def _in_range(found: Prefix) -> Step:
    return Step("range", f"{found.digits}…: {found.kind.replace('_', ' ')} ({found.source})", _KINDS[found.kind])


def _international(compact: str) -> str | None:
    """The digits from the calling code on, `None` where no country is written."""
    if compact.startswith("+"):
        return compact[1:]
    return compact[2:] if compact.startswith("00") else None


def _region(number: ParsedNumber, regions: tuple[str, ...]) -> str | None:
    # Countries that share a code (+1, +44, +39 …) are told apart by area code. What fits none of them counts as the
    # main one's, but not under +1: there a number of the Caribbean costs many times one of the United States.
    return region_code_for_number(number) or (None if number.country_code == 1 else regions[0])


def _parsed(code: str, national: str) -> ParsedNumber:
    """What `phonenumbers.parse` would make of it, without its regular expressions."""
    zeros = len(national) - len(national.lstrip("0"))
    return ParsedNumber(
        country_code=int(code),
        national_number=int(national),
        italian_leading_zero=zeros > 0 or None,
        number_of_leading_zeros=zeros if zeros > 1 else None,
    )


def _has_trunk_prefix(code: str, national: str) -> bool:
    """
    Whether `+49 (0)900 …` is written: a carrier may well dial it, and no range of dear numbers begins with a zero.

    In Italy a zero at the beginning is the number's own.
    """
    if code == "34":  # Spain has none.
        return False
    try:
        parsed = parse(f"+{code}{national}")
    except NumberParseException:
        return False  # Its length is judged elsewhere.
    # Shorter: to numbers of San Marino something is added.
    return len(national_significant_number(parsed)) < len(national)


def _calling_code(international: str) -> str | None:
    """The country calling code (ITU-T E.164, annex: no code begins another)."""
    for length in (1, 2, 3):
        if international[:length].isdigit() and int(international[:length]) in COUNTRY_CODE_TO_REGION_CODE:
            return international[:length]
    return None


# --- emergency and help lines behind all that people write before them ---

_LONGEST_EMERGENCY = max(map(len, EMERGENCY_NUMBERS))


def _is_emergency(digits: str) -> bool:
    return digits in EMERGENCY_NUMBERS or digits.lstrip("0") in EMERGENCY_NUMBERS


def _is_emergency_abroad(international: str) -> bool:
    """Whether an emergency number hides behind a calling code (+34112), zeros (+0034112), or nothing (+112)."""
    if _is_emergency(international):
        return True
    international = international.lstrip("0")
    if len(international) > _LONGEST_EMERGENCY + 5:  # a code of 3 digits, a trunk prefix of up to 2
        return False
    code = _calling_code(international)
    return code is not None and _is_emergency(international[len(code) :])


_DENIED_TYPES = {
    PhoneNumberType.PREMIUM_RATE: "premium",
    PhoneNumberType.SHARED_COST: "shared_cost",
    PhoneNumberType.PERSONAL_NUMBER: "personal",
    PhoneNumberType.PAGER: "special",
    PhoneNumberType.UAN: "special",
    PhoneNumberType.VOICEMAIL: "special",
}
"""What libphonenumber knows beside our data, and for countries that the data doesn't name."""
