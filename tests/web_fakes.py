"""What stands behind the HTTP door in tests: a connector that counts, a record in memory, a readiness to set."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, cast

from fastapi import FastAPI

from dosvoces.core import Answer, AnswerKind
from dosvoces.dialplan import NumberRules
from dosvoces.errors import AlreadyRecorded, NotAllowed
from dosvoces.model import ConnectionId, Order, Repeats
from dosvoces.store import EVERY, ConnectionRecord, Earlier, Entry, KeptMail, Wanted
from dosvoces.web import build_app
from dosvoces.web.feed import Listeners

NOW = datetime(2026, 3, 2, 10, 30, tzinfo=UTC)
RULES = NumberRules(own_numbers=frozenset({"+34960000000"}))


@dataclass
class FakeConnector:
    """Makes every connection at once, and counts what would have left the machine."""

    answer: Answer | Exception = field(default_factory=lambda: Answer(AnswerKind.MADE))
    orders: list[Order] = field(default_factory=list)
    answers: dict[ConnectionId, tuple[int, str]] = field(default_factory=dict)
    dials: int = 0
    mails: int = 0
    gate: asyncio.Event | None = None
    """If set, `connect` waits for it."""
    known: dict[str, Any] = field(default_factory=dict)
    """What the record has of a first request beside its answer: fields of `Earlier`."""
    waited_for: list[ConnectionId] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when an order is recorded."""
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when an answer is kept."""

    async def connect(self, order: Order) -> Answer:
        if isinstance(self.answer, Exception):
            raise self.answer
        if order.resumes is None and await self.repeated(order) is not None:
            raise AlreadyRecorded("a repeat")
        self.orders.append(order)
        self.arrived.set()
        if self.gate is not None:
            await self.gate.wait()
        self.mails += 1
        self.dials += 2
        return self.answer

    async def accept(self, order: Order) -> None:
        await self.connect(order)

    async def joined(self, connection_id: ConnectionId) -> None:
        self.waited_for.append(connection_id)
        if self.gate is not None:
            await self.gate.wait()

    def check(self, order: Order) -> None:
        if isinstance(self.answer, NotAllowed):
            raise self.answer

    async def repeated(self, order: Order) -> Earlier | None:
        same = [first for first in self.orders if _repeats(order, first)]
        if not same:
            return None
        status, body = self.answers.get(same[-1].id, (None, None))
        return replace(Earlier(same[-1].id, same[-1].fingerprint, status, body), **self.known)

    async def answer_of(self, connection_id: ConnectionId) -> Earlier | None:
        self.waited_for.append(connection_id)
        if self.gate is not None:
            await self.gate.wait()
        first = Earlier(connection_id, "", None, None)
        return replace(first, **self.known) if self.known else replace(first, answer=cast(Answer, self.answer))

    async def remember_answer(self, connection_id: ConnectionId, *, status: int, body: str) -> None:
        self.answers[connection_id] = status, body
        self.answered.set()


def _repeats(order: Order, first: Order) -> bool:
    if order.idempotency_key is not None:
        return first.idempotency_key == order.idempotency_key
    return order.repeats.coalesce_s is not None and first.fingerprint == order.fingerprint


@dataclass
class FakeScheduler:
    """Keeps orders for later."""

    orders: list[Order] = field(default_factory=list)

    async def schedule(self, order: Order) -> None:
        self.orders.append(order)


@dataclass
class FakeRecords:
    records: dict[ConnectionId, ConnectionRecord] = field(default_factory=dict)
    journal: list[Entry] = field(default_factory=list)
    mails: list[KeptMail] = field(default_factory=list)
    asked: list[Wanted] = field(default_factory=list)
    """What lists were narrowed to."""

    async def connection(self, connection_id: ConnectionId) -> ConnectionRecord | None:
        return self.records.get(connection_id)

    async def connections(
        self,
        *,
        limit: int = 50,
        before: ConnectionId | None = None,
        wanted: Wanted = EVERY,
        now: datetime | None = None,
    ) -> Sequence[ConnectionRecord]:
        self.asked.append(wanted)
        newest = sorted(self.records.values(), key=lambda record: record.id, reverse=True)
        return [record for record in newest if before is None or record.id < before][:limit]

    async def statistics(self, connections: Sequence[ConnectionId]) -> Sequence[Entry]:
        return [e for e in self.journal if e.connection_id in connections and e.event == "statistics"]

    async def mails_of(self, record: ConnectionRecord) -> Sequence[KeptMail]:
        return self.mails

    async def entries(self, connection_id: ConnectionId) -> Sequence[Entry]:
        return [entry for entry in self.journal if entry.connection_id == connection_id]


@dataclass
class FakeReadiness:
    problems: list[str] = field(default_factory=list)
    cautions: list[str] = field(default_factory=list)

    async def ready(self) -> list[str]:
        return self.problems

    def warnings(self) -> list[str]:
        return self.cautions


@dataclass
class FakeCanceller:
    told: bool | Exception | None = None
    asked: list[tuple[ConnectionId, str]] = field(default_factory=list)

    async def cancel(self, connection_id: ConnectionId, *, by: str, who: str = "") -> bool | None:
        self.asked.append((connection_id, by))
        if isinstance(self.told, Exception):
            raise self.told
        return self.told


@dataclass
class FakeSwitch:
    """Remembers who stopped all calls and, with a minus, who let them be made again."""

    told: list[str] = field(default_factory=list)

    async def stop_calls(self, *, by: str) -> bool:
        self.told.append(by)
        return True

    async def resume_calls(self, *, by: str) -> bool:
        self.told.append(f"-{by}")
        return True


def app_with(
    connector: FakeConnector,
    records: FakeRecords | None = None,
    readiness: FakeReadiness | None = None,
    canceller: FakeCanceller | None = None,
    scheduler: FakeScheduler | None = None,
    repeats: Repeats = Repeats(),  # noqa: B008  # It is frozen.
    rules: NumberRules = RULES,
    clock: Callable[[], datetime] = lambda: NOW,
) -> FastAPI:
    feed: Any = None  # Streams are tried with a whole service,
    hooks: Any = None  # and so are webhooks.
    return build_app(
        feed=feed,
        listeners=Listeners(feed, most=0),
        connector=connector,
        scheduler=scheduler or FakeScheduler(),
        records=records or FakeRecords(),
        canceller=canceller or FakeCanceller(),
        switch=FakeSwitch(),
        hooks=hooks,
        readiness=readiness or FakeReadiness(),
        rules=rules,
        clock=clock,
        repeats=repeats,
    )
