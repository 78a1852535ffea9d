"""
The invariants, held against what the phones, the mail server and the clients saw; of the record the outcomes alone.

I1 at most one dial rings; I2 no orphan; I3 no pointless second call; I4 bounded duration; I5 one truthful outcome;
I6 exactly one mail; I7 the answer is the truth; I8 nothing is left behind.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from dosvoces.core import AnswerKind
from dosvoces.model import Outcome, Side
from tests.simulation.network import Weather
from tests.simulation.phones import FarCall, Ring
from tests.simulation.record import SLOW_COMMIT_S, Kept
from tests.simulation.world import Request, World

RELEASE_S = 2.0  # from the end of a leg's reason to live to its own, I2
RESTART_S = 5.0  # from a restart to that, I2
REPEATS_S = 40.0  # the same where datagrams are lost: 64*T1, and the far end's own 64*T1 within it
GIVE_UP_S = 10.0  # on top of a connection's own limits: `trunk_timeout_s` and the mailbox's patience


@dataclass(frozen=True, slots=True)
class Violation:
    connection: int | None
    invariant: str
    what: str

    def __str__(self) -> str:
        return f"{self.invariant} at connection {self.connection}: {self.what}"


def violations(world: World) -> list[Violation]:
    found = [Violation(None, *each) for each in _of_world(world)]
    for connection in world.requests:
        found += violations_of(world, connection)
    return found


def violations_of(world: World, connection: int) -> list[Violation]:
    """Those of one connection."""
    view = _View(world, connection, world.requests[connection])
    return [Violation(connection, *each) for check in _CHECKS for each in check(view)]


_Found = Iterator[tuple[str, str]]


class _View:
    """One connection as everybody outside saw it."""

    def __init__(self, world: World, connection: int, request: Request) -> None:
        self.world = world
        self.request = request
        self.kept: Kept | None = world.disk.connections.get(request.order.id)
        self.calls = {side: world.phones.of.get((connection, side), []) for side in Side}
        self.mails = world.mails.taken.get(f"<{request.order.id}@simulated>", 0)
        self.rings = {side: [ring for call in self.calls[side] for ring in call.rings] for side in Side}

    def all_rings(self) -> Iterator[tuple[Side, FarCall, Ring]]:
        for side, calls in self.calls.items():
            for call in calls:
                for ring in call.rings:
                    yield side, call, ring

    @property
    def weather(self) -> Weather:
        return self.world.network.weather

    @property
    def outcome(self) -> Outcome | None:
        return self.kept.outcomes[0] if self.kept is not None and self.kept.outcomes else None

    def answered(self, side: Side) -> bool:
        return any(ring.answered_at is not None for ring in self.rings[side])

    def said(self, side: Side, *, in_time: bool = False, last: bool = False) -> set[int]:
        """
        What it was told of its INVITEs; `in_time`: before it gave the ringing up; `last`: by the last way tried.

        Of a way that was given up because it said nothing, what it says afterwards is no part of the outcome.
        """
        patience_s = self.world.limits.ring_timeout_s if in_time else math.inf
        return {
            status
            for call in (sorted(self.calls[side], key=lambda call: call.left_at)[-1:] if last else self.calls[side])
            if call.heard_final_at is not None and call.heard_final_at < call.left_at + patience_s
            if not self.given_up(call)
            for status in call.heard
        }

    def given_up(self, call: FarCall) -> bool:
        """Whether its newest INVITE had no answer when the service stopped to wait for one."""
        return call.heard_at is None or call.heard_at > call.asked_at + self.world.limits.trunk_timeout_s

    def cancellable_at(self, call: FarCall) -> float:
        """From when on its newest INVITE may be cancelled: RFC 3261 §9.1, or else when it is given up."""
        gives_up_at = call.asked_at + self.world.limits.trunk_timeout_s
        return gives_up_at if call.heard_at is None else min(call.heard_at, gives_up_at)

    def hung_up(self, side: Side) -> bool:
        return any(ring.answered_at is not None and ring.ended_by == "phone" for ring in self.rings[side])

    def killed_since(self, at: float) -> bool:
        return any(kill.back_at >= at for kill in self.world.kills)


def _of_world(world: World) -> _Found:
    if world.endless:
        yield "I8", "the world doesn't come to rest"
        return
    for process in world.processes:
        for fault in process.loop.faults:
            yield "I8", f"an error nobody caught: {fault}"
    last = world.process
    if last.switchboard.open_connections:
        yield "I8", f"{last.switchboard.open_connections} connections are still open"
    if last.carrier.open_sessions or last.relay.open:
        yield "I8", f"{last.carrier.open_sessions} media sessions are still open, {len(last.relay.open)} in the relay"
    if not last.carrier.agent.idle:
        yield "I8", f"the agent isn't idle: {last.carrier.agent.transactions} transactions"


def _one_dial(view: _View) -> _Found:
    for side, calls in view.calls.items():
        rang = [call for call in calls if call.rings]
        # A phone of which no sign ever reached us rang "before any 18x": another way may be tried then.
        for before, after in pairwise(rang):
            if _known_before(before, after):
                yield "I1", f"{side.upper()} was rung twice, at {before.invited_at:.3f} and {after.invited_at:.3f}"
        attempts = {call.call_id for call in calls}
        if len(attempts) > (len(view.kept.dials) if view.kept is not None else 0):
            yield "I1", f"{side.upper()} was dialled {len(attempts)} times with fewer intents in the record"
        for call in calls:
            for kill in view.world.kills:
                # Its INVITE may have left before the kill and arrive after the restart.
                if call.left_at > kill.at and any(other.left_at < kill.at for other in calls):
                    yield "I1", f"{side.upper()} was dialled again after a restart"


def _known_before(before: FarCall, after: FarCall) -> bool:
    """Whether the service could know of the ringing when it gave the first way up."""
    if before.heard_ringing_at is None:
        return False
    # With the final answer, or else in time for the intent of the next dial.
    gave_up_at = after.left_at - SLOW_COMMIT_S if before.heard_final_at is None else before.heard_final_at
    return before.heard_ringing_at < min(gave_up_at, after.left_at)


def _no_orphan(view: _View) -> _Found:
    lossy = view.weather.loss > 0
    for side, call, ring in view.all_rings():
        if ring.ended_at is None:
            yield "I2", f"{side.upper()}'s phone {ring.tag} is never released"
            continue
        # Where it is lost it isn't repeated for who has hung up; and a BYE to who answered a killed process has none.
        sure = not lossy and not view.world.kills
        if sure and ring.answered_at is not None and ring.acknowledged_at is None:
            yield "I2", f"{side.upper()}'s phone {ring.tag} answered and got no ACK"
        gone_at = _reason_gone(view, side, call, ring)
        if gone_at is not None:
            gone_at = max(gone_at, ring.began_at, view.cancellable_at(call))
            limit_s = REPEATS_S if lossy else RELEASE_S
            if ring.ended_at <= gone_at + limit_s:
                continue
            since = [kill for kill in view.world.kills if kill.at <= ring.ended_at and kill.back_at >= ring.began_at]
            restart_s = REPEATS_S if lossy else RESTART_S
            if since and ring.ended_at <= max(kill.back_at for kill in since) + restart_s:
                continue
            late_s = ring.ended_at - gone_at
            yield (
                "I2",
                f"{side.upper()}'s phone {ring.tag} is released {late_s:.1f} s after its reason to live was gone",
            )


def _reason_gone(view: _View, side: Side, call: FarCall, ring: Ring) -> float | None:
    """When the phone had nobody to wait for any more, as somebody outside could know."""
    moments = []
    if view.request.cancelled_at is not None:
        moments.append(view.request.cancelled_at)
    # A kill that it lived to see ends it.
    moments += [kill.back_at for kill in view.world.kills if ring.began_at <= kill.at]
    # Another way was tried in its place.
    moments += [other.left_at for other in view.calls[side] if other.left_at > call.left_at]
    theirs = view.calls[side.other]
    if theirs and all(call.over_at is not None for call in theirs) and (side is Side.B or view.rings[side.other]):
        moments.append(max(call.over_at for call in theirs if call.over_at is not None))
    return min(moments, default=None)


def _no_pointless_call(view: _View) -> _Found:
    if not view.calls[Side.B]:
        return
    invited = min(call.invited_at for call in view.calls[Side.B])
    answers = [ring for ring in view.rings[Side.A] if ring.answered_at is not None and ring.answered_at <= invited]
    if not answers:
        yield "I3", "B was called though A had not answered"
        return
    # What A's phone did within the time that a datagram may take, or be repeated in, could not be known.
    grace_s = REPEATS_S if view.weather.loss else 2 * (view.weather.delay_s + view.weather.jitter_s)
    if all(ring.ended_at is not None and ring.ended_at + grace_s < invited for ring in answers):
        yield "I3", "B was called though A had hung up"
    wait_s = invited - min(call.invited_at for call in view.calls[Side.A])
    spread_s = view.weather.delay_s + view.weather.jitter_s
    if not view.weather.loss and wait_s + spread_s < view.request.order.interval_s:
        yield "I3", f"B was called {wait_s:.1f} s after A, the interval is {view.request.order.interval_s} s"


def _bounded(view: _View) -> _Found:
    limits, order = view.world.limits, view.request.order
    slack_s = REPEATS_S + GIVE_UP_S + sum(kill.back_at - kill.at for kill in view.world.kills)
    most_s = order.interval_s + 3 * limits.ring_timeout_s + limits.talk_limit_s + slack_s
    for side, _call, ring in view.all_rings():
        if ring.ended_at is not None and ring.ended_at - ring.began_at > most_s:
            yield "I4", f"{side.upper()}'s phone was busy for {ring.ended_at - ring.began_at:.0f} s"
    talked = [
        ring.ended_at - ring.answered_at
        for ring in view.rings[Side.B]
        if ring.answered_at is not None and ring.ended_at is not None
    ]
    if talked and max(talked) > limits.talk_limit_s + (REPEATS_S if view.weather.loss else RESTART_S) + (
        slack_s if view.world.kills else 0
    ):
        yield "I4", f"B's phone talked {max(talked):.0f} s, the limit is {limits.talk_limit_s:.0f} s"


def _one_outcome(view: _View) -> _Found:
    if view.kept is None:
        return
    if len(view.kept.outcomes) != 1:
        yield "I5", f"outcomes in the record: {[str(outcome) for outcome in view.kept.outcomes]}"
        return
    outcome = view.kept.outcomes[0]
    if not _possible(view, outcome):
        yield "I5", f"the outcome is {outcome}, which isn't what the phones saw"
    a = [ring for ring in view.rings[Side.A] if ring.acknowledged_at is not None]
    b = [ring for ring in view.rings[Side.B] if ring.acknowledged_at is not None]
    together = [
        min(x.ended_at or 0.0, y.ended_at or 0.0) - max(x.acknowledged_at or 0.0, y.acknowledged_at or 0.0)
        for x in a
        for y in b
    ]
    if together and max(together) > RELEASE_S and not view.weather.loss:
        allowed = {Outcome.COMPLETED, Outcome.INTERRUPTED}
        if outcome not in allowed:
            yield "I5", f"both phones talked {max(together):.1f} s and the outcome is {outcome}"


def _possible(view: _View, outcome: Outcome) -> bool:
    a, b = Side.A, Side.B
    match outcome:
        case Outcome.COMPLETED:
            return view.answered(a) and view.answered(b)
        case Outcome.FIRST_BUSY:
            return bool(view.said(a) & {486, 600}) and not view.calls[b]
        case Outcome.SECOND_BUSY:
            return view.answered(a) and bool(view.said(b) & {486, 600})
        case Outcome.FIRST_NO_ANSWER:
            return not view.calls[b] and not view.said(a, in_time=True) & {486, 603, 404}
        case Outcome.SECOND_NO_ANSWER:
            return view.answered(a) and not view.said(b, in_time=True) & {486, 603, 404}
        case Outcome.FIRST_HUNG_UP:
            return view.hung_up(a)
        case Outcome.SECOND_HUNG_UP:
            return view.answered(a) and view.hung_up(b)
        case Outcome.FIRST_FAILED:
            return not view.said(a, last=True) & {486, 480}
        case Outcome.SECOND_FAILED:
            return view.answered(a) and not view.said(b, last=True) & {486, 480}
        case Outcome.CANCELLED:
            return view.request.cancelled_at is not None
        case Outcome.MAIL_FAILED:
            return not view.calls[a] and not view.calls[b]
        case Outcome.INTERRUPTED:
            return view.killed_since(view.request.arrived_at) or view.world.faults.media > 0
        case _:
            return False


def _one_mail(view: _View) -> _Found:
    called = view.calls[Side.A] or view.calls[Side.B]
    if view.mails > 1:
        yield "I6", f"{view.mails} mails were taken"
    if view.kept is None and view.mails:
        yield "I6", "a mail was taken of a request that isn't in the record"
    if called and view.mails != 1:
        yield "I6", f"somebody was called with {view.mails} mails taken"
    without = {None, Outcome.MAIL_FAILED, Outcome.INTERRUPTED, Outcome.CANCELLED}
    if view.outcome not in without and view.mails != 1:
        yield "I6", f"the outcome is {view.outcome} with {view.mails} mails taken"


def _true_answer(view: _View) -> _Found:
    request, answer = view.request, view.request.answer
    called = view.calls[Side.A] or view.calls[Side.B]
    if request.refused and (view.mails or called):
        yield "I7", "503 was answered, and something was done"
    if answer is None:
        if view.kept is not None and not request.refused and not view.killed_since(request.arrived_at):
            yield "I7", "the client never got an answer"
        return
    if answer.kind is AnswerKind.MADE and not (view.mails == 1 and {Side.A, Side.B} <= request.rung_when_answered):
        yield "I7", "200 was answered before both phones were rung"
    if answer.kind is AnswerKind.MAIL_FAILED and called:
        yield "I7", "the mail was said to have failed, and somebody was called"
    if answer.kind is AnswerKind.NOT_TRIED and called:
        yield "I7", "nobody was said to have been dialled, and somebody was called"
    if answer.kind is AnswerKind.CALL_FAILED and Side.B in request.rung_when_answered and not view.weather.loss:
        known = [ring for ring in view.rings[Side.B] if ring.answered_at is None and ring.ended_at is None]
        if known:
            yield "I7", f"the call of {answer.side} was said to have failed while B rang"


_CHECKS = (_one_dial, _no_orphan, _no_pointless_call, _bounded, _one_outcome, _one_mail, _true_answer)
