"""
API keys: how one is made, read and checked, and whom it stands for.

Pure: no clock, no randomness, no database. A key is `dv_live_` or `dv_test_`, 26 characters for 128 random bits, and 4
that let a typing error, and a scanner that looks for leaked keys, be told without asking anybody. Of a key only its
SHA-256 is ever kept: 128 random bits can't be guessed back from it, so that nothing slower than that is needed.
"""

import enum
import hashlib
import hmac
import ipaddress
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias

SECRET_BITS = 128
ID_CHARS = 8
"""Of a key's hash: what names it to people and in the record, and says nothing of the key."""
CHECK_CHARS = 4
TEST_PREFIX = "dv_test_"

_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"
_SHAPE = re.compile(rf"dv_(?:live|test)_[{_CROCKFORD}]{{26}}[{_CROCKFORD}]{{{CHECK_CHARS}}}")

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Limits: TypeAlias = Mapping[str, int | float | str]
"""A key's own limits by name."""
OWN_LIMITS = ("calls_per_hour", "calls_per_day", "max_open")
"""Their names. Each counts in the place of the one that `[limits]` has for every key."""


class Scope(enum.StrEnum):
    """What a key opens."""

    CALL = "call"
    """Ask for connections, and end them."""
    READ = "read"
    """Look at connections and at the service's figures."""
    ADMIN = "admin"
    """All of it, and what changes the service."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as the record has it: without the key."""

    id: str
    digest: str
    """SHA-256 of the key, in hex."""
    name: str
    """For people: who has it."""
    test: bool
    """Whether it is for trials: what it asks for must ring nobody."""
    scopes: frozenset[Scope]
    networks: tuple[Network, ...]
    """Where it may be used from; empty: from everywhere."""
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    """From when on it opens nothing; in the future while a key that took its place is taken into use."""
    last_used_at: datetime | None = None
    """To the minute."""
    replaces: str = ""
    """The id of the key that it was made in place of."""
    limits: Limits = field(default_factory=dict)

    def state(self, now: datetime) -> str:
        """`valid`, `revoked` or `expired`; `ending` while it is valid and to be revoked."""
        if self.revoked_at is not None and self.revoked_at <= now:
            return "revoked"
        if self.expires_at is not None and self.expires_at <= now:
            return "expired"
        return "valid" if self.revoked_at is None else "ending"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks, once that is known."""

    key_id: str
    """Empty for whoever may ask without a key."""
    name: str
    test: bool
    scopes: frozenset[Scope]
    limits: Limits = field(default_factory=dict)
    first_key: str = ""
    """The id of the key that a chain of rotations began with; empty: its own."""

    @property
    def client(self) -> str:
        """Whose it is, the same before and after a rotation; empty for whoever has no key."""
        return self.first_key or self.key_id

    @property
    def signature(self) -> str:
        """For the audit: `key k1z9… website`, or `api`."""
        return f"{self.who} {self.name}" if self.key_id else self.who

    def may(self, scope: Scope) -> bool:
        """Whether it has `scope`, by itself or as a part of `admin`."""
        return scope in self.scopes or Scope.ADMIN in self.scopes

    @property
    def who(self) -> str:
        """For the record: `key k1z9…` or `api`."""
        return f"key {self.key_id}" if self.key_id else "api"


KEYLESS = Principal("", "", test=False, scopes=frozenset({Scope.CALL, Scope.READ}))
"""Who asks where no key is needed."""


class Refused(enum.StrEnum):
    """Why a key that was shown opens nothing."""

    UNKNOWN = "unknown"
    REVOKED = "revoked"
    EXPIRED = "expired"
    NETWORK = "network"


def make(randomness: int, *, test: bool) -> str:
    """A key out of `SECRET_BITS` random bits."""
    body = f"dv_{'test' if test else 'live'}_{_crockford(randomness & ((1 << SECRET_BITS) - 1), 26)}"
    return body + _check(body)


def is_key(text: str) -> bool:
    """Whether `text` has the shape of a key, with the right check characters."""
    return _SHAPE.fullmatch(text) is not None and text[-CHECK_CHARS:] == _check(text[:-CHECK_CHARS])


def digest_of(key: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def id_of(digest: str) -> str:
    """The name of the key with that digest."""
    return _crockford(int(digest[:10], 16), ID_CHARS)


def verify(shown: str, known: Mapping[str, ApiKey], *, peer: Address | None, now: datetime) -> Principal | Refused:
    """
    Whom `shown` stands for, used from `peer`, or why it stands for nobody.

    `known` is by id, which is found by the hash alone; what is compared is the whole hash, in constant time.
    """
    if not is_key(shown):
        return Refused.UNKNOWN
    digest = digest_of(shown)
    key = known.get(id_of(digest))
    if key is None or not hmac.compare_digest(key.digest, digest):
        return Refused.UNKNOWN
    state = key.state(now)
    if state in ("revoked", "expired"):
        return Refused(state)
    if key.networks and not within(peer, key.networks):
        return Refused.NETWORK
    return Principal(key.id, key.name, key.test, key.scopes, key.limits, _first_of(key, known))


def _first_of(key: ApiKey, known: Mapping[str, ApiKey]) -> str:
    """The id of the key that was there before all that `key` replaces; empty if it replaces none."""
    first = ""
    for _ in range(len(known)):
        if not key.replaces:
            break
        first = key.replaces
        if (older := known.get(first)) is None:
            break
        key = older
    return first


def within(address: Address | None, networks: Sequence[Network]) -> bool:
    """Whether `address` is in one of `networks`; one that isn't known is in none."""
    return address is not None and any(address.version == net.version and address in net for net in networks)


def address_of(text: str) -> Address | None:
    """The address that `text` is, `::ffff:192.0.2.1` as the IPv4 address in it; `None` if it is none."""
    try:
        address = ipaddress.ip_address(text.strip().partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def source_of(address: Address) -> str:
    """What stands for whoever has `address`: it, or of IPv6 the /64 that a single host has to itself (RFC 6177)."""
    if address.version == 4:
        return str(address)
    return f"{ipaddress.IPv6Address(int(address) >> 64 << 64)}/64"


def _check(body: str) -> str:
    return _crockford(zlib.crc32(body.encode()) & 0xFFFFF, CHECK_CHARS)


def _crockford(value: int, chars: int) -> str:
    return "".join(_CROCKFORD[(value >> 5 * place) & 31] for place in range(chars - 1, -1, -1))
