"""What is asked of a large record is found by an index: no question holds up all others while it reads the history."""

import asyncio
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Delete, Select, delete, select
from sqlalchemy.dialects import sqlite

from dosvoces.store import Wanted
from dosvoces.store.prepared import Prepared
from dosvoces.store.sql import open_store
from dosvoces.store.tables import connection, mail
from dosvoces.store.wanted import wanted_clauses
from dosvoces.testing import T0

SMALL = "SCAN (alembic_version|CONSTANT ROW|reserved|spent|do_not_call)"
"""Rows that are few, or of which the first one is enough."""


def built(folder: Path) -> Path:
    """An empty record."""
    path = folder / "record.db"

    async def build() -> None:
        store = open_store(f"sqlite:///{path}")
        await store.open()
        await store.close()

    asyncio.run(build())
    return path


def plan_of(folder: Path, statement: Select[Any] | Delete) -> list[str]:
    """How SQLite goes about it, step by step."""
    text = str(statement.compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True}))
    with closing(sqlite3.connect(built(folder))) as db:
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


def reads_the_history(statement: str, step: str) -> bool:
    """
    Whether this step of its plan takes the longer the more there is in the record.

    Open connections have indexes of their own; and by the index of the keys all are found that have none.
    """
    scan = step.startswith("SCAN") and not re.match(SMALL, step) and "INDEX ix_connection_o" not in step
    keyless = "(idempotency_key=?)" in step and "idempotency_key = :key" not in statement
    return scan or keyless


def test_no_write_looks_through_the_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All statements that the writer has ready, whoever adds one."""
    ready: list[str] = []
    prepare = Prepared.__init__

    def noted(self: Prepared, statement: Any, dialect: Any, columns: Any = None) -> None:
        prepare(self, statement, dialect, columns)
        ready.append(str(statement.compile(dialect=dialect, column_keys=columns)))

    monkeypatch.setattr(Prepared, "__init__", noted)
    path = built(tmp_path)
    slow = []
    with closing(sqlite3.connect(path)) as db:
        for statement in ready:
            values = dict.fromkeys(re.findall(r":(\w+)", statement), 1)
            plan = [step for *_, step in db.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
            slow += [(statement, step) for step in plan if reads_the_history(statement, step)]
    assert len(ready) > 30
    assert slow == []
