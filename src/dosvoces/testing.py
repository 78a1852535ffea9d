"""
For tests and for the pages made from the code: builders, and the walk through every state that the core can reach.

Ships with the package, so that a driver written elsewhere can be tried against the same contracts.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta

from dosvoces.core import Connection, Leg, Terms, step
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
    """The state with its times made relative and coarse, so that equal futures are walked once."""

    def age(at: datetime | None) -> datetime | None:
        # No limit is longer than two seconds: older than that is all the same.
        return None if at is None else T0 - min(now - at, timedelta(seconds=2))

    def aged(leg: Leg) -> Leg:
        # Nothing is counted from the answer or the end of a leg, only whether it was.
        return leg._replace(
            dialed_at=age(leg.dialed_at),
            answered_at=leg.answered_at and T0,
            released_at=age(leg.released_at),
            ended_at=leg.ended_at and T0,
        )

    return connection._replace(
        a=aged(connection.a),
        b=aged(connection.b),
        started_at=age(connection.started_at),
        join_ordered_at=age(connection.join_ordered_at),
        joined_at=age(connection.joined_at),
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
