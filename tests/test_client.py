"""The typed clients against the service, and what they do when it is away or refuses."""

import asyncio
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import TypeAdapter

from dosvoces.cli.follow import follow
from dosvoces.client import AsyncClient, Client, InvalidRequest, NotNow, NotPermitted, NotThere, Unreachable
from dosvoces.client.exchange import Stream
from dosvoces.errors import NotAllowed
from dosvoces.resources import EventView
from dosvoces.web.connections import MAX_WAIT_S
from tests.house import EMAIL, FIRST, SECOND, house
from tests.test_trial_runs import BRIEF, clients

NOBODY = "01m8gcrrkzkq5pr8w64r5rrn30"
METADATA = {"lead": "7", "note": "one\u2028two\x85three"}
"""With line ends that are none to a stream of events, and are to some who read one."""


async def test_a_connection_is_created_followed_listed_and_read(tmp_path: Path) -> None:
    async with clients(tmp_path) as running:
        key = running.test.headers["authorization"].removeprefix("Bearer ")
        async with AsyncClient(running.house.service.http_url, key=key) as client:
            made = await client.create(
                first_number=FIRST, second_number=BRIEF, email=EMAIL, idempotency_key="one", metadata=METADATA
            )
            again = await client.create(
                first_number=FIRST, second_number=BRIEF, email=EMAIL, idempotency_key="one", metadata=METADATA
            )
            assert (made.test, made.metadata, again.id) == (True, METADATA, made.id)
            seen = [event.event async for event in client.events(made.id)]
            assert (seen[0], seen.count("answered"), seen.count("ended")) == ("started", 2, 2)
            assert (await client.get(made.id)).outcome == "completed"
            assert (await client.mail(made.id)).state == "sent"
            more = [(await client.create(first_number=FIRST, second_number=SECOND, email=EMAIL)).id for _ in range(2)]
            listed = [each.id async for each in client.list(test=True, limit=1)]
            assert listed == [*reversed(more), made.id]
            assert (await client.cancel(more[0])).id == more[0]


async def test_the_waiting_client_does_the_same_and_refusals_are_typed(tmp_path: Path) -> None:
    async with clients(tmp_path) as running:
        key = running.test.headers["authorization"].removeprefix("Bearer ")
        url = running.house.service.http_url

        def use() -> list[str]:
            with Client(url, key=key) as client:
                made = client.create(first_number=FIRST, second_number=BRIEF, email=EMAIL)
                seen = [event.event for event in client.events(made.id)]
                assert [each.id for each in client.list()] == [made.id]
                with pytest.raises(InvalidRequest) as invalid:
                    client.create(first_number="x", second_number=SECOND, email=EMAIL)
                assert [error.field for error in invalid.value.errors] == ["first_number"]
                with pytest.raises(NotThere):
                    client.get(NOBODY)
            with Client(url) as stranger, pytest.raises(NotPermitted) as refused:
                stranger.get(NOBODY)
            assert refused.value.code == "key_needed"
            return seen

        assert "joined" in await asyncio.to_thread(use)


async def test_what_is_refused_for_now_is_asked_again_under_the_same_key() -> None:
    keys: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["idempotency-key"])
        if len(keys) == 1:
            raise httpx.ConnectError("away", request=request)
        return httpx.Response(503, json={"title": "Not tried now", "code": "not_now"})

    async with AsyncClient("http://service", transport=httpx.MockTransport(answer)) as client:
        with pytest.raises(NotNow):
            await client.create(first_number=FIRST, second_number=SECOND, email=EMAIL)
    assert (len(keys), len(set(keys))) == (4, 1)


def test_an_answer_that_the_service_holds_back_is_waited_for() -> None:
    patience_s: list[dict[str, float]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        patience_s.append(request.extensions["timeout"])
        return httpx.Response(404, json={"title": "Not there", "code": "not_found"})

    def creates(**more: Any) -> None:
        with Client("http://service", transport=httpx.MockTransport(answer), **more) as client:
            for wait_s in (None, 20, 3600):
                with pytest.raises(NotThere):
                    client.create(first_number=FIRST, second_number=SECOND, email=EMAIL, wait_s=wait_s)

    async def creates_async() -> None:
        async with AsyncClient("http://service", transport=httpx.MockTransport(answer)) as client:
            with pytest.raises(NotThere):
                await client.create(first_number=FIRST, second_number=SECOND, email=EMAIL, wait_s=60)

    creates()
    asyncio.run(creates_async())
    assert [each["read"] for each in patience_s] == [30, 50, 30 + MAX_WAIT_S, 90]
    assert {each["connect"] for each in patience_s} == {30}
    # The caller's own limit is kept.
    patience_s.clear()
    creates(timeout=5.0)
    assert {each["read"] for each in patience_s} == {5}


def test_a_stream_is_taken_up_after_the_last_message_that_came_whole() -> None:
    rang = EventView(f"{NOBODY}-7", NOBODY, 7, datetime(2026, 3, 2, tzinfo=UTC), "ringing", None, "x", "x", {})
    told = ["event: ringing", f"data: {TypeAdapter(EventView).dump_json(rang).decode()}", f"id: {rang.id}", ""]
    stream = Stream()
    assert "last-event-id" not in stream.opened()
    assert list(stream.read(told[:-1])) == []  # It breaks off here.
    assert "last-event-id" not in stream.opened()
    assert list(stream.read(["retry: 2000", "", *told])) == [rang]
    assert stream.opened()["last-event-id"] == rang.id
    # A heartbeat that names a place.
    assert list(stream.read([": ", f"id: {NOBODY}-9", ""])) == []
    assert stream.opened()["last-event-id"] == f"{NOBODY}-9"


async def test_a_service_that_is_not_there_is_told_so(tmp_path: Path) -> None:
    async with house(tmp_path) as running:
        url = running.service.http_url
    async with AsyncClient(url) as client:
        with pytest.raises(Unreachable, match="can't be reached"):
            await client.get(NOBODY)


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8080",
        "http://",
        "http://127.0.0.1:80x80",
        "http://127.0.0.1:99999",
        "http://[::1",
        "http://ñañ..a/",
        "https://a..b",
        f"http://{'a' * 64}.example",
        "http://xn--a/",
    ],
)
def test_what_is_no_address_of_a_service_is_refused_at_once(url: str) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(NotAllowed, match="is no address of a service; write http"):
            kind(url)


def test_importing_the_client_imports_nothing_of_the_service() -> None:
    asked = "import sys, dosvoces.client; print(*sorted(name for name in sys.modules if name.startswith('dosvoces.')))"
    loaded = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stdout.split()
    ours = {name.split(".")[1] for name in loaded}
    assert ours == {"client", "errors", "resources"}


async def test_call_follows_what_it_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with clients(tmp_path) as running:
        key = running.test.headers["authorization"].removeprefix("Bearer ")
        answer = await running.test.post(
            "/v1/connections", json={"first_number": FIRST, "second_number": BRIEF, "email": EMAIL}
        )
        url = f"{running.house.service.http_url}/call"
        await asyncio.to_thread(follow, url, key, answer.json()["id"])
    told = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("{")]  # The service's log.
    assert ([line for line in told if line.endswith(" joined")] != [], told[-1]) == (True, "completed")
