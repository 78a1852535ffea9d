"""
The port to the API keys in the record, and to the audit: what was done to the service, by whom.

It goes its own way to the database, apart from the record's writer and its questions: a key is looked at with every
request, and revoking one must not wait for anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from dosvoces.keys import ApiKey
from dosvoces.model import Facts


@dataclass(frozen=True, slots=True)
class Act:
    """Something that a person or a program did to the service."""

    who: str
    """`operator ana` at the command line, `key k1z9…` by the API."""
    what: str
    """`key.create`, `node.drain`, `connection.hangup` …"""
    subject: str
    """The id of what it was done to."""
    facts: Facts = field(default_factory=dict)
    """What else is worth knowing; no secrets, no numbers of people."""
    at: datetime | None = None
    """When, by the database's clock; `None` until it is written."""


@dataclass(frozen=True, slots=True)
class KeyRing:
    """All keys there ever were, the oldest first, and the moment at which they were so."""

    now: datetime
    """By the database's clock: clocks of nodes may differ."""
    keys: Sequence[ApiKey]


class Keys(Protocol):
    """
    The keys. Its contract test quotes these clauses by name.

    - *never forgotten*: a key that was made stays in the record, so that a service which needs keys goes on
      needing them.
    - *written with its audit*: each change stands in the record together with who made it, or neither does.
    - *errors are ours*: callers see `StoreError`; after a failure the next call connects anew.
    """

    async def ring(self) -> KeyRing:
        """All of them."""

    async def create(self, key: ApiKey, *, by: str) -> None:
        """Add a key."""

    async def rotate(self, new: ApiKey, *, overlap: timedelta, by: str) -> None:
        """Add `new`; the key that it `replaces` opens nothing any more after `overlap`, or when it ends before that."""

    async def revoke(self, key_id: str, *, by: str) -> bool:
        """Let a key open nothing any more; `False` if there is none of that id that still did."""

    async def used(self, when: dict[str, datetime]) -> None:
        """Note when keys were last used, by id."""

    async def acts(self, *, limit: int) -> Sequence[Act]:
        """What was done, the newest first."""

    async def close(self) -> None:
        """Disconnect; idempotent."""
