"""
After a crash: what the last process left open is hung up and settled; nothing is dialled again.
"""

from collections.abc import Callable, Sequence
from datetime import datetime

import structlog

from dosvoces.carriers import Carrier
from dosvoces.core import Connection, Leg, LegState, Terms, step
from dosvoces.events import Ended, LostAtRestart
from dosvoces.journal import EVENT_NAMES, entry_of
from dosvoces.model import ConnectionId, EndReason, Note, Outcome, Side
from dosvoces.store import ConnectionRecord, Entry, LegRecord, Store

log = structlog.get_logger(__name__)


async def settle_leftovers(
    store: Store,
    carrier: Carrier,
    now: Callable[[], datetime],
    under_way: Callable[[ConnectionId], bool] = lambda _: False,
) -> None:
    """
    End every connection of this node that has no outcome and is not `under_way` here, as `interrupted`.

    What is open of processes that are no more becomes this node's first. Raises `StoreError`.

    Who was up is hung up first: were we killed in between, the next start does it again, which harms nobody.
    """
    await store.adopt_strays()
    for record in await store.unfinished(owner=store.node):
        if under_way(record.id):
            continue
        for dialog in _left_up(await store.entries(record.id)):
            carrier.hangup_leftover(record.id, dialog)
        await _settle(store, record, now())


async def _settle(store: Store, record: ConnectionRecord, now: datetime) -> None:
    legs = {leg.side: _lost(leg, now) for leg in record.legs if leg.dialed_at is not None}
    before = Connection(Terms(), a=legs.get(Side.A, Leg()), b=legs.get(Side.B, Leg()), joined_at=record.joined_at)
    after, _report = step(before, LostAtRestart(), now)
    store.journal(entry_of(record.id, now, LostAtRestart(), before, after))
    await store.settle(record.id, after, Outcome.INTERRUPTED, at=now)
    log.warning("connection of the last process settled", connection=record.id, outcome=Outcome.INTERRUPTED)


def _left_up(entries: Sequence[Entry]) -> list[Note]:
    """The `dialog` notes of the legs that were answered and have no end in the journal."""
    ended = {entry.side for entry in entries if entry.event == EVENT_NAMES[Ended]}
    dialogs = (entry for entry in entries if entry.event == "dialog" and entry.side not in ended)
    return [Note(entry.event, entry.side, entry.facts) for entry in dialogs]


def _lost(leg: LegRecord, now: datetime) -> Leg:
    """A leg that the last process dialled: what became of it nobody here knows."""
    return Leg(
        LegState.ENDED,
        dialed_at=leg.dialed_at,
        answered_at=leg.answered_at,
        ended_at=leg.ended_at or now,
        reason=EndReason(leg.reason) if leg.reason else EndReason.FAILED,
        detail=leg.detail or "the service stopped under it",
    )
