"""The resource that `Location` points to, the two health addresses, and the description of it all."""

from datetime import timedelta
from typing import Any

import httpx
import pytest

from dosvoces.errors import StoreError
from dosvoces.model import ConnectionId, Side
from dosvoces.store import ConnectionRecord, Entry, LegRecord
from tests.web_fakes import NOW, FakeCanceller, FakeConnector, FakeReadiness, FakeRecords, app_with

ID = ConnectionId("01kk0000000000000000000000")


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
    )
    journal = [
        Entry(ID, NOW, "answered", Side.A, "ringing_first", "waiting", {"to": "ana@milmoh.com", "ms": 3, "x": None}),
        Entry(ID, NOW, "dialog", Side.A, "waiting", "waiting", {"local_tag": "secret"}),
    ]
    return FakeRecords({ID: record}, journal)


async def get(path: str, readiness: FakeReadiness | None = None) -> httpx.Response:
    transport = httpx.ASGITransport(app_with(FakeConnector(), records(), readiness))
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
        "interval_s": 3,
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
                "detail": "BYE from +34600•••011",
            }
        ],
        "journal": [
            {
                "at": at(0),
                "event": "answered",
                "side": "a",
                "before": "ringing_first",
                "after": "waiting",
                "facts": {"to": "a•••@milmoh.com", "ms": 3, "x": None},
            }
        ],
    }


@pytest.mark.parametrize(
    "id", ["01kk0000000000000000000001", "x", "%00", "..", "01KK0000000000000000000000", "1" * 5000]
)
async def test_an_unknown_connection_is_not_found(id: str) -> None:
    response = await get(f"/v1/connections/{id}")
    assert response.status_code == 404
    assert list(response.json()) == ["Message"]


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
    assert (response.status_code, response.json()) == (405, {"Message": "Method Not Allowed"})
    assert response.headers["allow"] == "GET"


async def test_what_breaks_behind_the_door_is_not_shown() -> None:
    class Broken(FakeRecords):
        async def connection(self, connection_id: ConnectionId) -> ConnectionRecord | None:
            raise RuntimeError("secret")

    transport = httpx.ASGITransport(app_with(FakeConnector(), Broken()), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://dosvoces") as client:
        response = await client.get(f"/v1/connections/{ID}")
    assert (response.status_code, response.json()) == (500, {"Message": "Internal error"})


async def test_the_description_covers_every_address() -> None:
    description: dict[str, Any] = (await get("/openapi.json")).json()
    assert set(description["paths"]) == {"/call", "/v1/connections/{id}", "/v1/connections/{id}/cancellation"}
    assert set(description["paths"]["/call"]["post"]["responses"]) == {
        "200", "400", "408", "409", "413", "415", "422", "500", "503",
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
    assert (404, {"Message": "There is no such connection"}) == (answer.status_code, answer.json())
    answer, canceller = await cancel("' OR 1", True)
    assert (404, []) == (answer.status_code, canceller.asked)


async def test_a_cancellation_without_a_record_may_be_repeated() -> None:
    answer, _ = await cancel(ID, StoreError("the record /srv/record.db is locked"))
    expected = (503, {"Message": "The record can't be reached now"}, "5")
    assert expected == (answer.status_code, answer.json(), answer.headers["retry-after"])
