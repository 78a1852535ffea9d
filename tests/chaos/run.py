"""
One site: its nodes, their record, phones, mail server and clients, and what is done to them; and the logs of it all.

A site on SQLite is one node, a site on PostgreSQL is two on one server of their own.
"""

import asyncio
import hashlib
import json
import random
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dosvoces.testing import until
from tests.chaos.clients import Clients
from tests.chaos.database import Database, claims_of_postgres, claims_of_sqlite
from tests.chaos.deck import Deck
from tests.chaos.evidence import CLIENTS, FAULTS, MAILS, PHONES, RECORD, TERMS, WEBHOOKS, Terms, request_of
from tests.chaos.logs import Witness
from tests.chaos.mail_server import ChaoticSmtp
from tests.chaos.node import Node
from tests.chaos.plan import Plan
from tests.house import as_toml
from tests.peers.sipp import HOST, SippPhone
from tests.ports import free_port, own_range
from tests.postgres import Cluster
from tests.webhook_receiver import SECRET, Message, Receiver

MEDIA_PORTS = 600
LOOK_S = 0.5  # the whole record is read each time
NO_END = 10**9  # calls that SIPp is to take
SIPP_LIMITS = (
    *("-default_behaviors", "none"),  # A stray message ends no call.
    *("-deadcall_wait", "0"),  # What is over is forgotten, and what still comes for it gets 481.
    *("-max_invite_retrans", "11", "-max_non_invite_retrans", "11"),  # RFC 3261 §17: for 64*T1
    *("-l", "9000"),  # below the limit of open files
)


class Site:
    """`run` leaves the evidence in `folder`."""

    def __init__(
        self, folder: Path, plan: Plan, nodes: Sequence[str], cluster: Cluster | None, deck: Deck, enough: "Enough"
    ) -> None:
        self._folder = folder
        self._plan = plan
        self._names = nodes
        self._cluster = cluster
        self._deck = deck
        self._enough = enough
        self._rng = random.Random(f"{plan.seed} {folder.name}")
        self._database = cluster.new_database() if cluster else ""
        self._ports: dict[int, str] = {}

    async def run(self) -> None:
        plan, folder = self._plan, self._folder
        async with AsyncExitStack() as stack:
            witness: dict[str, Witness] = {}
            for log in (MAILS, CLIENTS, FAULTS):
                witness[log] = Witness(folder / log)
                stack.callback(witness[log].close)
            phones = await stack.enter_async_context(
                SippPhone.start(
                    folder,
                    "whatever_is_dialled",
                    name=Path(PHONES).parent.name,
                    calls=NO_END,
                    or_fewer=True,
                    options=SIPP_LIMITS,
                    **plan.phone_texts(),
                )
            )
            mails = await stack.enter_async_context(
                ChaoticSmtp(witness[MAILS], witness[FAULTS], self._random(), plan.mail_fault_rate)
            )
            told = await stack.enter_async_context(Receiver.open())
            urls, nodes = self._make_nodes(phones.port, mails.port, told.url(), witness[FAULTS])
            clients = Clients(plan, urls, witness[CLIENTS], self._random())
            await self._drive(nodes, clients, told, witness[FAULTS])
            self._write_webhooks(told.received)
        self._write_claims()

    def _random(self) -> random.Random:
        return random.Random(self._rng.random())

    async def _drive(self, nodes: Sequence[Node], clients: Clients, told: Receiver, faults: Witness) -> None:
        database = Database(self._cluster, self._plan, faults, self._random()) if self._cluster else None
        async with asyncio.TaskGroup() as group:
            for node in nodes:
                group.create_task(node.run())
            await asyncio.gather(*(node.serving() for node in nodes))
            asking = group.create_task(clients.run())
            tormented = group.create_task(database.run()) if database else None
            await self._enough.wait()
            if database and tormented:
                database.finish()
                await tormented
            await asyncio.gather(*(node.finish() for node in nodes))
            clients.stop()
            await asking
            await self._settled(told)
            over_at = time.time()
            for node in nodes:
                await node.stop()
        self._write_terms(over_at)

    async def _settled(self, told: Receiver) -> None:
        """Wait until everything has ended and was told; what is open when time is up is the checker's to tell."""

        async def all_told() -> bool:
            known = {message.json["data"]["id"] for message in told.received}
            return all(claim["outcome"] and claim["connection"] in known for claim in self._claims())

        with suppress(TimeoutError):
            async with asyncio.timeout(self._plan.settle_s):
                while not await all_told():  # noqa: ASYNC110
                    await asyncio.sleep(LOOK_S)
        # A leg outlives its connection's end by nothing; the phones' own last words take a moment.
        await asyncio.sleep(self._plan.up_limit_s + 1)

    def _claims(self) -> Iterator[dict[str, Any]]:
        if self._cluster:
            return claims_of_postgres(self._cluster, self._database)
        return claims_of_sqlite(self._folder / "record.db")

    def _write_claims(self) -> None:
        with (self._folder / RECORD).open("w", encoding="utf-8") as lines:
            lines.writelines(json.dumps(claim) + "\n" for claim in self._claims())

    def _write_webhooks(self, received: Sequence[Message]) -> None:
        with (self._folder / WEBHOOKS).open("w", encoding="utf-8") as lines:
            for message in received:
                lines.write(json.dumps(_webhook(message)) + "\n")

    def _write_terms(self, over_at: float) -> None:
        plan = self._plan
        terms = Terms(
            ports=self._ports,
            ring_timeout_s=plan.ring_timeout_s,
            talk_limit_s=plan.talk_limit_s,
            fence_s=plan.fence_s,
            dead_s=plan.dead_s,
            alone=self._cluster is None,
            up_limit_s=plan.up_limit_s,
            over_at=over_at,
        )
        (self._folder / TERMS).write_text(json.dumps(asdict(terms)), "utf-8")

    # --- the nodes ---

    def _make_nodes(self, phone_port: int, mail_port: int, hook: str, faults: Witness) -> tuple[list[str], list[Node]]:
        urls, nodes = [], []
        for name in self._names:
            http, sip = free_port(), free_port()
            self._ports[sip] = name
            urls.append(f"http://{HOST}:{http}")
            config = self._folder / f"{name}.toml"
            config.write_text(as_toml(self._settings(name, http, sip, phone_port, mail_port, hook)), "utf-8")
            among_others = self._cluster is not None
            nodes.append(Node(name, config, self._plan, faults, self._deck, self._random(), among_others=among_others))
        return urls, nodes

    def _settings(self, name: str, http: int, sip: int, phone_port: int, mail_port: int, hook: str) -> dict[str, Any]:
        plan = self._plan
        first, last = own_range(MEDIA_PORTS)
        url = self._cluster.url(self._database) if self._cluster else f"sqlite:///{self._folder}/record.db"
        return {
            "http": {"host": HOST, "port": http},
            "database": {"url": url},
            "mail": {
                "url": f"smtp://{HOST}:{mail_port}?tls=none",
                "from": "Dosvoces <leads@example.com>",
                "timeout_s": 2.0,
            },
            "sip": {"bind": f"{HOST}:{sip}"},
            "media": {"address": HOST, "ports": f"{first}-{last}"},
            "dialing": {"ring_timeout_s": plan.ring_timeout_s, "talk_limit_s": plan.talk_limit_s},
            "node": {
                "name": name,
                "beat_s": plan.beat_s,
                "fence_s": plan.fence_s,
                "dead_s": plan.dead_s,
                "drain_s": 0.0,
            },
            "webhooks": [{"url": hook, "secret": SECRET}],
            "log": {"format": "json", "level": "info"},
            "trunks": [
                {
                    "name": "phones",
                    "proxy": f"sip:{HOST}:{phone_port};transport=udp",
                    "caller_id": "+34910000000",
                }
            ],
        }


def _webhook(message: Message) -> dict[str, Any]:
    data = message.json["data"]
    owner = request_of(data["first_number"])
    return {
        "at": message.at,
        "request": owner[0] if owner else -1,
        "connection": data["id"],
        "message": message.id,
        "outcome": data["outcome"],
        "digest": hashlib.sha256(message.body).hexdigest(),
    }


class Enough:
    """When the faults have been enough for all sites."""

    def __init__(self, plan: Plan, decks: Collection[Deck]) -> None:
        self._plan = plan
        self._decks = decks
        self._begun = time.monotonic()

    async def wait(self) -> None:
        """For the length of the run, and then for what it still lacks, as long as that may take."""
        await asyncio.sleep(self._plan.length_s - (time.monotonic() - self._begun))
        with suppress(TimeoutError):
            await until(self._reached, limit_s=self._plan.at_most_s)

    async def _reached(self) -> bool:
        deaths = sum(deck.deaths.total() for deck in self._decks)
        return deaths >= self._plan.kills and not any(deck.missing for deck in self._decks)


SITES: dict[str, tuple[str, ...]] = {"sqlite": ("only",), "postgresql": ("one", "two")}
"""What a site's record can be in, and its nodes."""


async def run(folder: Path, plan: Plan, kinds: Sequence[str], said: Callable[[str], None]) -> list[Path]:
    """Run sites of these kinds side by side; returns their folders. Of the main thread: a cluster ends with it."""
    folders = [folder / f"{number}-{kind}" for number, kind in enumerate(kinds, 1)]
    decks = {kind: Deck(plan, random.Random(f"{plan.seed} {kind}")) for kind in kinds}
    enough = Enough(plan, decks.values())
    with ExitStack() as stack:
        sites = []
        for place, kind in zip(folders, kinds, strict=True):
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            cluster = stack.enter_context(Cluster.open()) if kind == "postgresql" else None
            sites.append(Site(place, plan, SITES[kind], cluster, decks[kind], enough))
        said(f"{', '.join(kinds)}: {plan.length_s:g} s of chaos, seed {plan.seed}, logs in {folder}")
        async with asyncio.TaskGroup() as group:
            for site in sites:
                group.create_task(site.run())
    return folders
