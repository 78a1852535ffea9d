"""Real far ends take a BYE that comes before the ACK of their answer: what `sip/unwanted.py` stands on."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from dosvoces.sip import sdp
from dosvoces.sip.agent import Agent
from dosvoces.sip.api import CallEnd, CallHandler, DialogFacts, EndCause, Hop, Invitation
from dosvoces.sip.digest import Credentials
from dosvoces.sip.message import Request, Response, parse
from tests.peers.asterisk import PASSWORD, Asterisk
from tests.peers.baresip import Baresip
from tests.peers.sipp import HOST
from tests.ports import free_port

LIMIT_S = 30.0


class Refuses(CallHandler):
    """Hangs up as soon as it is answered, with the ACK still waiting."""

    def __init__(self) -> None:
        self.hang_up: Callable[[], None] = lambda: None
        self.over: asyncio.Future[CallEnd] = asyncio.get_running_loop().create_future()

    def on_answer(self, body: bytes, facts: DialogFacts) -> None:
        self.hang_up()

    def on_ended(self, end: CallEnd) -> None:
        self.over.set_result(end)


async def answered_and_refused(port: int, number: str, credentials: Credentials | None = None) -> list[str]:
    """What was said from the answer on, in order: our methods and the far end's codes."""
    said: list[str] = []

    def tap(ours: bool, data: bytes, hop: Hop) -> None:
        message = parse(data)
        if isinstance(message, Request):
            said.append(message.method if ours else f"its {message.method}")
        elif isinstance(message, Response) and message.code >= 200:
            said.append(f"{message.code} {message.cseq_method}")

    agent = await Agent.open(bind=(HOST, 0), peers=[HOST], tap=tap)
    try:
        handler = Refuses()
        call = agent.invite(
            Invitation(
                request_uri=f"sip:{number}@{HOST}:{port}",
                destination=Hop(HOST, port),
                from_uri=f"sip:carrier@{HOST}",
                to_uri=f"sip:{number}@{HOST}:{port}",
                call_id=f"refused-{number}",
                body=sdp.offer(HOST, free_port(), [sdp.PCMA], session_id=1),
                credentials=credentials,
                ack_patience_s=LIMIT_S,
            ),
            handler,
        )
        handler.hang_up = call.hangup
        end = await asyncio.wait_for(handler.over, LIMIT_S)
    finally:
        await agent.close()
    assert (end.cause, end.by) == (EndCause.HANGUP, "local")
    return said[said.index("200 INVITE") :]


async def test_asterisk_takes_a_bye_before_the_ack(tmp_path: Path) -> None:
    async with Asterisk.start(tmp_path) as carrier:
        said = await answered_and_refused(carrier.sip_port, "601", Credentials("carrier", PASSWORD))
        await carrier.quiet()
    assert said == ["200 INVITE", "BYE", "200 BYE", "ACK"]


async def test_baresip_takes_a_bye_before_the_ack(tmp_path: Path) -> None:
    async with Baresip.start(tmp_path, number="601", speaks_hz=600) as phone:
        calling = asyncio.create_task(answered_and_refused(phone.port, "601"))
        await phone.event("CALL_INCOMING")
        await phone.command("accept")
        said = await calling
        await phone.event("CALL_CLOSED")
    assert said == ["200 INVITE", "BYE", "200 BYE", "ACK"]
