"""Reading what processes use, and starting those that a measurement needs."""

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

READY_LIMIT_S = 20.0


def cpu_s(pid: int) -> float:
    """CPU that a process and its threads have used so far, user and system, in seconds."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_kib(pid: int) -> int:
    """Resident memory of a process."""
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))


def children(pid: int) -> list[int]:
    """The processes that `pid` started and that still run."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` (0 to 1) of `values` lie; 0 for none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def spread(values: list[float]) -> dict[str, float]:
    """p50, p95 and p99 of `values`, rounded."""
    return {name: round(percentile(values, share), 3) for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))}


async def measured(module: str, arguments: dict[str, Any], *, limit_s: float) -> dict[str, Any]:
    """
    What `python -m module '{arguments}'` prints: a measurement in a process of its own, killed after `limit_s`.

    Raises `RuntimeError` with its last words if it fails.
    """
    process = await asyncio.create_subprocess_exec(
        PYTHON, "-m", module, json.dumps(arguments), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(limit_s):
            out, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise RuntimeError(f"{module} failed:\n{errors.decode(errors='replace')[-600:]}")
    result: dict[str, Any] = json.loads(out)
    return result


def free_port(kind: socket.SocketKind) -> int:
    """A port of the loopback that nobody has now."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def udp_bound(port: int) -> bool:
    """Whether somebody listens on this UDP port."""
    with open("/proc/net/udp") as file:
        return any(line.split()[1].endswith(f":{port:04X}") for line in file.readlines()[1:])


@asynccontextmanager
async def running(*command: str, log: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process for the length of a block; ended with SIGTERM, then SIGKILL. Its output goes to `log`."""
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=out
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), 15)
        if process.returncode is None:
            process.kill()
            await process.wait()


async def until_listening(port: int, process: asyncio.subprocess.Process, log: Path, *, udp: bool = False) -> None:
    """Wait until `process` listens on `port`. Raises `RuntimeError` with its output if it never does."""
    loop = asyncio.get_running_loop()
    give_up = loop.time() + READY_LIMIT_S
    while loop.time() < give_up and process.returncode is None:
        if udp_bound(port) if udp else _tcp_open(port):
            return
        await asyncio.sleep(0.02)
    raise RuntimeError(f"nothing listens on port {port}; see {log}:\n{_tail(log)}")


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]


def _tcp_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


PYTHON = sys.executable
