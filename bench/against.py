"""
`python -m bench --against asterisk`: our engine and Asterisk 22 with an ARI driver, in turn, with the same phones.

Both do the same: A dialled and answered, B dialled and answered, joined, held, hung up by B. Both run fresh in each
measurement, both are whole: our figures are of server and media worker, theirs of Asterisk and its driver.
"""

import asyncio
import json
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import latency, media_bench
from bench.parts import HOLD_S, STEP_LIMIT_S, kept, lines, step_up
from bench.processes import PYTHON, children, cpu_s, measured
from dosvoces.phone.call import user_part
from dosvoces.sip import sdp
from dosvoces.sip.agent import Agent, IncomingCall
from dosvoces.sip.api import CallEnd, CallHandler
from tests.peers.asterisk import prepared

OURS, THEIRS = "bench.engine", "bench.ari"
TALK_S = 8.0
Figures = dict[str, Any]


async def load(module: str, *, quick: bool) -> Figures:
    """Rates stepped up until one isn't kept, tried twice: whoever else has the machine for a second counts once."""
    steps = {OURS: (60, 100, 200, 300, 400, 500, 600), THEIRS: (60, 100, 125, 150, 175, 200, 225, 250)}

    async def once(rate: float, seconds: float) -> Figures:
        async with lines(hold_s=HOLD_S) as phones:
            return await measured(module, {**phones, "rate": rate, "seconds": seconds}, limit_s=STEP_LIMIT_S)

    async def step(rate: float, seconds: float) -> Figures:
        result = await once(rate, seconds)
        return result if kept(result) else await once(rate, seconds)

    return await step_up(step, (60, 100) if quick else steps[module], seconds=4 if quick else 8)


async def delays(module: str, *, quick: bool) -> Figures:
    """Request to INVITE, B's answer to the join."""
    return await latency.engine(count=30 if quick else 100, pace_ms=20, module=module)


async def memory(module: str, *, quick: bool) -> Figures:
    """500 joined connections that say nothing."""
    async with lines(hold_s=7 if quick else 12) as phones:
        rate, seconds = (100, 4) if quick else (62.5, 8)
        return await measured(module, {**phones, "rate": rate, "seconds": seconds}, limit_s=STEP_LIMIT_S)


async def media(module: str, *, quick: bool) -> Figures:
    """Conversations in PCMA, both ways."""
    return await _talk(module, calls=30 if quick else 100, talk_s=3 if quick else TALK_S)


async def many_open(module: str, *, quick: bool) -> Figures:
    """Cost of a connection while 10 are open, and while 2,000 are."""
    result = {}
    for open_, seconds in ((1, 2), (200, 6)) if quick else ((10, 10), (2000, 30)):
        hold_s = open_ / 100
        async with lines(hold_s=hold_s) as phones:
            arguments = {**phones, "rate": 100, "seconds": seconds}
            result[str(open_)] = await measured(module, arguments, limit_s=STEP_LIMIT_S)
    return result


@dataclass
class Talker(CallHandler):
    """A phone's end that answers at once and can be hung up."""

    incoming: IncomingCall
    end: media_bench.End

    def on_ended(self, end: CallEnd) -> None:
        self.end[0].close()


@dataclass
class Ends:
    """The phones of all calls, in this process."""

    wanted: int
    taken: list[Talker] = field(default_factory=list)
    all_there: asyncio.Event = field(default_factory=asyncio.Event)

    def answer(self, incoming: IncomingCall) -> CallHandler:
        end = media_bench.new_end()
        port = end.getsockname()[1]
        answer = sdp.answer_to(sdp.parse(incoming.offer), "127.0.0.1", port, (sdp.PCMA,), session_id=1)
        talker = Talker(incoming, (end, (answer.chosen.host, answer.chosen.port)))
        incoming.ring()
        asyncio.get_running_loop().call_soon(incoming.answer, answer.body)
        self.taken.append(talker)
        if len(self.taken) == self.wanted:
            self.all_there.set()
        return talker


async def _talk(module: str, *, calls: int, talk_s: float) -> Figures:
    ends = Ends(2 * calls)
    async with AsyncExitStack() as stack:
        agents = []
        for _ in range(2):
            agents.append(await Agent.open(bind=("127.0.0.1", 0), peers=None, on_invite=ends.answer))
            stack.push_async_callback(agents[-1].close)
        first, second = (agent.local[1] for agent in agents)
        rate = 25.0
        arguments = {"first_port": first, "second_port": second, "rate": rate, "seconds": calls / rate, "hold_s": 60}
        process = await asyncio.create_subprocess_exec(
            *(PYTHON, "-m", module, json.dumps(arguments)), stdout=asyncio.subprocess.PIPE
        )
        try:
            await asyncio.wait_for(ends.all_there.wait(), 60)
            await asyncio.sleep(1.5)  # until the last are joined
            cost = await _cost_of_talk(ends, process.pid, talk_s=talk_s)
            for talker in [t for t in ends.taken if user_part(t.incoming.request_uri).startswith("+349")]:
                talker.incoming.hangup()
            out, _ = await asyncio.wait_for(process.communicate(), 60)
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()
    return {"calls": calls, "completed": json.loads(out)["completed"], **cost}


async def _cost_of_talk(ends: Ends, pid: int, *, talk_s: float) -> Figures:
    pids = [pid, *children(pid)]
    talkers = media_bench.Talkers([talker.end for talker in ends.taken])
    talkers.start()
    await asyncio.sleep(1.0)
    cpu, sent = sum(map(cpu_s, pids)), talkers.sent
    await asyncio.sleep(talk_s)
    cpu, sent = sum(map(cpu_s, pids)) - cpu, talkers.sent - sent
    await asyncio.to_thread(talkers.stop)
    return {
        "cpu_ms_per_s_of_two_way_talk": round(cpu / sent * 100 * 1000, 3),
        "packets_per_s": round(sent / talk_s),
        "lost_share": round(1 - talkers.received / talkers.sent, 4),
    }


PARTS = {"load": load, "latency": delays, "memory": memory, "media": media, "open": many_open}


def _at_rate(rate: float) -> Callable[[Figures], float]:
    def read(figures: Figures) -> float:
        step = next(step for step in figures["steps"] if step["rate"] == rate)
        return float(sum(step["cpu_ms_per_connection"].values()))

    return read


MORE_IS_BETTER = "sustained"
ROWS: tuple[tuple[str, str, str, Callable[[Figures], float]], ...] = (
    ("load", MORE_IS_BETTER, "a second", lambda f: float(f["sustained_per_s"])),
    ("load", "CPU at 60/s", "ms each", _at_rate(60)),
    ("load", "CPU at 100/s", "ms each", _at_rate(100)),
    ("memory", "memory, fresh, 500 joined", "KiB each", lambda f: sum(f["kib_per_open_connection"].values())),
    ("media", "talk, both ways", "CPU-ms/s", lambda f: f["cpu_ms_per_s_of_two_way_talk"]),
    *(
        ("latency", f"{name}, {share}", "ms", lambda f, key=key, share=share: f[key][share])
        for name, key in (("request to INVITE", "request_to_invite_ms"), ("B's 200 to join", "answer_to_joined_ms"))
        for share in ("p50", "p95", "p99")
    ),
)
"""Part, what, unit, and where it is in the part's figures."""


async def _measure(parts: list[str], console: Console, *, quick: bool) -> dict[str, dict[str, Figures]]:
    results: dict[str, dict[str, Figures]] = {"ours": {}, "theirs": {}}
    for name in parts:
        for who, module in (("theirs", THEIRS), ("ours", OURS)):
            if name == "open" and who == "theirs":
                continue  # It is about us only: is the cost flat?
            console.print(f"measuring: {name}, {who} …")
            try:
                results[who][name] = await PARTS[name](module, quick=quick)
            except (RuntimeError, TimeoutError) as error:
                console.print(f"  not measured: {error or 'it took too long'}", markup=False)
    return results


def main(parts: list[str], *, quick: bool, json_file: Path | None) -> int:
    """Measure and print; 1 if something couldn't be measured."""
    console = Console(stderr=True)
    try:
        asyncio.run(prepared())
    except AssertionError as error:
        console.print(str(error), markup=False)
        return 1
    results = asyncio.run(_measure(parts, console, quick=quick))
    if json_file is None:
        print(json.dumps(results), flush=True)
    else:
        json_file.write_text(json.dumps(results, indent=2) + "\n")
    _show(results, console)
    return 0 if set(results["ours"]) - {"open"} == set(results["theirs"]) else 1


def _show(results: dict[str, dict[str, Figures]], console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("figure", "ours", "theirs", "better", "unit"):
        table.add_column(
            heading, justify="left" if heading in ("figure", "unit") else "right", no_wrap=True, overflow="fold"
        )
    for part, what, unit, read in ROWS:
        try:
            ours, theirs = (read(results[who][part]) for who in ("ours", "theirs"))
        except (KeyError, StopIteration):
            continue
        better = ours / theirs if what == MORE_IS_BETTER else theirs / ours
        table.add_row(what, f"{ours:.3g}", f"{theirs:.3g}", f"{better:.1f} ×", unit)
    if (of := results["ours"].get("open")) is not None:
        (few, at_few), (many, at_many) = of.items()
        costs = [sum(figures["cpu_ms_per_connection"].values()) for figures in (at_few, at_many)]
        what = f"CPU with {many} open, with {few} open"
        table.add_row(what, f"{costs[1]:.3g}, {costs[0]:.3g}", "", f"{costs[1] / costs[0]:.2f} ×", "ms each")
    console.print(table)
