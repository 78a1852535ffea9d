"""One node under torment: `dosvoces serve` at a fixed place, started again as soon as it is gone."""

import asyncio
import json
import os
import random
import re
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import psutil

from dosvoces.crashpoints import VARIABLE
from tests.chaos.deck import Deck
from tests.chaos.evidence import BY_ITSELF
from tests.chaos.logs import Witness
from tests.chaos.plan import Plan

_KILLED_AT = re.compile(rf"{VARIABLE}: killed at (\w+)")
START_LIMIT_S = 60.0
LONG_SHARE = 0.6
"""Of the freezes: those in which others take over; from the rest it wakes long before."""


class Node:
    """`run` keeps it alive until `finish`, which lets it serve in peace."""

    def __init__(
        self,
        name: str,
        config: Path,
        plan: Plan,
        witness: Witness,
        deck: Deck,
        rng: random.Random,
        *,
        among_others: bool,
    ) -> None:
        self.name = name
        self._config = config
        self._plan = plan
        self._witness = witness
        self._rng = rng
        self._among_others = among_others
        self._deck = deck
        self._peace = asyncio.Event()
        self._ready = asyncio.Event()
        self._over = False
        self._process: asyncio.subprocess.Process | None = None

    async def run(self) -> None:
        point = ""  # It comes to serve once, before it dies of anything.
        while not self._over:
            self._ready.clear()
            await self._live(point)
            point = "" if self._peace.is_set() else self._deck.deal()

    async def _live(self, point: str) -> None:
        with self._config.with_suffix(".log").open("ab") as log:
            process = self._process = await self._start(point)
            reading = asyncio.create_task(self._read(process, log))
            torment = asyncio.create_task(self._torment(process, armed=bool(point)))
            try:
                status = await process.wait()
            finally:
                torment.cancel()
                with suppress(asyncio.CancelledError):
                    await torment
                if process.returncode is None:
                    process.kill()
                point_reached = await reading
        self._gone(status, point_reached)

    async def serving(self) -> None:
        """Wait until it takes requests."""
        await asyncio.wait_for(self._ready.wait(), START_LIMIT_S)

    async def finish(self) -> None:
        """Have it started anew with nothing to die of, and wait until it serves."""
        self._peace.set()
        self._kill("last")
        self._ready.clear()
        await self.serving()

    async def stop(self) -> None:
        """For good."""
        self._over = True
        self._peace.set()
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()

    # --- its lives ---

    async def _start(self, point: str) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            *(str(Path(sys.executable).parent / "dosvoces"), "serve", "--config", str(self._config)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith("DOSVOCES_")},
                **({VARIABLE: point} if point else {}),
            },
        )
        self._witness.note(kind="started", node=self.name, how=point)
        return process

    async def _read(self, process: asyncio.subprocess.Process, log: BinaryIO) -> str:
        """Keep its log; returns the crash point that it died at, if any."""
        assert process.stderr is not None
        died_at = ""
        async for line in process.stderr:
            log.write(line)
            if b'"ready"' in line and json.loads(line).get("event") == "ready":
                self._ready.set()
                self._witness.note(kind="ready", node=self.name)
            if found := _KILLED_AT.match(line.decode("utf-8", "replace")):
                died_at = found[1]
        return died_at

    def _gone(self, status: int, point: str) -> None:
        if status == -signal.SIGKILL:
            if point:
                self._note_kill(point)
        elif not self._over:
            self._witness.note(kind="killed", node=self.name, how=f"{BY_ITSELF} {status}")

    # --- its torment ---

    async def _torment(self, process: asyncio.subprocess.Process, *, armed: bool) -> None:
        await self._ready.wait()
        end = asyncio.get_running_loop().time() + self._plan.armed_s
        while not self._peace.is_set():
            wait_s = self._rng.expovariate(1 / self._plan.calm_s)
            if armed:
                wait_s = min(wait_s, max(0.0, end - asyncio.get_running_loop().time()))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._peace.wait(), wait_s)
            if self._peace.is_set():
                return
            if armed and asyncio.get_running_loop().time() >= end:
                self._kill("random")
                return
            await self._fault(process, armed=armed)

    async def _fault(self, process: asyncio.subprocess.Process, *, armed: bool) -> None:
        chance, plan = self._rng.random(), self._plan
        if chance < plan.media_share:
            self._kill_media_worker(process)
        elif self._among_others and chance < plan.media_share + plan.freeze_share:
            await self._freeze(process)
        elif not armed:
            self._kill("random")

    def _kill(self, how: str) -> None:
        process = self._process
        if process is not None and process.returncode is None:
            process.send_signal(signal.SIGKILL)
            self._note_kill(how)

    def _note_kill(self, how: str) -> None:
        self._deck.deaths[how] += 1
        self._witness.note(kind="killed", node=self.name, how=how)

    def _kill_media_worker(self, process: asyncio.subprocess.Process) -> None:
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(process.pid).children():
                if "dosvoces.media.worker" in child.cmdline():
                    child.send_signal(signal.SIGKILL)
                    self._deck.deaths["media worker"] += 1
                    self._witness.note(kind="media_killed", node=self.name)

    async def _freeze(self, process: asyncio.subprocess.Process) -> None:
        """For longer than it takes to be declared dead, or for less than the fence."""
        plan, rng = self._plan, self._rng
        long = rng.random() < LONG_SHARE
        frozen_s = rng.uniform(plan.dead_s + 1, plan.dead_s + 8) if long else rng.uniform(0.2, plan.fence_s - 1)
        if process.returncode is not None:
            return
        process.send_signal(signal.SIGSTOP)
        self._witness.note(kind="frozen", node=self.name, how="long" if long else "short")
        try:
            await asyncio.sleep(frozen_s)
        finally:
            if process.returncode is None:
                self._witness.note(kind="thawed", node=self.name)
                process.send_signal(signal.SIGCONT)
