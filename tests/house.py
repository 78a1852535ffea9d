"""
The whole service for tests: in this process or in one of its own, on loopback, free ports and a folder of the test's.

What stands at the far end are trial phones that behave by the number called, all watched on one clock.
"""

import asyncio
import json
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from dosvoces.app import Service
from dosvoces.carriers import Carrier
from dosvoces.carriers.sip import SipCarrier
from dosvoces.clock import utc_now
from dosvoces.crashpoints import VARIABLE
from dosvoces.model import ConnectionId, Side
from dosvoces.phone import Phone, PhoneBehaviour, PhoneCall, PhoneEvent, PhoneEventKind
from dosvoces.settings import Settings
from dosvoces.store import ConnectionRecord, Entry
from dosvoces.testing import until
from tests.canaries import leaks, watched
from tests.far_ends import media_ports

HOST = "127.0.0.1"
FIRST, SECOND = "+34600000011", "+34960000022"
EMAIL = "ana@example.com"
LIMIT_S = 10.0
START_LIMIT_S = 40.0  # of a process, on a machine that has much else to do

Behaviours = Mapping[str, PhoneBehaviour]
ANSWERS = PhoneBehaviour(answer_after_s=0.0)
RINGS = PhoneBehaviour(answer_after_s=None)


def lead(**fields: object) -> dict[str, object]:
    return {"firstnumber": FIRST, "secondnumber": SECOND, "email": EMAIL, "call_interval": 0, **fields}


@dataclass
class Phones:
    """The far end, and what happened there, in order."""

    phone: Phone
    seen: list[tuple[float, PhoneEvent]] = field(default_factory=list)
    """With the loop's time."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    @asynccontextmanager
    async def open(cls, behaviours: Behaviours) -> AsyncIterator["Phones"]:
        def note(event: PhoneEvent) -> None:
            phones.seen.append((asyncio.get_running_loop().time(), event))
            phones.changed.set()

        async with Phone.open(dict(behaviours).get, on_event=note) as phone:
            phones = cls(phone)
            yield phones

    def call(self, number: str) -> PhoneCall:
        """The last call to `number`."""
        return [call for call in self.phone.calls if call.number == number][-1]

    async def when(self, kind: PhoneEventKind, number: str) -> float:
        """The time of that event at that number, as soon as it happens."""
        async with asyncio.timeout(LIMIT_S):
            while True:
                for at, event in self.seen:
                    if (event.kind, event.call.number) == (kind, number):
                        return at
                self.changed.clear()
                await self.changed.wait()

    async def quiet(self) -> None:
        """Wait until nobody is left on a line."""

        async def silent() -> bool:
            return self.phone.agent.open_calls == 0

        await until(silent, limit_s=LIMIT_S)


@dataclass
class House:
    """A running service and its client."""

    service: Service
    client: httpx.AsyncClient

    async def post(self, **fields: object) -> httpx.Response:
        return await self.client.post("/call", json=lead(**fields))

    async def over(self, answer: httpx.Response) -> ConnectionRecord:
        """The record of the connection that was answered for, once it has its outcome."""
        connection = ConnectionId(answer.headers["location"].rpartition("/")[2])
        await asyncio.wait_for(self.service.switchboard.ended(connection), LIMIT_S)
        return await self.record(connection)

    async def record(self, connection: ConnectionId) -> ConnectionRecord:
        record = await self.service.store.connection(connection)
        assert record is not None
        return record

    async def newest(self) -> ConnectionRecord | None:
        """The connection that came last."""
        found = await self.service.store.connections(limit=1)
        return found[0] if found else None

    async def journal(self, record: ConnectionRecord) -> list[Entry]:
        return await self.service.store.entries(record.id)

    async def deadline(self, connection: ConnectionId) -> datetime | None:
        """When something is due next for this connection, as a restarted process would find it."""

        def look() -> str | None:
            with closing(
                sqlite3.connect(self.service.settings.database.url.get_secret_value()[len("sqlite:///") :])
            ) as db:
                found = db.execute("SELECT deadline FROM connection WHERE id = ?", [connection]).fetchone()
                return str(found[0]) if found and found[0] else None

        due = await asyncio.to_thread(look)
        return datetime.fromisoformat(due) if due else None

    async def journalled(self, event: str) -> ConnectionRecord:
        """Wait for such an entry in the newest connection's journal."""

        async def found() -> bool:
            newest = await self.newest()
            return newest is not None and any(entry.event == event for entry in await self.journal(newest))

        await until(found, limit_s=LIMIT_S)
        newest = await self.newest()
        assert newest is not None
        return newest

    @property
    def worker_pid(self) -> int:
        """The media worker's process."""
        assert isinstance(self.service.carrier, SipCarrier)
        (pid,) = self.service.carrier.relay.worker_pids  # type: ignore[attr-defined]
        return int(pid)


Sections = dict[str, object]


def values(
    folder: Path, phone: Phone | None = None, trunks: Sequence[Sections] = (), **sections: Sections | Sequence[Sections]
) -> dict[str, Any]:
    """Settings as the file has them; `sections` are added to, `trunks` stand before the one to `phone`."""
    low, high = media_ports()
    made: dict[str, Any] = {
        # Many tests ask for the same call twice, and mean it.
        "http": {"host": HOST, "port": 0, "coalesce": False},
        "database": {"url": f"sqlite:///{folder}/record.db"},
        "sip": {"bind": f"{HOST}:0"},
        "media": {"address": HOST, "ports": f"{low}-{high}"},
        # Nobody here has anything to say; what they hear at the end is the warning.
        "node": {"drain_s": 0.0},
        "trunks": list(trunks),
    }
    if phone is not None:
        trunk = {"name": "phones", "proxy": f"sip:{HOST}:{phone.address[1]}", "caller_id": "+34910000000"}
        made["trunks"].append(trunk)
    for name, section in sections.items():
        made[name] = {**made.get(name, {}), **section} if isinstance(section, dict) else list(section)
    return made


@asynccontextmanager
async def house(
    folder: Path,
    *,
    phone: Phone | None = None,
    carrier: Carrier | None = None,
    trunks: Sequence[Sections] = (),
    wall: Callable[[], datetime] = utc_now,
    **sections: Sections | Sequence[Sections],
) -> AsyncIterator[House]:
    """The service in this process."""
    settings = Settings.model_validate(values(folder, phone, trunks, **sections))
    with watched():
        async with _serving(settings, carrier, wall) as running:
            yield running


@asynccontextmanager
async def _serving(settings: Settings, carrier: Carrier | None, wall: Callable[[], datetime]) -> AsyncIterator[House]:
    async with (
        Service.open(settings, carrier=carrier, wall=wall) as service,
        httpx.AsyncClient(base_url=service.http_url, timeout=LIMIT_S) as client,
    ):
        yield House(service, client)


@asynccontextmanager
async def house_and_phones(
    folder: Path, first: PhoneBehaviour, second: PhoneBehaviour, **sections: Sections | Sequence[Sections]
) -> AsyncIterator[tuple[House, Phones]]:
    """The service with a trunk to two phones; afterwards nobody is left on a line."""
    async with Phones.open({FIRST: first, SECOND: second}) as phones:
        async with house(folder, phone=phones.phone, carrier=None, trunks=(), wall=utc_now, **sections) as running:
            yield running, phones
        await phones.quiet()


# --- in a process of its own ---


@dataclass
class Process:
    """`dosvoces serve`, running."""

    process: asyncio.subprocess.Process
    url: str
    folder: Path
    lines: list[str]
    """What it wrote to its log."""
    reading: "asyncio.Task[None]"

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Its exit status, when it is over and its log is read."""
        status = await asyncio.wait_for(self.process.wait(), 20)
        await self.reading
        return status

    async def logged(self, event: str) -> None:
        """Wait until it says so."""

        async def said() -> bool:
            return any(f'"event": "{event}"' in line for line in self.lines)

        await until(said, limit_s=LIMIT_S)

    async def command(self, *arguments: str) -> str:
        """What another `dosvoces` prints, on the same settings."""
        program = str(Path(sys.executable).parent / "dosvoces")
        asked = await asyncio.create_subprocess_exec(
            *(program, "--config", str(self.folder / "dosvoces.toml"), *arguments), stdout=asyncio.subprocess.PIPE
        )
        printed, _ = await asked.communicate()
        assert asked.returncode == 0, arguments
        return printed.decode("utf-8")

    async def joined(self) -> None:
        """Wait until somebody talks, by its record: the answer tells of ringing already."""

        async def found() -> bool:
            return self.rows("SELECT 1 FROM connection WHERE joined_at IS NOT NULL") != []

        await until(found, limit_s=LIMIT_S)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Ask its record, from outside."""
        with sqlite3.connect(f"file:{self.folder}/record.db?mode=ro", uri=True) as db:
            found = db.execute(query).fetchall()
        db.close()
        return found


@asynccontextmanager
async def process(
    folder: Path,
    phone: Phone | None,
    trunks: Sequence[Sections] = (),
    *,
    crash_at: str = "",
    wrapper: Sequence[str] = (),
    **sections: Sections | Sequence[Sections],
) -> AsyncIterator[Process]:
    """
    A real `dosvoces serve` with its own configuration file; killed if it is still there in the end.

    `crash_at` is the crash point at which it kills itself; without a `url`, if that is in its start. `wrapper` is a
    command that runs it.
    """
    config = folder / "dosvoces.toml"
    config.write_text(
        as_toml(values(folder, phone, trunks, log={"format": "json", "level": "debug"}, **sections)), "utf-8"
    )
    async with AsyncExitStack() as stack:
        serving = await asyncio.create_subprocess_exec(
            *(*wrapper, str(Path(sys.executable).parent / "dosvoces"), "serve", "--config", str(config)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith("DOSVOCES_")},
                **({VARIABLE: crash_at} if crash_at else {}),
            },
        )
        stack.push_async_callback(_gone, serving)
        lines: list[str] = []
        ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        reading = asyncio.create_task(_read(serving, lines, ready, may_die=bool(crash_at)))
        url = await asyncio.wait_for(ready, START_LIMIT_S)
        yield Process(serving, url, folder, lines, reading)
        assert leaks(lines) == []


async def _gone(serving: asyncio.subprocess.Process) -> None:
    if serving.returncode is None:
        serving.kill()
    await serving.wait()


async def _read(
    serving: asyncio.subprocess.Process, lines: list[str], ready: "asyncio.Future[str]", *, may_die: bool
) -> None:
    assert serving.stderr is not None
    async for line in serving.stderr:
        lines.append(line.decode("utf-8"))
        if b'"ready"' in line and not ready.done():
            ready.set_result(json.loads(line)["url"])
    if not ready.done():
        if may_die:
            ready.set_result("")
        else:
            ready.set_exception(AssertionError("".join(lines)))


def as_toml(settings: Mapping[str, Any]) -> str:
    """Two levels deep, which is all that our file has."""
    text = []
    for name, section in settings.items():
        tables = section if isinstance(section, list) else [section]
        for table in tables:
            text.append(f"[[{name}]]" if isinstance(section, list) else f"[{name}]")
            text += [f"{key} = {json.dumps(value)}" for key, value in table.items()]
    return "\n".join(text) + "\n"


SIDES = {Side.A: FIRST, Side.B: SECOND}
