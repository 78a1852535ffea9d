"""
What a call costs, by the number called: an operator's rate table, the longest prefix first.

Pure; who has the file hands its text in. Money is counted in millionths of the table's currency, always rounded up, so
that sums are exact and never too small.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Any

MILLION = 1_000_000
MAX_PRICE = 10_000
"""Of a minute or a set-up, in the table's currency: beyond, somebody has slipped."""
_MAX_DIGITS = 15  # ITU-T E.164 §6.1
_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Rate:
    """The price of one leg, in millionths."""

    minute: int = 0
    setup: int = 0
    """Of each call that is answered."""

    def __str__(self) -> str:
        minute, setup = (f"{Decimal(part) / MILLION:f}" for part in (self.minute, self.setup))
        return f"{minute} a minute" + (f" and {setup} for each call" if self.setup else "")

    def cost(self, seconds: int) -> int:
        """Of an answered call, in millionths; by the second."""
        return self.setup - (-self.minute * seconds // _SECONDS)


FREE = Rate()


@dataclass(frozen=True, slots=True)
class Rates:
    """A rate table."""

    currency: str
    by_prefix: Mapping[str, Rate]
    """By digits, without the plus."""

    def of(self, e164: str) -> Rate | None:
        """The rate of the longest prefix that `e164` begins with; `None` if there is none."""
        digits = e164.removeprefix("+")
        for length in range(min(len(digits), _MAX_DIGITS), 0, -1):
            if (rate := self.by_prefix.get(digits[:length])) is not None:
                return rate
        return None


def parse_rates(text: str) -> Rates:
    """
    The table written in `text` (TOML): `currency`, and `[rates]` from prefixes to the price of a minute, or to
    `{ per_minute = 0.02, setup = 0.05 }`. Raises `ValueError`, which names what is wrong and the remedy.
    """
    try:
        table = tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"not TOML: {error}") from error
    currency = table.get("currency")
    if not isinstance(currency, str) or not currency:
        raise ValueError('`currency` is missing: write currency = "EUR"')
    if unknown := sorted(table.keys() - {"currency", "version", "source", "rates"}):
        raise ValueError(f"there is no such key as {unknown[0]!r}; prefixes stand below [rates]")
    rows = table.get("rates")
    if not isinstance(rows, dict) or not rows:
        raise ValueError('[rates] is missing: below it, write "+34" = 0.02 for each prefix')
    rates: dict[str, Rate] = {}
    for prefix, price in rows.items():
        digits = prefix.removeprefix("+")
        if not (digits.isascii() and digits.isdigit()) or digits.startswith("0") or len(digits) > _MAX_DIGITS:
            raise ValueError(f'prefix "{prefix}": write + and the first digits of the numbers, such as "+34"')
        if digits in rates:
            raise ValueError(f'prefix "{prefix}" is there twice: keep one of them')
        rates[digits] = _rate(prefix, price)
    return Rates(currency, rates)


def _rate(prefix: str, price: Any) -> Rate:
    if not isinstance(price, dict):
        return Rate(_millionths(prefix, price))
    if unknown := sorted(price.keys() - {"per_minute", "setup"}):
        raise ValueError(f'prefix "{prefix}" has no {unknown[0]!r}: there are per_minute and setup')
    if "per_minute" not in price:
        raise ValueError(f'prefix "{prefix}": `per_minute` is missing')
    return Rate(_millionths(prefix, price["per_minute"]), _millionths(prefix, price.get("setup", 0)))


def _millionths(prefix: str, price: Any) -> int:
    number = isinstance(price, int | Decimal) and not isinstance(price, bool) and Decimal(price).is_finite()
    if not number or not 0 <= price <= MAX_PRICE:
        raise ValueError(f'prefix "{prefix}": the price {price} is no number from 0 to {MAX_PRICE}')
    return millionths(Decimal(price))


def millionths(price: Decimal) -> int:
    """Rounded up."""
    return int((price * MILLION).to_integral_value(ROUND_CEILING))
