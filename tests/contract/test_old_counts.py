"""Counters of days that are over, on every database: they go, and nothing that is asked for misses them."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Row, select, update

from dosvoces.core import Connection, Terms
from dosvoces.dialplan.rates import MILLION, Rate, Rates
from dosvoces.errors import CeilingReached
from dosvoces.model import Asker, Outcome
from dosvoces.store.budget import Budget
from dosvoces.store.ceilings import Ceilings, Most
from dosvoces.store.limits import NO_QUOTA, Quota
from dosvoces.store.sql import SqlStore, open_roll, open_store
from dosvoces.store.tables import reserved, spent
from dosvoces.testing import T0, an_order

DAY = timedelta(days=1)
RATES = Rates("EUR", {"34": Rate(minute=MILLION)})
COUNTED = Quota(
    ceilings=Ceilings(calls=Most(per_hour=2, per_day=50), number=Most(per_day=1)),
    budget=Budget(100_000, 10_000 * MILLION, RATES, 60),
)
ORDER = replace(an_order(1), asker=Asker("k", "192.0.2.9"))


async def opened(url: str, quota: Quota) -> SqlStore:
    store = open_store(url, quota=quota)
    await store.open()
    return store


async def rows(url: str, table: Any) -> list[Row[Any]]:
    roll = open_roll(url)
    try:
        return list(await roll._do(lambda db: db.execute(select(table)).all()))
    finally:
        await roll.close()


async def set_back(url: str, by: timedelta) -> None:
    """As if all that was counted had been so much earlier."""
    roll = open_roll(url)

    def change(db: Any) -> None:
        for counter, since in db.execute(select(spent.c.counter, spent.c.since)).all():
            db.execute(update(spent).where(spent.c.counter == counter).values(since=since - by))
        for (day,) in db.execute(select(reserved.c.day)).all():
            db.execute(update(reserved).values(day=day - by))

    await roll._do(change)
    await roll.close()


async def test_what_was_counted_goes_when_its_day_is_long_over(record_url: str) -> None:
    store = await opened(record_url, COUNTED)
    await store.record(ORDER)
    counters = {row.counter for row in await rows(record_url, spent)}
    assert counters == {
        *("calls/hour", "calls/day", "number/day +34600000011", "number/day +34960000022"),
        *("minutes/day", "money/day"),
    }
    assert await store.forget_counts(limit=100) == 0
    await set_back(record_url, DAY)  # Of yesterday: a clock that was a little ahead may come back to it.
    assert await store.forget_counts(limit=100) == 0
    await set_back(record_url, 2 * DAY)
    assert [await store.forget_counts(limit=4) for _ in range(3)] == [5, 2, 0]
    assert await rows(record_url, spent) == await rows(record_url, reserved) == []
    # What was open all the time ends as it would have; its day is nobody's any more.
    await store.settle(ORDER.id, Connection(Terms()), Outcome.CANCELLED, at=T0)
    assert await rows(record_url, spent) == []
    await store.close()


async def test_what_still_counts_stays(record_url: str) -> None:
    store = await opened(record_url, COUNTED)
    await store.record(ORDER)
    await set_back(record_url, 3 * DAY)
    later = replace(an_order(2, first="+34600000012"), asker=ORDER.asker)
    await store.record(later)  # Its counters begin anew, but for the first one's number.
    assert await store.forget_counts(limit=100) == 2
    assert "number/day +34600000011" not in {row.counter for row in await rows(record_url, spent)}
    assert [row.connection_id for row in await rows(record_url, reserved)] == [later.id]
    with pytest.raises(CeilingReached):
        await store.record(replace(an_order(3, first="+34600000012"), asker=ORDER.asker))
    await store.close()


async def test_counters_of_settings_that_are_no_more_go_too(record_url: str) -> None:
    store = await opened(record_url, COUNTED)
    await store.record(ORDER)
    await store.close()
    await set_back(record_url, 3 * DAY)
    store = await opened(record_url, NO_QUOTA)
    assert await store.forget_counts(limit=100) == 7
    assert await rows(record_url, spent) == await rows(record_url, reserved) == []
    await store.close()
