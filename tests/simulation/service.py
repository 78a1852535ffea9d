"""
One process of the service: the switchboard, the SIP driver, the agent and the recovery that ship, put together as
`app` does, with what is outside the process simulated.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import cast

from dosvoces.carriers import Listener
from dosvoces.carriers.sip import SipCarrier
from dosvoces.carriers.trunks import Trunk
from dosvoces.errors import MailError, MediaError
from dosvoces.mail import Mail
from dosvoces.media import Address, Format, Lost, RelayEvent, Srtp, Statistics
from dosvoces.model import ConnectionId, NodeId, Order, Side
from dosvoces.sip.agent import Agent
from dosvoces.sip.api import Hop
from dosvoces.sip.ua import UserAgent
from dosvoces.store import Store
from dosvoces.switchboard import Limits, Switchboard
from tests.simulation.clock import Clock, ProcessLoop
from tests.simulation.phones import SERVICE, TRUNKS
from tests.simulation.record import Disk, SimulatedStore

BEGIN = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
PATIENCE_S = 10.0  # of the mailbox: `Mailbox`, *bounded*

Transmit = Callable[[bytes, str], None]


class SimulatedAgent(Agent):
    """The agent's shell with the world's network in the place of its sockets."""

    __slots__ = ("_transmit",)

    def __init__(self, dice: random.Random, transmit: Transmit) -> None:
        super().__init__()
        self._transmit = transmit
        self._ua = UserAgent(
            local=(SERVICE, 5060),
            user_agent="simulated",
            peers=TRUNKS,
            clock=self._loop.time,
            token=lambda: f"{dice.getrandbits(64):016x}",
            uniform=dice.uniform,
            wake=self._settle,
        )

    def arrived(self, data: bytes, source: Hop) -> None:
        self._receive(data, source)
        self._settle()

    def why_unreachable(self, hop: Hop) -> str:
        return ""

    def _send(self, data: bytes, destination: Hop) -> None:
        self._transmit(data, destination[0])


class SimulatedCarrier(SipCarrier):
    """The SIP driver on such an agent. Its trunks are literal addresses, which nobody asks how they do."""

    def __init__(self, relay: "Ether", make: Callable[[], SimulatedAgent]) -> None:
        super().__init__(trunks=_TRUNKS, relay=relay, bind=(SERVICE, 5060), capture=False)
        self._make = make

    async def start(self, listener: Listener) -> None:
        self._listener = listener
        await self._upkeep.look()
        self._agent = self._make()
        await self._relay.start(self._media_happened)


_TRUNKS = [
    Trunk(name, host, 5060, caller_id="+34910000000", transport="udp", username="dosvoces", password="secret")
    for name, host in zip(("one", "two"), TRUNKS, strict=True)
]


@dataclass(frozen=True, slots=True)
class Faults:
    """How often what is beside the phones goes wrong."""

    media: float
    """Of an allocation, of a join, and of a joined connection."""
    mail_refused: float
    mail_slow: float
    mail_unknown: float
    """The mail is taken, and the answer lost."""


class Ether:
    """A relay that moves nothing and sometimes fails."""

    def __init__(self, clock: Clock, loop: ProcessLoop, dice: random.Random, fails: float) -> None:
        self._clock = clock
        self._loop = loop
        self._dice = dice
        self._fails = fails
        self.open: set[ConnectionId] = set()

    async def start(self, report: Callable[[RelayEvent], None]) -> None:
        self._report = report

    async def allocate(self, connection_id: ConnectionId, *, country: str) -> dict[Side, Address]:
        await asyncio.sleep(0)
        if self._dice.random() < self._fails:
            raise MediaError("no port is free")
        self.open.add(connection_id)
        return {Side.A: Address(SERVICE, 20_000), Side.B: Address(SERVICE, 20_002)}

    def connect(
        self,
        connection_id: ConnectionId,
        side: Side,
        remote: Address | None,
        format: Format,
        *,
        plays_from: Address | None = None,
        sends: bool = True,
        srtp: Srtp | None = None,
        rtcp_port: int | None = None,
    ) -> None:
        """Nothing moves."""

    def play_ringing(self, connection_id: ConnectionId, side: Side) -> None:
        """Nobody listens."""

    def stop_ringing(self, connection_id: ConnectionId, side: Side) -> None:
        """Nobody listens."""

    def play_warning(self, connection_id: ConnectionId, side: Side) -> None:
        """Nobody listens."""

    async def join(self, connection_id: ConnectionId) -> None:
        await asyncio.sleep(0)
        if self._dice.random() < self._fails:
            raise MediaError("the worker is gone")
        if self._dice.random() < self._fails:
            self._clock.after(self._dice.random() * 30, self._loop.enter, self._lose, connection_id)

    def _lose(self, connection_id: ConnectionId) -> None:
        if connection_id in self.open:
            self._report(Lost(connection_id, "the worker died"))

    async def release(self, connection_id: ConnectionId) -> dict[Side, Statistics]:
        self.open.discard(connection_id)
        return {}

    def capacity(self) -> int:
        return 1_000

    def problems(self) -> list[str]:
        return []

    async def close(self) -> None:
        """Nothing to give back."""


class MailServer:
    """Counts what it took, which is what the recipients got."""

    def __init__(self, clock: Clock, dice: random.Random, faults: Faults) -> None:
        self.taken: dict[str, int] = {}
        self.clock = clock
        self.dice = dice
        self.faults = faults


class SimulatedMailbox:
    """One process's way to the mail server."""

    def __init__(self, server: MailServer, loop: ProcessLoop) -> None:
        self._server = server
        self._loop = loop

    async def deliver(self, mail: Mail) -> None:
        server, faults, draw = self._server, self._server.faults, self._server.dice.random()
        if draw < faults.mail_refused:
            await asyncio.sleep(0.02)
            raise MailError("550 no such mailbox", permanent=True)
        draw -= faults.mail_refused
        slow = draw < faults.mail_slow
        await asyncio.sleep(server.dice.random() * (PATIENCE_S + 2) if slow else 0.01)
        if not self._loop.alive:
            return
        server.taken[mail.message_id] = server.taken.get(mail.message_id, 0) + 1
        if 0 <= draw - faults.mail_slow < faults.mail_unknown:
            await asyncio.sleep(PATIENCE_S)
            raise MailError("no answer to the final dot", unknown=True)
        await asyncio.sleep(0.01)

    async def check(self) -> None:
        """It is there."""

    async def close(self) -> None:
        """Nothing is kept open."""


def _compose(order: Order) -> Mail:
    return Mail(f"<{order.id}@simulated>", order.lead.email, "", "", b"")


@dataclass(frozen=True, slots=True)
class Build:
    """What a process is made of; a test puts a broken part in its place to see that it is caught."""

    agent: type[SimulatedAgent] = SimulatedAgent
    carrier: type[SimulatedCarrier] = SimulatedCarrier
    mailbox: type[SimulatedMailbox] = SimulatedMailbox
    store: type[SimulatedStore] = SimulatedStore
    switchboard: type[Switchboard] = Switchboard


AS_SHIPPED = Build()


class Process:
    """A run of the service, from its start to its kill."""

    def __init__(
        self,
        clock: Clock,
        dice: random.Random,
        *,
        number: int,
        dies_after: int | None,
        disk: Disk,
        mails: MailServer,
        limits: Limits,
        transmit: Transmit,
        build: Build,
    ) -> None:
        loop = self.loop = ProcessLoop(clock, dies_after)
        self._clock = clock
        self._transmit = transmit
        self.ready = False
        self.clients: set[asyncio.Task[None]] = set()
        self.store = build.store(disk, loop, NodeId(f"node-{number}"))
        self.relay = Ether(clock, loop, dice, mails.faults.media)
        self.carrier = build.carrier(self.relay, lambda: build.agent(dice, self._send))
        self.switchboard = build.switchboard(
            store=cast(Store, self.store),
            mailbox=build.mailbox(mails, loop),
            carrier=self.carrier,
            compose=_compose,
            limits=limits,
            now=self._now,
        )

    def start(self) -> None:
        self.run(self._begin)

    def run(self, action: Callable[..., object], *arguments: object) -> None:
        """Do something in this process, if it lives."""
        self.loop.enter(action, *arguments)

    def arrived(self, data: bytes, host: str) -> None:
        if self.ready and self.loop.alive:
            agent = self.carrier.agent
            assert isinstance(agent, SimulatedAgent)
            self.loop.enter(agent.arrived, data, Hop(host, 5060))

    def _begin(self) -> None:
        self._starting = self.loop.create_task(self._start())

    async def _start(self) -> None:
        await self.switchboard.start()
        self.ready = True
        await self.switchboard.settle_leftovers()

    def _send(self, data: bytes, host: str) -> None:
        # A kill may come between two messages of one step.
        if self.loop.step():
            self._transmit(data, host)

    def _now(self) -> datetime:
        return BEGIN + timedelta(seconds=self._clock.now)
