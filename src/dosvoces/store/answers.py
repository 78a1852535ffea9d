"""The answer to a request that is another's to carry out, waited for in the record."""

import asyncio

import structlog

from dosvoces.errors import StoreError
from dosvoces.model import ConnectionId
from dosvoces.store import Earlier, Store

FIRST_LOOK_S = 0.1
LAST_LOOK_S = 0.5
"""Between two looks: at first short, for an answer that is about to come, then longer."""
ANSWER_LIMIT_S = 600.0
"""How long is waited: longer than any interval, the mail and two parties that don't answer together."""

log = structlog.get_logger(__name__)


async def answer_of(store: Store, connection_id: ConnectionId, *, limit_s: float = ANSWER_LIMIT_S) -> Earlier | None:
    """
    What this connection's client was told, as soon as the record says, whichever node carries it out.

    `None` if there is no such connection. Raises `TimeoutError`. A record that can't be read for a while is waited for.
    """
    pause = FIRST_LOOK_S
    async with asyncio.timeout(limit_s):
        while True:
            try:
                earlier = await store.earlier_of(connection_id)
            except StoreError as error:
                log.warning("answer not read, looking again", connection=connection_id, error=str(error))
            else:
                if earlier is None or earlier.known:
                    return earlier
            await asyncio.sleep(pause)
            pause = min(2 * pause, LAST_LOOK_S)
