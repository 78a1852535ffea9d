"""The SIP driver with more than one way to a number: the DNS names a dead server and a living one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from dosvoces.carriers import Call
from dosvoces.carriers.sip import SipCarrier
from dosvoces.carriers.trunks import Trunk
from dosvoces.carriers.upkeep import Times
from dosvoces.events import Answered, Dialed, Ended, Ringing, Unreached
from dosvoces.media.relay import MediaSettings, WorkerRelay
from dosvoces.model import ConnectionId, EndReason
from dosvoces.phone import Phone, PhoneBehaviour
from dosvoces.testing import A, until
from tests.dns_server import DnsServer
from tests.far_ends import HOST, Does, Recorder, a_call, media_ports, place
from tests.ports import free_port

ONE = ConnectionId(f"{1:026d}")
NAME = "trunk.example"


@dataclass
class Ways:
    carrier: SipCarrier
    told: Recorder
    zone: DnsServer
    phone: Phone
    dead_port: int
    transport: str

    def way(self, port: int) -> str:
        return f"main {HOST}:{port}/{self.transport}"

    async def unreached(self) -> Call:
        """Dial the first way, which is dead; returns the call for the next one."""
        call = a_call(1, A, Does.ANSWERS)
        await place(self.carrier, call)
        await self.told.until(lambda: any(isinstance(event, Unreached) for event in self.told.of(ONE)))
        return replace(call, attempt=2, avoid=(self.way(self.dead_port),))


@asynccontextmanager
async def ways(transport: str = "udp") -> AsyncIterator[Ways]:
    dead_port = free_port()
    behaviour = PhoneBehaviour(answer_after_s=0.0)
    async with DnsServer.open() as zone, Phone.open(lambda _number: behaviour) as phone:
        zone.ttl = 0
        zone.add(f"_sip._{transport}.{NAME}", "SRV", f"1 0 {dead_port} a.{NAME}.", f"2 0 {phone.address[1]} a.{NAME}.")
        zone.add(f"a.{NAME}", "A", HOST)
        relay = WorkerRelay(MediaSettings(bind_host=HOST, advertised_host=HOST, port_range=media_ports()))
        carrier = SipCarrier(
            trunks=[Trunk("main", NAME, transport=transport)],
            relay=relay,
            bind=(HOST, 0),
            dns=zone.dns,
            times=Times(min_ttl_s=0.1),
        )
        told = Recorder()
        await carrier.start(told)
        try:
            yield Ways(carrier, told, zone, phone, dead_port, transport)
        finally:
            await carrier.close()
        assert carrier.open_sessions == 0


async def test_the_second_server_of_the_dns_is_reached_when_the_first_is_dead() -> None:
    async with ways() as made:
        began = asyncio.get_running_loop().time()
        call = await made.unreached()
        assert asyncio.get_running_loop().time() - began < 0.5
        assert made.told.of(ONE) == [Dialed(A), Unreached(A, made.way(made.dead_port), "destination unreachable")]
        await place(made.carrier, call)
        await made.told.saw(ONE, Answered(A))
        assert made.told.of(ONE)[2:] == [Dialed(A), Ringing(A), Answered(A)]
        assert [event.via for event in made.told.of(ONE) if isinstance(event, Dialed)] == [
            made.way(made.dead_port),
            made.way(made.phone.address[1]),
        ]
        made.carrier.hangup(call.id)
        await made.told.saw(ONE, Ended(A, EndReason.HANGUP))


async def test_why_no_connection_was_made_is_told() -> None:
    async with ways("tcp") as made:
        await made.unreached()
        why = "destination unreachable; Connection refused"
        assert made.told.of(ONE) == [Dialed(A), Unreached(A, made.way(made.dead_port), why)]


async def test_a_leg_that_reached_nobody_and_is_not_dialed_again_leaves_nothing() -> None:
    async with ways() as made:
        await made.unreached()


async def test_the_last_way_that_reaches_nobody_is_the_end() -> None:
    async with ways() as made:
        call = await made.unreached()
        await made.phone.agent.close()
        await place(made.carrier, call)
        await made.told.saw(ONE, Ended(A, EndReason.UNREACHABLE))


async def test_a_call_stays_where_it_is_when_the_dns_changes() -> None:
    async with ways() as made:
        call = await made.unreached()
        await place(made.carrier, call)
        await made.told.saw(ONE, Answered(A))
        made.zone.add(f"a.{NAME}", "A", "192.0.2.1")

        async def moved() -> bool:
            now = asyncio.get_running_loop().time()
            return {hop.host for hop in made.carrier._trunks.lines[0].hops(now)} == {"192.0.2.1"}

        await until(moved)
        # Its BYE goes where the call is, and the far end's would be heard still.
        (its,) = made.phone.calls
        its.hang_up()
        await made.told.saw(ONE, Ended(A, EndReason.HANGUP))
