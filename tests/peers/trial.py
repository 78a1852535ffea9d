"""
The whole service, asked through its HTTP port, between two phones that nobody here wrote.

    async with trial(tmp_path, a=Phone("answer"), b=Phone("reject", {"status": "486 Busy Here"})) as t:
        answer = await t.post()
    assert t.outcome == "second_busy"

When the block is left, the connections are waited for, the service is closed, and then it must hold: each phone's
scenario was played to its end, what the phones saw agrees with our journal, and nothing of the service is left.
"""

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from dosvoces.app import Service
from dosvoces.carriers.sip import SipCarrier
from dosvoces.model import ConnectionId, Side
from dosvoces.settings import Settings
from dosvoces.sip.session_timer import DEFAULT_TERMS, SessionTerms
from dosvoces.sip.transaction import InviteClient, NonInviteClient, State
from dosvoces.store import ConnectionRecord, Entry
from tests.peers.agreement import disagreements
from tests.peers.sipp import HOST, SippPhone, free_ports, free_tcp_port, until
from tests.ports import own_range

FIRST = "+34600000011"
SECOND = "+34960000022"
PREFIXES = {Side.A: "+34600", Side.B: "+34960"}
OVER_LIMIT_S = 15.0
"""Longest that a test waits for a connection to end."""


@dataclass(frozen=True)
class Phone:
    """What a phone shall do: a scenario, and the texts and options for it."""

    scenario: str
    texts: dict[str, str | int] = field(default_factory=dict)
    calls: int | None = None
    """As many as are posted if not given; 0: nobody may ring here."""
    or_fewer: bool = False
    """Whether some of the calls may never come here."""
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Way:
    """What the settings say to go through something that stands between the service and the phones."""

    trunk: dict[str, Any]
    sip: dict[str, Any] = field(default_factory=dict)


Between = Callable[[dict[Side, int]], AbstractAsyncContextManager[Way]]
"""Opens it, given the phones' ports."""


@dataclass(eq=False)
class Trial:
    """A running service and what became of its connections."""

    service: Service
    client: httpx.AsyncClient
    records: list[ConnectionRecord] = field(default_factory=list)
    """Filled when the block is left, in the order of posting."""
    journals: dict[ConnectionId, list[Entry]] = field(default_factory=dict)
    posted: list[ConnectionId] = field(default_factory=list)

    async def post(self, **fields: Any) -> httpx.Response:
        """`POST /call` with the numbers of the two phones; returns the answer."""
        lead = {"firstnumber": FIRST, "secondnumber": SECOND, "email": "ana@example.com", **fields}
        response = await self.client.post("/call", json=lead)
        if location := response.headers.get("location"):
            self.posted.append(ConnectionId(location.rpartition("/")[2]))
        return response

    @property
    def carrier(self) -> SipCarrier:
        assert isinstance(self.service.carrier, SipCarrier)
        return self.service.carrier

    @property
    def outcome(self) -> str | None:
        (record,) = self.records
        return record.outcome

    @property
    def ended_by(self) -> str:
        (record,) = self.records
        return record.ended_by

    def entries(self, event: str, side: Side | None = None) -> list[Entry]:
        """Of the only connection."""
        (journal,) = self.journals.values()
        return [entry for entry in journal if entry.event == event and side in (None, entry.side)]

    def detail(self, side: Side) -> dict[str, str | int | float | None]:
        """How that leg ended, as the journal says."""
        (ended,) = self.entries("ended", side)
        return ended.facts

    def statistics(self, side: Side) -> dict[str, int]:
        (entry,) = self.entries("statistics", side)
        return {name: int(value) for name, value in entry.facts.items() if isinstance(value, int | float)}

    async def seen(self, event: str, side: Side | None = None) -> None:
        """Wait until the journal of the newest connection has such an entry."""
        async with asyncio.timeout(OVER_LIMIT_S):
            while True:
                for record in await self.service.store.connections(limit=1):
                    journal = await self.service.store.entries(record.id)
                    if any(entry.event == event and side in (None, entry.side) for entry in journal):
                        return

    async def over(self) -> None:
        """Wait until all connections have ended, with nothing left in the carrier, and read the record."""
        store, agent = self.service.store, self.carrier.agent
        async with asyncio.timeout(OVER_LIMIT_S):
            for connection in self.posted:
                await self.service.switchboard.ended(connection)
        await until(lambda: self.carrier.open_sessions == 0, "the end of the media sessions")
        assert agent.open_calls == 0
        for connection in self.posted:
            record = await store.connection(connection)
            assert record is not None
            self.records.append(record)
            self.journals[connection] = await self._whole_journal(connection)

    async def _whole_journal(self, connection: ConnectionId) -> list[Entry]:
        """The journal is written behind: wait until a leg's statistics, its last entries, are in it."""
        async with asyncio.timeout(OVER_LIMIT_S):
            while True:
                journal = await self.service.store.entries(connection)
                dialed = {entry.side for entry in journal if entry.event == "dialed"}
                if dialed <= {entry.side for entry in journal if entry.event == "statistics"}:
                    return journal


@dataclass(eq=False)
class SippTrial(Trial):
    """A trial with SIPp as both phones."""

    phones: dict[Side, SippPhone] = field(default_factory=dict)

    @property
    def a(self) -> SippPhone:
        return self.phones[Side.A]

    @property
    def b(self) -> SippPhone:
        return self.phones[Side.B]


@asynccontextmanager
async def trial(
    folder: Path,
    *,
    a: Phone,
    b: Phone,
    calls: int = 1,
    trunk: dict[str, Any] | None = None,
    session: SessionTerms = DEFAULT_TERMS,
    through: Between | None = None,
    media: dict[str, Any] | None = None,
    **dialing: float,
) -> AsyncIterator[SippTrial]:
    """
    A service with a trunk to each phone. `trunk` has more keys for both trunks, `media` and `dialing` the sections'.

    `through` opens what stands between the service and the phones.
    """
    async with AsyncExitStack() as stack:
        phones = {
            side: await stack.enter_async_context(
                SippPhone.start(
                    folder,
                    phone.scenario,
                    name=f"phone-{side}",
                    calls=calls if phone.calls is None else phone.calls,
                    or_fewer=phone.or_fewer,
                    options=phone.options,
                    **phone.texts,
                )
            )
            for side, phone in ((Side.A, a), (Side.B, b))
        }
        ports = {side: phone.port for side, phone in phones.items()}
        way = Way({}) if through is None else await stack.enter_async_context(through(ports))
        values = settings_values(folder, ports, trunk={**(trunk or {}), **way.trunk}, dialing=dialing)
        values["sip"] |= way.sip
        values["media"] |= media or {}
        settings = Settings.model_validate(values)
        try:
            async with open_service(settings) as (service, client):
                running = SippTrial(service, client, phones=phones)
                running.carrier.agent.session = session
                yield running
                await running.over()
                # A phone that is content has had an answer to all it sent.
                await asyncio.gather(*(phone.finished() for phone in phones.values()))
                await only_finished_transactions(running)
            alive = {side: phone for side, phone in phones.items() if not phone.unplugged}
            assert disagreements(running.records, running.journals, alive) == []
        except BaseException as error:
            for phone in phones.values():
                error.add_note(f"{phone.name} ({phone.scenario}) saw\n{phone.transcript}")
            raise


def make_settings(
    folder: Path,
    ports: dict[Side, int],
    *,
    trunk: dict[str, Any] | None = None,
    dialing: dict[str, float] | None = None,
) -> Settings:
    return Settings.model_validate(settings_values(folder, ports, trunk=trunk, dialing=dialing))


def settings_values(
    folder: Path,
    ports: dict[Side, int],
    *,
    trunk: dict[str, Any] | None = None,
    dialing: dict[str, float] | None = None,
) -> dict[str, Any]:
    """Everything on loopback and on free ports, one trunk to each side's phone."""
    first, last = own_range(400)
    return {
        # Many tests ask for the same call twice, and mean it.
        "http": {"host": HOST, "port": free_tcp_port(), "coalesce": False},
        "database": {"url": f"sqlite:///{folder}/record.db"},
        "mail": {"url": "inbox:"},
        "sip": {"bind": f"{HOST}:{free_ports(1)[0]}"},
        "media": {"address": HOST, "ports": f"{first}-{last}"},
        "dialing": {"ring_timeout_s": 10, **(dialing or {})},
        "trunks": [
            {
                "name": f"phone-{side}",
                "proxy": f"sip:{HOST}:{ports[side]};transport=udp",
                "prefixes": [PREFIXES[side]],
                "caller_id": "+34910000000",
                **(trunk or {}),
            }
            for side in Side
        ],
    }


@asynccontextmanager
async def open_service(settings: Settings) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    """The service and a client of its HTTP port; afterwards no task, descriptor, process or UDP port may be left."""
    before = Belongings.now()
    async with (
        Service.open(settings) as service,
        httpx.AsyncClient(base_url=service.http_url, timeout=60) as client,
    ):
        yield service, client
    gc.collect()  # what only waits to be collected is no leak
    await until(lambda: not before.left_over(), "the end of " + ", ".join(before.left_over()), limit_s=3)


@dataclass(frozen=True)
class Belongings:
    """What this process holds of the system; its ports are those of its sockets, which are descriptors."""

    tasks: frozenset[str]
    descriptors: frozenset[str]
    processes: frozenset[int]

    @classmethod
    def now(cls) -> "Belongings":
        descriptors = set()
        for descriptor in os.listdir("/proc/self/fd"):
            try:
                descriptors.add(f"{descriptor} {os.readlink(f'/proc/self/fd/{descriptor}')}")
            except FileNotFoundError:
                continue  # the one that listed the folder
        here = psutil.Process()
        return cls(
            tasks=frozenset(str(id(task)) + " " + repr(task.get_coro()) for task in asyncio.all_tasks()),
            descriptors=frozenset(descriptors),
            processes=frozenset(child.pid for child in here.children(recursive=True)),
        )

    def left_over(self) -> Sequence[str]:
        """What there is now and was not then, in words."""
        now = Belongings.now()
        return [
            *(f"task {task}" for task in now.tasks - self.tasks),
            *(f"descriptor {descriptor}" for descriptor in now.descriptors - self.descriptors),
            *(f"process {process}" for process in now.processes - self.processes),
        ]


LINGERING = {State.COMPLETED, State.CONFIRMED, State.ACCEPTED, State.ABANDONED, State.TERMINATED}
"""States in which a transaction only absorbs what comes late (RFC 3261 §17, RFC 6026)."""


async def only_finished_transactions(running: Trial) -> None:
    """
    What lingers for 32 s to absorb repeats may be there; nothing may still wait for an answer or repeat itself, but a
    BYE to a phone that is there no more, which the BYE's first repeat tells.
    """

    def active() -> bool:
        clients = running.carrier.agent._ua.wire.clients.values()
        ours = [client for client in clients if isinstance(client, InviteClient | NonInviteClient)]
        return any(
            each.state not in LINGERING and (isinstance(each, InviteClient) or not each.met_nobody) for each in ours
        )

    await until(lambda: not active(), "the end of the last transaction")
