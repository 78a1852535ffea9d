"""
Both ends of `scripts/nat-trial`, which needs root and so is no part of the suite: `python -m tests.nat_trial outside`.

Outside is a STUN server and a phone that hangs up after a second; inside is an agent that learns its address, and is
called off by BYEs that must find their way through the NAT.
"""

import asyncio
import ipaddress
import struct
import sys
from typing import cast

from dosvoces.phone import Phone, PhoneBehaviour, PhoneEvent
from dosvoces.sip import stun
from dosvoces.sip.agent import Agent
from dosvoces.sip.api import Address, CallEnd, CallHandler, EndCause, Hop, Invitation
from tests.stun_server import answer

OUTSIDE, PUBLIC = "198.51.100.2", "198.51.100.1"
LIMIT_S = 10.0
TRANSPORTS = ("udp", "tcp")
OFFER = (
    b"v=0\r\no=- 1 1 IN IP4 198.51.100.1\r\ns=-\r\nc=IN IP4 198.51.100.1\r\nt=0 0\r\n"
    b"m=audio 40000 RTP/AVP 8\r\na=rtpmap:8 PCMA/8000\r\n"
)


class TellingServer(asyncio.DatagramProtocol):
    """A STUN server that says the truth."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: Address) -> None:
        mask = struct.pack("!I", stun.MAGIC)
        host = bytes(a ^ b for a, b in zip(ipaddress.ip_address(addr[0]).packed, mask, strict=True))
        value = struct.pack("!BBH", 0, 1, addr[1] ^ (stun.MAGIC >> 16)) + host
        self._transport.sendto(answer((0x20, value), transaction=data[8:20]), addr)


class Caller(CallHandler):
    def __init__(self) -> None:
        self.end: asyncio.Future[CallEnd] = asyncio.get_running_loop().create_future()

    def on_ended(self, end: CallEnd) -> None:
        self.end.set_result(end)


async def outside() -> None:
    await asyncio.get_running_loop().create_datagram_endpoint(TellingServer, (OUTSIDE, 3478))
    ended: asyncio.Queue[PhoneEvent] = asyncio.Queue()
    behaviour = PhoneBehaviour(answer_after_s=0, hangup_after_s=1)
    async with Phone.open(behaviour, bind=(OUTSIDE, 5060), on_event=ended.put_nowait):
        await asyncio.sleep(2 * LIMIT_S)


async def inside() -> None:
    agent = await Agent.open(bind=("0.0.0.0", 5060), peers=[OUTSIDE])
    learned = await agent.learn_public_address((OUTSIDE, 3478), lambda address: None).first(LIMIT_S)
    assert learned is not None, "the STUN server did not answer"
    assert learned[0] == PUBLIC, learned
    for transport in TRANSPORTS:
        caller, uri = Caller(), f"sip:600@{OUTSIDE}"
        agent.invite(
            Invitation(
                request_uri=uri,
                destination=Hop(OUTSIDE, 5060, transport),
                from_uri=f"sip:us@{PUBLIC}",
                to_uri=uri,
                call_id=f"nat-{transport}",
                body=OFFER,
            ),
            caller,
        )
        end = await asyncio.wait_for(caller.end, LIMIT_S)
        assert (end.cause, end.by) == (EndCause.HANGUP, "remote"), end
    await agent.close()
    sys.stdout.write(f"learned {learned[0]}:{learned[1]}; hung up from outside by {' and '.join(TRANSPORTS)}\n")


if __name__ == "__main__":
    asyncio.run({"inside": inside, "outside": outside}[sys.argv[1]]())
