"""The API keys in a SQL database, behind their port."""

import ipaddress
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import Connection, Row, insert, or_, select, update

from dosvoces.keys import ApiKey, Scope
from dosvoces.store.audit import newest_acts, write_act
from dosvoces.store.beside import Beside
from dosvoces.store.clock import database_now
from dosvoces.store.database import Database
from dosvoces.store.keys import Act, KeyRing, Keys
from dosvoces.store.tables import api_key


class SqlKeys(Beside, Keys):
    """The keys. Used from one event loop."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, "keys")

    async def ring(self) -> KeyRing:
        return await self._ask(_ring)

    async def create(self, key: ApiKey, *, by: str) -> None:
        await self._do(partial(_create, key=key, act=Act(by, "key.create", key.id, _facts(key))))

    async def rotate(self, new: ApiKey, *, overlap: timedelta, by: str) -> None:
        await self._do(partial(_rotate, new=new, overlap=overlap, by=by))

    async def revoke(self, key_id: str, *, by: str) -> bool:
        return await self._do(partial(_revoke, key_id=key_id, by=by))

    async def used(self, when: dict[str, datetime]) -> None:
        await self._do(partial(_used, when=when))

    async def acts(self, *, limit: int) -> Sequence[Act]:
        return await self._ask(partial(newest_acts, limit=limit))


# --- one function a question or change, inside a transaction ---


def _ring(db: Connection) -> KeyRing:
    rows = db.execute(select(api_key).order_by(api_key.c.created_at, api_key.c.id))
    keys = [_key(row) for row in rows]
    return KeyRing(_now(db), keys)


def _now(db: Connection) -> datetime:
    now: datetime = db.execute(select(database_now())).scalar_one()
    return now


def _create(db: Connection, key: ApiKey, act: Act) -> None:
    _insert(db, key)
    write_act(db, act)


def _rotate(db: Connection, new: ApiKey, overlap: timedelta, by: str) -> None:
    until = _now(db) + overlap
    _insert(db, new)
    _end(db, new.replaces, until)
    write_act(db, Act(by, "key.rotate", new.replaces, {"new": new.id, "until": until.isoformat(timespec="seconds")}))


def _revoke(db: Connection, key_id: str, by: str) -> bool:
    if not _end(db, key_id, _now(db)):
        return False
    write_act(db, Act(by, "key.revoke", key_id))
    return True


def _end(db: Connection, key_id: str, at: datetime) -> bool:
    """Revoke it from `at` on, unless that was to be sooner anyway."""
    later = or_(api_key.c.revoked_at.is_(None), api_key.c.revoked_at > at)
    return db.execute(update(api_key).where(api_key.c.id == key_id, later).values(revoked_at=at)).rowcount == 1


def _used(db: Connection, when: dict[str, datetime]) -> None:
    for key_id, at in sorted(when.items()):  # In one order, so that two nodes never wait for each other.
        earlier = or_(api_key.c.last_used_at.is_(None), api_key.c.last_used_at < at)
        db.execute(update(api_key).where(api_key.c.id == key_id, earlier).values(last_used_at=at))


def _insert(db: Connection, key: ApiKey) -> None:
    db.execute(
        insert(api_key).values(
            id=key.id,
            digest=key.digest,
            name=key.name,
            test=key.test,
            scopes=sorted(key.scopes),
            networks=[str(network) for network in key.networks],
            limits=dict(key.limits),
            created_at=key.created_at,
            expires_at=key.expires_at,
            revoked_at=key.revoked_at,
            last_used_at=key.last_used_at,
            replaces=key.replaces,
        )
    )


def _key(row: Row[Any]) -> ApiKey:
    return ApiKey(
        id=row.id,
        digest=row.digest,
        name=row.name,
        test=row.test,
        scopes=frozenset(map(Scope, row.scopes)),
        networks=tuple(map(ipaddress.ip_network, row.networks)),
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
        replaces=row.replaces,
        limits=row.limits,
    )


def _facts(key: ApiKey) -> dict[str, str | int | float | None]:
    return {
        "name": key.name,
        "scopes": " ".join(sorted(key.scopes)),
        "networks": " ".join(str(network) for network in key.networks),
        "expires_at": key.expires_at.isoformat(timespec="seconds") if key.expires_at else None,
    }
