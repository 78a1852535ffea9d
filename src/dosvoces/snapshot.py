"""What the record doesn't say of a leg by itself, for whoever shows a connection. Pure."""

import re
from collections.abc import Iterable

from dosvoces.model import Facts, Side
from dosvoces.store import Entry, LegRecord

_SIP_STATUS = re.compile(r"([1-6]\d\d)\b")
QUALITY = (
    "received", "sent", "lost", "jitter_ms", "round_trip_ms", "mos", "mos_there", "lost_there", "jitter_there_ms",
)  # fmt: skip
"""The figures that are shown of a leg's audio."""


def sip_code(leg: LegRecord) -> int | None:
    """How the far end answered the call: 200 when it was taken, else the final status, if there was one."""
    if leg.answered_at is not None:
        return 200
    status = _SIP_STATUS.match(leg.detail)
    return None if status is None else int(status[1])


def quality(entries: Iterable[Entry]) -> dict[Side, Facts]:
    """The last figures of each side in a connection's journal, by the names in `QUALITY`."""
    return {
        entry.side: {name: entry.facts.get(name) for name in QUALITY}
        for entry in entries
        if entry.event == "statistics" and entry.side is not None
    }
