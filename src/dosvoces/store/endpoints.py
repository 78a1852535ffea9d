"""How the receivers of webhooks fare, and what they are told once more: beside the record's writer, as the keys go."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import Connection, and_, delete, exists, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite

from dosvoces.store.audit import write_act
from dosvoces.store.beside import Beside
from dosvoces.store.clock import database_now
from dosvoces.store.database import Database
from dosvoces.store.keys import Act
from dosvoces.store.reports import Delivery, DeliveryState
from dosvoces.store.sql_reports import delivery_of
from dosvoces.store.tables import delivery, report, webhook_endpoint

WEBHOOK = "webhook:"
"""What the target of a delivery to an endpoint begins with; its name follows."""
DUE_AGO = timedelta(minutes=1)
"""What is to be told at once is due since then, so that every node's next sweep takes it up."""
BATCH = 1000


@dataclass(frozen=True, slots=True)
class EndpointState:
    """How an endpoint fares, on all nodes together. There is none of one that takes what it is told."""

    name: str
    failing_since: datetime | None
    """Since when it has taken nothing, from its first failure on."""
    disabled_at: datetime | None
    """Since when nothing is tried there."""
    why: str
    """The last failure in words."""


class Endpoints(Beside):
    """
    The endpoints' states, and replays.

    - *shared*: what one node finds out, all go by.
    - *written with its audit*: disabling, enabling and replaying stand in the record with who did it, or not at all.
    - *errors are ours*: callers see `StoreError`.
    """

    def __init__(self, database: Database) -> None:
        super().__init__(database, "webhook endpoints")

    async def states(self) -> Mapping[str, EndpointState]:
        """Of those that fail or are disabled, by name."""
        return await self._ask(_states)

    async def failed(self, name: str, *, why: str, limit: timedelta, by: str) -> bool:
        """Note a failure; disable what has failed for `limit` (zero: at once). Whether it is disabled by this one."""
        return await self._do(partial(_failed, name=name, why=why, limit=limit, by=by))

    async def taken(self, name: str) -> None:
        """Note that it takes what it is told. What is disabled stays so until a person enables it."""
        await self._do(partial(_taken, name=name))

    async def enable(self, name: str, *, by: str) -> bool:
        """Let it be told again, first of all what waits for it; whether it was disabled."""
        return await self._do(partial(_enable, name=name, by=by))

    async def replay(self, deliveries: Sequence[Delivery], *, by: str) -> int:
        """
        Have these told once more, under the same id, with the same body and as many tries as the first time.

        Returns how many; what waits is left as it is, and so is what has no body any more.
        """
        return await self._do(partial(_replay, deliveries=deliveries, by=by)) if deliveries else 0

    async def failed_since(self, since: datetime, name: str | None = None) -> Sequence[Delivery]:
        """What happened since then and was refused or abandoned, by all or one: at most `BATCH`, the oldest first."""
        return await self._ask(partial(_failed_since, since=since, name=name))


def _states(db: Connection) -> dict[str, EndpointState]:
    rows = db.execute(select(webhook_endpoint))
    return {row.name: EndpointState(row.name, row.failing_since, row.disabled_at, row.why) for row in rows}


def _failed(db: Connection, name: str, why: str, limit: timedelta, by: str) -> bool:
    insert = postgresql.insert if db.dialect.name == "postgresql" else sqlite.insert
    now, c = _now(db), webhook_endpoint.c
    db.execute(insert(webhook_endpoint).values(name=name, failing_since=now, why=why).on_conflict_do_nothing())
    db.execute(update(webhook_endpoint).where(c.name == name, c.disabled_at.is_(None)).values(why=why))
    long = and_(c.name == name, c.disabled_at.is_(None), c.failing_since <= now - limit)
    if not db.execute(update(webhook_endpoint).where(long).values(disabled_at=now)).rowcount:
        return False
    write_act(db, Act(by, "webhook.disable", name, {"why": why}))
    return True


def _taken(db: Connection, name: str) -> None:
    c = webhook_endpoint.c
    db.execute(delete(webhook_endpoint).where(c.name == name, c.disabled_at.is_(None)))


def _enable(db: Connection, name: str, by: str) -> bool:
    c, d = webhook_endpoint.c, delivery.c
    if not db.execute(delete(webhook_endpoint).where(c.name == name, c.disabled_at.is_not(None))).rowcount:
        return False
    waits = and_(d.target == f"{WEBHOOK}{name}", d.state == DeliveryState.WAITING.value)
    # What a node is just writing about is in hand there: to wait for it could be to wait for each other.
    free = select(d.connection_id, d.number, d.target).where(waits).with_for_update(skip_locked=True)
    key = tuple_(d.connection_id, d.number, d.target)
    resumed = db.execute(update(delivery).where(key.in_(free), waits).values(_anew(db))).rowcount
    write_act(db, Act(by, "webhook.enable", name, {"resumed": resumed}))
    return True


def _replay(db: Connection, deliveries: Sequence[Delivery], by: str) -> int:
    d, anew, told = delivery.c, _anew(db), 0
    of_it = and_(report.c.connection_id == d.connection_id, report.c.number == d.number, report.c.body.is_not(None))
    for one in deliveries:
        this = and_(d.connection_id == one.connection_id, d.number == one.number, d.target == one.target)
        over = d.state != DeliveryState.WAITING.value
        if db.execute(update(delivery).where(this, over, exists().where(of_it)).values(anew)).rowcount:
            told += 1
            facts: dict[str, Any] = {"endpoint": one.target.removeprefix(WEBHOOK), "was": one.state.value}
            write_act(db, Act(by, "webhook.replay", f"{one.connection_id}.{one.number}", facts))
    return told


def _failed_since(db: Connection, since: datetime, name: str | None) -> list[Delivery]:
    d = delivery.c
    whose = d.target.startswith(WEBHOOK) if name is None else d.target == f"{WEBHOOK}{name}"
    failed = d.state.in_([DeliveryState.REFUSED.value, DeliveryState.ABANDONED.value])
    found = (
        select(delivery, report.c.event, report.c.at)
        .join(report, and_(report.c.connection_id == d.connection_id, report.c.number == d.number))
        .where(failed, whose, report.c.at >= since, report.c.body.is_not(None))
        .order_by(d.connection_id, d.number, d.target)
        .limit(BATCH)
    )
    return [delivery_of(row) for row in db.execute(found)]


def _anew(db: Connection) -> dict[str, Any]:
    return {"state": DeliveryState.WAITING.value, "tries": 0, "next_at": _now(db) - DUE_AGO}


def _now(db: Connection) -> datetime:
    now: datetime = db.execute(select(database_now())).scalar_one()
    return now
