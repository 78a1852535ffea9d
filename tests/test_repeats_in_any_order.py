"""
Requests, repeats and crashes in any order, from the door to the record: nobody is rung twice, no answer is taken back.

A process that crashes does nothing more from that moment on: whatever it would write, mail or dial stands still.
"""

import asyncio
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import httpx
from hypothesis import given, settings
from hypothesis import strategies as st

from dosvoces.carriers import Call
from dosvoces.carriers.fake import FakeCarrier, Script
from dosvoces.dialplan import NumberRules
from dosvoces.mail import Mail
from dosvoces.mail.messages import compose_lead
from dosvoces.model import ConnectionId, Order, Outcome, Repeats, Side
from dosvoces.store import Store
from dosvoces.store.sql import SqlStore, open_store
from dosvoces.switchboard import Limits, Switchboard
from dosvoces.testing import until
from dosvoces.web import build_app
from dosvoces.web.feed import Listeners
from tests.web_fakes import FakeCanceller, FakeReadiness, FakeRecords, FakeScheduler, FakeSwitch

SECOND = "+34960000022"
LIMIT_S = 10.0
FOLLOWS = Script(rings_after_s=0.001, answers_after_s=0.003, hangs_up_after_s=0.01)
POINTS = ["recorded", "mailing", "mailed", "intended", "settling", "answering"]


class Life:
    """Of one process: `passes` never returns once it is over."""

    def __init__(self, dies_at: str | None) -> None:
        self._dies_at = dies_at
        self.over = asyncio.Event()

    async def passes(self, point: str) -> None:
        if point == self._dies_at:
            self.over.set()
        if self.over.is_set():
            await asyncio.Event().wait()


class MortalStore:
    """A record that a dead process writes nothing into."""

    def __init__(self, store: SqlStore, life: Life) -> None:
        self._store = store
        self._life = life

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def record(self, order: Order, **how: Any) -> None:
        await self._life.passes("request")
        await self._store.record(order, **how)
        await self._life.passes("recorded")

    async def intend_dial(self, order: Order, side: Side, **how: Any) -> float:
        await self._life.passes("mailed" if side is Side.A else "second")
        wait_s = await self._store.intend_dial(order, side, **how)
        await self._life.passes("intended")
        return wait_s

    async def settle(self, connection_id: ConnectionId, state: Any, outcome: Outcome, *, at: datetime) -> None:
        await self._life.passes("settling")
        await self._store.settle(connection_id, state, outcome, at=at)

    async def remember_answer(self, connection_id: ConnectionId, *, status: int, body: str) -> None:
        await self._life.passes("answering")
        await self._store.remember_answer(connection_id, status=status, body=body)

    def update(self, *what: Any) -> None:
        if not self._life.over.is_set():
            self._store.update(*what)

    def journal(self, entry: Any) -> None:
        if not self._life.over.is_set():
            self._store.journal(entry)


@dataclass
class Letters:
    """A mail server that takes everything."""

    life: Life
    taken: list[Mail]

    async def deliver(self, mail: Mail) -> None:
        await self.life.passes("mailing")
        self.taken.append(mail)

    async def check(self) -> None: ...

    async def close(self) -> None: ...


@dataclass
class World:
    """What outlives the processes, and what its people saw."""

    folder: Path
    carriers: list[FakeCarrier] = field(default_factory=list)
    """Of each process, with whom it dialled."""
    mails: list[Mail] = field(default_factory=list)
    told: dict[tuple[str, str], tuple[int, str, str]] = field(default_factory=dict)
    """By key and number: the first answer that was none to wait for."""

    @property
    def calls(self) -> list[Call]:
        return [call for carrier in self.carriers for call in carrier.dialed]

    @asynccontextmanager
    async def process(self, dies_at: str | None) -> AsyncIterator["Process"]:
        life = Life(dies_at)
        inner = open_store(f"sqlite:///{self.folder / 'record.db'}")
        await inner.open()
        store = cast(Store, MortalStore(inner, life))
        carrier = FakeCarrier(lambda _call: FOLLOWS, before=self.carriers[-1] if self.carriers else None)
        self.carriers.append(carrier)
        board = Switchboard(
            store=store,
            mailbox=Letters(life, self.mails),
            carrier=carrier,
            compose=lambda order: compose_lead(order, sender="d@example.com", locale="en"),
            limits=Limits(close_limit_s=0.05),
        )
        await board.start()
        await board.settle_leftovers()
        nothing: Any = None  # Nobody asks for webhooks.
        app = build_app(
            switch=FakeSwitch(),
            hooks=nothing,
            connector=board,
            scheduler=FakeScheduler(),
            records=FakeRecords(),
            feed=inner.feed,
            listeners=Listeners(inner.feed, most=0),
            canceller=FakeCanceller(),
            readiness=FakeReadiness(),
            rules=NumberRules(),
            clock=lambda: datetime.now(UTC),
            repeats=Repeats(coalesce_s=30),
        )
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://dosvoces", timeout=LIMIT_S)
        process = Process(self, life, board, client)
        try:
            yield process
        finally:
            life.over.set()
            await process.end()
            await board.close()
            await inner.close()

    def heard(self, key: str | None, first: str, answer: httpx.Response) -> None:
        """
        What is told once under a key is told for ever.

        Without a key an answer is given before it is kept: who asks after a crash is told that the call was cut off.
        """
        if key is None or answer.status_code in (409, 422, 503):
            return
        said = (answer.status_code, answer.text, answer.headers["location"])
        assert self.told.setdefault((key, first), said) == said


@dataclass
class Process:
    world: World
    life: Life
    board: Switchboard
    client: httpx.AsyncClient
    asking: list["asyncio.Task[None]"] = field(default_factory=list)

    def ask(self, key: str | None, first: str) -> None:
        self.asking.append(asyncio.create_task(self._ask(key, first)))

    async def _ask(self, key: str | None, first: str) -> None:
        self.world.heard(key, first, await self.post(key, first))

    async def post(self, key: str | None, first: str) -> httpx.Response:
        body = {"firstnumber": first, "secondnumber": SECOND, "email": "ana@example.com"}
        headers = {} if key is None else {"Idempotency-Key": key}
        return await self.client.post("/call", json=body, headers=headers)

    async def quiet(self) -> None:
        """Until all who asked were answered and all calls are over, or the process is."""

        async def done() -> bool:
            return self.life.over.is_set() or (all(task.done() for task in self.asking) and self.board.idle)

        await until(done, limit_s=LIMIT_S)

    async def end(self) -> None:
        for task in self.asking:
            if not task.done():
                task.cancel()
        for result in await asyncio.gather(*self.asking, return_exceptions=True):
            if isinstance(result, Exception):
                raise result
        await self.client.aclose()


KEYS = [None, "k1", "k2"]
NUMBERS = ["+34600000011", "+34600000012"]
REQUESTS = [(key, number) for key in KEYS for number in NUMBERS]
asks = st.tuples(st.sampled_from(REQUESTS), st.sampled_from(["at once", "a moment later", "when all is quiet"]))
lives = st.tuples(st.lists(asks, min_size=1, max_size=6), st.sampled_from([*POINTS, None]))


@settings(max_examples=20)
@given(st.lists(lives, min_size=1, max_size=3))
def test_nobody_is_rung_twice_whatever_comes_between(
    story: list[tuple[list[tuple[tuple[str | None, str], str]], str | None]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_lived_through(World(Path(folder)), story))


async def _lived_through(
    world: World, story: list[tuple[list[tuple[tuple[str | None, str], str]], str | None]]
) -> None:
    asked: set[tuple[str | None, str]] = set()
    for requests, dies_at in story:
        async with world.process(dies_at) as process:
            for (key, number), when in requests:
                if when == "when all is quiet":
                    await process.quiet()
                elif when == "a moment later":
                    await asyncio.sleep(0.002)
                process.ask(key, number)
                asked.add((key, number))
            await process.quiet()
    async with world.process(None) as process:
        final = {request: await process.post(*request) for request in sorted(asked, key=str)}
        await process.quiet()
    for request, answer in final.items():
        assert answer.status_code in (200, 422, 500)
        world.heard(*request, answer)
    _judge(world, final)


def _judge(world: World, final: dict[tuple[str | None, str], httpx.Response]) -> None:
    """By what the phones and the mail server saw."""
    rung = Counter((call.connection_id, call.side) for call in world.calls)
    assert set(rung.values()) <= {1}
    served = [request for request, answer in final.items() if answer.status_code != 422]
    # A key is one request's: another one under it was told so.
    assert Counter(key for key, _ in served if key) == Counter({key for key, _ in final if key})
    # Each key, and all who have none together, ring their number once at most.
    firsts = Counter(call.number.e164 for call in world.calls if call.side is Side.A)
    assert firsts <= Counter(number for _, number in served)
    for answer in final.values():
        if answer.status_code == 200:
            connection = answer.headers["location"].rpartition("/")[2]
            assert {side for of, side in rung if of == connection} == {Side.A, Side.B}
    # A request that is begun anew sends the same mail: there are no more of them than requests.
    if all(key for key, _ in final):
        assert len({mail.message_id for mail in world.mails}) <= len(served)
