"""
What a run left in its folder, read again: values for the checker, and nothing that the service could have made up.

Which request a call or a mail belongs to is told by whom it went to: every request has numbers and an address of its
own. Of the record there is the last word alone, as the claim to be checked.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dosvoces.model import Side
from tests.peers.sipp import SipMessage, stream_messages

PHONES, MAILS, CLIENTS, FAULTS, WEBHOOKS, RECORD, TERMS = (
    "phones/messages.log",
    "mails.jsonl",
    "clients.jsonl",
    "faults.jsonl",
    "webhooks.jsonl",
    "record.jsonl",
    "terms.json",
)
BY_ITSELF = "ended by itself with status"
_NUMBER = re.compile(r"\+34(61|96)\d(\d{6})\b")
_REQUEST_OF_MAIL = re.compile(r"r(\d+)@")
_SIDES = {"61": Side.A, "96": Side.B}
CHALLENGES = (401, 407)
GIVEN_UP_S = 32.0  # 64*T1, RFC 3261 §13.3.1.4: an answer that got no ACK is given up by its phone


@dataclass(frozen=True)
class Terms:
    """What the services were told, and the limits of the check."""

    ports: dict[int, str]
    """The SIP port of each node, and its name: an INVITE says where it comes from."""
    ring_timeout_s: float
    talk_limit_s: float
    fence_s: float
    dead_s: float
    alone: bool
    """Whether there is one node only: it has no fence, and no heir but itself."""
    up_limit_s: float = 5.0
    """How long a leg may be up when its reason is gone, and its node, or an heir, runs."""
    over_at: float = 0.0
    """When the logs end."""


@dataclass(eq=False)
class Leg:
    """One call as its phone saw it: when each thing happened first, in seconds since the epoch."""

    request: int
    side: Side
    call_id: str
    node: str
    dialed_at: float
    branches: set[str] = field(default_factory=set)
    """One for each INVITE that is no repeat."""
    rang_at: float | None = None
    answered_at: float | None = None
    acked_at: float | None = None
    refused: int | None = None
    """The status of a final answer of the phone's own, such as 486."""
    cancelled_at: float | None = None
    left_at: float | None = None
    """When the phone hung up."""
    ended_at: float | None = None
    """When nobody rang or talked any more: refused, cancelled, hung up by either, or given up by the phone."""

    @property
    def connection(self) -> str:
        """The connection whose leg it says to be."""
        return self.call_id[:26]

    def end(self, at: float) -> None:
        self.ended_at = at if self.ended_at is None else self.ended_at


@dataclass(frozen=True)
class Mail:
    """A mail that the server took responsibility for."""

    at: float
    request: int
    message_id: str


@dataclass(frozen=True)
class Post:
    """One try of a client to place a request."""

    request: int
    key: bool
    at: float
    answered_at: float
    status: int | None
    """`None`: no answer; what came of it is unknown to the client."""
    body: str = ""
    connection: str = ""
    replayed: bool = False
    refused: bool = False
    """Whether the connection was refused, so that nothing can have been asked."""


@dataclass(frozen=True)
class Cancellation:
    """A client asked to end the request's connection."""

    request: int
    at: float


@dataclass(frozen=True)
class Fault:
    """Something that was done to the services, or came of that."""

    at: float
    kind: str
    """`killed started ready frozen thawed media_killed database_down database_up backend_killed mail`."""
    node: str = ""
    how: str = ""


@dataclass(frozen=True)
class Claim:
    """What the record says of a connection in the end."""

    connection: str
    request: int
    outcome: str | None
    created_at: float
    ended_at: float | None


@dataclass(frozen=True)
class Webhook:
    """A message about the end of a connection, as its receiver got it."""

    at: float
    request: int
    connection: str
    message: str
    """Its id, which is the same when it is sent again."""
    outcome: str
    digest: str
    """Of the whole body."""


@dataclass(frozen=True)
class Evidence:
    """All that is known of a run."""

    terms: Terms
    legs: list[Leg]
    mails: list[Mail]
    posts: list[Post]
    cancellations: list[Cancellation]
    faults: list[Fault]
    claims: list[Claim]
    webhooks: list[Webhook] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    """Calls and mails that nobody asked for."""


def read(folder: Path) -> Evidence:
    """The evidence in `folder`, as `run.py` wrote it."""
    terms = json.loads((folder / TERMS).read_text("utf-8"))
    strangers: list[str] = []
    clients = list(_lines(folder / CLIENTS))
    return Evidence(
        Terms(**{**terms, "ports": {int(port): name for port, name in terms["ports"].items()}}),
        legs_of(
            stream_messages(folder / PHONES), {int(port): name for port, name in terms["ports"].items()}, strangers
        ),
        _mails(_lines(folder / MAILS), strangers),
        [Post(**line) for line in clients if "status" in line],
        [Cancellation(**line) for line in clients if "status" not in line],
        [Fault(**line) for line in _lines(folder / FAULTS)],
        [Claim(**line) for line in _lines(folder / RECORD)],
        [Webhook(**line) for line in _lines(folder / WEBHOOKS)],
        strangers,
    )


def request_of(number: str) -> tuple[int, Side] | None:
    """Whose number that is, and which; `None` if it is no number of ours."""
    found = _NUMBER.search(number)
    return (int(found[2]), _SIDES[found[1]]) if found else None


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def _mails(lines: Iterable[dict[str, Any]], strangers: list[str]) -> list[Mail]:
    mails = []
    for line in lines:
        for recipient in line["to"]:
            found = _REQUEST_OF_MAIL.match(recipient)
            if found:
                mails.append(Mail(line["at"], int(found[1]), line["message_id"]))
            else:
                strangers.append(f"a mail to {recipient}")
    return mails


# --- from messages to legs ---


def legs_of(messages: Iterable[SipMessage], ports: dict[int, str], strangers: list[str]) -> list[Leg]:
    """Every call that came to a phone, in order; an INVITE to a number that nobody gave is a stranger."""
    legs: dict[str, Leg] = {}
    for message in messages:
        leg = legs.get(message.call_id)
        if leg is None:
            leg = _begun(message, ports, strangers)
            if leg is None:
                continue  # CANCEL or BYE for a call that never came here, or OPTIONS
            legs[message.call_id] = leg
        _hear(leg, message)
    for leg in legs.values():
        if leg.answered_at is not None and leg.acked_at is None:
            leg.end(leg.answered_at + GIVEN_UP_S)
    return list(legs.values())


def _begun(message: SipMessage, ports: dict[int, str], strangers: list[str]) -> Leg | None:
    if message.sent or message.status is not None or message.method != "INVITE":
        return None
    owner = request_of(message.header("To"))
    if owner is None:
        strangers.append(f"a call to {message.header('To')}")
        return None
    sent_by = re.match(r"SIP/2.0/\w+ [^:;]+:(\d+)", message.header("Via"))
    node = ports.get(int(sent_by[1]), "") if sent_by else ""
    return Leg(*owner, call_id=message.call_id, node=node, dialed_at=message.at)


def _hear(leg: Leg, message: SipMessage) -> None:
    if message.status is None:
        _hear_request(leg, message)
    elif message.sent and message.method == "INVITE":
        _hear_answer(leg, message, message.status)


def _hear_request(leg: Leg, message: SipMessage) -> None:
    match message.method:
        case "INVITE" if not message.to_tag:
            leg.branches.add(message.branch)
        case "ACK" if leg.answered_at is not None and leg.acked_at is None:
            leg.acked_at = message.at
        case "CANCEL" if leg.cancelled_at is None:
            leg.cancelled_at = message.at
        case "BYE":
            if message.sent and leg.left_at is None:
                leg.left_at = message.at
            leg.end(message.at)


def _hear_answer(leg: Leg, message: SipMessage, status: int) -> None:
    if 101 <= status < 200 and leg.rang_at is None:
        leg.rang_at = message.at
    elif 200 <= status < 300 and leg.answered_at is None:
        leg.answered_at = message.at
    elif status >= 300 and status not in CHALLENGES:
        if status != 487 and leg.refused is None:
            leg.refused = status
        leg.end(message.at)
