"""
baresip as a phone: a program of its own, without a screen or a sound card, driven over its control port.

    async with Baresip.start(folder) as phone:
        await phone.event("CALL_INCOMING")
        await phone.command("accept")

It speaks a tone into the call, and keeps what it hears.
"""

import array
import asyncio
import itertools
import json
import math
import struct
import wave
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.peers.sipp import HOST, PROBE_S, START_LIMIT_S, free_port_of_both, free_ports, free_tcp_port

MODULES = ("g711", "aufile", "aubridge", "sndfile")
MODULES_FOLDER = "/usr/lib/baresip/modules"  # Debian's
EVENT_LIMIT_S = 10.0
RATE = 8000

CONFIG = """\
poll_method epoll
sip_listen {host}:{port}
net_interface {host}
call_max_calls 4
audio_source aufile,{speech}
audio_player aubridge,heard
audio_alert aubridge,alert
audio_txmode poll
ausrc_srate 8000
auplay_srate 8000
ausrc_channels 1
auplay_channels 1
rtp_ports {media}-{last_media}
module_path {modules}
{loads}
module_tmp account.so
module_app menu.so
module_app ctrl_tcp.so
ctrl_tcp_listen {host}:{control}
snd_path {folder}
"""


@dataclass(eq=False)
class Baresip:
    """A running baresip."""

    folder: Path
    port: int
    process: asyncio.subprocess.Process
    writer: asyncio.StreamWriter
    events: list[dict[str, Any]] = field(default_factory=list)
    """All it told, in order."""
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _answers: dict[str, "asyncio.Future[dict[str, Any]]"] = field(default_factory=dict)
    _tokens: "itertools.count[int]" = field(default_factory=itertools.count)

    @classmethod
    @asynccontextmanager
    async def start(
        cls,
        folder: Path,
        *,
        number: str,
        speaks_hz: int,
        name: str = "baresip",
        encryption: str = "",
        pem: str = "",
        codecs: tuple[str, ...] = ("PCMA", "PCMU"),
    ) -> "AsyncIterator[Baresip]":
        """
        A phone for `number`. The process is ended, by its own id, when the block is left.

        `encryption` is its `mediaenc`: `srtp` takes it where it is offered, `srtp-mand` nothing else. With `pem`,
        a file with a certificate and its key, it is called by TLS, at the port above its own.
        """
        folder = folder / name
        folder.mkdir()
        # It takes the port above its own for TLS.
        port, control, media = free_port_of_both(2), free_tcp_port(), free_ports(20)
        (folder / "config").write_text(
            CONFIG.format(
                host=HOST,
                port=port,
                control=control,
                media=media[0],
                last_media=media[-1],
                speech=write_tone(folder / "speech.wav", hertz=speaks_hz),
                folder=folder,
                modules=MODULES_FOLDER,
                loads="\n".join(f"module {module}.so" for module in (*MODULES, *(["srtp"] if encryption else []))),
            )
        )
        account = f"<sip:{number}@{HOST}:{port}>;regint=0;answermode=manual;audio_codecs="
        account += ",".join(f"{codec}/8000/1" for codec in codecs)
        if pem:
            with (folder / "config").open("a") as config:
                config.write(f"sip_certificate {pem}\n")
            account = account.replace(">", ";transport=tls>")
        if encryption:
            account += f";mediaenc={encryption}"
        (folder / "accounts").write_text(account + "\n")
        (folder / "contacts").write_text("")
        with (folder / "output.txt").open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *("baresip", "-f", str(folder), "-v"),
                cwd=folder,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            reader, writer = await _connect(control, process, folder)
            phone = cls(folder, port, process, writer)
            listening = asyncio.get_running_loop().create_task(phone._listen(reader))
            try:
                yield phone
            finally:
                writer.close()
                await listening
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def command(self, command: str, parameters: str = "") -> str:
        """Let it do something; returns what it says to that."""
        token = str(next(self._tokens))
        answer = self._answers[token] = asyncio.get_running_loop().create_future()
        body = json.dumps({"command": command, "params": parameters, "token": token}).encode()
        self.writer.write(b"%d:%s," % (len(body), body))
        response = await asyncio.wait_for(answer, EVENT_LIMIT_S)
        assert response["ok"], (command, response)
        return str(response["data"])

    async def event(self, kind: str, count: int = 1) -> dict[str, Any]:
        """The `count`-th event of that kind, waited for."""
        async with asyncio.timeout(EVENT_LIMIT_S):
            while len(found := self.told(kind)) < count:
                self._news.clear()
                await self._news.wait()
        return found[count - 1]

    def told(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == kind]

    @property
    def calls(self) -> list[str]:
        """What became of its calls, in its own words: the call's events without those of the media."""
        return [event["type"].removeprefix("CALL_") for event in self.events if event["class"] == "call"]

    @property
    def heard(self) -> Sequence[int]:
        """The samples that it heard since the audio last began, to be read after the call."""
        dump = max(self.folder.glob("dump-*-dec.wav"))  # named by the time
        with wave.open(str(dump), "rb") as file:
            assert (file.getnchannels(), file.getframerate(), file.getsampwidth()) == (1, RATE, 2)
            return array.array("h", file.readframes(file.getnframes()))

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        """Take netstrings of JSON: answers to commands, and events."""
        try:
            while True:
                length = await reader.readuntil(b":")
                message = json.loads((await reader.readexactly(int(length[:-1]) + 1))[:-1])
                if message.get("event"):
                    self.events.append(message)
                    self._news.set()
                else:
                    self._answers.pop(message["token"]).set_result(message)
        except (asyncio.IncompleteReadError, ConnectionError):
            return  # It has ended, or we have.


async def _connect(
    port: int, process: asyncio.subprocess.Process, folder: Path
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    async with asyncio.timeout(START_LIMIT_S):
        while True:
            assert process.returncode is None, (folder / "output.txt").read_text(errors="replace")
            try:
                return await asyncio.open_connection(HOST, port)
            except ConnectionRefusedError:
                await asyncio.sleep(PROBE_S)


def write_tone(path: Path, *, hertz: int, seconds: int = 20) -> Path:
    """A WAV file with a sine, a whole number of periods a second."""
    second = b"".join(struct.pack("<h", int(8000 * math.sin(2 * math.pi * hertz * i / RATE))) for i in range(RATE))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(second * seconds)
    return path
