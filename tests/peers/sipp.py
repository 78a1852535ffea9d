"""
SIPp as a phone: one process that plays a scenario of `scenarios/`, and what it saw, message by message.

    async with SippPhone.start(folder, "reject", status="486 Busy Here") as phone:
        ...  # sip:127.0.0.1:{phone.port}
        await phone.finished()

`@name@` in a scenario is replaced by the text given for it; a line that only has a text which is empty goes away.
"""

import asyncio
import re
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path

from tests.ports import free_range

SCENARIOS = Path(__file__).parent / "scenarios"
HOST = "127.0.0.1"
PROBE_S = 0.005  # how often a process that can't tell is asked whether it is ready
START_LIMIT_S = 10.0
FINISH_LIMIT_S = 10.0
NO_CALLS = 99  # SIPp's exit code when it was stopped with no call failed

TEXTS: dict[str, str | int] = {
    "ring_ms": 50,
    "talk_ms": 300,
    "silent_ms": 1500,
    "contact_parameters": "",
    "record_route": "",
    "read_second_via": "",
    "second_via": "",
    "reason": "",
    "headers": "",
    "expires": 2,
    "refresher": "uac",
    "allow": "INVITE, ACK, BYE, CANCEL, UPDATE",
    "refresh_ms": 700,
}
"""What a scenario says where the test says nothing."""


@dataclass(frozen=True)
class SipMessage:
    """One message as SIPp logged it."""

    at: float
    """Seconds since the epoch."""
    sent: bool
    """By SIPp; else received by it."""
    text: str

    @property
    def first_line(self) -> str:
        return self.text.partition("\r\n")[0]

    @property
    def status(self) -> int | None:
        """`None` for a request."""
        return int(self.first_line.split(" ")[1]) if self.first_line.startswith("SIP/2.0 ") else None

    @cached_property
    def headers(self) -> list[tuple[str, str]]:
        head = self.text.partition("\r\n\r\n")[0].split("\r\n")[1:]
        return [(name.strip().lower(), value.strip()) for name, _, value in (line.partition(":") for line in head)]

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name.lower()]

    def header(self, name: str) -> str:
        """The first header of that name, empty if there is none."""
        return next(iter(self.all(name)), "")

    @property
    def method(self) -> str:
        """The CSeq's: also an answer has one."""
        return self.header("CSeq").split(" ")[-1]

    @property
    def cseq(self) -> int:
        return int(self.header("CSeq").split(" ")[0])

    @property
    def call_id(self) -> str:
        return self.header("Call-ID")

    @property
    def branch(self) -> str:
        return _parameter(self.header("Via"), "branch")

    @property
    def to_tag(self) -> str:
        return _parameter(self.header("To"), "tag")

    @property
    def from_tag(self) -> str:
        return _parameter(self.header("From"), "tag")

    @property
    def body(self) -> str:
        return self.text.partition("\r\n\r\n")[2]

    def __str__(self) -> str:
        return f"{'→' if self.sent else '←'} {self.first_line}"


def _parameter(value: str, name: str) -> str:
    match = re.search(rf";\s*{name}=([^;,\s>]+)", value)
    return match[1] if match else ""


_LOST = r"UDP message (?:lost \(recv\)|voluntary lost \(while sending\))\."
_HEAD = re.compile(rf"(?:{_LOST})*-{{47}} \d{{4}}-\d\d-\d\d\s\d\d:\d\d:\d\d\.\d+$")
_LOGGED = re.compile(
    rf"(?:{_LOST})*"
    r"-{47} (?P<day>\d{4}-\d\d-\d\d)\s(?P<clock>\d\d:\d\d:\d\d\.\d+)\n"
    r"UDP message (?P<way>sent|received) [(\[]\d+\]? bytes\)? ?:\n\n"
)


def read_messages(log: Path) -> list[SipMessage]:
    """
    All that SIPp sent and received, in order.

    Of what it loses on purpose (`lost="100"`, `-lost`), what it didn't send isn't among it, what came and was then
    thrown away is.
    """
    return list(stream_messages(log)) if log.exists() else []


def stream_messages(log: Path) -> Iterator[SipMessage]:
    """The same one by one, from a log of any length."""
    with log.open(encoding="utf-8", errors="replace", newline="") as text:
        yield from _messages(text)


def _messages(lines: Iterable[str]) -> Iterator[SipMessage]:
    """Each begins with a line of its own, which tells when it was, and two more."""
    rest = ""
    for line in lines:
        if head := _HEAD.search(line):
            yield from _logged(rest + line[: head.start()])
            rest = line[head.start() :]
        else:
            rest += line
    yield from _logged(rest)


def _logged(text: str) -> Iterator[SipMessage]:
    found = _LOGGED.search(text)
    if found:
        yield SipMessage(
            at=datetime.fromisoformat(f"{found['day']} {found['clock']}").timestamp(),
            sent=found["way"] == "sent",
            text=_as_sent(text[found.end() :]),
        )


def _as_sent(logged: str) -> str:
    return re.sub(r"\r?\n", "\r\n", logged)


@dataclass(frozen=True, slots=True)
class AudioFigures:
    """SIPp's own figures of its RTP."""

    streamed: int
    """Packets sent by `rtp_stream`."""
    echoed: int
    """Packets received and sent back by `-rtp_echo`."""


@dataclass(eq=False)
class SippPhone:
    """A running SIPp."""

    name: str
    scenario: str
    folder: Path
    port: int
    calls: int
    """How many it expects; 0 where the test says that nobody rings here."""
    or_fewer: bool
    """Whether some of them may never come."""
    process: asyncio.subprocess.Process
    unplugged: bool = False
    """Whether the test ended it."""
    over: "asyncio.Task[int]" = field(init=False)

    def __post_init__(self) -> None:
        self.over = asyncio.get_running_loop().create_task(self.process.wait())

    @classmethod
    @asynccontextmanager
    async def start(
        cls,
        folder: Path,
        scenario: str,
        *,
        name: str = "phone",
        calls: int = 1,
        or_fewer: bool = False,
        options: tuple[str, ...] = (),
        **texts: str | int,
    ) -> "AsyncIterator[SippPhone]":
        """Play `scenario` for `calls` calls. The process is ended, by its own id, when the block is left."""
        folder = folder / name
        folder.mkdir()
        port, media = free_ports(1)[0], free_ports(4)[0]
        source = folder / f"{scenario}.xml"
        source.write_text(fill_in((SCENARIOS / source.name).read_text(), {**TEXTS, **texts}))
        with (folder / "output.txt").open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *("sipp", "-sf", source.name, "-i", HOST, "-p", str(port), "-mi", HOST, "-mp", str(media)),
                *("-m", str(max(calls, 1)), "-nostdin", "-default_behaviors", "all,-bye"),
                *("-trace_msg", "-message_file", "messages.log", "-trace_err", "-error_file", "errors.log"),
                *("-trace_screen", "-screen_file", "screen.log"),
                *options,
                cwd=folder,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        phone = cls(name, scenario, folder, port, calls, or_fewer, process)
        try:
            await phone._listening()
            yield phone
        finally:
            if process.returncode is None:
                process.kill()
            await phone.over

    async def _listening(self) -> None:
        async with asyncio.timeout(START_LIMIT_S):
            while not udp_port_taken(self.port):
                assert self.process.returncode is None, f"SIPp ended at once: {self.complaints}"
                await asyncio.sleep(PROBE_S)

    async def unplug(self) -> None:
        """End it: nobody listens at its port any more."""
        self.unplugged = True
        self.process.kill()
        await self.over

    async def finished(self, limit_s: float = FINISH_LIMIT_S) -> None:
        """Wait until every call was played to its end, as the scenario says it must go."""
        if self.calls == 0:
            assert self.messages == [], self.transcript
            return
        if self.or_fewer and self.process.returncode is None:
            self.process.send_signal(signal.SIGUSR1)  # no new calls: it ends when those it has are over
        try:
            code = await asyncio.wait_for(asyncio.shield(self.over), limit_s)
        except TimeoutError:
            raise AssertionError(f"{self.name} ({self.scenario}) waits for more\n{self.transcript}") from None
        allowed = (0, NO_CALLS) if self.or_fewer else (0,)
        assert code in allowed, f"{self.name} ({self.scenario}) ended with {code}\n{self.transcript}\n{self.complaints}"

    @property
    def messages(self) -> list[SipMessage]:
        return read_messages(self.folder / "messages.log")

    @property
    def lost(self) -> int:
        """How many messages it lost on purpose, either way."""
        return len(re.findall(_LOST, (self.folder / "messages.log").read_text(errors="replace")))

    def received(self, method: str) -> list[SipMessage]:
        """Requests of that method, repeats included."""
        return [m for m in self.messages if not m.sent and m.status is None and m.method == method]

    def sent(self, method: str) -> list[SipMessage]:
        """Requests of that method, repeats included."""
        return [m for m in self.messages if m.sent and m.status is None and m.method == method]

    @property
    def transcript(self) -> str:
        return "\n".join(f"  {m.at % 60:9.6f} {m}" for m in self.messages)

    @property
    def complaints(self) -> str:
        """What SIPp itself found wrong."""
        logs = [self.folder / "errors.log", self.folder / "output.txt"]
        return "\n".join(log.read_text(errors="replace")[:2000] for log in logs if log.exists())

    def note_audio(self) -> None:
        """Let the running SIPp write its RTP figures (SIGUSR2); they can be read when it has finished."""
        self.process.send_signal(signal.SIGUSR2)

    @property
    def audio(self) -> AudioFigures:
        """As they were at `note_audio`."""
        shown = (self.folder / "screen.log").read_text()

        def figure(name: str) -> int:
            return max((int(number) for number in re.findall(rf"(\d+) {name}", shown)), default=0)

        return AudioFigures(streamed=figure("Total RTP pckts sent"), echoed=figure("Total echo RTP pckts 1st stream"))


def fill_in(scenario: str, texts: dict[str, str | int]) -> str:
    """`scenario` with `@name@` replaced. Raises `KeyError` for a name without text."""

    def line(match: re.Match[str]) -> str:
        text = str(texts[match[1]])
        return f"{text}\n" if text else ""

    scenario = re.sub(r"^@(\w+)@\n", line, scenario, flags=re.MULTILINE)
    return re.sub(r"@(\w+)@", lambda match: str(texts[match[1]]), scenario)


def udp_ports() -> set[int]:
    """The UDP ports that are bound on this machine."""
    ports = set()
    for table in ("/proc/net/udp", "/proc/net/udp6"):
        rows = Path(table).read_text().splitlines()[1:] if Path(table).exists() else []
        ports |= {int(row.split()[1].rpartition(":")[2], 16) for row in rows}
    return ports


def udp_port_taken(port: int) -> bool:
    return port in udp_ports()


def free_ports(count: int) -> list[int]:
    """`count` free UDP ports in a row, the first of them even."""
    low, high = free_range(count)
    return list(range(low, high + 1))


def free_port_of_both(count: int = 1) -> int:
    """The first of `count` ports in a row that are free for UDP and for TCP."""
    return free_range(count, tcp=True)[0]


def free_tcp_port() -> int:
    return free_port_of_both()


async def until(true: Callable[[], bool], what: str, limit_s: float = 5.0) -> None:
    """Wait for something that nobody tells: asked again and again, not for ever."""
    end = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < end, f"never came: {what}"
        await asyncio.sleep(PROBE_S)
