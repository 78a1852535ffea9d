"""
Releases what an earlier process left ringing or up at a SIP trunk, by what it wrote down.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import structlog

from dosvoces.carriers import Leftover, Released
from dosvoces.carriers.end_reasons import why_withheld
from dosvoces.carriers.sip_facts import dial_of, dialog_of, trunk_of
from dosvoces.carriers.trunks import Line
from dosvoces.model import Facts
from dosvoces.sip.agent import Agent
from dosvoces.sip.api import CallEnd, EndCause, Hop

log = structlog.get_logger(__name__)

_BY_WEIGHT = (Released.HUNG_UP, Released.CANCELLED, Released.UNCONFIRMED, Released.NOTHING)

Ended = Callable[[CallEnd], None]


async def take_back(agent: Agent, leftover: Leftover, line_of: Callable[[str, Hop], Line | None]) -> Released:
    """
    See `Carrier.take_back`; `line_of` knows a trunk by its name, or else by its hop, and with that the password and the
    trunk's addresses.

    An answered leg is hung up by its dialog. One that wasn't, as far as was written down, may have been dialled by
    several ways, one after the other: where one gave no sign it may do so yet, so that all are taken back. So are the
    ways that were tried before the answered one: a phone may ring there, and nobody waits for them.
    """

    def hang_up(facts: Facts, ended: Ended) -> Line | None:
        dialog = dialog_of(facts)
        line = line_of(trunk_of(facts), Hop(*dialog.destination))
        agent.hang_up_orphan(dialog, line.credentials if line is not None else None, ended)
        return line

    def cancel(facts: Facts, ended: Ended) -> Line | None:
        dial = dial_of(facts)
        line = line_of(trunk_of(facts), dial.destination)
        agent.take_back(dial, line.credentials if line is not None else None, ended)
        return line

    loop = asyncio.get_running_loop()
    ends: list[asyncio.Future[CallEnd]] = []
    lines: list[Line | None] = []
    release, known = (cancel, leftover.dials) if leftover.dialog is None else (hang_up, [leftover.dialog])
    answered = leftover.dialog or {}
    for facts in leftover.dials if answered else ():
        if facts.get("call_id") != answered.get("call_id"):
            with suppress(KeyError, ValueError):
                cancel(facts, _nobody_waits)
    for facts in known:
        end: asyncio.Future[CallEnd] = loop.create_future()
        try:
            lines.append(release(facts, end.set_result))
        except (KeyError, ValueError):
            log.warning("a leg can't be taken back", connection=leftover.connection_id, side=leftover.side)
            return Released.UNCONFIRMED
        ends.append(end)
    # Whoever stops waiting leaves the ends to the agent.
    told = await asyncio.gather(*map(asyncio.shield, ends))
    for line, found in zip(lines, told, strict=True):
        if line is not None and found.withheld is not None:
            why = why_withheld(found.withheld, line.trunk.name)
            told_of = {"connection": leftover.connection_id, "side": leftover.side}
            log.warning("a leg may still be up at the trunk", why=why, **told_of)
    came = {_released(end) for end in told}
    return next((each for each in _BY_WEIGHT if each in came), Released.NOTHING)


def _nobody_waits(end: CallEnd) -> None:
    """Of a way that another one replaced."""


def _released(end: CallEnd) -> Released:
    match end.cause:
        case EndCause.HANGUP if end.status == 481:
            return Released.NOTHING
        # RFC 3261 §15.1.1: of all refusals only 481 and 408 end the dialog; after others somebody may be on the line.
        case EndCause.HANGUP if end.status is not None and (end.status < 300 or end.status == 408):
            return Released.HUNG_UP
        case EndCause.CANCELLED:
            return Released.CANCELLED
        case EndCause.PROTOCOL:
            return Released.NOTHING
        case _:
            return Released.UNCONFIRMED
