"""
Whom a lead may be mailed to: one plain address, checked without asking the network.

email-validator knows the syntax and the reserved domains; what it lets through and relays misread is refused here.
"""

import unicodedata
from collections.abc import Collection

from email_validator import EmailNotValidError, validate_email

MAX_ADDRESS = 254  # octets, RFC 5321 §4.5.3.1.3 with erratum 1690
MAX_LOCAL_PART = 64  # octets, RFC 5321 §4.5.3.1.1

_ROUTING = frozenset("%!|`")
"""Left of the @ these are old source routes (`a%b@c`, `c!a@d`) or a command to a careless delivery agent."""


class Domains:
    """The domains that leads may be mailed to: so that who can ask for a call can't mail whom they like."""

    def __init__(self, allowed: Collection[str] | None = None) -> None:
        """`allowed` as `example.com`, or `*.example.com` for what is below it; `None`: all."""
        self._allowed = None if allowed is None else frozenset(allowed)

    def allow(self, address: str) -> bool:
        """Whether `address`, as `check_recipient` gives it, is in one of them."""
        if self._allowed is None:
            return True
        domain = address.rpartition("@")[2]
        _, *above = domain.split(".")
        return domain in self._allowed or any("*." + ".".join(above[at:]) in self._allowed for at in range(len(above)))


ALL_DOMAINS = Domains()


def check_recipient(text: str) -> str | None:
    """The address that `text` is, with its domain in ASCII and lower case, or `None` if it is not one plain address."""
    address = text.strip(" \t")
    local, _, _ = address.rpartition("@")
    if len(address) > MAX_ADDRESS or len(local) > MAX_LOCAL_PART:
        return None
    if local.startswith("-") or not _ROUTING.isdisjoint(local):
        return None
    try:
        checked = validate_email(address, check_deliverability=False, allow_smtputf8=False)
    except (EmailNotValidError, UnicodeError):
        return None
    if checked.ascii_email is None or len(checked.ascii_email) > MAX_ADDRESS:
        return None
    return checked.ascii_email if all(map(_one_script, checked.domain.split("."))) else None


def _one_script(label: str) -> bool:
    """
    Whether the label's letters are of one script: `milmоh` with a Cyrillic о is made to be misread (UTS 39 §5.1).

    The first word of a character's name stands for its script; Japanese and Korean, which mix scripts, count as one.
    """
    if label.isascii():
        return True
    scripts = {unicodedata.name(c, "?").partition(" ")[0] for c in label if c.isalpha()}
    return len(scripts - _EAST_ASIAN) + bool(scripts & _EAST_ASIAN) <= 1


_EAST_ASIAN = frozenset({"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "HANGUL", "BOPOMOFO"})
