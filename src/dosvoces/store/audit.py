"""The audit: one row for each administrative act, written in the transaction that does it."""

import secrets
from collections.abc import Sequence

from sqlalchemy import Connection, insert, select

from dosvoces.model import connection_id
from dosvoces.store.clock import database_now
from dosvoces.store.keys import Act
from dosvoces.store.tables import audit


def write_act(db: Connection, act: Act) -> None:
    """Write that `act` is done, in the transaction of `db`, which does it."""
    now = db.execute(select(database_now())).scalar_one()
    db.execute(
        insert(audit).values(
            id=connection_id(now, secrets.randbits(80)),
            at=now,
            who=act.who,
            what=act.what,
            subject=act.subject,
            facts=act.facts,
        )
    )


def newest_acts(db: Connection, limit: int) -> Sequence[Act]:
    """The newest first."""
    rows = db.execute(select(audit).order_by(audit.c.id.desc()).limit(limit))
    return [Act(row.who, row.what, row.subject, row.facts, row.at) for row in rows]
