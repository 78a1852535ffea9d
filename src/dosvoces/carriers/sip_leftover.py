"""
Releases what an earlier process left ringing or up at a SIP trunk, by what it wrote down.
"""

import asyncio
from collections.abc import Callable

import structlog

from dosvoces.carriers import Leftover, Released
from dosvoces.carriers.sip_facts import dial_of, dialog_of
from dosvoces.model import Facts
from dosvoces.sip.agent import Agent
from dosvoces.sip.api import CallEnd, EndCause, Hop
from dosvoces.sip.digest import Credentials

log = structlog.get_logger(__name__)

_BY_WEIGHT = (Released.HUNG_UP, Released.CANCELLED, Released.UNCONFIRMED, Released.NOTHING)

Ended = Callable[[CallEnd], None]


async def take_back(agent: Agent, leftover: Leftover, credentials_at: Callable[[Hop], Credentials | None]) -> Released:
    """
    See `Carrier.take_back`.

    An answered leg is hung up by its dialog. One that wasn't, as far as was written down, may have been dialled by
    several ways, one after the other: where one gave no sign it may do so yet, so that all are taken back.
    """

    def hang_up(facts: Facts, ended: Ended) -> None:
        dialog = dialog_of(facts)
        agent.hang_up_orphan(dialog, credentials_at(Hop(*dialog.destination)), ended)

    def cancel(facts: Facts, ended: Ended) -> None:
        dial = dial_of(facts)
        agent.take_back(dial, credentials_at(dial.destination), ended)

    loop = asyncio.get_running_loop()
    ends: list[asyncio.Future[CallEnd]] = []
    release, known = (cancel, leftover.dials) if leftover.dialog is None else (hang_up, [leftover.dialog])
    for facts in known:
        end: asyncio.Future[CallEnd] = loop.create_future()
        try:
            release(facts, end.set_result)
        except (KeyError, ValueError):
            log.warning("a leg can't be taken back", connection=leftover.connection_id, side=leftover.side)
            return Released.UNCONFIRMED
        ends.append(end)
    # Whoever stops waiting leaves the ends to the agent.
    came = {_released(end) for end in await asyncio.gather(*map(asyncio.shield, ends))}
    return next((each for each in _BY_WEIGHT if each in came), Released.NOTHING)


def _released(end: CallEnd) -> Released:
    match end.cause:
        case EndCause.HANGUP:
            return Released.NOTHING if end.status == 481 else Released.HUNG_UP
        case EndCause.CANCELLED:
            return Released.CANCELLED
        case EndCause.PROTOCOL:
            return Released.NOTHING
        case _:
            return Released.UNCONFIRMED
