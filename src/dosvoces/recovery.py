"""
After a crash: what a process left open is hung up and settled; nothing is dialled again.

Each connection is released first and settled when the far ends have confirmed that: were we killed in between, the next
start does it again, which harms nobody.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import partial

import structlog

from dosvoces.carriers import Carrier, Leftover, Released
from dosvoces.core import Connection, Leg, LegState, MailState, Terms, step
from dosvoces.crashpoints import reached
from dosvoces.errors import AlreadyRecorded, NotOurs, StoreError
from dosvoces.events import Dialed, Ended, LostAtRestart
from dosvoces.journal import EVENT_NAMES, entry_of
from dosvoces.model import ConnectionId, EndReason, Outcome, Side
from dosvoces.store import ConnectionRecord, DialRecord, Entry, LegRecord, Store

log = structlog.get_logger(__name__)

CONFIRM_LIMIT_S = 8.0  # for the far ends; by then a message that UDP lost has been sent five times
SOON_S = 2.0  # how long the start waits for them, and everybody with it
READ_AT_ONCE = 100  # connections whose history one question brings: one for each would keep people on their lines
SETTLE_RETRY_S = 1.0  # how soon an outcome that could not be written is tried again

_WORDS = {
    Released.HUNG_UP: "it was answered, and hung up after the restart",
    Released.CANCELLED: "it was cancelled after the restart",
    Released.NOTHING: "the far end knew of no call after the restart",
    Released.UNCONFIRMED: "the far end confirmed no hang-up after the restart",
}


class Leftovers:
    """What other processes left that is this node's to end."""

    def __init__(
        self,
        store: Store,
        carrier_of: Callable[[ConnectionRecord], Carrier | None],
        now: Callable[[], datetime],
        under_way: Callable[[ConnectionId], bool],
    ) -> None:
        """
        `carrier_of` gives what may have dialled for a connection, `None` if nothing can have. `under_way` says which of
        this node's open connections are its own doing.
        """
        self._store = store
        self._carrier_of = carrier_of
        self._now = now
        self._under_way = under_way
        self._ending: dict[ConnectionId, asyncio.Task[None]] = {}

    async def settle(self) -> None:
        """
        End every connection of this node that has no outcome and is not under way, as `interrupted`, all at once.

        What is open of processes that are no more becomes this node's first. Raises `StoreError` if it can't be read.

        When this returns, CANCEL or BYE has been sent to whoever may be rung or on a line, and what the far ends
        confirmed within `SOON_S` is settled. The rest is as soon as they do: a leg that a second crash might leave
        unreleased is never behind an outcome.
        """
        await self._store.adopt_strays()
        records = [record for record in await self._unfinished() if self._left(record)]
        if records:
            # A call of ours may have ended well since they were read: of what is not under way now, those are left that
            # are still open.
            still = {record.id for record in await self._unfinished()}
            records = [record for record in records if record.id in still]
        for first in range(0, len(records), READ_AT_ONCE):
            batch = records[first : first + READ_AT_ONCE]
            histories = await self._store.histories([record.id for record in batch])
            for record in batch:
                # If not, it waited for a node when it was read, and was claimed here since.
                if self._left(record):
                    self._begin(record, *histories[record.id])
            # Those have their CANCEL or BYE before the next are read.
            await asyncio.sleep(0)
        # Each release sends before it waits for anything: when this turn of the loop is over, that is done.
        if ending := list(self._ending.values()):
            await asyncio.sleep(0)
            reached("k24_leftovers_released")
            await asyncio.wait(ending, timeout=SOON_S)

    async def _unfinished(self) -> Sequence[ConnectionRecord]:
        return await self._store.unfinished(owner=self._store.node)

    def _begin(self, record: ConnectionRecord, entries: Sequence[Entry], dials: Sequence[DialRecord]) -> None:
        releases = {}
        if (carrier := self._carrier_of(record)) is not None:
            left = _leftovers(record.id, entries, dials)
            releases = {side: asyncio.create_task(carrier.take_back(leg)) for side, leg in left.items()}
        task = asyncio.create_task(_end(self._store, self._now, record, entries, releases))
        self._ending[record.id] = task
        task.add_done_callback(partial(self._forget, record.id))

    async def close(self) -> None:
        """Stop waiting; what is not settled is the next process's to end."""
        for task in list(self._ending.values()):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def _forget(self, connection_id: ConnectionId, task: asyncio.Task[None]) -> None:
        del self._ending[connection_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("leftover not settled", connection=connection_id, exc_info=error)

    def _left(self, record: ConnectionRecord) -> bool:
        return record.id not in self._ending and not self._under_way(record.id)


def _leftovers(
    connection_id: ConnectionId, entries: Sequence[Entry], dials: Sequence[DialRecord]
) -> dict[Side, Leftover]:
    """The legs of a connection that were dialled and have no end in its journal."""
    ended = {entry.side for entry in entries if entry.event == EVENT_NAMES[Ended]}
    dialogs = {entry.side: entry.facts for entry in entries if entry.event == "dialog"}
    sides = sorted({dial.side for dial in dials} - ended)
    return {
        side: Leftover(
            connection_id,
            side,
            dials=[dial.facts for dial in dials if dial.side is side and dial.facts],
            dialog=dialogs.get(side),
        )
        for side in sides
    }


async def _end(
    store: Store,
    now: Callable[[], datetime],
    record: ConnectionRecord,
    entries: Sequence[Entry],
    releases: Mapping[Side, asyncio.Task[Released]],
) -> None:
    try:
        if releases:
            await asyncio.wait(releases.values(), timeout=CONFIRM_LIMIT_S)
    finally:
        # Who hasn't confirmed by now goes on being released without us.
        for release in releases.values():
            release.cancel()
    released = {side: _came_of(record.id, release) for side, release in releases.items()}
    while True:
        try:
            await _settle(store, record, entries, released, now())
            return
        except (AlreadyRecorded, NotOurs):
            return
        except StoreError as error:
            log.error("outcome not written, trying again", connection=record.id, error=str(error))
            await asyncio.sleep(SETTLE_RETRY_S)


def _came_of(connection_id: ConnectionId, release: asyncio.Task[Released]) -> Released:
    if not release.done() or release.cancelled():
        return Released.UNCONFIRMED
    if (error := release.exception()) is not None:
        # A fault of ours must not leave the connection open for ever: its outcome says what is not known.
        log.error("leg not taken back", connection=connection_id, exc_info=error)
        return Released.UNCONFIRMED
    return release.result()


async def _settle(
    store: Store,
    record: ConnectionRecord,
    entries: Sequence[Entry],
    released: Mapping[Side, Released],
    now: datetime,
) -> None:
    legs = {
        leg.side: _lost(leg, entries, released.get(leg.side), now) for leg in record.legs if leg.dialed_at is not None
    }
    before = Connection(
        Terms(),
        a=legs.get(Side.A, Leg()),
        b=legs.get(Side.B, Leg()),
        # Who begins the request anew must know whether its mail went out.
        mail=MailState(record.mail),
        joined_at=record.joined_at,
    )
    after, _report = step(before, LostAtRestart(), now)
    entry = entry_of(record.id, now, LostAtRestart(), before, after)
    store.journal(replace(entry, facts={side.value: str(what) for side, what in released.items()}))
    await store.settle(record.id, after, Outcome.INTERRUPTED, at=now)
    log.warning("connection of a dead process settled", connection=record.id, outcome=Outcome.INTERRUPTED)


def _lost(leg: LegRecord, entries: Sequence[Entry], released: Released | None, now: datetime) -> Leg:
    """A leg that the dead process dialled, with what is known of it and what isn't."""
    return Leg(
        LegState.ENDED,
        dialed_at=leg.dialed_at,
        answered_at=leg.answered_at,
        ended_at=leg.ended_at or now,
        reason=EndReason(leg.reason) if leg.reason else EndReason.FAILED,
        detail=leg.detail or _words(leg, entries, released),
    )


def _words(leg: LegRecord, entries: Sequence[Entry], released: Released | None) -> str:
    seen = {entry.event for entry in entries if entry.side is leg.side}
    if seen & {"answered", "dialog"}:
        known = "the service stopped while it was up"
    elif "ringing" in seen:
        known = "the service stopped while it rang"
    elif EVENT_NAMES[Dialed] in seen or released in (Released.HUNG_UP, Released.CANCELLED):
        known = "the service stopped while it was being dialled"
    else:
        known = "the service stopped when it was to be dialled; whether that was done is unknown"
    return known if released is None else f"{known}; {_WORDS[released]}"
