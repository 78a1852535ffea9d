"""
Logs and metrics: one event a line, ids bound once, phone numbers and e-mail addresses masked before they are written.

Callers take `structlog.get_logger()` and bind ids with `structlog.contextvars.bound_contextvars(connection=…, leg=…)`.
What is below the level costs one comparison. The standard library's logging (uvicorn, asyncio, alembic) goes the
same way.
"""

import asyncio
import logging
import re
import sys
from typing import Any, TextIO

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, generate_latest
from structlog.typing import EventDict, Processor, WrappedLogger

from dosvoces.model import mask_email, mask_number, mask_text
from dosvoces.settings import Log

# --- metrics: what /metrics shows ---

REGISTRY = CollectorRegistry()
CONNECTIONS = Counter("dosvoces_connections", "Connections that ended, by outcome.", ["outcome"], registry=REGISTRY)
OPEN_CONNECTIONS = Gauge("dosvoces_open_connections", "Connections without an outcome.", registry=REGISTRY)
TEST_CONNECTIONS = Counter(
    "dosvoces_test_connections",
    "Trial runs that ended, by outcome; in no other figure.",
    ["outcome"],
    registry=REGISTRY,
)
OPEN_TEST_CONNECTIONS = Gauge("dosvoces_open_test_connections", "Trial runs without an outcome.", registry=REGISTRY)
CEILING_ALARMS = Counter(
    "dosvoces_ceiling_alarms",
    "Times that so many per cent of a ceiling of [limits] were used up.",
    ["ceiling", "percent"],
    registry=REGISTRY,
)
LOOP_LAG = Gauge("dosvoces_loop_lag_seconds", "How late the event loop's timers are, last second.", registry=REGISTRY)


METRICS_TYPE = CONTENT_TYPE_LATEST
"""The media type of `metrics_page`."""


def metrics_page() -> bytes:
    """The metrics in Prometheus' text format."""
    return generate_latest(REGISTRY)


async def watch_loop(interval_s: float = 1.0) -> None:
    """Measure the event loop's lag until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + interval_s
        await asyncio.sleep(interval_s)
        LOOP_LAG.set(max(0.0, loop.time() - due))


# --- logs ---

NUMBER_KEYS = frozenset({"number", "first", "second", "caller_id", "firstnumber", "secondnumber", "email", "recipient"})
"""Keys whose value is a number or an address in whatever form: masked by the wider rule."""

# Narrower than `model.mask_text`: ids, timestamps and ports are digits too and must stay readable.
# A `+` is in none of those, so that a number that begins with one may be written in groups.
_E164 = re.compile(r"(?<![\w+])(?:\+[1-9](?:[ .()-]{0,2}\d){6,14}|00[1-9]\d{6,14})(?!\w)")
# It begins where a word does: a long text without blanks must not be read once for each of its letters.
_EMAIL = re.compile(r"(?<![^\s<>\"'=:;,/])[^\s<>\"'=:;,/]+@[^\s<>\"'@:;,/]+\.[^\s<>\"'@:;,/]+")
# A number in a URI has no `+` with some carriers, or an escaped one, or parameters; it is a party all the same.
_URI_NUMBER = re.compile(r"\b(tel:|sips?:(?=[^\s@,>]{1,256}@))((?:\+|%2B)?\d[\d().-]*+)(?![\w•])", re.IGNORECASE)
_NO_NUMBER = re.compile(r"[^\d+]")
CHATTY = ("uvicorn.error", "alembic", "httpx")
"""They tell of their own start, or of each request with its URL, which may be a secret; at level debug they may."""
MAX_DEPTH = 4  # of nested values; deeper ones are shown as text


def mask(value: str) -> str:
    """`value` with the phone numbers and e-mail addresses in it masked, everything else as it is."""
    if ":" in value:
        value = _URI_NUMBER.sub(lambda m: m[1] + _masked_number(m[2]), value)
    if "@" in value:
        value = _EMAIL.sub(lambda m: m[0] if "•" in m[0] else mask_email(m[0]), value)
    if "+" in value or "00" in value:
        value = _E164.sub(lambda m: _masked_number(m[0]), value)
    return value


def _masked_number(written: str) -> str:
    """Of a number as it is written, in groups or with an escaped `+`."""
    return mask_number(_NO_NUMBER.sub("", written.upper().replace("%2B", "+")))


def configure(log: Log, stream: TextIO | None = None) -> None:
    """Send all logs, ours and the standard library's, to `stream` (standard error). May be called again."""
    out = stream if stream is not None else sys.stderr
    json = log.format == "json" or (log.format == "auto" and not out.isatty())
    level = logging.getLevelNamesMapping()[log.level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        mask_values,
    ]
    last: list[Processor] = (
        [structlog.processors.JSONRenderer(ensure_ascii=False, default=str)]
        if json
        else [escape_line_breaks, structlog.dev.ConsoleRenderer(colors=out.isatty(), pad_event_to=0)]
    )
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    for name in CHATTY:
        logging.getLogger(name).setLevel(level if level == logging.DEBUG else max(level, logging.WARNING))


def mask_values(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """structlog processor: mask every text in the event, however deep."""
    for key, value in event.items():
        if key not in ("timestamp", "level", "logger"):
            event[key] = _masked(value, wide=key in NUMBER_KEYS, depth=0)
    return event


def _masked(value: Any, *, wide: bool, depth: int) -> Any:
    match value:
        case str():
            return mask_text(value) if wide else mask(value)
        case bool() | int() | float() | None:
            return value
        case dict() if depth < MAX_DEPTH:
            return {k: _masked(v, wide=wide or k in NUMBER_KEYS, depth=depth + 1) for k, v in value.items()}
        case list() | tuple() if depth < MAX_DEPTH:
            return [_masked(v, wide=wide, depth=depth + 1) for v in value]
        case _:
            return _masked(str(value), wide=wide, depth=depth)


_LINE_BREAKS = {ord(char): f"\\x{ord(char):02x}" for char in map(chr, [*range(9), *range(11, 32), 127, 0x85])} | {
    ord("\n"): "\\n",
    ord("\r"): "\\r",
    ord("\t"): "\\t",
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}


def escape_line_breaks(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """structlog processor: a peer's line break must not begin a line of the log. A traceback keeps its own."""
    for key, value in event.items():
        if isinstance(value, str) and key != "exception":
            event[key] = value.translate(_LINE_BREAKS)
    return event
