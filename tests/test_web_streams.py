"""Events as they happen, over the whole service's own HTTP: what a client of server-sent events sees."""

import asyncio
import json
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from dosvoces.carriers.fake import FakeCarrier
from dosvoces.model import ConnectionId, Facts
from dosvoces.store import Entry
from dosvoces.store.sql import SqlStore
from dosvoces.testing import until
from dosvoces.web import feed, streams
from tests.house import ANSWERS, HOST, House, Phones, Sections, house, house_and_phones, lead, process

LIMIT_S = 30.0
FAKE: list[Sections] = [{"name": "fake", "carrier": "fake", "caller_id": "+34910000000"}]
STREAM = {"accept": "text/event-stream"}


@dataclass
class Message:
    id: str = ""
    event: str = "message"
    data: str = ""
    comment: bool = False

    @property
    def json(self) -> Any:
        return json.loads(self.data)


@dataclass
class Client:
    """Reads a stream as the HTML standard says."""

    response: httpx.Response
    seen: list[Message] = field(default_factory=list)
    retry_ms: int | None = None
    place: str = ""
    """The last id, whether or not of an event: what `EventSource` comes back with."""

    def __post_init__(self) -> None:
        self._reading = self.messages()

    async def messages(self) -> AsyncIterator[Message]:
        message = Message()
        async for line in self.response.aiter_lines():
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if line == "":
                self.place = message.id or self.place
                if message.data:
                    self.seen.append(message)
                yield message
                message = Message()
            elif name == "":
                message.comment = True
            elif name == "retry":
                self.retry_ms = int(value)
            elif name in ("id", "event", "data"):
                setattr(message, name, value)

    async def until(self, event: str, times: int = 1) -> list[Message]:
        """Read until that event came so often; all since the beginning."""
        async with asyncio.timeout(LIMIT_S):
            async for message in self._reading:
                times -= message.event == event
                if times == 0:
                    return self.seen
        raise AssertionError(f"ended before {event}: {self.seen}")

    async def opening(self) -> str:
        """Read the first message, which tells nothing; the place after it."""
        async with asyncio.timeout(LIMIT_S):
            await anext(self._reading)
        assert self.seen == []
        return self.place

    async def heartbeat(self) -> str:
        """Read until a comment comes; the place by then."""
        async with asyncio.timeout(LIMIT_S):
            async for message in self._reading:
                if message.comment:
                    return self.place
        raise AssertionError(f"ended without a comment: {self.seen}")

    async def rest(self) -> list[Message]:
        """Read to its end; all since the beginning."""
        async with asyncio.timeout(LIMIT_S):
            async for _ in self._reading:
                pass
        return self.seen


@asynccontextmanager
async def listen(base: str, path: str, last: str = "", **headers: str) -> AsyncIterator[Client]:
    sent = {**STREAM, **headers, **({"last-event-id": last} if last else {})}
    async with (
        httpx.AsyncClient(base_url=base, timeout=LIMIT_S) as client,
        client.stream("GET", path, headers=sent) as response,
    ):
        assert (response.status_code, response.headers["content-type"]) == (200, "text/event-stream")
        yield Client(response)


async def journal(running: House, connection: str) -> list[dict[str, Any]]:
    answer = await running.client.get(f"/v1/connections/{connection}/events")
    events: list[dict[str, Any]] = answer.json()["data"]
    return events


def base(running: House) -> str:
    return running.service.http_url


async def test_a_connection_is_told_to_its_end_and_then_the_stream_is_over(tmp_path: Path) -> None:
    async with house_and_phones(tmp_path, ANSWERS, ANSWERS) as (running, _):
        answer = await running.client.post("/v1/connections", json=order(talk_limit=1))
        path = answer.headers["location"]
        async with listen(base(running), f"{path}/events") as client:
            seen = await client.rest()
        assert client.retry_ms == streams.RECONNECT_MS
        told = await journal(running, answer.json()["id"])
        assert [message.json for message in seen[:-1]] == told
        assert [(message.id, message.event) for message in seen[:-1]] == [(one["id"], one["event"]) for one in told]
        assert "statistics" in {message.event for message in seen}
        last = seen[-1]
        assert (last.event, last.id) == ("connection", f"{answer.json()['id']}-end")
        assert last.json == (await running.client.get(path)).json()
        assert last.json["outcome"] == "completed"
        # Whoever comes back gets what he has not seen, and is told to stay away when that is nothing.
        async with listen(base(running), f"{path}/events", last=seen[3].id) as client:
            assert await client.rest() == seen[4:]
        async with listen(base(running), f"{path}/events", last=seen[-2].id) as client:
            assert await client.rest() == [last]
        again = await running.client.get(f"{path}/events", headers={**STREAM, "last-event-id": last.id})
        assert again.status_code == 204
        assert running.service.listeners.count == 0


def order(**members: object) -> dict[str, object]:
    asked = lead(**members)
    return {
        "first_number": asked.pop("firstnumber"),
        "second_number": asked.pop("secondnumber"),
        "email": asked.pop("email"),
        **members,
    }


async def test_all_connections_are_told_once_to_whoever_comes_and_goes(tmp_path: Path) -> None:
    async with house(tmp_path, trunks=FAKE) as running:
        got: list[Message] = []
        async with listen(base(running), "/v1/events") as client:
            await running.client.post("/v1/connections", json=order())
            got += await client.until("joined")
        # Two whole connections while nobody listens.
        for number in (1, 2):
            answer = await running.client.post("/v1/connections", json=order(email=f"a{number}@example.com"))
            await running.client.post(f"{answer.headers['location']}/cancellation")
            await running.over(answer)
        async with listen(base(running), "/v1/events", last=got[-1].id) as client:
            await running.client.post("/v1/connections", json=order(email="b@example.com"))
            got += await client.until("joined", times=2 if "joined" in await events_of(running, 1, 2) else 1)
        ids = [message.id for message in got]
        assert len(set(ids)) == len(ids)
        for connection in {one.partition("-")[0] for one in ids}:
            numbers = [int(one.partition("-")[2]) for one in ids if one.startswith(connection)]
            assert numbers == list(range(1, len(numbers) + 1))
        assert len({one.partition("-")[0] for one in ids}) == 4


async def events_of(running: House, *back: int) -> list[str]:
    """What happened to the connections so many back from the newest."""
    records = await running.service.store.connections(limit=max(back) + 1)
    return [entry.event for number in back for entry in await running.journal(records[number])]


async def test_only_what_is_asked_for_is_told(tmp_path: Path) -> None:
    async with (
        house(tmp_path, trunks=FAKE) as running,
        listen(base(running), "/v1/events?types=joined,mail_sent") as client,
    ):
        await running.client.post("/v1/connections", json=order())
        assert [message.event for message in await client.until("joined")] == ["mail_sent", "joined"]


async def test_who_saw_nothing_yet_has_a_place_to_come_back_to(tmp_path: Path) -> None:
    async with house(tmp_path, trunks=FAKE) as running:

        async def happens() -> str:
            """One thing, to a new connection; its id."""
            due = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
            answer = await running.client.post("/v1/connections", json=order(not_before=due))
            await running.client.post(f"{answer.headers['location']}/cancellation")
            (event,) = await journal(running, answer.json()["id"])
            return str(event["id"])

        async with listen(base(running), "/v1/events") as client:
            assert await client.opening() == ""  # Nothing ever happened: there is no place before the first.
        last = await happens()
        async with listen(base(running), "/v1/events?types=joined") as client:
            assert await client.opening() == last
        missed = [await happens(), await happens()]
        async with listen(base(running), "/v1/events", last=last) as client:
            assert [message.id for message in await client.until("cancel", times=2)] == missed


@pytest.mark.parametrize("path", ["/v1/events", "/v1/connections/{id}/events"])
async def test_a_stream_that_hides_all_that_happens_shows_that_it_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(streams, "HEARTBEAT_S", 0.5)
    async with house(tmp_path, carrier=FakeCarrier()) as running:
        made = await running.client.post("/v1/connections", json=order())
        connection = ConnectionId(made.json()["id"])
        store = running.service.store
        assert isinstance(store, SqlStore)

        enough = asyncio.Event()

        async def press_keys() -> None:
            while not enough.is_set():  # Far more often than a heartbeat is due.
                store.journal(Entry(connection, datetime.now(UTC), "digit", None, "joined", "joined", {}))
                await asyncio.sleep(0.05)

        async with listen(base(running), f"{path.format(id=connection)}?types=nothing") as client:
            keys = asyncio.create_task(press_keys())
            await client.heartbeat()
            place = await client.heartbeat()
            assert client.seen == []
            await asyncio.sleep(0.2)  # At least one more key is pressed.
            enough.set()
            await keys
        # What was hidden is not told again to who comes back, and what followed is.
        async with listen(base(running), path.format(id=connection), last=place) as client:
            number = int(place.removeprefix(f"{connection}-"))
            assert (await client.until("digit"))[0].json["number"] == number + 1


async def test_a_connection_that_never_began_has_an_end(tmp_path: Path) -> None:
    async with house(tmp_path, trunks=FAKE) as running:
        due = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        answer = await running.client.post("/v1/connections", json=order(not_before=due))
        path = answer.headers["location"]
        async with listen(base(running), f"{path}/events") as client:
            await running.client.post(f"{path}/cancellation")
            cancel, end = await client.rest()
        assert (cancel.event, cancel.json["facts"]) == ("cancel", {"by": "api"})
        assert (end.event, end.json["outcome"]) == ("connection", "cancelled")


@pytest.mark.parametrize("last", ["nonsense", "01kk0000000000000000000000-x", "01kk0000000000000000000000--1"])
async def test_an_id_that_is_none_is_refused(tmp_path: Path, last: str) -> None:
    async with house(tmp_path, trunks=FAKE) as running:
        answer = await running.client.get("/v1/events", headers={"last-event-id": last})
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, "Last-Event-ID")


async def test_what_cannot_be_told_is_said(tmp_path: Path) -> None:
    async with house(tmp_path, trunks=FAKE) as running:
        forgotten = {"last-event-id": "01kk0000000000000000000000-3"}
        answer = await running.client.get("/v1/events", headers=forgotten)
        assert (answer.status_code, answer.json()["code"]) == (410, "no_such_event")
        made = await running.client.post("/v1/connections", json=order())
        path = f"{made.headers['location']}/events"
        answer = await running.client.get(path, headers={**STREAM, **forgotten})
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")


async def test_no_more_listen_than_may(tmp_path: Path) -> None:
    async with house(tmp_path, trunks=FAKE, http={"max_streams": 1}) as running:
        async with listen(base(running), "/v1/events"):
            answer = await running.client.get("/v1/events")
            assert (answer.status_code, answer.json()["code"]) == (503, "no_more_streams")
            assert answer.headers["retry-after"] == "5"

        async def nobody() -> bool:
            return running.service.listeners.count == 0

        await until(nobody, limit_s=LIMIT_S)
        async with listen(base(running), "/v1/events"):
            assert running.service.listeners.count == 1


async def test_a_stop_ends_streams_at_once_and_a_restart_misses_nothing(tmp_path: Path) -> None:
    async with Phones.open({}) as phones:
        async with (
            process(tmp_path, phones.phone, node={"drain_s": 0.0}) as running,
            listen(running.url, "/v1/events") as client,
            httpx.AsyncClient(base_url=running.url, timeout=LIMIT_S) as asking,
        ):
            await asking.post("/v1/connections", json=order())
            await client.until("started")
            running.signal(signal.SIGTERM)
            await client.rest()
            assert await running.ended() == 0
        got = list(client.seen)
        async with process(tmp_path, phones.phone) as running:
            async with (
                listen(running.url, "/v1/events", last=got[-1].id) as again,
                httpx.AsyncClient(base_url=running.url, timeout=LIMIT_S) as asking,
            ):
                await asking.post("/v1/connections", json=order(email="later@example.com"))
                got += await again.until("started")
            stored = running.rows("SELECT connection_id || '-' || seq FROM journal WHERE event <> 'dialog'")
            ids = [message.id for message in got]
            assert len(set(ids)) == len(ids)
            first = ids[0].partition("-")[0]
            assert {one for (one,) in stored if one.startswith(first)} == {one for one in ids if one.startswith(first)}


async def test_who_does_not_read_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "SEND_LIMIT_S", 0.5)
    monkeypatch.setattr(feed, "WAITING_LIMIT", 10_000_000)
    async with house(tmp_path, carrier=FakeCarrier()) as running:
        made = await running.client.post("/v1/connections", json=order())
        connection = ConnectionId(made.json()["id"])
        port = running.service.http.address[1]
        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.setblocking(False)
        await asyncio.get_running_loop().sock_connect(deaf, (HOST, port))
        await asyncio.get_running_loop().sock_sendall(deaf, b"GET /v1/events HTTP/1.1\r\nhost: x\r\n\r\n")

        async def listening() -> bool:
            return running.service.listeners.count == 1

        await until(listening, limit_s=LIMIT_S)
        store = running.service.store
        assert isinstance(store, SqlStore)

        for _ in range(2000):  # 20 MB: more than a kernel keeps for a reader with so small a window
            facts: Facts = {"x": "- " * 5_000}
            store.journal(Entry(connection, datetime.now(UTC), "digit", None, "joined", "joined", facts))

        async def let_go() -> bool:
            return running.service.listeners.count == 0

        await until(let_go, limit_s=LIMIT_S)
        deaf.close()
