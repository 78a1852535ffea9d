"""
Which numbers may be dialled, and how they are written: the one place that makes a `PhoneNumber`.

Pure. libphonenumber is asked for countries, lengths and types, never `is_valid`: numbers that no operator has assigned
yet (the contract's own +34222222222) are well formed, and its tables lag behind the operators'.
"""

from dataclasses import dataclass

from phonenumbers import (
    COUNTRY_CODE_TO_REGION_CODE,
    PhoneNumberType,
    ValidationResult,
    is_possible_number_with_reason,
    number_type,
    region_code_for_number,
)
from phonenumbers import PhoneNumber as ParsedNumber

from dosvoces.model import PhoneNumber


@dataclass(frozen=True, slots=True)
class NumberRules:
    """What the operator allows. Emergency numbers are refused whatever these say."""

    countries: frozenset[str] = frozenset({"ES"})
    """ISO 3166 alpha-2 codes that may be called."""
    own_numbers: frozenset[str] = frozenset()
    """E.164 numbers of our trunks: a call to one of them would come back to us."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a number is not dialled."""

    code: str
    """`missing format emergency short_code own_number country destination`: for programs, stable."""
    message: str
    """For people; doesn't repeat the number."""


_MISSING = Refusal("missing", "is missing")
_FORMAT = Refusal("format", "is not an international number: write + and 7 to 15 digits, such as +34600000011")
_EMERGENCY = Refusal("emergency", "is an emergency or help line, which is never called")
_SHORT_CODE = Refusal("short_code", "is a short code, which is never called")
_OWN_NUMBER = Refusal("own_number", "is a number of this service itself")
_COUNTRY = Refusal("country", "is in a country or network that the operator doesn't allow")
_DESTINATION = Refusal("destination", "is a premium, shared-cost, personal or special number, which is not allowed")

MAX_TEXT = 64
"""Characters of a number as written, separators and all."""
_MIN_DIGITS = 7  # with the calling code: no subscriber anywhere has fewer
_MAX_DIGITS = 15  # ITU-T E.164 §6.1
_MAX_SHORT_CODE = 6  # digits: the harmonised codes of Europe, 116xxx, are the longest

_SEPARATORS = str.maketrans("", "", " -.()")


def check_number(text: str, rules: NumberRules) -> PhoneNumber | Refusal:
    """
    The number that `text` stands for, or why it is not called.

    Separators (blank, hyphen, dot, parentheses) and `00` for `+` are accepted, nothing else but ASCII digits: what
    libphonenumber would fold or cut off (letters, full-width digits, extensions) is refused, because it is more often
    an attempt than a slip.
    """
    if not text or text.isspace():
        return _MISSING
    compact = text.strip(" \t").translate(_SEPARATORS)
    plus = compact.startswith("+")
    digits = compact[1:] if plus else compact
    if len(text) > MAX_TEXT or not digits.isascii() or not digits.isdigit():
        return _FORMAT
    international = digits if plus else digits[2:] if digits.startswith("00") else None
    if _is_emergency(digits) or (international is not None and _is_emergency_abroad(international)):
        return _EMERGENCY
    if international is None:
        return _SHORT_CODE if len(digits) <= _MAX_SHORT_CODE else _FORMAT
    if international.startswith("0") or not _MIN_DIGITS <= len(international) <= _MAX_DIGITS:
        return _FORMAT
    return _destination_refused(international, rules) or PhoneNumber(f"+{international}", text)


def _destination_refused(international: str, rules: NumberRules) -> Refusal | None:
    """Why these digits (calling code first) are not a destination of ours, `None` if they are."""
    if f"+{international}" in rules.own_numbers:
        return _OWN_NUMBER
    code = _calling_code(international)
    if code is None:
        return _COUNTRY
    national = international[len(code) :]
    if code == "34":
        # Spain has the code to itself and a plan of fixed length: no need to ask libphonenumber.
        if "ES" not in rules.countries:
            return _COUNTRY
        if national.startswith(_DENIED_PREFIXES["ES"]):
            return _DESTINATION
        return None if len(national) == 9 else _FORMAT
    regions = COUNTRY_CODE_TO_REGION_CODE[int(code)]
    if rules.countries.isdisjoint(regions):
        return _COUNTRY
    return _refused_by_library(_parsed(code, national), regions, rules)


def _refused_by_library(number: ParsedNumber, regions: tuple[str, ...], rules: NumberRules) -> Refusal | None:
    # Countries that share a code (+1, +44, +39 …) are told apart by area code. What fits none of them counts as the
    # main one's, but not under +1: there a number of the Caribbean costs many times one of the United States.
    region = region_code_for_number(number) or (None if number.country_code == 1 else regions[0])
    if region not in rules.countries:
        return _COUNTRY
    if str(number.national_number).startswith(_DENIED_PREFIXES.get(region, ())):
        return _DESTINATION
    if number_type(number) in _DENIED_TYPES:
        return _DESTINATION
    return None if is_possible_number_with_reason(number) == ValidationResult.IS_POSSIBLE else _FORMAT


def _parsed(code: str, national: str) -> ParsedNumber:
    """What `phonenumbers.parse` would make of it, without its regular expressions."""
    zeros = len(national) - len(national.lstrip("0"))
    return ParsedNumber(
        country_code=int(code),
        national_number=int(national),
        italian_leading_zero=zeros > 0 or None,
        number_of_leading_zeros=zeros if zeros > 1 else None,
    )


def _calling_code(international: str) -> str | None:
    """The country calling code (ITU-T E.164, annex: no code begins another)."""
    for length in (1, 2, 3):
        if international[:length].isdigit() and int(international[:length]) in COUNTRY_CODE_TO_REGION_CODE:
            return international[:length]
    return None


# --- emergency and help lines: our own list, of all countries at once ---

EMERGENCY_NUMBERS = frozenset(
    # Recommended everywhere (ITU-T E.161.1), then the single numbers of Britain, Australia, New Zealand and others.
    "112 911 999 000 111 988 990 991 992 993 994 995 996 997 998"
    # Spain (RD 2296/2004, Orden IET/1554/2014 and later): health, fire, police, and the help lines 016 017 018 024.
    " 061 062 080 085 088 089 091 092 006 010 012 016 017 018 024"
    # Police, ambulance and fire of countries that keep numbers of their own beside 112.
    " 01 02 03 04 15 17 18 060 065 066 068 069 077 100 101 102 103 104 105 106 107 108 109 110 113 114 115 116 117 118"
    " 119 120 121 122 123 124 125 126 127 128 129 130 131 132 133 134 140 141 144 147 150 151 155 156 157 158 160 161"
    " 165 166 170 171 175 177 180 181 184 185 190 191 192 193 194 195 196 197 198 199 222 333 444 555 766 811 822 833"
    " 844 855 912 913 914 915 917 919 933 977 1122 1669 10111 10177"
    # Harmonised services of social value (Decision 2007/116/EC): missing children, victims, children, health, crisis.
    " 116000 116006 116111 116117 116123".split()
)
"""Of all countries at once, on purpose: three digits are nobody's ordinary number anywhere."""
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


# --- dear numbers ---

_DENIED_PREFIXES: dict[str, tuple[str, ...]] = {
    # Plan Nacional de Numeración Telefónica (RD 2296/2004) and its resolutions.
    "ES": (
        "803",  # premium: adults
        "806",  # premium: leisure
        "807",  # premium: professional
        "905",  # televoting
        "907",  # premium data
        "901",  # shared cost
        "902",  # shared cost, dear from mobiles
        "70",  # personal numbering: follows the person, at a price
        "118",  # directory enquiries
        "51",  # nomadic numbering
        "59",  # machine to machine
    ),
    # Piano di numerazione (AGCOM 8/15/CIR): shared cost, premium, universal.
    "IT": ("144", "166", "178", "199", "89"),
}
"""National prefixes beside libphonenumber's types, which miss what has an unusual length."""

_DENIED_TYPES = frozenset(
    {
        PhoneNumberType.PREMIUM_RATE,
        PhoneNumberType.SHARED_COST,
        PhoneNumberType.PERSONAL_NUMBER,
        PhoneNumberType.PAGER,
        PhoneNumberType.UAN,
        PhoneNumberType.VOICEMAIL,
    }
)
