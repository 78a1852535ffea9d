"""
The port to the roll: which nodes there are, their signs of life, and what is asked of them through the record.

It goes its own way to the database, apart from the record's writer: a node must be able to say that it lives while a
large commit is under way. All its times are the database's: clocks of nodes may differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from dosvoces.model import ConnectionId, NodeId


@dataclass(frozen=True, slots=True)
class Identity:
    """What a node says of itself when it joins."""

    id: NodeId
    name: str
    """For people."""
    host: str
    pid: int
    born: int
    """When that process began, in the machine's ticks since it booted: a number is given to another process again."""
    place: str
    """Equal for processes that can see whether each other's `pid` is there; empty where that isn't known."""
    version: str
    capacity: int
    """Connections that it takes at most."""


@dataclass(frozen=True, slots=True)
class Sign:
    """What a node says of itself with each beat."""

    open_connections: int
    draining: bool
    url: str
    """Where its API listens; empty before it does."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node as the roll has it."""

    identity: Identity
    sign: Sign
    started_at: datetime
    beat_at: datetime
    """Its last sign of life, on the database's clock."""
    drain_by: str | None
    """Who asked it to drain."""
    drain_until: datetime | None
    """When what is still open then is announced and hung up; `None`: when it ends by itself."""
    heir: NodeId | None
    """Who settles what it left."""

    @property
    def id(self) -> NodeId:
        return self.identity.id


@dataclass(frozen=True, slots=True)
class Stopped:
    """That nobody is called, by no node."""

    at: datetime
    by: str


@dataclass(frozen=True, slots=True)
class Glance:
    """What one look at the roll shows, all of the same moment."""

    now: datetime
    """By the database's clock."""
    nodes: Sequence[Node]
    """The oldest first."""
    cancels: Sequence[tuple[ConnectionId, str]] = ()
    """Open connections of whoever looks, or of nobody yet, that shall be ended, and who wants it."""
    stopped: Stopped | None = None
    """Whether all calls are stopped."""


class Roll(Protocol):
    """
    Who is there. Its contract test quotes these clauses by name.

    - *one heir*: of several nodes that inherit from the same one at the same moment, one does.
    - *only the silent are inherited*: `inherit` does nothing to a node that gave a sign of life since it was seen.
    - *an inherited node is out*: its `beat` returns `False`, and none of its connections is its own any more.
    - *kept until settled*: `retire` forgets no node that still owns something open.
    - *errors are ours*: callers see `StoreError`; after a failure the next call connects anew.
    """

    async def open(self) -> None:
        """Connect. Raises `StoreError`."""

    async def join(self, node: Identity) -> None:
        """Add a node."""

    async def beat(self, node: NodeId, sign: Sign) -> bool:
        """Give a sign of life; whether the node is still on the roll, and nobody's to inherit."""

    async def look(self, node: NodeId | None = None) -> Glance:
        """Who is there, and what is asked of `node`."""

    async def inherit(self, dead: Node, heir: NodeId) -> bool:
        """Make all that `dead` has open `heir`'s, unless it has changed since it was seen; whether that was done."""

    async def retire(self, heir: NodeId) -> None:
        """Forget those whose heir has settled all that they left."""

    async def leave(self, node: NodeId) -> None:
        """Forget `node`, if it has nothing open: what it leaves open, an heir must settle."""

    async def ask_to_drain(self, node: NodeId, *, by: str, limit_s: float | None) -> None:
        """Have it refuse what is new, and hang up what is still open after `limit_s`."""

    async def note_hangup(self, connection_id: ConnectionId, *, who: str) -> None:
        """Tell the audit who ended a connection here."""

    async def ask_to_cancel(self, connection_id: ConnectionId, *, by: str, who: str = "") -> bool | None:
        """
        Have its owner end it, and tell the audit that `who` did, else `by`.

        `False` if it is over already, `None` if there is no such connection.
        """

    async def stop_calls(self, *, by: str) -> bool:
        """Have every node end all calls and take no new ones; `False` if they are stopped already."""

    async def resume_calls(self, *, by: str) -> bool:
        """Let calls be made again; `False` if they weren't stopped."""

    async def close(self) -> None:
        """Disconnect; idempotent."""
