"""The contract of `Feed`, clause by clause, on every store there is."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

import psycopg
import pytest

from dosvoces.model import ConnectionId, NodeId
from dosvoces.store import Entry
from dosvoces.store.feed import BEGINNING, Feed, Position
from dosvoces.store.sql import SqlStore, open_store
from dosvoces.testing import T0, an_order, until

ONE, TWO = an_order(1), an_order(2)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[SqlStore]:
    store = open_store(url, node=NodeId("n1"))
    await store.open()
    await store.record(ONE)
    await store.record(TWO)
    yield store
    await store.close()


@pytest.fixture
async def store(record_url: str) -> AsyncIterator[SqlStore]:
    async with opened(record_url) as store:
        yield store


def note(store: SqlStore, connection: ConnectionId, event: str) -> None:
    store.journal(Entry(connection, T0, event, None, "joined", "joined", {}))


async def told(feed: Feed, position: Position = BEGINNING, upto: Position | None = None) -> list[str]:
    return [entry.event for _, entry in await feed.since(position, limit=100, upto=upto)]


async def test_all_journals_are_one_in_the_order_of_their_commits(store: SqlStore) -> None:
    assert await store.feed.end() == BEGINNING
    for event, order in (("a", TWO), ("b", ONE), ("c", TWO)):
        note(store, order.id, event)
        assert store.feed.news.is_set()
        await store.entries(order.id)  # Commits it.
    assert await told(store.feed) == ["a", "b", "c"]
    last = await store.feed.end()
    assert (last.connection_id, last.number) == (TWO.id, 2)
    assert await told(store.feed, last) == []
    middle = await store.feed.position_of(ONE.id, 1)
    assert middle is not None
    assert await told(store.feed, middle) == ["c"]
    assert await told(store.feed, BEGINNING, middle) == ["a", "b"]
    assert await store.feed.position_of(ONE.id, 9) is None


async def test_a_page_ends_anywhere_and_the_next_goes_on_from_there(store: SqlStore) -> None:
    for number in range(20):
        note(store, (ONE, TWO)[number % 2].id, f"e{number}")
    position, seen = BEGINNING, list[tuple[str, int]]()
    while page := await store.feed.since(position, limit=3):
        seen += [(entry.connection_id, entry.number) for _, entry in page]
        position = page[-1][0]
    assert sorted(seen) == [(order.id, number) for order in (ONE, TWO) for number in range(1, 11)]
    assert [n for of, n in seen if of == ONE.id] == list(range(1, 11))
    assert position == await store.feed.end()


async def test_what_is_committed_late_comes_late_and_is_not_skipped(postgres_url: str) -> None:
    """Two nodes: one begins to write, the other writes and is read, then the first one commits."""
    async with opened(postgres_url) as store:
        with closing(psycopg.connect(postgres_url)) as other:
            other.execute(
                "INSERT INTO journal (connection_id, seq, at, event, before, after, position) VALUES"
                " (%s, 1, now(), 'slow', 'joined', 'joined', pg_current_xact_id()::text::bigint + 1099511627776)",
                [ONE.id],
            )
            note(store, TWO.id, "quick")
            assert [entry.event for entry in await store.entries(TWO.id)] == ["quick"]
            # Shown now, it would stand where `slow` belongs before it.
            assert await told(store.feed) == []
            assert await store.feed.position_of(TWO.id, 1) is None
            await asyncio.to_thread(other.commit)

        async def both() -> bool:
            return await told(store.feed) == ["slow", "quick"]

        await until(both, limit_s=20)
