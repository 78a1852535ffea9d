"""Repeated requests at the door: the `Idempotency-Key`, identical bodies, and what a repeat is answered."""

import asyncio
from dataclasses import replace
from typing import Any

import httpx
import pytest

from dosvoces.core import Answer, AnswerKind
from dosvoces.dialplan import NumberRules
from dosvoces.dialplan.hours import CallingHours, opening
from dosvoces.errors import NotNow, NumberRefused, StoreError, TooMany
from dosvoces.model import ConnectionId, Order, Outcome, Repeats, Side
from dosvoces.store import Earlier
from dosvoces.testing import an_order, until
from dosvoces.web.repeats import fingerprint, idempotency_key
from tests.web_fakes import NOW, FakeConnector, app_with

BODY: dict[str, Any] = {"firstnumber": "+34 600 000 011", "secondnumber": "+34960000022", "email": "ana@milmoh.com"}
MADE = Answer(AnswerKind.MADE)
FAILED = Answer(AnswerKind.CALL_FAILED, Side.B)


def client_of(connector: FakeConnector, coalesce_s: int | None = 30) -> httpx.AsyncClient:
    app = app_with(connector, repeats=Repeats(coalesce_s=coalesce_s))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://dosvoces")


async def post(connector: FakeConnector, key: str | None = None, **members: Any) -> httpx.Response:
    async with client_of(connector) as client:
        headers = {} if key is None else {"Idempotency-Key": key}
        return await client.post("/call", json=BODY | members, headers=headers)


# --- the key ---


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        (b"k", "k"),
        (b'"k"', "k"),
        (b' "k" ', "k"),
        (b'"8e03978e-40d5-43dd-bc93-6894a57f9324"', "8e03978e-40d5-43dd-bc93-6894a57f9324"),
        (b"order:12/a+b==", "order:12/a+b=="),
        (rb'"a \"b\" \\c, d;e"', r'a "b" \c, d;e'),
        (b'"' + b"x" * 255 + b'"', "x" * 255),
    ],
)
def test_a_key_is_a_string_with_or_without_its_quotes(sent: bytes, meant: str) -> None:
    assert idempotency_key([(b"idempotency-key", sent)]) == meant


@pytest.mark.parametrize(
    "sent",
    [
        *(b"", b'""', b'"', b'"a', b'a"', b'"a"b', b'"a", "b"', b'"a";p=1', rb'"\a"', b"a b", b"a,b", b"a;b", b"a\\b"),
        *(b"x" * 256, "clé".encode("latin-1"), b'"a\tb"', b"a\x7f"),
    ],
)
async def test_a_malformed_key_is_refused(sent: bytes) -> None:
    connector = FakeConnector()
    async with client_of(connector) as client:
        response = await client.post("/call", json=BODY, headers=[(b"Idempotency-Key", sent)])
    assert response.status_code == 400
    assert [(e["field"], e["code"]) for e in response.json()["Errors"]] == [("idempotency_key", "format")]
    assert connector.orders == []


async def test_two_keys_are_refused() -> None:
    async with client_of(FakeConnector()) as client:
        headers = [(b"Idempotency-Key", b"a"), (b"Idempotency-Key", b"b")]
        assert (await client.post("/call", json=BODY, headers=headers)).status_code == 400


@pytest.mark.parametrize("answer", [MADE, Answer(AnswerKind.MAIL_FAILED), FAILED])
async def test_a_repeat_gets_the_first_answer(answer: Answer) -> None:
    connector = FakeConnector(answer)
    first, second = await post(connector, key="k"), await post(connector, key='"k"')
    assert (second.status_code, second.text) == (first.status_code, first.text)
    assert second.headers["content-type"] == first.headers["content-type"]
    assert second.headers["location"] == first.headers["location"]
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    assert (connector.dials, connector.mails) == (2, 1)


async def test_a_key_belongs_to_one_request() -> None:
    connector = FakeConnector()
    await post(connector, key="k")
    response = await post(connector, key="k", call_interval=1)
    assert response.status_code == 422
    assert response.json() == {"Message": "This Idempotency-Key was used for another request"}
    assert len(connector.orders) == 1


async def test_a_repeat_while_the_first_is_under_way_conflicts() -> None:
    connector = FakeConnector(gate=asyncio.Event())
    async with client_of(connector) as client:
        first = asyncio.create_task(client.post("/call", json=BODY, headers={"Idempotency-Key": "k"}))
        await connector.arrived.wait()
        second = await client.post("/call", json=BODY, headers={"Idempotency-Key": "k"})
        other = await client.post("/call", json=BODY | {"call_interval": 1}, headers={"Idempotency-Key": "k"})
        assert connector.gate is not None
        connector.gate.set()
        assert (await first).status_code == 200
    assert (second.status_code, other.status_code) == (409, 422)
    assert second.json() == {"Message": "The first such request has no answer yet"}
    assert second.headers["retry-after"] == "5"
    assert second.headers["location"] == f"/v1/connections/{connector.orders[0].id}"
    assert (connector.dials, connector.mails) == (2, 1)


async def test_a_request_that_was_not_tried_may_be_repeated_under_its_key() -> None:
    connector = FakeConnector(NotNow("full"))
    assert (await post(connector, key="k")).status_code == 503
    connector.answer = MADE
    response = await post(connector, key="k")
    assert (response.status_code, "idempotent-replayed" in response.headers) == (200, False)


async def test_a_repeat_is_answered_also_while_nothing_new_is_taken() -> None:
    connector = FakeConnector()
    await post(connector, key="k")
    connector.answer = NotNow("draining", leaving=True)
    response = await post(connector, key="k")
    assert (response.status_code, response.headers["idempotent-replayed"]) == (200, "true")


@pytest.mark.parametrize("key", [None, "k"])
async def test_who_is_refused_is_told_so_also_when_the_record_can_not_be_read(key: str | None) -> None:
    class Unread(FakeConnector):
        async def repeated(self, order: Order) -> Earlier | None:
            assert order.idempotency_key is not None, "to refuse is cheap"
            raise StoreError("no answer for 6 s")

    response = await post(Unread(NotNow("full", retry_after_s=7)), key=key)
    assert (response.status_code, response.json()) == (503, {"Message": "full"})
    assert response.headers["retry-after"] == "7"


async def test_an_answer_that_can_not_be_kept_is_given_all_the_same() -> None:
    class Forgetful(FakeConnector):
        async def remember_answer(self, connection_id: ConnectionId, *, status: int, body: str) -> None:
            raise StoreError("disk full")

    assert (await post(Forgetful())).status_code == 200
    assert (await post(Forgetful(), key="k")).status_code == 200


LISTED = NumberRefused("is on the do-not-call list", code="do_not_call", second=True)
SHUT = NotNow("all calls are stopped; nothing was done")
REACHED = TooMany("as many as allowed", retry_after_s=60)


@pytest.mark.parametrize(("refusal", "status"), [(LISTED, 400), (SHUT, 503), (REACHED, 429)])
async def test_a_repeat_is_answered_also_when_its_like_would_be_refused(refusal: Exception, status: int) -> None:
    connector = FakeConnector()
    await post(connector, key="k")
    connector.answer = refusal
    response = await post(connector, key="k")
    assert (response.status_code, response.headers["idempotent-replayed"]) == (200, "true")
    assert (await post(connector, key="k", call_interval=1)).status_code == 422
    assert (await post(connector, key="other")).status_code == status
    connector.answers.clear()  # The first is under way.
    response = await post(connector, key="k")
    assert (response.status_code, response.headers["retry-after"]) == (409, "5")
    # One that came to nothing would be begun anew, which is refused.
    connector.known = {"outcome": Outcome.INTERRUPTED, "answer": Answer(AnswerKind.MAIL_FAILED), "dialled": False}
    assert (await post(connector, key="k")).status_code == status
    assert len(connector.orders) == 1


@pytest.mark.parametrize("refusal", [LISTED, REACHED])
async def test_an_identical_request_may_have_been_the_last_to_get_in(refusal: Exception) -> None:
    connector = FakeConnector()
    first = await post(connector)
    connector.answer = refusal
    response = await post(connector)
    assert (response.status_code, response.headers["location"]) == (200, first.headers["location"])
    assert response.headers["idempotent-replayed"] == "true"


@pytest.mark.parametrize("key", [None, "k"])
async def test_a_repeat_is_answered_after_hours(key: str | None) -> None:
    connector, now = FakeConnector(), [NOW]
    rules = NumberRules(hours=CallingHours((opening("ES mon-fri 09:00-21:00"),)))
    app = app_with(connector, repeats=Repeats(coalesce_s=30), rules=rules, clock=lambda: now[0])
    headers = {} if key is None else {"Idempotency-Key": key}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://dosvoces") as client:
        first = await client.post("/call", json=BODY, headers=headers)
        now[0] = NOW.replace(hour=22)
        again = await client.post("/call", json=BODY, headers=headers)
        assert (again.status_code, again.text) == (200, first.text)
        assert again.headers["location"] == first.headers["location"]
        assert again.headers["idempotent-replayed"] == "true"
        other = await client.post("/call", json=BODY | {"call_interval": 1}, headers={"Idempotency-Key": "other"})
        assert (other.status_code, other.json()["Errors"][0]["code"]) == (400, "quiet_hours")
        if key is not None:
            connector.answers.clear()  # The first is under way.
            assert (await client.post("/call", json=BODY, headers=headers)).status_code == 409
    assert len(connector.orders) == 1


# --- an answer that nobody kept ---


@pytest.mark.parametrize(
    ("outcome", "answer", "status", "said"),
    [
        (Outcome.COMPLETED, MADE, 200, "Data received successfully"),
        (Outcome.SECOND_BUSY, FAILED, 500, "Could not make call to +34960000022"),
        (Outcome.MAIL_FAILED, Answer(AnswerKind.MAIL_FAILED), 500, "Could not send email to ana@milmoh.com"),
        (
            Outcome.INTERRUPTED,
            FAILED,
            500,
            "Could not make call to +34960000022: the service stopped meanwhile, and nobody is called twice",
        ),
    ],
)
async def test_an_answer_that_was_not_kept_follows_from_the_record(
    outcome: Outcome, answer: Answer, status: int, said: str
) -> None:
    connector = FakeConnector()
    await post(connector, key="k")
    connector.answers.clear()  # as after a crash
    connector.known = {"outcome": outcome, "answer": answer, "dialled": True}
    response = await post(connector, key="k")
    text = response.json()["Message"] if status == 500 else response.text
    assert (response.status_code, text, response.headers["idempotent-replayed"]) == (status, said, "true")
    assert response.headers["location"] == f"/v1/connections/{connector.orders[0].id}"
    assert connector.answers == {connector.orders[0].id: (status, response.text)}
    assert len(connector.orders) == 1


@pytest.mark.parametrize("mailed", [False, True])
async def test_a_request_that_was_interrupted_before_anybody_was_dialled_is_resumed(mailed: bool) -> None:
    connector = FakeConnector()
    await post(connector, key="k")
    connector.answers.clear()
    connector.known = {
        "outcome": Outcome.INTERRUPTED,
        "answer": Answer(AnswerKind.MAIL_FAILED),
        "dialled": False,
        "mailed": mailed,
    }
    assert (await post(connector, key="k", call_interval=1)).status_code == 422
    response = await post(connector, key="k")
    first, second = connector.orders
    assert (response.status_code, "idempotent-replayed" in response.headers) == (200, False)
    assert response.headers["location"] == f"/v1/connections/{second.id}"
    assert (second.resumes, second.mailed, second.idempotency_key) == (first.id, mailed, "k")


# --- identical requests without a key ---


async def test_an_identical_request_gets_the_first_answer() -> None:
    connector = FakeConnector(FAILED)
    first = await post(connector)
    # Another spelling, another order, a default written out, a member that nobody knows: the same request.
    second = await post(connector, unknown=1, call_interval=0, firstnumber="0034600000011")
    assert (second.status_code, second.text) == (500, first.text)
    assert second.headers["location"] == first.headers["location"]
    assert second.headers["idempotent-replayed"] == "true"
    assert len(connector.orders) == 1


async def _waiting(connector: FakeConnector, number: int) -> bool:
    return len(connector.waited_for) == number


async def test_an_identical_request_waits_for_the_first_answer() -> None:
    connector = FakeConnector(gate=asyncio.Event())
    async with client_of(connector) as client:
        tasks = [asyncio.create_task(client.post("/call", json=BODY)) for _ in range(5)]
        await until(lambda: _waiting(connector, 4))
        assert connector.gate is not None
        connector.gate.set()
        responses = await asyncio.gather(*tasks)
    assert [r.status_code for r in responses] == [200] * 5
    assert sorted("idempotent-replayed" in r.headers for r in responses) == [False, True, True, True, True]
    assert {r.headers["location"] for r in responses} == {f"/v1/connections/{connector.orders[0].id}"}
    assert (connector.dials, connector.mails) == (2, 1)


async def test_who_waited_for_one_that_was_interrupted_before_anybody_was_dialled_may_try_again() -> None:
    connector = FakeConnector()
    await post(connector)
    connector.answers.clear()

    async def lost(connection_id: ConnectionId) -> Any:
        known = await FakeConnector.repeated(connector, connector.orders[0])
        assert known is not None
        return replace(known, outcome=Outcome.INTERRUPTED, answer=Answer(AnswerKind.MAIL_FAILED))

    connector.answer_of = lost  # type: ignore[method-assign]
    response = await post(connector)
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    assert response.json() == {"Message": "The service stopped before anybody was called"}
    assert connector.answers == {}


async def test_another_body_another_key_and_the_setting_keep_requests_apart() -> None:
    connector = FakeConnector()
    await post(connector)
    await post(connector, call_interval=1)
    await post(connector, key="k")
    async with client_of(connector, coalesce_s=None) as client:
        await client.post("/call", json=BODY)
    assert len(connector.orders) == 4


def test_the_path_counts() -> None:
    order = an_order()
    assert fingerprint("/call", order) != fingerprint("/v1/connections", order)
    assert fingerprint("/call", order) == fingerprint("/call", replace(an_order(2), fingerprint=""))


def test_the_client_counts_where_no_key_says_whose_it_is() -> None:
    order = an_order()
    keyed = replace(order, idempotency_key="a·k")
    assert fingerprint("/call", order, "a") != fingerprint("/call", order, "b")
    assert fingerprint("/call", order, "a") != fingerprint("/call", order)
    assert fingerprint("/call", keyed, "a") == fingerprint("/call", keyed) == fingerprint("/call", order)
