"""
Known numbers, addresses and lead texts, which must stand in no log: whoever runs a service in tests looks for them.
"""

import io
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import structlog

from dosvoces import telemetry

NUMBERS = ("+34600000011", "+34960000022", "+34222222222", "+34111111111")
"""Whom the tests call, and the contract's own example."""
EMAILS = ("ana@example.com", "artur.temporal@milmoh.com")
TEXTS = ("Propriedad", "Comercializador")
"""Of the contract's example, as the tests' leads have it."""

# National, too, with whatever stands between the digits; not as a part of an id or of a longer row of digits.
_NUMBER = "|".join(r"[ .()-]?".join(number[3:]) for number in NUMBERS)
_LEAK = re.compile(
    rf"(?<![\dA-Za-z])(?:\+|00)?(?:34)?[ .-]?(?:{_NUMBER})(?![\dA-Za-z])|"
    + "|".join(rf"(?<!\w){re.escape(each)}" for each in (*EMAILS, *TEXTS))
)


def leaks(lines: Iterable[str]) -> list[str]:
    """The lines in which somebody can be read."""
    return [line for line in lines if _LEAK.search(line)]


@contextmanager
def watched() -> Iterator[None]:
    """
    What a service in this process logs meanwhile goes through the masks, as it does in one of its own, and is read.

    It is printed in the end, for who looks at a test that failed. Where a test has set up the log, that stays.
    """
    if structlog.is_configured():
        yield
        return
    told = io.StringIO()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            telemetry.mask_values,
            structlog.processors.JSONRenderer(ensure_ascii=False, default=str),
        ],
        logger_factory=structlog.PrintLoggerFactory(told),
        cache_logger_on_first_use=False,
    )
    try:
        yield
    finally:
        structlog.reset_defaults()
        sys.stdout.write(told.getvalue())
    assert leaks(told.getvalue().splitlines()) == []
