"""What a dead process left: hung up before anything else, however much it was."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Connection as Database

from dosvoces.carriers import Leftover, Released
from dosvoces.core import Connection, Terms
from dosvoces.model import NodeId, Outcome
from dosvoces.recovery import READ_AT_ONCE, Leftovers
from dosvoces.store import ConnectionRecord, Entry
from dosvoces.store.sql import SqlStore, open_database
from dosvoces.testing import T0, A, B, an_order


class Counting(SqlStore):
    asked = 0

    async def ask(self, question: Callable[[Database], Any]) -> Any:
        self.asked += 1
        return await super().ask(question)


class Releasing:
    """A carrier that notes what it takes back, and how much had been asked by then."""

    def __init__(self, store: Counting) -> None:
        self.store = store
        self.released: list[tuple[Leftover, int]] = []

    async def take_back(self, leftover: Leftover) -> Released:
        self.released.append((leftover, self.store.asked))
        return Released.HUNG_UP


async def test_many_that_a_process_left_are_not_hung_up_one_by_one(tmp_path: Path) -> None:
    """A question to the record for each of them would keep hundreds of people on dead lines for many seconds."""
    count = 2 * READ_AT_ONCE + 1
    orders = [an_order(number) for number in range(count)]
    store = Counting(open_database(f"sqlite:///{tmp_path / 'record.db'}"))
    await store.open()
    await asyncio.gather(*(store.record(order) for order in orders))
    dials = [(order, side) for order in orders for side in (A, B)]
    await asyncio.gather(
        *(store.intend_dial(order, side, attempt=1, at=T0, facts={"call_id": order.id}) for order, side in dials)
    )
    over = orders[0]
    store.journal(Entry(over.id, T0, "ended", A, "a", "b"))
    store.journal(Entry(over.id, T0, "dialog", B, "a", "a", {"tag": "7"}))
    carrier: Any = Releasing(store)
    leftovers = Leftovers(store, lambda record: carrier, lambda: T0 + timedelta(seconds=9), lambda order: False)
    store.asked = 0
    await leftovers.settle()
    wanted = {
        (order.id, side): ([{"call_id": order.id}], {"tag": "7"} if order is over else None)
        for order, side in dials
        if (order, side) != (over, A)
    }
    assert {(leg.connection_id, leg.side): (list(leg.dials), leg.dialog) for leg, _ in carrier.released} == wanted
    assert [asked for _, asked in carrier.released] == sorted(asked for _, asked in carrier.released)
    # Which they are, twice, and the history of so many each.
    assert {asked for _, asked in carrier.released} == {3, 4, 5}
    await leftovers.close()
    await store.close()


class EndsMeanwhile(SqlStore):
    """A connection that is under way ends while the open ones are being read."""

    live = frozenset({an_order(1).id})

    async def unfinished(self, *, owner: NodeId | None = None) -> list[ConnectionRecord]:
        found = await super().unfinished(owner=owner)
        over = Connection(Terms(), outcome=Outcome.COMPLETED)
        await self.settle(an_order(1).id, over, Outcome.COMPLETED, at=T0)
        self.live = frozenset()
        return found


async def test_of_a_call_that_ends_well_meanwhile_nothing_else_is_told(tmp_path: Path) -> None:
    store = EndsMeanwhile(open_database(f"sqlite:///{tmp_path / 'record.db'}"))
    await store.open()
    await store.record(an_order(1))
    leftovers = Leftovers(store, lambda record: None, lambda: T0, lambda connection: connection in store.live)
    await leftovers.settle()
    assert await store.entries(an_order(1).id) == []
    record = await store.connection(an_order(1).id)
    assert record is not None
    assert record.outcome == Outcome.COMPLETED
    await leftovers.close()
    await store.close()
