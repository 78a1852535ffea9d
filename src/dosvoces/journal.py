"""
An event of the core as a line of the journal: its name, whose it was, and what is worth keeping of it. Pure.
"""

from datetime import datetime

from dosvoces.core import Connection
from dosvoces.events import Cancel, Dialed, Ended, Event, MailRefused, Unjoined, Unreached
from dosvoces.model import ConnectionId, Side
from dosvoces.store import Entry


def entry_of(connection_id: ConnectionId, at: datetime, event: Event, before: Connection, after: Connection) -> Entry:
    """The line that says what `event` made of a connection."""
    facts: dict[str, str | int | float | None] = {}
    side: Side | None = getattr(event, "side", None)
    match event:
        case Ended(reason=reason, detail=detail):
            facts = {"reason": reason, "detail": detail}
        case Unreached(way=way, detail=detail):
            facts = {"way": way, "detail": detail}
        case Dialed(via=via) if via:
            facts = {"via": via}
        case MailRefused(detail=detail) | Unjoined(detail=detail):
            facts = {"detail": detail}
        case Cancel(by=by):
            facts = {"by": by}
    return Entry(connection_id, at, EVENT_NAMES[type(event)], side, before.phase, after.phase, facts)


EVENT_NAMES: dict[type[Event], str] = {
    kind: "".join("_" + char.lower() if char.isupper() else char for char in kind.__name__).lstrip("_")
    for kind in Event.__args__
}
