"""The end of a switchboard's work: what is open may end by itself for a while; then both parties are told."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog

from dosvoces.events import Cancel
from dosvoces.model import ConnectionId
from dosvoces.switchboard.live import LiveConnection

log = structlog.get_logger(__name__)

WARNING_S = 1.5
"""How long the warning tone is heard before the hang-up: one round of it, see `media/tones.py`."""


async def drain(
    live: Mapping[ConnectionId, LiveConnection],
    all_in: Callable[[], Awaitable[None]],
    *,
    by: str,
    limit_s: float | None,
) -> None:
    """
    Return when nothing is open any more; what still is after `limit_s` hears the warning tone and is hung up.

    `all_in` returns when nothing is being recorded, to be open next: that was let in, so it has its turn as well.
    """
    try:
        async with asyncio.timeout(limit_s):
            await all_in()
            while live:
                await _one_over(live)
                await all_in()
            return
    except TimeoutError:
        pass
    await _announce(live)
    for each in list(live.values()):
        each.happened(Cancel(by))
    while live:
        await _one_over(live)


async def _one_over(live: Mapping[ConnectionId, LiveConnection]) -> None:
    await asyncio.wait([each.over for each in live.values()], return_when=asyncio.FIRST_COMPLETED)


async def _announce(live: Mapping[ConnectionId, LiveConnection]) -> None:
    """Let everybody who is on a line hear that it will be cut."""
    if heard := sum(each.warn() for each in live.values()):
        log.info("telling parties that their calls are cut", legs=heard)
        await asyncio.sleep(WARNING_S)
