"""What `dosvoces check` and every start find about the calling hours."""

from collections.abc import Iterator
from datetime import UTC, datetime

from phonenumbers import SUPPORTED_REGIONS

from dosvoces.app.limits import calling_hours
from dosvoces.doctor.trunks import Finding, Level
from dosvoces.settings import Settings

SHOWN_ZONES = 3


def examine_hours(settings: Settings) -> Iterator[Finding]:
    """Whether there are numbers that are never called by them, and countries that no number is of."""
    hours = calling_hours(settings)
    for country in sorted({each.country for each in hours.openings} - SUPPORTED_REGIONS):
        text = f"{country} in [numbers] calling_hours is no country that has numbers: it limits nothing"
        yield Finding(Level.WARNING, "calling hours", text, 'write the code of ISO 3166: "ES", "GB"')
    for never in hours.never(datetime.now(UTC)):
        zones = ", ".join(never.zones[:SHOWN_ZONES])
        if (more := len(never.zones) - SHOWN_ZONES) > 0:
            zones += f" and {more} more zones"
        yield Finding(
            Level.WARNING,
            "calling hours",
            f"{never.kind} of {never.country} are never called: they may be in {zones}, and no moment is within the "
            "hours in all of them",
            "widen [numbers] calling_hours",
        )
