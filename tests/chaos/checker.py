"""
What a run did wrong, from its evidence: pure.

The invariants I1 to I7 of `docs/reliability.md`, each in a function of its own. What the phones, the mail server and
the clients saw is the truth; what the record says is held against that.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, TypeVar

from dosvoces.model import Side
from tests.chaos.evidence import Claim, Evidence, Leg, Mail, Post, Webhook
from tests.chaos.outages import Outages, by_itself, kills, kinds
from tests.chaos.truth import contradiction

SLACK_S = 0.5
"""Between two things that cross on a busy machine."""


@dataclass(frozen=True)
class Violation:
    """One promise broken."""

    kind: str
    request: int
    what: str


@dataclass(frozen=True)
class Report:
    """What was done, what was found, and every violation."""

    figures: dict[str, int | float]
    answers: dict[str, int]
    outcomes: dict[str, int]
    faults: dict[str, int]
    violations: list[Violation] = field(default_factory=list)

    @property
    def broken(self) -> dict[str, int]:
        """How many violations of each kind, those never seen too."""
        found = Counter(violation.kind for violation in self.violations)
        return {kind: found[kind] for kind in (*KINDS, *WITHOUT_REQUEST)}


class Case:
    """The evidence by request."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.outages = Outages(evidence)
        self.legs: Mapping[int, list[Leg]] = _by_request(evidence.legs)
        self.mails: Mapping[int, list[Mail]] = _by_request(evidence.mails)
        self.posts: Mapping[int, list[Post]] = _by_request(evidence.posts)
        self.claims: Mapping[int, list[Claim]] = _by_request(evidence.claims)
        self.webhooks: Mapping[int, list[Webhook]] = _by_request(evidence.webhooks)
        self.cancelled = {cancellation.request for cancellation in evidence.cancellations}

    @cached_property
    def requests(self) -> list[int]:
        return sorted({*self.legs, *self.mails, *self.posts, *self.claims})

    def leg(self, request: int, side: Side, connection: str | None = None) -> Leg | None:
        """The first call to that party."""
        for leg in self.legs[request]:
            if leg.side is side and connection in (None, leg.connection):
                return leg
        return None


class _OfRequest(Protocol):
    @property
    def request(self) -> int: ...


Witnessed = TypeVar("Witnessed", bound=_OfRequest)


def _by_request(values: Sequence[Witnessed]) -> Mapping[int, list[Witnessed]]:
    found: dict[int, list[Witnessed]] = defaultdict(list)
    for value in values:
        found[value.request].append(value)
    return found


def check(evidence: Evidence) -> Report:
    """Hold the evidence against every promise."""
    case = Case(evidence)
    violations = [
        Violation(kind, request, what)
        for kind, rule in KINDS.items()
        for request in case.requests
        for what in rule(case, request)
    ]
    violations += [Violation("strangers", -1, what) for what in evidence.strangers]
    violations += [
        Violation("ended by itself", -1, f"node {fault.node} {fault.how}")
        for fault in evidence.faults
        if by_itself(fault) and not case.outages.database_was_down(fault.at)
    ]
    return Report(
        figures=_figures(case),
        answers=dict(sorted(Counter(_answer(post) for post in evidence.posts).items())),
        outcomes=dict(sorted(Counter(str(claim.outcome) for claim in evidence.claims).items())),
        faults=kinds(evidence.faults),
        violations=violations,
    )


def _answer(post: Post) -> str:
    if post.status is None:
        return "refused" if post.refused else "none"
    return f"{post.status} replayed" if post.replayed else str(post.status)


def _figures(case: Case) -> dict[str, int | float]:
    evidence = case.evidence
    answered = {post.request for post in evidence.posts if post.status in (200, 500)}
    ends = [up_s(case, leg) for leg in evidence.legs]
    return {
        "requests": len({post.request for post in evidence.posts}),
        "posts": len(evidence.posts),
        "requests with a final answer": len(answered),
        "requests accepted": len(evidence.claims),
        "calls to phones": len(evidence.legs),
        "calls answered": sum(leg.answered_at is not None for leg in evidence.legs),
        "mails taken": len(evidence.mails),
        "mails repeated with the same Message-ID": sum(
            len(mails) - len({mail.message_id for mail in mails}) for mails in case.mails.values()
        ),
        "webhooks": len(evidence.webhooks),
        "ends that no webhook told": len(
            {claim.connection for claim in evidence.claims} - {webhook.connection for webhook in evidence.webhooks}
        ),
        "kills": kills(evidence.faults),
        "faults": sum(kinds(evidence.faults).values()),
        "starts that found no database": sum(map(by_itself, evidence.faults)),
        "longest that a leg was up after a kill, s": round(max(ends, default=0.0), 2),
    }


def up_s(case: Case, leg: Leg) -> float:
    """How long the leg was up after the restart of its killed node; 0 if it was over before."""
    due = case.outages.after_kill(leg)
    end = case.evidence.terms.over_at if leg.ended_at is None else leg.ended_at
    return max(0.0, end - (due - case.evidence.terms.up_limit_s)) if due is not None else 0.0


# --- the rules: each tells what is wrong with one request ---


def _lost(case: Case, request: int) -> Iterator[str]:
    """I5, I6: whoever was told of a connection finds it, ended; who was called is in it, and the mail was sent."""
    known = {claim.connection: claim for claim in case.claims[request]}
    taken_back = any(post.status == 503 for post in case.posts[request])
    for post in case.posts[request]:
        # 409 promises nothing: what it tells of may be taken back, if its client was told that it isn't recorded.
        open_then = post.status == 409 and taken_back
        if post.connection and post.connection not in known and not open_then:
            yield f"connection {post.connection} was told of with {post.status} and is not in the record"
    for claim in known.values():
        if claim.outcome is None:
            yield f"connection {claim.connection} has no final state"
    for leg in case.legs[request]:
        if leg.connection not in known:
            yield f"{leg.side} was dialled for connection {leg.connection}, which is not in the record"
        if not any(mail.at <= leg.dialed_at + SLACK_S for mail in case.mails[request]):
            yield f"{leg.side} was dialled and no mail had been taken"


def _dialled_twice(case: Case, request: int) -> Iterator[str]:
    """I1: one INVITE for each party, whatever was repeated, resumed or restarted."""
    for side in Side:
        legs = [leg for leg in case.legs[request] if leg.side is side]
        invites = sum(len(leg.branches) for leg in legs)
        if invites > 1:
            yield f"{side} got {invites} INVITEs, from {[leg.node for leg in legs]}"


def _left_up(case: Case, request: int) -> Iterator[str]:
    """I2, I4: no leg outlives its reason by more than five seconds in which its node could do something."""
    for leg in case.legs[request]:
        due, why = case.outages.must_end(leg, case.leg(request, leg.side.other, leg.connection))
        end = case.evidence.terms.over_at if leg.ended_at is None else leg.ended_at
        if end > due:
            how = "was never released" if leg.ended_at is None else "was released late"
            up_s = end - due + case.evidence.terms.up_limit_s
            yield f"{leg.side} {how}: {up_s:.1f} s after {why} (node {leg.node}, {leg.call_id})"


def _pointless_second(case: Case, request: int) -> Iterator[str]:
    """I3: the second party is not rung unless the first is connected."""
    for second in (leg for leg in case.legs[request] if leg.side is Side.B):
        first = case.leg(request, Side.A, second.connection)
        at = second.dialed_at
        if first is None or first.answered_at is None or first.answered_at > at:
            yield "the second party was dialled before the first had answered"
        elif first.ended_at is not None and first.ended_at < at:
            gone_s = case.outages.able_s(second.node, first.ended_at, at)
            if gone_s > SLACK_S:
                yield f"the second party was dialled {gone_s:.1f} s after the first had gone"


def _false_state(case: Case, request: int) -> Iterator[str]:
    """I5: what the record says is what the phones saw."""
    for claim in case.claims[request]:
        if claim.outcome is None:
            continue
        legs = {side: case.leg(request, side, claim.connection) for side in Side}
        end = claim.ended_at or case.evidence.terms.over_at
        disturbed = case.outages.disturbed(claim.created_at - case.evidence.terms.dead_s, end)
        wrong = contradiction(
            claim.outcome, legs[Side.A], legs[Side.B], disturbed=disturbed, cancelled=request in case.cancelled
        )
        if wrong:
            yield f"connection {claim.connection} is {claim.outcome}, and {wrong}"


def _mail_doubled(case: Case, request: int) -> Iterator[str]:
    """I6: a mail that is sent again has the same Message-ID."""
    ids = {mail.message_id for mail in case.mails[request]}
    if len(ids) > 1:
        yield f"mails with {len(ids)} Message-IDs: {sorted(ids)}"


def _false_answer(case: Case, request: int) -> Iterator[str]:
    """I7: 200 says that both calls were made, 500 what failed, 503 that nothing was tried."""
    posts, mails = case.posts[request], case.mails[request]
    dialled = {leg.side for leg in case.legs[request]}
    for post in posts:
        if post.status == 200 and (dialled != set(Side) or not mails):
            yield f"answered 200 with {len(mails)} mails and {sorted(dialled)} dialled"
        elif post.status == 500 and "email" in post.body and dialled:
            yield f"answered that no mail could be sent, and {sorted(dialled)} dialled"
        elif post.status == 500 and "call" in post.body and not mails:
            yield "answered that a call could not be made, and no mail was sent"
        elif post.status not in EXPECTED:
            yield f"answered {post.status}: {post.body[:100]}"
    if posts and all(post.status == 503 or post.refused for post in posts) and (mails or dialled):
        yield f"never answered but with 503, and {len(mails)} mails went out and {sorted(dialled)} were dialled"
    finals = {(post.status, post.body) for post in posts if post.key and post.status in (200, 500)}
    if len(finals) > 1:
        yield f"answered differently under one key: {sorted(finals)}"


def _false_webhook(case: Case, request: int) -> Iterator[str]:
    """What was told of an end is what the record says, and a message that comes again is the same."""
    outcomes = {claim.connection: claim.outcome for claim in case.claims[request]}
    digests: dict[str, str] = {}
    for webhook in case.webhooks[request]:
        if webhook.outcome != outcomes.get(webhook.connection):
            yield f"a webhook said {webhook.outcome} of connection {webhook.connection}"
        if digests.setdefault(webhook.message, webhook.digest) != webhook.digest:
            yield f"webhook {webhook.message} came with two bodies"


EXPECTED = (None, 200, 409, 500, 503)

KINDS: dict[str, Callable[[Case, int], Iterator[str]]] = {
    "lost": _lost,
    "dialled twice": _dialled_twice,
    "left up": _left_up,
    "pointless second call": _pointless_second,
    "false final state": _false_state,
    "mail doubled": _mail_doubled,
    "false answer": _false_answer,
    "false webhook": _false_webhook,
}
WITHOUT_REQUEST = ("strangers", "ended by itself")
