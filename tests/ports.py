"""
Ports for one test alone.

Below the range from which the system takes a port when it is asked for any (32768 and up), so that no socket of another
test, or of another suite beside it, can be in the way between the look and the use.
"""

import random
import socket

LOWEST, HIGHEST = 10_000, 32_000
HOST = "127.0.0.1"


def free_range(count: int) -> tuple[int, int]:
    """The first and the last of `count` UDP ports in a row that nobody has now; the first is even."""
    while True:
        low = random.randrange(LOWEST, HIGHEST - count, 2)
        if all(_free(port) for port in range(low, low + count)):
            return low, low + count - 1


def _free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True
