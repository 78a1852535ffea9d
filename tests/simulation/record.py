"""
The record on a simulated disk: what is durable outlives a kill, what waits dies with its process.

As the real writer does, one commit at a time takes all that waits, in the order in which it was given.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from dosvoces.core import Connection
from dosvoces.errors import AlreadyRecorded, StoreError
from dosvoces.model import NO_TRUNKS, ConnectionId, Facts, NodeId, Order, Outcome, Side, Trunks
from dosvoces.store import ConnectionRecord, DialRecord, Entry, History, LegRecord
from tests.simulation.clock import Clock, ProcessLoop

SLOW_COMMIT_S = 0.6  # longer than a far end waits before it repeats its answer


@dataclass(slots=True)
class Kept:
    """What is durable of one connection."""

    order: Order
    state: Connection | None = None
    outcomes: list[Outcome] = field(default_factory=list)
    """More than one would be a violation, so that a second one is kept, not refused."""
    entries: list[Entry] = field(default_factory=list)
    dials: dict[tuple[Side, int], DialRecord] = field(default_factory=dict)


class Disk:
    """What processes come and go over."""

    def __init__(self, clock: Clock, dice: random.Random, *, fails: float) -> None:
        """`fails`: how often a commit fails as a whole."""
        self.connections: dict[ConnectionId, Kept] = {}
        self.clock = clock
        self.dice = dice
        self.fails = fails


_Write = Callable[[], Any]


class NothingWaits:
    """The part of `Waiting` that they use: the simulated clients want everything at once."""

    def offers(self, connection_id: ConnectionId) -> bool:
        return False


class SimulatedStore:
    """The part of `Store` that the switchboard and the recovery use, of one process."""

    def __init__(self, disk: Disk, loop: ProcessLoop, node: NodeId) -> None:
        self.node = node
        self.waiting = NothingWaits()
        self._disk = disk
        self._loop = loop
        self._behind: list[tuple[_Write, Callable[[], None] | None, asyncio.Future[Any] | None]] = []
        self._committing = False

    # --- durable on return ---

    async def record(self, order: Order, *, waits: bool = False, trunks: Trunks = NO_TRUNKS) -> None:
        def write() -> None:
            self._disk.connections[order.id] = Kept(order)

        await self._durably(write)

    async def intend_dial(
        self,
        order: Order,
        side: Side,
        *,
        attempt: int,
        at: datetime,
        trunk: str | None = None,
        facts: Facts | None = None,
    ) -> float:
        dial = DialRecord(side, attempt, at, trunk, dict(facts or {}))

        def write() -> None:
            dials = self._disk.connections[order.id].dials
            if (side, attempt) in dials:
                raise AlreadyRecorded(f"attempt {attempt} to dial {order.id}, side {side}", permanent=True)
            dials[side, attempt] = dial

        await self._durably(write)
        return 0.0

    async def settle(self, connection_id: ConnectionId, state: Connection, outcome: Outcome, *, at: datetime) -> None:
        def write() -> None:
            kept = self._disk.connections[connection_id]
            kept.state = state
            kept.outcomes.append(outcome)

        await self._durably(write)

    async def _durably(self, write: _Write) -> None:
        done: asyncio.Future[Any] = self._loop.create_future()
        self._give(write, None, done)
        await done

    # --- written behind ---

    def update(self, connection_id: ConnectionId, state: Connection, deadline: datetime | None) -> None:
        def write() -> None:
            self._disk.connections[connection_id].state = state

        self._give(write)

    def journal(self, entry: Entry, *, kept: Callable[[], None] | None = None) -> None:
        def write() -> None:
            if (known := self._disk.connections.get(entry.connection_id)) is not None:
                known.entries.append(entry)

        self._give(write, kept)

    def keep_capture(self, connection_id: ConnectionId, packed: bytes) -> None:
        """Messages aren't captured here: the trace has them."""

    def _give(
        self, write: _Write, kept: Callable[[], None] | None = None, done: asyncio.Future[Any] | None = None
    ) -> None:
        self._behind.append((write, kept, done))
        if not self._committing and self._loop.alive:
            self._begin()

    def _begin(self) -> None:
        self._committing = True
        draw, disk = self._disk.dice.random(), self._disk
        disk.clock.after(SLOW_COMMIT_S * draw if draw > 0.98 else 0.001 + 0.01 * draw, self._commit)

    def _commit(self) -> None:
        """What was given until now reaches the platter, or doesn't; a kill before leaves that to chance."""
        if not self._loop.alive:
            return
        batch, self._behind = self._behind, []
        disk = self._disk
        if disk.fails > 0 and disk.dice.random() < disk.fails:
            # What is written behind stays for the next commit, before all that came since.
            self._behind[:0] = [item for item in batch if item[2] is None]
            for _write, _kept, done in batch:
                if done is not None and not done.done():
                    done.set_exception(StoreError("the disk failed"))
        else:
            for write, kept, done in batch:
                error = _tried(write)
                if kept is not None:
                    self._loop.call_soon(kept)
                if done is not None and not done.done():
                    done.set_exception(error) if error is not None else done.set_result(None)
        self._committing = False
        self._loop.enter(self._next)

    def _next(self) -> None:
        if self._behind and not self._committing:
            self._begin()

    def killed(self) -> None:
        """What was being written when the process was killed is there as a whole, or not at all."""
        if self._committing and self._disk.dice.random() < 0.5:
            for write, _kept, _done in self._behind:
                _tried(write)
        self._behind.clear()

    # --- read by the next process ---

    async def adopt_strays(self) -> None:
        """One process at a time: what is open is its own."""

    async def unfinished(self, *, owner: NodeId | None = None) -> list[ConnectionRecord]:
        return [_record(kept) for kept in self._disk.connections.values() if not kept.outcomes]

    async def entries(self, connection_id: ConnectionId) -> list[Entry]:
        return list(self._disk.connections[connection_id].entries)

    async def histories(self, connections: Sequence[ConnectionId]) -> dict[ConnectionId, History]:
        return {each: (await self.entries(each), await self.dials(each)) for each in connections}

    async def dials(self, connection_id: ConnectionId) -> list[DialRecord]:
        return [dial for _key, dial in sorted(self._disk.connections[connection_id].dials.items())]

    def when_taken(self, tell: Callable[[ConnectionId], None]) -> None:
        """Nobody takes anything from the only process."""

    def problems(self) -> list[str]:
        return []


def _tried(write: _Write) -> StoreError | None:
    try:
        write()
    except StoreError as error:
        return error
    return None


def _record(kept: Kept) -> ConnectionRecord:
    order, state = kept.order, kept.state
    legs = []
    for side in Side:
        dials = [dial for (of, _attempt), dial in kept.dials.items() if of is side]
        leg = state.leg(side) if state is not None else None
        legs.append(
            LegRecord(
                side,
                order.number(side).e164,
                leg.state if leg is not None else "idle",
                dials[-1].at if dials else None,
                leg.answered_at if leg is not None else None,
                leg.ended_at if leg is not None else None,
                leg.reason if leg is not None else None,
                leg.detail if leg is not None else "",
            )
        )
    return ConnectionRecord(
        id=order.id,
        created_at=order.created_at,
        phase=state.phase if state is not None else "recorded",
        outcome=None,
        ended_by="",
        first=order.first.e164,
        second=order.second.e164,
        email=order.lead.email,
        lead={},
        interval_s=order.interval_s,
        joined_at=state.joined_at if state is not None else None,
        ended_at=None,
        answer_status=None,
        legs=legs,
    )
