"""The resource that `Location` points to, the two health addresses, and the description of it all."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from dosvoces.errors import StoreError
from dosvoces.model import ConnectionId, Facts, Side
from dosvoces.store import ConnectionRecord, Entry, KeptMail, LegRecord, Wanted
from dosvoces.web.problems import KINDS
from tests.web_fakes import NOW, FakeCanceller, FakeConnector, FakeReadiness, FakeRecords, app_with

ID = ConnectionId("01kk0000000000000000000000")

QUALITY = (
    "received", "sent", "lost", "jitter_ms", "round_trip_ms", "mos", "mos_there", "lost_there", "jitter_there_ms",
)  # fmt: skip


def at(seconds: int) -> str:
    return (NOW + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def records() -> FakeRecords:
    leg = LegRecord(
        side=Side.A,
        number="+34600000011",
        state="ended",
        dialed_at=NOW,
        answered_at=NOW + timedelta(seconds=2),
        ended_at=NOW + timedelta(seconds=9),
        reason="hangup",
        detail="BYE from +34 600 000 011",
    )
    record = ConnectionRecord(
        id=ID,
        created_at=NOW,
        phase="ended",
        outcome="completed",
        ended_by="a",
        first="+34600000011",
        second="+34960000022",
        email="ana@milmoh.com",
        lead={"city": "Valencia"},
        interval_s=3,
        joined_at=NOW + timedelta(seconds=5),
        ended_at=NOW + timedelta(seconds=9),
        answer_status=200,
        legs=[leg],
        mail="sent",
        ring_timeout_s=20,
        metadata={"lead_id": "+34600000011"},
    )
    said: Facts = {"to": "ana@milmoh.com", "ms": 3, "x": None}
    figures: Facts = {"received": 100, "mos": 4.4, "other": 1}
    journal = [
        Entry(ID, NOW, "answered", Side.A, "ringing_first", "waiting", said, 1),
        Entry(ID, NOW, "dialog", Side.A, "waiting", "waiting", {"local_tag": "secret"}, 2),
        Entry(ID, NOW, "statistics", Side.A, "ended", "ended", figures, 3),
    ]
    return FakeRecords({ID: record}, journal, [KeptMail(7, f"<{ID}@x>", "ana@milmoh.com", "Hola", NOW, b"Hola")])


async def get(path: str, readiness: FakeReadiness | None = None, house: FakeRecords | None = None) -> httpx.Response:
    transport = httpx.ASGITransport(app_with(FakeConnector(), house or records(), readiness))
    async with httpx.AsyncClient(transport=transport, base_url="http://dosvoces") as client:
        return await client.get(path)


async def test_a_connection_is_shown_masked_and_without_its_lead() -> None:
    response = await get(f"/v1/connections/{ID}")
    assert response.json() == {
        "id": ID,
        "created_at": at(0),
        "not_before": None,
        "expires_at": None,
        "phase": "ended",
        "outcome": "completed",
        "ended_by": "a",
        "mail": "sent",
        "interval_s": 3,
        "ring_timeout_s": 20,
        "talk_limit_s": None,
        "locale": "",
        "metadata": {"lead_id": "+34600000011"},
        "webhook_url": None,
        "test": False,
        "joined_at": at(5),
        "ended_at": at(9),
        "legs": [
            {
                "side": "a",
                "number": "+34600•••011",
                "state": "ended",
                "dialed_at": at(0),
                "answered_at": at(2),
                "ended_at": at(9),
                "reason": "hangup",
                "sip_code": 200,
                "detail": "BYE from +34600•••011",
                "quality": {**dict.fromkeys(QUALITY), "received": 100, "mos": 4.4},
            }
        ],
    }


async def test_events_are_resources_masked_and_without_what_forges_a_hang_up() -> None:
    response = await get(f"/v1/connections/{ID}/events")
    said = response.json()
    assert said["next_cursor"] is None
    assert said["data"][0] == {
        "id": f"{ID}-1",
        "connection": ID,
        "number": 1,
        "at": at(0),
        "event": "answered",
        "side": "a",
        "before": "ringing_first",
        "after": "waiting",
        "facts": {"to": "a•••@milmoh.com", "ms": 3, "x": None},
    }
    assert [event["number"] for event in said["data"]] == [1, 3]


async def test_events_come_in_pages() -> None:
    first = (await get(f"/v1/connections/{ID}/events?limit=2")).json()
    assert ([event["number"] for event in first["data"]], first["next_cursor"]) == ([1], "2")
    second = (await get(f"/v1/connections/{ID}/events?limit=2&cursor=2")).json()
    assert ([event["number"] for event in second["data"]], second["next_cursor"]) == ([3], None)


async def test_a_mail_is_shown_by_what_became_of_it() -> None:
    response = await get(f"/v1/connections/{ID}/mail")
    kept = {"number": 7, "message_id": f"<{ID}@x>", "recipient": "a•••@milmoh.com", "kept_at": at(0), "size": 4}
    expected = {"state": "sent", "recipient": "a•••@milmoh.com", "detail": "", "kept": [kept]}
    assert response.json() == expected


async def test_a_list_is_narrowed_to_what_was_asked_for() -> None:
    house = records()
    query = (
        "outcome=completed&phase=ended&number=%2B34600000011&created_after=2026-03-02T11:30:00%2B01:00"
        "&created_before=2026-03-03T00:00:00Z&metadata[lead_id]=4711&limit=1"
    )
    response = await get(f"/v1/connections?{query}", house=house)
    assert ([one["id"] for one in response.json()["data"]], response.json()["next_cursor"]) == ([ID], None)
    assert house.asked == [
        Wanted(
            outcome="completed",
            phase="ended",
            number="+34600000011",
            created_after=NOW,
            created_before=datetime(2026, 3, 3, tzinfo=UTC),
            metadata=(("lead_id", "4711"),),
        )
    ]


async def test_a_list_comes_in_pages_newest_first() -> None:
    house = records()
    older = ConnectionId("01kj0000000000000000000000")
    house.records[older] = replace(house.records[ID], id=older)
    first = (await get("/v1/connections?limit=1", house=house)).json()
    second = (await get(f"/v1/connections?limit=1&cursor={first['next_cursor']}", house=house)).json()
    assert [one["id"] for page in (first, second) for one in page["data"]] == [ID, older]
    assert second["next_cursor"] is None


@pytest.mark.parametrize(
    ("query", "field", "code"),
    [
        ("outcome=x", "outcome", "unknown"),
        ("phase=x", "phase", "unknown"),
        ("number=600000011", "number", "format"),
        ("created_after=tomorrow", "created_after", "format"),
        ("created_after=2026-03-03T00:00:00", "created_after", "format"),
        ("created_before=0001-01-01T00:00:00%2B14:00", "created_before", "range"),
        ("created_before=0.5", "created_before", "format"),
        ("limit=0", "limit", "range"),
        ("limit=x", "limit", "type"),
        ("cursor=x", "cursor", "format"),
        ("&".join(f"metadata[a{n}]=x" for n in range(6)), "metadata", "too_many"),
        ("metadata[a]=%00", "metadata", "format"),
    ],
)
async def test_a_list_that_can_not_be_is_refused(query: str, field: str, code: str) -> None:
    response = await get(f"/v1/connections?{query}")
    said = response.json()
    assert (response.status_code, said["code"]) == (400, "invalid_request")
    assert [(error["field"], error["code"]) for error in said["errors"]] == [(field, code)]


async def test_each_problem_has_an_address_that_tells_what_it_means() -> None:
    for kind in KINDS.values():
        response = await get(kind.type)
        assert (response.status_code, response.json()["title"]) == (200, kind.title)
    assert (await get("/v1/problems/x")).status_code == 404


@pytest.mark.parametrize(
    ("detail", "answered", "code"),
    [("486 Busy Here", False, 486), ("BYE", True, 200), ("not dialled", False, None), ("4860 x", False, None)],
)
async def test_a_leg_tells_how_the_far_end_answered(detail: str, answered: bool, code: int | None) -> None:
    house = records()
    leg = replace(house.records[ID].legs[0], detail=detail, answered_at=NOW if answered else None)
    house.records[ID] = replace(house.records[ID], legs=[leg])
    response = await get(f"/v1/connections/{ID}", house=house)
    assert response.json()["legs"][0]["sip_code"] == code


@pytest.mark.parametrize("id", ["01kk0000000000000000000001", "x", "%00", "01KK0000000000000000000000", "1" * 5000])
async def test_an_unknown_connection_is_not_found(id: str) -> None:
    response = await get(f"/v1/connections/{id}")
    assert response.status_code == 404
    assert response.json()["code"] == "no_such_connection"


async def test_alive() -> None:
    response = await get("/healthz")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


async def test_ready() -> None:
    response = await get("/readyz")
    assert (response.status_code, response.json()) == (200, {"status": "ready"})


async def test_not_ready_says_what_is_missing() -> None:
    response = await get("/readyz", FakeReadiness(cautions=["trunk main is down"]))
    assert (200, {"status": "ready", "warnings": ["trunk main is down"]}) == (response.status_code, response.json())
    response = await get("/readyz", FakeReadiness(["no trunk is configured"]))
    assert response.status_code == 503
    assert response.json() == {"status": "not ready", "problems": ["no trunk is configured"]}


async def test_a_method_that_an_address_does_not_have() -> None:
    transport = httpx.ASGITransport(app_with(FakeConnector()))
    async with httpx.AsyncClient(transport=transport, base_url="http://dosvoces") as client:
        response = await client.delete(f"/v1/connections/{ID}")
    assert (response.status_code, response.json()["code"]) == (405, "method_not_allowed")
    assert response.headers["allow"] == "GET"


async def test_what_breaks_behind_the_door_is_not_shown() -> None:
    class Broken(FakeRecords):
        async def connection(self, connection_id: ConnectionId) -> ConnectionRecord | None:
            raise RuntimeError("secret")

    transport = httpx.ASGITransport(app_with(FakeConnector(), Broken()), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://dosvoces") as client:
        response = await client.get(f"/v1/connections/{ID}")
    assert (response.status_code, response.json()["code"]) == (500, "internal_error")


async def test_the_description_covers_every_address() -> None:
    description: dict[str, Any] = (await get("/openapi.json")).json()
    assert set(description["paths"]) == {
        "/call",
        "/healthz",
        "/readyz",
        "/metrics",
        "/v1/connections",
        "/v1/connections/{id}",
        "/v1/connections/{id}/cancellation",
        "/v1/connections/{id}/deliveries",
        "/v1/connections/{id}/deliveries/{message}/replay",
        "/v1/webhooks",
        "/v1/webhooks/{name}/enable",
        "/v1/connections/{id}/events",
        "/v1/connections/{id}/mail",
        "/v1/events",
        "/v1/problems/{code}",
        "/v1/stop",
    }
    assert set(description["paths"]["/v1/connections"]) == {"get", "post"}
    assert set(description["components"]["securitySchemes"]) == {"bearer", "basic", "header"}
    assert description["security"] == [{"bearer": []}, {"basic": []}, {"header": []}]
    assert {"401", "403"} <= set(description["paths"]["/v1/connections"]["get"]["responses"])
    assert set(description["paths"]["/call"]["post"]["responses"]) == {
        "200", "400", "401", "403", "408", "409", "413", "415", "422", "429", "500", "503",
    }  # fmt: skip


async def cancel(id: str, told: bool | Exception | None) -> tuple[httpx.Response, FakeCanceller]:
    canceller = FakeCanceller(told)
    app = app_with(FakeConnector(), records(), canceller=canceller)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://dosvoces") as client:
        return await client.post(f"/v1/connections/{id}/cancellation"), canceller


@pytest.mark.parametrize(("told", "status"), [(True, 202), (False, 200)], ids=["open", "over"])
async def test_a_cancellation_is_taken_in_every_state(told: bool, status: int) -> None:
    answer, canceller = await cancel(ID, told)
    assert (status, ID, [(ID, "api")]) == (answer.status_code, answer.json()["id"], canceller.asked)


async def test_a_cancellation_of_nothing_is_404() -> None:
    answer, _ = await cancel("01kk0000000000000000000009", None)
    assert (404, "no_such_connection") == (answer.status_code, answer.json()["code"])
    answer, canceller = await cancel("' OR 1", True)
    assert (404, []) == (answer.status_code, canceller.asked)


async def test_a_cancellation_without_a_record_may_be_repeated() -> None:
    answer, _ = await cancel(ID, StoreError("the record /srv/record.db is locked"))
    expected = (503, "record_unreachable", "5")
    assert expected == (answer.status_code, answer.json()["code"], answer.headers["retry-after"])
