"""Rate tables: the longest prefix counts, sums are exact, and what is wrong is named."""

from decimal import Decimal

import pytest

from dosvoces.dialplan import NumberRules, Refusal, check_number, steps
from dosvoces.dialplan.rates import Rate, Rates, millionths, parse_rates

TABLE = """
currency = "EUR"
version = "2026-11"
[rates]
"+34" = 0.012
"346" = { per_minute = 0.05, setup = 0.01 }
"+351" = 1
"""


def test_the_longest_prefix_counts() -> None:
    rates = parse_rates(TABLE)
    spain, mobile = Rate(minute=12_000), Rate(minute=50_000, setup=10_000)
    assert Rates("EUR", {"34": spain, "346": mobile, "351": Rate(minute=1_000_000)}) == rates
    found = [rates.of(number) for number in ("+34910000000", "+34600000011", "+441603456789", "+3")]
    assert [spain, mobile, None, None] == found


def test_money_is_rounded_up() -> None:
    assert [0, 1, 1, 2] == [Rate(minute=1).cost(seconds) for seconds in (0, 1, 60, 61)]
    assert [10_000, 60_000, 60_834] == [Rate(50_000, 10_000).cost(seconds) for seconds in (0, 60, 61)]
    assert 1 == millionths(Decimal("0.0000001"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("currency = ", "not TOML"),
        ('[rates]\n"+34" = 1', "`currency` is missing"),
        ('currency = "EUR"', r"\[rates\] is missing"),
        ('currency = "EUR"\n"+34" = 1\n[rates]\n"+34" = 1', r"no such key as '\+34'"),
        ('currency = "EUR"\n[rates]\n"+034" = 1', r'prefix "\+034": write \+ and the first digits'),
        ('currency = "EUR"\n[rates]\nES = 1', 'prefix "ES": write'),
        ('currency = "EUR"\n[rates]\n"+34" = 1\n34 = 2', 'prefix "34" is there twice'),
        ('currency = "EUR"\n[rates]\n"+34" = -0.1', r'prefix "\+34": the price -0\.1 is no number from 0'),
        ('currency = "EUR"\n[rates]\n"+34" = nan', "the price NaN is no number"),
        ('currency = "EUR"\n[rates]\n"+34" = "1"', "the price 1 is no number"),
        ('currency = "EUR"\n[rates]\n"+34" = { setup = 1 }', "`per_minute` is missing"),
        ('currency = "EUR"\n[rates]\n"+34" = { per_minute = 1, per_hour = 2 }', "has no 'per_hour'"),
    ],
)
def test_what_is_wrong_is_named(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_rates(text)


def test_a_number_without_a_rate_is_not_called() -> None:
    rules = NumberRules(frozenset({"ES", "GB"}), rates=parse_rates(TABLE))
    refusal = check_number("+441603456789", rules)
    assert Refusal("no_rate", "has no rate in the operator's table") == refusal
    assert "EUR 0.05 a minute and 0.01 for each call" == list(steps("+34600000011", rules))[-1].answer
    # What is refused anyway is told for its own reason.
    assert "country" == check_number("+4915112345678", rules).code  # type: ignore[union-attr]
