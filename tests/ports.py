"""
Ports for one test alone.

Below the range from which the system takes a port when it is asked for any (32768 and up), so that no socket of another
test can be in the way between the look and the use. Suites that run side by side share the range out: each takes a
part of it, which an abstract socket stands for until the process ends.
"""

import random
import socket
from functools import cache

LOWEST, HIGHEST = 10_000, 32_000
PART = 3_100  # ports of one suite: the largest range asked for, that of Asterisk, and what else its test needs
HOST = "127.0.0.1"
PARTS = range(LOWEST, HIGHEST - PART + 1, PART)


def free_range(count: int, *, tcp: bool = False) -> tuple[int, int]:
    """The first and the last of `count` ports in a row that nobody has now for UDP (and TCP); the first is even."""
    part = _part()
    for _ in range(PART):
        low = part.next(count)
        taken = next((port for port in range(low, low + count) if not _free(port, tcp=tcp)), None)
        if taken is None:
            return low, low + count - 1
        part.skip(taken)
    raise AssertionError(f"no {count} ports in a row are free from {part.low} on")


def own_range(count: int) -> tuple[int, int]:
    """As `free_range`, for a program that goes around ports that others hold: it asks for no gap so wide."""
    low = _part().next(count)
    return low, low + count - 1


def free_port() -> int:
    """A port that is free for UDP and TCP."""
    return free_range(1, tcp=True)[0]


class Part:
    """This process's part of the range, given out in order, again from its begin when its end is reached."""

    def __init__(self) -> None:
        for self.low in random.sample(PARTS, len(PARTS)):
            self._holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                self._holder.bind(f"\0dosvoces-tests-ports-{self.low}")
            except OSError:
                self._holder.close()
                continue
            self._given = 0
            return
        raise AssertionError(f"{len(PARTS)} suites run already")

    def next(self, count: int) -> int:
        assert count <= PART
        start = self._given if self._given + count <= PART else 0
        self._given = start + count + count % 2
        return self.low + start

    def skip(self, port: int) -> None:
        """Go on above `port`."""
        self._given = port + 1 - self.low
        self._given += self._given % 2


@cache
def _part() -> Part:
    return Part()


def _free(port: int, *, tcp: bool) -> bool:
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM) if tcp else (socket.SOCK_DGRAM,):
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                return False
    return True
