"""
The port to the record: what was asked for, what was dialled, what happened, when.

What can't be taken back leaves only after its intent is durable; the `async` methods that write return when it is on
disk. `journal` alone is written behind. One writer gathers what waits across all connections and commits once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from dosvoces.core import Answer, Connection
from dosvoces.mail import Mail
from dosvoces.model import NO_TRUNKS, ConnectionId, Facts, NodeId, Order, Outcome, Side, Texts, Trunks
from dosvoces.store.reports import Reports, Waiting

if TYPE_CHECKING:
    from dosvoces.store.feed import Feed


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a connection's journal: what happened, and what that made of it."""

    connection_id: ConnectionId
    at: datetime
    event: str
    """The event's or note's name in snake case: `answered`, `digit` …"""
    side: Side | None
    before: str
    """The phase before (`core.Phase`)."""
    after: str
    """The phase after; the same for a note and for what came late or doubled."""
    facts: dict[str, str | int | float | None] = field(default_factory=dict)
    number: int = field(default=0, compare=False)
    """1, 2, 3 … within its connection, given by the record."""


@dataclass(frozen=True, slots=True)
class Earlier:
    """What is known of a request that came before an equal one, or one under the same idempotency key."""

    connection_id: ConnectionId
    fingerprint: str
    status: int | None
    """The HTTP status that was answered, `None` while it is open, or if a crash came before that was kept."""
    body: str | None
    outcome: Outcome | None = None
    answer: Answer | None = None
    """What its client is to be told, by what became of it so far; `None` while that is open."""
    dialled: bool = False
    """Whether somebody may have been rung."""
    mailed: bool = False
    """Whether its mail was accepted."""
    resumes: ConnectionId | None = None

    @property
    def known(self) -> bool:
        """Whether its answer is."""
        return self.status is not None or self.answer is not None

    @property
    def resumable(self) -> bool:
        """Whether it ended untold and before anybody was rung: then it may be begun anew."""
        ended_early = self.outcome in (Outcome.INTERRUPTED, Outcome.REFUSED)
        return self.status is None and ended_early and not self.dialled

    def resumed_by(self, order: Order) -> Order:
        """`order` as one that begins this one anew: with its mail, which isn't sent again if it was accepted."""
        return replace(order, resumes=self.resumes or self.connection_id, mailed=self.mailed)


@dataclass(frozen=True, slots=True)
class LegRecord:
    side: Side
    number: str
    """E.164."""
    state: str
    dialed_at: datetime | None
    answered_at: datetime | None
    ended_at: datetime | None
    reason: str | None
    detail: str


@dataclass(frozen=True, slots=True)
class DialRecord:
    """One intent to dial, as it was committed before anything left the machine."""

    side: Side
    attempt: int
    at: datetime
    trunk: str | None
    facts: Facts
    """What the carrier needs to take it back."""


History = tuple[Sequence[Entry], Sequence[DialRecord]]
"""A connection's journal, oldest first, and its intents to dial, by side and attempt."""


@dataclass(frozen=True, slots=True)
class ConnectionRecord:
    """A connection as the record has it."""

    id: ConnectionId
    created_at: datetime
    phase: str
    outcome: str | None
    ended_by: str
    first: str
    second: str
    email: str
    lead: dict[str, str | None]
    """The lead's other fields by their name in `model.Lead`."""
    interval_s: int
    joined_at: datetime | None
    ended_at: datetime | None
    answer_status: int | None
    legs: Sequence[LegRecord]
    owner: NodeId | None = None
    """The node that steps it; `None` while it waits for one."""
    mail: str = "pending"
    """`core.MailState`."""
    not_before: datetime | None = None
    expires_at: datetime | None = None
    ring_timeout_s: int | None = None
    """As asked for; `None`: what the settings say."""
    talk_limit_s: int | None = None
    locale: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    webhook_url: str = ""
    """As asked for; empty once the lead is blanked, too."""
    test: bool = False
    """A trial run, in which nobody is rung."""

    @property
    def waiting(self) -> bool:
        """Whether it has not begun: no node has taken it yet."""
        return self.owner is None and self.outcome is None

    def phase_at(self, now: datetime) -> str:
        """Where it stands, in one word; of one that waits, what for."""
        if not self.waiting:
            return self.phase
        return "scheduled" if self.not_before is not None and self.not_before > now else "queued"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which connections a list is to have; what is `None` or empty doesn't narrow it."""

    outcome: str | None = None
    phase: str | None = None
    """As `ConnectionRecord.phase_at` has it."""
    number: str | None = None
    """E.164, of either party."""
    created_after: datetime | None = None
    """From this moment on."""
    created_before: datetime | None = None
    """Up to, and without, this moment."""
    metadata: Texts = ()
    test: bool | None = None
    """Trial runs alone, or none of them."""


EVERY = Wanted()


@dataclass(frozen=True, slots=True)
class KeptMail:
    """A mail in the embedded inbox."""

    number: int
    """1 for the oldest kept."""
    message_id: str
    recipient: str
    subject: str
    kept_at: datetime
    content: bytes


@dataclass(frozen=True, slots=True)
class Concern:
    """What an operator should know of how the record's database is set up."""

    text: str
    remedy: str
    stops: bool
    """Whether nothing can be recorded because of it."""


class Store(Protocol):
    """
    The record. Its contract test quotes these clauses by name.

    - *durable on return*: what `record`, `intend_dial`, `settle`, `keep_mail` wrote survives a kill at any later
      moment.
    - *one dial per attempt*: a second `intend_dial` for the same connection, side and attempt raises
      `AlreadyRecorded`.
    - *only the owner writes*: a connection that is recorded here is this node's; when another node has taken it,
      `intend_dial` and `settle` raise `NotOurs`, `update` changes nothing, and who asked by `when_taken` is told.
    - *one key, one request*: a second `record` under the same idempotency key raises `AlreadyRecorded`, until the key's
      lifetime is over. An order that `resumes` takes the key of one that was interrupted before anybody was dialled.
    - *identical requests are one*: where the order's `repeats` say so, `record` raises `AlreadyRecorded` for an order
      without a key, if one of the same fingerprint is open, or ended just now and somebody may have been rung.
    - *journal in order*: entries come back in the order given, none lost that was given before a durable write.
    - *errors are ours*: whatever the database does, callers see `StoreError`.
    """

    node: NodeId
    """Whose the connections are that are recorded here. It changes when this process begins anew as another node."""
    feed: "Feed"
    """All journals as one."""
    reports: Reports
    """What is to be told."""
    waiting: Waiting
    """The connections that wait for their time, or for a node."""

    async def open(self) -> None:
        """Connect, migrate (SQLite), and check that the record can be written. Raises `StoreError`."""

    def when_taken(self, tell: Callable[[ConnectionId], None]) -> None:
        """Have `tell` called, from the loop, with each connection of which an `update` found that it isn't ours."""

    async def adopt_strays(self) -> None:
        """Make ours what is open and whose owner is no node any more, or a dead one we inherit. Raises `StoreError`."""

    async def record(self, order: Order, *, waits: bool = False, trunks: Trunks = NO_TRUNKS) -> None:
        """
        Write a new connection, ours or, if it `waits`, nobody's yet. Raises `AlreadyRecorded`, `StoreError`.

        What raises is never begun, by no node: one that waits can be claimed only once it is known to be written.

        One of ours is counted in with all that is open on all nodes, and raises `LimitReached` if there are as many as
        there may be. `trunks` are those that could take each side: if all of them are full, that is such a limit too.
        """

    async def intend_dial(
        self,
        order: Order,
        side: Side,
        *,
        attempt: int,
        at: datetime,
        trunk: str | None = None,
        facts: Facts | None = None,
    ) -> float:
        """
        Write that this number is about to be rung, and what taking that back will need (`DialPlan`).

        Returns how many seconds it has to wait for its turn on the trunk. Raises `NotOurs`, `AlreadyRecorded`,
        `StoreError`, and `LimitReached` if the trunk has no call, or no turn soon enough, left.
        """

    def update(self, connection_id: ConnectionId, state: Connection, deadline: datetime | None) -> None:
        """Note the newest state and its deadline, written behind; the last one before a commit counts."""

    async def settle(self, connection_id: ConnectionId, state: Connection, outcome: Outcome, *, at: datetime) -> None:
        """Write the outcome and both legs' ends, once. Raises `NotOurs`, `StoreError`."""

    def journal(self, entry: Entry, *, kept: Callable[[], None] | None = None) -> None:
        """
        Write `entry` behind, and call `kept` once it is on disk, which may be never.

        Never raises, never waits; a queue near its limit is reported by `problems`.
        """

    def keep_capture(self, connection_id: ConnectionId, packed: bytes) -> None:
        """Keep a connection's captured messages, written behind; the first is kept."""

    async def capture(self, connection_id: ConnectionId) -> bytes | None:
        """What `keep_capture` was given."""

    async def remember_answer(self, connection_id: ConnectionId, *, status: int, body: str) -> None:
        """Keep what the client was answered. Raises `StoreError`."""

    async def repeated(self, order: Order) -> Earlier | None:
        """Of what `order` would be a repeat, for the reasons for which `record` raises `AlreadyRecorded`."""

    async def earlier_of(self, connection_id: ConnectionId) -> Earlier | None:
        """What is known of the answer to this connection's request; also of another node's."""

    async def unfinished(self, *, owner: NodeId | None = None) -> list[ConnectionRecord]:
        """Connections without an outcome: all, or those of one node."""

    async def order(self, connection_id: ConnectionId) -> Order | None:
        """What was asked for, as it was recorded: any node can carry it out."""

    async def connection(self, connection_id: ConnectionId) -> ConnectionRecord | None:
        """One connection with its legs."""

    async def connections(
        self,
        *,
        limit: int = 50,
        before: ConnectionId | None = None,
        wanted: Wanted = EVERY,
        now: datetime | None = None,
    ) -> list[ConnectionRecord]:
        """The newest first; `now` tells those scheduled from those queued, and is needed where `wanted` does."""

    async def entries(self, connection_id: ConnectionId) -> list[Entry]:
        """A connection's journal, oldest first."""

    async def statistics(self, connections: Sequence[ConnectionId]) -> list[Entry]:
        """What the journals of these connections have of their legs' audio, oldest first."""

    async def mails_of(self, record: ConnectionRecord) -> list[KeptMail]:
        """The kept mails about this connection, oldest first."""

    async def dials(self, connection_id: ConnectionId) -> list[DialRecord]:
        """The intents to dial of a connection, by side and attempt."""

    async def histories(self, connections: Sequence[ConnectionId]) -> Mapping[ConnectionId, History]:
        """What `entries` and `dials` give, of many connections by one question."""

    async def keep_mail(self, mail: Mail, *, at: datetime) -> None:
        """Keep a mail in the embedded inbox; the same Message-ID again changes nothing. Raises `StoreError`."""

    async def mails(self, *, limit: int = 50) -> list[KeptMail]:
        """The newest first."""

    async def mail(self, number: int) -> KeptMail | None:
        """One kept mail by its number."""

    async def forget(self, *, before: datetime, limit: int) -> int:
        """
        Delete at most `limit` connections that ended before that, with their journals, and as many kept mails.

        Returns how many it were. Raises `StoreError`.
        """

    async def forget_counts(self, *, limit: int) -> int:
        """
        Delete what was counted for ceilings and budgets in days that are over: at most `limit` counters and as many
        reservations. Nothing that is asked for depends on them.

        Returns how many it were. Raises `StoreError`.
        """

    async def blank_leads(
        self, *, before: datetime, since: ConnectionId, limit: int
    ) -> tuple[int, ConnectionId | None]:
        """
        Look at `limit` connections, from `since` on by their ids; take the lead out of those that ended before that.

        As many mails that were kept before it are deleted. Returns how many it were of both, and where the next look
        begins, `None` after the last. Raises `StoreError`.
        """

    async def concerns(self) -> list[Concern]:
        """What an operator should know of how its database is set up; empty if all is well."""

    def crowded(self) -> bool:
        """Whether so many writes wait that what is new had better not begin: each connection waits for several."""

    def problems(self) -> list[str]:
        """Why the record can't be written now, in words; empty if it can."""

    async def close(self) -> None:
        """Write what waits, then disconnect; idempotent."""
