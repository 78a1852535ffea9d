"""What `dosvoces check` finds about who may come in."""

from collections.abc import AsyncIterator

from dosvoces.app.door import OPEN_DOOR, SHUT_IT
from dosvoces.doctor.trunks import Finding, Level
from dosvoces.errors import StoreError
from dosvoces.settings import Settings
from dosvoces.store.keys import Keys


async def examine_door(settings: Settings, keys: Keys) -> AsyncIterator[Finding]:
    """Whether strangers could make calls."""
    http = settings.http
    try:
        ring = await keys.ring()
    except StoreError:
        made = valid = 0  # Without a record there are none; what else is wrong with it has a finding of its own.
    else:
        made, valid = len(ring.keys), sum(key.state(ring.now) in ("valid", "ending") for key in ring.keys)
    if (made or http.keys == "required") and not valid:
        yield Finding(
            Level.ERROR, "keys", "a key is needed and none is valid: nobody can ask", "dosvoces keys create NAME"
        )
    elif made:
        yield Finding(Level.OK, "keys", f"{valid} of {made} are valid; requests need one")
    elif http.guarded:
        yield Finding(Level.OK, "keys", "there are none, and only who is let in by [http] host and allow can ask")
    else:
        level = Level.WARNING if http.i_accept_toll_fraud else Level.ERROR
        yield Finding(level, "keys", OPEN_DOOR.format(host=http.host), SHUT_IT)
