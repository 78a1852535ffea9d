"""Two real nodes on one PostgreSQL, phones as witnesses: killed, frozen, cut off, and restarted in turn."""

import asyncio
import contextlib
import json
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psycopg

from dosvoces.phone import PhoneBehaviour
from dosvoces.phone.call import PhoneEventKind
from dosvoces.testing import until
from tests.house import ANSWERS, FIRST, HOST, LIMIT_S, SECOND, Phones, Process, lead, process

QUICK = {"beat_s": 0.2, "fence_s": 1.5, "dead_s": 3.0, "drain_s": 5.0}
SETTLE_LIMIT_S = 20.0
"""Within which the connections of a dead node are settled by another."""


@dataclass
class Fleet:
    """Nodes on one database, and the phones behind their trunk."""

    url: str
    phones: Phones
    folder: Path
    _stack: AsyncExitStack

    async def node(self, name: str, *, database: str = "", **sections: Any) -> Process:
        folder = self.folder / f"{name}-{len(list(self.folder.iterdir()))}"
        folder.mkdir()
        settings = {"database": {"url": database or self.url}, "node": {**QUICK, "name": name}, **sections}
        return await self._stack.enter_async_context(process(folder, self.phones.phone, **settings))

    async def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Ask the record, from outside."""
        async with await psycopg.AsyncConnection.connect(self.url) as db:
            return await (await db.execute(query.encode())).fetchall()

    async def true(self, query: str, *, limit_s: float = LIMIT_S) -> None:
        """Wait until the query finds something."""

        async def found() -> object:
            return await self.rows(query)

        await until(found, limit_s=limit_s)


@asynccontextmanager
async def fleet(url: str, folder: Path, behaviours: dict[str, PhoneBehaviour]) -> AsyncIterator[Fleet]:
    async with Phones.open(behaviours) as phones, AsyncExitStack() as stack:
        yield Fleet(url, phones, folder, stack)


def id_of(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return answer.headers["location"].rpartition("/")[2]


@asynccontextmanager
async def client_of(node: Process) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=node.url, timeout=LIMIT_S) as client:
        yield client


async def test_a_killed_node_s_calls_are_hung_up_and_settled_by_the_other(postgres_url: str, tmp_path: Path) -> None:
    async with fleet(postgres_url, tmp_path, {FIRST: ANSWERS, SECOND: ANSWERS}) as running:
        one, two = await running.node("one"), await running.node("two")
        async with client_of(one) as client:
            id = id_of(await client.post("/call", json=lead()))
        await running.true("SELECT 1 FROM connection WHERE joined_at IS NOT NULL")
        one.signal(signal.SIGKILL)
        began = asyncio.get_running_loop().time()
        await asyncio.wait_for(running.phones.quiet(), SETTLE_LIMIT_S)
        await running.true("SELECT 1 FROM connection WHERE outcome IS NOT NULL", limit_s=SETTLE_LIMIT_S)
        assert asyncio.get_running_loop().time() - began < SETTLE_LIMIT_S
        assert [(id, "interrupted")] == await running.rows("SELECT id, outcome FROM connection")
        # Its worker may outlive it by a moment, but the BYE came from the other node.
        ends = {call.number: call.end for call in running.phones.phone.calls}
        assert {(end.cause.value, end.by) for end in ends.values() if end} == {("hangup", "remote")}
        await running.true("SELECT 1 FROM node HAVING count(*) = 1")
        assert [("two",)] == await running.rows("SELECT name FROM node")
        async with client_of(two) as client:
            shown = (await client.get(f"/v1/connections/{id}")).json()
        assert ("interrupted", "ended") == (shown["outcome"], shown["phase"])


async def test_a_frozen_node_that_wakes_dials_nothing_and_comes_back_as_another(
    postgres_url: str, tmp_path: Path
) -> None:
    async with fleet(postgres_url, tmp_path, {FIRST: ANSWERS, SECOND: ANSWERS}) as running:
        one, two = await running.node("one"), await running.node("two")
        ((was,),) = await running.rows("SELECT id FROM node WHERE name = 'one'")
        async with client_of(one) as client:
            # The second would be dialled while the node stands still.
            waiting = asyncio.create_task(client.post("/call", json=lead(call_interval=2)))
            await running.phones.when(PhoneEventKind.ANSWERED, FIRST)
            await running.true("SELECT 1 FROM journal WHERE event = 'answered'")
            one.signal(signal.SIGSTOP)
            await running.true("SELECT 1 FROM connection WHERE outcome = 'interrupted'", limit_s=SETTLE_LIMIT_S)
            await asyncio.wait_for(running.phones.quiet(), LIMIT_S)
            one.signal(signal.SIGCONT)
            answer = await waiting
            assert 500 == answer.status_code
            await running.true(f"SELECT 1 FROM node WHERE name = 'one' AND id <> '{was}'")
            assert [FIRST] == [call.number for call in running.phones.phone.calls]
            assert [("interrupted", 1)] == await running.rows(
                "SELECT outcome, (SELECT count(*)::int FROM dial_attempt) FROM connection"
            )
            # It takes calls again.

            async def ready() -> bool:
                return (await client.get("/readyz")).status_code == 200

            await until(ready, limit_s=LIMIT_S)
            id_of(await client.post("/call", json=lead()))
        running.phones.call(SECOND).hang_up()
        await running.phones.quiet()
        assert two.process.returncode is None


class Wire:
    """A TCP proxy before the database that can stop carrying anything, as a network does that swallows all."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._open = asyncio.Event()
        self._open.set()
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[tuple["Wire", str]]:
        """The wire, and `url` through it."""
        parts = urlsplit(url)
        wire = cls(parts.hostname or HOST, parts.port or 5432)
        server = await asyncio.start_server(wire._serve, HOST, 0)
        port = server.sockets[0].getsockname()[1]
        yield wire, url.replace(f":{parts.port}/", f":{port}/")
        server.close()
        for task in list(wire._tasks):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def cut(self) -> None:
        self._open.clear()

    def heal(self) -> None:
        self._open.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._open.wait()
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            task = asyncio.create_task(self._carry(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65_536):
                await self._open.wait()
                sink.write(data)
                await sink.drain()
        except OSError:
            pass  # One end is gone, and so is the other in a moment.
        finally:
            sink.close()


async def test_a_node_cut_off_from_the_database_hangs_up_before_others_call_it_dead(
    postgres_url: str, tmp_path: Path
) -> None:
    async with (
        Wire.open(postgres_url) as (wire, through),
        fleet(postgres_url, tmp_path, {FIRST: ANSWERS, SECOND: ANSWERS}) as running,
    ):
        one = await running.node("one", database=through)
        await running.node("two")
        ((was,),) = await running.rows("SELECT id FROM node WHERE name = 'one'")
        async with client_of(one) as client:
            id_of(await client.post("/call", json=lead()))
            await running.true("SELECT 1 FROM connection WHERE joined_at IS NOT NULL")
            wire.cut()
            began = asyncio.get_running_loop().time()
            await asyncio.wait_for(running.phones.quiet(), LIMIT_S)
            # The other one can't have done it: to it this one is alive until `dead_s`.
            assert asyncio.get_running_loop().time() - began < QUICK["dead_s"]
            assert 503 == (await client.post("/call", json=lead())).status_code
            await running.true("SELECT 1 FROM connection WHERE outcome = 'interrupted'", limit_s=SETTLE_LIMIT_S)
            wire.heal()
            await running.true(f"SELECT 1 FROM node WHERE name = 'one' AND id <> '{was}'", limit_s=SETTLE_LIMIT_S)

            async def ready() -> bool:
                return (await client.get("/readyz")).status_code == 200

            await until(ready, limit_s=SETTLE_LIMIT_S)
            id_of(await client.post("/call", json=lead()))
        running.phones.call(SECOND).hang_up()
        await running.phones.quiet()


async def test_a_call_is_shown_and_ended_at_any_node(postgres_url: str, tmp_path: Path) -> None:
    async with fleet(postgres_url, tmp_path, {FIRST: ANSWERS, SECOND: ANSWERS}) as running:
        one, two = await running.node("one"), await running.node("two")
        async with client_of(one) as at_one, client_of(two) as at_two:
            id = id_of(await at_one.post("/call", json=lead()))
            await running.true("SELECT 1 FROM connection WHERE joined_at IS NOT NULL")
            assert "joined" == (await at_two.get(f"/v1/connections/{id}")).json()["phase"]
            began = asyncio.get_running_loop().time()
            assert 202 == (await at_two.post(f"/v1/connections/{id}/cancellation")).status_code
            await asyncio.wait_for(running.phones.quiet(), LIMIT_S)
            assert asyncio.get_running_loop().time() - began < 2
            await running.true("SELECT 1 FROM connection WHERE outcome = 'completed' AND ended_by = 'api'")
            assert 200 == (await at_two.post(f"/v1/connections/{id}/cancellation")).status_code
        nodes = json.loads(await two.command("nodes", "--json"))
        assert [("one", one.url), ("two", two.url)] == [(node["name"], node["url"]) for node in nodes]


@dataclass
class Caller:
    """A client that tries the other node where one refuses, and never a request that may have been taken."""

    urls: list[str]
    client: httpx.AsyncClient
    """One for all: a new one each time would keep the loop from sending what it has connected for."""
    answers: dict[str, httpx.Response] = field(default_factory=dict)
    refusals: int = 0

    async def call(self, first: str, second: str) -> None:
        turns = 0
        while True:
            url = self.urls[turns % len(self.urls)]
            turns += 1
            try:
                body = lead(firstnumber=first, secondnumber=second)
                answer = await self.client.post(f"{url}/call", json=body)
            except httpx.ConnectError:
                answer = None
            if answer is not None and answer.status_code != 503:
                self.answers[first] = answer
                return
            self.refusals += 1
            assert turns < 100, "no node takes it"
            await asyncio.sleep(0.05)


async def test_two_nodes_are_restarted_in_turn_under_load_and_no_request_fails(
    postgres_url: str, tmp_path: Path
) -> None:
    """Every request gets its answer, every number is rung once, and every call ends as the phones saw it end."""
    pairs = [(f"+3460000{n:04d}", f"+3496000{n:04d}") for n in range(60)]
    short = PhoneBehaviour(answer_after_s=0.05, hangup_after_s=0.4)
    behaviours = {first: ANSWERS for first, _ in pairs} | {second: short for _, second in pairs}
    apart = httpx.Limits(max_keepalive_connections=0)
    async with (
        fleet(postgres_url, tmp_path, behaviours) as running,
        httpx.AsyncClient(timeout=LIMIT_S, limits=apart) as client,
    ):
        nodes = [await running.node("one"), await running.node("two")]
        caller = Caller([node.url for node in nodes], client)
        tasks = []

        async def load() -> None:
            for number, pair in enumerate(pairs):
                caller.urls.sort(key=lambda url, number=number: (hash(url) + number) % 2)  # type: ignore[misc]
                tasks.append(asyncio.create_task(caller.call(*pair)))
                await asyncio.sleep(0.2)

        loading = asyncio.create_task(load())
        await asyncio.sleep(1)
        for place, name in enumerate(("one", "two")):
            nodes[place].signal(signal.SIGTERM)
            assert 0 == await nodes[place].ended()
            nodes[place] = await running.node(name)
            caller.urls[:] = [node.url for node in nodes]
        await loading
        await asyncio.gather(*tasks)
        await running.phones.quiet()
        await running.true("SELECT 1 FROM connection WHERE outcome IS NULL HAVING count(*) = 0")
        outcomes = await running.rows("SELECT first, outcome, answer_status FROM connection ORDER BY first")
    assert {200} == {answer.status_code for answer in caller.answers.values()}
    assert [first for first, _ in pairs] == sorted(caller.answers)
    assert [(first, "completed", 200) for first, _ in pairs] == outcomes
    rung = Counter(call.number for call in running.phones.phone.calls)
    assert {1} == set(rung.values())
    assert {number for pair in pairs for number in pair} == set(rung)
    assert caller.refusals > 0, "nothing was restarted while requests came"
