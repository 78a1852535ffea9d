"""
Deferred work on DBOS: in a SQLite file beside the record, or in the record's own PostgreSQL database.

Each run of a work is a workflow of one step, and a work that is to be done again is the next workflow, delayed. So a
work that waits, for seconds or for days, is a row and nothing else: it belongs to no node, holds no memory, and any
node takes it. Only what runs belongs to somebody, and `inherit` moves that by `list_workflows` and `resume_workflow`.

DBOS blocks: its calls run on a lane of their own, its workflows on its own threads, our handlers on our loop. Importing
this module imports DBOS, which takes most of a second: `app` does it on a thread, and only when there is work.
"""

import asyncio
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import structlog
from dbos import DBOS, DBOSConfig, DBOSPortableJSONSerializer, SetEnqueueOptions, SetWorkflowID, WorkflowStatus
from sqlalchemy.engine import make_url

from dosvoces.deferred import Again, Deferred, Kind, Seen, State, Work
from dosvoces.errors import DeferredError, DosvocesError
from dosvoces.store.lane import Lane

T = TypeVar("T")

log = structlog.get_logger(__name__)

APPLICATION = "dosvoces"
VERSION = "1"
"""
Of the workflow, not of the package: DBOS leaves works of another version alone. It changes when `_run` no longer
understands what an older one wrote down, and then both must run until the old works are done.
"""
WORKFLOW = "work"
THREADS = 8  # for DBOS's own database calls, which wait for one another anyway
CONNECTIONS = 5  # to the database, of each node
FAULT_RETRY_S = 1.0
"""After a handler's first fault; doubled with each further one in a row."""
LAST_FAULT_RETRY_S = 600.0
FAULTS_KNOWN = 10_000
"""Of how many works the faults in a row are known; beyond, who had one longest ago begins with the first again."""
DRAIN_POLL_S = 0.05
CLOSE_LIMIT_S = 3.0
"""How long giving everything back may take before nobody waits for it any more."""
SUCCESSION_LIMIT_S = 30.0
"""How long an engine waits for the one before it: DBOS's threads sleep for long while their database is away."""
PAGE = 500
"""Rows that one question brings, or one deletion takes."""

_ONLY_ONE = threading.Lock()
"""Whose DBOS is: there is one in a process, and `DBOS.destroy` ends whichever that is."""

_LIVE = ["DELAYED", "ENQUEUED", "PENDING"]
_ENDED = ["SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"]
_STATES = {
    "DELAYED": State.WAITING,
    "ENQUEUED": State.WAITING,
    "PENDING": State.RUNNING,
    "SUCCESS": State.DONE,
    "CANCELLED": State.CANCELLED,
}


def work_database(record_url: str) -> str:
    """
    Where the works of a record are kept: `dosvoces.db.work` beside a SQLite file, else the record's own database.

    A file of its own: DBOS holds SQLite's one write lock for longer than a call's next step may wait.
    """
    url = make_url(record_url)
    if url.get_backend_name() != "sqlite":
        return record_url
    return f"sqlite:///{Path(url.database or '').absolute()}.work"


async def open_engine(record_url: str, *, node: str, kinds: Sequence[Kind]) -> Deferred:
    """The started engine for the works of that record. Raises `DeferredError`."""
    engine = DbosEngine(work_database(record_url), node=node, kinds=kinds)
    try:
        await engine.start()
    except BaseException:  # Given up as well: DBOS would go on to start, and work for nobody.
        await engine.drain(0)
        raise
    return engine


class DbosEngine(Deferred):
    """
    The one engine of this process: DBOS knows no second one. `start` before all else.

    `node` is this process's incarnation, never used before: what it had begun when it died is found by that name.
    """

    def __init__(self, database: str, *, node: str, kinds: Sequence[Kind]) -> None:
        self._database = database
        self._node = node
        self._kinds = {kind.name: kind for kind in kinds}
        self._lane = Lane("deferred")
        self._running: dict[asyncio.Task[Any], Work] = {}
        self._faults: dict[tuple[str, str], int] = {}
        """In a row, of each work that had one last."""
        self._draining = False
        self._closed = False
        self._launched = False
        self._trouble = ""
        self._loop: asyncio.AbstractEventLoop
        self._workflow: Callable[..., Any]

    async def start(self) -> None:
        """Open the database, bring it up to date and begin to work. Raises `DeferredError`."""
        self._loop = asyncio.get_running_loop()
        await self._ask(self._launch)

    # --- the port ---

    async def submit(self, work: Work) -> None:
        await self._ask(lambda: self._enqueue(work))

    async def cancel(self, kind: str, key: str) -> bool:
        def cancel() -> bool:
            status = _newest(kind, key)
            if status is None or status.status not in _LIVE:
                return False
            DBOS.cancel_workflow(status.workflow_id)
            return True

        return await self._ask(cancel)

    async def get(self, kind: str, key: str) -> Seen | None:
        status = await self._ask(lambda: _newest(kind, key))
        return None if status is None else _seen(status)

    async def list(self, kind: str, *, limit: int = 100) -> Sequence[Seen]:
        def find() -> Sequence[WorkflowStatus]:
            return DBOS.list_workflows(workflow_id_prefix=f"{kind}/", status=_LIVE, limit=limit, load_output=False)

        return [_seen(status) for status in await self._ask(find)]

    async def inherit(self, node: str) -> int:
        return await self._ask(lambda: _resume(DBOS.list_workflows(status="PENDING", executor_id=node, **_BARE)))

    async def inherit_all_but(self, live: Collection[str]) -> int:
        def resume() -> int:
            begun = DBOS.list_workflows(status="PENDING", **_BARE)
            return _resume([status for status in begun if status.executor_id not in live])

        return await self._ask(resume)

    async def forget(self, ended_before: datetime) -> int:
        def delete() -> int:
            at = ended_before.astimezone(UTC).isoformat()
            ended = DBOS.list_workflows(status=_ENDED, completed_before=at, limit=PAGE, **_BARE)
            if ended:
                DBOS.delete_workflows([status.workflow_id for status in ended])
            return len(ended)

        total = 0
        while found := await self._ask(delete):
            total += found
        return total

    def problems(self) -> Sequence[str]:
        return [self._trouble] if self._trouble else []

    async def drain(self, limit_s: float) -> None:
        if self._closed:
            return
        self._draining = self._closed = True
        begun = [_id(work) for work in self._running.values()]
        over: asyncio.Future[int] = self._loop.create_future()

        def left(count: int | None, error: BaseException | None) -> None:
            if over.done():
                return  # Nobody waits any more.
            if error is not None:
                over.set_exception(error)
            else:
                over.set_result(count or 0)

        # Done to its end whoever stops waiting for it: the next engine can't begin before.
        self._lane.submit(partial(self._leave, begun, limit_s), left)
        self._lane.stop()
        try:
            # DBOS tries for ever while its database is away; we leave then, and its threads go with the process.
            async with asyncio.timeout(limit_s + CLOSE_LIMIT_S):
                if works := await over:
                    log.warning("deferred work left to be begun again", works=works)
        except TimeoutError:
            log.warning("deferred work is still being ended", limit_s=limit_s + CLOSE_LIMIT_S)
        except Exception:  # The edge to a library: whatever it says, we are leaving.
            log.exception("deferred work not ended in order")

    # --- on the lane ---

    async def _ask(self, question: Callable[[], T]) -> T:
        if self._draining:
            raise DeferredError("deferred work is not taken any more: the service is stopping")
        try:
            answer = await self._lane.run(question)
        except Exception as error:  # The edge to a library: its errors are SQLAlchemy's, a driver's and its own.
            self._trouble = f"deferred work (webhooks, schedules) can't be written down: {error}"
            raise DeferredError(self._trouble) from error
        self._trouble = ""
        return answer

    def _launch(self) -> None:
        if not _ONLY_ONE.acquire(timeout=SUCCESSION_LIMIT_S):
            raise DeferredError("the engine of deferred work that was here before has not ended yet")
        self._launched = True
        _adopt_log()
        if self._database.startswith("sqlite"):
            _prepare_file(Path(make_url(self._database).database or ""))
        config: DBOSConfig = {
            "name": APPLICATION,
            "system_database_url": self._database,
            "sys_db_pool_size": CONNECTIONS,
            "executor_id": self._node,
            "application_version": VERSION,
            "max_executor_threads": THREADS,
            "serializer": DBOSPortableJSONSerializer(),  # The default one is pickle.
            "log_level": logging.getLevelName(_log_level()),
            "enable_otlp": False,
            "use_listen_notify": False,  # We send no messages between workflows, and PgBouncer allows no LISTEN.
            "notification_listener_polling_interval_sec": 0.25,  # Nobody listens; how long a shutdown waits for it.
        }
        DBOS(config=config)

        async def work(kind: str, key: str, lane: str, run: int, payload: dict[str, Any]) -> None:
            await self._run(kind, key, lane, run, payload)  # DBOS takes functions, not methods.

        self._workflow = DBOS.workflow(name=WORKFLOW, max_recovery_attempts=None)(work)
        DBOS.launch()
        for kind in self._kinds.values():
            DBOS.register_queue(
                kind.name,
                partition_worker_concurrency=kind.lane_limit,
                polling_interval_sec=kind.poll_s,
                on_conflict="always_update",
            )

    def _leave(self, begun: Sequence[str], limit_s: float) -> int:
        """Wait for these, then give everything back; how many of them are left to be begun again."""
        if not self._launched:
            return 0
        try:
            return _until_ended(begun, limit_s)
        finally:
            try:
                # The registry too, or the next engine of this process would register the workflow a second time.
                DBOS.destroy(destroy_registry=True)
            finally:
                _ONLY_ONE.release()

    def _enqueue(self, work: Work) -> None:
        with SetWorkflowID(_id(work)), SetEnqueueOptions(queue_partition_key=work.lane, delay_seconds=_delay_s(work)):
            DBOS.enqueue_workflow(work.kind, self._workflow, *_arguments(work))

    # --- on DBOS's own loop ---

    async def _run(self, kind: str, key: str, lane: str, run: int, payload: dict[str, Any]) -> None:
        """
        The workflow. What it does, and in which order, is bound to `VERSION`.

        Its step's result is kept: killed before that, the work is done again; killed after it, only what follows is.
        """
        work = Work(kind, key, payload, lane, run=run)
        after_s = await DBOS.run_step_async({"name": kind}, self._step, work)
        if after_s is not None:
            following = replace(work, run=run + 1)
            with (
                SetWorkflowID(_id(following)),
                SetEnqueueOptions(
                    queue_partition_key=lane,
                    delay_seconds=after_s or None,  # A delay of nothing would be looked at once a second.
                ),
            ):
                await DBOS.enqueue_workflow_async(kind, self._workflow, *_arguments(following))

    async def _step(self, work: Work) -> float | None:
        done = asyncio.run_coroutine_threadsafe(self._perform(work), self._loop)
        again = await asyncio.wrap_future(done)
        return None if again is None else again.after_s

    # --- on our loop ---

    async def _perform(self, work: Work) -> Again | None:
        if self._draining:
            return Again(0)  # Put back: another node takes it, or this one after its restart.
        kind = self._kinds.get(work.kind)
        if kind is None:
            log.error("deferred work of a kind that is not known here", kind=work.kind, key=work.key)
            return Again(LAST_FAULT_RETRY_S)
        task = asyncio.current_task()
        assert task is not None
        self._running[task] = work
        try:
            answer = await kind.handler(work)
        except DosvocesError as error:  # The record can't be written, for example; that is told elsewhere too.
            log.warning("deferred work put off", kind=work.kind, key=work.key, run=work.run, reason=str(error))
            return self._after_fault(work)
        except Exception:  # The loop's edge: a fault of ours must not end a work that was promised.
            log.exception("deferred work failed inside", kind=work.kind, key=work.key, run=work.run)
            return self._after_fault(work)
        finally:
            del self._running[task]
        self._faults.pop((work.kind, work.key), None)
        return answer

    def _after_fault(self, work: Work) -> Again:
        """Counted here and not by its runs: most of those were its own wish, of one that waits for room say."""
        which = work.kind, work.key
        count = self._faults[which] = self._faults.pop(which, 0) + 1
        if len(self._faults) > FAULTS_KNOWN:
            del self._faults[next(iter(self._faults))]
        return Again(min(FAULT_RETRY_S * 2 ** min(count - 1, 16), LAST_FAULT_RETRY_S))


def _until_ended(ids: Sequence[str], limit_s: float) -> int:
    """
    Wait until it is written down that these runs are over; how many are not when the limit has passed.

    What is not written down is done a second time.
    """
    until = time.monotonic() + limit_s
    while ids:
        ids = [status.workflow_id for status in DBOS.list_workflows(workflow_ids=[*ids], status="PENDING", **_BARE)]
        if not ids or time.monotonic() >= until:
            break
        time.sleep(DRAIN_POLL_S)
    return len(ids)


_BARE: dict[str, Any] = {"load_input": False, "load_output": False}


def _id(work: Work) -> str:
    return f"{work.kind}/{work.key}/{work.run}"


def _arguments(work: Work) -> tuple[str, str, str, int, dict[str, Any]]:
    return work.kind, work.key, work.lane, work.run, dict(work.payload)


def _delay_s(work: Work) -> float | None:
    if work.not_before is None:
        return None
    delay_s = (work.not_before - datetime.now(UTC)).total_seconds()
    return delay_s if delay_s > 0 else None


def _newest(kind: str, key: str) -> WorkflowStatus | None:
    found = DBOS.list_workflows(workflow_id_prefix=f"{kind}/{key}/", sort_desc=True, limit=1, load_output=False)
    return found[0] if found else None


def _resume(begun: Sequence[WorkflowStatus]) -> int:
    for status in begun:
        DBOS.resume_workflow(status.workflow_id, queue_name=status.queue_name)
    return len(begun)


def _seen(status: WorkflowStatus) -> Seen:
    assert status.input is not None, "asked for with its input"
    kind, key, lane, run, payload = status.input["args"]
    due = status.delay_until_epoch_ms
    not_before = None if due is None else datetime.fromtimestamp(due / 1000, UTC)
    state = _STATES.get(status.status, State.FAILED)
    node = "" if state is State.WAITING else status.executor_id or ""
    return Seen(Work(kind, key, payload, lane, not_before, run), state, node)


def _prepare_file(path: Path) -> None:
    """An empty file that only its owner reads, in WAL mode, which DBOS would not set; the mode sticks."""
    with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "rb"):
        pass
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = WAL")


def _log_level() -> int:
    """DBOS tells much of its own start; at level debug it may."""
    root = logging.getLogger().getEffectiveLevel()
    return root if root == logging.DEBUG else max(root, logging.WARNING)


def _adopt_log() -> None:
    """Have DBOS's log go where ours goes, masked: finding a handler there, it adds none of its own."""
    logger = logging.getLogger("dbos")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    logger.propagate = True
