"""
One connection in memory: stepped one event at a time, journalled, its commands carried out.

What can't be taken back (a mail, a dial, a report) leaves only after its intent is on disk.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import structlog

from dosvoces.carriers import Call, Carrier, DialPlan
from dosvoces.core import Answer, Connection, LegState, MailState, answer, deadline, step
from dosvoces.crashpoints import reached
from dosvoces.errors import AlreadyRecorded, CarrierError, LimitReached, MailError, NotOurs, StoreError
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
    LostAtRestart,
    MailRefused,
    MailSent,
    PlayRinging,
    Report,
    SendMail,
    Unjoined,
    Unreached,
)
from dosvoces.journal import entry_of
from dosvoces.mail import Mail, Mailbox
from dosvoces.model import EndReason, Order, Outcome, Side, leg_id
from dosvoces.store import Store
from dosvoces.switchboard.admission import Limits

log = structlog.get_logger(__name__)

SETTLE_RETRY_S = 1.0  # how soon an outcome that could not be written is tried again


@dataclass(frozen=True, slots=True)
class Parts:
    """What all connections of a switchboard work with."""

    store: Store
    mailbox: Mailbox
    carrier: Carrier
    compose: Callable[[Order], Mail]
    limits: Limits
    now: Callable[[], datetime]
    holds_lease: Callable[[], bool]
    """Whether this node may act: it is asked once more right before somebody is rung."""
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    """What is being done for any of them."""


class LiveConnection:
    """A connection that is under way. `over` is told once, with the outcome that is in the record."""

    def __init__(self, order: Order, parts: Parts, over: Callable[["LiveConnection", Outcome], None]) -> None:
        loop = asyncio.get_running_loop()
        self.order = order
        mail = MailState.SENT if order.mailed else MailState.PENDING
        self.state = Connection(parts.limits.terms(order), mail=mail)
        self.answered: asyncio.Future[Answer] = loop.create_future()
        self.joined: asyncio.Future[None] = loop.create_future()
        self.over: asyncio.Future[Outcome] = loop.create_future()
        self._parts = parts
        self._tell_over = over
        self._loop = loop
        self._inbox: deque[Event] = deque()
        self._stepping = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due: datetime | None = None

    # --- one event at a time ---

    def happened(self, event: Event) -> None:
        """Step the connection. An event that comes while its commands are being given waits its turn."""
        self._inbox.append(event)
        if self._stepping:
            return
        self._stepping = True
        try:
            while self._inbox:
                self._step(self._inbox.popleft())
        finally:
            self._stepping = False

    def unschedule(self) -> None:
        """Let no deadline come any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _step(self, event: Event) -> None:
        store, now, before = self._parts.store, self._parts.now(), self.state
        after, commands = step(before, event, now)
        self.state = after
        # Time that passes without effect is no news.
        if after is not before or not isinstance(event, Elapsed):
            store.journal(entry_of(self.order.id, now, event, before, after))
        if after is not before:
            store.update(self.order.id, after, self._schedule(now))
        for command in commands:
            try:
                self._do(command)
            except Exception:  # A fault of ours about one leg must not leave the other one up.
                log.exception("command failed inside", connection=self.order.id, command=type(command).__name__)
                self._inbox.append(Cancel("fault"))
        if not self.answered.done() and (told := answer(after)) is not None:
            self.answered.set_result(told)
        if after.joined_at is not None and not self.joined.done():
            self.joined.set_result(None)

    def _schedule(self, now: datetime) -> datetime | None:
        """
        See to it that `Elapsed` comes at the next deadline, and return that.

        A timer that would fire too early is left to: most deadlines move away before they come, and a timer that finds
        nothing due is cheaper than a timer set anew at each event.
        """
        due = deadline(self.state)
        if due is None:
            self.unschedule()
        elif self._timer is None or self._timer_due is None or due < self._timer_due:
            self.unschedule()
            delay = max(0.0, (due - now).total_seconds())
            self._timer = self._loop.call_later(delay, self._elapsed)
            self._timer_due = due
        return due

    def _elapsed(self) -> None:
        self._timer = None
        self.happened(Elapsed())
        if self._timer is None:
            self._schedule(self._parts.now())

    def warn(self) -> int:
        """Let whoever is on a line hear that it will be cut; how many that are."""
        heard = [side for side in Side if self.state.leg(side).state is LegState.ANSWERED]
        for side in heard:
            self._parts.carrier.play_warning(leg_id(self.order.id, side))
        return len(heard)

    # --- commands ---

    def _do(self, command: Command) -> None:
        match command:
            case SendMail():
                self._spawn(self._send_mail())
            case Dial(side=side, attempt=attempt):
                self._spawn(self._dial(side, attempt))
            case PlayRinging(side=side):
                self._parts.carrier.play_ringing(leg_id(self.order.id, side))
            case Join():
                self._spawn(self._join())
            case Hangup(side=side):
                self._parts.carrier.hangup(leg_id(self.order.id, side))
            case Report(outcome=outcome):
                self._spawn(self._report(outcome))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(self._guard(work))
        self._parts.tasks.add(task)
        task.add_done_callback(self._parts.tasks.discard)

    async def _guard(self, work: Coroutine[Any, Any, None]) -> None:
        """The loop's edge: a fault of ours ends its own connection, with its trace in the log, and no other."""
        try:
            await work
        except Exception:
            log.exception("connection failed inside", connection=self.order.id)
            self.happened(Cancel("fault"))

    async def _send_mail(self) -> None:
        try:
            await self._parts.mailbox.deliver(self._parts.compose(self.order))
        except MailError as error:
            log.warning("lead not mailed", connection=self.order.id, reason=str(error))
            self.happened(MailRefused(str(error)))
        else:
            self.happened(MailSent())

    async def _dial(self, side: Side, attempt: int) -> None:
        order, parts = self.order, self._parts
        try:
            reached("k08_first_about_to_be_intended" if side is Side.A else "k15_second_about_to_be_intended")
            plan, wait_s = await self._intend(self._call(side, attempt))
            reached("k09_first_intended" if side is Side.A else "k16_second_intended")
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            if self.state.verdict is not None:
                self.happened(_not_wanted(side))
                return
            await parts.carrier.dial(plan)
        except NotOurs as error:
            if self.state.verdict is not None:
                self.happened(_not_wanted(side))
                return
            self.happened(LostAtRestart("taken"))
            self.happened(_not_dialed(side, error))
            return
        except (StoreError, CarrierError) as error:
            self.happened(_not_dialed(side, error))
            return
        if self.state.leg(side).state is LegState.RELEASING:
            # The hang-up came while the dial was on its way to the carrier, which didn't know the leg yet.
            parts.carrier.hangup(leg_id(order.id, side))

    def _call(self, side: Side, attempt: int) -> Call:
        return Call(
            self.order.id,
            side,
            self.order.number(side),
            attempt=attempt,
            avoid=self.state.leg(side).tried,
            silence_limit_s=self._parts.limits.trunk_timeout_s,
            caller_id=self.order.caller_id(side),
            test=self.order.test,
            may_leave=self._may_leave,
        )

    def _may_leave(self) -> bool:
        """
        Asked when the carrier has all that it needs, for which it may have waited.

        A hang-up since then found no leg there. And this process may have been frozen at any moment: then another node
        has settled the connection.
        """
        return self.state.verdict is None and self._parts.holds_lease()

    async def _intend(self, call: Call) -> tuple[DialPlan, float]:
        """Write down how it will be dialled, by a trunk that has room; also how long it must wait for its turn."""
        store, full = self._parts.store, ""
        while True:
            try:
                plan = self._parts.carrier.prepare(call)
            except CarrierError as error:
                raise CarrierError(f"{full}; {error}" if full else str(error), permanent=error.permanent) from error
            try:
                return plan, await store.intend_dial(
                    self.order,
                    call.side,
                    attempt=call.attempt,
                    at=self._parts.now(),
                    trunk=plan.trunk,
                    facts=plan.facts,
                )
            except LimitReached as error:
                full = f"{full}; {error}" if full else str(error)
                log.info("trunk is full", connection=call.connection_id, trunk=plan.trunk)
                call = replace(call, avoid=(*call.avoid, plan.trunk))

    async def _join(self) -> None:
        try:
            await self._parts.carrier.join(self.order.id)
        except CarrierError as error:
            self.happened(Unjoined(str(error)))
        else:
            self.happened(Joined())
            reached("k21_joined")

    async def _report(self, outcome: Outcome) -> None:
        parts = self._parts
        reached("k23_outcome_about_to_be_recorded")
        while True:
            try:
                await parts.store.settle(self.order.id, self.state, outcome, at=parts.now())
                log.info("connection over", connection=self.order.id, outcome=outcome, ended_by=self.state.ended_by)
                break
            except (NotOurs, AlreadyRecorded) as error:
                # The outcome is in the record, or another node's to write: what was ours to do is done.
                log.warning("connection let go", connection=self.order.id, reason=str(error))
                break
            except StoreError as error:
                log.error("outcome not written, trying again", connection=self.order.id, error=str(error))
                await asyncio.sleep(SETTLE_RETRY_S)
        self._tell_over(self, outcome)
        self.over.set_result(outcome)


def _not_wanted(side: Side) -> Ended:
    """Meanwhile it was cancelled or the other side hung up: nobody is rung for nothing."""
    return Ended(side, EndReason.CANCELLED, "not dialled")


def _not_dialed(side: Side, error: StoreError | CarrierError) -> Ended | Unreached:
    if isinstance(error, CarrierError) and error.way:
        return Unreached(side, error.way, str(error))
    return Ended(side, EndReason.UNREACHABLE if isinstance(error, CarrierError) else EndReason.FAILED, str(error))
