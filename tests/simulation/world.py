"""A world of some connections: everything in it follows from the seed and the world's number."""

import random
from dataclasses import dataclass, field

from dosvoces.core import Answer
from dosvoces.errors import NotNow
from dosvoces.model import Lead, Order, PhoneNumber, Side, connection_id
from dosvoces.switchboard import Limits
from tests.simulation.clock import Clock
from tests.simulation.network import WEATHERS, Network
from tests.simulation.phones import Phones, draw_script
from tests.simulation.record import Disk
from tests.simulation.service import AS_SHIPPED, BEGIN, Build, Faults, MailServer, Process
from tests.simulation.trace import Trace

SIZE = 20  # connections of a world
ARRIVE_WITHIN_S = 30.0
KILL_WITHIN_STEPS = 1_000  # about as many as a world has while its connections are open
RECOVERY_STEPS = 300  # within which a second kill hits a recovery
MAX_KILLS = 3
MAX_PLANS = 1_000_000  # of one world: beyond, something goes round in circles


@dataclass(slots=True, eq=False)
class Request:
    """One client's order and what the client saw."""

    order: Order
    arrived_at: float
    answer: Answer | None = None
    answered_at: float | None = None
    refused: bool = False
    """503: nothing was tried."""
    cancelled_at: float | None = None
    rung_when_answered: set[Side] = field(default_factory=set)
    """Whose phones had rung, or more, by then."""


@dataclass(frozen=True, slots=True)
class Kill:
    at: float
    back_at: float


class World:
    def __init__(self, seed: int, number: int, *, build: Build = AS_SHIPPED, only: int | None = None) -> None:
        """`only`: the connection (of this world) that the trace is about."""
        dice = self._dice = random.Random(f"{seed} {number}")
        draw = dice.random
        self.clock = clock = Clock()
        self.trace = Trace(clock, only)
        self.network = Network(clock, random.Random(draw()), dice.choice(WEATHERS), self.trace)
        self.phones = Phones(clock, random.Random(draw()), self.network, self.trace)
        self.phones.deliver = self._to_service
        self.disk = Disk(clock, random.Random(draw()), fails=dice.choice((0.0, 0.0, 0.0, 0.02)))
        faulty = draw() < 0.3
        self.faults = Faults(*((0.02, 0.1, 0.05, 0.05) if faulty else (0.0, 0.02, 0.0, 0.0)))
        self.mails = MailServer(clock, random.Random(draw()), self.faults)
        self.limits = Limits(
            max_connections=2 * SIZE,
            ring_timeout_s=dice.choice((10.0, 30.0)),
            talk_limit_s=dice.choice((5.0, 20.0, 300.0)),
        )
        self.requests: dict[int, Request] = {}
        self.kills: list[Kill] = []
        self.processes: list[Process] = []
        self.endless = False
        self._build = build
        self._kills = dice.choice((0, 0, 1, 1, 2, 3))
        for connection in range(SIZE):
            self._plan(connection)

    def run(self) -> "World":
        """Let it happen, until nothing is planned any more."""
        self._start_process()
        clock = self.clock
        while clock.advance():
            if not self.process.loop.alive and not self._down:
                self._killed()
            if clock.taken > MAX_PLANS:
                self.endless = True
                break
        for process in self.processes:
            process.loop.bury()
        return self

    @property
    def process(self) -> Process:
        """The newest one."""
        return self.processes[-1]

    # --- processes ---

    def _start_process(self) -> None:
        dies_after = None
        if len(self.kills) < min(self._kills, MAX_KILLS):
            # A kill after a kill hits the recovery, as often as not.
            steps = RECOVERY_STEPS if self.kills and self._dice.random() < 0.5 else KILL_WITHIN_STEPS
            dies_after = self._dice.randrange(1, steps)
        self._down = False
        self.processes.append(
            Process(
                self.clock,
                random.Random(self._dice.random()),
                number=len(self.processes),
                dies_after=dies_after,
                disk=self.disk,
                mails=self.mails,
                limits=self.limits,
                transmit=self._from_service,
                build=self._build,
            )
        )
        self.trace.say(None, f"process {len(self.processes)} starts")
        self.process.start()

    def _killed(self) -> None:
        self._down = True
        self.process.store.killed()
        down_s = 0.1 + 3 * self._dice.random()
        self.kills.append(Kill(self.clock.now, self.clock.now + down_s))
        self.trace.say(None, f"process {len(self.processes)} is killed")
        self.clock.after(down_s, self._start_process)

    # --- datagrams ---

    def _from_service(self, data: bytes, host: str) -> None:
        self.phones.left_service(data)
        self.network.carry(data, "->", self.phones.receive, host)

    def _to_service(self, data: bytes, host: str) -> None:
        process = self.process
        if process.ready and process.loop.alive:
            self.phones.reached_service(data)
            process.arrived(data, host)

    # --- clients ---

    def _plan(self, connection: int) -> None:
        dice = self._dice
        for side in Side:
            self.phones.scripts[connection, side] = draw_script(dice)
        at = dice.random() * ARRIVE_WITHIN_S
        created = BEGIN
        order = Order(
            id=connection_id(created, dice.getrandbits(80)),
            created_at=created,
            first=PhoneNumber(f"+346{connection:08d}", ""),
            second=PhoneNumber(f"+347{connection:08d}", ""),
            lead=Lead(email="lead@example.com"),
            interval_s=dice.choice((0, 0, 3, 15)),
        )
        self.requests[connection] = Request(order, at)
        self.clock.at(at, self._arrive, connection)
        if dice.random() < 0.15:
            self.clock.at(at + dice.random() ** 2 * 40, self._cancel, connection)

    def _arrive(self, connection: int) -> None:
        process, request = self.process, self.requests[connection]
        if not process.ready or not process.loop.alive:
            request.refused = True
            return
        process.run(self._ask, process, connection, request)

    def _ask(self, process: Process, connection: int, request: Request) -> None:
        # The loop keeps its tasks in weak references only, as asyncio's does.
        task = process.loop.create_task(self._connect(process, connection, request))
        process.clients.add(task)
        task.add_done_callback(process.clients.discard)

    async def _connect(self, process: Process, connection: int, request: Request) -> None:
        try:
            answer = await process.switchboard.connect(request.order)
        except NotNow as error:
            if process.loop.alive:
                request.refused = True
                self.trace.say(connection, f"client: 503, {error}")
            return
        if process.loop.alive:
            request.answer, request.answered_at = answer, self.clock.now
            request.rung_when_answered = {
                side
                for side in Side
                if any(call.heard_ringing_at is not None for call in self.phones.of.get((connection, side), ()))
            }
            self.trace.say(connection, f"client: {answer}")

    def _cancel(self, connection: int) -> None:
        process, request = self.process, self.requests[connection]
        if process.ready and process.loop.alive:
            process.run(self._cancel_now, process, connection, request)

    def _cancel_now(self, process: Process, connection: int, request: Request) -> None:
        if process.switchboard.cancel(request.order.id, by="client"):
            request.cancelled_at = self.clock.now
            self.trace.say(connection, "client cancels")
