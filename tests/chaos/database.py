"""PostgreSQL under torment, and what a record claims in the end."""

import asyncio
import random
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg

from tests.chaos.evidence import request_of
from tests.chaos.logs import Witness
from tests.chaos.plan import Plan
from tests.postgres import Cluster

LONG_SHARE = 0.2
"""Of the outages of the database: those that outlast the nodes' lease."""
_CLAIMS = "SELECT id, first, outcome, created_at, ended_at FROM connection"


class Database:
    """A server that is stopped and started at random until `finish`."""

    def __init__(self, cluster: Cluster, plan: Plan, witness: Witness, rng: random.Random) -> None:
        self._cluster = cluster
        self._plan = plan
        self._witness = witness
        self._rng = rng
        self._peace = asyncio.Event()

    async def run(self) -> None:
        while True:
            try:
                await asyncio.wait_for(self._peace.wait(), self._rng.expovariate(1 / self._plan.database_calm_s))
                return
            except TimeoutError:
                await self._fault()

    def finish(self) -> None:
        """No further fault; one that is under way is ended as it was to be."""
        self._peace.set()

    async def _fault(self) -> None:
        cluster, plan, rng = self._cluster, self._plan, self._rng
        how = rng.choice(["immediate", "killed", "paused", "backend"])
        if how == "backend":
            # All sessions are thrown out, and the server recovers.
            self._witness.note(kind="backend_killed")
            with suppress(psycopg.OperationalError):  # It may be recovering from the last one.
                await asyncio.to_thread(cluster.kill_backend, "")
            return
        long = rng.random() < LONG_SHARE
        down_s = rng.uniform(plan.fence_s + 2, plan.fence_s + 5) if long else rng.uniform(0.1, plan.fence_s / 2)
        self._witness.note(kind="database_down", how=how)
        match how:
            case "immediate":
                await asyncio.to_thread(cluster.stop, signal.SIGQUIT)
            case "killed":
                await asyncio.to_thread(cluster.kill)
            case "paused":
                await asyncio.to_thread(cluster.pause)
        await asyncio.sleep(down_s)
        if how == "paused":
            await asyncio.to_thread(cluster.resume)
        else:
            await cluster.started()
        self._witness.note(kind="database_up")


def claims_of_sqlite(record: Path) -> Iterator[dict[str, Any]]:
    """What a record in that file says of each connection."""
    with closing(sqlite3.connect(f"file:{record}?mode=ro", uri=True)) as db:
        for row in db.execute(_CLAIMS).fetchall():
            yield _claim(*row)


def claims_of_postgres(cluster: Cluster, name: str) -> Iterator[dict[str, Any]]:
    """What a record in that database says of each connection."""
    for row in cluster.execute(_CLAIMS, name):
        yield _claim(*row)


def _claim(
    connection: str, first: str, outcome: str | None, created_at: str | datetime, ended_at: str | datetime | None
) -> dict[str, Any]:
    owner = request_of(first)
    return {
        "connection": connection,
        "request": owner[0] if owner else -1,
        "outcome": outcome,
        "created_at": _seconds(created_at),
        "ended_at": None if ended_at is None else _seconds(ended_at),
    }


def _seconds(moment: str | datetime) -> float:
    return (datetime.fromisoformat(moment) if isinstance(moment, str) else moment).timestamp()
