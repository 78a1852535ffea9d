"""The contracts of `Reports` and `Waiting`, and of `Store.forget`, clause by clause, on every store there is."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from dosvoces.core import Connection, Leg, LegState, Terms
from dosvoces.errors import AlreadyRecorded
from dosvoces.events import Cancel
from dosvoces.journal import EVENT_NAMES
from dosvoces.mail import Mail
from dosvoces.model import EndReason, NodeId, Outcome, Side
from dosvoces.store import Entry
from dosvoces.store.feed import BEGINNING
from dosvoces.store.reports import ENDED, EVENTS, Delivery, DeliveryState, Report, WaitingConnection
from dosvoces.store.sql import SqlStore, open_store
from dosvoces.testing import T0, A, an_order

Reopen = Callable[..., Awaitable[SqlStore]]
ORDER = an_order(1)
ALL = (ENDED, *EVENTS.values())
OVER = Connection(Terms(), a=Leg(LegState.ENDED, T0, None, None, T0, True, EndReason.BUSY, "486"), ended_by="a")


def entry(event: str, before: str, after: str, *, side: Side | None = None) -> Entry:
    return Entry(ORDER.id, T0, event, side, before, after)


def report(number: int, event: str, *, side: Side | None = None, body: str | None = None) -> Report:
    return Report(ORDER.id, number, event, side, T0, body)


@pytest.fixture
async def reopen(record_url: str) -> AsyncIterator[Reopen]:
    """Opens the same record again after closing it, as a restart does."""
    opened: list[SqlStore] = []

    async def again(*, reported: tuple[str, ...] = ALL, node: str = "n1") -> SqlStore:
        for store in opened:
            await store.close()
        store = open_store(record_url, node=NodeId(node), reported=reported)
        await store.open()
        opened.append(store)
        return store

    yield again
    for store in opened:
        await store.close()


@pytest.fixture
async def store(reopen: Reopen) -> SqlStore:
    return await reopen()


async def settled(store: SqlStore, number: int = 1) -> Report:
    """The one report of a connection that is over."""
    order = an_order(number)
    await store.record(order)
    await store.settle(order.id, OVER, Outcome.FIRST_BUSY, at=T0)
    (found,) = await store.reports.to_pass_on(limit=10)
    return found


# --- with what it is about ---


async def test_with_what_it_is_about_an_outcome(store: SqlStore, reopen: Reopen) -> None:
    assert not store.reports.due.is_set()
    assert await settled(store) == report(1, ENDED)
    assert store.reports.due.is_set()
    with pytest.raises(AlreadyRecorded):
        await store.settle(ORDER.id, OVER, Outcome.COMPLETED, at=T0)
    await store.settle(ORDER.id, OVER, Outcome.FIRST_BUSY, at=T0)
    again = await reopen()
    assert await again.reports.to_pass_on(limit=10) == [report(1, ENDED)]
    assert report(1, ENDED).id == f"{ORDER.id}.1"


async def test_with_what_it_is_about_in_the_order_in_which_it_happened(store: SqlStore) -> None:
    await store.record(ORDER)
    store.journal(entry("mail_sent", "mailing", "dialing_first"))
    store.journal(entry("digit", "waiting", "waiting", side=A))
    store.journal(entry("ringing", "dialing_first", "ringing_first", side=A))
    store.journal(entry("ringing", "ringing_first", "ringing_first", side=A))
    await store.settle(ORDER.id, OVER, Outcome.FIRST_BUSY, at=T0)
    assert await store.reports.to_pass_on(limit=10) == [
        report(1, "lead.email.sent"),
        report(2, "connection.leg.ringing", side=A),
        report(3, ENDED),
    ]
    assert await store.reports.to_pass_on(limit=1) == [report(1, "lead.email.sent")]


async def test_nothing_is_written_that_nobody_is_told(reopen: Reopen) -> None:
    store = await reopen(reported=())
    await store.record(ORDER)
    store.journal(entry("mail_sent", "mailing", "dialing_first"))
    await store.settle(ORDER.id, OVER, Outcome.FIRST_BUSY, at=T0)
    assert await store.reports.to_pass_on(limit=10) == []


# --- once ---


async def test_once(store: SqlStore, reopen: Reopen) -> None:
    of = await settled(store)
    await store.reports.prepare(of, '{"first": 1}', ["mail", "webhook:main"])
    await store.reports.prepare(of, '{"second": 2}', ["webhook:main", "webhook:other"])
    again = await reopen()
    assert await again.reports.report(ORDER.id, 1) == replace(of, body='{"first": 1}')
    assert await again.reports.report(ORDER.id, 2) is None
    assert [each.target for each in await again.reports.deliveries()] == ["mail", "webhook:main", "webhook:other"]
    await again.reports.passed_on(of)
    assert await again.reports.to_pass_on(limit=10) == []


async def test_a_line_is_known_by_its_first(store: SqlStore) -> None:
    await store.record(ORDER)
    store.journal(entry("mail_sent", "mailing", "dialing_first"))
    await store.settle(ORDER.id, OVER, Outcome.FIRST_BUSY, at=T0)
    for of in await store.reports.to_pass_on(limit=9):
        await store.reports.prepare(of, "{}", ["mail", "webhook:main"])
    log = await store.reports.deliveries_of(ORDER.id)
    assert [(each.number, each.target) for each in log] == [
        (1, "mail"),
        (1, "webhook:main"),
        (2, "mail"),
        (2, "webhook:main"),
    ]
    first, later = log[1], log[3]
    assert await store.reports.first_waiting(ORDER.id, "webhook:main") == first
    await store.reports.postpone(later, T0 + timedelta(seconds=5))
    await store.reports.tried(first, DeliveryState.REFUSED, "HTTP 410", at=T0, next_at=None)
    await store.reports.postpone(first, T0 + timedelta(seconds=5))  # Too late: it is over.
    assert await store.reports.first_waiting(ORDER.id, "webhook:main") == replace(
        later, next_at=T0 + timedelta(seconds=5)
    )
    (refused,) = await store.reports.deliveries(state=DeliveryState.REFUSED)
    assert refused.next_at is None
    assert await store.reports.first_waiting(ORDER.id, "webhook:other") is None


async def test_tries_are_counted_until_it_is_delivered(store: SqlStore, reopen: Reopen) -> None:
    of = await settled(store)
    await store.reports.prepare(of, "{}", ["mail", "webhook:main"])
    delivery = await store.reports.delivery(ORDER.id, 1, "webhook:main")
    expected = Delivery(
        ORDER.id,
        1,
        "webhook:main",
        event=ENDED,
        at=T0,
        state=DeliveryState.WAITING,
        tries=0,
        tried_at=None,
        next_at=T0,
        answer="",
    )
    assert delivery == expected
    later = T0 + timedelta(seconds=5)
    await store.reports.tried(expected, DeliveryState.WAITING, "HTTP 503", at=T0, next_at=later)
    after = replace(expected, tries=1, tried_at=T0, next_at=later, answer="HTTP 503")
    assert await store.reports.delivery(ORDER.id, 1, "webhook:main") == after
    waiting = DeliveryState.WAITING
    assert len(await store.reports.deliveries(state=waiting)) == 2
    assert await store.reports.deliveries(state=waiting, due_before=T0) == []
    newest_first = await store.reports.deliveries()
    for number, one in enumerate(newest_first):
        assert await store.reports.deliveries(after=one) == newest_first[number + 1 :]
    assert len(await store.reports.deliveries(state=waiting, due_before=later)) == 1
    await store.reports.tried(after, DeliveryState.DELIVERED, "HTTP 200", at=later, next_at=None)
    await store.reports.tried(after, DeliveryState.ABANDONED, "late", at=later, next_at=None)
    again = await reopen()
    done = replace(after, state=DeliveryState.DELIVERED, tries=2, tried_at=later, next_at=None, answer="HTTP 200")
    assert await again.reports.delivery(ORDER.id, 1, "webhook:main") == done


# --- connections that wait ---


async def test_one_takes_it(store: SqlStore, reopen: Reopen) -> None:
    late, soon = T0 + timedelta(hours=2), T0 + timedelta(hours=1)
    orders = [
        replace(an_order(1), not_before=late, expires_at=late + timedelta(hours=1)),
        replace(an_order(2), not_before=soon, caller_id_first="+34910000000"),
        an_order(3),
    ]
    for order in orders:
        await store.record(order, waits=True)
    await store.record(an_order(4))
    assert [order.id for order in await store.unfinished(owner=NodeId("n1"))] == [an_order(4).id]
    store = await reopen(node="n2")
    await store.adopt_strays()
    waiting = [
        WaitingConnection(orders[2].id, None, None, T0),
        WaitingConnection(orders[1].id, soon, None, soon),
        WaitingConnection(orders[0].id, late, orders[0].expires_at, late),
    ]
    assert await store.waiting.waiting(limit=10) == waiting
    assert await store.waiting.waiting(limit=1, after=waiting[0]) == waiting[1:2]
    assert await store.order(orders[0].id) == orders[0]
    claims = [store.waiting.claim(orders[1]) for _ in range(5)]
    ends = [store.waiting.end(orders[1].id, Outcome.CANCELLED, by="api", at=T0) for _ in range(5)]
    assert sum(await asyncio.gather(*claims, *ends)) == 1
    assert await store.waiting.claim(orders[2])
    record = await store.connection(orders[2].id)
    assert record is not None
    assert (record.owner, record.outcome) == ("n2", None)
    await store.intend_dial(orders[2], A, attempt=1, at=T0)


async def test_those_due_at_the_same_moment_are_read_in_turn(store: SqlStore) -> None:
    for number in (1, 2, 3):
        await store.record(an_order(number), waits=True)
    seen = [(await store.waiting.waiting(limit=1))[0]]
    while found := await store.waiting.waiting(limit=1, after=seen[-1]):
        seen += found
    assert [each.id for each in seen] == [an_order(number).id for number in (1, 2, 3)]


async def test_what_waits_can_be_ended_and_that_is_told(store: SqlStore) -> None:
    await store.record(ORDER, waits=True)
    assert await store.waiting.end(ORDER.id, Outcome.REFUSED, by="expiry", at=T0)
    assert not await store.waiting.end(ORDER.id, Outcome.CANCELLED, by="api", at=T0)
    assert not await store.waiting.claim(ORDER)
    record = await store.connection(ORDER.id)
    assert record is not None
    assert (record.phase, record.outcome, record.ended_by, record.ended_at) == ("ended", "refused", "expiry", T0)
    assert await store.reports.to_pass_on(limit=10) == [report(1, ENDED)]
    assert await store.waiting.waiting(limit=10) == []


@pytest.mark.parametrize(
    ("outcome", "by", "event"),
    [(Outcome.CANCELLED, "api", EVENT_NAMES[Cancel]), (Outcome.REFUSED, "expiry", "refused")],
)
async def test_the_end_of_one_that_waits_stands_in_its_journal(
    store: SqlStore, outcome: Outcome, by: str, event: str
) -> None:
    await store.record(ORDER, waits=True)
    store.feed.news.clear()
    assert await store.waiting.end(ORDER.id, outcome, by=by, at=T0)
    assert store.feed.news.is_set()
    entry = Entry(ORDER.id, T0, event, None, "recorded", "ended", {"by": by})
    assert await store.entries(ORDER.id) == [entry]
    assert [shown for _, shown in await store.feed.since(BEGINNING, limit=10)] == [entry]


# --- forget ---


async def test_what_is_old_is_forgotten_with_all_that_belongs_to_it(store: SqlStore) -> None:
    now = T0 + timedelta(days=1)
    of = await settled(store)
    await store.reports.prepare(of, "{}", ["mail"])
    store.journal(entry("digit", "waiting", "waiting", side=A))
    store.keep_capture(ORDER.id, b"packed")
    await store.keep_mail(Mail("<1@dosvoces>", "ana@example.com", "Ático", "Hola", b"Hola\r\n"), at=T0)
    open_one, new_one = an_order(2), an_order(3)
    await store.record(open_one)
    await store.record(new_one)
    await store.settle(new_one.id, OVER, Outcome.FIRST_BUSY, at=now)
    assert await store.forget(before=T0, limit=10) == 0
    assert await store.forget(before=now, limit=10) == 2
    assert await store.forget(before=now, limit=10) == 0
    assert [record.id for record in await store.connections()] == [new_one.id, open_one.id]
    assert await store.connection(ORDER.id) is None
    assert await store.entries(ORDER.id) == []
    assert await store.capture(ORDER.id) is None
    assert await store.mails() == []
    assert [each.connection_id for each in await store.reports.to_pass_on(limit=10)] == [new_one.id]
    assert await store.reports.deliveries() == []


async def test_old_connections_are_forgotten_a_few_at_a_time(store: SqlStore) -> None:
    for number in range(1, 6):
        await store.record(an_order(number))
        await store.settle(an_order(number).id, OVER, Outcome.FIRST_BUSY, at=T0)
    counts = [await store.forget(before=T0 + timedelta(seconds=1), limit=2) for _ in range(4)]
    assert counts == [2, 2, 1, 0]
