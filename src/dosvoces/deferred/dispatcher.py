"""
Sees to it that what is to be done later is with the engine: passes reports on, and sweeps for what got stuck.

The record knows what is to be done, the engine when. Whatever is in one and not in the other after a crash is submitted
again, under the same key, which changes nothing where it was there already.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol

import structlog

from dosvoces.deferred import Deferred, Kind, State, Work, retention, waiting
from dosvoces.errors import DeferredError, NotNow, StoreError
from dosvoces.model import ConnectionId, Order
from dosvoces.store import ConnectionRecord, Entry, Store
from dosvoces.store.reports import Delivery, DeliveryState, Report, WaitingConnection

log = structlog.get_logger(__name__)

SWEEP_S = 10.0
"""How often it is looked for what got stuck."""
RETENTION_S = 3600.0
OVERDUE = timedelta(seconds=30)
"""What should have been tried so long ago is stuck, if the engine has nothing more to do with it."""
LATE = timedelta(minutes=15)
"""What is due and would be begun so much later is begun anew: longer than the engine's own pause after faults."""
BATCH = 100
RETRY_S = 2.0  # after the record or the engine failed


class Recipient(Protocol):
    """Somebody who is told, by a kind of work."""

    @property
    def target(self) -> str:
        """Its name in a delivery: `webhook:main`."""

    def wants(self, report: Report, record: ConnectionRecord) -> bool:
        """Whether it is told of this."""

    def work(self, connection_id: ConnectionId, number: int) -> Work:
        """The work of telling it that report."""


class Watched(Protocol):
    """Something that may have trouble of its own."""

    async def look(self) -> None:
        """See how it fares. Raises `StoreError`."""

    def problems(self) -> list[str]:
        """What an operator should know of it, as it was last seen."""


class Dispatcher:
    """
    Between the record and the engine, which it opens when there is work for it.

    `open_engine` is given the kinds and gives the started engine; `live_nodes` gives the nodes that are alive;
    `watched` is looked after with each sweep.
    """

    def __init__(
        self,
        *,
        store: Store,
        kinds: Sequence[Kind],
        recipients: Sequence[Recipient],
        compose: Callable[[Report, ConnectionRecord, Sequence[Entry]], str],
        open_engine: Callable[[Sequence[Kind]], Awaitable[Deferred]],
        live_nodes: Callable[[], Awaitable[Collection[str]]],
        watched: Watched | None = None,
        kept: timedelta | None = None,
        leads: timedelta | None = None,
        eager: bool = False,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        forgets = retention.Retention(store, self._opened, kept, now, leads=leads)
        self._kinds = [*kinds, Kind(retention.KIND, forgets.forget, poll_s=5.0, lane_limit=1)]
        self._recipients = {recipient.target: recipient for recipient in recipients}
        self._compose = compose
        self._open_engine = open_engine
        self._live_nodes = live_nodes
        self._watched = watched
        self._eager = eager or kept is not None or leads is not None
        self._now = now
        self._engine: Deferred | None = None
        self._engine_node = store.node
        """The node that it does its work as."""
        self._task: asyncio.Task[None] | None = None
        self._next_sweep = self._next_retention = self._next_counts = datetime.min.replace(tzinfo=UTC)
        self._swept_to: Delivery | None = None
        """Of a backlog of overdue deliveries, where the next sweep goes on."""
        self._recorded: deque[tuple[ConnectionId, datetime | None]] = deque(maxlen=10 * BATCH)
        """Connections that wait, recorded here, and when each may start: to be submitted before all others."""
        self._submitted: set[ConnectionId] = set()
        """Waiting connections that are with the engine for certain."""
        self._waited_to: WaitingConnection | None = None
        """Of many that wait, where the next sweep goes on."""
        self._seen_waiting: set[ConnectionId] = set()
        """Those of the sweeps up to there."""
        self._closed = False

    # --- for the house ---

    def start(self) -> None:
        """Begin, in the background: nobody waits for it."""
        self._task = asyncio.create_task(self._run(), name="dispatcher")

    async def schedule(self, order: Order) -> None:
        """
        Record a connection that waits for its time or for a node. Raises `AlreadyRecorded`, `NotNow`.

        That it is submitted isn't waited for: it is in the record, from where it is submitted sooner or later.
        """
        if self._closed:
            raise NotNow("shutting down")
        try:
            await self._store.record(order, waits=True)
            self._recorded.append((order.id, order.not_before))
        finally:
            self.wake()

    def wake(self) -> None:
        """There is something to pass on or to submit: look now."""
        self._next_sweep = datetime.min.replace(tzinfo=UTC)
        self._store.reports.due.set()

    async def inherit(self, node: str) -> None:
        """Have done what a dead node had begun. Raises `DeferredError`."""
        if self._engine is not None and (count := await self._engine.inherit(node)):
            log.info("deferred work of a dead node taken over", node=node, works=count)

    def problems(self) -> Sequence[str]:
        """Why deferred work can't be done now, or not all of it, in words."""
        watched = [] if self._watched is None else self._watched.problems()
        return watched if self._engine is None else [*watched, *self._engine.problems()]

    async def close(self, limit_s: float) -> None:
        """Begin nothing more, wait for what runs; idempotent."""
        self._closed = True
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.drain(limit_s)

    # --- its own ---

    async def _run(self) -> None:
        while True:
            try:
                await self._round()
            except (StoreError, DeferredError) as error:
                log.warning("deferred work waits", reason=str(error))
                await asyncio.sleep(RETRY_S)
            except Exception:  # The loop's edge: a fault of ours must not end all deferred work of this node.
                log.exception("dispatcher failed inside")
                await asyncio.sleep(RETRY_S)

    async def _round(self) -> None:
        """One look at everything; then wait until there is a reason for the next."""
        due = self._store.reports.due
        due.clear()
        await self._follow_node()
        if self._eager:
            await self._opening()
        if self._recipients:
            await self._pass_on()
        if self._now() >= self._next_sweep:
            self._next_sweep = self._now() + timedelta(seconds=SWEEP_S)
            await self._sweep()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SWEEP_S):
                await due.wait()

    def _opened(self) -> Deferred:
        if self._engine is None:
            raise DeferredError("deferred work is not under way here")
        return self._engine

    async def _follow_node(self) -> None:
        """
        When this process began anew as another node, so does its engine.

        Others may have begun again what the former one had, and would do so with all that it still begins.
        """
        if self._engine is not None and self._engine_node != self._store.node:
            engine, self._engine = self._engine, None
            await engine.drain(0)
            await self._opening()

    async def _opening(self) -> Deferred:
        if self._engine is None:
            self._engine_node = self._store.node
            self._engine = await self._open_engine(self._kinds)
            await self._engine.inherit_all_but(await self._live_nodes())
        return self._engine

    # --- reports ---

    async def _pass_on(self) -> None:
        reports, failed = self._store.reports, False
        while not failed and (found := await reports.to_pass_on(limit=BATCH)):
            for report in found:
                try:
                    await self._pass_on_one(report)
                except (StoreError, DeferredError):
                    raise
                except Exception:  # A fault of ours about one of them must not keep all others from being told.
                    log.exception("report not passed on", connection=report.connection_id, number=report.number)
                    failed = True

    async def _pass_on_one(self, report: Report) -> None:
        """Each step is durable before the next, and each can be repeated."""
        record = await self._store.connection(report.connection_id)
        if record is not None:
            told = [each for each in self._recipients.values() if each.wants(report, record)]
            if told:
                body = self._compose(report, record, await self._store.statistics([record.id]))
                await self._store.reports.prepare(report, body, [each.target for each in told])
                engine = await self._opening()
                for each in told:
                    await engine.submit(each.work(report.connection_id, report.number))
        await self._store.reports.passed_on(report)

    # --- sweeps ---

    async def _sweep(self) -> None:
        if self._watched is not None:
            await self._watched.look()
        await self._sweep_waiting()
        await self._sweep_counts()
        if self._engine is None:
            if not await self._store.reports.deliveries(state=DeliveryState.WAITING, limit=1):
                return
            await self._opening()  # Left by a process with other settings.
        engine = self._opened()
        await engine.inherit_all_but(await self._live_nodes())
        await self._sweep_deliveries()
        if self._now() >= self._next_retention:
            await engine.submit(retention.work_of(self._now()))
            self._next_retention = self._now() + timedelta(seconds=RETENTION_S)

    async def _sweep_waiting(self) -> None:
        """Submit what waits in the record: it was recorded here, or on a node that died before it could submit it."""
        while self._recorded:
            engine = await self._opening()
            connection_id, not_before = self._recorded.popleft()
            try:
                await engine.submit(waiting.work_of(connection_id, not_before))
            except DeferredError:
                self._recorded.appendleft((connection_id, not_before))
                raise
            self._submitted.add(connection_id)
        # All of them in turn: a thousand that find no room must not hide those behind them.
        found = await self._store.waiting.waiting(limit=10 * BATCH, after=self._waited_to)
        for each in found:
            work = waiting.work_of(each.id, each.not_before)
            if each.id not in self._submitted:
                await (await self._opening()).submit(work)
                self._submitted.add(each.id)
            elif each.not_before is None or each.not_before < self._now() - OVERDUE:
                await self._resubmit(work)
        self._waited_to = found[-1] if len(found) == 10 * BATCH else None
        self._seen_waiting |= {each.id for each in found}
        if self._waited_to is None:
            self._submitted &= self._seen_waiting
            self._seen_waiting = set()

    async def _sweep_counts(self) -> None:
        """Without the engine, which isn't open where there is no work for it: whatever is counted gets old."""
        if self._now() < self._next_counts:
            return
        await retention.forget_counts(self._store)
        self._next_counts = self._now() + timedelta(seconds=RETENTION_S)

    async def _sweep_deliveries(self) -> None:
        """Submit what is long overdue and not with the engine: of a backlog the newest, and the others in turn."""
        newest = await self._overdue(None)
        if len(newest) == BATCH:
            older = await self._overdue(self._swept_to or newest[-1])
            self._swept_to = older[-1] if len(older) == BATCH else None
            newest = [*newest, *older]
        for delivery in newest:
            if (recipient := self._recipients.get(delivery.target)) is not None:
                await self._resubmit(recipient.work(delivery.connection_id, delivery.number))

    async def _overdue(self, after: Delivery | None) -> Sequence[Delivery]:
        return await self._store.reports.deliveries(
            state=DeliveryState.WAITING, due_before=self._now() - OVERDUE, after=after, limit=BATCH
        )

    async def _resubmit(self, work: Work) -> None:
        """Submit once more what the engine has done with though the record says that it isn't done."""
        engine = await self._opening()
        seen = await engine.get(work.kind, work.key)
        if seen is None:
            return await engine.submit(work)
        if seen.state is State.WAITING and (seen.work.not_before or self._now()) > self._now() + LATE:
            # Due since, by a person's word: an endpoint was enabled.
            await engine.cancel(work.kind, work.key)
            await engine.submit(Work(work.kind, work.key, work.payload, work.lane, run=seen.work.run + 1))
        elif seen.state not in (State.WAITING, State.RUNNING):
            log.warning("deferred work submitted once more", kind=work.kind, key=work.key, state=seen.state)
            await engine.submit(Work(work.kind, work.key, work.payload, work.lane, run=seen.work.run + 1))
