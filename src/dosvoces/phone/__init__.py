"""
A small SIP phone for trials: it rings, answers or doesn't, plays a tone and tells what it hears.

For `dosvoces phone`, for the demo and for tests. It hears everybody who calls and is not meant for the open Internet;
it registers nowhere and places no calls.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping

from dosvoces.media.phone_audio import Heard, Span, Window
from dosvoces.phone.call import (
    BUSY,
    DECLINE,
    NOT_FOUND,
    PhoneBehaviour,
    PhoneCall,
    PhoneEvent,
    PhoneEventKind,
    user_part,
)
from dosvoces.sip.agent import Agent, IncomingCall
from dosvoces.sip.api import Address, CallHandler
from dosvoces.sip.tls import Tls

__all__ = [
    "BUSY",
    "DECLINE",
    "NOT_FOUND",
    "Heard",
    "Phone",
    "PhoneBehaviour",
    "PhoneCall",
    "PhoneEvent",
    "PhoneEventKind",
    "Span",
    "Tls",
    "Window",
    "run_phone",
]

MAX_CALLS = 200  # at once; more are refused as busy
KEPT_CALLS = 1_000  # ended ones stay to be asked for what they heard; the oldest are forgotten

Choose = Callable[[str], PhoneBehaviour | None]
"""The behaviour for the number that was called, `None` for one that isn't here: a phone may stand for several."""


class Phone:
    """A trial phone that listens on one address; several calls at once are fine."""

    def __init__(self, choose: Choose, on_event: Callable[[PhoneEvent], None] | None) -> None:
        """Use `open`."""
        self._choose = choose
        self._on_event = on_event
        self._agent: Agent
        self._bind_host = ""
        self._calls: deque[PhoneCall] = deque(maxlen=KEPT_CALLS)
        self._open = 0
        self._wanted: dict[asyncio.Future[PhoneEvent], PhoneEventKind] = {}

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls,
        behaviour: PhoneBehaviour | Choose | None = None,
        *,
        bind: Address = ("127.0.0.1", 0),
        tls: Tls | None = None,
        on_event: Callable[[PhoneEvent], None] | None = None,
    ) -> AsyncIterator["Phone"]:
        """
        Listen on `bind` (port 0: any free one) until the block is left; then what is still up is hung up.

        On UDP and TCP, and with `tls` on its port too. `on_event` is told of everything, from the loop. Raises
        `OSError` when a port is taken, `TlsError` when a certificate can't be used.
        """
        if behaviour is None or isinstance(behaviour, PhoneBehaviour):
            always = behaviour or PhoneBehaviour()
            phone = cls(lambda _number: always, on_event)
        else:
            phone = cls(behaviour, on_event)
        phone._bind_host = bind[0]
        phone._agent = await Agent.open(
            bind=bind, tcp=True, tls=tls, user_agent="Dosvoces phone", peers=None, on_invite=phone._on_invite
        )
        try:
            yield phone
        finally:
            await phone._agent.close()

    @property
    def address(self) -> Address:
        """Where it listens for SIP."""
        return self._agent.local

    @property
    def tls_port(self) -> int:
        """Where it listens for TLS, if it does."""
        return self._agent.tls_port

    @property
    def calls(self) -> tuple[PhoneCall, ...]:
        """The calls that came in, oldest first, ended ones included."""
        return tuple(self._calls)

    @property
    def agent(self) -> Agent:
        """The user agent under it."""
        return self._agent

    async def next_event(self, kind: PhoneEventKind) -> PhoneEvent:
        """Wait for the next event of this kind, of any call."""
        waiter: asyncio.Future[PhoneEvent] = asyncio.get_running_loop().create_future()
        self._wanted[waiter] = kind
        try:
            return await waiter
        finally:
            self._wanted.pop(waiter, None)

    def _on_invite(self, incoming: IncomingCall) -> CallHandler | None:
        if self._open >= MAX_CALLS:
            behaviour = PhoneBehaviour(reject=BUSY)
        else:
            behaviour = self._choose(user_part(incoming.request_uri)) or PhoneBehaviour(reject=NOT_FOUND)
        call = PhoneCall(
            incoming,
            behaviour,
            media_bind=self._bind_host,
            media_address=self._agent.advertised[0],
            report=self._happened,
        )
        self._open += 1
        self._calls.append(call)
        call.begin()
        return call

    def _happened(self, event: PhoneEvent) -> None:
        if event.kind is PhoneEventKind.ENDED:
            self._open -= 1
        if self._on_event is not None:
            self._on_event(event)
        for waiter, kind in list(self._wanted.items()):
            if kind is event.kind and not waiter.done():
                waiter.set_result(event)


async def run_phone(
    behaviour: PhoneBehaviour | Choose | None = None,
    *,
    bind: Address,
    tls: Tls | None = None,
    say: Callable[[str], None],
    calls: int | None = None,
    names: Mapping[int, str] | None = None,
) -> None:
    """
    Run a phone that says a line for everything that happens, until cancelled or `calls` calls are over.

    `names` are put behind the frequencies in what was heard (`{425: "ringing"}`). Raises `OSError` when a port is
    taken, `TlsError` when a certificate can't be used.
    """
    over = asyncio.Event()
    ended = 0

    def tell(event: PhoneEvent) -> None:
        nonlocal ended
        call = event.call
        say(f"{event.at_s:7.2f} s  {call.caller or 'anonymous'} → {call.number or 'this phone'}: {event.text}")
        if event.kind is PhoneEventKind.ENDED:
            if call.answered:
                say(f"           heard: {call.heard.describe(names)}")
            ended += 1
            if ended == calls:
                over.set()

    async with Phone.open(behaviour, bind=bind, tls=tls, on_event=tell) as phone:
        host, port = phone.address
        secured = f", TLS on {phone.tls_port}" if tls is not None else ""
        say(f"listening on sip:{f'[{host}]' if ':' in host else host}:{port} (UDP, TCP{secured}); Ctrl-C ends it")
        await over.wait()
