"""`POST /v1/connections` through the ASGI application, with a connector that counts."""

import asyncio
import json
from dataclasses import replace
from datetime import UTC, timedelta
from typing import Any

import httpx
import pytest

from dosvoces.dialplan import NumberRules
from dosvoces.dialplan.hours import CallingHours, opening
from dosvoces.errors import NotAllowed, NotNow, NumberRefused, StoreError, TooMany
from dosvoces.model import ConnectionId, Lead, Order
from dosvoces.store import ConnectionRecord
from dosvoces.web.terms import MAX_AHEAD
from tests.web_fakes import NOW, FakeConnector, FakeRecords, FakeScheduler, app_with

ORDER = {"first_number": "+34 600 00 00 11", "second_number": "0034960000022", "email": "ana@example.com"}


class Records(FakeRecords):
    """Shows whatever was asked for, as if it were in the record."""

    def __init__(self, *orders: list[Order]) -> None:
        super().__init__()
        self._orders = orders
        self.broken = False

    async def connection(self, connection_id: ConnectionId) -> ConnectionRecord | None:
        if self.broken:
            raise StoreError("broken")
        order = next(order for orders in self._orders for order in orders if order.id == connection_id)
        return ConnectionRecord(
            id=order.id,
            created_at=order.created_at,
            phase="recorded",
            outcome=None,
            ended_by="",
            first=order.first.e164,
            second=order.second.e164,
            email=order.lead.email,
            lead={},
            interval_s=order.interval_s,
            joined_at=None,
            ended_at=None,
            answer_status=None,
            legs=(),
            not_before=order.not_before,
            expires_at=order.expires_at,
        )


class Door:
    """The application and what is behind it."""

    def __init__(self, answer: Exception | None = None) -> None:
        self.connector = FakeConnector() if answer is None else FakeConnector(answer)
        self.scheduler = FakeScheduler()
        self.records = Records(self.connector.orders, self.scheduler.orders)
        app = app_with(self.connector, self.records, scheduler=self.scheduler)
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://door")

    async def post(self, *, key: str | None = None, **members: object) -> httpx.Response:
        headers = {} if key is None else {"idempotency-key": key}
        return await self.client.post("/v1/connections", json={**ORDER, **members}, headers=headers)


def iso(seconds: float) -> str:
    return (NOW + timedelta(seconds=seconds)).isoformat()


async def test_what_is_for_now_is_begun_and_shown() -> None:
    door = Door()
    answer = await door.post(
        interval=15, property_name="Ático", agent_name="Eva", url="https://x", city="Valencia", area_m2=90, price="1"
    )
    (order,) = door.connector.orders
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/connections/{order.id}"
    assert answer.json()["id"] == order.id
    assert (order.first.e164, order.second.e164, order.interval_s) == ("+34600000011", "+34960000022", 15)
    assert order.lead == Lead("ana@example.com", "Ático", "Eva", "https://x", "Valencia", "90", "1")
    assert (order.not_before, order.expires_at, order.caller_id_first, order.caller_id_second) == (None, None, "", "")
    assert door.scheduler.orders == []


async def test_what_is_for_later_is_kept_and_shown() -> None:
    door = Door()
    berlin = (NOW + timedelta(hours=1)).astimezone().isoformat()
    answer = await door.post(not_before=berlin, expires_at=iso(7200), caller_ids={"first": "+34910000000"})
    (order,) = door.scheduler.orders
    assert door.connector.orders == []
    assert answer.status_code == 202
    assert answer.json()["phase"] == "scheduled"
    assert (order.not_before, order.expires_at) == (NOW + timedelta(hours=1), NOW + timedelta(hours=2))
    assert order.not_before is not None
    assert order.not_before.tzinfo is UTC
    assert (order.caller_id_first, order.caller_id_second) == ("+34910000000", "")


async def test_a_time_that_has_passed_is_now() -> None:
    door = Door()
    assert (await door.post(not_before=iso(-1))).status_code == 202
    assert len(door.connector.orders) == 1


@pytest.mark.parametrize(
    ("members", "field", "code"),
    [
        ({"first_number": None}, "first_number", "missing"),
        ({"second_number": "+34600000011"}, "second_number", "same_number"),
        ({"email": "ana"}, "email", "format"),
        ({"interval": 301}, "interval", "range"),
        ({"area_m2": []}, "area_m2", "type"),
        ({"not_before": "tomorrow"}, "not_before", "format"),
        ({"not_before": "2026-05-09T09:30:00"}, "not_before", "format"),
        ({"not_before": 1_800_000_000}, "not_before", "format"),
        ({"not_before": iso(MAX_AHEAD.total_seconds() + 1)}, "not_before", "range"),
        ({"not_before": "0001-01-01T00:00:00+01:00"}, "not_before", "range"),
        ({"expires_at": iso(0)}, "expires_at", "range"),
        ({"not_before": iso(60), "expires_at": iso(60)}, "expires_at", "range"),
        ({"caller_ids": "+34910000000"}, "caller_ids", "type"),
        ({"caller_ids": {"second": "910000000"}}, "caller_ids.second", "format"),
        ({"ring_timeout": 0}, "ring_timeout", "range"),
        ({"ring_timeout": "20"}, "ring_timeout", "type"),
        ({"ring_timeout": 1.5}, "ring_timeout", "type"),
        ({"talk_limit": 86_401}, "talk_limit", "range"),
        ({"schedule_at": "tomorrow"}, "schedule_at", "format"),
        ({"schedule_at": iso(60), "not_before": iso(60)}, "schedule_at", "twice"),
        ({"locale": "xx"}, "locale", "unknown"),
        ({"locale": 7}, "locale", "unknown"),
        ({"metadata": []}, "metadata", "type"),
        ({"metadata": {"a b": "x"}}, "metadata", "format"),
        ({"metadata": {"a": 1}}, "metadata.a", "type"),
        ({"metadata": {"a": "x" * 501}}, "metadata.a", "too_long"),
        ({"metadata": {"a": "\0"}}, "metadata.a", "format"),
        ({"metadata": {str(n): "" for n in range(21)}}, "metadata", "too_many"),
        ({"lead": "x"}, "lead", "type"),
        ({"lead": {"": "x"}}, "lead", "format"),
        ({"lead": {"rooms": ["x"]}}, "lead.rooms", "type"),
        ({"lead": {"rooms": "x" * 2001}}, "lead.rooms", "too_long"),
        ({"lead": {str(n): "" for n in range(51)}}, "lead", "too_many"),
        ({"lead": {"city": "Valencia"}, "city": "Madrid"}, "lead.city", "twice"),
    ],
)
async def test_what_is_wrong_is_named(members: dict[str, Any], field: str, code: str) -> None:
    door = Door()
    answer = await door.post(**members)
    assert answer.status_code == 400
    said: dict[str, Any] = answer.json()
    assert said["detail"] == f"Missing or invalid: {field}"
    assert (said["status"], said["code"], said["type"]) == (400, "invalid_request", "/v1/problems/invalid_request")
    assert answer.headers["content-type"] == "application/problem+json"
    assert [(error["field"], error["code"]) for error in said["errors"]] == [(field, code)]
    assert door.connector.orders == door.scheduler.orders == []


async def test_all_that_is_wrong_is_named_at_once() -> None:
    answer = await Door().post(first_number="", interval="x", not_before="x")
    assert answer.json()["detail"] == "Missing or invalid: first_number, interval, not_before"


@pytest.mark.parametrize(
    ("content", "media_type", "status"),
    [
        (json.dumps(ORDER), "text/plain", 415),
        ('{"first_number": 1, "first_number": 2}', "application/json", 400),
        ("[]", "application/json", 400),
        ('{"x": "' + "x" * 70_000 + '"}', "application/json", 413),
    ],
)
async def test_json_is_read_as_strictly_as_by_call(content: str, media_type: str, status: int) -> None:
    answer = await Door().client.post("/v1/connections", content=content, headers={"content-type": media_type})
    assert answer.status_code == status


@pytest.mark.parametrize(
    ("error", "status"), [(NotNow("full"), 503), (StoreError("broken"), 503), (NotAllowed("not ours"), 400)]
)
async def test_what_can_not_be_done_is_said(error: Exception, status: int) -> None:
    answer = await Door(error).post()
    assert answer.status_code == status
    assert ("retry-after" in answer.headers) == (status == 503)


@pytest.mark.parametrize(("not_before", "phase"), [(None, "recorded"), (iso(60), "scheduled")])
async def test_what_is_accepted_is_accepted_though_it_can_not_be_read(not_before: str | None, phase: str) -> None:
    """A client that was told that nothing was done would ask again, and the same people would be rung twice."""
    door = Door()
    door.records.broken = True
    answer = await door.post(not_before=not_before)
    (order,) = door.connector.orders + door.scheduler.orders
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/connections/{order.id}"
    assert (answer.json()["id"], answer.json()["phase"], answer.json()["outcome"]) == (order.id, phase, None)


async def test_a_caller_id_that_is_not_ours_is_refused_before_it_waits() -> None:
    door = Door(NotAllowed("not ours"))
    assert (await door.post(not_before=iso(60))).status_code == 400
    assert door.scheduler.orders == []


async def test_a_repeat_under_the_same_key_gets_the_same_connection() -> None:
    door = Door()
    first = await door.post(key="k1")
    again = await door.post(key="k1")
    other = await door.post(key="k1", interval=5)
    assert (first.status_code, again.status_code, other.status_code) == (202, 202, 422)
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["idempotent-replayed"] == "true"
    assert len(door.connector.orders) == 1


@pytest.mark.parametrize(
    ("refusal", "status"),
    [
        (NumberRefused("is on the list", code="do_not_call", second=False), 400),
        (NotNow("all calls are stopped"), 503),
        (TooMany("as many as allowed", retry_after_s=60), 429),
    ],
)
async def test_a_repeat_is_answered_also_when_its_like_would_be_refused(refusal: Exception, status: int) -> None:
    door = Door()
    first = await door.post(key="k")
    door.connector.answer = refusal
    again = await door.post(key="k")
    assert (again.status_code, again.headers["location"]) == (202, first.headers["location"])
    assert again.headers["idempotent-replayed"] == "true"
    assert (await door.post(key="k", interval=1)).status_code == 422
    assert (await door.post(key="other")).status_code == status


async def test_a_repeat_is_answered_after_hours() -> None:
    door = Door()
    first = await door.post(key="k")
    closed = NumberRules(hours=CallingHours((opening("ES sun 03:00-04:00"),)))
    app = app_with(door.connector, door.records, rules=closed)
    door.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://door")
    again = await door.post(key="k")
    assert (again.status_code, again.headers["location"]) == (202, first.headers["location"])
    assert again.headers["idempotent-replayed"] == "true"
    assert (await door.post(key="k", interval=1)).status_code == 422
    refused = await door.post(key="other")
    assert (refused.status_code, refused.json()["errors"][0]["code"]) == (400, "quiet_hours")


async def test_the_twin_of_the_last_that_got_in_is_its_repeat() -> None:
    class Racing(FakeConnector):
        """The first with the same key is recorded between the look for it and the refusal."""

        async def accept(self, order: Order) -> None:
            if not self.orders:
                await super().accept(replace(order, id=ConnectionId("01m8gcrrkzkq5pr8w64r5rrn30")))
            raise TooMany("as many as allowed", retry_after_s=60)

    door = Door()
    connector = Racing()
    records = Records(connector.orders)
    app = app_with(connector, records)
    door.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://door")
    again = await door.post(key="k")
    assert (again.status_code, again.headers["idempotent-replayed"]) == (202, "true")
    assert again.headers["location"] == "/v1/connections/01m8gcrrkzkq5pr8w64r5rrn30"
    assert (await door.post(key="other")).status_code == 429


async def test_other_methods_are_not_allowed_there() -> None:
    answer = await Door().client.put("/v1/connections")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")


async def test_an_order_brings_its_own_terms() -> None:
    door = Door()
    answer = await door.post(
        ring_timeout=20,
        talk_limit=600,
        locale="en-GB",
        metadata={"lead_id": "4711", "phone": "+34600000099"},
        lead={"city": "Valencia", "rooms": 3, "lift": True, "floor": None, "note": "con vistas"},
        schedule_at=iso(60),
    )
    (order,) = door.scheduler.orders
    assert answer.status_code == 202
    assert (order.ring_timeout_s, order.talk_limit_s, order.locale) == (20, 600, "en")
    assert order.metadata == (("lead_id", "4711"), ("phone", "+34600000099"))
    more = (("rooms", "3"), ("lift", "true"), ("note", "con vistas"))
    assert order.lead == Lead("ana@example.com", city="Valencia", more=more)
    assert order.not_before == NOW + timedelta(seconds=60)


async def test_other_terms_under_the_same_key_are_another_request() -> None:
    door = Door()
    assert (await door.post(key="k", metadata={"a": "1"})).status_code == 202
    again = await door.post(key="k", metadata={"a": "2"})
    assert (again.status_code, again.json()["code"]) == (422, "key_reused")


@pytest.mark.parametrize(
    ("prefer", "applied"),
    [("wait=5", "wait=5"), ("respond-async, wait = 5", "wait=5"), ("wait=1, wait=9", "wait=1"), ("wait=soon", None)],
)
async def test_a_client_may_wait_until_both_talk(prefer: str, applied: str | None) -> None:
    door = Door()
    answer = await door.client.post("/v1/connections", json=ORDER, headers={"prefer": prefer})
    (order,) = door.connector.orders
    assert answer.status_code == 202
    assert answer.headers.get("preference-applied") == applied
    assert door.connector.waited_for == ([] if applied is None else [order.id])


async def test_a_wait_ends_with_the_seconds_asked_for() -> None:
    door = Door()

    async def never(connection_id: ConnectionId) -> None:
        await asyncio.Event().wait()

    door.connector.joined = never  # type: ignore[method-assign]
    answer = await door.client.post("/v1/connections", json=ORDER, headers={"prefer": "wait=0"})
    assert (answer.status_code, answer.headers["preference-applied"]) == (202, "wait=0")
