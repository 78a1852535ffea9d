"""What is old is swept: leads sooner than connections, all of them once a day."""

from datetime import UTC, datetime, timedelta
from typing import Any

from dosvoces.deferred.retention import EVERYTHING, LOOK_BACK, Retention, work_of
from dosvoces.model import ConnectionId, connection_id

NOW = datetime(2026, 3, 2, 10, 30, tzinfo=UTC)


class Engine:
    async def forget(self, ended_before: datetime) -> int:
        return 0


FIRST, NEXT, MAILS = connection_id(EVERYTHING, 0), connection_id(NOW, 1), 7


class Store:
    """Has two looks' worth of connections, and mails for one more, for the first sweep."""

    def __init__(self) -> None:
        self.left: list[tuple[int, ConnectionId | None]] = [(0, NEXT), (MAILS, None), (0, None)]
        self.asked: list[tuple[datetime, ConnectionId]] = []
        self.forgotten: list[datetime] = []

    async def blank_leads(
        self, *, before: datetime, since: ConnectionId, limit: int
    ) -> tuple[int, ConnectionId | None]:
        self.asked.append((before, since))
        return self.left.pop(0) if self.left else (0, None)

    async def forget(self, *, before: datetime, limit: int) -> int:
        self.forgotten.append(before)
        return 0


async def test_leads_go_before_connections_and_all_are_looked_at_once_a_day() -> None:
    store: Any = Store()
    engine: Any = Engine()
    now = [NOW]
    sweep = Retention(store, lambda: engine, timedelta(days=400), lambda: now[0], leads=timedelta(days=30))
    for hours in (0, 1, 24):
        now[0] = NOW + timedelta(hours=hours)
        assert await sweep.forget(work_of(now[0])) is None
    first, second, third = (NOW + timedelta(hours=hours) - timedelta(days=30) for hours in (0, 1, 24))
    assert store.asked == [
        *[(first, FIRST), (first, NEXT), (first, NEXT)],
        (second, connection_id(first - LOOK_BACK, 0)),
        (third, FIRST),
    ]
    assert store.forgotten == [NOW + timedelta(hours=hours) - timedelta(days=400) for hours in (0, 1, 24)]


async def test_without_limits_nothing_of_the_record_goes() -> None:
    store: Any = Store()
    engine: Any = Engine()
    await Retention(store, lambda: engine, None, lambda: NOW).forget(work_of(NOW))
    assert (store.asked, store.forgotten) == ([], [])
