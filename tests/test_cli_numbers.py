"""The command that explains a number."""

import json
from datetime import UTC, datetime

import pytest

from dosvoces.cli import main
from dosvoces.cli.numbers import _hours_step
from dosvoces.dialplan.data import VERSION
from dosvoces.dialplan.hours import CallingHours, opening


def test_a_number_that_would_be_called(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["number", "+34 600 000 011"]) == 0
    assert (
        capsys.readouterr().out
        == f"""+34 600 000 011 would be called
  shape       +34600000011 is written
  emergency   no emergency or help line
  length      11 digits
  own number  none of the trunks' numbers
  country     in ES
  range       no dear or risky one
  type        nine digits
judged by the numbers of {VERSION} and the settings
"""
    )


def test_one_refused_number_of_several_is_told_by_the_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["number", "--json", "+34600000011", "112"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert [(verdict["number"], verdict["called"], verdict["code"]) for verdict in told["verdicts"]] == [
        ("+34600000011", True, ""),
        ("112", False, "emergency"),
    ]


def test_the_settings_count(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOSVOCES_NUMBERS__ALLOW_PREFIXES", "+34902")
    assert main(["number", "+34902123456"]) == 0
    assert "range       opened" in capsys.readouterr().out


def test_outside_its_hours_a_number_is_told_when_and_in_which_zone() -> None:
    """A Spanish mobile may be on the Canaries, whose clock is another than its caller's."""
    hours = CallingHours((opening("ES mon-fri 09:00-21:00"),))
    sunday = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)
    told = [_hours_step(hours, number, sunday).answer for number in ("+34600000011", "+34960000022")]
    assert told == [
        "not now: from 2026-11-30 09:00 in Atlantic/Canary, that is 2026-11-30 09:00 UTC",
        "not now: from 2026-11-30 09:00 in Europe/Madrid, that is 2026-11-30 08:00 UTC",
    ]


def test_a_prefix_that_is_none_is_refused_with_an_example(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOSVOCES_NUMBERS__DENY_PREFIXES", "0034902")
    assert main(["number", "+34902123456"]) == 2
    assert '"+34902"' in capsys.readouterr().err
