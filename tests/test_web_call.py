"""`POST /call`: the answers, and what a client that leaves changes (nothing). Repeats: `test_web_repeats.py`."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from starlette.types import Message

from dosvoces.core import Answer, AnswerKind
from dosvoces.errors import NotNow, StoreError
from dosvoces.model import Lead, Order, PhoneNumber, Side
from tests.web_fakes import NOW, FakeConnector, app_with

BODY: dict[str, Any] = {"firstnumber": "+34 600 000 011", "secondnumber": "+34960000022", "email": "ana@milmoh.com"}


def client_of(connector: FakeConnector) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app_with(connector), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://dosvoces")


async def post(connector: FakeConnector, key: str | None = None, **members: Any) -> httpx.Response:
    async with client_of(connector) as client:
        headers = {} if key is None else {"Idempotency-Key": key}
        return await client.post("/call", json=BODY | members, headers=headers)


async def test_both_calls_made() -> None:
    connector = FakeConnector()
    response = await post(connector, call_interval=15)
    (order,) = connector.orders
    assert order == Order(
        id=order.id,
        created_at=NOW,
        first=PhoneNumber("+34600000011", "+34 600 000 011"),
        second=PhoneNumber("+34960000022", "+34960000022"),
        lead=Lead("ana@milmoh.com"),
        interval_s=15,
        fingerprint=order.fingerprint,
    )
    assert (response.status_code, response.text) == (200, "Data received successfully")
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.headers["location"] == f"/v1/connections/{order.id}"
    assert connector.answers == {order.id: (200, "Data received successfully")}


@pytest.mark.parametrize(
    ("answer", "want"),
    [
        (Answer(AnswerKind.MAIL_FAILED), "Could not send email to ana@milmoh.com"),
        (Answer(AnswerKind.CALL_FAILED, Side.A), "Could not make call to +34 600 000 011"),
        (Answer(AnswerKind.CALL_FAILED, Side.B), "Could not make call to +34960000022"),
    ],
)
async def test_what_failed_is_said(answer: Answer, want: str) -> None:
    connector = FakeConnector(answer)
    response = await post(connector)
    assert (response.status_code, response.json()) == (500, {"Message": want})
    assert response.headers["location"] == f"/v1/connections/{connector.orders[0].id}"


async def test_not_now_says_when() -> None:
    response = await post(FakeConnector(NotNow("no trunk is up", retry_after_s=7)))
    assert (response.status_code, response.json()) == (503, {"Message": "no trunk is up"})
    assert response.headers["retry-after"] == "7"


async def test_what_was_let_go_before_anybody_was_dialled_is_begun_anew_by_its_key() -> None:
    connector = FakeConnector(Answer(AnswerKind.NOT_TRIED))
    response = await post(connector, key="k")
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    assert connector.answers == {}


async def test_what_was_let_go_before_anybody_was_dialled_failed_where_a_repeat_would_mail_again() -> None:
    response = await post(FakeConnector(Answer(AnswerKind.NOT_TRIED)))
    want = "Could not make call to +34 600 000 011: the service stopped before anybody was called"
    assert (response.status_code, response.json()) == (500, {"Message": want})


async def test_a_record_that_fails_is_not_now() -> None:
    response = await post(FakeConnector(StoreError("disk image is malformed: /var/lib/dosvoces.db")))
    assert response.status_code == 503
    assert response.json() == {"Message": "The request can't be recorded now; nothing was done"}
    assert response.headers["retry-after"] == "5"


async def test_the_unexpected_leaks_nothing() -> None:
    response = await post(FakeConnector(RuntimeError("secret")))
    assert (response.status_code, response.json()) == (500, {"Message": "Internal error"})


async def test_the_clock_breaking_leaks_nothing() -> None:
    response = await post(FakeConnector(ZeroDivisionError("secret")), key="k")
    assert (response.status_code, response.json()) == (500, {"Message": "Internal error"})


async def test_all_problems_are_listed() -> None:
    response = await post(FakeConnector(), secondnumber="112", email=None)
    assert response.status_code == 400
    assert response.json() == {
        "Message": "Missing arguments firstnumber: +34 600 000 011, secondnumber: 112, email: ",
        "Errors": [
            {
                "field": "secondnumber",
                "code": "emergency",
                "message": "is an emergency or help line, which is never called",
            },
            {"field": "email", "code": "missing", "message": "is missing"},
        ],
    }


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_only_post(method: str) -> None:
    async with client_of(FakeConnector()) as client:
        response = await client.request(method, "/call")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert response.json() == {"Message": "Only POST is allowed here"}


@pytest.mark.parametrize("path", ["/", "/call/", "/calls", "/Call", "/v1/connections/"])
async def test_other_addresses_are_not_found(path: str) -> None:
    async with client_of(FakeConnector()) as client:
        response = await client.post(path, json=BODY)
    assert response.status_code == 404
    assert ("code" if path.startswith("/v1/") else "Message") in response.json()


# --- clients that leave ---


async def test_a_client_that_leaves_while_it_waits_changes_nothing() -> None:
    connector = FakeConnector(gate=asyncio.Event())
    app = app_with(connector)
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": json.dumps(BODY).encode()}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json"), (b"idempotency-key", b"k")]
    scope = {"type": "http", "method": "POST", "path": "/call", "headers": headers, "query_string": b""}
    request = asyncio.create_task(app(scope, receive, send))
    await connector.arrived.wait()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert connector.gate is not None
    connector.gate.set()
    await connector.answered.wait()
    assert (sent, connector.dials, connector.mails) == ([], 2, 1)
    assert (await post(connector, key="k")).headers["idempotent-replayed"] == "true"


async def test_a_client_that_leaves_before_its_body_is_complete_is_forgotten() -> None:
    connector = FakeConnector()
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/call", "headers": [(b"content-type", b"application/json")]}
    await app_with(connector)(scope, receive, send)
    assert (sent, connector.orders) == ([], [])
