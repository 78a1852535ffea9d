"""
What `numbers.toml` says: emergency numbers, and the dear and risky ranges with where that is known from.

The file is data that people review and update without reading Python; it ships with the package and is read once.
"""

import tomllib
from collections.abc import Sequence
from importlib.resources import files
from typing import NamedTuple

_DATA = tomllib.loads(files("dosvoces.dialplan").joinpath("numbers.toml").read_text(encoding="utf-8"))

VERSION = str(_DATA["version"])
"""The day of the data, ISO 8601."""

EMERGENCY_NUMBERS = frozenset(str(_DATA["emergency"]["numbers"]).split())


class Prefix(NamedTuple):
    """A range of numbers that isn't called unless a setting opens it."""

    digits: str
    kind: str
    """`premium shared_cost personal special satellite international_network high_risk`"""
    source: str


def _prefixes(rows: Sequence[dict[str, object]]) -> tuple[Prefix, ...]:
    found = []
    for row in rows:
        digits = row["prefixes"]
        assert isinstance(digits, list)
        found += [Prefix(str(prefix), str(row["kind"]), str(row["source"])) for prefix in digits]
    return tuple(sorted(found, key=lambda prefix: -len(prefix.digits)))


INTERNATIONAL_PREFIXES = _prefixes(_DATA["international"])
COUNTRY_PREFIXES = {country: _prefixes(rows) for country, rows in _DATA["country"].items()}
"""By ISO 3166 alpha-2 code, of national digits."""


def longest(prefixes: Sequence[Prefix], digits: str) -> Prefix | None:
    """The longest of `prefixes` (as sorted here) that `digits` begins with."""
    return next((prefix for prefix in prefixes if digits.startswith(prefix.digits)), None)
