"""
A PostgreSQL server of the tests' own: a private cluster in a temporary folder, on a private port, ended with the tests.

`postgres_url` is a fresh database on a server that all tests share; it is quick, for it never waits for the disk.
`postgres_cluster` is a server of one test alone, which does wait, to be killed, restarted and paused. Debian's package
brings the programs: `requirements/debian.txt`.
"""

import asyncio
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from psycopg import sql

from tests.ports import HOST, free_port

PROGRAMS = Path("/usr/lib/postgresql")
START_LIMIT_S = 60.0
SUPERUSER, USER, PASSWORD = "postgres", "dosvoces", "s3cret/@:word"
URL_PASSWORD = "s3cret%2F%40%3Aword"
SETTINGS = {
    "listen_addresses": HOST,
    "max_connections": "30",
    "shared_buffers": "16MB",
    "max_wal_size": "64MB",
    "log_min_messages": "fatal",
    "lc_messages": "C",
}
QUICK = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class Cluster:
    """One server; of the main thread alone, for it ends with the thread that started it."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.port = free_port()
        self._settings = SETTINGS | settings
        self._server: subprocess.Popen[bytes] | None = None
        self._names = (f"record_{number}" for number in itertools.count())

    @classmethod
    @contextmanager
    def open(cls, **settings: str) -> Iterator["Cluster"]:
        """A new one, running; gone afterwards, with all that was in it."""
        folder = Path(tempfile.mkdtemp(prefix="dosvoces-postgres-"))
        cluster = cls(folder, **settings)
        try:
            cluster._create()
            cluster.start()
            cluster.execute(f"CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'")
            yield cluster
        finally:
            cluster.stop(signal.SIGQUIT)
            shutil.rmtree(folder, ignore_errors=True)

    # --- databases ---

    def new_database(self, options: str = "") -> str:
        """The name of a fresh database that belongs to `USER`."""
        name = next(self._names)
        self.execute(f"CREATE DATABASE {name} OWNER {USER} {options}")
        return name

    def drop_database(self, name: str) -> None:
        self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def url(self, database: str) -> str:
        return f"postgresql://{USER}:{URL_PASSWORD}@{HOST}:{self.port}/{database}"

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run a statement as the superuser, outside of any transaction."""
        with self._connect(database) as connection:
            cursor = connection.execute(sql.SQL(statement))
            return cursor.fetchall() if cursor.description else []

    def _connect(self, database: str) -> "psycopg.Connection[Any]":
        return psycopg.connect(
            host=str(self.folder),
            port=self.port,
            user=SUPERUSER,
            dbname=database,
            autocommit=True,
            connect_timeout=5,
            application_name="dosvoces tests",
        )

    # --- the server ---

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        self.begin()
        limit = time.monotonic() + START_LIMIT_S
        while not self._answers():
            self._check_alive(limit)
            time.sleep(0.02)

    async def started(self) -> None:
        """The same without holding up the loop."""
        self.begin()
        limit = time.monotonic() + START_LIMIT_S
        while not await asyncio.to_thread(self._answers):
            self._check_alive(limit)
            await asyncio.sleep(0.02)

    def begin(self) -> None:
        """Start it."""
        settings = [word for name, value in self._settings.items() for word in ("-c", f"{name}={value}")]
        places = ("-D", str(self._data), "-k", str(self.folder), "-p", str(self.port))
        with self._log.open("ab") as log:
            self._server = subprocess.Popen(
                # The server ends at once when we do, however that happens.
                [*_as_user("--pdeathsig", "QUIT"), _program("postgres"), *places, *settings],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the tests, which end it in their own time.
                cwd="/",
            )

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT ends all sessions first (`-m fast`), SIGQUIT ends at once, for recovery at the next start."""
        server, self._server = self._server, None
        if server is None:
            return
        self.resume(server)
        server.send_signal(how)
        try:
            server.wait(START_LIMIT_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()

    def kill(self) -> None:
        """`kill -9` of all of it at one blow, as when its machine goes."""
        server, self._server = self._server, None
        assert server is not None
        for process in self._processes(server):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        server.wait()

    def kill_backend(self, application: str) -> None:
        """`kill -9` of one session's process: the server throws all others out and recovers."""
        for (pid,) in self.execute(
            f"SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'dosvoces {application}%'"
        ):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def pause(self) -> None:
        """SIGSTOP for every process of it: it still takes connections, by the kernel, and answers nothing."""
        assert self._server is not None
        for process in self._processes(self._server):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGSTOP)

    def resume(self, server: "subprocess.Popen[bytes] | None" = None) -> None:
        """Let it go on."""
        server = server or self._server
        assert server is not None
        for process in self._processes(server):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)

    @staticmethod
    def _processes(server: "subprocess.Popen[bytes]") -> list[int]:
        """The postmaster first: while it stands still, no further one begins."""
        with suppress(psutil.NoSuchProcess):
            return [server.pid, *(child.pid for child in psutil.Process(server.pid).children(recursive=True))]
        return []

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    @property
    def _log(self) -> Path:
        return self.folder / "log"

    def _create(self) -> None:
        if os.geteuid() == 0:
            user = _user()
            os.chown(self.folder, user.pw_uid, user.pw_gid)
        users = (f"--username={SUPERUSER}", "--auth-local=trust", "--auth-host=scram-sha-256")
        how = ("--no-sync", "--encoding=UTF8", "--locale=C.UTF-8")
        made = subprocess.run(
            [*_as_user(), _program("initdb"), f"--pgdata={self._data}", *users, *how],
            capture_output=True,
            text=True,
            cwd="/",
            check=False,
        )
        assert made.returncode == 0, made.stderr

    def _answers(self) -> bool:
        try:
            self.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def _check_alive(self, limit: float) -> None:
        assert self._server is not None
        if self._server.poll() is not None:
            if time.monotonic() < limit and "shared memory block" in self._log.read_text():
                self._log.write_text("")
                self.begin()  # A process of the killed one is still on its way out.
                return
            raise AssertionError(self._log.read_text())
        assert time.monotonic() < limit, self._log.read_text()


def _program(name: str) -> str:
    """Of the newest version that is installed."""
    versions = sorted(PROGRAMS.glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    assert versions, f"PostgreSQL's {name} is missing: requirements/debian.txt names its package"
    return str(versions[-1])


def _user() -> pwd.struct_passwd:
    """Who runs the server when we are root, whom PostgreSQL refuses."""
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


def _as_user(*options: str) -> list[str]:
    if os.geteuid() != 0:
        return ["setpriv", *options] if options else []
    user = _user()
    return ["setpriv", *options, f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]


@pytest.fixture(scope="session")
def shared_cluster() -> Iterator[Cluster]:
    """One server for all tests that leave it as it is."""
    with Cluster.open(**QUICK) as cluster:
        yield cluster


@pytest.fixture
def postgres_url(shared_cluster: Cluster) -> Iterator[str]:
    """A fresh, empty database."""
    name = shared_cluster.new_database()
    yield shared_cluster.url(name)
    shared_cluster.drop_database(name)


@pytest.fixture
def postgres_cluster() -> Iterator[Cluster]:
    """A server for this test alone, which keeps what it confirmed."""
    with Cluster.open() as cluster:
        yield cluster
