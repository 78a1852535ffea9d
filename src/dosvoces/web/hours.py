"""Whether the two parties may be called at the hour that is asked for."""

from datetime import datetime

from dosvoces.dialplan.hours import CallingHours
from dosvoces.model import PhoneNumber
from dosvoces.web.answers import Problem


def out_of_hours(hours: CallingHours, first: PhoneNumber, second: PhoneNumber, at: datetime) -> list[Problem]:
    """What is wrong with calling them at `at`: nothing, or one problem that says when it may be done."""
    if not hours:
        return []
    closed = [until for number in (first, second) if (until := hours.closed_until(number.e164, at)) is not None]
    if not closed:
        return []
    when = max(closed).isoformat(timespec="minutes")
    return [Problem("policy", "quiet_hours", f"allows no call at this hour; the next one begins at {when}")]
