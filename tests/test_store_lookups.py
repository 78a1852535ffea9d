"""What is asked of a large record is found by an index: no question holds up all others while it reads the history."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Delete, Select, delete, select
from sqlalchemy.dialects import sqlite

from dosvoces.store import Wanted
from dosvoces.store.sql import open_store
from dosvoces.store.tables import connection, mail
from dosvoces.store.wanted import wanted_clauses
from dosvoces.testing import T0


def plan_of(folder: Path, statement: Select[Any] | Delete) -> list[str]:
    """How SQLite goes about it, step by step."""
    path = folder / "record.db"

    async def build() -> None:
        store = open_store(f"sqlite:///{path}")
        await store.open()
        await store.close()

    asyncio.run(build())
    text = str(statement.compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True}))
    with closing(sqlite3.connect(path)) as db:
        return [step for *_, step in db.execute(f"EXPLAIN QUERY PLAN {text}")]


@pytest.mark.parametrize(
    "wanted", [Wanted(number="+34600000011"), *(Wanted(phase=phase) for phase in ("joined", "recorded", "queued"))]
)
def test_whose_calls_and_what_is_under_way_is_found_without_a_look_at_all(tmp_path: Path, wanted: Wanted) -> None:
    newest = select(connection.c.id).where(*wanted_clauses(wanted, T0)).order_by(connection.c.id.desc()).limit(50)
    plan = plan_of(tmp_path, newest)
    assert [step for step in plan if step.startswith("SCAN connection")] == []
    assert any("INDEX ix_leg_number" in step or "still_open USING" in step for step in plan), plan


def test_old_mails_are_found_without_a_look_at_all(tmp_path: Path) -> None:
    old = select(mail.c.number).where(mail.c.kept_at < T0)
    plan = plan_of(tmp_path, delete(mail).where(mail.c.number.in_(old.order_by(mail.c.kept_at).limit(200).offset(0))))
    assert any("ix_mail_kept_at" in step for step in plan), plan
