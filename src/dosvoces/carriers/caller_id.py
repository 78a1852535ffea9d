"""
Which number a party sees, and how a trunk is told who calls (RFC 3261 §20.20, RFC 3323, RFC 3325). Pure.

A number that is not of the trunk's pool is never sent: carriers refuse it, and the law calls it spoofing.
"""

import enum
from dataclasses import dataclass
from typing import NamedTuple

from dosvoces.errors import NotAllowed
from dosvoces.model import Side, mask_number

ANONYMOUS_URI = "sip:anonymous@anonymous.invalid"  # RFC 3323 §4.1.1.3
ANONYMOUS_NAME = "Anonymous"


class Identity(enum.StrEnum):
    """The header that names the caller to the trunk, beside From."""

    NONE = "none"
    PAI = "pai"
    """P-Asserted-Identity (RFC 3325 §9.1), for trunks within one domain of trust with us."""
    PPI = "ppi"
    """P-Preferred-Identity (§9.2): the trunk asserts what it can verify."""


_HEADERS = {Identity.PAI: "P-Asserted-Identity", Identity.PPI: "P-Preferred-Identity"}


class Shown(NamedTuple):
    """What an INVITE says of its caller."""

    from_uri: str
    from_name: str = ""
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class CallerIds:
    """A trunk's numbers and its manners."""

    pool: tuple[str, ...] = ()
    """E.164; empty: the trunk shows what it likes."""
    first: str = ""
    """What side A sees where the call doesn't say; of the pool."""
    second: str = ""
    identity: Identity = Identity.NONE
    hidden: bool = False
    """Whether the parties see no number (Privacy: id); the identity header tells the trunk."""

    def allows(self, wanted: str) -> bool:
        """Whether a call through this trunk may show `wanted`; empty is the trunk's own choice."""
        return not wanted or wanted in self.pool

    def number(self, side: Side, wanted: str = "") -> str:
        """The number for this side, empty if the trunk has none. Raises `NotAllowed` for one out of the pool."""
        if not self.allows(wanted):
            raise NotAllowed(f"{mask_number(wanted)} is not among the trunk's caller_ids")
        return wanted or (self.first if side is Side.A else self.second)

    def shown(self, number: str, uri: str) -> Shown:
        """What the INVITE says; `uri` is the number's (or, without one, the account's) at the trunk."""
        if not number or self.identity is Identity.NONE:
            return Shown(uri)
        headers = ((_HEADERS[self.identity], f"<{uri}>"),)
        if self.hidden:
            # RFC 3323 §4.1, RFC 3325 §9.3: nothing of us in what the parties get.
            return Shown(ANONYMOUS_URI, ANONYMOUS_NAME, (*headers, ("Privacy", "id")))
        return Shown(uri, "", headers)


def one_number(number: str) -> CallerIds:
    """The manners of a trunk with one number, or none."""
    return CallerIds(pool=(number,) if number else (), first=number, second=number)
