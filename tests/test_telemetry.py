"""Logs: one event a line, masked, ids bound; and the metrics' names."""

import asyncio
import io
import json
import logging
import time
from collections.abc import Iterator

import httpx
import pytest
import structlog

from dosvoces import telemetry
from dosvoces.model import mask_text
from dosvoces.settings import Log


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leave logging as it was for the other tests."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def logged(stream: io.StringIO) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    for line in lines:
        line.pop("timestamp")
    return lines


def test_an_event_is_one_line_with_its_ids_and_nothing_to_dial() -> None:
    stream = io.StringIO()
    telemetry.configure(Log(), stream)
    with structlog.contextvars.bound_contextvars(connection="01kan0034600000011x", leg="01kan-a"):
        structlog.get_logger().info(
            "dialled\nforged", number="0034 600 00 00 11", port=5060, sent_at="2026-11-23T04:12:55Z"
        )
    assert logged(stream) == [
        {
            "event": "dialled\nforged",
            "level": "info",
            "connection": "01kan0034600000011x",
            "leg": "01kan-a",
            "number": "003460•••011",
            "port": 5060,
            "sent_at": "2026-11-23T04:12:55Z",
        }
    ]


def test_the_standard_library_goes_the_same_way() -> None:
    stream = io.StringIO()
    telemetry.configure(Log(), stream)
    logging.getLogger("uvicorn.error").warning("from %s", "ana@example.com")
    logging.getLogger("aiosmtplib").debug("too much")
    assert logged(stream) == [{"event": "from a•••@example.com", "level": "warning", "logger": "uvicorn.error"}]


def test_the_urls_of_requests_that_we_make_are_not_logged() -> None:
    stream = io.StringIO()
    telemetry.configure(Log(), stream)
    with httpx.Client(transport=httpx.MockTransport(lambda request: httpx.Response(204))) as client:
        client.post("https://crm.example.com/hooks/the-secret-token")
    assert stream.getvalue() == ""


def test_below_the_level_nothing_is_made() -> None:
    class Costly:
        def __str__(self) -> str:
            raise AssertionError

    stream = io.StringIO()
    telemetry.configure(Log(level="warning"), stream)
    structlog.get_logger().info("x", value=Costly())
    assert stream.getvalue() == ""


def test_a_traceback_stays_in_its_line_and_is_masked() -> None:
    stream = io.StringIO()
    telemetry.configure(Log(), stream)
    try:
        raise ValueError("no route to +34600000011")
    except ValueError:
        structlog.get_logger().exception("failed")
    (line,) = logged(stream)
    assert str(line["exception"]).endswith("ValueError: no route to +34600•••011")


def test_in_a_terminal_a_peers_line_break_begins_no_line() -> None:
    stream = io.StringIO()
    telemetry.configure(Log(format="console"), stream)
    structlog.get_logger().info("odd", reason="a\r\nb\x1b[2J")
    (line,) = stream.getvalue().splitlines()
    assert "a\\r\\nb\\x1b[2J" in line


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("+34600000011", "+34600•••011"),
        ("to 0034600000011, now", "to 003460•••011, now"),
        ("sip:34600000011@198.51.100.7:5060", "sip:346000•••011@198.51.100.7:5060"),
        ("<sip:+34600000011@sip.example.com>", "<sip:+34600•••011@sip.example.com>"),
        ("SIP:600000011@trunk", "SIP:•••@trunk"),
        ("<sips:%2b34600000011@[::1]>", "<sips:+34600•••011@[::1]>"),
        ("sip:600000011;npdi:5@trunk", "sip:•••;npdi:5@trunk"),
        ("sip:trunk:5060, sip:198.51.100.7:5060;lr", "sip:trunk:5060, sip:198.51.100.7:5060;lr"),
        ("sip:198.51.100.7, <sip:ana@trunk>", "sip:198.51.100.7, <sip:ana@trunk>"),
        ("tel:600000011;phone-context=+34", "tel:•••;phone-context=+34"),
        ("<tel:+34-600-000-011>", "<tel:+34600•••011>"),
        ("to +34 600 000 011, +34 (600) 00-00-11.", "to +34600•••011, +34600•••011."),
        ("1 + 2 = 3 at 04:12:55 +0000", "1 + 2 = 3 at 04:12:55 +0000"),
        ("Ana <ana@example.com>", "Ana <a•••@example.com>"),
        ("01kan6s4qk0034600000011abc-a", "01kan6s4qk0034600000011abc-a"),
        ("2026-11-23T04:12:55.001234+00:00", "2026-11-23T04:12:55.001234+00:00"),
        ("198.51.100.7:20000", "198.51.100.7:20000"),
        ("1000000007", "1000000007"),
    ],
)
def test_what_is_masked_and_what_is_not(value: str, expected: str) -> None:
    assert telemetry.mask(value) == expected
    assert telemetry.mask(expected) == expected


def test_nested_values_are_masked_and_deep_ones_end() -> None:
    deep: list[object] = []
    deep.append(deep)
    event = telemetry.mask_values(
        None, "info", {"facts": {"email": "x@y.es", "to": ["+34600000011"], "n": None}, "d": deep}
    )
    assert event["facts"] == {"email": "x•••@y.es", "to": ["+34600•••011"], "n": None}
    assert event["d"] == [[[["[[...]]"]]]]


def test_metrics_have_their_names() -> None:
    page = telemetry.metrics_page().decode()
    for name in ("connections_total", "open_connections", "loop_lag_seconds"):
        assert f"# HELP dosvoces_{name} " in page


async def test_the_loops_lag_is_measured() -> None:
    telemetry.LOOP_LAG.set(-1)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(telemetry.watch_loop(0), 0.01)
    assert "dosvoces_loop_lag_seconds -1.0" not in telemetry.metrics_page().decode()


def test_addresses_and_numbers_in_words_are_masked() -> None:
    text = 'to <ana@milmoh.com>: "eva@x.es" left +34 600 000 011 here, a@b@c'
    assert mask_text(text) == 'to <a•••@milmoh.com>: "e•••@x.es" left +34600•••011 here, a•••@c'


def test_a_long_word_is_read_once() -> None:
    """It would take minutes to look for an address from each of its letters."""
    assert mask_text("a" * 300_000) == "a" * 300_000


@pytest.mark.parametrize("word", ["a" * 100_000 + " x@y.es", "a" * 50_000 + "@" + "b" * 50_000, "sip:" * 25_000 + " @"])
def test_a_long_word_with_an_address_beside_it_is_read_once(word: str) -> None:
    """The logs are written in the event loop, where it would stop every call meanwhile."""
    began = time.process_time()
    assert telemetry.mask(word) == word.replace("x@", "x•••@")
    assert time.process_time() - began < 2
