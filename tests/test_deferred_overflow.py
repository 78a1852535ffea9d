"""An order that finds its node full: where it goes, and what its client is answered from the record."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from dosvoces.core import Answer, AnswerKind
from dosvoces.deferred.overflow import NOBODY, PATIENCE, Overflow
from dosvoces.errors import NotNow
from dosvoces.model import NodeId, Order, Outcome
from dosvoces.store.sql import SqlStore, open_store
from dosvoces.testing import T0, an_order
from tests.web_fakes import FakeConnector

ORDER = an_order(1)
FULL, OTHER = NotNow("full", full=True), NotNow("no trunk")


@dataclass
class Desk:
    """Keeps orders in a record, and lets what happens there happen."""

    store: SqlStore
    becomes: Outcome | None = None
    orders: list[Order] = field(default_factory=list)

    async def schedule(self, order: Order) -> None:
        self.orders.append(order)
        await self.store.record(order, waits=True)
        if self.becomes is not None:
            await self.store.waiting.end(order.id, self.becomes, by="expiry", at=T0)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    record = open_store(f"sqlite:///{tmp_path / 'record.db'}", node=NodeId("n1"))
    await record.open()
    yield record
    await record.close()


def overflow(desk: Desk, error: Exception | None, *, room: bool = True, late: bool = False) -> Overflow:
    here = FakeConnector() if error is None else FakeConnector(error)
    times = iter([T0, *[T0 + PATIENCE] * 10]) if late else iter([T0] * 10)
    return Overflow(
        here,
        store=desk.store,
        schedule=desk.schedule,
        others_have_room=lambda: room,
        now=lambda: next(times),
    )


async def test_with_room_here_nothing_is_different(store: SqlStore) -> None:
    desk = Desk(store)
    assert await overflow(desk, None).connect(ORDER) == Answer(AnswerKind.MADE)
    assert desk.orders == []


@pytest.mark.parametrize(("error", "room"), [(FULL, False), (OTHER, True)])
async def test_what_no_other_node_would_do_better_is_refused(store: SqlStore, error: NotNow, room: bool) -> None:
    desk = Desk(store)
    for ask in (overflow(desk, error, room=room).connect, overflow(desk, error, room=room).accept):
        with pytest.raises(NotNow, match=str(error)):
            await ask(ORDER)
    assert desk.orders == []


async def test_what_no_node_began_in_time_is_refused_and_never_begun(store: SqlStore) -> None:
    desk = Desk(store)
    with pytest.raises(NotNow, match=NOBODY):
        await overflow(desk, FULL, late=True).connect(ORDER)
    assert desk.orders == [replace(ORDER, expires_at=T0 + PATIENCE)]
    record = await store.connection(ORDER.id)
    assert record is not None
    assert record.outcome == "refused"
    assert not await store.waiting.claim(ORDER)


async def test_what_was_refused_elsewhere_is_refused(store: SqlStore) -> None:
    with pytest.raises(NotNow, match=NOBODY):
        await overflow(Desk(store, becomes=Outcome.REFUSED), FULL).connect(ORDER)


async def test_what_is_not_waited_for_has_all_the_time(store: SqlStore) -> None:
    desk = Desk(store)
    await overflow(desk, FULL).accept(ORDER)
    assert desk.orders == [ORDER]
