"""Where the record is, as `[database] url` says it: read strictly, shown without its password. Opens nothing."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dosvoces.errors import SettingsError

EXAMPLES = "sqlite:///dosvoces.db, or postgresql://user:password@host/database"
_POSTGRES = re.compile(r"(postgresql|postgres|postgresql\+psycopg)://")


@dataclass(frozen=True, slots=True)
class SqliteAddress:
    """A file of this machine."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True, slots=True)
class PostgresAddress:
    """A database of a PostgreSQL server."""

    parameters: Mapping[str, str]
    """As libpq names them: `host`, `port`, `dbname`, `user`, `password`, `sslmode` …"""

    def __str__(self) -> str:
        """For people, without the password; what isn't said comes from libpq's own environment."""
        said = self.parameters
        user = f"{said['user']}@" if "user" in said else ""
        port = f":{said['port']}" if "port" in said else ""
        return f"postgresql://{user}{said.get('host', '')}{port}/{said.get('dbname', '')}"


def parse_database_url(url: str) -> SqliteAddress | PostgresAddress:
    """What `url` names. Raises `SettingsError`, whose text has no password in it."""
    if url.startswith("sqlite:"):
        return _sqlite(url)
    if scheme := _POSTGRES.match(url):
        return _postgres("postgresql://" + url[scheme.end() :])
    kind = re.match(r"[a-z0-9+]+(?=://)", url)
    said = f"begins with {kind[0]}://" if kind else "is no database URL"
    raise SettingsError(f"[database] url {said}: write it as {EXAMPLES}")


def _sqlite(url: str) -> SqliteAddress:
    path = url.removeprefix("sqlite:///")
    if path == url or path in ("", ":memory:"):
        raise SettingsError(
            "[database] url names no file (a record in memory would be lost): write it with three slashes and the "
            "file's name, sqlite:///dosvoces.db"
        )
    if "?" in path:
        raise SettingsError("[database] url: what follows the ? is not supported; leave it out")
    return SqliteAddress(Path(path))


def _postgres(url: str) -> PostgresAddress:
    # Loaded only where it is used: it takes a tenth of a second.
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    try:
        parameters = conninfo_to_dict(url)
    except ProgrammingError as error:
        # libpq quotes what it stumbles over, which is a piece of the password when that has an @ or / in it.
        unknown = re.search(r'invalid URI query parameter: "(\w+)"', str(error))
        raise _unreadable(f"libpq knows no option {unknown[1]}" if unknown else "it can't be read") from None
    port = str(parameters.get("port") or "")
    if "@" in str(parameters.get("host")) or not re.fullmatch(r"\d*(,\d*)*", port):
        raise _unreadable("it can't be read")
    if not parameters.get("dbname"):
        raise SettingsError("[database] url names no database: write it as postgresql://user:password@host/database")
    return PostgresAddress({name: str(value) for name, value in parameters.items() if value is not None})


def _unreadable(why: str) -> SettingsError:
    return SettingsError(
        f"[database] url: {why}; write it as postgresql://user:password@host:5432/database?sslmode=verify-full, "
        "with %40 for @, %2F for / and %3A for : in the password"
    )
