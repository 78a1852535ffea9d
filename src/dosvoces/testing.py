"""
For tests and for the pages made from the code: builders, and the walk through every state that the core can reach.

Ships with the package, so that a driver written elsewhere can be tried against the same contracts.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta

from dosvoces.core import Connection, Leg, LegState, MailState, Terms, step
from dosvoces.events import (
    Answered,
    Cancel,
    Command,
    Dialed,
    Elapsed,
    Ended,
    Event,
    Joined,
    LostAtRestart,
    MailRefused,
    MailSent,
    Ringing,
    Started,
    Unjoined,
    Unreached,
)
from dosvoces.model import ConnectionId, EndReason, Lead, Order, PhoneNumber, Side

A, B = Side.A, Side.B
T0 = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)


def an_order(
    number: int = 1,
    *,
    first: str = "+34600000011",
    second: str = "+34960000022",
    interval_s: int = 0,
    key: str | None = None,
    at: datetime = T0,
) -> Order:
    """An order like the contract's example; `number` makes its id."""
    return Order(
        id=ConnectionId(f"{number:026d}"),
        created_at=at,
        first=PhoneNumber(first, first),
        second=PhoneNumber(second, second),
        lead=Lead(email="ana@example.com", property_name="Ático", city="Valencia", price="456"),
        interval_s=interval_s,
        idempotency_key=key,
        fingerprint=f"{number:064x}",
    )


EVERY_EVENT: tuple[Event, ...] = (
    Started(),
    MailSent(),
    MailRefused(),
    Joined(),
    Unjoined(),
    Elapsed(),
    Cancel("x"),
    LostAtRestart(),
    *(kind(side) for side in Side for kind in (Dialed, Ringing, Answered)),
    *(Ended(side, reason) for side in Side for reason in (EndReason.HANGUP, EndReason.BUSY, EndReason.FAILED)),
    *(Unreached(side, "a way") for side in Side),
)
WALK_TERMS = Terms(
    interval_s=1,
    ring_timeout_s=2,
    talk_limit_s=1,
    mail_timeout_s=1,
    join_timeout_s=1,
    release_timeout_s=1,
    max_attempts=2,
)


def shape(connection: Connection, now: datetime) -> Connection:
    """The state without what can't matter any more, its times relative and coarse: equal futures are walked once."""
    a, b = connection.a, connection.b

    def age(at: datetime | None, limit_s: float = 0) -> datetime | None:
        # Older than the limit that counts from it is all the same, and where none does it matters only that it was.
        return None if at is None else T0 - min(now - at, timedelta(seconds=limit_s))

    def aged(leg: Leg, interval_s: float) -> Leg:
        rung = leg.state in (LegState.DIALING, LegState.RINGING)
        return leg._replace(
            dialed_at=age(leg.dialed_at, WALK_TERMS.ring_timeout_s if rung else interval_s),
            answered_at=age(leg.answered_at),
            released_at=age(leg.released_at, WALK_TERMS.release_timeout_s if leg.state is LegState.RELEASING else 0),
            ended_at=age(leg.ended_at),
            # Why a leg ended is in the verdict, and nothing reads it of the leg again.
            reason=leg.reason and EndReason.FAILED,
            detail="",
        )

    # Unreached, B is dialled again: the interval is then looked at once more.
    before_b = connection.verdict is None and b.state in (LegState.IDLE, LegState.DIALING)
    mailing = connection.mail in (MailState.PENDING, MailState.SENDING)
    return connection._replace(
        a=aged(a, WALK_TERMS.interval_s if before_b else 0),
        b=aged(b, 0),
        started_at=age(connection.started_at, WALK_TERMS.mail_timeout_s if mailing else 0),
        join_ordered_at=age(connection.join_ordered_at, WALK_TERMS.join_timeout_s),
        joined_at=age(connection.joined_at, WALK_TERMS.talk_limit_s),
    )


async def until(condition: Callable[[], Awaitable[object]], *, limit_s: float = 5.0) -> None:
    """Return once `condition()` is true; raises `TimeoutError` after `limit_s`. For what no event tells."""
    async with asyncio.timeout(limit_s):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def walk(check: Callable[[Connection, list[Command], Connection], None]) -> set[Connection]:
    """
    Every state that any order of events can reach: events repeated, reordered and contradicted, time moving by seconds.

    `check(before, commands, after)` is called for each step. Returns the states, their times made relative.
    """
    return {state for before, _event, _commands, after in steps(check) for state in (before, after)}


def steps(
    check: Callable[[Connection, list[Command], Connection], None] = lambda _before, _commands, _after: None,
) -> Iterator[tuple[Connection, Event, list[Command], Connection]]:
    """Each step of the walk: the state before, the event, what was commanded, the state after."""
    start = Connection(WALK_TERMS)
    seen = {start}
    todo = deque([start])
    while todo:
        state = todo.popleft()
        for event in EVERY_EVENT:
            # A second passes before time is looked at; the other events come at once.
            now = T0 + timedelta(seconds=1) if isinstance(event, Elapsed) else T0
            after, commands = step(state, event, now)
            check(state, commands, after)
            known = shape(after, now)
            yield state, event, commands, known
            if known not in seen:
                seen.add(known)
                todo.append(known)
