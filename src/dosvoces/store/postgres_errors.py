"""What PostgreSQL and libpq say, in words with a remedy: by the SQLSTATE where there is one, else by libpq's text."""

import re

import psycopg

from dosvoces.errors import StoreError


class NotReached(psycopg.OperationalError):
    """No connection could be had."""


_BY_STATE: tuple[tuple[str, str, bool], ...] = (
    # Appendix A of PostgreSQL's manual; the longer code first.
    ("25006", "can't be written, its server is read-only: a standby, or default_transaction_read_only is on", False),
    ("28P01", "can't be reached, its user or password is wrong: mend it in [database]", False),
    (
        "28",
        "can't be reached, the server refuses our user: see pg_hba.conf there, and the user in [database] url",
        False,
    ),
    ("3D000", "can't be reached, there is no such database: CREATE DATABASE, or mend [database] url", False),
    ("42501", "is not ours to use: GRANT its user ALL on the database, and on the schema and tables in it", False),
    ("42", "is not as we left it: restore its tables from a copy, or name another database in [database] url", False),
    ("53100", "can't grow, its disk is full: free some space on the server", False),
    ("53300", "can't be reached, its server has no connection left: raise max_connections there, or free some", False),
    ("53", "can't be used, its server is short of memory or disk: look at its log", False),
    ("55P03", "is locked by another session: see pg_stat_activity and pg_locks who holds it", False),
    ("57014", "took too long over a statement: see what its server is busy with", False),
    ("57P", "can't be reached, its server is being stopped or started", False),
    ("58", "can't be read or written, its server's disk reports an error: look at the server's log", False),
    ("XX", "is damaged, says its server: look at the server's log, and restore it from a copy", False),
)
_BY_TEXT: tuple[tuple[str, str], ...] = (
    # libpq gives no code for what goes wrong before a session stands; a server may say it in its own language.
    ("password authentication failed|no password supplied", "28P01"),
    ("no pg_hba.conf entry|role .* does not exist", "28"),
    ("database .* does not exist", "3D000"),
    ("too many clients|connection slots|too many connections", "53300"),
    ("the database system is", "57P"),
    ("permission denied for database", "42501"),
)
_NOT_REACHED = (
    "can't be reached: is its server running, and are host, port, user, database and TLS right in [database] url?"
)
_BROKEN = "has lost its connection to the server: it is tried again"
_UNKNOWN = "can't be used"


def explain(error: BaseException, name: str) -> StoreError:
    """`error` as ours, for the record called `name`."""
    cause = getattr(error, "orig", None) or error
    words, permanent = _meaning(cause)
    return StoreError(f"the record {name} {words} ({_said(cause)})", permanent=permanent)


def _meaning(cause: BaseException) -> tuple[str, bool]:
    state = getattr(cause, "sqlstate", None)
    if state is None and isinstance(cause, psycopg.OperationalError):
        state = next((state for pattern, state in _BY_TEXT if re.search(pattern, str(cause))), None)
        if state is None:
            return (_NOT_REACHED if isinstance(cause, NotReached) else _BROKEN), False
    for start, words, permanent in _BY_STATE:
        if state is not None and state.startswith(start):
            return words, permanent
    return _UNKNOWN, False


def _said(cause: BaseException) -> str:
    """Its own words in one line, without hints and positions."""
    diagnostic = getattr(cause, "diag", None)
    text = (diagnostic.message_primary if diagnostic is not None else None) or str(cause)
    return " ".join(_HINTS.sub("", text).split())


_HINTS = re.compile(
    r"\s(Is the server running|This probably means).*?($|\?|request\.)|connection failed: |consuming input failed: ",
    re.S,
)
"""What libpq adds for who uses it by hand."""
