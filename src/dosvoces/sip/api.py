"""
What a call is told and what it tells: the values and the handler between the user agent and whoever uses it.

Bodies are opaque `bytes`: the user agent neither makes nor reads SDP.
"""

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal, NamedTuple, TypeAlias

from .digest import Credentials

Address: TypeAlias = tuple[str, int]
"""A literal IP address (IPv6 without brackets) and a port."""


class Hop(NamedTuple):
    """Where a message is sent next, found (RFC 3263): a literal address, a port, and how. Also where one came from."""

    host: str
    port: int
    transport: str = "udp"
    """`udp`, `tcp` or `tls`."""
    name: str = ""
    """What the certificate must be issued for (RFC 5922 §7): the host of the URI, before it was resolved."""
    tcp_too: bool = False
    """Of a UDP hop: whether what is over 1,300 bytes may go over TCP to the same port (RFC 3261 §18.1.1)."""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}/{self.transport}"


SDP = "application/sdp"


class CallStateError(RuntimeError):
    """The caller asked for what the call's state does not allow, such as answering twice."""


class EndCause(enum.StrEnum):
    """Why a call ended, apart from who did it."""

    HANGUP = "hangup"
    """BYE, by either side."""
    CANCELLED = "cancelled"
    """Ended by the caller before the answer; no one was left on the line."""
    REJECTED = "rejected"
    """A final answer other than 2xx: `status` says which."""
    TIMEOUT = "timeout"
    """The peer did not answer, or not in time."""
    TRANSPORT = "transport"
    """The peer could not be reached: ICMP, or the system refused to send."""
    PROTOCOL = "protocol"
    """The peer no longer knows the dialog (481)."""


class Withheld(NamedTuple):
    """Why a challenge was left unanswered though there are credentials."""

    what: Literal["address", "realm"]
    """`address`: the request went to one that isn't the peer's; `realm`: none that the call began with."""
    value: str


@dataclass(frozen=True, slots=True)
class CallEnd:
    """How a call ended; each call has exactly one."""

    cause: EndCause
    by: str
    """`"local"` or `"remote"`."""
    status: int | None = None
    """The final status code of the peer; `None` when there was none (time-out, transport error, hang-up)."""
    phrase: str = ""
    """The peer's reason phrase, or ours."""
    detail: str = ""
    """The peer's Reason header as it came (RFC 3326, Q.850), or what went wrong while hanging up."""
    heard: int = field(default=0, compare=False)
    """The highest provisional status that came before; 0: none, so that nobody was rung as far as anyone knows."""
    retry_after_s: int | None = field(default=None, compare=False)
    """What the peer asked for with a refusal (RFC 3261 §20.33)."""
    withheld: Withheld | None = field(default=None, compare=False)
    """Why the last request's challenge got no answer: the peer may believe the call to be up."""


@dataclass(frozen=True, slots=True)
class DialogFacts:
    """All that a later process needs to hang up a call: texts and numbers only, fit for a record."""

    call_id: str
    local: str
    """Our From (or To) value with its tag."""
    remote: str
    """The peer's To (or From) value with its tag."""
    local_tag: str
    remote_tag: str
    invite_cseq: int
    """The CSeq number of the INVITE that was answered: the ACK repeats it. 0 where the peer sent the INVITE."""
    local_cseq: int
    """The last CSeq number used by us."""
    remote_target: str
    """The peer's Contact URI."""
    route_set: tuple[str, ...]
    """Route values in sending order, as text."""
    destination: Hop | Address
    """Where the dialog's requests go if neither route nor target is a literal address."""
    realms: tuple[str, ...] = ()
    """Those whose challenges were answered: no other's are in this call."""


@dataclass(frozen=True, slots=True)
class InviteMark:
    """What is random in an INVITE, or may have changed since: with it each byte of its CANCEL is known."""

    local_tag: str
    seed: str
    """Makes the branches, that of each further sending (after a challenge, say) too; as secret as they are."""
    sent_by: str
    """The host and port that Via says."""

    def branch(self, cseq: int, transport: str) -> str:
        """The branch of the INVITE with this CSeq number; 64 bits that nobody guesses who doesn't know the seed."""
        keyed = blake2b(f"{cseq} {transport}".encode(), key=self.seed.encode(), digest_size=8)
        return f"z9hG4bK{keyed.hexdigest()}"

    def via(self, cseq: int, transport: str) -> str:
        return f"SIP/2.0/{transport.upper()} {self.sent_by};rport;branch={self.branch(cseq, transport)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """One INVITE to be sent."""

    request_uri: str
    destination: Hop | Address
    """The next hop; an `Address` is one over UDP."""
    from_uri: str
    to_uri: str
    call_id: str
    """Ours, unique for ever: a leg's id and something random."""
    body: bytes
    content_type: str = SDP
    from_name: str = ""
    """Display name of the caller; quoted by the agent."""
    credentials: Credentials | None = None
    headers: tuple[tuple[str, str], ...] = ()
    """Further headers, such as P-Asserted-Identity."""
    peers: tuple[str, ...] = ()
    """Addresses that may speak for the peer besides `destination` and the agent's own peers."""
    silence_limit_s: float | None = None
    """
    How long the peer may give no sign at all before the call ends as timed out; `None`: 64*T1, RFC 3261 §17.1.1.2.

    It is cancelled then, as somebody may be rung all the same, and whoever answers later is hung up.
    """
    ack_patience_s: float = 0.0
    """
    How long the ACK of the answer waits for `OutgoingCall.confirm`: for what hanging up needs to be written down.

    The callee repeats its answer until the ACK: whoever is killed before it hears of the call again.
    """
    mark: InviteMark | None = None
    """What `plan` decided beforehand; `None`: decided as it is sent, and no later process can take it back."""


@dataclass(frozen=True, slots=True)
class InviteFacts:
    """All that a later process needs to take back an INVITE that this one may have sent: texts and numbers only."""

    call_id: str
    local: str
    """Our From value with its tag."""
    remote: str
    """The To value, without one."""
    request_uri: str
    destination: Hop
    mark: InviteMark


@dataclass(frozen=True, slots=True)
class Later:
    """What `on_offer` returns when somebody else must be asked first; the answer is given to `Call.answer_offer`."""

    ask: Callable[[], None]
    """Called at once if the peer can wait. An UPDATE can't (RFC 3311 §5.2): it is refused with 488, nobody is asked."""


class CallHandler:
    """
    Told what happens to one call, synchronously and in order; the methods that a user doesn't need do nothing.

    A method may call the call's own methods (hang up, say). Nothing follows `on_ended`.
    """

    __slots__ = ()

    def on_progress(self, status: int, phrase: str, body: bytes) -> None:
        """A provisional answer other than 100; `body` is early media's SDP or empty. May repeat."""

    def on_answer(self, body: bytes, facts: DialogFacts) -> None:
        """The call was answered and the answer acknowledged; `body` is the peer's SDP."""

    def on_confirmed(self, body: bytes) -> None:
        """The ACK to our own answer came (incoming calls only); `body` answers an offer of ours, or is empty."""

    def on_offer(self, body: bytes | None) -> bytes | Later | None:
        """
        The peer changes the session (re-INVITE, UPDATE); returns our answer, `None` to refuse it with 488, or `Later`.

        `body=None`: the peer wants our offer; its answer comes with `on_answer_to_offer`.
        """
        return None

    def on_answer_to_offer(self, body: bytes) -> None:
        """The answer to an offer that `on_offer(None)` made; empty if the ACK had none."""

    def on_info(self, content_type: str, body: bytes) -> None:
        """An INFO, such as `application/dtmf-relay`; it is answered with 200."""

    def on_ended(self, end: CallEnd) -> None:
        """The call is over and nobody is left on its line. Exactly once, and the last of all."""


def quoted(name: str) -> str:
    """`name` as a quoted display name (RFC 3261 §25.1) with control characters dropped."""
    kept = "".join(char for char in name if char.isprintable())
    return '"' + kept.replace("\\", "\\\\").replace('"', '\\"') + '"'


def header_lines(headers: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """`(name, value)` pairs as lines."""
    return tuple(f"{name}: {value}" for name, value in headers)
