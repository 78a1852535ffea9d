"""Whether the two parties may be called at the hour that is asked for."""

from datetime import datetime

from dosvoces.dialplan.hours import LOOK_AHEAD_DAYS, CallingHours
from dosvoces.model import PhoneNumber
from dosvoces.web.answers import Problem


def out_of_hours(hours: CallingHours, first: PhoneNumber, second: PhoneNumber, at: datetime) -> list[Problem]:
    """What is wrong with calling them at `at`: nothing, or one problem that says when it may be done."""
    if not hours:
        return []
    opens = hours.next_opening((first.e164, second.e164), at)
    if opens == at:
        return []
    if opens is None:
        when = f"no hour within {LOOK_AHEAD_DAYS} days is one for both numbers, wherever they may be"
    else:
        when = f"the next one begins at {opens.isoformat(timespec='minutes')}"
    return [Problem("policy", "quiet_hours", f"allows no call at this hour; {when}")]
