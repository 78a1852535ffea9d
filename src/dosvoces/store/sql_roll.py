"""The roll in a SQL database, behind its port."""

from datetime import timedelta
from functools import partial
from typing import Any

from sqlalchemy import Connection, Row, delete, exists, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.elements import ColumnElement

from dosvoces.model import ConnectionId, NodeId
from dosvoces.store.audit import write_act
from dosvoces.store.beside import Beside
from dosvoces.store.clock import database_now
from dosvoces.store.database import Database
from dosvoces.store.keys import Act
from dosvoces.store.roll import Glance, Identity, Node, Roll, Sign, Stopped
from dosvoces.store.tables import connection, node, stopped


class SqlRoll(Beside, Roll):
    """The roll. Used from one event loop."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, "roll")

    async def open(self) -> None:
        await self._do(lambda db: None)

    async def join(self, node: Identity) -> None:
        await self._do(partial(_join, identity=node))

    async def beat(self, node: NodeId, sign: Sign) -> bool:
        return await self._do(partial(_beat, of=node, sign=sign))

    async def look(self, node: NodeId | None = None) -> Glance:
        return await self._ask(partial(_look, of=node))

    async def inherit(self, dead: Node, heir: NodeId) -> bool:
        return await self._do(partial(_inherit, dead=dead, heir=heir))

    async def retire(self, heir: NodeId) -> None:
        await self._do(partial(_forget, which=node.c.heir == heir))

    async def leave(self, node_id: NodeId) -> None:
        await self._do(partial(_forget, which=node.c.id == node_id))

    async def ask_to_drain(self, node: NodeId, *, by: str, limit_s: float | None) -> None:
        await self._do(partial(_ask_to_drain, of=node, by=by, limit_s=limit_s))

    async def note_hangup(self, connection_id: ConnectionId, *, who: str) -> None:
        await self._do(partial(write_act, act=_hangup(who, connection_id)))

    async def ask_to_cancel(self, connection_id: ConnectionId, *, by: str, who: str = "") -> bool | None:
        return await self._do(partial(_ask_to_cancel, connection_id=connection_id, by=by, who=who or by))

    async def stop_calls(self, *, by: str) -> bool:
        return await self._do(partial(_stop_calls, by=by))

    async def resume_calls(self, *, by: str) -> bool:
        return await self._do(partial(_resume_calls, by=by))


# --- one function a question or change, inside a transaction ---


def _join(db: Connection, identity: Identity) -> None:
    now = database_now()
    db.execute(insert(node).values(**_columns(identity), url="", started_at=now, beat_at=now))


def _columns(identity: Identity) -> dict[str, Any]:
    return {name: getattr(identity, name) for name in Identity.__dataclass_fields__}


def _beat(db: Connection, of: NodeId, sign: Sign) -> bool:
    beaten = db.execute(
        update(node)
        .where(node.c.id == of, node.c.heir.is_(None))
        .values(beat_at=database_now(), open_connections=sign.open_connections, draining=sign.draining, url=sign.url)
    )
    return beaten.rowcount == 1


def _look(db: Connection, of: NodeId | None) -> Glance:
    now = db.execute(select(database_now())).scalar_one()
    nodes = tuple(_node(row) for row in db.execute(select(node).order_by(node.c.id)))
    row = db.execute(select(stopped.c.at, stopped.c.by)).first()
    stop = None if row is None else Stopped(row.at, row.by)
    if of is None:
        return Glance(now, nodes, stopped=stop)
    wanted = db.execute(
        select(connection.c.id, connection.c.cancel_by).where(
            # What waits is nobody's, so that any node does it.
            (connection.c.owner == of) | connection.c.owner.is_(None),
            connection.c.outcome.is_(None),
            connection.c.cancel_by.is_not(None),
        )
    )
    return Glance(now, nodes, tuple((ConnectionId(row.id), row.cancel_by) for row in wanted), stop)


def _stop_calls(db: Connection, by: str) -> bool:
    new = postgresql.insert if db.dialect.name == "postgresql" else sqlite.insert
    row = new(stopped).values(number=1, at=database_now(), by=by).on_conflict_do_nothing()
    if not db.execute(row).rowcount:
        return False
    write_act(db, Act(by, "calls.stop", ""))
    return True


def _resume_calls(db: Connection, by: str) -> bool:
    if not db.execute(delete(stopped)).rowcount:
        return False
    write_act(db, Act(by, "calls.resume", ""))
    return True


def _node(row: Row[Any]) -> Node:
    return Node(
        identity=Identity(
            id=NodeId(row.id),
            name=row.name,
            host=row.host,
            pid=row.pid,
            born=row.born,
            place=row.place,
            version=row.version,
            capacity=row.capacity,
        ),
        sign=Sign(open_connections=row.open_connections, draining=row.draining, url=row.url),
        started_at=row.started_at,
        beat_at=row.beat_at,
        drain_by=row.drain_by,
        drain_until=row.drain_until,
        heir=None if row.heir is None else NodeId(row.heir),
    )


def _inherit(db: Connection, dead: Node, heir: NodeId) -> bool:
    # As it was seen: a node that beat since lives, and one that has another heir by now is in good hands.
    as_seen = node.c.heir.is_(None) if dead.heir is None else node.c.heir == dead.heir
    taken = db.execute(
        update(node).where(node.c.id == dead.id, node.c.beat_at == dead.beat_at, as_seen).values(heir=heir)
    )
    if taken.rowcount != 1:
        return False
    db.execute(
        update(connection).where(connection.c.owner == dead.id, connection.c.outcome.is_(None)).values(owner=heir)
    )
    return True


def _forget(db: Connection, which: ColumnElement[bool]) -> None:
    owns = exists().where(connection.c.owner == node.c.id, connection.c.outcome.is_(None))
    db.execute(delete(node).where(which, ~owns))


def _ask_to_drain(db: Connection, of: NodeId, by: str, limit_s: float | None) -> None:
    until = None
    if limit_s is not None:
        until = db.execute(select(database_now())).scalar_one() + timedelta(seconds=limit_s)
    db.execute(update(node).where(node.c.id == of).values(drain_by=by, drain_until=until))
    write_act(db, Act(by, "node.drain", of, {"limit_s": limit_s}))


def _hangup(who: str, connection_id: ConnectionId) -> Act:
    return Act(who, "connection.hangup", connection_id)


def _ask_to_cancel(db: Connection, connection_id: ConnectionId, by: str, who: str) -> bool | None:
    this = connection.c.id == connection_id
    # Who asked first is remembered.
    asked = db.execute(
        update(connection)
        .where(this, connection.c.outcome.is_(None), connection.c.cancel_by.is_(None))
        .values(cancel_by=by)
    )
    if asked.rowcount == 1:
        write_act(db, _hangup(who, connection_id))
        return True
    found = db.execute(select(connection.c.outcome).where(this)).one_or_none()
    return None if found is None else found.outcome is None
