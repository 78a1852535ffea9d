"""How the receivers of webhooks fare, and replays, clause by clause, on every database there is."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from dosvoces.core import Connection, Leg, LegState, Terms
from dosvoces.model import EndReason, Outcome, connection_id
from dosvoces.store.endpoints import DUE_AGO, Endpoints
from dosvoces.store.keys import Act
from dosvoces.store.reports import ENDED, Delivery, DeliveryState
from dosvoces.store.sql import SqlStore, open_database, open_keys, open_store
from dosvoces.testing import T0, an_order

LONG = timedelta(days=5)
OVER = Connection(Terms(), a=Leg(LegState.ENDED, T0, None, None, T0, True, EndReason.BUSY, "486"), ended_by="a")
TARGETS = ["outcome-mail", "webhook:crm", "webhook:erp"]


@pytest.fixture
async def store(record_url: str) -> AsyncIterator[SqlStore]:
    store = open_store(record_url, reported=[ENDED])
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def desk(store: SqlStore, record_url: str) -> AsyncIterator[Endpoints]:
    desk = Endpoints(open_database(record_url))
    yield desk
    await desk.close()


@pytest.fixture
async def other(store: SqlStore, record_url: str) -> AsyncIterator[Endpoints]:
    """Another node's."""
    desk = Endpoints(open_database(record_url))
    yield desk
    await desk.close()


async def told(store: SqlStore, number: int = 1) -> list[Delivery]:
    """The deliveries of a connection that is over."""
    order = an_order(number)
    await store.record(order)
    await store.settle(order.id, OVER, Outcome.FIRST_BUSY, at=T0)
    (report,) = await store.reports.to_pass_on(limit=9)
    await store.reports.prepare(report, '{"first": 1}', TARGETS)
    await store.reports.passed_on(report)
    return list(await store.reports.deliveries_of(order.id))


async def acts(record_url: str) -> list[tuple[str, str, str]]:
    keys = open_keys(record_url)
    found = await keys.acts(limit=99)
    await keys.close()
    return [(act.who, act.what, act.subject) for act in found if isinstance(act, Act)]


async def test_shared_long_failure_disables_once(desk: Endpoints, other: Endpoints, record_url: str) -> None:
    assert await desk.states() == {}
    assert not await desk.failed("crm", why="HTTP 500", limit=LONG, by="dosvoces")
    first = (await other.states())["crm"]
    assert (first.disabled_at, first.why) == (None, "HTTP 500")
    assert await other.failed("crm", why="HTTP 502", limit=timedelta(), by="dosvoces")
    assert not await desk.failed("crm", why="HTTP 503", limit=timedelta(), by="dosvoces")
    state = (await desk.states())["crm"]
    assert state.failing_since == first.failing_since
    assert state.disabled_at is not None
    assert state.why == "HTTP 502"
    await desk.taken("crm")  # A try that was under way.
    assert (await desk.states())["crm"] == state
    assert await acts(record_url) == [("dosvoces", "webhook.disable", "crm")]


async def test_what_takes_something_fails_no_more(desk: Endpoints) -> None:
    await desk.failed("crm", why="HTTP 500", limit=LONG, by="dosvoces")
    await desk.failed("erp", why="HTTP 500", limit=LONG, by="dosvoces")
    await desk.taken("crm")
    await desk.taken("never-failed")
    assert list(await desk.states()) == ["erp"]


async def test_enabling_resumes_what_waits_for_it_alone(store: SqlStore, desk: Endpoints, record_url: str) -> None:
    mail, crm, erp = await told(store)
    await store.reports.tried(crm, DeliveryState.WAITING, "HTTP 500", at=T0, next_at=T0 + LONG)
    await store.reports.postpone(crm, None)
    await store.reports.postpone(erp, None)
    assert not await desk.enable("crm", by="operator ana")
    await desk.failed("crm", why="HTTP 410", limit=timedelta(), by="dosvoces")
    assert await desk.enable("crm", by="operator ana")
    assert not await desk.enable("crm", by="operator ana")
    assert await desk.states() == {}
    same_mail, resumed, same_erp = await store.reports.deliveries_of(crm.connection_id)
    assert (same_mail, same_erp.next_at, resumed.tries) == (mail, None, 0)
    assert resumed.next_at is not None
    assert resumed.next_at > T0 + timedelta(days=1) - DUE_AGO
    assert await acts(record_url) == [
        ("operator ana", "webhook.enable", "crm"),
        ("dosvoces", "webhook.disable", "crm"),
    ]


async def test_a_replay_is_once_while_it_waits_and_written_with_its_audit(
    store: SqlStore, desk: Endpoints, record_url: str
) -> None:
    _, crm, erp = await told(store)
    await store.reports.tried(crm, DeliveryState.DELIVERED, "HTTP 204", at=T0, next_at=None)
    log = await store.reports.deliveries_of(crm.connection_id)
    assert await desk.replay(log[1:], by="key k1 crm") == 1
    assert await desk.replay(log[1:], by="key k1 crm") == 0
    again = await store.reports.delivery(crm.connection_id, crm.number, crm.target)
    assert again is not None
    assert (again.state, again.tries, again.answer) == (DeliveryState.WAITING, 0, "HTTP 204")
    assert await store.reports.delivery(erp.connection_id, erp.number, erp.target) == erp
    report = await store.reports.report(crm.connection_id, crm.number)
    assert report is not None
    assert (report.id, report.body) == (f"{crm.connection_id}.1", '{"first": 1}')
    assert await acts(record_url) == [("key k1 crm", "webhook.replay", report.id)]


async def test_what_has_no_body_any_more_is_not_replayed(store: SqlStore, desk: Endpoints, record_url: str) -> None:
    _, crm, _ = await told(store)
    await store.reports.tried(crm, DeliveryState.ABANDONED, "HTTP 500", at=T0, next_at=None)
    assert [one.target for one in await desk.failed_since(T0)] == ["webhook:crm"]
    await store.blank_leads(before=T0 + LONG, since=connection_id(datetime(1970, 1, 1, tzinfo=UTC), 0), limit=10)
    assert await desk.replay([crm], by="x") == 0
    assert await desk.failed_since(T0) == []
    assert await acts(record_url) == []


async def test_failed_since_are_those_refused_or_abandoned(store: SqlStore, desk: Endpoints) -> None:
    mail, crm, erp = await told(store)
    await store.reports.tried(mail, DeliveryState.ABANDONED, "550", at=T0, next_at=None)
    await store.reports.tried(crm, DeliveryState.ABANDONED, "HTTP 500", at=T0, next_at=None)
    await store.reports.tried(erp, DeliveryState.REFUSED, "HTTP 410", at=T0, next_at=None)
    assert [one.target for one in await desk.failed_since(T0)] == ["webhook:crm", "webhook:erp"]
    assert [one.target for one in await desk.failed_since(T0, "erp")] == ["webhook:erp"]
    assert await desk.failed_since(T0 + timedelta(seconds=1)) == []
