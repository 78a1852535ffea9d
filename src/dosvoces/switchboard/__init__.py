"""
The shell of the core: the only place where the pure rules meet the world.

Holds the live connections of this process in memory (`live.py`) and lets in who may come in (`admission.py`); every
event is journalled, and what can't be taken back leaves only after its intent is on disk.
"""

import asyncio
import dataclasses
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import structlog

from dosvoces import telemetry
from dosvoces.carriers import Carrier
from dosvoces.core import Answer, Connection, Terms
from dosvoces.crashpoints import reached
from dosvoces.errors import AlreadyRecorded, DosvocesError, LimitReached, NotAllowed, NotNow, StoreError
from dosvoces.events import Cancel, Event, LostAtRestart, Started
from dosvoces.journal import entry_of
from dosvoces.mail import Mail, Mailbox
from dosvoces.model import Alarm, ConnectionId, Note, Order, Outcome, Side, Trunks
from dosvoces.recovery import Leftovers
from dosvoces.store import ConnectionRecord, Earlier, Entry, Store
from dosvoces.store.answers import answer_of
from dosvoces.switchboard.admission import NOT_RECORDABLE, Admission, Limits, Shut, refused
from dosvoces.switchboard.live import LiveConnection, Parts
from dosvoces.switchboard.shutdown import drain
from dosvoces.switchboard.trial import MAX_TRIALS, MAX_TRIALS_WORDS, Trial, World

__all__ = ["Limits", "Switchboard", "Trial"]

JOINED_LOOK_S = 0.5
"""From one look at another node's connection to the next."""

log = structlog.get_logger(__name__)


class Switchboard:
    """
    Connects people: `connect` records, mails, dials and joins, and answers when both calls were made.

    One event loop's own; every method is called from it.
    """

    def __init__(
        self,
        *,
        store: Store,
        mailbox: Mailbox,
        carrier: Carrier,
        compose: Callable[[Order], Mail],
        limits: Limits,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        holds_lease: Callable[[], bool] = lambda: True,
        trial: Trial | None = None,
    ) -> None:
        """Without a `trial`, trial runs are refused: they never find their way to `carrier` or `mailbox`."""
        self._store = store
        self._carrier = carrier
        self._limits = limits
        self._now = now
        self._live: dict[ConnectionId, LiveConnection] = {}
        self._parts = Parts(store, mailbox, carrier, compose, limits, now, holds_lease)
        self._shut = Shut()
        self._admission = Admission(store, carrier, limits.max_connections, lambda: self.open_connections, self._shut)
        self._trials: set[ConnectionId] = set()
        self._real = World(self._parts, self._admission)
        self._trial = None if trial is None else self._trial_world(trial)
        self._worlds = [world for world in (self._real, self._trial) if world is not None]
        self._leftovers = Leftovers(store, self._carrier_of, now, self._knows)
        self._drains: list[asyncio.Task[None]] = []
        self._closed = False
        self._stopped_by = ""

    @property
    def open_connections(self) -> int:
        """Those that have or may get a call: trial runs are no such connections."""
        return len(self._live) - len(self._trials)

    @property
    def open_trials(self) -> int:
        return len(self._trials)

    async def start(self) -> None:
        """Get ready to dial. Raises `CarrierError`."""
        self._store.when_taken(self._taken)
        await self._carrier.start(self)
        if self._trial is not None:
            await self._trial.parts.carrier.start(self)

    async def settle_leftovers(self) -> None:
        """Hang up and settle what is this node's in the record and not under way here. Raises `StoreError`."""
        await self._leftovers.settle()

    async def connect(self, order: Order) -> Answer:
        """
        Do what was asked for; returns when both calls were made or something failed.

        The connection goes on without the caller. Raises `NotNow` if nothing was tried, `NotAllowed` if a caller id is
        not ours to show (nothing was tried either), and `AlreadyRecorded` if the order's idempotency key is taken.
        """
        live = await self._begin(order)
        return await asyncio.shield(live.answered)

    async def accept(self, order: Order) -> None:
        """As `connect`, but returns as soon as it is recorded and begun."""
        await self._begin(order)

    async def take(self, order: Order) -> bool:
        """
        Begin a connection that waits in the record, unless it no longer does; whether it was begun.

        Raises `NotNow` if there is no room for it now, `NotAllowed` if it can't be begun at all, and `StoreError`.
        """
        # Whoever stops waiting: once it is claimed it is begun, or it would pass for what a dead process left.
        taking = asyncio.create_task(self._take(order))
        self._parts.tasks.add(taking)
        taking.add_done_callback(self._parts.tasks.discard)
        return await asyncio.shield(taking)

    async def _take(self, order: Order) -> bool:
        with self._world(order).admission.entering(order):
            try:
                if not await self._store.waiting.claim(order, trunks=self._trunks(order)):
                    return False
            except LimitReached as error:
                _tell(order.asker.alarms)
                raise refused(error) from error
            self._enter(order)
        return True

    def check(self, order: Order) -> None:
        """Raises `NotAllowed` if a caller id is not ours to show: worth knowing long before it is to be shown."""
        self._world(order).admission.check(order)

    async def _begin(self, order: Order) -> LiveConnection:
        with self._world(order).admission.entering(order):
            reached("k01_request_read")
            try:
                await self._store.record(order, trunks=self._trunks(order))
                reached("k02_request_recorded")
            except AlreadyRecorded:
                raise
            except LimitReached as error:
                _tell(order.asker.alarms)
                raise refused(error) from error
            except StoreError as error:
                log.error("request not recorded", connection=order.id, error=str(error))
                raise NotNow(NOT_RECORDABLE) from error
            return self._enter(order)

    def _enter(self, order: Order) -> LiveConnection:
        live = self._live[order.id] = LiveConnection(order, self._world(order).parts, self._over)
        if order.test:
            self._trials.add(order.id)
        _tell(order.asker.alarms)
        # While it was recorded this process may have been frozen, or cut off, or closed: then it isn't begun here.
        if self._shut.stopped:
            live.happened(Cancel(self._stopped_by))
        elif self._closed:
            live.happened(LostAtRestart("shutdown"))
        else:
            live.happened(Started() if self._parts.holds_lease() else LostAtRestart("fence"))
        return live

    def cancel(self, connection_id: ConnectionId, *, by: str) -> bool:
        """End a connection of ours, in whatever state; whether there was one."""
        live = self._live.get(connection_id)
        if live is not None:
            live.happened(Cancel(by))
        return live is not None

    async def ended(self, connection_id: ConnectionId) -> None:
        """Wait until this connection is over and settled in the record."""
        live = self._live.get(connection_id)
        if live is not None:
            await asyncio.shield(live.over)

    async def joined(self, connection_id: ConnectionId) -> None:
        """Return when both talk, or when it is over; of another node's the record tells. Raises `StoreError`."""
        if (live := self._live.get(connection_id)) is not None:
            either: list[asyncio.Future[Any]] = [live.joined, live.over]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            return
        while True:
            record = await self._store.connection(connection_id)
            if record is None or record.outcome is not None or record.joined_at is not None:
                return
            await asyncio.sleep(JOINED_LOOK_S)

    async def repeated(self, order: Order) -> Earlier | None:
        """Of what `order` would be a repeat. Raises `StoreError`."""
        return await self._store.repeated(order)

    async def answer_of(self, connection_id: ConnectionId) -> Earlier | None:
        """What this connection's client was told, as soon as that is known, whichever node's it is."""
        if (live := self._live.get(connection_id)) is not None:
            told = await asyncio.shield(live.answered)
            return Earlier(connection_id, live.order.fingerprint, None, None, answer=told)
        return await answer_of(self._store, connection_id)

    async def remember_answer(self, connection_id: ConnectionId, *, status: int, body: str) -> None:
        """Keep what the client was told, for a repeat. A record that can't be written now loses the repeat only."""
        try:
            await self._store.remember_answer(connection_id, status=status, body=body)
        except StoreError as error:
            log.warning("answer not kept", connection=connection_id, error=str(error))

    # --- a node among others ---

    @property
    def idle(self) -> bool:
        """Whether nothing is under way here, nor beginning."""
        return not self._live and not any(world.admission.anybody for world in self._worlds)

    @property
    def draining(self) -> bool:
        return bool(self._shut.leaving)

    @property
    def fenced(self) -> bool:
        return bool(self._shut.fenced)

    def fence(self, why: str) -> None:
        """Let go of everything: hang up, and take nothing new until `unfence`; `why` is what `problems` says."""
        self._shut.fenced = why
        for live in list(self._live.values()):
            live.happened(LostAtRestart("fence"))

    def unfence(self) -> None:
        """Take requests again."""
        self._shut.fenced = ""

    def stop_calls(self, *, by: str) -> None:
        """End everything that is open, and take nothing new until `resume_calls`."""
        self._stopped_by = by
        self._shut.stopped = f"all calls are stopped (by {by}): dosvoces resume-calls takes new ones"
        log.warning("all calls stopped", by=by, open_connections=self.open_connections)
        for live in list(self._live.values()):
            live.happened(Cancel(by))

    def resume_calls(self) -> None:
        """Take requests again."""
        log.warning("calls resumed")
        self._shut.stopped = ""

    def drain(self, *, by: str, limit_s: float | None) -> asyncio.Task[None]:
        """
        Refuse what is new, let what is open end; what still is after `limit_s` is told so and hung up.

        The task is done when nothing is open any more. Asked again, each limit counts.
        """
        self._shut.leaving = self._shut.leaving or "draining: no new calls are taken here"
        if self._live:
            log.info("draining", by=by, limit_s=limit_s, open_connections=self.open_connections)
        task = asyncio.create_task(drain(self._live, self._all_in, by=by, limit_s=limit_s), name="drain")
        self._drains.append(task)
        return task

    def problems(self) -> list[str]:
        """Why a request would be refused now, in words; empty if it would be taken."""
        return self._admission.problems()

    def has_room(self, waiting: int = 0) -> bool:
        """Whether there would be a place for one more request after `waiting` others, whatever it asks for."""
        return self._admission.has_room(waiting)

    def warnings(self) -> list[str]:
        """What an operator should know though requests are taken."""
        return self._carrier.warnings()

    async def close(self) -> None:
        """
        Refuse what comes, hang up every leg, wait (bounded) until the far ends confirmed and all is recorded.

        Idempotent: who did not confirm in time isn't waited for again.
        """
        if self._closed:
            return
        self._closed = True
        self._shut.leaving = "shutting down"
        await self._leftovers.close()
        for task in self._drains:
            task.cancel()
        for live in list(self._live.values()):
            live.happened(Cancel("shutdown"))
        with suppress(TimeoutError):
            async with asyncio.timeout(self._limits.close_limit_s):
                # What is being recorded is ours to end: nobody would, once this process is gone.
                await self._all_in()
                if waiting := [live.over for live in self._live.values()]:
                    await asyncio.wait(waiting)
        for live in self._live.values():
            log.error("left open at shutdown", connection=live.order.id, phase=live.state.phase)
            live.unschedule()
        for task in list(self._parts.tasks):
            task.cancel()
            with suppress(asyncio.CancelledError, DosvocesError):
                await task

    # --- the carrier's listener ---

    def happened(self, connection_id: ConnectionId, event: Event) -> None:
        """Take an event from a driver."""
        live = self._live.get(connection_id)
        if live is None:
            self._journal_late(connection_id, event)
        else:
            live.happened(event)

    def noted(self, connection_id: ConnectionId, note: Note, kept: Callable[[], None] | None = None) -> None:
        """Take a note from a driver: it is journalled, also after the end."""
        live = self._live.get(connection_id)
        phase = live.state.phase if live is not None else "ended"
        entry = Entry(connection_id, self._now(), note.kind, note.side, phase, phase, note.facts)
        self._store.journal(entry, kept=kept)

    def captured(self, connection_id: ConnectionId, packed: bytes) -> None:
        """Keep what a driver captured of a connection."""
        self._store.keep_capture(connection_id, packed)

    # --- its own ---

    def _trial_world(self, trial: Trial) -> World:
        parts = replace(self._parts, carrier=trial.carrier, mailbox=trial.mailbox)
        door = Admission(
            self._store, trial.carrier, MAX_TRIALS, lambda: self.open_trials, self._shut, most_words=MAX_TRIALS_WORDS
        )
        return World(parts, door)

    def _world(self, order: Order) -> World:
        """Where `order` is carried out. Raises `NotAllowed` for a trial run where there are none."""
        if not order.test:
            return self._real
        if self._trial is None:
            raise NotAllowed("trial runs are not made here")
        return self._trial

    def _carrier_of(self, record: ConnectionRecord) -> Carrier | None:
        """What may have dialled for this connection."""
        if not record.test:
            return self._carrier
        return None if self._trial is None else self._trial.parts.carrier

    def _trunks(self, order: Order) -> Trunks:
        return {} if order.test else {side: self._carrier.trunks(order.number(side)) for side in Side}

    async def _all_in(self) -> None:
        """Return when nothing is being recorded, and not open yet."""
        while any(world.admission.anybody for world in self._worlds):
            for world in self._worlds:
                await world.admission.all_in.wait()

    def _knows(self, connection_id: ConnectionId) -> bool:
        mine = connection_id in self._live or any(world.admission.knows(connection_id) for world in self._worlds)
        return mine or self._store.waiting.offers(connection_id)

    def _taken(self, connection_id: ConnectionId) -> None:
        """Another node has settled it, or does: nobody is left on a line of ours."""
        if (live := self._live.get(connection_id)) is not None:
            live.happened(LostAtRestart("taken"))

    def _over(self, live: LiveConnection, outcome: Outcome) -> None:
        del self._live[live.order.id]
        self._trials.discard(live.order.id)
        ended = telemetry.TEST_CONNECTIONS if live.order.test else telemetry.CONNECTIONS
        ended.labels(outcome).inc()

    def _journal_late(self, connection_id: ConnectionId, event: Event) -> None:
        ended = Connection(Terms(), outcome=Outcome.INTERRUPTED)
        self._store.journal(entry_of(connection_id, self._now(), event, ended, ended))


def _tell(alarms: list[Alarm]) -> None:
    for alarm in alarms:
        log.warning("ceiling nears", **dataclasses.asdict(alarm))
        telemetry.CEILING_ALARMS.labels(alarm.ceiling, alarm.percent).inc()
    alarms.clear()
