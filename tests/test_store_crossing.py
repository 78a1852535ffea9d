"""Two nodes of one PostgreSQL that write the same in another order at once: neither is ended for the other's sake."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from hashlib import sha256
from typing import Any

import psycopg
import pytest

from dosvoces.errors import AlreadyRecorded
from dosvoces.model import Asker, Order, Repeats
from dosvoces.store import repeats
from dosvoces.store.ceilings import LOCK, Ceilings, Most
from dosvoces.store.limits import NO_QUOTA, Quota
from dosvoces.store.sql import SqlStore, open_store
from dosvoces.testing import T0, an_order, until
from tests.postgres import Cluster

MANY = 120
LIMIT_S = 30.0


@asynccontextmanager
async def nodes(url: str, quota: Quota = NO_QUOTA) -> AsyncIterator[list[SqlStore]]:
    stores = [open_store(url, quota=quota) for _ in range(2)]
    for store in stores:
        await store.open()
    try:
        yield stores
    finally:
        for store in stores:
            await store.close()


def order(number: int, what: int, *, keyed: bool, **more: Any) -> Order:
    """The request for `what`, in one of its tries."""
    key = f"k{what}" if keyed else None
    asked = replace(an_order(number, key=key, at=T0), fingerprint=sha256(b"%d" % what).hexdigest())
    return replace(asked, repeats=Repeats(coalesce_s=30), **more)


async def deadlocks(cluster: Cluster, url: str) -> int:
    """How many this database had, once all of its sessions have told theirs."""
    name = url.rpartition("/")[2]

    async def over() -> bool:
        return not cluster.execute(f"SELECT 1 FROM pg_stat_activity WHERE datname = '{name}'")

    await until(over, limit_s=LIMIT_S)
    ((count,),) = cluster.execute(f"SELECT deadlocks FROM pg_stat_database WHERE datname = '{name}'")
    return int(count)


async def tried(store: SqlStore, orders: list[Order]) -> Counter[str]:
    told = await asyncio.gather(*(store.record(each) for each in orders), return_exceptions=True)
    return Counter("taken" if answer is None else type(answer).__name__ for answer in told)


@pytest.mark.parametrize("kind", ["without a key", "under a key", "counted"])
async def test_batches_of_the_same_in_opposite_orders_wait_for_each_other_in_turn(
    shared_cluster: Cluster, postgres_url: str, kind: str
) -> None:
    quota = Quota(ceilings=Ceilings(calls=Most(per_day=100_000))) if kind == "counted" else NO_QUOTA
    told: Counter[str] = Counter()
    async with nodes(postgres_url, quota) as (one, other):
        for start in range(0, 3 * MANY, MANY):
            asked = range(start, start + MANY)
            # Where calls are counted, trial runs, which aren't, come between.
            terms = [{"test": kind == "counted" and bool(what % 3), "asker": Asker()} for what in asked]
            keyed = kind == "under a key"
            there = [order(2 * what, what, keyed=keyed, **t) for what, t in zip(asked, terms, strict=True)]
            back = [order(2 * what + 1, what, keyed=keyed, **t) for what, t in zip(asked, terms, strict=True)]
            for each in await asyncio.gather(tried(one, there), tried(other, back[::-1])):
                told += each
    assert told == Counter({"taken": 3 * MANY, AlreadyRecorded.__name__: 3 * MANY})
    assert await deadlocks(shared_cluster, postgres_url) == 0


async def test_a_commit_that_was_ended_for_another_session_is_tried_again(
    shared_cluster: Cluster, postgres_url: str
) -> None:
    """Whatever else takes locks in that database, an operator's session, say."""
    first, second = sorted([order(1, 1, keyed=True), order(2, 2, keyed=True)], key=lambda each: repeats.locks(each))
    (low,), (high,) = repeats.locks(first), repeats.locks(second)
    async with nodes(postgres_url) as (store, _):
        session = await psycopg.AsyncConnection.connect(postgres_url)
        try:
            await session.execute("SELECT pg_advisory_xact_lock(%s)", [high])
            writing = asyncio.create_task(tried(store, [first, second]))

            async def waits() -> bool:
                return bool(
                    shared_cluster.execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
                )

            await until(waits, limit_s=LIMIT_S)
            # The store's session waited first, and is the first to look whether that has an end.
            await session.execute("SELECT pg_advisory_xact_lock(%s)", [low])
            await session.commit()
            assert await writing == Counter({"taken": 2})
        finally:
            await session.close()
    assert await deadlocks(shared_cluster, postgres_url) == 1


def test_what_is_the_same_has_one_lock_and_all_have_theirs_in_64_bits() -> None:
    assert repeats.locks(order(1, 7, keyed=True)) == repeats.locks(order(2, 7, keyed=True))
    assert repeats.locks(order(1, 7, keyed=False)) == repeats.locks(order(2, 7, keyed=False))
    assert repeats.locks(replace(order(1, 7, keyed=False), repeats=Repeats())) == ()
    for what in range(200):
        for keyed in (True, False):
            (lock,) = repeats.locks(order(1, what, keyed=keyed))
            assert -(1 << 63) <= lock < 1 << 63
            assert lock != LOCK
