"""What goes wrong with a database, for real: locked, full, read-only, killed, damaged, foreign, deleted, shared."""

# ruff: noqa: ASYNC220, ASYNC240  (What a test does to the file may hold up the test.)

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from dosvoces.core import Connection, Terms
from dosvoces.errors import SettingsError, StoreError
from dosvoces.mail import Mail
from dosvoces.model import Outcome
from dosvoces.store import Earlier, Entry
from dosvoces.store.prepared import Cursor
from dosvoces.store.sql import SqlStore, open_store
from dosvoces.store.sqlite import SqliteFile
from dosvoces.store.writer import COMMIT_LIMIT_S
from dosvoces.testing import T0, A, an_order, until

ORDER = an_order(1, key="k")


def entry(number: int) -> Entry:
    return Entry(ORDER.id, T0, f"note_{number}", None, "joined", "joined")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "record.db"


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[SqlStore]:
    """A store that waits 20 ms for a lock, not two seconds."""
    store = SqlStore(SqliteFile(path, busy_timeout_ms=20))
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """The database as another program holds it."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


async def writable(store: SqlStore) -> None:
    async def no_problem() -> bool:
        return not store.problems()

    await until(no_problem)


async def refusal(path: Path, *, reader: bool = False) -> str:
    """Why this record can't be opened, the path left out."""
    store = open_store(f"sqlite:///{path}", reader=reader)
    with pytest.raises(StoreError) as caught:
        await store.open()
    await store.close()
    assert str(path) in str(caught.value)
    return str(caught.value).replace(str(path), "PATH")


# --- locked ---


async def test_locked_is_refused_and_nothing_journalled_is_lost(path: Path) -> None:
    async with opened(path) as store:
        await store.record(ORDER)
        with locked(path):
            for number in range(10):
                store.journal(entry(number))
            store.update(ORDER.id, Connection(Terms(), started_at=T0), None)
            with pytest.raises(StoreError, match=r"record\.db is locked by another program: close what has it open"):
                await store.record(an_order(2))
            with pytest.raises(StoreError):
                await store.remember_answer(ORDER.id, status=200, body="made")
            store.journal(entry(10))
            assert len(store.problems()) == 1
            # Readers are not concerned.
            assert len(await store.connections()) == 1
        await writable(store)
        assert await store.entries(ORDER.id) == [entry(number) for number in range(11)]
        assert await store.connection(an_order(2).id) is None
        record = await store.connection(ORDER.id)
        assert record is not None
        assert record.phase == "mailing"
        # The client has had this answer: it is written later, by itself.
        assert await store.repeated(ORDER) == Earlier(ORDER.id, ORDER.fingerprint, 200, "made")
        await store.record(an_order(2))


async def test_the_newest_state_wins_after_a_lock(path: Path) -> None:
    async with opened(path) as store:
        await store.record(ORDER)
        with locked(path):
            store.update(ORDER.id, Connection(Terms(), started_at=T0), None)
            with pytest.raises(StoreError):
                await store.intend_dial(ORDER, A, attempt=1, at=T0)
            store.update(ORDER.id, Connection(Terms(), started_at=T0, joined_at=T0), None)
            with pytest.raises(StoreError):
                await store.settle(ORDER.id, Connection(Terms()), Outcome.COMPLETED, at=T0)
        await writable(store)
        record = await store.connection(ORDER.id)
        assert record is not None
        assert (record.phase, record.outcome) == ("joined", None)
        await store.intend_dial(ORDER, A, attempt=1, at=T0)
        await store.settle(ORDER.id, Connection(Terms()), Outcome.COMPLETED, at=T0)
        assert await store.unfinished() == []


async def test_locked_at_the_start_is_an_error(path: Path) -> None:
    async with opened(path):
        pass
    with locked(path):
        store = SqlStore(SqliteFile(path, busy_timeout_ms=20))
        with pytest.raises(StoreError, match="is locked by another program"):
            await store.open()
    async with opened(path):
        pass  # What was opened halfway was given back.


async def test_a_transaction_of_another_program_is_waited_for(path: Path) -> None:
    store = open_store(f"sqlite:///{path}")
    await store.open()
    with locked(path):
        writing = asyncio.create_task(store.record(ORDER))
        await asyncio.wait([writing], timeout=0.1)
        assert not writing.done()
    await writing
    assert len(await store.connections()) == 1
    await store.close()


# --- full ---


async def test_full_is_refused_and_recovers(path: Path) -> None:
    connections: list[Any] = []

    def limit(connection: Any, _: object) -> None:
        connections.append(connection)

    event.listen(Engine, "connect", limit)
    try:
        async with opened(path) as store:
            await store.record(ORDER)
            for connection in connections:
                connection.execute("PRAGMA max_page_count = 20")
            with pytest.raises(StoreError, match="its disk is full: free some space"):
                await store.keep_mail(Mail("<1@x>", "ana@example.com", "Hola", "", bytes(200_000)), at=T0)
            assert [word for problem in store.problems() for word in ("full",) if word in problem] == ["full"]
            for connection in connections:
                connection.execute("PRAGMA max_page_count = 2000")
            await writable(store)
            await store.keep_mail(Mail("<1@x>", "ana@example.com", "Hola", "", bytes(200_000)), at=T0)
            assert [len(mail.content) for mail in await store.mails()] == [200_000]
    finally:
        event.remove(Engine, "connect", limit)


async def test_a_disk_that_is_nearly_full_is_a_problem_before_a_write_fails(path: Path) -> None:
    """The rest is for the connections that are under way: they go on."""
    store = SqlStore(SqliteFile(path, reserve_bytes=1 << 60))
    await store.open()
    (problem,) = store.problems()
    assert problem.startswith(f"the disk of the record {path} has ")
    assert problem.endswith(f" MiB left of the {1 << 40:g} it needs")
    await store.record(ORDER)
    await store.close()


# --- slow ---


class HangingCursor:
    """A cursor whose COMMIT takes as long as its disk does."""

    def __init__(self, cursor: Cursor, disk: threading.Event) -> None:
        self._cursor = cursor
        self._disk = disk
        self.fetchone = cursor.fetchone
        self.executemany = cursor.executemany

    @property
    def rowcount(self) -> int:
        return self._cursor.rowcount

    def execute(self, statement: str, *values: object) -> object:
        if statement == "COMMIT":
            self._disk.wait()
        return self._cursor.execute(statement, *values)


class HangingDisk(SqliteFile):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.answers = threading.Event()
        self.answers.set()

    def cursor(self) -> Cursor:
        return HangingCursor(super().cursor(), self.answers)


async def test_a_disk_that_hangs_is_not_waited_for_and_what_was_refused_is_taken_back(path: Path) -> None:
    disk = HangingDisk(path)
    store = SqlStore(disk)
    await store.open()
    await store.record(ORDER)
    disk.answers.clear()
    async with asyncio.timeout(2 * COMMIT_LIMIT_S):
        with pytest.raises(StoreError, match=r"has not answered for 2\.5 s: look what holds it up") as caught:
            await store.record(an_order(2, key="again"))
        assert caught.value.unknown
        with pytest.raises(StoreError):  # At once: nobody queues up behind it.
            await store.record(an_order(3))
        store.journal(entry(1))
        assert len(store.problems()) == 1
    disk.answers.set()
    await writable(store)
    assert await store.entries(ORDER.id) == [entry(1)]
    assert [record.id for record in await store.connections()] == [ORDER.id]
    await store.record(an_order(4, key="again"))
    await store.close()


# --- read-only ---


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without the rights of root, whom no file mode stops."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that nobody can reach too."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    yield folder
    folder.chmod(0o777)
    shutil.rmtree(folder)


async def test_read_only_is_said_at_the_start(public_folder: Path) -> None:
    path = public_folder / "record.db"
    async with opened(path):
        pass
    path.with_name("record.db.lock").chmod(0o666)
    path.chmod(0o444)
    with as_nobody():
        assert (await refusal(path)).startswith(
            "the record PATH can't be written, the file, folder or disk is read-only: give us leave to write"
        )
    path.with_name("record.db.lock").unlink()
    public_folder.chmod(0o555)
    with as_nobody():
        assert await refusal(path) == (
            f"the record PATH can't be opened (Permission denied): the folder {public_folder} must exist and be "
            "writable, or mend [database] url"
        )


# --- killed ---

WRITES_UNTIL_KILLED = """
import asyncio, sys
from dosvoces.core import Connection, Terms
from dosvoces.model import Outcome
from dosvoces.store import Entry
from dosvoces.store.sql import open_store
from dosvoces.testing import A, T0, an_order

async def one(store, number):
    order = an_order(number)
    await store.record(order)
    for n in range(3):
        store.journal(Entry(order.id, T0, f"note_{n}", None, "a", "b"))
    await store.intend_dial(order, A, attempt=1, at=T0)
    if number % 2:
        await store.settle(order.id, Connection(Terms()), Outcome.COMPLETED, at=T0)
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()

async def main():
    store = open_store(sys.argv[1])
    await store.open()
    for start in range(0, 100_000, 10):
        await asyncio.gather(*(one(store, start + n) for n in range(10)))

asyncio.run(main())
"""


async def test_what_was_acknowledged_survives_a_kill(path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITES_UNTIL_KILLED, f"sqlite:///{path}"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        acknowledged = [int(process.stdout.readline()) for _ in range(200)]
        process.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    async with opened(path) as store:  # The lock of the dead is gone as well.
        open_ids = {record.id for record in await store.unfinished()}
        for number in acknowledged:
            order = an_order(number)
            record = await store.connection(order.id)
            assert record is not None
            assert record.legs[0].dialed_at == T0
            assert (order.id in open_ids) == (number % 2 == 0)
            assert [entry.event for entry in await store.entries(order.id)] == ["note_0", "note_1", "note_2"]


# --- damaged, foreign, newer ---


async def test_what_is_no_database_is_left_alone(path: Path) -> None:
    path.write_bytes(b"dear diary, " * 1000)
    assert await refusal(path) == (
        "the record PATH is damaged or not a database: restore it from a copy, or move it away to begin a new one "
        "(file is not a database)"
    )
    assert path.read_bytes() == b"dear diary, " * 1000


async def test_a_damaged_record_is_not_used(path: Path) -> None:
    async with opened(path) as store:
        for number in range(50):
            await store.record(an_order(number))
    content = bytearray(path.read_bytes())
    content[8192:] = b"\xff" * (len(content) - 8192)
    path.write_bytes(content)
    assert "is damaged or not a database: restore it from a copy" in await refusal(path)


async def test_another_programs_database_is_left_alone(path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE diary (text)")
    other.close()
    before = path.read_bytes()
    expected = "PATH is another program's database, not a Dosvoces record: mend [database] url"
    assert await refusal(path) == expected
    assert await refusal(path, reader=True) == expected
    assert path.read_bytes() == before


async def test_a_newer_record_is_left_alone(path: Path) -> None:
    async with opened(path):
        pass
    with sqlite3.connect(path) as other:
        other.execute("UPDATE alembic_version SET version_num = '9999'")
    other.close()
    assert "it was written by a newer Dosvoces; use that one, or another [database] url" in await refusal(path)
    assert "is at version 9999, this program reads" in await refusal(path, reader=True)


# --- deleted, replaced ---


async def test_a_deleted_record_is_noticed_and_never_made_anew(path: Path) -> None:
    async with opened(path) as store:
        await store.record(ORDER)
        away = path.with_name("away.db")
        path.rename(away)
        with pytest.raises(StoreError, match=r"record\.db was deleted or moved while in use: put it back"):
            await store.record(an_order(2))
        with pytest.raises(StoreError, match="was deleted or moved"):
            await store.connections()
        assert not path.exists()
        path.write_bytes(b"")
        with pytest.raises(StoreError, match="was replaced by another file"):
            await store.record(an_order(2))
        assert path.read_bytes() == b""
        away.rename(path)
        await writable(store)
        await store.record(an_order(2))
        assert len(await store.connections()) == 2


# --- shared ---


async def test_a_second_service_is_refused_and_a_reader_is_not(path: Path) -> None:
    async with opened(path) as store:
        await store.record(ORDER)
        assert await refusal(path) == (
            f"the record PATH is in use by another Dosvoces (process {os.getpid()}): "
            "stop that one, or give this one its own [database] url"
        )
        reader = open_store(f"sqlite:///{path}", reader=True)
        await reader.open()
        assert [record.id for record in await reader.connections()] == [ORDER.id]
        store.journal(entry(1))

        async def arrived() -> bool:
            return await reader.entries(ORDER.id) == [entry(1)]

        await until(arrived)  # Written behind, without anything durable to ride along with.
        with pytest.raises(StoreError, match="not open for writing"):
            await reader.record(an_order(2))
        assert reader.problems() == [f"the record {path} is not open for writing"]
        await reader.close()
    # And after the service has ended.
    reader = open_store(f"sqlite:///{path}", reader=True)
    await reader.open()
    assert await reader.entries(ORDER.id) == [entry(1)]
    await reader.close()
    async with opened(path):
        pass


async def test_a_reader_makes_no_record(path: Path) -> None:
    assert await refusal(path, reader=True) == (
        "there is no record at PATH: start `dosvoces serve` first, or mend [database] url"
    )
    assert not path.exists()


async def test_a_slow_reader_holds_up_no_commit(path: Path) -> None:
    async with opened(path) as store:
        await store.record(ORDER)
        slow = sqlite3.connect(path, isolation_level=None)
        slow.execute("BEGIN")
        assert slow.execute("SELECT count(*) FROM connection").fetchone() == (1,)
        await store.record(an_order(2))
        assert slow.execute("SELECT count(*) FROM connection").fetchone() == (1,)
        slow.close()


async def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "record.db"
    assert await refusal(path) == (
        f"the record PATH can't be opened (No such file or directory): the folder {path.parent} must exist and be "
        "writable, or mend [database] url"
    )


async def test_a_folder_in_its_place_is_said(tmp_path: Path) -> None:
    told = 'the record PATH is a folder: name a file in it, such as [database] url = "sqlite:///PATH/dosvoces.db"'
    (tmp_path / "data").mkdir()
    assert await refusal(tmp_path / "data") == told
    with pytest.raises(StoreError, match="is a folder"):
        await open_store(f"sqlite:///{tmp_path}/data", reader=True).open()
    assert [each.name for each in tmp_path.iterdir()] == ["data"]


# --- settings ---


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("nonsense", "is no database URL: write it as sqlite:///dosvoces.db, or postgresql://"),
        ("mysql://x/y", "begins with mysql://: write it as sqlite:///dosvoces.db, or postgresql://"),
        ("postgresql://u:secret@h", "names no database: write it as postgresql://user:password@host/database"),
        ("postgresql://u:secret@h/d?sslmod=require", "libpq knows no option sslmod; write it as postgresql://user"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite:///x.db?mode=ro", "not supported; leave it out"),
    ],
)
def test_a_url_that_cannot_work_is_a_settings_error(url: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        open_store(url)


async def test_a_file_name_may_have_any_characters(tmp_path: Path) -> None:
    path = tmp_path / "the 100% #1 ¿record? é.db"
    async with opened(path) as store:
        await store.record(ORDER)
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(tmp_path.iterdir()) == [path, path.with_name(path.name + ".lock")]


async def test_times_keep_their_microseconds_and_sort_as_text(path: Path) -> None:
    times = [T0, T0 + timedelta(microseconds=1), T0 + timedelta(milliseconds=999), T0 + timedelta(days=400)]
    async with opened(path) as store:
        await store.record(ORDER)
        for at in times:
            store.journal(Entry(ORDER.id, at, "note", None, "a", "a"))
        assert [each.at for each in await store.entries(ORDER.id)] == times
        with sqlite3.connect(path) as other:
            found = [at for (at,) in other.execute("SELECT at FROM journal ORDER BY at")]
        other.close()
    assert found[0] == "2026-11-23T09:00:00.000000+00:00"
    assert found == sorted(found)
    assert len({len(at) for at in found}) == 1
