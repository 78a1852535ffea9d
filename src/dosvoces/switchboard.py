"""
The shell of the core: the only place where the pure rules meet the world.

Holds the live connections of this process in memory, steps each one event at a time, journals every event and commits
before it acts: a mail, a dial, a report leaves only after its intent is on disk.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import structlog

from dosvoces import telemetry
from dosvoces.carriers import Call, Carrier
from dosvoces.core import Answer, Connection, LegState, Terms, answer, deadline, step
from dosvoces.errors import AlreadyRecorded, CarrierError, MailError, NotNow, StoreError
from dosvoces.events import (
    Cancel,
    Command,
    Dial,
    Elapsed,
    Ended,
    Event,
    Hangup,
    Join,
    Joined,
    MailRefused,
    MailSent,
    PlayRinging,
    Report,
    SendMail,
    Started,
    Unjoined,
    Unreached,
)
from dosvoces.journal import entry_of
from dosvoces.mail import Mail, Mailbox
from dosvoces.model import ConnectionId, EndReason, Note, Order, Outcome, Side, leg_id
from dosvoces.recovery import settle_leftovers
from dosvoces.store import Earlier, Entry, Store

log = structlog.get_logger(__name__)

NOT_RECORDABLE = "the request can't be recorded now; nothing was done"
SETTLE_RETRY_S = 1.0  # how soon an outcome that could not be written is tried again


@dataclass(frozen=True, slots=True)
class Limits:
    """What one switchboard takes on, and the terms of each connection but for its own interval."""

    max_connections: int = 100
    ring_timeout_s: float = 30.0
    talk_limit_s: float = 3600.0
    mail_timeout_s: float = 15.0
    close_limit_s: float = 5.0
    """How long a shutdown waits for the far ends to confirm: a container is killed 10 s after it was told to stop."""
    trunk_timeout_s: float = 6.0
    """How long a trunk may stay silent before the next way is tried."""

    def terms(self, order: Order) -> Terms:
        return Terms(
            interval_s=order.interval_s,
            ring_timeout_s=self.ring_timeout_s,
            talk_limit_s=self.talk_limit_s,
            mail_timeout_s=self.mail_timeout_s,
        )


@dataclass(slots=True, eq=False)
class _Live:
    """A connection in memory."""

    order: Order
    state: Connection
    answered: "asyncio.Future[Answer]"
    over: "asyncio.Future[Outcome]"
    inbox: deque[Event] = field(default_factory=deque)
    stepping: bool = False
    timer: asyncio.TimerHandle | None = None
    timer_due: datetime | None = None


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
    ) -> None:
        self._store = store
        self._mailbox = mailbox
        self._carrier = carrier
        self._compose = compose
        self._limits = limits
        self._now = now
        self._live: dict[ConnectionId, _Live] = {}
        self._admitted = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._draining = False

    @property
    def open_connections(self) -> int:
        return len(self._live)

    async def start(self) -> None:
        """Get ready to dial, and settle what the last process left open. Raises `CarrierError`, `StoreError`."""
        await self._carrier.start(self)
        await settle_leftovers(self._store, self._carrier, self._now)

    async def connect(self, order: Order) -> Answer:
        """
        Do what was asked for; returns when both calls were made or something failed.

        The connection goes on without the caller. Raises `NotNow` if nothing was tried, `NotAllowed` if a caller id is
        not ours to show (nothing was tried either), and `AlreadyRecorded` if the order's idempotency key is taken.
        """
        self._admit(order)
        for side in Side:
            if wanted := order.caller_id(side):
                self._carrier.check_caller_id(order.number(side), wanted)
        # Counted before the first await: parallel requests see each other.
        self._admitted += 1
        try:
            await self._store.record(order)
            live = self._enter(order)
        except AlreadyRecorded:
            raise
        except StoreError as error:
            log.error("request not recorded", connection=order.id, error=str(error))
            raise NotNow(NOT_RECORDABLE) from error
        finally:
            self._admitted -= 1
        self._happened(live, Started())
        return await asyncio.shield(live.answered)

    def cancel(self, connection_id: ConnectionId, *, by: str) -> bool:
        """End a connection of ours, in whatever state; whether there was one."""
        live = self._live.get(connection_id)
        if live is not None:
            self._happened(live, Cancel(by))
        return live is not None

    async def ended(self, connection_id: ConnectionId) -> None:
        """Wait until this connection is over and settled in the record."""
        live = self._live.get(connection_id)
        if live is not None:
            await asyncio.shield(live.over)

    async def earlier(self, key: str) -> Earlier | None:
        """What was asked before under this idempotency key."""
        return await self._store.earlier(key)

    async def remember_answer(self, connection_id: ConnectionId, *, status: int, body: str) -> None:
        """Keep what the client was told, for a repeat. A record that can't be written now loses the repeat only."""
        try:
            await self._store.remember_answer(connection_id, status=status, body=body)
        except StoreError as error:
            log.warning("answer not kept", connection=connection_id, error=str(error))

    def problems(self) -> list[str]:
        """Why a request would be refused now, in words; empty if it would be taken."""
        return self._problems(self._carrier.problems())

    def warnings(self) -> list[str]:
        """What an operator should know though requests are taken."""
        return self._carrier.warnings()

    def _problems(self, of_carrier: list[str]) -> list[str]:
        problems = [*self._store.problems(), *of_carrier]
        if self._draining:
            problems.append("shutting down")
        if len(self._live) + self._admitted >= self._limits.max_connections:
            problems.append(f"{self._limits.max_connections} connections are open, as many as dialing.max_connections")
        return problems

    async def close(self) -> None:
        """
        Refuse what comes, hang up every leg, wait (bounded) until the far ends confirmed and all is recorded.

        Idempotent: who did not confirm in time isn't waited for again.
        """
        if self._draining:
            return
        self._draining = True
        for live in list(self._live.values()):
            self._happened(live, Cancel("shutdown"))
        if waiting := [live.over for live in self._live.values()]:
            await asyncio.wait(waiting, timeout=self._limits.close_limit_s)
        for live in self._live.values():
            log.error("left open at shutdown", connection=live.order.id, phase=live.state.phase)
            self._unschedule(live)
        for task in list(self._tasks):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    # --- the carrier's listener ---

    def happened(self, connection_id: ConnectionId, event: Event) -> None:
        """Take an event from a driver."""
        live = self._live.get(connection_id)
        if live is None:
            self._journal_late(connection_id, event)
        else:
            self._happened(live, event)

    def noted(self, connection_id: ConnectionId, note: Note) -> None:
        """Take a note from a driver: it is journalled, also after the end."""
        live = self._live.get(connection_id)
        phase = live.state.phase if live is not None else "ended"
        self._store.journal(Entry(connection_id, self._now(), note.kind, note.side, phase, phase, note.facts))

    def captured(self, connection_id: ConnectionId, packed: bytes) -> None:
        """Keep what a driver captured of a connection."""
        self._store.keep_capture(connection_id, packed)

    # --- one event at a time ---

    def _admit(self, order: Order) -> None:
        if self._store.problems():
            # The store's words name files; they are for the operator, who has them in the log and in `problems`.
            raise NotNow(NOT_RECORDABLE)
        if problems := self._problems(self._carrier.problems(order.first, order.second)):
            raise NotNow("; ".join(problems))

    def _enter(self, order: Order) -> _Live:
        loop = asyncio.get_running_loop()
        live = _Live(order, Connection(self._limits.terms(order)), loop.create_future(), loop.create_future())
        self._live[order.id] = live
        return live

    def _happened(self, live: _Live, event: Event) -> None:
        """Step the connection. An event that comes while its commands are being given waits its turn."""
        live.inbox.append(event)
        if live.stepping:
            return
        live.stepping = True
        try:
            while live.inbox:
                self._step(live, live.inbox.popleft())
        finally:
            live.stepping = False

    def _step(self, live: _Live, event: Event) -> None:
        now, before = self._now(), live.state
        after, commands = step(before, event, now)
        live.state = after
        # Time that passes without effect is no news.
        if after is not before or not isinstance(event, Elapsed):
            self._store.journal(entry_of(live.order.id, now, event, before, after))
        if after is not before:
            self._store.update(live.order.id, after, self._schedule(live, now))
        for command in commands:
            self._do(live, command)
        if not live.answered.done() and (told := answer(live.state)) is not None:
            live.answered.set_result(told)

    def _schedule(self, live: _Live, now: datetime) -> datetime | None:
        """
        See to it that `Elapsed` comes at the next deadline, and return that.

        A timer that would fire too early is left to: most deadlines move away before they come, and a timer that finds
        nothing due is cheaper than a timer set anew at each event.
        """
        due = deadline(live.state)
        if due is None:
            self._unschedule(live)
        elif live.timer is None or live.timer_due is None or due < live.timer_due:
            self._unschedule(live)
            delay = max(0.0, (due - now).total_seconds())
            live.timer = asyncio.get_running_loop().call_later(delay, self._elapsed, live)
            live.timer_due = due
        return due

    def _unschedule(self, live: _Live) -> None:
        if live.timer is not None:
            live.timer.cancel()
            live.timer = None

    def _elapsed(self, live: _Live) -> None:
        live.timer = None
        self._happened(live, Elapsed())
        if live.timer is None:
            self._schedule(live, self._now())

    def _journal_late(self, connection_id: ConnectionId, event: Event) -> None:
        ended = Connection(Terms(), outcome=Outcome.INTERRUPTED)
        self._store.journal(entry_of(connection_id, self._now(), event, ended, ended))

    # --- commands ---

    def _do(self, live: _Live, command: Command) -> None:
        match command:
            case SendMail():
                self._spawn(live, self._send_mail(live))
            case Dial(side=side, attempt=attempt):
                self._spawn(live, self._dial(live, side, attempt))
            case PlayRinging(side=side):
                self._carrier.play_ringing(leg_id(live.order.id, side))
            case Join():
                self._spawn(live, self._join(live))
            case Hangup(side=side):
                self._carrier.hangup(leg_id(live.order.id, side))
            case Report(outcome=outcome):
                self._spawn(live, self._report(live, outcome))

    def _spawn(self, live: _Live, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(self._guard(live, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guard(self, live: _Live, work: Coroutine[Any, Any, None]) -> None:
        """The loop's edge: a fault of ours ends its own connection, with its trace in the log, and no other."""
        try:
            await work
        except Exception:
            log.exception("connection failed inside", connection=live.order.id)
            self._happened(live, Cancel("fault"))

    async def _send_mail(self, live: _Live) -> None:
        try:
            await self._mailbox.deliver(self._compose(live.order))
        except MailError as error:
            self._happened(live, MailRefused(str(error)))
        else:
            self._happened(live, MailSent())

    async def _dial(self, live: _Live, side: Side, attempt: int) -> None:
        order = live.order
        call = Call(
            order.id,
            side,
            order.number(side),
            attempt=attempt,
            avoid=live.state.leg(side).tried,
            silence_limit_s=self._limits.trunk_timeout_s,
            caller_id=order.caller_id(side),
        )
        try:
            await self._store.intend_dial(order, side, attempt=attempt, at=self._now())
            if live.state.verdict is not None:
                # Meanwhile it was cancelled or the other side hung up: nobody is rung for nothing.
                self._happened(live, Ended(side, EndReason.CANCELLED, "not dialled"))
                return
            await self._carrier.dial(call)
        except (StoreError, CarrierError) as error:
            self._happened(live, _not_dialed(side, error))
            return
        if live.state.leg(side).state is LegState.RELEASING:
            # The hang-up came while the dial was on its way to the carrier, which didn't know the leg yet.
            self._carrier.hangup(leg_id(order.id, side))

    async def _join(self, live: _Live) -> None:
        try:
            await self._carrier.join(live.order.id)
        except CarrierError as error:
            self._happened(live, Unjoined(str(error)))
        else:
            self._happened(live, Joined())

    async def _report(self, live: _Live, outcome: Outcome) -> None:
        while True:
            try:
                await self._store.settle(live.order.id, live.state, outcome, at=self._now())
                break
            except StoreError as error:
                log.error("outcome not written, trying again", connection=live.order.id, error=str(error))
                await asyncio.sleep(SETTLE_RETRY_S)
        del self._live[live.order.id]
        live.over.set_result(outcome)
        telemetry.CONNECTIONS.labels(outcome).inc()
        log.info("connection over", connection=live.order.id, outcome=outcome, ended_by=live.state.ended_by)


def _not_dialed(side: Side, error: StoreError | CarrierError) -> Ended | Unreached:
    if isinstance(error, CarrierError) and error.way:
        return Unreached(side, error.way, str(error))
    return Ended(side, EndReason.UNREACHABLE if isinstance(error, CarrierError) else EndReason.FAILED, str(error))
