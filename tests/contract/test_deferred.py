"""The contract of `Deferred`, clause by clause, on every engine there is; what a kill does is in another file."""

import asyncio
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dosvoces.deferred import Again, Deferred, Kind, State, Work
from dosvoces.deferred import engine as deferred_engine
from dosvoces.deferred.engine import DbosEngine, open_engine, work_database
from dosvoces.errors import DeferredError
from dosvoces.testing import until

LIMIT_S = 15.0
WORK = Work("errand", "k1", {"to": "ana", "count": 3, "ratio": 0.5, "nothing": None})


@dataclass
class Handler:
    """Does works as told by their key, and notes what it was given."""

    answers: Mapping[str, list[Again | Exception]] = field(default_factory=dict)
    seen: list[Work] = field(default_factory=list)
    at: dict[str, list[datetime]] = field(default_factory=lambda: defaultdict(list))
    gates: dict[str, asyncio.Event] = field(default_factory=dict)
    """A work with such a key waits for its gate."""
    threads: set[int] = field(default_factory=set)

    async def __call__(self, work: Work) -> Again | None:
        self.seen.append(work)
        self.at[work.key].append(datetime.now(UTC))
        self.threads.add(threading.get_ident())
        if (gate := self.gates.get(work.key)) is not None:
            await gate.wait()
        answers = self.answers.get(work.key, [])
        answer = answers.pop(0) if answers else None
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def saw(self, key: str, times: int = 1) -> None:
        async def enough() -> bool:
            return len(self.at[key]) >= times

        await until(enough, limit_s=LIMIT_S)


Open = Callable[..., Awaitable[Deferred]]


@pytest.fixture(params=["sqlite", "postgresql"])
def database(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    if request.param == "postgresql":
        return work_database(str(request.getfixturevalue("postgres_url")))
    return work_database(f"sqlite:///{tmp_path / 'record.db'}")


@pytest.fixture
async def begin(database: str) -> AsyncIterator[Open]:
    """Starts the engine of a node with this handler; the one before is drained."""
    opened: list[Deferred] = []

    async def start(handler: Handler, *, node: str = "n1", lane_limit: int = 2) -> Deferred:
        for engine in opened:
            await engine.drain(0)
        kinds = [Kind(name, handler, poll_s=0.05, lane_limit=lane_limit) for name in ("errand", "other")]
        engine = DbosEngine(database, node=node, kinds=kinds)
        opened.append(engine)
        await engine.start()
        return engine

    yield start
    for engine in opened:
        await engine.drain(0)


async def ended(engine: Deferred, key: str = "k1", kind: str = "errand") -> State:
    async def over() -> bool:
        seen = await engine.get(kind, key)
        return seen is not None and seen.state not in (State.WAITING, State.RUNNING)

    await until(over, limit_s=LIMIT_S)
    seen = await engine.get(kind, key)
    assert seen is not None
    return seen.state


# --- durable on return, once per key, not before ---


async def test_durable_on_return(begin: Open) -> None:
    """What is not due yet when its node goes is done by the next one, as it was given."""
    engine = await begin(Handler())
    later = datetime.now(UTC) + timedelta(seconds=1)
    await engine.submit(replace(WORK, not_before=later))
    handler = Handler()
    engine = await begin(handler, node="n2")
    await handler.saw("k1")
    assert handler.seen == [WORK]
    assert await ended(engine) is State.DONE


async def test_once_per_key(begin: Open) -> None:
    handler = Handler()
    engine = await begin(handler)
    await asyncio.gather(*(engine.submit(replace(WORK, payload={"by": number})) for number in range(5)))
    assert await ended(engine) is State.DONE
    await engine.submit(WORK)
    await engine.submit(replace(WORK, key="k2"))
    await handler.saw("k2")
    assert [work.key for work in handler.seen] == ["k1", "k2"]


async def test_not_before(begin: Open) -> None:
    handler = Handler()
    engine = await begin(handler)
    due = datetime.now(UTC) + timedelta(seconds=1)
    await engine.submit(replace(WORK, not_before=due))
    seen = await engine.get("errand", "k1")
    assert seen is not None
    assert (seen.state, seen.node) == (State.WAITING, "")
    assert seen.work.not_before is not None
    assert abs(seen.work.not_before - due) < timedelta(seconds=0.1)
    await handler.saw("k1")
    # A clock of milliseconds against one of microseconds.
    assert handler.at["k1"][0] >= due - timedelta(seconds=0.01)


async def test_not_before_that_has_passed_is_at_once(begin: Open) -> None:
    handler = Handler()
    engine = await begin(handler)
    await engine.submit(replace(WORK, not_before=datetime.now(UTC) - timedelta(days=1)))
    assert await ended(engine) is State.DONE


# --- again ---


async def test_again(begin: Open) -> None:
    handler = Handler({"k1": [Again(0), Again(0.5)]})
    engine = await begin(handler)
    await engine.submit(WORK)
    await handler.saw("k1", 3)
    assert await ended(engine) is State.DONE
    assert handler.seen == [WORK, replace(WORK, run=2), replace(WORK, run=3)]
    first, second, third = handler.at["k1"]
    assert second > first
    assert third - second >= timedelta(seconds=0.49)


async def test_a_fault_after_many_runs_is_still_the_first(begin: Open) -> None:
    """One that waits for room comes back by its own wish: a failure of the record puts it off no longer for that."""
    handler = Handler({"k1": [*[Again(0)] * 5, DeferredError("not now"), Again(0), DeferredError("not now")]})
    engine = await begin(handler)
    await engine.submit(WORK)
    await handler.saw("k1", 6)
    await handler.saw("k1", 9)
    times = handler.at["k1"]
    # By its runs it would be 32 s and 128 s.
    assert times[6] - times[5] < timedelta(seconds=16 * deferred_engine.FAULT_RETRY_S)
    assert times[8] - times[7] < timedelta(seconds=16 * deferred_engine.FAULT_RETRY_S)


async def test_again_after_a_fault(begin: Open) -> None:
    handler = Handler({"k1": [RuntimeError("broken inside")]})
    engine = await begin(handler)
    await engine.submit(WORK)
    await handler.saw("k1", 2)
    assert await ended(engine) is State.DONE


# --- lanes apart ---


async def test_lanes_apart(begin: Open) -> None:
    """Two of the dead lane are begun, which is its limit; whatever else waits there, the others go."""
    handler = Handler(gates={f"dead{number}": asyncio.Event() for number in range(6)})
    engine = await begin(handler, lane_limit=2)
    for key in handler.gates:
        await engine.submit(replace(WORK, key=key, lane="dead"))
    await handler.saw("dead0")
    for number in range(4):
        await engine.submit(replace(WORK, key=f"well{number}", lane="well"))
        await engine.submit(Work("other", f"other{number}", lane="dead"))
    for number in range(4):
        await handler.saw(f"well{number}")
        await handler.saw(f"other{number}")
    assert sum(work.lane == "dead" and work.kind == "errand" for work in handler.seen) == 2
    for gate in handler.gates.values():
        gate.set()
    for key in handler.gates:
        await handler.saw(key)


# --- cancelled is not begun ---


async def test_cancelled_is_not_begun(begin: Open) -> None:
    handler = Handler()
    engine = await begin(handler)
    await engine.submit(replace(WORK, not_before=datetime.now(UTC) + timedelta(seconds=0.5)))
    assert await engine.cancel("errand", "k1")
    assert not await engine.cancel("errand", "k1")
    assert not await engine.cancel("errand", "unknown")
    await engine.submit(replace(WORK, key="k2", not_before=datetime.now(UTC) + timedelta(seconds=1)))
    await handler.saw("k2")
    assert [work.key for work in handler.seen] == ["k2"]
    assert await ended(engine) is State.CANCELLED


async def test_cancelled_while_it_runs_is_not_called_again(begin: Open) -> None:
    handler = Handler({"k1": [Again(0), Again(0)]}, gates={"k1": asyncio.Event()})
    engine = await begin(handler)
    await engine.submit(WORK)
    await handler.saw("k1")
    assert await engine.cancel("errand", "k1")
    handler.gates["k1"].set()
    await engine.submit(replace(WORK, key="k2", not_before=datetime.now(UTC) + timedelta(seconds=1)))
    await handler.saw("k2")
    assert [work.key for work in handler.seen] == ["k1", "k2"]


# --- inherited, drained ---


@pytest.mark.parametrize("by_name", [True, False])
async def test_inherited(begin: Open, by_name: bool) -> None:
    """What was under way when its node went is begun again: here it hangs for ever."""
    hanging = Handler(gates={"k1": asyncio.Event()})
    await (await begin(hanging)).submit(WORK)
    await hanging.saw("k1")
    handler = Handler()
    engine = await begin(handler, node="n2")
    seen = await engine.get("errand", "k1")
    assert seen is not None
    assert (seen.state, seen.node) == (State.RUNNING, "n1")
    assert await engine.inherit_all_but({"n1", "n2"}) == 0
    assert await (engine.inherit("n1") if by_name else engine.inherit_all_but({"n2"})) == 1
    assert await ended(engine) is State.DONE
    assert handler.seen == [WORK]
    assert await engine.inherit("n1") == 0


async def test_drained_waits_for_what_runs(begin: Open) -> None:
    handler = Handler(gates={"k1": asyncio.Event()})
    engine = await begin(handler)
    await engine.submit(WORK)
    await handler.saw("k1")
    draining = asyncio.create_task(engine.drain(LIMIT_S))
    await asyncio.sleep(0)
    with pytest.raises(DeferredError):
        await engine.submit(replace(WORK, key="k2"))
    handler.gates["k1"].set()
    await draining
    await engine.drain(LIMIT_S)
    engine = await begin(Handler(), node="n2")
    assert await ended(engine) is State.DONE


async def test_drained_begins_nothing_and_loses_nothing(begin: Open) -> None:
    handler = Handler()
    engine = await begin(handler)
    await engine.submit(replace(WORK, not_before=datetime.now(UTC) + timedelta(seconds=0.5)))
    await engine.drain(0)
    assert handler.seen == []
    handler = Handler()
    await begin(handler, node="n2")
    await handler.saw("k1")


async def test_given_up_while_it_starts_it_leaves_nothing_running(database: str) -> None:
    before = set(threading.enumerate())

    async def begun() -> bool:
        return bool({thread.name for thread in set(threading.enumerate()) - before} - {"deferred"})

    async def ended() -> bool:
        return set(threading.enumerate()) <= before

    opening = asyncio.create_task(open_engine(database, node="n1", kinds=[Kind("errand", Handler())]))
    await until(begun, limit_s=LIMIT_S)  # A thread of DBOS's own is there.
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await until(ended, limit_s=LIMIT_S)


@pytest.mark.parametrize("close_limit_s", [0.0, 0.05])
async def test_the_next_engine_works_although_nobody_waited_for_the_end_of_the_one_before(
    begin: Open, monkeypatch: pytest.MonkeyPatch, close_limit_s: float
) -> None:
    """As after a failure of the database, for which its threads sleep longer than anybody waits."""
    monkeypatch.setattr(deferred_engine, "CLOSE_LIMIT_S", close_limit_s)
    await begin(Handler())
    handler = Handler()
    engine = await begin(handler, node="n2")
    await engine.submit(WORK)
    await handler.saw("k1")
    assert await ended(engine) is State.DONE


# --- the rest ---


async def test_handlers_run_on_the_loop_of_the_service(begin: Open) -> None:
    handler = Handler({"k1": [Again(0)]})
    engine = await begin(handler)
    await engine.submit(WORK)
    await handler.saw("k1", 2)
    assert handler.threads == {threading.get_ident()}


async def test_what_is_not_done_is_listed_and_what_is_done_can_be_forgotten(begin: Open) -> None:
    handler = Handler()
    engine = await begin(handler)
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    await engine.submit(WORK)
    assert await ended(engine) is State.DONE
    for key in ("k2", "k3"):
        await engine.submit(replace(WORK, key=key, not_before=tomorrow))
    await engine.submit(Work("other", "k4", not_before=tomorrow))
    assert [seen.work.key for seen in await engine.list("errand")] == ["k2", "k3"]
    assert await engine.forget(datetime.now(UTC) - timedelta(hours=1)) == 0
    assert await engine.forget(datetime.now(UTC) + timedelta(seconds=1)) == 1
    assert await engine.get("errand", "k1") is None
    assert [seen.work.key for seen in await engine.list("errand")] == ["k2", "k3"]
    assert engine.problems() == []
