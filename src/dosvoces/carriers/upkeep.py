"""
Keeps what is known of the trunks current while nobody calls: where they are, whether they answer, who knows us.

For each trunk a task asks the DNS again before its answer is too old, one sends OPTIONS, and one registers, as the
settings say. None of them is ever waited for by a call.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog

from dosvoces.carriers.circuit import Circuit
from dosvoces.carriers.dns import Dns
from dosvoces.carriers.trunks import Line, Trunks
from dosvoces.sip.agent import Agent
from dosvoces.sip.api import Address, Hop
from dosvoces.sip.message import MessageError, Response, seconds
from dosvoces.sip.registration import Registration
from dosvoces.sip.request import Series, seen_address
from dosvoces.sip.resolve import Query, ResolveError
from dosvoces.sip.transaction import Failure
from dosvoces.sip.uri import literal

log = structlog.get_logger(__name__)

REFRESH_AT = 0.8  # of the TTL


@dataclass(frozen=True, slots=True)
class Times:
    """How long things take, in seconds."""

    first_look_s: float = 2.0
    """How long a start waits for the DNS, and again for the first registrations."""
    min_ttl_s: float = 5.0
    max_ttl_s: float = 3600.0
    min_backoff_s: float = 1.0
    """After a failed question to the DNS; doubled up to `max_backoff_s`."""
    max_backoff_s: float = 60.0
    ping_limit_s: float = 4.0
    ping_again_s: float = 2.0
    """After the first unanswered ping, or a call that failed."""
    ping_down_s: float = 10.0
    """At most from ping to ping while an address is down."""
    register_limit_s: float = 8.0
    renew_pause_s: float = 10.0
    """At least from one REGISTER for a Contact that has changed to the next such one."""
    leave_limit_s: float = 2.0


USUAL = Times()


class Upkeep:
    """The tasks of all lines. `look` once before the agent is opened, then `start`, at the end `close`."""

    def __init__(
        self,
        trunks: Trunks,
        dns: Dns,
        *,
        families: Iterable[str],
        on_public_address: Callable[[str, str, int], None] | None = None,
        times: Times = USUAL,
    ) -> None:
        """`on_public_address` is told of the trunk and where it saw us, at each REGISTER granted; port 0: unknown."""
        self._lines = [_Care(line) for line in trunks.lines]
        self._dns = dns
        self._families = tuple(families)
        self._on_public_address = on_public_address
        self._times = times
        self._agent: Agent | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def look(self) -> None:
        """Begin to find the trunks; returns when all are found, after `first_look_s` at most."""
        for care in self._lines:
            self._begin(care, self._keep_located(care), "locate")
            self._begin(care, self._keep_further(care), "locate its further hosts")
        with suppress(TimeoutError):
            async with asyncio.timeout(self._times.first_look_s):
                for care in self._lines:
                    await care.looked.wait()
                    await care.looked_further.wait()

    async def start(self, agent: Agent) -> None:
        """Begin to ping and to register; returns when all have tried, after `first_look_s` at most."""
        self._agent = agent
        self._trust()
        for care in self._lines:
            if care.line.trunk.options_interval_s > 0:
                self._begin(care, self._keep_asking(care, agent), "ping")
            if care.line.trunk.register:
                self._begin(care, self._keep_registered(care, agent), "register")
        with suppress(TimeoutError):
            async with asyncio.timeout(self._times.first_look_s):
                for care in self._lines:
                    if care.line.trunk.register:
                        await care.tried.wait()

    def hosts(self) -> set[str]:
        """The addresses of all trunks."""
        now = self._now()
        found = {hop.host for care in self._lines for hop in care.line.hops(now)}
        return found.union(*(addresses for care in self._lines for addresses in care.line.further.values()))

    def nudge(self, line: Line) -> None:
        """A call by this line failed: ask now how it does."""
        for care in self._lines:
            if care.line is line:
                care.nudged.set()

    def renew(self) -> None:
        """Register anew at once: our Contact has changed."""
        for care in self._lines:
            care.renew.set()

    async def close(self) -> None:
        """End the tasks and tell the registrars that we are gone, each within `leave_limit_s`; idempotent."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(self._leave(care) for care in self._lines))

    def _begin(self, care: "_Care", work: Coroutine[Any, Any, None], what: str) -> None:
        self._tasks.append(asyncio.create_task(_guarded(care, work, what), name=f"{what} {care.line.trunk.name}"))

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _trust(self) -> None:
        if self._agent is not None:
            self._agent.trust_only(self.hosts())

    # --- where it is ---

    async def _keep_located(self, care: "_Care") -> None:
        backoff_s = self._times.min_backoff_s
        while True:
            pause_s = await self._locate(care)
            care.looked.set()
            if pause_s is None:
                return  # a literal address stays where it is
            if pause_s > 0:
                backoff_s = self._times.min_backoff_s
            else:
                pause_s = backoff_s * random.uniform(0.75, 1.0)
                backoff_s = min(2 * backoff_s, self._times.max_backoff_s)
            await asyncio.sleep(pause_s)

    async def _locate(self, care: "_Care") -> float | None:
        """Ask the DNS; in how many seconds to ask again, 0 if it failed, `None` for never."""
        line = care.line
        try:
            located = await self._dns.locate(line.trunk.target, transports=Agent.transports, families=self._families)
        except ResolveError as error:
            if line.trouble != str(error):
                log.warning("trunk not found", trunk=line.trunk.name, why=str(error))
            line.not_found(str(error))
            return 0.0
        if line.trouble and care.looked.is_set():
            log.info("trunk found", trunk=line.trunk.name)
        if located.ttl_s is None:
            line.found(located.places, None)
            self._trust()
            return None
        ttl_s = min(max(located.ttl_s, self._times.min_ttl_s), self._times.max_ttl_s)
        line.found(located.places, self._now() + ttl_s)
        self._trust()
        return ttl_s * REFRESH_AT

    async def _keep_further(self, care: "_Care") -> None:
        """Keep the addresses of the trunk's further hosts current; what the DNS said last holds while it is silent."""
        line, families = care.line, self._families
        names = [host for host in line.trunk.hosts if literal(host) is None]
        line.further = {host: frozenset([known]) for host in line.trunk.hosts if (known := literal(host)) is not None}
        while names:
            questions = [Query(name, family) for name in names for family in families]
            answers = await asyncio.gather(*map(self._dns.ask, questions))
            pause_s = self._times.max_ttl_s
            for name in names:
                told = [answer for query, answer in zip(questions, answers, strict=True) if query.name == name]
                addresses = frozenset(each for answer in told for each in answer.records if isinstance(each, str))
                if addresses:
                    line.further[name] = addresses
                    pause_s = min([pause_s, *(answer.ttl_s for answer in told if answer.records)])
                else:
                    why = next((answer.failure for answer in told if answer.failure), "it has no address")
                    log.warning("further host not found", trunk=line.trunk.name, host=name, why=why)
                    pause_s = min(pause_s, self._times.max_backoff_s)
            care.looked_further.set()
            self._trust()
            await asyncio.sleep(max(pause_s, self._times.min_ttl_s))
        care.looked_further.set()

    # --- whether it answers ---

    async def _keep_asking(self, care: "_Care", agent: Agent) -> None:
        line = care.line
        while True:
            await care.looked.wait()
            hops = dict.fromkeys(line.hops(self._now()))
            await asyncio.gather(*(self._ping(care, agent, hop) for hop in hops))
            care.nudged.clear()
            pause_s = self._until_next_ping([line.circuit(hop) for hop in hops], line.trunk.options_interval_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await care.nudged.wait()

    def _until_next_ping(self, circuits: Sequence[Circuit], interval_s: float) -> float:
        if any(circuit.suspect for circuit in circuits):
            return min(interval_s, self._times.ping_again_s)
        if not circuits or not all(circuit.closed for circuit in circuits):
            return min(interval_s, self._times.ping_down_s)
        return interval_s * random.uniform(0.9, 1.0)

    async def _ping(self, care: "_Care", agent: Agent, hop: Hop) -> None:
        """RFC 3261 §11: any answer shows that it is there, but one that says it can't take calls."""
        trunk, circuit = care.line.trunk, care.line.circuit(hop)
        from_uri = trunk.uri(trunk.username or "dosvoces")
        answer = await agent.request(
            "OPTIONS", trunk.uri(), hop, from_uri=from_uri, to_uri=trunk.uri(), limit_s=self._times.ping_limit_s
        )
        was_closed, now = circuit.closed, self._now()
        if answer is Failure.TIMEOUT:
            circuit.ping_unanswered(now)
        elif isinstance(answer, Failure):
            circuit.failed(now, agent.why_unreachable(hop) or "nobody is there")
        elif answer.code == 503:
            circuit.ping_refused(now, seconds(answer.header("retry-after")))
        else:
            circuit.ping_answered()
        if was_closed != circuit.closed:
            tell = log.info if circuit.closed else log.warning
            tell("trunk up" if circuit.closed else "trunk down", trunk=trunk.name, hop=str(hop), why=circuit.why)

    # --- who knows us ---

    async def _keep_registered(self, care: "_Care", agent: Agent) -> None:
        trunk = care.line.trunk
        us = trunk.uri(trunk.username)
        care.series = agent.series(trunk.uri(), from_uri=us, to_uri=us, credentials=trunk.credentials)
        machine = care.registration = Registration(
            expires_s=trunk.register_expires_s, uniform=random.uniform, now=self._now()
        )
        skip: list[Hop] = []
        not_before = 0.0
        while True:
            await care.looked.wait()
            hop = self._registrar(care, skip)
            if hop is None:
                care.line.registration_trouble = care.line.trouble or "it has no address"
                care.tried.set()
                await asyncio.sleep(self._times.min_backoff_s)
                continue
            # Before it leaves: its answer may tell that our Contact is another.
            care.renew.clear()
            answer = await self._register(care, care.series, machine, agent, hop)
            if isinstance(answer, Failure) or answer.code == 503:
                skip.append(hop)
                if self._registrar(care, skip) is not None:
                    continue  # RFC 3263 §4.3: the next address at once
            skip.clear()
            while (wait_s := machine.due - self._now()) > 0 and not care.renew.is_set():
                care.tried.set()
                # A lapse in the meantime is noticed when it happens.
                lapse_s = None if machine.good_until is None else machine.good_until - self._now()
                with suppress(TimeoutError):
                    async with asyncio.timeout(
                        wait_s if lapse_s is None or lapse_s <= 0 else min(wait_s, lapse_s + 0.001)
                    ):
                        await care.renew.wait()
                self._tell_registration(care, machine)
            if care.renew.is_set():
                # Where each answer shows another address, each would bring the next REGISTER.
                await asyncio.sleep(not_before - self._now())
                not_before = self._now() + self._times.renew_pause_s

    def _registrar(self, care: "_Care", skip: list[Hop]) -> Hop | None:
        """The hop to register at: the last one as long as it works, else the first that isn't known to be down."""
        now = self._now()
        hops = [hop for hop in care.line.hops(now) if hop not in skip]
        if care.registrar in hops:
            return care.registrar
        return next((hop for hop in hops if care.line.circuit(hop).usable(now)), next(iter(hops), None))

    async def _register(
        self, care: "_Care", series: Series, machine: Registration, agent: Agent, hop: Hop
    ) -> Response | Failure:
        contact = agent.contact(hop.transport)
        answer = await agent.ask(
            series, "REGISTER", hop, headers=machine.headers(contact), limit_s=self._times.register_limit_s
        )
        machine.answered(answer, contact, self._now())
        granted = isinstance(answer, Response) and 200 <= answer.code < 300
        care.registrar = hop if granted else None
        if isinstance(answer, Response) and answer.code != 503:
            care.line.circuit(hop).answered()
        self._tell_registration(care, machine)
        if granted and self._on_public_address is not None and (seen := _public(answer)) is not None:
            # Of a connection the port is its own, not the one that we listen on.
            self._on_public_address(care.line.trunk.name, seen[0], seen[1] if hop.transport == "udp" else 0)
        return answer

    def _tell_registration(self, care: "_Care", machine: Registration) -> None:
        """Keep the line's state and the log current; only a change is logged."""
        line, known = care.line, machine.registered(self._now())
        trouble = "" if known else machine.trouble or "the registration has run out"
        if trouble != line.registration_trouble:
            if known:
                log.info("registered", trunk=line.trunk.name, at=str(care.registrar))
            else:
                log.warning("not registered", trunk=line.trunk.name, why=trouble)
        line.registration_trouble = trouble

    async def _leave(self, care: "_Care") -> None:
        agent, machine, series, hop = self._agent, care.registration, care.series, care.registrar
        if agent is None or machine is None or series is None or hop is None or not machine.registered(self._now()):
            return
        headers = machine.leave()
        machine.good_until = None
        await agent.ask(series, "REGISTER", hop, headers=headers, limit_s=self._times.leave_limit_s)


class _Care:
    """What the tasks of one line share."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.looked = asyncio.Event()
        """Set when the DNS was asked once."""
        self.looked_further = asyncio.Event()
        """Set when it was asked for the trunk's further hosts, too."""
        self.nudged = asyncio.Event()
        self.renew = asyncio.Event()
        self.tried = asyncio.Event()
        """Set when the first registration was granted, or was not for now."""
        self.registration: Registration | None = None
        self.series: Series | None = None
        self.registrar: Hop | None = None
        """Who granted the last registration."""


async def _guarded(care: _Care, work: Coroutine[Any, Any, None], what: str) -> None:
    """The loop's edge: a text in the settings that no message can carry, or a fault of ours, is told once."""
    try:
        await work
    except MessageError as error:
        log.error("trunk can't be used", trunk=care.line.trunk.name, what=what, why=str(error))
        care.line.registration_trouble = str(error)
    except Exception:
        log.exception("trunk upkeep failed", trunk=care.line.trunk.name, what=what)


def _public(answer: Response | Failure) -> Address | None:
    return seen_address(answer) if isinstance(answer, Response) else None
