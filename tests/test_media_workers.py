"""The worker relay beside its contract: several workers, one killed; sprayed ports; late packets of an ended call."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest

from dosvoces.errors import MediaError
from dosvoces.media import Address, Format, Lost, RelayEvent, Silent, process, rtp
from dosvoces.media.process import how_it_ended
from dosvoces.media.relay import MediaSettings, WorkerRelay
from dosvoces.media.rtp import Packet
from dosvoces.model import ConnectionId, Side
from dosvoces.testing import until
from tests.far_ends import media_ports

HOST, STRANGER_HOST = "127.0.0.1", "127.0.0.2"
PCMA = Format("PCMA", 8, dtmf_payload_type=101)
LIMIT_S = 5.0


class Relay:
    """A started worker relay and what it told, with the time of each event."""

    def __init__(self, relay: WorkerRelay) -> None:
        self.relay = relay
        self.events: asyncio.Queue[tuple[float, RelayEvent]] = asyncio.Queue()

    def heard(self, event: RelayEvent) -> None:
        self.events.put_nowait((asyncio.get_running_loop().time(), event))

    async def event(self) -> tuple[float, RelayEvent]:
        async with asyncio.timeout(LIMIT_S):
            return await self.events.get()

    async def call(self, number: int, sockets: dict[Side, socket.socket]) -> dict[Side, Address]:
        """Connect and join a connection between the sockets; where they send to."""
        at = await self.relay.allocate(connection(number), country="ES")
        for side in Side:
            self.relay.connect(connection(number), side, Address(*sockets[side].getsockname()), PCMA)
        await self.relay.join(connection(number))
        return at


def connection(number: int) -> ConnectionId:
    return ConnectionId(f"{number:026}")


@asynccontextmanager
async def started(settings: MediaSettings) -> AsyncIterator[Relay]:
    relay = Relay(WorkerRelay(settings))
    await relay.relay.start(relay.heard)
    try:
        yield relay
    finally:
        await relay.relay.close()


@contextmanager
def phones() -> Iterator[dict[Side, socket.socket]]:
    """A socket for each side."""
    with bound(HOST) as a, bound(HOST) as b:
        yield {Side.A: a, Side.B: b}


@contextmanager
def bound(host: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as opened:
        opened.bind((host, 0))
        yield opened


def voice(sequence: int, payload: bytes) -> bytes:
    return rtp.build(Packet(8, sequence & 0xFFFF, sequence * 160, 7, payload))


def say(mouth: socket.socket, to: Address, sequence: int, payload: bytes) -> None:
    mouth.sendto(voice(sequence, payload), (to.host, to.port))


async def hear(ear: socket.socket) -> bytes:
    async with asyncio.timeout(LIMIT_S):
        return rtp.parse(await asyncio.get_running_loop().sock_recv(ear, 2048)).payload


def waiting(ear: socket.socket) -> list[bytes]:
    """The payloads that have come by now."""
    found = []
    while True:
        try:
            found.append(rtp.parse(ear.recv(2048)).payload)
        except BlockingIOError:
            return found


# --- several workers ---


async def test_connections_that_come_at_once_are_spread_too() -> None:
    low, high = media_ports()
    async with started(MediaSettings(HOST, HOST, (low, high), workers=4)) as bench:
        numbers = range(8)
        places = await asyncio.gather(*(bench.relay.allocate(connection(n), country="ES") for n in numbers))
        shares = [(place[Side.A].port - low) // 2 % 4 for place in places]
        assert sorted(shares) == [0, 0, 1, 1, 2, 2, 3, 3]
        assert len(set(bench.relay.worker_pids)) == 4


async def test_of_several_workers_a_killed_one_takes_only_its_own_calls_with_it() -> None:
    """Told within a second, and replaced: what comes next finds four workers again."""
    async with started(MediaSettings(HOST, HOST, media_ports(), workers=4)) as bench:
        with phones() as phone, phones() as other:
            at = [await bench.call(number, phone if number else other) for number in range(8)]
            killed = bench.relay.worker_pids[0]
            killed_at = asyncio.get_running_loop().time()
            os.kill(killed, signal.SIGKILL)
            events = [await bench.event() for _ in range(2)]
            why = "the media worker is gone: it was ended by SIGKILL"
            assert [event for _, event in events] == [Lost(connection(number), why) for number in (0, 4)]
            assert max(when for when, _ in events) - killed_at < 1.0
            say(phone[Side.A], at[1][Side.A], 1, b"still here")
            assert await hear(phone[Side.B]) == b"still here"
            async with asyncio.timeout(LIMIT_S):
                while len(bench.relay.worker_pids) < 4:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert killed not in bench.relay.worker_pids
            await bench.call(8, other)
            assert [await bench.relay.release(connection(n)) for n in (0, 4)] == [{}, {}]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "PING_INTERVAL_S", 0.05)
    monkeypatch.setattr(process, "FROZEN_S", 2.0)


@pytest.mark.usefixtures("impatient")
async def test_a_stall_of_our_own_loop_costs_no_worker() -> None:
    async with started(MediaSettings(HOST, HOST, media_ports())) as bench:
        await bench.relay.allocate(connection(0), country="ES")
        before = bench.relay.worker_pids
        time.sleep(2.5)  # noqa: ASYNC251
        await asyncio.sleep(0.1)  # in which it is pinged again
        assert bench.relay.worker_pids == before
        assert bench.events.empty()


@pytest.mark.usefixtures("impatient")
async def test_a_frozen_worker_is_killed_and_told() -> None:
    async with started(MediaSettings(HOST, HOST, media_ports())) as bench:
        await bench.relay.allocate(connection(0), country="ES")
        (pid,) = bench.relay.worker_pids
        os.kill(pid, signal.SIGSTOP)
        _, event = await bench.event()
        assert event == Lost(connection(0), f"the media worker is gone: it was silent for {process.FROZEN_S:g} s")


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (-signal.SIGSEGV, "it was ended by SIGSEGV"),
        (-signal.SIGRTMIN - 1, f"it was ended by signal {signal.SIGRTMIN + 1}"),
        (1, "it ended with status 1"),
        (0, "it ended with status 0"),
    ],
)
def test_the_end_of_a_worker_is_told_by_its_exit_status(code: int, why: str) -> None:
    assert how_it_ended(code) == why


# --- strangers ---


async def test_a_sprayer_over_the_whole_range_reaches_nobody() -> None:
    """RTP bleed: whoever sends to every port, from another host or from the party's own, is heard by no one."""
    low, high = media_ports()
    async with started(MediaSettings(HOST, HOST, (low, high))) as bench:
        with phones() as one, phones() as two, bound(STRANGER_HOST) as stranger, bound(HOST) as neighbour:
            calls = [(phone, await bench.call(n, phone)) for n, phone in enumerate((one, two))]
            for phone, at in calls:
                for side in Side:
                    say(phone[side], at[side], 0, b"mine")
                    assert await hear(phone[side.other]) == b"mine"
            for sequence in range(1, 6):
                for port in range(low, high + 1):
                    for sprayer in (stranger, neighbour):
                        say(sprayer, Address(HOST, port), sequence, b"foreign")
            for phone, at in calls:
                for side in Side:
                    say(phone[side], at[side], 1, b"last")
                    heard = [await hear(phone[side.other]), *waiting(phone[side.other])]
                    assert heard == [b"last"]
            for number in range(2):
                for statistics in (await bench.relay.release(connection(number))).values():
                    assert (statistics.packets_received, statistics.packets_sent) == (2, 2)
                    assert statistics.packets_refused == 10


async def test_before_a_party_was_heard_a_sprayer_of_its_own_host_takes_no_call_over() -> None:
    """A host that carries many parties may send astray; the signalled port still wins as soon as it speaks."""
    async with started(MediaSettings(HOST, HOST, media_ports())) as bench:
        with phones() as phone, bound(HOST) as neighbour:
            at = await bench.call(0, phone)
            for sequence in range(4):
                say(neighbour, at[Side.A], sequence, b"astray")
            say(phone[Side.A], at[Side.A], 100, b"mine")
            say(phone[Side.A], at[Side.A], 101, b"mine")
            while await hear(phone[Side.B]) != b"mine":
                pass
            for sequence in range(4, 20):
                say(neighbour, at[Side.A], sequence, b"astray")
            say(phone[Side.A], at[Side.A], 102, b"last")
            heard = b""
            while heard != b"last":
                heard = await hear(phone[Side.B])
                assert heard != b"astray"


async def test_late_packets_of_an_ended_call_never_reach_the_next_one_on_that_port() -> None:
    low, _ = media_ports()
    settings = MediaSettings(HOST, HOST, (low, low + 3), rest_s=0.3)  # room for one connection
    async with started(settings) as bench:
        with phones() as before, phones() as after:
            old = await bench.call(0, before)
            say(before[Side.A], old[Side.A], 0, b"x")
            await hear(before[Side.B])
            await bench.relay.release(connection(0))
            for sequence in range(1, 50):
                say(before[Side.A], old[Side.A], sequence, b"late")
                say(before[Side.B], old[Side.B], sequence, b"late")
            with pytest.raises(MediaError, match="no media port is free"):
                await bench.relay.allocate(connection(1), country="ES")
            async with asyncio.timeout(LIMIT_S):
                while True:
                    try:
                        new = await bench.call(1, after)
                        break
                    except MediaError:
                        await asyncio.sleep(0.05)
            assert {at.port for at in new.values()} == {at.port for at in old.values()} == {low, low + 2}
            for side in Side:
                say(after[side], new[side], 0, b"new")
                assert [await hear(after[side.other]), *waiting(after[side.other])] == [b"new"]
            assert {s.packets_refused for s in (await bench.relay.release(connection(1))).values()} == {0}


async def test_ports_are_held_ready_so_that_an_allocation_waits_for_nobody() -> None:
    async with started(MediaSettings(HOST, HOST, media_ports())) as bench:
        with phones() as phone:
            await bench.relay.allocate(connection(0), country="ES")
            (pid,) = bench.relay.worker_pids
            os.kill(pid, signal.SIGSTOP)
            try:
                allocating = asyncio.create_task(bench.call(1, phone))
                await asyncio.sleep(0)  # one turn of the loop, in which a frozen worker says nothing
                assert bench.relay.connections == 2
            finally:
                os.kill(pid, signal.SIGCONT)
            at = await allocating
            say(phone[Side.A], at[Side.A], 1, b"hello")
            assert await hear(phone[Side.B]) == b"hello"


# --- silence ---


async def test_a_silent_side_is_told_by_the_worker() -> None:
    async with started(MediaSettings(HOST, HOST, media_ports(), silence_s=0.4)) as bench:
        await bench.relay.allocate(connection(0), country="ES")
        bench.relay.connect(connection(0), Side.A, Address(HOST, 4000), PCMA, sends=False)
        bench.relay.connect(connection(0), Side.B, Address(HOST, 4002), PCMA)
        _, event = await bench.event()
        assert isinstance(event, Silent)
        assert (event.connection_id, event.side) == (connection(0), Side.B)
        assert 0.4 <= event.for_s < 2


async def test_capacity_counts_what_is_open_and_what_rests() -> None:
    low, _ = media_ports()
    settings = MediaSettings(HOST, HOST, (low, low + 11), rest_s=0.3)  # room for three
    async with started(settings) as bench:
        assert bench.relay.capacity() == 3
        for number in (1, 2):
            await bench.relay.allocate(connection(number), country="ES")
        assert bench.relay.capacity() == 3
        await bench.relay.release(connection(1))
        assert bench.relay.capacity() == 2

        async def rested() -> bool:
            return bench.relay.capacity() == 3

        await until(rested, limit_s=LIMIT_S)


async def test_a_worker_that_is_gone_has_no_room() -> None:
    async with started(MediaSettings(HOST, HOST, media_ports())) as bench:
        (pid,) = bench.relay.worker_pids
        await bench.relay.allocate(connection(1), country="ES")
        os.kill(pid, signal.SIGKILL)
        await bench.event()
        assert bench.relay.capacity() == 0


async def test_an_address_of_another_machine_is_told_at_the_start() -> None:
    settings = MediaSettings("192.0.2.1", "192.0.2.1", media_ports())
    with pytest.raises(MediaError, match=r"at 192\.0\.2\.1: Cannot assign.*; \[media\] address must be one of this"):
        async with started(settings):
            raise AssertionError("it has started")
