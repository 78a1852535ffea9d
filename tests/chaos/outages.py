"""When a node could do nothing, and until when a leg may be up at the latest, from what was done to the services."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.chaos.evidence import BY_ITSELF, Evidence, Fault, Leg

NEVER = float("inf")
SHOCK_S = 10.0  # a start that found the database down gives up only then
SERVED_S = 1.0  # from the moment at which a restarted node serves; it has hung up all that was left before
FENCE_MARGIN_S = 1.0  # from the moment at which a lease runs out to the look that notices it


@dataclass(frozen=True)
class Outage:
    """From when to when; a fault that the run's end overtook lasts for ever."""

    begin: float
    end: float


_PAIRS = {"frozen": "thawed", "database_down": "database_up"}
_KILLS = {"killed", "media_killed", "backend_killed"}
_ENDS_OF_FAULTS = {"started", "ready", *_PAIRS.values()}


class Outages:
    """Of all nodes and of the database."""

    def __init__(self, evidence: Evidence) -> None:
        self._terms = evidence.terms
        self._faults = sorted(evidence.faults, key=lambda fault: fault.at)
        self._times = [fault.at for fault in self._faults if fault.kind != "mail"]
        self.database = self._pair("database_down", "")
        self._dead = {node: self._deaths(node) for node in self._terms.ports.values()}
        self._frozen = {node: self._pair("frozen", node) for node in self._terms.ports.values()}
        self._unable = {node: _merged([*dead, *self._frozen[node]]) for node, dead in self._dead.items()}
        self._unable_with_database = {node: _merged([*unable, *self.database]) for node, unable in self._unable.items()}

    def _pair(self, kind: str, node: str) -> list[Outage]:
        outages: list[Outage] = []
        begin: float | None = None
        # Whatever was done to a frozen node, killed is killed: its outage as a frozen one ends there.
        ends = {_PAIRS[kind], "killed"} if kind == "frozen" else {_PAIRS[kind]}
        for fault in self._faults:
            if fault.node != node:
                continue
            if fault.kind == kind and begin is None:
                begin = fault.at
            elif fault.kind in ends and begin is not None:
                outages.append(Outage(begin, fault.at))
                begin = None
        return [*outages, Outage(begin, NEVER)] if begin is not None else outages

    def _deaths(self, node: str) -> list[Outage]:
        """
        From a kill to the start of the next process that came to serve.

        On a machine so busy that the start alone takes nearly as long as a leg may be up, to a second before it served.
        """
        spare_s = self._terms.up_limit_s - SERVED_S
        outages: list[Outage] = []
        begin: float | None = None
        started = 0.0
        for fault in self._faults:
            if fault.node != node:
                continue
            if fault.kind == "killed" and begin is None:
                begin = fault.at
            elif fault.kind == "started":
                started = fault.at
            elif fault.kind == "ready" and begin is not None:
                outages.append(Outage(begin, max(started, fault.at - spare_s)))
                begin = None
        return [*outages, Outage(begin, NEVER)] if begin is not None else outages

    def disturbed(self, begin: float, end: float) -> bool:
        """Whether anything was done to anybody from `begin` to `end`, or lasted then."""
        next_one = bisect_left(self._times, begin)
        if next_one < len(self._times) and self._times[next_one] <= end:
            return True
        return any(_covered(of, begin, end) for of in self._unable_with_database.values())

    def database_was_down(self, at: float) -> bool:
        """Whether the database was down or recovering, or had just been."""
        recovering = [Outage(fault.at, fault.at) for fault in self._faults if fault.kind == "backend_killed"]
        return any(outage.begin <= at <= outage.end + SHOCK_S for outage in [*self.database, *recovering])

    def able_s(self, node: str, begin: float, end: float) -> float:
        """How many of those seconds the node could do something."""
        return end - begin - _covered(self._unable[node], begin, end)

    def after(self, node: str, at: float, able_s: float, *, database: bool = False) -> float:
        """The moment at which the node (and with `database` that too) has run for `able_s` in a row since `at`."""
        outages, end = (self._unable_with_database if database else self._unable)[node], at + able_s
        for outage in outages[bisect_left(outages, at, key=lambda each: each.end) :]:
            if outage.begin > end:
                break
            end = outage.end + able_s
        return end

    # --- how long a leg may be up ---

    def must_end(self, leg: Leg, other: Leg | None) -> tuple[float, str]:
        """When `leg` must be over at the latest, and why."""
        return min(self.reasons(leg, other))

    def reasons(self, leg: Leg, other: Leg | None) -> Iterable[tuple[float, str]]:
        """All that ends it, each with the latest moment."""
        terms, node, begun = self._terms, leg.node, leg.dialed_at
        limit = terms.up_limit_s
        life = terms.ring_timeout_s if leg.answered_at is None else 2 * terms.ring_timeout_s + terms.talk_limit_s
        yield self.after(node, begun + life, limit), "its time was over"
        if other is not None and other.ended_at is not None and other.dialed_at <= other.ended_at:
            yield self.after(node, max(begun, other.ended_at), limit), "the other party was gone"
        if (due := self.after_kill(leg)) is not None:
            yield due, "its node was killed"
        if not terms.alone:
            yield from self._reasons_of_a_fence(node, begun)

    def after_kill(self, leg: Leg) -> float | None:
        """When it must be over because its node was killed, `None` if that wasn't."""
        dead = _first(self._dead[leg.node], leg.dialed_at)
        return None if dead is None else self.after(leg.node, dead.begin, self._terms.up_limit_s, database=True)

    def _reasons_of_a_fence(self, node: str, begun: float) -> Iterable[tuple[float, str]]:
        terms, limit = self._terms, self._terms.up_limit_s
        if frozen := _first(self._frozen[node], begun, terms.fence_s + FENCE_MARGIN_S):
            yield self.after(node, frozen.begin, limit, database=True), "its node was frozen"
        if frozen := _first(self._frozen[node], begun, terms.dead_s):
            settled_by = frozen.begin + terms.dead_s + FENCE_MARGIN_S + limit
            if self._another_ran(node, frozen.begin - terms.dead_s, settled_by):
                yield settled_by, "its node was dead to the others"
        if down := _first(self.database, begun, terms.fence_s + FENCE_MARGIN_S):
            fenced_at = down.begin + terms.fence_s + FENCE_MARGIN_S
            yield self.after(node, fenced_at, limit), "its node had no lease"

    def _another_ran(self, node: str, begin: float, end: float) -> bool:
        """Whether some other node, and the database, ran all the time: one that just began calls nobody dead."""
        return any(
            not _covered(self._unable_with_database[other], begin, end)
            for other in self._terms.ports.values()
            if other != node
        )


def _first(outages: Sequence[Outage], at: float, length_s: float = 0.0) -> Outage | None:
    """The first one since `at` that lasted so long."""
    for outage in outages[bisect_left(outages, at, key=lambda each: each.begin) :]:
        if outage.end - outage.begin >= length_s:
            return outage
    return None


def _merged(outages: Iterable[Outage]) -> list[Outage]:
    """The same time in outages that don't overlap, in order."""
    merged: list[Outage] = []
    for outage in sorted(outages, key=lambda each: each.begin):
        if merged and outage.begin <= merged[-1].end:
            merged[-1] = Outage(merged[-1].begin, max(merged[-1].end, outage.end))
        else:
            merged.append(outage)
    return merged


def _covered(merged: Sequence[Outage], begin: float, end: float) -> float:
    """How many of those seconds are in an outage."""
    covered = 0.0
    for outage in merged[bisect_left(merged, begin, key=lambda each: each.end) :]:
        if outage.begin >= end:
            break
        covered += min(outage.end, end) - max(outage.begin, begin)
    return covered


def kinds(faults: Iterable[Fault]) -> dict[str, int]:
    """How many of each, crash points under their names; what ends or follows a fault isn't one."""
    counted: dict[str, int] = {}
    for fault in faults:
        if fault.kind not in _ENDS_OF_FAULTS and not by_itself(fault):
            name = f"{fault.kind} {fault.how}".strip()
            counted[name] = counted.get(name, 0) + 1
    return dict(sorted(counted.items()))


def kills(faults: Iterable[Fault]) -> int:
    """How many processes, or servers, were killed."""
    return sum(
        (fault.kind in _KILLS and not by_itself(fault)) or (fault.kind == "database_down" and fault.how != "paused")
        for fault in faults
    )


def by_itself(fault: Fault) -> bool:
    """Whether a node ended and nobody killed it: a start that found no database."""
    return fault.how.startswith(BY_ITSELF)
