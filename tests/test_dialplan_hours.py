"""When numbers may be called, on their own clock."""

from datetime import datetime

import pytest

from dosvoces.dialplan.hours import CallingHours, holiday, opening

SPAIN = CallingHours(
    (opening("ES mon-fri 09:00-21:00"), opening("ES sat 10:00-14:00")), frozenset({holiday("ES 2026-12-25")})
)
VALENCIA, LAS_PALMAS, MOBILE, UNASSIGNED = "+34960000022", "+34928000022", "+34600000011", "+34222222222"


@pytest.mark.parametrize(
    ("number", "at", "until"),
    [
        (VALENCIA, "2026-11-23T09:00+01:00", None),
        (VALENCIA, "2026-11-23T08:59+01:00", "2026-11-23T09:00+01:00"),
        (VALENCIA, "2026-11-23T20:59+01:00", None),
        (VALENCIA, "2026-11-23T21:00+01:00", "2026-11-24T09:00+01:00"),
        (VALENCIA, "2026-11-23T08:30+00:00", None),  # Whatever clock the moment is told on.
        (VALENCIA, "2026-07-20T07:30+00:00", None),  # In summer, too.
        (VALENCIA, "2026-11-21T13:00+01:00", None),
        (VALENCIA, "2026-11-22T12:00+01:00", "2026-11-23T09:00+01:00"),
        (VALENCIA, "2026-12-25T12:00+01:00", "2026-12-26T10:00+01:00"),
        # An hour later on the Canaries, and a mobile may be there.
        (LAS_PALMAS, "2026-11-23T09:30+01:00", "2026-11-23T09:00+00:00"),
        (LAS_PALMAS, "2026-11-23T21:30+01:00", None),
        (MOBILE, "2026-11-23T09:30+01:00", "2026-11-23T10:00+01:00"),
        (MOBILE, "2026-11-23T21:30+01:00", "2026-11-24T10:00+01:00"),
        (UNASSIGNED, "2026-11-23T09:30+01:00", "2026-11-23T10:00+01:00"),
        ("+33123456789", "2026-11-22T03:00+01:00", None),  # No hours are set there.
    ],
)
def test_a_number_is_called_when_it_is_time_where_it_is(number: str, at: str, until: str | None) -> None:
    wanted = None if until is None else datetime.fromisoformat(until)
    assert wanted == SPAIN.closed_until(number, datetime.fromisoformat(at))


def test_days_may_go_over_the_weekend_and_hours_to_midnight() -> None:
    hours = CallingHours((opening("ES sun-mon 18:00-24:00"),))
    monday = datetime.fromisoformat("2026-11-23T23:59+01:00")
    assert hours.closed_until(VALENCIA, monday) is None
    assert hours.closed_until(VALENCIA, monday.replace(day=24)) == datetime.fromisoformat("2026-11-29T18:00+01:00")


@pytest.mark.parametrize(
    "text", ["", "ES", "ES mo-fr 9-21", "ES mon 21:00-09:00", "es mon 09:00-10:00", "ES mon 25:00-26:00"]
)
def test_what_is_no_opening_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"ES mon-fri|later than|hour must"):
        opening(text)


@pytest.mark.parametrize("text", ["", "2026-12-25", "ES 25.12.2026", "ES 2026-02-30"])
def test_what_is_no_holiday_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"ES 2026-12-25|day"):
        holiday(text)
