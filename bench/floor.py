"""What the same work costs with nothing of ours in between: SIPp calling SIPp, and a bare relay loop."""

import asyncio
import json
import resource
import tempfile
from pathlib import Path
from typing import Any

from bench.media_bench import Talkers, new_end, talking_cost
from bench.phones import phones
from bench.processes import PYTHON

CALLS = 2000
RATE = 400
TALK_MS = 200
LIMIT_S = 40.0


async def bare_legs() -> dict[str, Any]:
    """SIPp to SIPp: one call is one leg. CPU-ms of both ends."""
    with tempfile.TemporaryDirectory() as folder:
        async with phones(Path(folder), hold_s=1) as lines:
            before, phone_before = _children_cpu_s(), lines.cpu_s
            caller = await asyncio.create_subprocess_exec(
                *("sipp", "-sn", "uac", f"127.0.0.1:{lines.first_port}", "-i", "127.0.0.1", "-nostdin"),
                *("-r", str(RATE), "-m", str(CALLS), "-d", str(TALK_MS), "-timeout", f"{LIMIT_S:.0f}s"),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                cwd=folder,
            )
            status = await caller.wait()
            caller_s, phone_s = _children_cpu_s() - before, lines.cpu_s - phone_before
    return {
        "legs": CALLS,
        "all_ok": status == 0,
        "caller_cpu_ms_per_leg": round(caller_s * 1000 / CALLS, 3),
        "phone_cpu_ms_per_leg": round(phone_s * 1000 / CALLS, 3),
    }


async def bare_relay(calls: int) -> dict[str, Any]:
    """The packets of `media_bench`, moved by a loop that does nothing else."""
    ends = [(new_end(), new_end()) for _ in range(calls)]
    ports = json.dumps([[a.getsockname()[1], b.getsockname()[1]] for a, b in ends])
    process = await asyncio.create_subprocess_exec(
        *(PYTHON, "-m", "bench.bare_relay", ports), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        there = json.loads(await process.stdout.readline())
        talkers = Talkers(
            [
                (end, ("127.0.0.1", port))
                for pair, pair_there in zip(ends, there, strict=True)
                for end, port in zip(pair, pair_there, strict=True)
            ]
        )
        return {"calls": calls, **await talking_cost(talkers, process.pid)}
    finally:
        process.stdin.close()
        await process.wait()
        for pair in ends:
            for end in pair:
                end.close()


def _children_cpu_s() -> float:
    """Of the children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


async def run(*, calls: int) -> dict[str, Any]:
    """Both floors."""
    return {"sip": await bare_legs(), "relay": await bare_relay(calls)}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(calls=100))))
