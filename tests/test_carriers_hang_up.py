"""What a party still hears when its trunk doesn't answer our BYE."""

import asyncio
import socket

from dosvoces.carriers import Call
from dosvoces.events import Answered, Ended
from dosvoces.model import PhoneNumber
from dosvoces.sip.message import Request, parse
from dosvoces.testing import A
from tests.far_ends import HOST
from tests.test_carriers_sip_digest import ANSWER, ONE, BorderTrunk, calling, the_trunk

PACKET_MS = 20
QUIET_S = 0.3  # fifteen packets


class DeafToBye(BorderTrunk):
    """Takes a call and then hears no BYE."""

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        request = parse(data)
        assert isinstance(request, Request)
        if request.method == "BYE":
            self.byes.append(True)
        else:
            super().datagram_received(data, addr)


async def test_its_audio_ends_at_once_though_the_bye_is_lost() -> None:
    """S17: the BYE is repeated for 32 s, and nobody talks on meanwhile."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ear:
        ear.bind((HOST, 0))
        ear.setblocking(False)
        async with DeafToBye.open() as server, calling(the_trunk(server)) as (carrier, told):
            assert isinstance(server, DeafToBye)
            server.answer = ANSWER.replace(b"audio 9 ", b"audio %d " % ear.getsockname()[1])
            call = Call(ONE, A, PhoneNumber("+34600000011", "+34600000011"))
            await carrier.dial(carrier.prepare(call))
            await told.saw(ONE, Answered(A))
            carrier.play_ringing(call.id)
            await asyncio.wait_for(loop.sock_recv(ear, 2000), 5)
            carrier.hangup(call.id)
            heard = 0
            try:
                while heard < 50:
                    await asyncio.wait_for(loop.sock_recv(ear, 2000), QUIET_S)
                    heard += 1
            except TimeoutError:
                pass
            assert heard < 50, "the ringing tone goes on"
            assert server.byes
            assert not any(isinstance(event, Ended) for _connection, event in told.events)
