"""
Limits that all nodes share: counted or reserved in the transaction that writes what they limit, so that they are exact.

What is counted are rows, open connections and their dials, under a lock that all such transactions take: no counter
that could drift after a crash. A dead node's calls count until they are settled, as they may be up until then.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Dialect, Integer, bindparam, case, exists, false, func, literal_column, select
from sqlalchemy.dialects import postgresql, sqlite

from dosvoces.core import Connection, LegState
from dosvoces.errors import LimitReached, OnTheList
from dosvoces.model import ConnectionId, Order, Side, mask_number
from dosvoces.store.budget import NO_BUDGET, Budget, BudgetCounts, Reservation
from dosvoces.store.ceilings import LOCK, NO_CEILINGS, CeilingCounts, Ceilings, Tally
from dosvoces.store.clock import database_now
from dosvoces.store.old_counts import OldCounts
from dosvoces.store.prepared import Cursor, Prepared
from dosvoces.store.tables import Moment, connection, dial_attempt, do_not_call, leg, trunk_pace

LIST_LOOK_S = 1.0
"""From one look whether there is a do-not-call list to the next, while there is none."""


@dataclass(frozen=True, slots=True)
class TrunkQuota:
    """What one trunk allows, over all nodes; `None`: as much as there is."""

    max_calls: int | None = None
    calls_per_second: float | None = None
    max_wait_s: float = 5.0
    """How long a call may wait for its turn."""


@dataclass(frozen=True, slots=True)
class Quota:
    """What all nodes together may have open; `None`: as much as each of them takes."""

    max_open: int | None = None
    max_per_number: int | None = None
    trunks: Mapping[str, TrunkQuota] = field(default_factory=dict)
    """Of the trunks that allow only so much."""
    ceilings: Ceilings = NO_CEILINGS
    """What may be asked for in an hour and in a day."""
    budget: Budget = NO_BUDGET
    """What may be spent in a day."""


NO_QUOTA = Quota()


class Admitted(NamedTuple):
    """What is to be counted of an order that may begin."""

    tally: Tally | None
    reservation: Reservation | None


def turn(next_at: datetime | None, now: datetime, quota: TrunkQuota) -> tuple[float, datetime] | None:
    """
    How many seconds a call has to wait for its turn, and when the next one's is; `None` if it may not wait so long.

    GCRA with no burst (ITU-T I.371, annex A): turns are spaced evenly.
    """
    assert quota.calls_per_second is not None
    at = now if next_at is None else max(now, next_at)
    wait_s = (at - now).total_seconds()
    return None if wait_s > quota.max_wait_s else (wait_s, at + timedelta(seconds=1 / quota.calls_per_second))


class SharedLimits:
    """The checks, for one dialect; each runs inside the transaction of what it is about. Nothing set costs nothing."""

    def __init__(self, dialect: Dialect, quota: Quota) -> None:
        self._quota = quota
        self._ceilings = CeilingCounts(dialect, quota.ceilings)
        self._budget = BudgetCounts(dialect, quota.budget)
        self._old = OldCounts(dialect)
        self._locks = dialect.name == "postgresql"
        self._count_open = Prepared(_count_open(), dialect)
        self._count_calls = Prepared(_count_calls(), dialect)
        self._pace = Prepared(_pace(), dialect)
        self._any_listed = Prepared(select(_ONE).where(exists(select(do_not_call.c.number))), dialect)
        self._listed = Prepared(_is_listed(), dialect)
        self._has_list, self._list_due = False, float("-inf")
        self._set_pace = Prepared(_set_pace(dialect), dialect)

    def locks(self, order: Order) -> tuple[int, ...]:
        """What `admit` will lock if anything is limited: to be taken with what else is locked in its transaction."""
        return (LOCK,) if self._locks and (self._quota != NO_QUOTA or order.asker.limits) else ()

    def admit(self, cursor: Cursor, order: Order, trunks: Mapping[Side, Sequence[str]]) -> Admitted:
        """
        Raise `LimitReached` if `order` may not be opened now; else what `charge` is to count once it is.

        `trunks` are those that could take each side: if all of one side's are full, it would only be mailed. A trial
        run takes no room, and needs none.
        """
        self._admit_numbers(cursor, order)
        if self._quota != NO_QUOTA and not order.test:
            self._admit_open(cursor, order, trunks)
        return Admitted(self._ceilings.admit(cursor, order), self._budget.admit(cursor, order))

    def charge(self, cursor: Cursor, order: Order, admitted: Admitted | None) -> None:
        """Count what `admit` let in; later in the same transaction."""
        if admitted is not None:
            self._ceilings.charge(cursor, order, admitted.tally)
            self._budget.charge(cursor, order, admitted.reservation)

    def settle(self, cursor: Cursor, connection_id: ConnectionId, state: Connection, at: datetime) -> None:
        """Give back what a connection reserved and didn't use, in the transaction that writes its outcome."""
        self._budget.settle(cursor, connection_id, state, at)

    def forget(self, cursor: Cursor, limit: int) -> int:
        """Delete counters of days that are over, at most `limit` of a kind; how many it were."""
        self._lock(cursor, limit)
        return self._old.forget(cursor, limit)

    def _admit_numbers(self, cursor: Cursor, order: Order) -> None:
        """
        Raise `OnTheList` if one of them is never called.

        Whether there is a list at all is asked once a second: without one, no request pays for it. Who is put on it
        meanwhile is found by the last look before the dial.
        """
        if not self._has_list:
            if time.monotonic() < self._list_due:
                return
            self._list_due = time.monotonic() + LIST_LOOK_S
            self._any_listed.run(cursor, {})
            self._has_list = cursor.fetchone() is not None
            if not self._has_list:
                return
        for number in (order.first, order.second):
            self._listed.run(cursor, {"wanted": number.e164})
            if cursor.fetchone() is not None:
                raise OnTheList(f"{number.masked} is on the do-not-call list", second=number is order.second)

    def _admit_open(self, cursor: Cursor, order: Order, trunks: Mapping[Side, Sequence[str]]) -> None:
        quota = self._quota
        self._lock(cursor, quota.max_open, quota.max_per_number, quota.trunks or None)
        if quota.max_open is not None or quota.max_per_number is not None:
            first, second = order.first.e164, order.second.e164
            self._count_open.run(cursor, {"first_number": first, "second_number": second})
            all_open, with_first, with_second = cursor.fetchone()
            if quota.max_open is not None and all_open >= quota.max_open:
                raise LimitReached(f"{all_open} connections are open on all nodes, as many as dialing.max_open")
            for number, count in ((first, with_first or 0), (second, with_second or 0)):
                if quota.max_per_number is not None and count >= quota.max_per_number:
                    raise LimitReached(
                        f"{mask_number(number)} is in {count} open connections, as many as dialing.max_per_number"
                    )
        taken = {name: self._calls(cursor, name) for name in quota.trunks} if quota.trunks else {}
        for side, names in trunks.items():
            # Where one trunk must take both, the second one's call is counted in at once.
            ahead = 1 if side is Side.B and list(trunks[Side.A]) == list(names) and len(names) == 1 else 0
            if names and all(self._full(name, taken.get(name, 0) + ahead) for name in names):
                raise LimitReached(f"trunk {', '.join(names)}: as many calls as max_calls are up")

    def take_turn(self, cursor: Cursor, order: Order, side: Side, trunk: str | None) -> float:
        """How many seconds the dial has to wait. Raises `LimitReached` if the trunk has no call or no turn left."""
        quota = self._quota.trunks.get(trunk or "")
        if trunk is None or quota is None or order.test:
            return 0.0
        self._lock(cursor, quota.max_calls, quota.calls_per_second)
        if self._full(trunk, self._calls(cursor, trunk, order, side)):
            raise LimitReached(f"trunk {trunk} has {quota.max_calls} calls up, as many as its max_calls", trunk=trunk)
        if quota.calls_per_second is None:
            return 0.0
        self._pace.run(cursor, {"of": trunk})
        now, next_at = (_moment(value) for value in cursor.fetchone())
        assert now is not None
        reserved = turn(next_at, now, quota)
        if reserved is None:
            raise LimitReached(
                f"trunk {trunk} has no turn within {quota.max_wait_s:g} s at its calls_per_second", trunk=trunk
            )
        wait_s, after = reserved
        self._set_pace.run(cursor, {"trunk": trunk, "next_at": after})
        return wait_s

    def _lock(self, cursor: Cursor, *limits: object) -> None:
        """
        Let nobody else count until this transaction is over, if anything is limited.

        One lock for all: several, taken in whatever order a batch has, would wait for each other.
        """
        if self._locks and any(limit is not None for limit in limits):
            cursor.execute(f"SELECT pg_advisory_xact_lock({LOCK})")

    def _full(self, trunk: str, calls: int) -> bool:
        quota = self._quota.trunks.get(trunk)
        return quota is not None and quota.max_calls is not None and calls >= quota.max_calls

    def _calls(self, cursor: Cursor, trunk: str, order: Order | None = None, side: Side = Side.A) -> int:
        """How many calls `trunk` has up, beside that of this leg."""
        quota = self._quota.trunks.get(trunk)
        if quota is None or quota.max_calls is None:
            return 0
        self._count_calls.run(cursor, {"by": trunk, "but": "" if order is None else order.id, "which": side.value})
        return int(cursor.fetchone()[0])


def _moment(value: Any) -> datetime | None:
    return Moment().process_result_value(value, sqlite.dialect())


_ONE = literal_column("1", Integer)
_ZERO = literal_column("0", Integer)
_ENDED: ColumnElement[str] = literal_column(f"'{LegState.ENDED.value}'")


def _count_open() -> Any:
    """All open connections that a node has begun, trial runs left out, and those with each of two numbers."""

    def with_number(name: str) -> Any:
        number = bindparam(name, type_=connection.c.first.type)
        return func.sum(case(((connection.c.first == number) | (connection.c.second == number), _ONE), else_=_ZERO))

    return select(func.count(), with_number("first_number"), with_number("second_number")).where(
        connection.c.outcome.is_(None), connection.c.owner.is_not(None), connection.c.test.is_(false())
    )


def _count_calls() -> Any:
    """
    The legs of open connections that were dialled by this trunk, were not dialled again since, and have not ended.

    The intent counts before the leg's own state is written; so a trunk never gets more than it takes.
    """
    later = dial_attempt.alias("later")
    again = (
        select(_ONE)
        .where(
            later.c.connection_id == dial_attempt.c.connection_id,
            later.c.side == dial_attempt.c.side,
            later.c.attempt > dial_attempt.c.attempt,
        )
        .exists()
    )
    this_leg = (dial_attempt.c.connection_id == bindparam("but")) & (dial_attempt.c.side == bindparam("which"))
    # Asked for by themselves, and not as one more join: SQLite would begin with every dial that there ever was.
    are_open = select(connection.c.id).where(connection.c.outcome.is_(None))
    return (
        select(func.count())
        .select_from(dial_attempt)
        .join(leg, (leg.c.connection_id == dial_attempt.c.connection_id) & (leg.c.side == dial_attempt.c.side))
        .where(
            dial_attempt.c.connection_id.in_(are_open),
            dial_attempt.c.trunk == bindparam("by"),
            leg.c.state != _ENDED,
            ~again,
            ~this_leg,
        )
    )


def _is_listed() -> Any:
    return select(_ONE).where(do_not_call.c.number == bindparam("wanted"))


def _pace() -> Any:
    of_trunk = select(trunk_pace.c.next_at).where(trunk_pace.c.trunk == bindparam("of")).scalar_subquery()
    return select(database_now(), of_trunk)


def _set_pace(dialect: Dialect) -> Any:
    values = {name: bindparam(name, type_=trunk_pace.c[name].type) for name in ("trunk", "next_at")}
    if dialect.name == "postgresql":
        new = postgresql.insert(trunk_pace).values(**values)
        return new.on_conflict_do_update(index_elements=["trunk"], set_={"next_at": new.excluded.next_at})
    row = sqlite.insert(trunk_pace).values(**values)
    return row.on_conflict_do_update(index_elements=["trunk"], set_={"next_at": row.excluded.next_at})
