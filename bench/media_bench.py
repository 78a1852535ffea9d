"""
What the media relay costs: CPU per relayed packet, delay, memory per connection, time to allocate and to join.

`python -m bench.media_bench [CALLS …]` prints one JSON object; a number with an `s` behind it (`200s`) is that of calls
with one encrypted side. Both ends of every call are sockets of this process: one thread sends 20 ms packets on a steady
clock to all of them, another takes what comes out and its delay.
"""

import asyncio
import gc
import json
import os
import select
import socket
import statistics
import struct
import sys
import threading
import time
from typing import Any

from bench.processes import rss_kib
from dosvoces.media import Address, Format, Srtp
from dosvoces.media.relay import MediaSettings, WorkerRelay
from dosvoces.media.srtp import Shield
from dosvoces.model import ConnectionId, Side

PCMA = Format("PCMA", 8, dtmf_payload_type=101)
KEYS = Srtp("AES_CM_128_HMAC_SHA1_80", bytes(range(30)), bytes(range(30, 60)))
THEIRS = Srtp(KEYS.suite, KEYS.remote_key, KEYS.local_key)
PACKET = struct.Struct("!BBHIId152x")  # a header and 160 bytes, the first eight of them when it was sent
PACKET_S = 0.02
SO_TIMESTAMPNS = 35  # <asm-generic/socket.h>; not in the socket module
TALK_S = 8.0
DEFAULT_CALLS = (100, 200, 400)
IDLE_CONNECTIONS = 500

LISTENING_PAUSE_S = 0.002  # receivers of this process aren't woken for each packet: that would be on the worker's bill

End = tuple[socket.socket, tuple[str, int]]


def cpu_s(pid: int) -> float:
    """User and system time of a process of one thread, seconds: finer than the ticks of `processes.cpu_s`."""
    with open(f"/proc/{pid}/schedstat") as file:
        return int(file.read().split()[0]) / 1e9


def new_end() -> socket.socket:
    """A phone's socket for voice, on a free port."""
    end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    end.bind(("127.0.0.1", 0))
    end.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    return end


class Talkers:
    """Both ends of every call: a sender on a steady clock and a receiver."""

    def __init__(self, ends: list[End], shields: dict[int, Shield] | None = None) -> None:
        """`shields`: of the ends that encrypt, by number."""
        self._ends = ends
        self._shields = shields or {}
        self.sent = self.received = 0
        self.delays_ms: list[float] = []
        self._sending = True
        self._receiving = True
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._send, self._receive)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop talking, wait for what is under way, stop listening."""
        self._sending = False
        self._threads[0].join()
        time.sleep(0.3)
        self._receiving = False
        self._threads[1].join()

    def _send(self) -> None:
        # Calls don't talk in step: each 20 ms is cut into slices, and the ends are spread over them.
        slices = 200
        groups = [list(enumerate(self._ends))[i::slices] for i in range(slices)]
        started, turn = time.perf_counter(), 0
        while self._sending:
            due = started + turn * PACKET_S / slices
            wait = due - time.perf_counter()
            if wait > 0:
                time.sleep(wait)
            frame = turn // slices
            for number, (end, to) in groups[turn % slices]:
                packed = PACKET.pack(0x80, 8, frame & 0xFFFF, frame * 160, number + 1, time.time())
                shield = self._shields.get(number)
                end.sendto(packed if shield is None else shield.seal(packed), to)
                self.sent += 1
            turn += 1

    def _receive(self) -> None:
        epoll = select.epoll()
        sockets = {end.fileno(): end for end, _ in self._ends}
        shields = {self._ends[number][0].fileno(): shield for number, shield in self._shields.items()}
        for fd in sockets:
            epoll.register(fd, select.EPOLLIN)
        while self._receiving:
            time.sleep(LISTENING_PAUSE_S)
            for fd, _ in epoll.poll(0, len(sockets)):
                packet, (stamp, *_), _, _ = sockets[fd].recvmsg(2048, 64)
                if fd in shields:
                    packet = shields[fd].open(packet) or b""
                if len(packet) != PACKET.size:
                    continue  # a stranger's: other programs run here too
                self.received += 1
                (sent_at,) = struct.unpack_from("!d", packet, 12)
                seconds, nanoseconds = struct.unpack("qq", stamp[2])  # when the kernel had it, not when we look
                self.delays_ms.append((seconds + nanoseconds / 1e9 - sent_at) * 1000)
        epoll.close()


async def joined(
    relay: WorkerRelay, number: int, sockets: list[socket.socket], *, encrypted: bool = False
) -> tuple[list[End], list[float]]:
    """Set up one call; its ends, and what allocating and joining took (seconds). Side A may encrypt."""
    id = ConnectionId(f"bench-{number:020}")
    began = time.perf_counter()
    ports = await relay.allocate(id, country="ES")
    allocated = time.perf_counter()
    ends: list[End] = []
    for side in Side:
        end = new_end()
        sockets.append(end)
        srtp = KEYS if encrypted and side is Side.A else None
        at = Address("127.0.0.1", end.getsockname()[1])
        # The port above an end's may be another end's: reports go to where nobody is.
        relay.connect(id, side, at, PCMA, srtp=srtp, rtcp_port=1)
        ends.append((end, (ports[side].host, ports[side].port)))
    before_join = time.perf_counter()
    await relay.join(id)
    return ends, [allocated - began, time.perf_counter() - before_join]


async def talk(calls: int, *, encrypted: bool = False) -> dict[str, Any]:
    """So many two-way calls of PCMA for a while, one side of each encrypted or none."""
    relay = WorkerRelay(MediaSettings("127.0.0.1", "127.0.0.1", (20000, 59999)))
    sockets: list[socket.socket] = []
    await relay.start(lambda event: None)
    (pid,) = relay.worker_pids
    made = [await joined(relay, number, sockets, encrypted=encrypted) for number in range(calls)]
    shields = {2 * number: Shield(THEIRS) for number in range(calls)} if encrypted else None
    talkers = Talkers([end for ends, _ in made for end in ends], shields)
    cost = await talking_cost(talkers, pid)
    await relay.close()
    for opened in sockets:
        opened.close()
    return {"calls": calls, "encrypted": encrypted, **cost}


async def talking_cost(talkers: Talkers, pid: int) -> dict[str, Any]:
    """Let them talk for a while through the process `pid`, which has one thread, and say what it cost that."""
    talkers.start()
    await asyncio.sleep(1.0)  # past the first packets
    cpu, sent, began = cpu_s(pid), talkers.sent, time.perf_counter()
    await asyncio.sleep(TALK_S)
    cpu, sent, took = cpu_s(pid) - cpu, talkers.sent - sent, time.perf_counter() - began
    await asyncio.to_thread(talkers.stop)
    delays = statistics.quantiles(talkers.delays_ms, n=100)
    return {
        "packets_per_s": round(sent / took),
        "cpu_us_per_packet": round(cpu / sent * 1e6, 2),
        "cpu_ms_per_s_of_two_way_talk": round(cpu / sent * 100 * 1e3, 3),
        "cores": round(cpu / took, 3),
        "packets_lost": talkers.sent - talkers.received,
        "delay_ms_p50": round(delays[49], 3),
        "delay_ms_p95": round(delays[94], 3),
        "delay_ms_p99": round(delays[98], 3),
    }


async def set_up() -> dict[str, Any]:
    """Memory and time of many connections that say nothing."""
    relay = WorkerRelay(MediaSettings("127.0.0.1", "127.0.0.1", (20000, 59999)))
    sockets: list[socket.socket] = []
    began = time.perf_counter()
    await relay.start(lambda event: None)
    started = time.perf_counter() - began
    (pid,) = relay.worker_pids
    await joined(relay, IDLE_CONNECTIONS, sockets)
    before, own_before, cpu_before = rss_kib(pid), rss_kib(os.getpid()), cpu_s(pid)
    times = [(await joined(relay, number, sockets))[1] for number in range(IDLE_CONNECTIONS)]
    after, own_after, cpu_after = rss_kib(pid), rss_kib(os.getpid()), cpu_s(pid)
    began = time.perf_counter()
    for number in range(IDLE_CONNECTIONS):
        await relay.release(ConnectionId(f"bench-{number:020}"))
    released = (time.perf_counter() - began) / IDLE_CONNECTIONS
    await relay.close()
    for opened in sockets:
        opened.close()
    allocating, joining = (sorted(column) for column in zip(*times, strict=True))
    return {
        "worker_start_ms": round(started * 1000, 1),
        "worker_rss_kb": before,
        "worker_kb_per_connection": round((after - before) / IDLE_CONNECTIONS, 2),
        "server_and_bench_kb_per_connection": round((own_after - own_before) / IDLE_CONNECTIONS, 2),
        "worker_cpu_us_to_set_up": round((cpu_after - cpu_before) / IDLE_CONNECTIONS * 1e6, 1),
        "allocate_us_p50": round(statistics.median(allocating) * 1e6),
        "allocate_us_p95": round(allocating[int(len(allocating) * 0.95)] * 1e6),
        "join_us_p50": round(statistics.median(joining) * 1e6),
        "join_us_p95": round(joining[int(len(joining) * 0.95)] * 1e6),
        "release_us_mean": round(released * 1e6),
    }


async def run(*, calls: list[int], encrypted: list[int] | None = None) -> dict[str, Any]:
    """Set-up and memory, then so many calls talking, one after the other; then so many with one encrypted side."""
    plain = [await talk(number) for number in calls]
    return {"set_up": await set_up(), "talk": plain, "srtp": [await talk(n, encrypted=True) for n in encrypted or []]}


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    gc.disable()
    wanted = sys.argv[1:] if arguments is None else arguments
    encrypted = [int(text[:-1]) for text in wanted if text.endswith("s")]
    calls = [int(text) for text in wanted if not text.endswith("s")] or ([] if encrypted else list(DEFAULT_CALLS))
    print(json.dumps(asyncio.run(run(calls=calls, encrypted=encrypted)), indent=2))


if __name__ == "__main__":
    main()
