"""
Minutes and money of a day: reserved at their most in the transaction that begins a connection, and given back in the
one that writes its outcome.

Both counters stand in `spent`, so all nodes share them; what each open connection has reserved stands in `reserved`,
with the prices that it was reserved at, so that any node settles it, by whatever rate table. Where they can't be
counted nothing begins, and what was never settled stays spent until the day (UTC) is over.
"""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Dialect, bindparam, case, delete, literal_column, select, update
from sqlalchemy.dialects import postgresql, sqlite

from dosvoces.core import Connection, Leg
from dosvoces.dialplan.rates import FREE, MILLION, Rate, Rates
from dosvoces.errors import CeilingReached, NoRate
from dosvoces.model import Alarm, ConnectionId, Order, mask_number
from dosvoces.store.ceilings import ALARMS, DAY, LOCK, window_start
from dosvoces.store.clock import database_now
from dosvoces.store.prepared import Cursor, Prepared
from dosvoces.store.tables import Moment, reserved, spent

MINUTES, MONEY = "minutes/day", "money/day"
"""The counters: of seconds, and of millionths of the currency."""
GIVEN_BACK_RETRY_S = 60
"""When to ask again while connections are open that may give something back."""
FULL = 100  # per cent


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be spent in a day, of both legs together; `None`: as much as there is."""

    seconds_per_day: int | None = None
    money_per_day: int | None = None
    """In millionths of the currency; needs `rates`."""
    rates: Rates | None = None
    talk_limit_s: float = 3600.0
    """The longest conversation of an order that names none, or a longer one."""

    def __bool__(self) -> bool:
        return self.seconds_per_day is not None or self.money_per_day is not None


NO_BUDGET = Budget()


class Counter(NamedTuple):
    """How one of the two stands, and what is to be added to it."""

    name: str
    most: int
    used: int
    """Before."""
    alarmed: int
    """The highest of `ALARMS` that was told this day."""
    more: int

    @property
    def after(self) -> int:
        return self.used + self.more


@dataclass(frozen=True, slots=True)
class Reservation:
    """What one connection may use at most."""

    day: datetime
    """When the day began that it counts in."""
    seconds: int
    """Of both legs together."""
    money: int
    first: Rate
    second: Rate
    counters: tuple[Counter, ...]


class BudgetCounts:
    """The counters, for one dialect. Nothing set costs nothing."""

    def __init__(self, dialect: Dialect, budget: Budget) -> None:
        self._budget = budget
        self._locks = dialect.name == "postgresql"
        self._now = Prepared(select(database_now()), dialect)
        self._read = Prepared(_read(), dialect)
        self._write = Prepared(_write(dialect), dialect)
        self._reserve = Prepared(_reserve(dialect), dialect)
        self._reserved = Prepared(_reserved(), dialect)
        self._any_reserved = Prepared(_any_reserved(), dialect)
        self._release = Prepared(delete(reserved).where(reserved.c.connection_id == bindparam("of")), dialect)
        self._give_back = Prepared(_give_back(), dialect)
        self._full_told: dict[str, datetime] = {}
        """Of which day this node has told that somebody was refused, by counter."""

    def admit(self, cursor: Cursor, order: Order) -> Reservation | None:
        """
        What `charge` is to reserve if `order` is begun. Raises `NoRate` if nobody knows what it costs, and
        `CeilingReached` if it could use more than is left.
        """
        if not self._budget or order.test:
            return None
        first, second = self._rate(order, second=False), self._rate(order, second=True)
        self._lock(cursor)
        self._reserved.run(cursor, {"of": order.id})
        if cursor.fetchone() is not None:
            return None  # A claim whose commit was in doubt: it has what it needs.
        limit_s = self._budget.talk_limit_s
        talk_s = math.ceil(limit_s if order.talk_limit_s is None else min(limit_s, order.talk_limit_s))
        seconds, money = 2 * talk_s, first.cost(talk_s) + second.cost(talk_s)
        now, day, rows = self._today(cursor)
        counters = tuple(
            Counter(name, most, *rows.get(name, (0, 0)), more)
            for name, most, more in (
                (MINUTES, self._budget.seconds_per_day, seconds),
                (MONEY, self._budget.money_per_day, money),
            )
            if most is not None
        )
        for counter in counters:
            if counter.after > counter.most:
                self._tell_full(order, counter, day)
                raise self._reached(cursor, counter, day, now)
        return Reservation(day, seconds, money, first, second, counters)

    def charge(self, cursor: Cursor, order: Order, reservation: Reservation | None) -> None:
        """Reserve it, in the transaction that `admit` looked in."""
        if reservation is None:
            return
        of, alarms = reservation, order.asker.alarms
        # A transaction whose commit was in doubt is run again.
        alarms[:] = [alarm for alarm in alarms if alarm.ceiling not in (_named(MINUTES), _named(MONEY))]
        for counter in of.counters:
            percent = max((each for each in ALARMS if counter.after * 100 >= counter.most * each), default=0)
            if percent > counter.alarmed:
                alarms.append(_alarm(counter, percent, counter.after))
            alarmed = max(percent, counter.alarmed)
            row = {"counter": counter.name, "since": of.day, "used": counter.after, "alarmed": alarmed}
            self._write.run(cursor, row)
        self._reserve.run(
            cursor,
            {
                "connection_id": order.id,
                "day": of.day,
                "seconds": of.seconds,
                "money": of.money,
                "first_minute": of.first.minute,
                "first_setup": of.first.setup,
                "second_minute": of.second.minute,
                "second_setup": of.second.setup,
            },
        )

    def settle(self, cursor: Cursor, connection_id: ConnectionId, state: Connection, at: datetime) -> None:
        """Put what was used in the place of what was reserved; a second time changes nothing."""
        if not self._budget:
            return
        self._lock(cursor)
        self._reserved.run(cursor, {"of": connection_id})
        found = cursor.fetchone()
        if found is None:
            return
        self._release.run(cursor, {"of": connection_id})
        seconds = money = 0
        for leg, minute, setup in ((state.a, found[3], found[4]), (state.b, found[5], found[6])):
            if leg.answered_at is not None:
                talked_s = _lasted_s(leg, at)
                seconds += talked_s
                money += Rate(int(minute), int(setup)).cost(talked_s)
        day = _moment(found[0])
        # A day that is over is nobody's any more.
        self._give_back.run(cursor, {"of": MINUTES, "day": day, "back": int(found[1]) - seconds})
        self._give_back.run(cursor, {"of": MONEY, "day": day, "back": int(found[2]) - money})

    def _rate(self, order: Order, *, second: bool) -> Rate:
        if self._budget.money_per_day is None:
            return FREE
        number = (order.second if second else order.first).e164
        rate = None if self._budget.rates is None else self._budget.rates.of(number)
        if rate is None:
            raise NoRate(f"{mask_number(number)} has no rate in [limits] rates_file", second=second)
        return rate

    def _lock(self, cursor: Cursor) -> None:
        """The same one as all that is counted, and before any counter is touched: nobody waits for each other."""
        if self._locks:
            cursor.execute(f"SELECT pg_advisory_xact_lock({LOCK})")

    def _today(self, cursor: Cursor) -> tuple[datetime, datetime, dict[str, tuple[int, int]]]:
        """The database's clock, when the day began, and both counters' use and alarm in it."""
        self._now.run(cursor, {})
        now = _moment(cursor.fetchone()[0])
        assert now is not None
        day, rows = window_start(DAY, now), {}
        self._read.run(cursor, {"minutes": MINUTES, "money": MONEY})
        while (row := cursor.fetchone()) is not None:
            since = _moment(row[1])
            # A clock that was set back counts on in what it has left.
            if since is not None and since >= day:
                day = since
                rows[row[0]] = (int(row[2]), int(row[3]))
        return now, day, rows

    def _reached(self, cursor: Cursor, counter: Counter, day: datetime, now: datetime) -> CeilingReached:
        if counter.name == MINUTES:
            setting, unit = "minutes_per_day", "minutes"
        else:
            setting, unit = "budget_per_day", "" if self._budget.rates is None else self._budget.rates.currency
        what = f"{_shown(counter, counter.used)} of {_shown(counter, counter.most)} {unit}"
        self._any_reserved.run(cursor, {"day": day})
        left_s = max(1, math.ceil((day + timedelta(days=1) - now).total_seconds()))
        retry_after_s = left_s if cursor.fetchone() is None else min(left_s, GIVEN_BACK_RETRY_S)
        return CeilingReached(
            f"the service has used or reserved {what} this day (UTC), and this connection may take up to "
            f"{_shown(counter, counter.more)} more, for which [limits] {setting} has no room",
            retry_after_s=retry_after_s,
        )

    def _tell_full(self, order: Order, counter: Counter, day: datetime) -> None:
        """Whoever is refused writes nothing, so that each node tells once a day what wasn't told with a charge."""
        if counter.alarmed < FULL and self._full_told.get(counter.name) != day:
            self._full_told[counter.name] = day
            order.asker.alarms.append(_alarm(counter, FULL, counter.used))


def _lasted_s(leg: Leg, at: datetime) -> int:
    """Whole seconds from the answer to the end, begun ones too."""
    assert leg.answered_at is not None
    return max(0, math.ceil(((leg.ended_at or at) - leg.answered_at).total_seconds()))


def _shown(counter: Counter, value: int) -> int | float:
    """For people: minutes, or the currency's units."""
    return round(value / 60, 1) if counter.name == MINUTES else round(value / MILLION, 2)


def _named(counter: str) -> str:
    """`minutes-day`, as an alarm has it."""
    return counter.replace("/", "-")


def _alarm(counter: Counter, percent: int, used: int) -> Alarm:
    return Alarm(_named(counter.name), "", percent, _shown(counter, used), _shown(counter, counter.most))


def _moment(value: Any) -> datetime | None:
    return Moment().process_result_value(value, sqlite.dialect())


def _read() -> Any:
    names = [bindparam(name, type_=spent.c.counter.type) for name in ("minutes", "money")]
    return select(spent.c.counter, spent.c.since, spent.c.used, spent.c.alarmed).where(spent.c.counter.in_(names))


def _write(dialect: Dialect) -> Any:
    """As it was read and reckoned, under the lock."""
    insert = postgresql.insert if dialect.name == "postgresql" else sqlite.insert
    names = ("counter", "since", "used", "alarmed")
    new = insert(spent).values(**{name: bindparam(name, type_=spent.c[name].type) for name in names})
    return new.on_conflict_do_update(
        index_elements=["counter"], set_={name: new.excluded[name] for name in names if name != "counter"}
    )


def _reserve(dialect: Dialect) -> Any:
    insert = postgresql.insert if dialect.name == "postgresql" else sqlite.insert
    return insert(reserved).values(**{column.name: bindparam(column.name, type_=column.type) for column in reserved.c})


def _reserved() -> Any:
    c = reserved.c
    columns = (c.day, c.seconds, c.money, c.first_minute, c.first_setup, c.second_minute, c.second_setup)
    return select(*columns).where(c.connection_id == bindparam("of"))


def _any_reserved() -> Any:
    this_day = reserved.c.day == bindparam("day", type_=reserved.c.day.type)
    return select(literal_column("1")).where(select(reserved.c.day).where(this_day).exists())


def _give_back() -> Any:
    """`back` is below 0 where more was used than reserved. Never below 0, whatever happened to the counter."""
    left = spent.c.used - bindparam("back", type_=spent.c.used.type)
    zero = literal_column("0", BigInteger)
    return (
        update(spent)
        .where(spent.c.counter == bindparam("of"), spent.c.since == bindparam("day", type_=spent.c.since.type))
        .values(used=case((left > zero, left), else_=zero))
    )
