"""
The transactions of RFC 3261 §17 with the accepted state of RFC 6026: what is repeated and what is absorbed, how long.

Each is a small machine in one of the two tables of a `Wire`, which also gives it time, timers and a way out. They know
messages and timers, not calls. The timers carry the RFC's letters; two of them are not kept: Timer K, since a repeated
answer to a request that is no longer in the table matches nothing and is dropped, which is all that it would do; and
Timer C, which is a proxy's.
"""

import enum
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeAlias

from .api import Hop
from .message import Response, compose_lines, tag
from .timers import Timer, Timers

if TYPE_CHECKING:
    from .server_transaction import AnsweredRequest, InviteServer

T1 = 0.5  # seconds, RFC 3261 §17.1.1.1: the round-trip estimate
T2 = 4.0  # seconds, RFC 3261 §17.1.2.1: the longest wait between repeats of a request other than INVITE
T4 = 5.0  # seconds, RFC 3261 §17.1.2.2: how long a message may live in the network
TIMEOUT = 64 * T1  # seconds: Timers B, D, F, H, J, L, M
LINGER_STEP = 0.1  # seconds: what only lingers goes at its multiples, all of a step at one waking
MAX_RESENT = 4  # how often a request goes by a further connection when one breaks under it; an INVITE once
MAX_FORKS = 16  # answers with different To tags to one INVITE that are told apart; more are ignored

CANCEL_SUFFIX = " CANCEL"
"""Marks a CANCEL's key in the tables: it shares its branch with the INVITE (RFC 3261 §9.1)."""


class Failure(enum.Enum):
    """Why a request has no final answer."""

    TIMEOUT = "timeout"
    TRANSPORT = "transport"


class State(enum.Enum):
    """The states of RFC 3261 figures 5 to 8 and RFC 6026; `ABANDONED` is ours."""

    CALLING = enum.auto()
    PROCEEDING = enum.auto()
    COMPLETED = enum.auto()
    CONFIRMED = enum.auto()
    ACCEPTED = enum.auto()
    ABANDONED = enum.auto()
    """Reported as failed, but a late answer is still acknowledged, so that nobody is left on the line."""
    TERMINATED = enum.auto()


class Client(Protocol):
    """An entry in the table of client transactions, under its branch."""

    destination: Hop

    @property
    def waits(self) -> bool:
        """Whether the request has yet to be answered."""

    def takes(self, response: Response) -> bool:
        """Whether the response, whose branch is known to fit, is to this request (RFC 3261 §17.1.3)."""

    def receive(self, response: Response) -> None: ...

    def unreachable(self) -> None:
        """An ICMP error came for this request, or there is no connection to send it on."""

    def lost(self) -> None:
        """The connection broke that it was sent on."""


Server: TypeAlias = "InviteServer | AnsweredRequest"
ClientUser: TypeAlias = Callable[[Response | Failure], None]


class Wire:
    """What the transactions of one user agent share: the time, the timers, the tables and the way out."""

    __slots__ = ("clients", "now", "outbox", "servers", "timers")

    def __init__(self) -> None:
        self.now = 0.0
        self.timers = Timers()
        self.clients: dict[str, Client] = {}
        self.servers: dict[str, Server] = {}
        self.outbox: list[tuple[bytes, Hop]] = []

    def send(self, data: bytes, destination: Hop) -> None:
        self.outbox.append((data, destination))

    def after(self, delay: float, action: Callable[[], None]) -> Timer:
        return self.timers.start(self.now + delay, action)

    def linger(self, delay: float, action: Callable[[], None]) -> Timer:
        """As `after`, but up to `LINGER_STEP` later: for what nobody waits for, three such a connection."""
        due = math.ceil((self.now + delay) / LINGER_STEP) * LINGER_STEP
        return self.timers.start(due, action)


class Head:
    """The headers of a request that its ACK and its CANCEL repeat (RFC 3261 §9.1, §17.1.1.3)."""

    __slots__ = ("branch", "call_id", "cseq", "from_", "routes", "to", "uri", "via")

    def __init__(
        self, *, uri: str, via: str, branch: str, routes: tuple[str, ...], from_: str, to: str, call_id: str, cseq: int
    ) -> None:
        self.uri = uri
        self.via = via
        self.branch = branch
        self.routes = routes
        self.from_ = from_
        self.to = to
        self.call_id = call_id
        self.cseq = cseq

    def hop_by_hop(self, method: str, to: str, extra: tuple[str, ...] = ()) -> bytes:
        """An ACK to a refusal, or a CANCEL: same Via, Route, Call-ID and CSeq number as the request."""
        return compose_lines(
            [
                f"{method} {self.uri} SIP/2.0",
                self.via,
                *self.routes,
                "Max-Forwards: 70",
                f"From: {self.from_}",
                f"To: {to}",
                f"Call-ID: {self.call_id}",
                f"CSeq: {self.cseq} {method}",
                *extra,
            ]
        )


class InviteClient:
    """An INVITE of ours (RFC 3261 §17.1.1, RFC 6026 §7.2)."""

    __slots__ = (
        "_ack",
        "_acks",
        "_data",
        "_deadline",
        "_interval",
        "_repeat",
        "_repeated",
        "_user",
        "destination",
        "head",
        "state",
        "wire",
    )

    def __init__(
        self,
        wire: Wire,
        head: Head,
        data: bytes,
        destination: Hop,
        user: ClientUser,
        silence_limit: float = TIMEOUT,
    ) -> None:
        """
        Send `data`. `user` gets each provisional answer, the final one, each 2xx of another fork, or a failure.

        `silence_limit` takes the place of Timer B's 64*T1. Without `data` nothing is sent: an earlier process may have
        done so, and what is answered to that is waited for as long.
        """
        self.wire = wire
        self.head = head
        self.destination = destination
        self.state = State.CALLING if data else State.PROCEEDING
        self._data = data
        self._user: ClientUser | None = user
        self._ack: bytes | None = None
        self._acks: dict[str, tuple[bytes, Hop] | None] | None = None
        """By To tag; `None`: not sent yet."""
        self._interval = T1
        self._repeated = False
        """Whether it was sent again on another connection."""
        self._repeat: Timer | None = None
        wire.clients[head.branch] = self
        if data:
            wire.send(data, destination)
            if destination.transport == "udp":
                self._repeat = wire.after(T1, self._timer_a)
        self._deadline: Timer | None = wire.after(silence_limit, self._timer_b)

    @property
    def waits(self) -> bool:
        return self.state in (State.CALLING, State.PROCEEDING)

    @property
    def may_have_arrived(self) -> bool:
        """Of one that failed: whether an earlier sending met nobody's refusal, so that a phone may ring for it."""
        return self._repeated or self._interval > T1

    def takes(self, response: Response) -> bool:
        """Whether the response is to this request (RFC 3261 §17.1.3); its branch is known to be."""
        return response.cseq_method == "INVITE"

    def receive(self, response: Response) -> None:
        if response.code < 200:
            self._provisional(response)
        elif response.code < 300:
            self._success(response)
        else:
            self._refusal(response)

    def hold(self, to_tag: str) -> None:
        """Ignore repeats of this 2xx until its ACK is sent."""
        if self._acks is None:
            self._acks = {}
        self._acks[to_tag] = None

    def acknowledge(self, to_tag: str, ack: bytes, destination: Hop) -> None:
        """Send the ACK of a 2xx, now and each time that the same 2xx comes again (RFC 3261 §13.2.2.4)."""
        if self._acks is None:
            self._acks = {}
        self._acks[to_tag] = (ack, destination)
        self.wire.send(ack, destination)

    def abandon(self) -> None:
        """Stop waiting; late answers are acknowledged, and a 2xx is still told, for another 64*T1."""
        if self.state in (State.CALLING, State.PROCEEDING):
            self._linger(State.ABANDONED, TIMEOUT)

    def unreachable(self) -> None:
        # Once something was heard the peer is there: then it is the answer's or the user's turn, not ICMP's.
        if self.state is State.CALLING:
            self._fail(Failure.TRANSPORT)

    def lost(self) -> None:
        # Nobody knows whether it got there. The same request, branch and all, does no harm twice (RFC 3261 §17.2.3).
        # Once something was heard there is nothing to repeat: the answer comes on another connection (§18.2.2).
        if self.state is State.CALLING:
            if self._repeated:
                self._fail(Failure.TRANSPORT)
            else:
                self._repeated = True
                self.wire.send(self._data, self.destination)

    def _provisional(self, response: Response) -> None:
        if self.state is State.CALLING:
            self.state = State.PROCEEDING
            self._stop()
        # In ABANDONED too: somebody may be rung now, and the user has yet to send the CANCEL that it could not send.
        if self.state in (State.PROCEEDING, State.ABANDONED):
            self._tell(response)

    def _success(self, response: Response) -> None:
        to_tag = tag(response.header("to"))
        if self._acks is not None:
            if to_tag in self._acks:
                if (known := self._acks[to_tag]) is not None:
                    self.wire.send(*known)
                return
            if len(self._acks) >= MAX_FORKS:
                return
        # In COMPLETED (a 200 after a 487) and ABANDONED it is told too: someone answered and must be hung up.
        if self.state is not State.ACCEPTED:
            self._linger(State.ACCEPTED, TIMEOUT)  # Timer M
        self._tell(response)

    def _refusal(self, response: Response) -> None:
        if self._ack is None:
            if self.state is State.ACCEPTED:
                return
            told = self.state is not State.ABANDONED
            self._ack = self.head.hop_by_hop("ACK", response.header("to"))
            self.wire.send(self._ack, self.destination)
            self._linger(State.COMPLETED, TIMEOUT if self.destination.transport == "udp" else 0.0)  # Timer D
            if told:
                self._tell(response)
        else:
            self.wire.send(self._ack, self.destination)

    def _linger(self, state: State, delay: float) -> None:
        self.state = state
        self._data = b""
        self._stop()
        # Over TCP nothing is repeated, and Timer D is zero (RFC 3261 §17.1.1.2).
        self._deadline = self.wire.linger(delay, self._terminate) if delay else self.wire.after(0.0, self._terminate)

    def _timer_a(self) -> None:
        self.wire.send(self._data, self.destination)
        self._interval *= 2
        self._repeat = self.wire.after(self._interval, self._timer_a)

    def _timer_b(self) -> None:
        self._fail(Failure.TIMEOUT)

    def _fail(self, failure: Failure) -> None:
        self._linger(State.ABANDONED, TIMEOUT)
        self._tell(failure)

    def _tell(self, event: Response | Failure) -> None:
        if self._user is not None:
            self._user(event)

    def _terminate(self) -> None:
        self.state = State.TERMINATED
        self._stop()
        self._user = self._acks = None
        self.wire.clients.pop(self.head.branch, None)

    forget = _terminate

    def _stop(self) -> None:
        self.wire.timers.stop(self._repeat)
        self.wire.timers.stop(self._deadline)
        self._repeat = self._deadline = None


class NonInviteClient:
    """A request of ours other than INVITE and ACK (RFC 3261 §17.1.2)."""

    __slots__ = (
        "_data",
        "_deadline",
        "_interval",
        "_patient",
        "_repeat",
        "_resent",
        "_user",
        "destination",
        "key",
        "met_nobody",
        "state",
        "wire",
    )

    def __init__(
        self,
        wire: Wire,
        key: str,
        data: bytes,
        destination: Hop,
        user: ClientUser | None,
        limit: float = TIMEOUT,
        *,
        patient: bool = False,
    ) -> None:
        """
        Send `data`. `user` gets the final answer or the failure, once. `limit` takes Timer F's place.

        `patient`: an ICMP error is told, and the request goes on being repeated; `user` gets what comes of that too.
        """
        self.wire = wire
        self.key = key
        self.destination = destination
        self.state = State.CALLING
        self._data = data
        self._user = user
        self._interval = T1
        self._patient = patient and destination.transport == "udp"
        self.met_nobody = False
        """Whether an ICMP error came back and the request is repeated all the same."""
        self._resent = 0
        wire.clients[key] = self
        wire.send(data, destination)
        self._repeat: Timer | None = None if destination.transport != "udp" else wire.after(T1, self._timer_e)
        self._deadline = wire.after(limit, self._timer_f)

    @property
    def waits(self) -> bool:
        return self.state is not State.TERMINATED

    def takes(self, response: Response) -> bool:
        """Whether the response is to this request (RFC 3261 §17.1.3); its branch is known to be."""
        return response.cseq_method != "INVITE"

    def receive(self, response: Response) -> None:
        if response.code < 200:
            self.state = State.PROCEEDING
        else:
            self._finish(response)

    def unreachable(self) -> None:
        if self.state is State.CALLING:
            if not self._patient:
                self._finish(Failure.TRANSPORT)
                return
            self.met_nobody = True
            if self._user is not None:
                self._user(Failure.TRANSPORT)

    def lost(self) -> None:
        if self._resent >= MAX_RESENT:
            self.unreachable()
        elif self.state is not State.TERMINATED:
            self._resent += 1
            self.wire.send(self._data, self.destination)

    def _timer_e(self) -> None:
        self.wire.send(self._data, self.destination)
        # RFC 3261 §17.1.2.2: doubled up to T2, and T2 at once when a provisional answer came.
        self._interval = T2 if self.state is State.PROCEEDING else min(2 * self._interval, T2)
        self._repeat = self.wire.after(self._interval, self._timer_e)

    def _timer_f(self) -> None:
        self._finish(Failure.TIMEOUT)

    def _finish(self, event: Response | Failure) -> None:
        self.state = State.TERMINATED
        self.wire.timers.stop(self._repeat)
        self.wire.timers.stop(self._deadline)
        self.wire.clients.pop(self.key, None)
        user, self._user = self._user, None
        if user is not None:
            user(event)
