"""What goes wrong with a PostgreSQL server, for real: killed, restarted, silent, locked, full, read-only, foreign."""

# ruff: noqa: ASYNC220  (What a test does to the server may hold up the test.)

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from dosvoces.core import Connection, Terms
from dosvoces.errors import StoreError
from dosvoces.mail import Mail
from dosvoces.model import Outcome
from dosvoces.store import Earlier, Entry
from dosvoces.store.address import PostgresAddress, parse_database_url
from dosvoces.store.feed import BEGINNING
from dosvoces.store.postgres import PostgresServer
from dosvoces.store.prepared import Cursor
from dosvoces.store.sql import SqlStore, open_roll, open_store
from dosvoces.testing import T0, A, an_order, until
from tests.ports import HOST, free_port
from tests.postgres import PASSWORD, PROGRAMS, USER, Cluster
from tests.test_store_faults import WRITES_UNTIL_KILLED

ORDER = an_order(1, key="k")
BOUND_S = 3.5
"""A refused write must have come back by then; its own limit is 2.5 s, the rest is for a busy machine."""
RECOVERY_S = 15.0


def entry(number: int) -> Entry:
    return Entry(ORDER.id, T0, f"note_{number}", None, "joined", "joined")


def server(url: str, **more: int) -> PostgresServer:
    address = parse_database_url(url)
    assert isinstance(address, PostgresAddress)
    return PostgresServer(address, **more)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[SqlStore]:
    """A store that waits 100 ms for a lock, not one and a half seconds."""
    store = SqlStore(server(url, lock_timeout_ms=100, statement_timeout_ms=500))
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def writable(store: SqlStore) -> None:
    async def no_problem() -> bool:
        return not store.problems()

    await until(no_problem, limit_s=RECOVERY_S)


async def refused(write: Awaitable[object]) -> StoreError:
    """Why it was refused, which may not take long."""
    async with asyncio.timeout(BOUND_S):
        with pytest.raises(StoreError) as caught:
            await write
    return caught.value


async def refusal(url: str, *, reader: bool = False) -> str:
    """Why this record can't be opened."""
    store = open_store(url, reader=reader)
    with pytest.raises(StoreError) as caught:
        await store.open()
    await store.close()
    assert PASSWORD not in str(caught.value)
    return str(caught.value)


# --- gone, and back ---


def killed(cluster: Cluster) -> None:
    cluster.kill()


def restarted_at_once(cluster: Cluster) -> None:
    cluster.stop(signal.SIGQUIT)


def stopped(cluster: Cluster) -> None:
    cluster.stop(signal.SIGINT)


@pytest.mark.parametrize("fails", [killed, restarted_at_once, stopped])
async def test_a_server_that_is_gone_refuses_at_once_and_nothing_is_lost(
    postgres_cluster: Cluster, fails: Callable[[Cluster], None]
) -> None:
    async with opened(postgres_cluster.url(postgres_cluster.new_database())) as store:
        await store.record(ORDER)
        fails(postgres_cluster)
        for number in range(10):
            store.journal(entry(number))
        store.update(ORDER.id, Connection(Terms(), started_at=T0), None)
        await refused(store.record(an_order(2)))
        await refused(store.intend_dial(ORDER, A, attempt=1, at=T0))
        await refused(store.remember_answer(ORDER.id, status=200, body="made"))
        assert len(store.problems()) == 1
        await postgres_cluster.started()
        await writable(store)
        assert await store.entries(ORDER.id) == [entry(number) for number in range(10)]
        assert [record.id for record in await store.connections()] == [ORDER.id]
        record = await store.connection(ORDER.id)
        assert record is not None
        assert (record.phase, record.legs[0].state) == ("mailing", "idle")
        # The client has had this answer: it is written later, by itself.
        assert await store.repeated(ORDER) == Earlier(ORDER.id, ORDER.fingerprint, 200, "made")
        await store.intend_dial(ORDER, A, attempt=1, at=T0)


async def test_a_server_that_was_gone_for_long_is_caught_up_with(postgres_cluster: Cluster) -> None:
    """So much in one commit would take longer than a commit may, at each try anew."""
    most = 30_000
    async with opened(postgres_cluster.url(postgres_cluster.new_database())) as store:
        await store.record(ORDER)
        postgres_cluster.stop()
        for number in range(most):
            store.journal(entry(number))
        await refused(store.record(an_order(2)))
        await postgres_cluster.started()

        async def no_problem() -> bool:
            return not store.problems()

        await until(no_problem, limit_s=60)
        assert await store.entries(ORDER.id) == [entry(number) for number in range(most)]
        await store.record(an_order(3))


async def test_a_session_that_is_killed_is_had_anew(postgres_cluster: Cluster) -> None:
    async with opened(postgres_cluster.url(postgres_cluster.new_database())) as store:
        await store.record(ORDER)
        postgres_cluster.kill_backend("writer")
        await refused(store.record(an_order(2)))
        await writable(store)
        await store.record(an_order(2))
        assert len(await store.connections()) == 2


async def test_a_server_that_answers_nothing_is_given_up_in_time(postgres_cluster: Cluster) -> None:
    """Its commit may be done when it goes on, so the refused connection is taken back then, and its key is free."""
    async with opened(postgres_cluster.url(postgres_cluster.new_database())) as store:
        await store.record(ORDER)
        postgres_cluster.pause()
        store.journal(entry(1))
        error = await refused(store.record(an_order(2, key="again")))
        assert error.unknown
        assert "has not answered for 2.5 s" in str(error)
        await refused(store.record(an_order(3)))
        postgres_cluster.resume()
        await writable(store)
        assert await store.entries(ORDER.id) == [entry(1)]
        assert [record.id for record in await store.connections()] == [ORDER.id]
        await store.record(an_order(4, key="again"))


async def test_a_roll_is_closed_in_time_though_its_server_answers_nothing(postgres_cluster: Cluster) -> None:
    """A shutdown waits for it: who had asked is cancelled by then, and nobody else would end that question."""
    url = postgres_cluster.url(postgres_cluster.new_database())
    async with opened(url):
        roll = open_roll(url)
        await roll.open()
        postgres_cluster.pause()
        try:
            asked = asyncio.create_task(roll.look())
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(asked), 0.2)  # Until it is on its way.
            asked.cancel()
            await asyncio.wait_for(asyncio.shield(closed := asyncio.create_task(roll.close())), 15)
        finally:
            postgres_cluster.resume()
        await closed


class BreakingCursor:
    """A cursor whose line breaks when the server has done a COMMIT, and before we hear of it."""

    def __init__(self, cursor: Cursor, server: PostgresServer) -> None:
        self._cursor = cursor
        self._server = server
        self.fetchone = cursor.fetchone
        self.executemany = cursor.executemany

    @property
    def rowcount(self) -> int:
        return self._cursor.rowcount

    def execute(self, statement: str, *values: object) -> object:
        result = self._cursor.execute(statement, *values)
        if statement == "COMMIT":
            self._server.interrupt()
            self._cursor.execute("SELECT 1")
        return result


class Breaking(PostgresServer):
    breaks = False

    def cursor(self) -> Cursor:
        cursor = super().cursor()
        if self.breaks:
            self.breaks = False
            return BreakingCursor(cursor, self)
        return cursor


async def test_a_commit_whose_answer_never_came_is_decided_before_the_next_one(postgres_url: str) -> None:
    """The line breaks after COMMIT was sent: it is done on the server, and refused here. Then it is taken back."""

    address = parse_database_url(postgres_url)
    assert isinstance(address, PostgresAddress)
    database = Breaking(address)
    store = SqlStore(database)
    await store.open()
    database.breaks = True
    error = await refused(store.record(ORDER))
    assert error.unknown
    await writable(store)
    assert await store.connections() == []
    await store.record(ORDER)
    database.breaks = True
    assert (await refused(store.intend_dial(ORDER, A, attempt=1, at=T0))).unknown
    await writable(store)
    record = await store.connection(ORDER.id)
    assert record is not None
    assert record.legs[0].dialed_at == T0  # It was written, so that nobody dials it again.
    await store.close()


@asynccontextmanager
async def two_nodes(url: str) -> AsyncIterator[tuple[Breaking, SqlStore, SqlStore]]:
    """A database whose line can break, the node that has it, and another one on a line of its own."""
    address = parse_database_url(url)
    assert isinstance(address, PostgresAddress)
    database = Breaking(address)
    one, two = SqlStore(database), open_store(url)
    await one.open()
    await two.open()
    try:
        yield database, one, two
    finally:
        await two.close()
        await one.close()


async def test_what_a_client_was_told_is_not_recorded_is_claimed_by_no_other_node(postgres_url: str) -> None:
    """It was: the answer to the commit never came, and the other node looks before it is taken back."""
    async with two_nodes(postgres_url) as (database, one, two):
        database.breaks = True
        assert (await refused(one.record(ORDER, waits=True))).unknown
        assert [record.id for record in await two.unfinished()] == [ORDER.id]
        assert await two.waiting.waiting(limit=10) == []
        assert not await two.waiting.claim(ORDER)
        await writable(one)
        assert await two.connections() == []


async def test_a_claim_of_which_nobody_knows_whether_it_was_written_loses_nothing(postgres_url: str) -> None:
    """It was, and nobody has begun the connection: it waits again, for whichever node has room."""
    async with two_nodes(postgres_url) as (database, one, two):
        await one.record(ORDER, waits=True)
        database.breaks = True
        assert (await refused(one.waiting.claim(ORDER))).unknown
        assert one.waiting.offers(ORDER.id)
        with pytest.raises(StoreError, match="is not known yet"):
            await one.waiting.claim(ORDER)

        async def claimed() -> bool:
            return await two.waiting.claim(ORDER)

        await until(claimed, limit_s=RECOVERY_S)
        assert not await one.waiting.claim(ORDER)


async def test_what_was_acknowledged_survives_a_kill_of_the_server(postgres_cluster: Cluster) -> None:
    url = postgres_cluster.url(postgres_cluster.new_database())
    with subprocess.Popen(
        [sys.executable, "-c", WRITES_UNTIL_KILLED, url],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        acknowledged = [int(process.stdout.readline()) for _ in range(100)]
        postgres_cluster.kill()
        process.kill()
        rest = process.stdout.read().splitlines(keepends=True)
        acknowledged += [int(line) for line in rest if line.removesuffix("\n").isdigit() and line.endswith("\n")]
    await postgres_cluster.started()
    async with opened(url) as store:
        open_ids = {record.id for record in await store.unfinished()}
        for number in acknowledged:
            order = an_order(number)
            record = await store.connection(order.id)
            assert record is not None
            assert record.legs[0].dialed_at == T0
            assert (order.id in open_ids) == (number % 2 == 0)
            assert [each.event for each in await store.entries(order.id)] == ["note_0", "note_1", "note_2"]


# --- alive, and refusing ---


@contextmanager
def locked(cluster: Cluster, database: str) -> Iterator[None]:
    with psycopg.connect(host=str(cluster.folder), port=cluster.port, user="postgres", dbname=database) as other:
        other.execute("LOCK TABLE connection IN ACCESS EXCLUSIVE MODE")
        yield
        other.rollback()


async def test_locked_is_refused_and_nothing_journalled_is_lost(shared_cluster: Cluster, postgres_url: str) -> None:
    async with opened(postgres_url) as store:
        await store.record(ORDER)
        with locked(shared_cluster, postgres_url.rpartition("/")[2]):
            store.journal(entry(1))
            assert "is locked by another session" in str(await refused(store.record(an_order(2))))
            await refused(store.settle(ORDER.id, Connection(Terms()), Outcome.COMPLETED, at=T0))
        await writable(store)
        assert await store.entries(ORDER.id) == [entry(1)]
        await store.settle(ORDER.id, Connection(Terms()), Outcome.COMPLETED, at=T0)
        assert await store.unfinished() == []


async def test_a_bad_row_hides_no_lock(shared_cluster: Cluster, postgres_url: str) -> None:
    """Row by row, a lock was told as a transaction that is aborted, and a deadlock was not tried once more."""
    bad = replace(an_order(1), lead=replace(an_order(1).lead, city="\0"))
    async with opened(postgres_url) as store:
        with psycopg.connect(postgres_url) as other:
            other.execute("LOCK TABLE mail IN EXCLUSIVE MODE")
            recorded, kept = await asyncio.gather(
                store.record(bad), store.keep_mail(Mail("<1@x>", "a@x", "s", "", b""), at=T0), return_exceptions=True
            )
            other.rollback()
        assert "is locked by another session" in str(kept)
        assert "is locked by another session" in str(recorded)
        await writable(store)


async def test_read_only_is_refused_until_it_is_over(postgres_cluster: Cluster) -> None:
    async with opened(postgres_cluster.url(postgres_cluster.new_database())) as store:
        await store.record(ORDER)
        for value in ("on", "off"):
            postgres_cluster.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
            postgres_cluster.execute("SELECT pg_reload_conf()")
            if value == "on":

                async def is_refused() -> bool:
                    try:
                        await store.keep_mail(Mail("<1@x>", "ana@example.com", "Hola", "", b"x"), at=T0)
                    except StoreError as error:
                        assert "can't be written, its server is read-only" in str(error)  # noqa: PT017
                        return True
                    return False

                await until(is_refused, limit_s=RECOVERY_S)
                store.journal(entry(1))
                assert len(await store.connections()) == 1
        await writable(store)
        assert await store.entries(ORDER.id) == [entry(1)]


async def test_no_connection_left_is_said_and_waited_for(postgres_cluster: Cluster) -> None:
    name = postgres_cluster.new_database()
    async with opened(postgres_cluster.url(name)) as store:
        await store.record(ORDER)
        postgres_cluster.execute(f"ALTER DATABASE {name} CONNECTION LIMIT 0")
        postgres_cluster.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}' AND usename = '{USER}'"
        )
        store.journal(entry(1))
        await refused(store.record(an_order(2)))

        async def is_said() -> bool:
            return "its server has no connection left" in "".join(store.problems())

        await until(is_said, limit_s=RECOVERY_S)
        postgres_cluster.execute(f"ALTER DATABASE {name} CONNECTION LIMIT -1")
        await writable(store)
        assert await store.entries(ORDER.id) == [entry(1)]


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 32 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system wants root")
    folder = Path(tempfile.mkdtemp(prefix="dosvoces-small-"))
    folder.chmod(0o755)
    command = ["mount", "-t", "tmpfs", "-o", "size=32m,mode=0777", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    assert mounted.returncode == 0, mounted.stderr
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
    folder.rmdir()


def fill(ballast: Path) -> None:
    """Write until there is no room left."""
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    assert shutil.disk_usage(ballast.parent).free < 4096


async def test_a_full_disk_is_refused_and_recovers(postgres_cluster: Cluster, small_disk: Path) -> None:
    space = small_disk / "space"
    space.mkdir()
    owner = postgres_cluster.folder.stat()
    os.chown(space, owner.st_uid, owner.st_gid)
    postgres_cluster.execute(f"CREATE TABLESPACE small LOCATION '{space}'")
    postgres_cluster.execute(f"GRANT CREATE ON TABLESPACE small TO {USER}")
    name = postgres_cluster.new_database("TABLESPACE small")
    async with opened(postgres_cluster.url(name)) as store:
        await store.record(ORDER)
        ballast = small_disk / "ballast"
        fill(ballast)
        store.journal(entry(1))
        large = Mail("<1@x>", "ana@example.com", "Hola", "", os.urandom(2_000_000))
        assert "can't grow, its disk is full" in str(await refused(store.keep_mail(large, at=T0)))
        ballast.unlink()
        await writable(store)
        assert await store.entries(ORDER.id) == [entry(1)]
        await store.keep_mail(large, at=T0)
        assert [mail.content for mail in await store.mails()] == [large.content]
    postgres_cluster.drop_database(name)
    postgres_cluster.execute("DROP TABLESPACE small")


# --- at the start ---


async def test_what_is_wrong_with_the_address_is_said(shared_cluster: Cluster, postgres_url: str) -> None:
    port = str(shared_cluster.port)
    said = {
        "can't be reached, its user or password is wrong": postgres_url.replace("s3cret", "other"),
        "can't be reached, there is no such database": shared_cluster.url("nowhere"),
        "(connection to server": postgres_url.replace(port, str(free_port())),
        "failed to resolve host": postgres_url.replace(HOST, "nowhere.invalid"),
        "server does not support SSL, but SSL was required": f"{postgres_url}?sslmode=require",
        "is not ours to use: GRANT its user": shared_cluster.url("postgres"),
    }
    for words, url in said.items():
        assert words in await refusal(url)


async def test_a_server_that_is_too_old_is_said(postgres_url: str) -> None:
    store = SqlStore(server(postgres_url, oldest_version=99))
    with pytest.raises(StoreError, match=r"is PostgreSQL \d+.*: it must be 99 or newer"):
        await store.open()


async def test_a_database_that_cannot_hold_all_names_is_said(shared_cluster: Cluster) -> None:
    name = shared_cluster.new_database("ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    assert "is encoded as LATIN1, which can't hold all names" in await refusal(shared_cluster.url(name))
    shared_cluster.drop_database(name)


async def test_a_reader_makes_no_record(postgres_url: str) -> None:
    assert "there is no record in postgresql://" in await refusal(postgres_url, reader=True)


async def test_a_newer_record_is_left_alone(shared_cluster: Cluster, postgres_url: str) -> None:
    async with opened(postgres_url):
        pass
    shared_cluster.execute("UPDATE alembic_version SET version_num = '9999'", postgres_url.rpartition("/")[2])
    assert "it was written by a newer Dosvoces" in await refusal(postgres_url)
    assert "is at version 9999, this program reads" in await refusal(postgres_url, reader=True)


async def test_nodes_that_start_together_make_the_tables_once(postgres_url: str) -> None:
    stores = [open_store(postgres_url) for _ in range(4)]
    await asyncio.gather(*(store.open() for store in stores))
    await asyncio.gather(*(store.record(an_order(number)) for number, store in enumerate(stores)))
    assert len(await stores[0].connections()) == 4
    for store in stores:
        await store.close()


async def test_what_an_operator_should_know_of_a_server(shared_cluster: Cluster, postgres_url: str) -> None:
    name = postgres_url.rpartition("/")[2]
    async with opened(postgres_url) as store:
        assert [(concern.text.partition(":")[0], concern.stops) for concern in await store.concerns()] == [
            ("fsync is off", False),
            ("full_page_writes is off", False),
        ]
    shared_cluster.execute(f"REVOKE DELETE ON mail FROM {USER}", name)
    shared_cluster.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    store = open_store(postgres_url, reader=True)
    await store.open()
    assert [concern.text for concern in await store.concerns() if concern.stops] == [
        "the database is read-only",
        "its user has not all rights on mail",
    ]
    await store.close()


def restore(old: str, new: str) -> None:
    """As an operator does, from a copy."""
    dump, load = (str(max(PROGRAMS.glob(f"*/bin/{name}"))) for name in ("pg_dump", "psql"))
    dumped = subprocess.run([dump, old], capture_output=True, check=True, timeout=60).stdout
    subprocess.run([load, "-q", new], input=dumped, capture_output=True, check=True, timeout=60)


async def test_a_record_that_was_restored_into_another_cluster_is_followed_on(
    shared_cluster: Cluster, postgres_cluster: Cluster
) -> None:
    """A transaction's id gives an entry its place, and those of a new cluster begin anew."""
    old, new = (cluster.url(cluster.new_database()) for cluster in (shared_cluster, postgres_cluster))
    async with opened(old) as store:
        await store.record(ORDER)
        for number in range(3):
            store.journal(entry(number))
            assert await store.connection(ORDER.id)  # Each in a commit of its own.
        before = [each for _, each in await store.feed.since(BEGINNING, limit=10)]
    shared_cluster.execute("UPDATE journal SET position = position + 1000000", old.rpartition("/")[2])
    restore(old, new)
    async with opened(new) as store:
        assert [each for _, each in await store.feed.since(BEGINNING, limit=10)] == before
        end = await store.feed.end()
        store.journal(entry(3))
        assert [each for _, each in await store.feed.since(end, limit=10)] == [entry(3)]
        end = await store.feed.end()
    async with opened(new) as store:
        assert await store.feed.end() == end
