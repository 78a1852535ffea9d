"""The worker's ports: even, random, resting before they are given again, bounded."""

import socket
from collections.abc import Iterator

import pytest

from dosvoces.errors import MediaError
from dosvoces.media.ports import PortPool

HOST = "127.0.0.1"


def free_even_ports(count: int) -> list[int]:
    """Even ports that, with the one above, nobody has right now."""
    found: list[int] = []
    while len(found) < count:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.bind((HOST, 0))
            port = one.getsockname()[1] & ~1
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as two:
            try:
                two.bind((HOST, port + 1))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found


def bound(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False


@pytest.fixture
def ports() -> list[int]:
    return free_even_ports(4)


@pytest.fixture
def pool(ports: list[int]) -> Iterator[PortPool]:
    pool = PortPool(HOST, ports, rest_s=30.0)
    yield pool
    pool.close()


def test_each_pair_is_an_even_port_and_the_one_above(pool: PortPool, ports: list[int]) -> None:
    pairs = [pool.open(0.0) for _ in ports]
    assert sorted(pair.port for pair in pairs) == sorted(ports)
    for pair in pairs:
        assert [s.getsockname() for s in (pair.rtp, pair.rtcp)] == [(HOST, pair.port), (HOST, pair.port + 1)]
        pair.close()


def test_a_full_range_is_a_clear_error(pool: PortPool, ports: list[int]) -> None:
    pairs = [pool.open(0.0) for _ in ports]
    with pytest.raises(MediaError, match=r"no media port is free .* widen media\.ports"):
        pool.open(0.0)
    for pair in pairs:
        pair.close()


def test_a_port_rests_bound_before_it_is_given_again(pool: PortPool, ports: list[int]) -> None:
    for _ in ports:
        pool.rest(pool.open(0.0), 100.0)
    assert all(bound(port) and bound(port + 1) for port in ports)
    with pytest.raises(MediaError):
        pool.open(129.9)
    pair = pool.open(130.0)
    assert pair.port in ports
    pair.close()


def test_late_packets_of_an_ended_call_reach_nobody(pool: PortPool, ports: list[int]) -> None:
    pair = pool.open(0.0)
    while pair.port != ports[0]:
        pool.rest(pair, 0.0)
        pair = pool.open(0.0)
    pool.rest(pair, 0.0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as late:
        for _ in range(100):
            late.sendto(bytes(172), (HOST, ports[0]))
    pool.wake(30.0)
    again = pool.open(30.0)
    while again.port != ports[0]:
        again.close()
        again = pool.open(30.0)
    with pytest.raises(BlockingIOError):
        again.rtp.recv(2048)
    again.close()


def test_a_port_that_another_program_has_is_passed_over(ports: list[int]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind((HOST, ports[0] + 1))
        pool = PortPool(HOST, ports[:2])
        pair = pool.open(0.0)
        assert pair.port == ports[1]
        with pytest.raises(MediaError):
            pool.open(0.0)
    assert not bound(ports[0]), "the RTP half was given back"
    pair.close()


def test_ports_of_a_worker_that_died_rest_too(pool: PortPool, ports: list[int]) -> None:
    pool.avoid(ports[:3], 0.0)
    pair = pool.open(0.0)
    assert pair.port == ports[3]
    with pytest.raises(MediaError):
        pool.open(29.9)
    pool.wake(30.0)
    assert pool.resting == 0
    pair.close()


def test_an_address_that_isn_t_ours_is_a_clear_error() -> None:
    with pytest.raises(MediaError, match=r"can't open UDP port 20000 of 192\.0\.2\.1"):
        PortPool("192.0.2.1", [20000]).open(0.0)
