"""The section `[numbers]` of the settings: which ranges are opened and closed beside what the package knows."""

import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from dosvoces.settings_section import Section
from dosvoces.settings_values import comma_separated

_PREFIX = re.compile(r"\+[1-9][0-9]{0,14}")


def prefix(value: str) -> str:
    if not _PREFIX.fullmatch(value):
        raise ValueError('write it as the number begins in E.164: "+34902"')
    return value


Prefixes = Annotated[
    tuple[Annotated[str, AfterValidator(prefix)], ...], BeforeValidator(comma_separated), Field(max_length=1000)
]


class Numbers(Section):
    """Ranges of numbers, beside `[dialing] countries`. `dosvoces number +34…` tells what becomes of one and why."""

    deny_prefixes: Prefixes = ()
    """Ranges that are never called, such as `["+34803", "+351760"]`, beside those that are known to be dear."""
    allow_prefixes: Prefixes = ()
    """Ranges that are called although they are known to be dear or risky, such as `["+34902"]`. Never opens an
    emergency line, a short code, or a country that isn't in `[dialing] countries`; a satellite network, which is in no
    country, it does."""
