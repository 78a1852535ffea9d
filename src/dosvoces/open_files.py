"""
How many files this process may have open, and how many connections that carries.

A connection that finds no descriptor for its mail or its media has been recorded and perhaps mailed already; so it is
counted beforehand. Media descriptors are the worker's, which counts its own.
"""

import resource

BESIDE = 48
"""The record, logs, SIP sockets, the workers' control sockets and what libraries hold open."""
PER_CONNECTION = 3
"""The client that waits, the mail that is handed over, and a TCP connection of either's."""


def raise_limit() -> int:
    """Raise this process's limit as far as the system allows (the hard limit), and return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def connections_within(files: int) -> int:
    """How many connections `files` descriptors carry; 0 if there is no room for one."""
    return max(0, (files - BESIDE) // PER_CONNECTION)


def clients_within(files: int, connections: int) -> int:
    """How many HTTP clients there is room for beside what `connections` need for themselves."""
    return max(1, files - BESIDE - connections * (PER_CONNECTION - 1))
