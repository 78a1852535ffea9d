"""A connection that waits, and the hours in which its parties are called."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from dosvoces.deferred import Again
from dosvoces.deferred.waiting import NEVER_POLL_S, Waiting, work_of
from dosvoces.dialplan.hours import CallingHours, opening
from dosvoces.model import Order, PhoneNumber
from dosvoces.store.sql import SqlStore, open_store
from dosvoces.testing import an_order

NIGHT = datetime.fromisoformat("2026-11-23T02:00+01:00")
MOBILE, VALENCIA = (PhoneNumber(number, number) for number in ("+34600000011", "+34960000022"))


class Starter:
    """Begins everything."""

    def __init__(self) -> None:
        self.begun: list[Order] = []

    async def take(self, order: Order) -> bool:
        self.begun.append(order)
        return True


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    record = open_store(f"sqlite:///{tmp_path / 'record.db'}")
    await record.open()
    yield record
    await record.close()


@pytest.mark.parametrize(
    ("hours", "expires_in", "told"),
    [
        ("ES mon-fri 09:00-21:00", None, 8 * 3600.0),  # 10:00, as the mobile may be on the Canaries.
        ("ES mon-fri 09:00-21:00", timedelta(hours=1), 3600.0),
        ("ES mon-sun 03:00-04:00", None, NEVER_POLL_S),
        ("ES mon-sun 03:00-04:00", timedelta(hours=1), 3600.0),
        ("ES mon-fri 01:00-03:00", None, None),
    ],
)
async def test_it_comes_back_when_both_may_be_called(
    store: SqlStore, hours: str, expires_in: timedelta | None, told: float | None
) -> None:
    expires_at = None if expires_in is None else NIGHT + expires_in
    order = replace(an_order(1, at=NIGHT), first=MOBILE, second=VALENCIA, expires_at=expires_at)
    await store.record(order, waits=True)
    starter = Starter()
    waiting = Waiting(store, starter, lambda: NIGHT, CallingHours((opening(hours),)))
    again = await waiting.begin(work_of(order.id, None))
    assert again == (None if told is None else Again(told))
    assert len(starter.begun) == (told is None)
