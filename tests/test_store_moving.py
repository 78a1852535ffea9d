"""A record is moved whole or not at all, and goes on in its new place as if it had always been there."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from dosvoces import cli
from dosvoces.core import Connection, Leg, LegState, Terms
from dosvoces.errors import StoreError
from dosvoces.mail import Mail
from dosvoces.model import EndReason, NodeId, Outcome
from dosvoces.store import Entry
from dosvoces.store.moving import BATCH_ROWS, move_record
from dosvoces.store.reports import EVENTS
from dosvoces.store.roll import Identity
from dosvoces.store.sql import SqlStore, open_database, open_roll, open_store
from dosvoces.store.tables import metadata
from dosvoces.testing import T0, A, an_order

NODE = NodeId("0" * 26)
LONG_AGO = "2020-01-01T00:00:00.000000+00:00"
CONNECTIONS = BATCH_ROWS + 7


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'old.db'}"


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[SqlStore]:
    store = open_store(url, node=NODE, reported=EVENTS)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def filled(url: str) -> None:
    """A record with rows of every kind that the store writes, some of them gone again."""
    async with opened(url) as store:
        for number in range(CONNECTIONS):
            store.journal(
                Entry(an_order(number).id, T0 + timedelta(microseconds=number), "note", A, "a", "b", {"n": 1})
            )
            await store.record(an_order(number, key=f"k{number}" if number % 2 else None))
        order = an_order(1)
        await store.intend_dial(order, A, attempt=1, at=T0)
        leg = Leg(LegState.ENDED, T0, T0, None, T0, True, EndReason.HANGUP, "ñ €")
        state = Connection(Terms(), a=leg, started_at=T0)
        await store.settle(order.id, state, Outcome.SECOND_BUSY, at=T0 + timedelta(microseconds=1))
        store.keep_capture(order.id, bytes(range(256)))
        for number in range(3):
            mail = Mail(f"<{number}@x>", "ana@example.com", "Ático", "Hola", bytes(range(256)))
            await store.keep_mail(mail, at=T0)
        roll = open_roll(url)
        await roll.join(Identity(NODE, "gone", "host", 1, 1 << 40, "place", "1.0", 10))
        await roll.close()
        await store.change(lambda cursor, _: cursor.execute(f"UPDATE node SET beat_at = '{LONG_AGO}'"))


def rows(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """All that is in a record."""
    database = open_database(url)
    engine = database.attach()
    with engine.connect() as db:
        found = {
            table.name: sorted(map(tuple, db.execute(select(table))), key=repr) for table in metadata.sorted_tables
        }
    engine.dispose()
    return found


async def move(source: str, target: str) -> dict[str, int]:
    return move_record(open_database(source), open_database(target), lambda _: None).rows


async def test_every_row_arrives_as_it_was(sqlite_url: str, postgres_url: str) -> None:
    await filled(sqlite_url)
    before = rows(sqlite_url)
    moved = await move(sqlite_url, postgres_url)
    assert {name: len(found) for name, found in before.items()} == moved
    assert moved["connection"] == CONNECTIONS
    assert {name for name, count in moved.items() if count} >= {"connection", "leg", "journal", "mail", "capture"}
    assert rows(postgres_url) == before == rows(sqlite_url)


async def test_a_record_goes_on_in_its_new_place(sqlite_url: str, postgres_url: str) -> None:
    """Also with the numbers of mails: one that was shown once means that mail for ever."""
    await filled(sqlite_url)
    async with opened(sqlite_url) as store:
        await store.change(lambda cursor, _: cursor.execute("DELETE FROM mail WHERE number = 3"))
    await move(sqlite_url, postgres_url)
    async with opened(postgres_url) as store:
        await store.keep_mail(Mail("<new@x>", "ana@example.com", "", "", b""), at=T0)
        assert [mail.number for mail in await store.mails()] == [4, 2, 1]
        await store.intend_dial(an_order(2), A, attempt=1, at=T0)
        store.journal(Entry(an_order(2).id, T0, "later", None, "a", "b"))
        assert [entry.event for entry in await store.entries(an_order(2).id)][-1] == "later"


async def test_a_record_can_come_back(sqlite_url: str, postgres_url: str, tmp_path: Path) -> None:
    await filled(sqlite_url)
    await move(sqlite_url, postgres_url)
    back = f"sqlite:///{tmp_path / 'back.db'}"
    await move(postgres_url, back)
    assert rows(back) == rows(sqlite_url)
    async with opened(back) as store:
        await store.keep_mail(Mail("<new@x>", "ana@example.com", "", "", b""), at=T0)
        assert [mail.number for mail in await store.mails(limit=1)] == [4]


async def test_nothing_is_moved_from_under_a_service(sqlite_url: str, postgres_url: str) -> None:
    async with opened(sqlite_url):
        with pytest.raises(StoreError, match="is in use by another Dosvoces"):
            await move(sqlite_url, postgres_url)
    await move(sqlite_url, postgres_url)
    assert sum(map(len, rows(postgres_url).values())) == 0


async def test_nothing_is_moved_to_or_from_a_server_that_a_node_uses(sqlite_url: str, postgres_url: str) -> None:
    await filled(sqlite_url)
    async with opened(postgres_url):
        roll = open_roll(postgres_url)
        await roll.join(Identity(NODE, "here", "host", 77, 1, "place", "1.0", 10))
        for source, target in ((sqlite_url, postgres_url), (postgres_url, f"{sqlite_url}.new")):
            with pytest.raises(StoreError, match=r"is in use by the node here \(process 77\): stop the service"):
                await move(source, target)
        await roll.close()


async def test_what_is_not_empty_is_left_alone(sqlite_url: str, postgres_url: str) -> None:
    await filled(sqlite_url)
    async with opened(postgres_url) as store:
        await store.record(an_order(9999))
    before = rows(postgres_url)
    with pytest.raises(StoreError, match="is not empty, there are rows in connection: name an empty database"):
        await move(sqlite_url, postgres_url)
    assert rows(postgres_url) == before


async def test_a_move_that_fails_leaves_nothing_behind(sqlite_url: str, postgres_url: str) -> None:
    """SQLite takes a NUL in a text, PostgreSQL doesn't."""
    await filled(sqlite_url)
    async with opened(sqlite_url) as store:
        await store.change(lambda cursor, _: cursor.execute("UPDATE journal SET event = 'a' || char(0) WHERE seq = 1"))
    with pytest.raises(StoreError, match="NUL"):
        await move(sqlite_url, postgres_url)
    assert sum(map(len, rows(postgres_url).values())) == 0


def test_the_command_tells_what_it_did(sqlite_url: str, postgres_url: str) -> None:
    asyncio.run(filled(sqlite_url))
    ran = CliRunner().invoke(cli.app, ["migrate-data", "--from", sqlite_url, "--to", postgres_url])
    assert ran.exit_code == 0, ran.output
    assert f"connection: {CONNECTIONS} rows" in ran.output
    assert "s3cret" not in ran.output
    assert "are there, each as it was" in ran.output
    assert ["record.move" in row for row in rows(postgres_url)["audit"]] == [True]


async def test_a_record_that_is_not_there_is_said(postgres_url: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no record at"):
        await move(f"sqlite:///{tmp_path / 'none.db'}", postgres_url)
    assert os.listdir(tmp_path) == []
