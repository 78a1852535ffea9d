"""
One media worker process as seen from the server: started, spoken to, watched, ended.

It knows the wire and nothing of connections; `relay.py` does.
"""

import asyncio
import itertools
import logging
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

from dosvoces.errors import MediaError
from dosvoces.media.wire import MAX_MESSAGE, Message, decode, encode

START_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 2.0  # for one question; it takes a fifth of a millisecond
PING_INTERVAL_S = 1.0
FROZEN_S = 5.0  # a worker that leaves pings unanswered for so long is killed: its calls are dead, and should be told
STOP_TIMEOUT_S = 2.0  # from the end of its socket until it is killed
STATUS_TIMEOUT_S = 0.5  # from the end of its socket to its exit status; it takes a millisecond
MAX_UNSENT = 10_000  # messages; a worker that lets so many wait is killed
MAX_READS = 64  # messages taken in one turn of the loop

_log = logging.getLogger(__name__)


class WorkerProcess:
    """
    A running worker. Made by `start`; `ended` is called once, from the loop, as soon as it is gone or given up.
    """

    def __init__(self, heard: Callable[[Message], None], ended: Callable[[str], None]) -> None:
        self._heard = heard
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._process: asyncio.subprocess.Process | None = None
        self._socket: socket.socket | None = None
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Message]] = {}
        self._unsent: deque[bytes] = deque()
        self._scheduled = False
        self._blocked = False  # the worker doesn't read; `_write` goes on when it does
        self._watch: asyncio.TimerHandle | None = None
        self._unanswered_pings = 0
        """Sent since it was last heard."""
        self._ending: asyncio.Task[None] | None = None  # from the end of its socket until that is told
        self._ready: asyncio.Future[int] = self._loop.create_future()
        self.most = 0
        """Connections that it has ports and descriptors for, resting ones included; known once it is ready."""

    @property
    def pid(self) -> int:
        """Of the process; 0 before it started."""
        return self._process.pid if self._process else 0

    async def start(self, *settings: object) -> None:
        """Start the process and wait until it is ready. Raises `MediaError`."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._socket = ours
        with theirs:
            spawning = asyncio.create_task(
                asyncio.create_subprocess_exec(
                    *(sys.executable, "-P", "-m", "dosvoces.media.worker", str(theirs.fileno())),
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                )
            )
            try:
                self._process = await asyncio.shield(spawning)
            except OSError as error:
                self._close_socket()
                raise MediaError(f"can't start the media worker: {error}") from error
            except asyncio.CancelledError:
                self._process = await spawning  # or nobody would wait for it
                await self.stop()
                raise
        self._loop.add_reader(ours.fileno(), self._read)
        self.send("start", *settings)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                self.most = await self._ready
        except (TimeoutError, MediaError) as error:
            await self.stop()
            raise MediaError("the media worker did not get ready; its reason is on the standard error") from error
        except asyncio.CancelledError:
            await self.stop()
            raise
        self._unanswered_pings = 0
        self._watch = self._loop.call_later(PING_INTERVAL_S, self._ping)

    def send(self, *message: object) -> None:
        """Say something; never waits. To a worker that is gone it does nothing."""
        if self._socket is None:
            return
        self._queue(*message)
        if not self._scheduled:
            # Two turns of the loop, not one: a question by a task that wakes in this turn takes it along.
            self._scheduled = True
            self._loop.call_soon(self._loop.call_soon, self._write_soon)

    def send_later(self, *message: object) -> None:
        """Say something along with whatever is said next, within a second at most: waking the worker costs more."""
        if self._socket is not None:
            self._queue(*message)

    async def ask(self, name: str, *arguments: object) -> Message:
        """Send a command that is answered, and return what came. Raises `MediaError`."""
        if self._socket is None:
            raise MediaError("the media worker is gone")
        number = next(self._numbers)
        answer = self._answers[number] = self._loop.create_future()
        self._queue(name, number, *arguments)
        self._write()  # Somebody waits.
        limit = self._loop.call_later(ANSWER_TIMEOUT_S, self._unanswered, answer, name)
        try:
            result: Message = await answer
            return result
        finally:
            limit.cancel()
            self._answers.pop(number, None)

    def _unanswered(self, answer: asyncio.Future[Message], name: str) -> None:
        if not answer.done():
            why = f"the media worker did not answer {name!r} within {ANSWER_TIMEOUT_S:g} s"
            answer.set_exception(MediaError(why))

    def kill(self) -> None:
        """End the process at once; `ended` follows."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def stop(self) -> None:
        """End it without `ended`, and return when it is gone. Idempotent."""
        self._ended = _nobody
        self._close_socket()
        self._fail_all("the media relay is closed")
        if self._process is None:
            return
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self._process.wait()
        except TimeoutError:
            self.kill()
            await self._process.wait()
        if self._ending is not None:
            await asyncio.wait([self._ending])

    def _read(self) -> None:
        for _ in range(MAX_READS):
            if self._socket is None:
                return
            try:
                data = self._socket.recv(MAX_MESSAGE)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._close_socket()
                self._ending = self._loop.create_task(self._tell_end())
                return
            self._unanswered_pings = 0
            for message in decode(data):
                self._take(message)

    def _take(self, message: Message) -> None:
        match message:
            case ["done", int(number), *result]:
                if (answer := self._answers.get(number)) and not answer.done():
                    answer.set_result(result)
            case ["failed", int(number), str(why)]:
                if (answer := self._answers.get(number)) and not answer.done():
                    answer.set_exception(MediaError(why))
            case ["ready", int(most)]:
                if not self._ready.done():
                    self._ready.set_result(most)
            case ["trouble", str(text)]:
                _log.error("the media worker met a fault of its own:\n%s", text)
            case _:
                self._heard(message)

    def _queue(self, *message: object) -> None:
        self._unsent.append(encode(*message))
        if len(self._unsent) > MAX_UNSENT:
            self._give_up("it took no more commands")

    def _write_soon(self) -> None:
        self._scheduled = False
        self._write()

    def _write(self) -> None:
        if self._socket is None:
            return
        while self._unsent:
            data = self._unsent.popleft()
            while self._unsent and len(data) + len(self._unsent[0]) < MAX_MESSAGE:
                data += b"\n" + self._unsent.popleft()
            try:
                self._socket.send(data)
            except BlockingIOError:
                self._unsent.appendleft(data)
                self._blocked = True
                self._loop.add_writer(self._socket.fileno(), self._write)
                return
            except OSError:
                return  # it is gone; reading tells
        if self._blocked:
            self._blocked = False
            self._loop.remove_writer(self._socket.fileno())

    def _ping(self) -> None:
        # Not by the clock: while our own loop stands still nobody is asked, and no answer is read.
        if self._unanswered_pings * PING_INTERVAL_S >= FROZEN_S:
            self._give_up(f"it was silent for {FROZEN_S:g} s")
            return
        self.send("ping", 0)
        self._unanswered_pings += 1
        self._watch = self._loop.call_later(PING_INTERVAL_S, self._ping)

    def _give_up(self, why: str) -> None:
        self.kill()
        self._gone(why)

    async def _tell_end(self) -> None:
        """The socket ends before the process does, whose exit status says why."""
        assert self._process is not None, "it was heard"
        try:
            async with asyncio.timeout(STATUS_TIMEOUT_S):
                code = await self._process.wait()
        except TimeoutError:
            self._give_up("it closed its socket")
        else:
            self._gone(how_it_ended(code))

    def _gone(self, why: str) -> None:
        self._close_socket()
        self._fail_all(f"the media worker is gone: {why}")
        ended, self._ended = self._ended, _nobody
        ended(why)

    def _fail_all(self, why: str) -> None:
        waiting: list[asyncio.Future[Any]] = [self._ready, *self._answers.values()]
        for answer in waiting:
            if not answer.done():
                answer.set_exception(MediaError(why))
        self._ready.exception()  # if nobody waits for it, that is no fault

    def _close_socket(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._loop.remove_writer(self._socket.fileno())
            self._socket.close()
            self._socket = None


def how_it_ended(code: int) -> str:
    """A process's return code in words; below 0 it is a signal's number."""
    if code >= 0:
        return f"it ended with status {code}"
    try:
        return f"it was ended by {signal.Signals(-code).name}"
    except ValueError:  # Most real-time signals have no name.
        return f"it was ended by signal {-code}"


def _nobody(why: str) -> None:
    """Whom a worker tells that was stopped by us."""
