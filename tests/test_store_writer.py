"""The writer's groups: what is committed together, what rides along, what waits and how much of it."""

import asyncio
import itertools
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
import structlog
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine

from dosvoces.core import Connection, Leg, LegState, Terms
from dosvoces.errors import StoreError
from dosvoces.model import NodeId, Order
from dosvoces.store import Entry
from dosvoces.store.lane import Lane
from dosvoces.store.sqlite import SqliteFile
from dosvoces.store.tables import REVISION, metadata
from dosvoces.store.writer import CROWD, ENTRIES_PER_COMMIT, HURRY_S, REQUESTS_PER_COMMIT, TOLD_AT_ONCE, Writer
from dosvoces.store.writes import Writes
from dosvoces.testing import T0, A, an_order, until


class Desk:
    """A writer on a real file, and every statement that it runs."""

    def __init__(self, engine: Engine, file: SqliteFile, lane: Lane, *, entries_limit: int) -> None:
        self.writes = Writes(engine.dialect, NodeId("0" * 26))
        self.writer = Writer(file, self.writes, lane, entries_limit=entries_limit)
        self.statements: list[str] = []
        driver: Any = engine.raw_connection().driver_connection
        driver.set_trace_callback(self.statements.append)

    async def record(self, order: Order) -> None:
        await self.writer.write(lambda cursor: self.writes.record(cursor, order))

    def count(self, start: str) -> int:
        return sum(statement.startswith(start) for statement in self.statements)


@asynccontextmanager
async def opened(folder: Path, *, entries_limit: int) -> AsyncIterator[Desk]:
    file, lane = SqliteFile(folder / "record.db", busy_timeout_ms=20), Lane("test")
    engine = await lane.run(file.prepare)
    desk = Desk(engine, file, lane, entries_limit=entries_limit)
    yield desk
    await desk.writer.close()
    await lane.run(engine.dispose)
    lane.stop()


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with opened(tmp_path, entries_limit=100) as desk:
        yield desk


def entry(number: int, name: str = "note") -> Entry:
    return Entry(an_order(number).id, T0, name, None, "a", "a")


def state(leg: LegState) -> Connection:
    return Connection(Terms(), a=Leg(leg, dialed_at=T0), started_at=T0)


async def test_what_is_asked_together_is_committed_once(desk: Desk) -> None:
    await asyncio.gather(*(desk.record(an_order(number)) for number in range(50)))
    assert (desk.count("BEGIN"), desk.count("INSERT INTO connection"), desk.count("COMMIT")) == (1, 50, 1)


async def test_one_commit_takes_only_so_many(desk: Desk) -> None:
    await asyncio.gather(*(desk.record(an_order(number)) for number in range(REQUESTS_PER_COMMIT + 1)))
    assert desk.count("COMMIT") == 2


async def test_who_waited_for_one_commit_goes_on_by_and_by(desk: Desk) -> None:
    """All of them in one turn of the loop would hold everything else up."""
    told: list[int] = []

    async def ask(number: int) -> None:
        await desk.record(an_order(number))
        told.append(number)

    tasks = [asyncio.create_task(ask(number)) for number in range(5 * TOLD_AT_ONCE)]
    seen = [0]
    while len(told) < len(tasks):
        await asyncio.sleep(0)
        seen.append(len(told))
    assert desk.count("COMMIT") == 1
    assert max(after - before for before, after in itertools.pairwise(seen)) == TOLD_AT_ONCE
    assert told == list(range(len(tasks)))


async def test_many_writes_that_wait_are_a_crowd(desk: Desk) -> None:
    tasks = [asyncio.create_task(desk.record(an_order(number))) for number in range(CROWD + 1)]
    await asyncio.sleep(0)
    assert desk.writer.crowded()
    await asyncio.gather(*tasks)
    assert not desk.writer.crowded()


async def test_what_waits_for_a_record_that_cannot_be_written_is_no_crowd(desk: Desk, tmp_path: Path) -> None:
    """Who begins then is told so at once, and needs no write for that."""
    await desk.record(an_order(0))
    with closing(sqlite3.connect(tmp_path / "record.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreError):
            await desk.record(an_order(1))
        tasks = [asyncio.create_task(desk.record(an_order(number))) for number in range(2, CROWD + 3)]
        await asyncio.sleep(0)
        assert not desk.writer.crowded()
        other.execute("ROLLBACK")
        await asyncio.gather(*tasks)


async def test_a_writer_that_closes_leaves_nobody_waiting(desk: Desk) -> None:
    tasks = [asyncio.create_task(desk.record(an_order(number))) for number in range(5 * TOLD_AT_ONCE)]
    await asyncio.sleep(0)
    await desk.writer.close()
    await asyncio.sleep(0)
    assert [task.done() for task in tasks] == [True] * len(tasks)


async def test_state_and_journal_ride_along(desk: Desk) -> None:
    await desk.record(an_order(1))
    desk.writer.update(an_order(1).id, state(LegState.DIALING), None)
    desk.writer.update(an_order(1).id, state(LegState.RINGING), None)
    desk.writer.journal(entry(1))
    await desk.writer.write(lambda cursor: desk.writes.intend_dial(cursor, an_order(1), A, 1, T0))
    assert desk.count("COMMIT") == 2
    assert desk.count("UPDATE connection") == 1
    assert desk.count("UPDATE leg") == 1
    assert desk.count("INSERT INTO journal") == 1


async def test_a_leg_that_stands_as_it_stood_is_not_written_again(desk: Desk) -> None:
    await desk.record(an_order(1))
    same = state(LegState.RINGING)
    for _ in range(3):
        desk.writer.update(an_order(1).id, same, None)
        await desk.writer.flush()
    assert (desk.count("UPDATE connection"), desk.count("UPDATE leg")) == (3, 1)


async def test_an_idle_writer_writes_nothing(desk: Desk) -> None:
    await desk.writer.flush()
    await desk.writer.close()
    assert desk.statements == []
    with pytest.raises(StoreError, match="the record is closed"):
        await desk.record(an_order(1))


async def test_a_caller_who_is_cancelled_takes_nobody_with_him(desk: Desk) -> None:
    gone = asyncio.create_task(desk.record(an_order(1)))
    stays = asyncio.create_task(desk.record(an_order(2)))
    await asyncio.sleep(0)
    gone.cancel()
    await stays
    assert gone.cancelled()
    assert desk.count("COMMIT") == 1


async def test_entries_past_the_limit_are_counted_and_said(desk: Desk, tmp_path: Path) -> None:
    await desk.record(an_order(1))
    other = sqlite3.connect(tmp_path / "record.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    for _ in range(103):
        desk.writer.journal(entry(1))
    with pytest.raises(StoreError):
        await desk.record(an_order(2))
    locked, lost = desk.writer.problems()
    assert "is locked by another program" in locked
    assert lost == "3 journal entries found no room to wait in, and are lost"
    other.execute("ROLLBACK")
    with structlog.testing.capture_logs() as logs:
        await desk.record(an_order(2))
    assert logs == [{"event": "record_writable_again", "entries_lost": 3, "log_level": "info"}]
    assert desk.writer.problems() == []
    assert other.execute("SELECT count(*), max(seq) FROM journal").fetchone() == (100, 100)
    other.close()


async def test_what_a_failure_let_gather_is_written_in_parts_and_before_what_comes_after(tmp_path: Path) -> None:
    """In one commit it might never be written: a commit has a limit, and what failed only grows."""
    most = 2 * ENTRIES_PER_COMMIT + 1
    async with opened(tmp_path, entries_limit=most) as desk:
        await desk.record(an_order(1))
        other = sqlite3.connect(tmp_path / "record.db", isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        kept: list[int] = []
        for number in range(most):
            desk.writer.journal(entry(1, f"note_{number}"), kept=lambda: kept.append(desk.count("COMMIT")))
        with pytest.raises(StoreError):
            await desk.record(an_order(2))
        assert desk.writer.problems()
        other.execute("ROLLBACK")
        desk.statements.clear()
        await desk.record(an_order(2))
        assert (desk.count("COMMIT"), desk.count("INSERT INTO journal")) == (3, most)
        assert desk.statements.index("COMMIT") < desk.statements.index(
            next(statement for statement in desk.statements if statement.startswith("INSERT INTO connection"))
        )
        found = [name for (name,) in other.execute("SELECT event FROM journal ORDER BY seq")]
        assert found == [f"note_{number}" for number in range(most)]

        async def all_told() -> bool:
            return len(kept) == most

        await until(all_told, limit_s=10)
        assert kept == [3] * most
        assert desk.writer.problems() == []
        other.close()


async def test_an_entry_of_an_unknown_connection_is_said_and_holds_up_no_other(desk: Desk) -> None:
    desk.writer.journal(entry(1, "before"))
    desk.writer.journal(entry(9, "stray"))
    desk.writer.journal(entry(1, "after"))
    with structlog.testing.capture_logs() as logs:
        await desk.record(an_order(1))
    assert logs == [
        {
            "event": "record_refused_row",
            "row": f"stray of {an_order(9).id}: FOREIGN KEY constraint failed",
            "log_level": "error",
        }
    ]
    await desk.writer.flush()
    assert desk.writer.problems() == []


async def test_an_error_of_ours_is_a_store_error_too(desk: Desk) -> None:
    """And the writer lives on."""

    def broken(_: object) -> None:
        raise ZeroDivisionError

    with structlog.testing.capture_logs() as logs, pytest.raises(StoreError, match="ZeroDivisionError"):
        await desk.writer.write(broken)
    assert [log["event"] for log in logs] == ["record_writer_failed", "record_not_writable"]
    await desk.record(an_order(1))
    assert desk.writer.problems() == []


async def test_close_says_what_it_could_not_write(desk: Desk, tmp_path: Path) -> None:
    await desk.record(an_order(1))
    other = sqlite3.connect(tmp_path / "record.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    desk.writer.journal(entry(1))
    with structlog.testing.capture_logs() as logs:
        await desk.writer.close(timeout_s=0.1)

        async def told() -> bool:  # At once, or when the try that runs by then has failed.
            return len(logs) == 2

        await until(told, limit_s=10)
    other.close()
    assert [(log["event"], log.get("entries")) for log in logs] == [
        ("record_not_writable", None),
        ("record_closed_with_loss", 1),
    ]


def test_the_migrations_build_the_tables(tmp_path: Path) -> None:
    file = SqliteFile(tmp_path / "record.db")
    engine = file.prepare()
    with engine.connect() as db:
        assert compare_metadata(MigrationContext.configure(db, opts={"compare_type": True}), metadata) == []
        assert db.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert db.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert db.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        assert db.exec_driver_sql("PRAGMA busy_timeout").scalar() == 2000
    engine.dispose()


def test_the_newest_migration_is_the_revision() -> None:
    migrations = Path(__file__).parents[1] / "src" / "dosvoces" / "store" / "migrations"
    assert ScriptDirectory(str(migrations)).get_heads() == [REVISION]


async def test_what_is_needed_to_hang_up_after_a_crash_waits_less(desk: Desk) -> None:
    desk.writer.journal(entry(1))
    desk.writer.journal(entry(1, "dialog"))
    timer = desk.writer._timer
    assert timer is not None
    assert timer.when() <= asyncio.get_running_loop().time() + HURRY_S
    await desk.writer.flush()
    assert desk.count("COMMIT") == 1
