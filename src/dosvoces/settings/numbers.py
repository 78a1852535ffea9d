"""The section `[numbers]` of the settings: which ranges are opened and closed beside what the package knows."""

import re
from collections.abc import Callable
from datetime import date
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from dosvoces.dialplan.hours import Opening, holiday, opening
from dosvoces.settings.section import Section
from dosvoces.settings.values import comma_separated

_PREFIX = re.compile(r"\+[1-9][0-9]{0,14}")


def prefix(value: str) -> str:
    if not _PREFIX.fullmatch(value):
        raise ValueError('write it as the number begins in E.164: "+34902"')
    return value


def text_of(read: Callable[[str], object]) -> Callable[[object], object]:
    """`read`, for texts; what is read already stays."""
    return lambda value: read(value) if isinstance(value, str) else value


Prefixes = Annotated[
    tuple[Annotated[str, AfterValidator(prefix)], ...], BeforeValidator(comma_separated), Field(max_length=1000)
]


Hours = Annotated[
    tuple[Annotated[Opening, BeforeValidator(text_of(opening))], ...],
    BeforeValidator(comma_separated),
    Field(max_length=1000),
]
Holidays = Annotated[
    tuple[Annotated[tuple[str, date], BeforeValidator(text_of(holiday))], ...],
    BeforeValidator(comma_separated),
    Field(max_length=10_000),
]


class Numbers(Section):
    """Ranges of numbers, beside `[dialing] countries`. `dosvoces number +34…` tells what becomes of one and why."""

    deny_prefixes: Prefixes = ()
    """Ranges that are never called, such as `["+34803", "+351760"]`, beside those that are known to be dear."""
    allow_prefixes: Prefixes = ()
    """Ranges that are called although they are known to be dear or risky, such as `["+34902"]`. Never opens an
    emergency line, a short code, or a country that isn't in `[dialing] countries`; a satellite network, which is in no
    country, it does."""
    calling_hours: Hours = ()
    """When numbers of a country are called, on their own clock: `["ES mon-fri 09:00-21:00"]`; several entries of one
    country add up. Numbers of countries that aren't named are called at any hour. See
    [calling hours](../howto/limits.md#calling-hours)."""
    holidays: Holidays = ()
    """Days on which numbers of a country with `calling_hours` aren't called: `["ES 2026-12-25"]`."""
