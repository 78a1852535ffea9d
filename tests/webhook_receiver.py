"""A real HTTP receiver of webhooks on loopback, for tests: notes what it gets, and answers as it is told."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from standardwebhooks import Webhook

from dosvoces.testing import until

HOST = "127.0.0.1"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
LIMIT_S = 20.0


@dataclass(frozen=True)
class Message:
    """One POST as it came."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    at: float
    """The loop's time."""

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def verify(self, secret: str = SECRET) -> Any:
        """What it says, as a receiver by the book reads it. Raises for a wrong signature."""
        return Webhook(secret).verify(self.body, dict(self.headers))


@dataclass(frozen=True)
class Answer:
    """What a receiver says; nothing at all if `status` is `None`."""

    status: int | None = 204
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    endless: bool = False
    """Whether the body never ends."""


@dataclass
class Receiver:
    """Answers by path; each answer of a sequence once, then 204."""

    port: int = 0
    answers: dict[str, Answer | list[Answer]] = field(default_factory=dict)
    received: list[Message] = field(default_factory=list)
    connections: int = 0
    gate: asyncio.Event | None = None
    """If set, each answer waits for it."""

    @classmethod
    @asynccontextmanager
    async def open(
        cls, answers: Mapping[str, Answer | Sequence[Answer]] | None = None, *, port: int = 0
    ) -> AsyncIterator["Receiver"]:
        told = {
            path: answer if isinstance(answer, Answer) else list(answer) for path, answer in (answers or {}).items()
        }
        receiver = cls(answers=told)
        server = await asyncio.start_server(receiver._serve, HOST, port)
        receiver.port = server.sockets[0].getsockname()[1]
        tasks = receiver._tasks
        try:
            yield receiver
        finally:
            server.close()
            for task in list(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def __post_init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def url(self, path: str = "/") -> str:
        return f"http://{HOST}:{self.port}{path}"

    def at(self, path: str) -> list[Message]:
        return [message for message in self.received if message.path == path]

    async def got(self, count: int = 1, *, path: str | None = None) -> list[Message]:
        """So many messages, as soon as they are there."""

        def found() -> list[Message]:
            return self.received if path is None else self.at(path)

        async def enough() -> bool:
            return len(found()) >= count

        await until(enough, limit_s=LIMIT_S)
        return list(found())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.connections += 1
        self._tasks.add(task)
        try:
            while await self._exchange(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        path = head[0].split(" ")[1]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        message = Message(path, headers, body, asyncio.get_running_loop().time())
        self.received.append(message)
        answer = self._answer(path)
        if self.gate is not None:
            await self.gate.wait()
        if answer.status is None:
            await asyncio.Event().wait()
        await _write(writer, answer)
        return True

    def _answer(self, path: str) -> Answer:
        told = self.answers.get(path, Answer())
        if isinstance(told, Answer):
            return told
        return told.pop(0) if told else Answer()


async def _write(writer: asyncio.StreamWriter, answer: Answer) -> None:
    headers = dict(answer.headers)
    if not answer.endless:
        headers["content-length"] = str(len(answer.body))
    lines = [f"HTTP/1.1 {answer.status} Said", *(f"{name}: {value}" for name, value in headers.items())]
    writer.write("\r\n".join([*lines, "", ""]).encode() + answer.body)
    await writer.drain()
    while answer.endless:
        writer.write(b"x" * 65536)
        await writer.drain()
