"""When numbers may be called, on their own clock."""

from datetime import datetime

import pytest

from dosvoces.dialplan.hours import CallingHours, Never, holiday, opening
from dosvoces.doctor import Level, offline
from dosvoces.model import PhoneNumber
from dosvoces.settings import Settings
from dosvoces.web.hours import out_of_hours

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
    assert SPAIN.next_opening([number], datetime.fromisoformat(at)) == datetime.fromisoformat(until or at)


def test_days_may_go_over_the_weekend_and_hours_to_midnight() -> None:
    hours = CallingHours((opening("ES sun-mon 18:00-24:00"),))
    monday = datetime.fromisoformat("2026-11-23T23:59+01:00")
    assert hours.next_opening([VALENCIA], monday) == monday
    tuesday = monday.replace(day=24)
    assert hours.next_opening([VALENCIA], tuesday) == datetime.fromisoformat("2026-11-29T18:00+01:00")


def hours_of(*openings: str, holidays: tuple[str, ...] = ()) -> CallingHours:
    return CallingHours(tuple(map(opening, openings)), frozenset(map(holiday, holidays)))


NEW_YORK, AUCKLAND = "+12125550100", "+6493000000"


@pytest.mark.parametrize(
    ("second", "openings", "at", "both"),
    [
        # New York opens at 14:00 UTC, when Valencia has closed at 13:00; on Saturday Valencia is open longer.
        (
            NEW_YORK,
            ("ES mon-fri 09:00-14:00", "ES sat 09:00-20:00", "US mon-sat 09:00-21:00"),
            "2026-11-23T13:30+00:00",
            "2026-11-28T09:00-05:00",
        ),
        # The earlier one of two openings, where the other one is still open.
        (NEW_YORK, ("ES mon-fri 09:00-21:00", "US mon-fri 09:00-21:00"), "2026-11-23T22:00+00:00", "2026-11-24T14:00Z"),
        # They are never open together.
        (AUCKLAND, ("ES mon-fri 09:00-14:00", "NZ mon-fri 09:00-17:00"), "2026-11-23T10:00+00:00", None),
        # One of them isn't limited.
        (AUCKLAND, ("ES mon-fri 09:00-14:00",), "2026-11-23T14:00+00:00", "2026-11-24T09:00+01:00"),
    ],
)
def test_both_are_called_when_it_is_time_for_both(second: str, openings: tuple[str, ...], at: str, both: str) -> None:
    hours, now = hours_of(*openings), datetime.fromisoformat(at)
    wanted = None if both is None else datetime.fromisoformat(both)
    assert hours.next_opening([VALENCIA, second], now) == hours.next_opening([second, VALENCIA], now) == wanted
    if wanted is not None:
        assert hours.next_opening([VALENCIA, second], wanted) == wanted


def test_no_time_is_named_that_is_none() -> None:
    """A mobile may be on the Canaries, where it is an hour earlier: an hour in the night is never one in both zones."""
    hours = hours_of("ES mon-sun 03:00-04:00")
    at = datetime.fromisoformat("2026-11-23T12:00+01:00")
    assert hours.next_opening([VALENCIA], at) == datetime.fromisoformat("2026-11-24T03:00+01:00")
    assert hours.next_opening([MOBILE], at) is None
    mobile, valencia = (PhoneNumber(number, number) for number in (MOBILE, VALENCIA))
    (problem,) = out_of_hours(hours, valencia, mobile, at)
    assert (problem.field, problem.code) == ("policy", "quiet_hours")
    assert problem.message == (
        "allows no call at this hour; no hour within 31 days is one for both numbers, wherever they may be"
    )


def test_what_is_never_open_is_known_beforehand() -> None:
    now = datetime.fromisoformat("2026-11-23T12:00+01:00")
    mobiles = Never("ES", "mobiles", ("Atlantic/Canary", "Europe/Madrid"))
    assert list(hours_of("ES mon-sun 03:00-04:00").never(now)) == [mobiles]
    # Together they have a minute; holidays pass.
    two = hours_of("ES mon-fri 03:00-04:00", "ES fri 03:59-05:00", holidays=("ES 2026-11-27",))
    assert list(two.never(now)) == []
    assert list(hours_of("ES mon-fri 09:00-21:00", "FR mon 03:00-03:01").never(now)) == []


def test_check_and_the_start_tell_what_is_never_open() -> None:
    numbers = {"calling_hours": ["ES mon-sun 03:00-04:00", "UK mon-fri 09:00-21:00"]}
    found = [each for each in offline(Settings.model_validate({"numbers": numbers})) if each.thing == "calling hours"]
    assert {each.level for each in found} == {Level.WARNING}
    assert [each.text for each in found][:2] == [
        "UK in [numbers] calling_hours is no country that has numbers: it limits nothing",
        "mobiles of ES are never called: they may be in Atlantic/Canary, Europe/Madrid, and no moment is within the "
        "hours in all of them",
    ]


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
