"""
The least that a relay in Python does: `epoll`, `recvfrom_into`, `sendto`; no check, no continuity, no statistics.

`python -m bench.bare_relay '[[port of A's end, port of B's end], …]'` prints its own ports in the same order, one line
of JSON, and relays until its standard input ends. Packets gather for a millisecond, as at the media worker.
"""

import json
import select
import socket
import sys
import time

GATHER_S = 0.001
MAX_EVENTS = 512


def relay(ends: list[list[int]]) -> None:
    """Relay between each pair of ports of the loopback."""
    epoll = select.epoll()
    epoll.register(sys.stdin.fileno(), select.EPOLLIN | select.EPOLLHUP)
    paths: dict[int, tuple[socket.socket, socket.socket, tuple[str, int]]] = {}
    ports = []
    for a_port, b_port in ends:
        a, b = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) for _ in range(2))
        for one, other, towards in ((a, b, b_port), (b, a, a_port)):
            one.bind(("127.0.0.1", 0))
            epoll.register(one.fileno(), select.EPOLLIN)
            paths[one.fileno()] = (one, other, ("127.0.0.1", towards))
        ports.append([a.getsockname()[1], b.getsockname()[1]])
    print(json.dumps(ports), flush=True)
    packet = bytearray(2048)
    view = memoryview(packet)
    while True:
        ready = epoll.poll(-1, MAX_EVENTS)
        for fd, _ in ready:
            if fd == sys.stdin.fileno():
                return
            one, other, to = paths[fd]
            length, _source = one.recvfrom_into(packet)
            other.sendto(view[:length], to)
        time.sleep(GATHER_S)


if __name__ == "__main__":
    relay(json.loads(sys.argv[1]))
