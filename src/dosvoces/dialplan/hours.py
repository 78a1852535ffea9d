"""
When people may be called: by the country of their number, on its clock. Pure, but for the time zones' data.

A number of which libphonenumber can't tell the zone, such as a Spanish mobile, may be in any of those that it names: it
is called only while it is time in all of them.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, parse, region_code_for_number
from phonenumbers.timezone import time_zones_for_geographical_number, time_zones_for_number

LOOK_AHEAD_DAYS = 31
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_OPENING = re.compile(
    r"(?P<country>[A-Z]{2}) (?P<first>[a-z]{3})(?:-(?P<last>[a-z]{3}))? "
    r"(?P<opens>[0-2]\d:[0-5]\d)-(?P<closes>[0-2]\d:[0-5]\d)"
)
_NO_ZONE = "Etc/Unknown"


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

    def closed_until(self, number: str, at: datetime) -> datetime | None:
        """
        `None` if `number` (E.164) may be called at `at`; else from when on, on its clock.

        Where that isn't within `LOOK_AHEAD_DAYS`, the end of them.
        """
        parsed = parse(number)
        country = region_code_for_number(parsed) or COUNTRY_CODE_TO_REGION_CODE[parsed.country_code or 0][0]
        openings = [each for each in self.openings if each.country == country]
        if not openings:
            return None
        zones = [ZoneInfo(name) for name in _zones(number)]
        if all(self._open(country, openings, at.astimezone(zone)) for zone in zones):
            return None
        # It opens when it does in some zone, and is open in all the others by then.
        moments = sorted(moment for zone in zones for moment in self._starts(openings, at.astimezone(zone)))
        for moment in moments:
            if moment > at and all(self._open(country, openings, moment.astimezone(zone)) for zone in zones):
                return moment
        return at.astimezone(zones[0]) + timedelta(days=LOOK_AHEAD_DAYS)

    def _open(self, country: str, openings: Iterable[Opening], local: datetime) -> bool:
        if (country, local.date()) in self.holidays:
            return False
        return any(o.opens <= local.time() < o.closes and local.weekday() in o.days for o in openings)

    def _starts(self, openings: Iterable[Opening], local: datetime) -> Iterable[datetime]:
        for ahead in range(LOOK_AHEAD_DAYS):
            day = local.date() + timedelta(days=ahead)
            for each in openings:
                yield datetime.combine(day, each.opens, tzinfo=local.tzinfo)


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
