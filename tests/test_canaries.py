"""The canaries sing: what would be a leak is found, and what is masked or merely looks like one isn't."""

import pytest
import structlog

from tests.canaries import leaks, watched


@pytest.mark.parametrize(
    "line",
    [
        "calls +34600000011",
        '{"to": "0034600000011"}',
        "sip:600000011@host",
        "600 000 011",
        "600-00-00-11.",
        "mail to <ana@example.com>",
        "ana%40 and artur.temporal@milmoh.com",
        "the lead: Propriedad",
    ],
)
def test_a_leak_is_found(line: str) -> None:
    assert leaks([line, "all is well"]) == [line]


@pytest.mark.parametrize(
    "line",
    ["calls +34600•••011", "a•••@example.com", "01kan0034600000011x", "1600000011", "6000000112", "dana@example.com"],
)
def test_what_is_masked_is_none(line: str) -> None:
    assert leaks([line]) == []


def test_a_service_that_would_tell_fails_its_test() -> None:
    with watched():
        structlog.get_logger().info("calling", number="+34600000011", note="to ana@example.com")
    with pytest.raises(AssertionError), watched():
        structlog.get_logger().info("calling", lead={"name": "Propriedad"})
    assert not structlog.is_configured()
