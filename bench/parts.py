"""
The parts of a benchmark, each run in a process of its own: `python -m bench.parts '{"part": "engine", "quick": true}'`.
"""

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvloop

from bench import call, floor, latency, media_bench
from bench import overload as overload_bench
from bench.phones import phones
from bench.processes import measured

P95_LIMIT_MS = 500.0  # a rate counts as sustained below it
STEP_LIMIT_S = 90.0
HOLD_S = 1.0
OPEN_AT_ONCE = 500

Step = Callable[[float, float], Awaitable[dict[str, Any]]]
"""One rate (connections a second) for so many seconds."""


async def engine(*, quick: bool) -> dict[str, Any]:
    """The engine alone: rates stepped up until one isn't kept."""
    rates = (100, 300) if quick else (50, 100, 200, 300, 350, 400, 450, 500, 550, 600)
    return await step_up(_engine_step, rates, seconds=4 if quick else 8)


async def post_call(*, quick: bool) -> dict[str, Any]:
    """`POST /call` with mail and record: rates stepped up until one isn't kept."""
    rates = (100,) if quick else (50, 100, 125, 150, 175, 200, 225, 250)
    return await step_up(_call_step, rates, seconds=4 if quick else 8)


async def media(*, quick: bool) -> dict[str, Any]:
    """Relayed voice; and the floor of both kinds in the same minute."""
    calls = 50 if quick else 100
    if quick:
        media_bench.TALK_S, floor.CALLS = 3.0, 1000
    return {
        "floor": await floor.run(calls=calls),
        **await media_bench.run(calls=[calls] if quick else [calls, 200]),
    }


async def delays(*, quick: bool) -> dict[str, Any]:
    """Request to INVITE, answer to join, answer to voice."""
    count = 30 if quick else 100
    result: dict[str, Any] = {"engine": await latency.engine(count=count, pace_ms=20)}
    if not quick:
        result["engine_1_ms_packets"] = await latency.engine(count=count, pace_ms=1)
        with tempfile.TemporaryDirectory() as folder:
            result["post_call"] = await latency.post_call(Path(folder), count=count)
    return result


async def memory(*, quick: bool) -> dict[str, Any]:
    """`OPEN_AT_ONCE` joined connections without voice, in fresh processes."""
    async with lines(hold_s=7 if quick else 12) as load:
        rate, seconds = (125, 4) if quick else (62.5, 8)
        return await measured("bench.engine", {**load, "rate": rate, "seconds": seconds}, limit_s=STEP_LIMIT_S)


async def overload(*, quick: bool) -> dict[str, Any]:
    """Ten times the capacity: what is still done, and how soon the rest is refused."""
    with tempfile.TemporaryDirectory() as folder:
        async with asyncio.timeout(STEP_LIMIT_S):
            return await overload_bench.run(Path(folder), seconds=3 if quick else 6, max_connections=1000)


PARTS: dict[str, Callable[..., Coroutine[Any, Any, dict[str, Any]]]] = {
    "engine": engine,
    "call": post_call,
    "latency": delays,
    "memory": memory,
    "media": media,
    "overload": overload,
}


async def step_up(step: Step, rates: tuple[float, ...], *, seconds: float) -> dict[str, Any]:
    steps: list[dict[str, Any]] = []
    sustained = 0.0
    for rate in rates:
        steps.append(await step(rate, seconds))
        if not kept(steps[-1]):
            break
        sustained = rate
    return {"sustained_per_s": sustained, "limit_reached": not kept(steps[-1]), "steps": steps}


def kept(step: dict[str, Any]) -> bool:
    all_done: bool = step["completed"] == step["joined"] == step["connections"]
    in_time: bool = step["setup_ms"]["p95"] <= P95_LIMIT_MS
    offered: bool = step["offered_per_s"] >= 0.97 * step["rate"]
    return all_done and in_time and offered


async def _engine_step(rate: float, seconds: float) -> dict[str, Any]:
    async with lines(hold_s=HOLD_S) as load:
        return await measured("bench.engine", {**load, "rate": rate, "seconds": seconds}, limit_s=STEP_LIMIT_S)


async def _call_step(rate: float, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        async with asyncio.timeout(STEP_LIMIT_S):
            return await call.run(Path(folder), rate=rate, seconds=seconds, hold_s=HOLD_S)


@asynccontextmanager
async def lines(*, hold_s: float) -> AsyncIterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        async with phones(Path(folder), hold_s=hold_s) as lines:
            yield {"first_port": lines.first_port, "second_port": lines.second_port, "hold_s": hold_s}


def main() -> None:
    arguments = json.loads(sys.argv[1])
    print(json.dumps(uvloop.run(PARTS[arguments["part"]](quick=arguments["quick"]))))


if __name__ == "__main__":
    main()
