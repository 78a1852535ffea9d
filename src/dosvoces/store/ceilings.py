"""
Ceilings: how much may be asked for in an hour and in a day, counted in the transaction that begins a connection.

The counters stand in the record, so that all nodes share them, they are exact, and where they can't be counted nothing
begins. An hour and a day are those of UTC, by the database's clock. A connection that waits counts when it begins.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Dialect, Integer, bindparam, case, func, literal_column, select
from sqlalchemy.dialects import postgresql, sqlite

from dosvoces.errors import CeilingReached
from dosvoces.model import Alarm, Asker, Order, Standing, mask_email, mask_number
from dosvoces.store.clock import database_now
from dosvoces.store.prepared import Cursor, Prepared
from dosvoces.store.tables import Moment, connection, spent

LOCK = 0x44564F43_0002
"""Key of the advisory lock on PostgreSQL, the same for all that is counted: `DVOC`."""
OPEN_RETRY_S = 5
"""When to ask again where only so many may be open: nobody knows when one of them ends."""

ALARMS = (50, 80, 100)
"""At so many per cent of a ceiling an operator is told."""

HOUR, DAY = "hour", "day"
_LENGTH = {HOUR: timedelta(hours=1), DAY: timedelta(days=1)}


@dataclass(frozen=True, slots=True)
class Most:
    """The most in an hour and in a day; `None`: no ceiling."""

    per_hour: int | None = None
    per_day: int | None = None

    def __bool__(self) -> bool:
        return self.per_hour is not None or self.per_day is not None


NO_CEILING = Most()


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What the settings allow."""

    calls: Most = NO_CEILING
    """Connections, of everybody together."""
    key: Most = NO_CEILING
    """Connections that one API key asks for; without keys, everybody is one."""
    key_max_open: int | None = None
    """Connections of one API key that are open at once."""
    source: Most = NO_CEILING
    """Connections that one network address asks for."""
    number: Most = NO_CEILING
    """Connections in which one number is called."""
    recipient: Most = NO_CEILING
    """Mails to one mailbox."""
    domain: Most = NO_CEILING
    """Mails to one domain."""

    def __bool__(self) -> bool:
        windows = (self.calls, self.key, self.source, self.number, self.recipient, self.domain)
        return any(windows) or self.key_max_open is not None


NO_CEILINGS = Ceilings()


class Counted(NamedTuple):
    """One ceiling as it stands for one order."""

    kind: str
    """`calls key source number recipient domain`"""
    window: str
    subject: str
    most: int
    setting: str
    """What sets it, for people."""
    who: str
    """Whom it is about, for people; masked."""

    @property
    def what(self) -> str:
        return "mails" if self.kind in ("recipient", "domain") else "calls"

    @property
    def counter(self) -> str:
        return f"{self.kind}/{self.window} {self.subject}".rstrip()


def counted(ceilings: Ceilings, order: Order) -> Iterator[Counted]:
    """All that an order counts against; a trial run uses up nobody's ceilings but its own key's."""
    asker, mailbox = order.asker, order.lead.email.lower()
    domain = mailbox.rpartition("@")[2]
    yield from _of_key(ceilings.key, asker)
    if order.test:
        return
    yield from _each("calls", "", ceilings.calls, "the service")
    if asker.source:
        yield from _each("source", asker.source, ceilings.source, "this network address")
    for number in {order.first.e164, order.second.e164} if ceilings.number else ():
        yield from _each("number", number, ceilings.number, mask_number(number))
    if not order.mailed:  # What it begins anew has counted its mail.
        yield from _each("recipient", mailbox, ceilings.recipient, mask_email(mailbox))
        yield from _each("domain", domain, ceilings.domain, f"the domain {domain}")


def _each(kind: str, subject: str, most: Most, who: str) -> Iterator[Counted]:
    what = "mails" if kind in ("recipient", "domain") else "calls"
    prefix = "" if kind == "calls" else f"{kind}_"
    for window, value in ((HOUR, most.per_hour), (DAY, most.per_day)):
        if value is not None:
            yield Counted(kind, window, subject, value, f"[limits] {prefix}{what}_per_{window}", who)


def _of_key(most: Most, asker: Asker) -> Iterator[Counted]:
    own = asker.limits
    for window, value in ((HOUR, most.per_hour), (DAY, most.per_day)):
        name = f"calls_per_{window}"
        if name in own:
            yield Counted("key", window, asker.key, int(own[name]), f"its own {name}", "this API key")
        elif value is not None:
            yield Counted("key", window, asker.key, value, f"[limits] key_{name}", "this API key")


def window_start(window: str, now: datetime) -> datetime:
    """When the hour or day began in which `now` is: UTC."""
    start = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    return start if window == HOUR else start.replace(hour=0)


@dataclass(slots=True)
class Tally:
    """What is to be counted once the order is in the record."""

    now: datetime
    due: Sequence[Counted] = ()
    used: Mapping[str, int] = field(default_factory=dict)
    """Before, by counter."""


class CeilingCounts:
    """The counters, for one dialect. Nothing set costs nothing."""

    def __init__(self, dialect: Dialect, ceilings: Ceilings) -> None:
        self._ceilings = ceilings
        self._dialect = dialect
        self._locks = dialect.name == "postgresql"
        self._now = Prepared(select(database_now()), dialect)
        self._open = Prepared(_open_of_key(), dialect)
        self._add = Prepared(_add(dialect), dialect)
        self._read: dict[int, Prepared] = {}
        """By how many counters are asked for."""

    def admit(self, cursor: Cursor, order: Order) -> Tally | None:
        """What `charge` is to count if `order` is begun. Raises `CeilingReached` if it may not be."""
        if not self._ceilings and not order.asker.limits:
            return None
        if self._locks:
            cursor.execute(f"SELECT pg_advisory_xact_lock({LOCK})")
        self._admit_open(cursor, order.asker)
        due = list(counted(self._ceilings, order))
        now = self._database_now(cursor)
        tally = Tally(now, due, self._used(cursor, due, now))
        full = [each for each in due if tally.used[each.counter] + 1 > each.most]
        stand = _standing(tally, added=0)
        if full:
            # The one that lasts longest: whoever asks again before that is refused again.
            last = max(full, key=lambda each: _left_s(each.window, now))
            order.asker.standing[:] = stand
            raise CeilingReached(
                f"{last.who} has had {tally.used[last.counter]} {last.what} this {last.window} (UTC), as many as "
                f"{last.setting} allows",
                retry_after_s=_left_s(last.window, now),
            )
        return tally

    def charge(self, cursor: Cursor, order: Order, tally: Tally | None) -> None:
        """Count it, in the transaction that `admit` looked in."""
        if tally is None:
            return
        for each in sorted(tally.due, key=lambda each: each.counter):
            row = {"counter": each.counter, "since": window_start(each.window, tally.now), "used": 1}
            self._add.run(cursor, row)
        order.asker.standing[:] = _standing(tally, added=1)
        order.asker.alarms[:] = _alarms(tally)

    def _admit_open(self, cursor: Cursor, asker: Asker) -> None:
        most = asker.limits.get("max_open", self._ceilings.key_max_open)
        if most is None:
            return
        self._open.run(cursor, {"by": asker.key})
        up = int(cursor.fetchone()[0])
        if up >= int(most):
            setting = "its own max_open" if "max_open" in asker.limits else "[limits] key_max_open"
            raise CeilingReached(
                f"this API key has {up} connections open, as many as {setting} allows", retry_after_s=OPEN_RETRY_S
            )

    def _database_now(self, cursor: Cursor) -> datetime:
        self._now.run(cursor, {})
        now = _moment(cursor.fetchone()[0])
        assert now is not None
        return now

    def _used(self, cursor: Cursor, due: Sequence[Counted], now: datetime) -> dict[str, int]:
        """How much of each is used up in its hour or day."""
        windows = {each.counter: each.window for each in due}
        used = dict.fromkeys(windows, 0)
        if not windows:
            return used
        read = self._read.setdefault(len(windows), Prepared(_read(len(windows)), self._dialect))
        read.run(cursor, {f"c{index}": counter for index, counter in enumerate(windows)})
        while (row := cursor.fetchone()) is not None:
            since = _moment(row[1])
            # A clock that was set back counts on in what it has left.
            if since is not None and since >= window_start(windows[row[0]], now):
                used[row[0]] = int(row[2])
        return used


def _left_s(window: str, now: datetime) -> int:
    """Whole seconds until it is counted anew, at least 1."""
    return max(1, math.ceil((window_start(window, now) + _LENGTH[window] - now).total_seconds()))


def _standing(tally: Tally, added: int) -> list[Standing]:
    """What the client itself may know: how it stands, not how others do."""
    return [
        Standing(
            f"{each.kind}-{each.window}",
            each.most,
            int(_LENGTH[each.window].total_seconds()),
            max(0, each.most - tally.used[each.counter] - added),
            _left_s(each.window, tally.now),
        )
        for each in tally.due
        if each.kind in ("key", "source")
    ]


def _alarms(tally: Tally) -> list[Alarm]:
    """
    What was reached with this one: each is reached once in its hour or day, as they are counted one by one.

    Of everybody's and the keys' ceilings alone: that somebody is called three times a day is no alarm.
    """
    alarms = []
    for each in tally.due:
        used = tally.used[each.counter] + 1
        reached = [percent for percent in ALARMS if used == math.ceil(each.most * percent / 100)]
        if reached and each.kind in ("calls", "key"):
            alarms.append(Alarm(f"{each.kind}-{each.window}", each.subject, reached[-1], used, each.most))
    return alarms


def _moment(value: Any) -> datetime | None:
    return Moment().process_result_value(value, sqlite.dialect())


_ONE = literal_column("1", Integer)


def _open_of_key() -> Any:
    """Begun and not over: what waits for a node isn't open yet."""
    mine = connection.c.asked_by == bindparam("by")
    return select(func.count(_ONE)).where(connection.c.outcome.is_(None), connection.c.owner.is_not(None), mine)


def _read(count: int) -> Any:
    counters = [bindparam(f"c{index}", type_=spent.c.counter.type) for index in range(count)]
    return select(spent.c.counter, spent.c.since, spent.c.used).where(spent.c.counter.in_(counters))


def _add(dialect: Dialect) -> Any:
    """Begins a counter anew whose hour or day is over."""
    insert = postgresql.insert if dialect.name == "postgresql" else sqlite.insert
    values = {name: bindparam(name, type_=spent.c[name].type) for name in ("counter", "since", "used")}
    new = insert(spent).values(**values)
    goes_on = spent.c.since >= new.excluded.since
    return new.on_conflict_do_update(
        index_elements=["counter"],
        set_={
            "used": case((goes_on, spent.c.used + new.excluded.used), else_=new.excluded.used),
            "since": case((goes_on, spent.c.since), else_=new.excluded.since),
        },
    )
