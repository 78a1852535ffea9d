"""
Keys for encrypted media in a session description: SDES (RFC 4568), and how much of it is wanted.

Pure; the random bytes of our own keys are given. A key stands in no `repr` and in no error's text. What is read here
goes through the signalling in clear, so it is as secret as that is: only TLS keeps it.
"""

import base64
import binascii
import enum
import re
from collections.abc import Callable
from dataclasses import dataclass, field

SUITES: dict[str, int] = {
    # RFC 7714 §14.2: a key of 16 bytes and a salt of 12.
    "AEAD_AES_128_GCM": 28,
    # RFC 4568 §6.2: a key of 16 bytes and a salt of 14.
    "AES_CM_128_HMAC_SHA1_80": 30,
    "AES_CM_128_HMAC_SHA1_32": 30,
}
"""Length of key and salt together in bytes, in the order in which we offer them: the longest tag is at the front."""

OFFERED = ("AES_CM_128_HMAC_SHA1_80", "AEAD_AES_128_GCM", "AES_CM_128_HMAC_SHA1_32")
"""
RFC 4568 §6.2.1: every implementation has the first. It stands at the front because some peers read one line alone.
"""

MAX_CRYPTO = 16  # a=crypto lines of one m= line that are looked at
SECURE_PROFILES = frozenset({"RTP/SAVP", "RTP/SAVPF"})

# RFC 4568 §6.1: `2^20`, or decimal. It bounds what the key's owner sends, who must change it in time; so its form is
# checked and the number is not needed.
_LIFETIME = re.compile(r"(?:2\^)?[0-9]{1,15}")
# RFC 4568 §6.3: the window size is a hint. All other parameters change how packets look.
_HARMLESS = re.compile(r"WSH=[0-9]+")


class Security(enum.StrEnum):
    """Whether media are encrypted."""

    OFF = "off"
    """Never offered, and refused where nothing else is offered."""
    OPTIONAL = "optional"
    """Offered beside plain RTP (RFC 8643); the other side decides."""
    REQUIRED = "required"
    """No media without."""


@dataclass(frozen=True, slots=True)
class Crypto:
    """One `a=crypto` line that can be used."""

    tag: int
    suite: str
    """One of `SUITES`."""
    key: bytes = field(repr=False)
    """Key and salt, as long as the suite says. Its owner encrypts what it sends with it."""

    @property
    def line(self) -> str:
        """The whole attribute."""
        return f"a=crypto:{self.tag} {self.suite} inline:{base64.b64encode(self.key).decode()}"


@dataclass(frozen=True, slots=True)
class Keys:
    """What both sides agreed on: each encrypts with its own key."""

    suite: str
    ours: bytes = field(repr=False)
    theirs: bytes = field(repr=False)


def new_crypto(random_bytes: Callable[[int], bytes]) -> tuple[Crypto, ...]:
    """Our lines for an offer, each with a key of its own (RFC 4568 §7.1.1)."""
    return tuple(Crypto(tag, suite, random_bytes(SUITES[suite])) for tag, suite in enumerate(OFFERED, 1))


def read_crypto(value: str) -> Crypto | None:
    """
    The crypto line whose text after `crypto:` is `value`; None if it is none that we can use.

    Not used: unknown suites, several keys and a master key identifier (RFC 4568 §6.1; nobody sends it), parameters
    that change how packets look, and keys of another length than the suite's.
    """
    fields = value.split()
    if len(fields) < 3 or not all(_HARMLESS.fullmatch(parameter) or parameter[0] == "-" for parameter in fields[3:]):
        return None
    tag, suite, parameters = fields[0], fields[1].upper(), fields[2]
    method, _, rest = parameters.partition(":")
    length = SUITES.get(suite)
    if length is None or not (tag.isascii() and tag.isdigit() and len(tag) <= 9) or method.lower() != "inline":
        return None
    inline, *after = rest.split("|")
    if len(after) > 1 or not all(_LIFETIME.fullmatch(lifetime) for lifetime in after):
        return None
    key = _key(inline)
    return Crypto(int(tag), suite, key) if key is not None and len(key) == length else None


def _key(text: str) -> bytes | None:
    """Base64; the padding may be missing, as some write a GCM key."""
    if len(text) > 100:
        return None
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
