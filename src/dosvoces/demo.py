"""
`dosvoces demo`: the main job on embedded parts, and the proof that it was done.

The service itself, on free ports and a folder of its own; a trial phone that stands for both parties at the far end of
a trunk on loopback; the embedded inbox. The request goes to the real HTTP port, the calls are real SIP and RTP.
Nothing is left behind.
"""

import asyncio
import json
import sys
import tempfile
import textwrap
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.text import Text

from dosvoces import telemetry, timeline
from dosvoces.app import Service
from dosvoces.client import Answer, post_call
from dosvoces.model import ConnectionId, Side
from dosvoces.phone import Heard, Phone, PhoneBehaviour, PhoneCall, PhoneEvent, PhoneEventKind, Window
from dosvoces.settings import Log, Settings
from dosvoces.store import ConnectionRecord, KeptMail, Store

REQUEST: dict[str, object] = {
    "firstnumber": "+34222222222",
    "secondnumber": "+34111111111",
    "email": "artur.temporal@milmoh.com",
    "nombre_propiedad": "Propriedad",
    "nombre_comercializador": "Comercializador",
    "url_anuncio": "milmoh.com",
    "ciudad_propiedad": "Valencia",
    "m2_vivienda": "123",
    "precio_vivienda": "456",
    "call_interval": 3,
}
"""The contract's own example (`contract/call.md`), its interval of 15 s shortened."""

NUMBERS = {Side.A: "+34222222222", Side.B: "+34111111111"}
TONES_HZ = {Side.A: 440, Side.B: 1000}  # apart from each other and from the ringing tone
RINGING_HZ = 425  # Spain's, ITU-T E.180
TALK_S = 3.0
LIMIT_S = 45.0  # for all of it: the mail, both calls and the talk take ten
SETTLE_LIMIT_S = 10.0
MIN_HEARD_S = 1.0
MIN_APART_DB = 30.0  # a phone's own tone is at least so far below the other's: no echo


def behaviour(number: str) -> PhoneBehaviour:
    """One phone stands for both parties: it behaves as the number called would."""
    listen = (RINGING_HZ, *TONES_HZ.values())
    if number.endswith(NUMBERS[Side.A][-9:]):
        return PhoneBehaviour(answer_after_s=1.0, tone_hz=TONES_HZ[Side.A], listen_hz=listen)
    return PhoneBehaviour(answer_after_s=2.0, tone_hz=TONES_HZ[Side.B], listen_hz=listen, hangup_after_s=TALK_S)


def side_of(call: PhoneCall) -> Side:
    return Side.A if call.number.endswith(NUMBERS[Side.A][-9:]) else Side.B


# --- the verdict, pure ---


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one party heard, and whether that is right."""

    side: Side
    ringing_s: float
    """How long it heard the ringing tone."""
    other_s: float
    """How long it heard the other's tone."""
    other_dbm0: float | None
    own_dbm0: float | None
    """The level of its own tone while it heard the other's: an echo, if it were any."""
    own_s: float
    """How long it heard its own tone: never, if all is well."""

    @property
    def good(self) -> bool:
        """It heard the other and not itself."""
        if self.other_dbm0 is None or self.own_dbm0 is None:
            return False
        return self.other_s >= MIN_HEARD_S and self.own_s == 0 and self.other_dbm0 - self.own_dbm0 >= MIN_APART_DB


def judge(side: Side, heard: Heard) -> Verdict:
    """Measure what a party heard against what it should have heard."""
    own, other = TONES_HZ[side], TONES_HZ[side.other]

    def where(frequency_hz: int) -> list[Window]:
        return [window for window in heard.windows if heard.dominant((window,)) == frequency_hz]

    talk = where(other)
    return Verdict(
        side=side,
        ringing_s=len(where(RINGING_HZ)) * heard.window_s,
        other_s=len(talk) * heard.window_s,
        other_dbm0=heard.level_dbm0(other, talk) if talk else None,
        own_dbm0=heard.level_dbm0(own, talk) if talk else None,
        own_s=len(where(own)) * heard.window_s,
    )


# --- the run ---


@dataclass
class _Progress:
    """Watches the phones, and tells of it as it happens."""

    console: Console
    began_at: float = 0.0
    over: asyncio.Event = field(default_factory=asyncio.Event)
    ended: int = 0

    def happened(self, event: PhoneEvent) -> None:
        if event.kind is PhoneEventKind.ENDED:
            self.ended += 1
            if self.ended == len(Side):
                self.over.set()
        self.tell(f"{side_of(event.call).name}'s phone", event.text)

    def tell(self, who: str, what: str) -> None:
        at = asyncio.get_running_loop().time() - self.began_at
        self.console.print(Text.assemble((f"  {at:6.2f} s  ", "dim"), (f"{who:<10}", "bold"), what))


@dataclass(frozen=True, slots=True)
class _Outcome:
    answer: Answer
    record: ConnectionRecord | None
    verdicts: list[Verdict]
    heard: dict[Side, str]


async def run_demo(*, stay: bool) -> int:
    """Run it and print it; returns the exit status. With `stay` the service goes on until Enter or Ctrl-C."""
    console = Console(highlight=False, soft_wrap=True)
    telemetry.configure(Log(level="warning"))
    with tempfile.TemporaryDirectory(prefix="dosvoces-demo-") as folder:
        progress = _Progress(console)
        async with Phone.open(behaviour, on_event=progress.happened) as phone:
            async with Service.open(settings_for(Path(folder), phone.address)) as service:
                _heading(console, "One POST: a mail, two calls, joined")
                _introduce(console, service.http_url, phone.address)
                outcome = await _connect(service, phone, progress)
                passed = await _prove(console, service.store, outcome)
                if stay:
                    await _linger(console, service.http_url, Path(folder))
    return 0 if passed else 1


def settings_for(folder: Path, trunk: tuple[str, int]) -> Settings:
    """Loopback, free ports, everything in `folder`, one trunk."""
    host, port = trunk
    return Settings.model_validate(
        {
            "http": {"port": 0},
            "database": {"url": f"sqlite:///{folder}/dosvoces.db"},
            "sip": {"bind": "127.0.0.1:0"},
            "trunks": [{"name": "demo", "proxy": f"sip:{host}:{port}", "caller_id": "+34910000000"}],
        }
    )


def _introduce(console: Console, url: str, phone: tuple[str, int]) -> None:
    console.print(f"  service   {url}, with the inbox for mails and SQLite for the record")
    for side, number in NUMBERS.items():
        console.print(f"  phone {side.name}   {number}, plays {TONES_HZ[side]} Hz, at sip:{phone[0]}:{phone[1]}")
    console.print(f"  request   the contract's example, its interval shortened to {REQUEST['call_interval']} s:\n")
    console.print(_indented(f"POST {url}/call\n{json.dumps(REQUEST, indent=2)}"))


async def _connect(service: Service, phone: Phone, progress: _Progress) -> _Outcome:
    """Post the request and wait until both calls are over and the record is closed, or the time is."""
    progress.began_at = asyncio.get_running_loop().time()
    answer = await asyncio.to_thread(post_call, service.http_url, REQUEST, timeout_s=LIMIT_S)
    progress.tell("answer", f"{answer.status} {answer.text}")
    record = None
    try:
        async with asyncio.timeout(LIMIT_S):
            if answer.status == 200:
                await progress.over.wait()
            record = await _closed_record(service.store, ConnectionId(answer.connection_id))
    except TimeoutError:
        progress.tell("demo", f"gave up after {LIMIT_S:.0f} s")
    calls = {side_of(call): call for call in phone.calls}
    names = {RINGING_HZ: "(ringing tone)"}
    return _Outcome(
        answer=answer,
        record=record,
        verdicts=[judge(side, calls[side].heard) for side in Side if side in calls],
        heard={side: call.heard.describe(names) for side, call in calls.items()},
    )


async def _closed_record(store: Store, connection_id: ConnectionId) -> ConnectionRecord | None:
    """The record once it has an outcome: that follows the last call's end by a moment."""
    async with asyncio.timeout(SETTLE_LIMIT_S):
        # The record tells nobody of a change: asking is what another program would do, too.
        while (record := await store.connection(connection_id)) is not None and record.outcome is None:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return record


# --- the proof ---


async def _prove(console: Console, store: Store, outcome: _Outcome) -> bool:
    """Print what was delivered, recorded and heard; returns whether all of it is as it should be."""
    mails = await store.mails(limit=1)
    mail = await store.mail(mails[0].number) if mails else None
    console.print()
    _print_mail(console, mail)
    _heading(console, "Timeline, as `dosvoces show` prints it")
    if outcome.record is not None:
        entries = await store.entries(outcome.record.id)
        console.print(_indented(timeline.render_connection(outcome.record, entries, datetime.now(UTC))))
    _heading(console, "What each phone heard, since it answered")
    for verdict in outcome.verdicts:
        console.print(_indented(_heard_text(verdict, outcome.heard[verdict.side])))
    checks = [
        ("the mail is in the inbox", mail is not None),
        (f"the answer is 200 {outcome.answer.text}", outcome.answer.status == 200),
        ("the outcome is recorded: completed", outcome.record is not None and outcome.record.outcome == "completed"),
        *((f"{v.side.name} heard {v.side.other.name} and not itself", v.good) for v in outcome.verdicts),
    ]
    passed = len(outcome.verdicts) == len(Side) and all(good for _, good in checks)
    _heading(console, "Proof")
    for what, good in checks:
        console.print(Text.assemble(("  yes  ", "green") if good else ("  NO   ", "bold red"), what))
    console.print(f"\n  {'It works.' if passed else 'It does not work: see above.'}\n")
    console.print(_indented(_next()))
    return passed


def _print_mail(console: Console, mail: KeptMail | None) -> None:
    _heading(console, "The mail, as delivered")
    console.print(_indented(timeline.render_mail(mail) if mail else "none came"))


def _heard_text(verdict: Verdict, in_words: str) -> str:
    side = verdict.side
    own, other = TONES_HZ[side], TONES_HZ[side.other]
    if verdict.other_dbm0 is None or verdict.own_dbm0 is None:
        return f"{side.name}: {in_words}\n   {side.other.name}'s {other} Hz was not heard"
    return (
        f"{side.name}: {in_words}\n"
        f"   {side.other.name}'s {other} Hz for {verdict.other_s:.1f} s at {verdict.other_dbm0:.1f} dBm0; "
        f"its own {own} Hz meanwhile at {verdict.own_dbm0:.1f} dBm0"
    )


def _heading(console: Console, text: str) -> None:
    console.print(Text(f"── {text} ".ljust(timeline.WIDTH, "─"), "bold"))


def _indented(text: str) -> Text:
    """As it is, two columns in, and a line after it."""
    return Text(textwrap.indent(text.rstrip(), "  ") + "\n")


def _next() -> str:
    program = _program()
    return "\n".join(
        (
            "Where to look next",
            f"  {f'{program} serve':<33}  the service; it says what it needs for real calls",
            f"  {f'{program} phone --help':<33}  a phone of your own for trials",
            f"  {'README.md':<33}  a real trunk, a real mail server, the answers",
            f"  {'docs/':<33}  quickstart, settings, architecture",
        )
    )


def _program() -> str:
    """How this program was called: `.venv/bin/dosvoces`, where it isn't on the path."""
    return sys.argv[0] if sys.argv[0].endswith("/dosvoces") and not sys.argv[0].startswith("/") else "dosvoces"


async def _linger(console: Console, url: str, folder: Path) -> None:
    """Keep the service open for a look until Enter, the end of input or Ctrl-C."""
    numbers = f"--firstnumber {NUMBERS[Side.A]} --secondnumber {NUMBERS[Side.B]}"
    look = f"call --url {url} {numbers} --email you@example.com"
    console.print("  It stays open until you press Enter. In another terminal:\n")
    console.print(
        _indented(f"DOSVOCES_DATABASE__URL=sqlite:///{folder}/dosvoces.db {_program()} list\n{_program()} {look}")
    )
    loop, pressed = asyncio.get_running_loop(), asyncio.Event()
    try:
        loop.add_reader(sys.stdin, pressed.set)
    except OSError:  # epoll takes no plain file: nobody is there to press a key.
        return
    try:
        await pressed.wait()
    except asyncio.CancelledError:
        # Ctrl-C is the other way to say enough; what was shown stays shown.
        if (task := asyncio.current_task()) is not None:
            task.uncancel()
    finally:
        loop.remove_reader(sys.stdin)
