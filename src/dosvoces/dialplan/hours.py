"""
When people may be called: by the country of their number, on its clock. Pure, but for the time zones' data.

A number of which libphonenumber can't tell the zone, such as a Spanish mobile, may be in any of those that it names: it
is called only while it is time in all of them.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from heapq import merge
from zoneinfo import ZoneInfo

from phonenumbers import (
    COUNTRY_CODE_TO_REGION_CODE,
    PhoneNumberFormat,
    PhoneNumberType,
    example_number_for_type,
    format_number,
    parse,
    region_code_for_number,
)
from phonenumbers.timezone import time_zones_for_geographical_number, time_zones_for_number

LOOK_AHEAD_DAYS = 31
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_OPENING = re.compile(
    r"(?P<country>[A-Z]{2}) (?P<first>[a-z]{3})(?:-(?P<last>[a-z]{3}))? "
    r"(?P<opens>[0-2]\d:[0-5]\d)-(?P<closes>[0-2]\d:[0-5]\d)"
)
_NO_ZONE = "Etc/Unknown"
_KINDS = {
    PhoneNumberType.FIXED_LINE: "fixed lines",
    PhoneNumberType.MOBILE: "mobiles",
    PhoneNumberType.VOIP: "internet telephony",
}
"""Of which a country's numbers may be in different zones."""


@dataclass(frozen=True, slots=True)
class Opening:
    """When numbers of a country may be called."""

    country: str
    days: frozenset[int]
    """0 is Monday."""
    opens: time
    closes: time
    """`time.max` for the end of the day."""


def opening(text: str) -> Opening:
    """`ES mon-fri 09:00-21:00`. Raises `ValueError` that says how it is written."""
    found = _OPENING.fullmatch(text.strip())
    last = found["last"] or found["first"] if found else ""
    if found is None or found["first"] not in _DAYS or last not in _DAYS:
        raise ValueError('write it as "ES mon-fri 09:00-21:00": country, days, hours on its clock')
    opens, closes = _time(found["opens"]), _time(found["closes"])
    if closes <= opens:
        raise ValueError("the hours must end later than they begin, on the same day; 24:00 is its end")
    first = _DAYS.index(found["first"])
    length = (_DAYS.index(last) - first) % 7 + 1
    return Opening(found["country"], frozenset((first + day) % 7 for day in range(length)), opens, closes)


def holiday(text: str) -> tuple[str, date]:
    """`ES 2026-12-25`. Raises `ValueError`."""
    country, _, day = text.strip().partition(" ")
    if not re.fullmatch("[A-Z]{2}", country) or not re.fullmatch(r"\d{4}-\d\d-\d\d", day):
        raise ValueError('write it as "ES 2026-12-25"')
    return country, date.fromisoformat(day)


@dataclass(frozen=True, slots=True)
class CallingHours:
    """When numbers may be called; those of countries that aren't named, always."""

    openings: tuple[Opening, ...] = ()
    holidays: frozenset[tuple[str, date]] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.openings)

    def next_opening(self, numbers: Iterable[str], at: datetime) -> datetime | None:
        """
        When all of `numbers` (E.164) may be called at once, from `at` on: `at` itself if they may then.

        Else the first such moment, on the clock of the number whose hours begin then; `None` if there is none within
        `LOOK_AHEAD_DAYS`.
        """
        places = [place for number in numbers if (place := self._place(number)) is not None]
        if all(self._open(place, at) for place in places):
            return at
        # All of them are open when the last one opens, so one of the openings it is.
        each = [_starts(place, at.astimezone(zone)) for place in places for zone in place.zones]
        for moment in merge(*each, key=datetime.timestamp):
            if moment > at and all(self._open(place, moment) for place in places):
                return moment
        return None

    def never(self, now: datetime) -> Iterator["Never"]:
        """The kinds of numbers of the countries named that can never be called, whatever the holidays."""
        always = replace(self, holidays=frozenset())
        for country in sorted({each.country for each in self.openings}):
            for kind, words in _KINDS.items():
                example = example_number_for_type(country, kind)
                place = None if example is None else self._place(format_number(example, PhoneNumberFormat.E164))
                if place is None or place.country != country:
                    continue
                # A country's zones needn't change to summer time together.
                seasons = (now, now + timedelta(days=182))
                if not any(always._open_within(place, at) for at in seasons):
                    yield Never(country, words, tuple(zone.key for zone in place.zones))

    def _open_within(self, place: "_Place", at: datetime) -> bool:
        moments = (moment for zone in place.zones for moment in _starts(place, at.astimezone(zone)))
        return any(self._open(place, moment) for moment in moments)

    def _place(self, number: str) -> "_Place | None":
        """Where `number` may be; `None` where no hours are set."""
        parsed = parse(number)
        country = region_code_for_number(parsed) or COUNTRY_CODE_TO_REGION_CODE[parsed.country_code or 0][0]
        openings = tuple(each for each in self.openings if each.country == country)
        return _Place(country, openings, tuple(ZoneInfo(name) for name in _zones(number))) if openings else None

    def _open(self, place: "_Place", at: datetime) -> bool:
        """Whether it is time in all the zones."""
        return all(self._open_there(place, at.astimezone(zone)) for zone in place.zones)

    def _open_there(self, place: "_Place", local: datetime) -> bool:
        if (place.country, local.date()) in self.holidays:
            return False
        return any(o.opens <= local.time() < o.closes and local.weekday() in o.days for o in place.openings)


@dataclass(frozen=True, slots=True)
class Never:
    """Numbers that the calling hours let nobody call, ever: no moment is within them in all of their zones."""

    country: str
    kind: str
    """In words."""
    zones: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a number may be, and when it is called there."""

    country: str
    openings: tuple[Opening, ...]
    zones: tuple[ZoneInfo, ...]


def _starts(place: _Place, local: datetime) -> Iterator[datetime]:
    """When it opens in one zone, the earliest first; of the first day those that have been, too."""
    for ahead in range(LOOK_AHEAD_DAYS + 1):
        day = local.date() + timedelta(days=ahead)
        for opens in sorted(each.opens for each in place.openings if day.weekday() in each.days):
            yield datetime.combine(day, opens, tzinfo=local.tzinfo)


ALWAYS = CallingHours()


def _zones(number: str) -> tuple[str, ...]:
    parsed = parse(number)
    zones: tuple[str, ...] = time_zones_for_number(parsed)
    if zones == (_NO_ZONE,):
        zones = time_zones_for_geographical_number(parsed)
    return ("UTC",) if zones == (_NO_ZONE,) else zones


def _time(text: str) -> time:
    if text == "24:00":
        return time.max
    return time.fromisoformat(text)
