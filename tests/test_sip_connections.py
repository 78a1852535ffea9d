"""Agents of ours over TCP and TLS on loopback: calls, certificates that are refused, connections that break."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
import uvloop

from dosvoces.sip import connection as connection_module
from dosvoces.sip import connections as connections_module
from dosvoces.sip.agent import Agent, IncomingCall
from dosvoces.sip.api import CallEnd, CallHandler, DialogFacts, EndCause, Hop, Invitation
from dosvoces.sip.message import Request, Response, parse
from dosvoces.sip.stream import Framer
from dosvoces.sip.tls import Tls, TlsError
from tests.certificates import Authority, Files
from tests.ports import free_port

HOST = "127.0.0.1"
HUNG_UP = CallEnd(EndCause.HANGUP, "local")
LIMIT_S = 5.0

T = TypeVar("T")


class Party(CallHandler):
    def __init__(self) -> None:
        self.told: list[str] = []
        self.facts: DialogFacts | None = None
        self.ringing = asyncio.Event()
        self.answered = asyncio.Event()
        self.ended: asyncio.Future[CallEnd] = asyncio.get_running_loop().create_future()

    def on_progress(self, status: int, phrase: str, body: bytes) -> None:
        self.told.append(f"{status} {phrase}")
        self.ringing.set()

    def on_answer(self, body: bytes, facts: DialogFacts) -> None:
        self.facts = facts
        self.told.append(body.decode())
        self.answered.set()

    def on_confirmed(self, body: bytes) -> None:
        self.answered.set()

    def on_offer(self, body: bytes | None) -> bytes | None:
        return b"accepted"

    def on_ended(self, end: CallEnd) -> None:
        self.ended.set_result(end)


class Phone:
    """Rings, and answers at once or when told."""

    def __init__(self, *, answers: bool = True) -> None:
        self.answers = answers
        self.agent: Agent
        self.calls: list[IncomingCall] = []
        self.parties: list[Party] = []

    def ring(self, call: IncomingCall) -> CallHandler:
        call.ring()
        if self.answers:
            call.answer(b"answer")
        self.calls.append(call)
        self.parties.append(Party())
        return self.parties[-1]

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, *, host: str = HOST, port: int = 0, tls: Tls | None = None, answers: bool = True
    ) -> AsyncIterator["Phone"]:
        phone = cls(answers=answers)
        phone.agent = await Agent.open(bind=(host, port), tcp=True, tls=tls, peers=None, on_invite=phone.ring)
        try:
            yield phone
        finally:
            await phone.agent.close()

    @property
    def tcp(self) -> Hop:
        return Hop(*self.agent.local, "tcp")

    def tls(self, name: str) -> Hop:
        return Hop(self.agent.local[0], self.agent.tls_port, "tls", name)


@contextlib.asynccontextmanager
async def caller(*, host: str = HOST, tcp: bool = False, tls: Tls | None = None) -> AsyncIterator[Agent]:
    agent = await Agent.open(bind=(host, 0), tcp=tcp, tls=tls, peers=[host])
    try:
        yield agent
    finally:
        await agent.close(0.2)


def invitation(hop: Hop, call_id: str = "leg", body: bytes = b"offer") -> Invitation:
    return Invitation(
        request_uri="sip:600@phone",
        destination=hop,
        from_uri="sip:910@caller",
        to_uri="sip:600@phone",
        call_id=call_id,
        body=body,
    )


async def soon(what: Awaitable[T]) -> T:
    return await asyncio.wait_for(what, LIMIT_S)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not condition():  # noqa: ASYNC110 -- what other connections do has no event of ours
            await asyncio.sleep(0.005)


def _hop(server: asyncio.Server) -> Hop:
    host, port = server.sockets[0].getsockname()[:2]
    return Hop(host, port, "tcp")


async def whole_call(agent: Agent, hop: Hop, phone: Phone) -> None:
    """Up, an offer from each side, down from both sides; all over one connection."""
    results: asyncio.Queue[tuple[int | None, bytes]] = asyncio.Queue()
    for by_phone in (False, True):
        party = Party()
        call = agent.invite(invitation(hop, f"leg-{by_phone}"), party)
        await soon(party.answered.wait())
        await soon(phone.parties[-1].answered.wait())
        assert party.told == ["180 Ringing", "answer"]
        call.reinvite(b"again", lambda status, body: results.put_nowait((status, body)))
        assert await soon(results.get()) == (200, b"accepted")
        phone.calls[-1].reinvite(b"again", lambda status, body: results.put_nowait((status, body)))
        assert await soon(results.get()) == (200, b"accepted")
        (phone.calls[-1] if by_phone else call).hangup()
        ends = [await soon(party.ended), await soon(phone.parties[-1].ended)]
        assert {end.by for end in ends} == {"local", "remote"}
        assert {end.cause for end in ends} == {EndCause.HANGUP}
        assert (agent.connections, phone.agent.connections) == (1, 1)


@pytest.mark.parametrize("listening", [False, True])
@pytest.mark.parametrize("host", [HOST, "::1"])
async def test_calls_over_tcp_share_one_connection(host: str, listening: bool) -> None:
    async with Phone.open(host=host) as phone, caller(host=host, tcp=listening) as agent:
        await whole_call(agent, phone.tcp, phone)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def shown(files: Files, ca_file: str = "") -> Tls:
    return Tls(certificate_file=files.certificate, key_file=files.key, port=0, ca_file=ca_file)


@pytest.mark.parametrize("own", [False, True])
async def test_calls_over_tls(authority: Authority, own: bool) -> None:
    """With a certificate of ours and without: the phone's requests come on the connection that we opened."""
    mine = (
        shown(authority.certificate("caller.test"), authority.ca_file)
        if own
        else Tls(ca_file=authority.ca_file, port=0)
    )
    theirs = shown(authority.certificate("sip.example.com"), authority.ca_file)
    async with Phone.open(tls=theirs) as phone, caller(tls=mine) as agent:
        await whole_call(agent, phone.tls("sip.example.com"), phone)


async def test_certificate_for_the_address_itself(authority: Authority) -> None:
    theirs = shown(authority.certificate(HOST))
    async with Phone.open(tls=theirs) as phone, caller(tls=Tls(ca_file=authority.ca_file, port=0)) as agent:
        party = Party()
        call = agent.invite(invitation(phone.tls("")), party)
        await soon(party.answered.wait())
        call.hangup()
        assert await soon(party.ended) == HUNG_UP


@pytest.mark.parametrize(
    ("names", "valid_days", "believed", "why"),
    [
        (("other.example.com",), (-1, 1), True, "its certificate is refused: Hostname mismatch"),
        (("sip.example.com",), (-9, -1), True, "its certificate is refused: certificate has expired"),
        (("sip.example.com",), (1, 9), True, "its certificate is refused: certificate is not yet valid"),
        (("sip.example.com",), (-1, 1), False, "its certificate is refused: unable to get local issuer certificate"),
    ],
)
async def test_certificate_that_is_refused(
    authority: Authority,
    tmp_path: Path,
    names: tuple[str, ...],
    valid_days: tuple[float, float],
    believed: bool,
    why: str,
) -> None:
    (tmp_path / "other").mkdir()
    theirs = shown(authority.certificate(*names, valid_days=valid_days))
    ca_file = authority.ca_file if believed else Authority(tmp_path / "other").ca_file
    async with Phone.open(tls=theirs) as phone, caller(tls=Tls(ca_file=ca_file, port=0)) as agent:
        party = Party()
        hop = phone.tls("sip.example.com")
        agent.invite(invitation(hop), party)
        assert await soon(party.ended) == CallEnd(EndCause.TRANSPORT, "remote", None, "destination unreachable")
        assert agent.why_unreachable(hop).startswith(why)
        assert (agent.connections, phone.calls) == (0, [])


async def test_unverified_by_setting_only(authority: Authority) -> None:
    theirs = shown(authority.certificate("other.example.com", valid_days=(-9, -1)))
    careless = Tls(port=0, unverified=frozenset({"sip.example.com"}))
    async with Phone.open(tls=theirs) as phone, caller(tls=careless) as agent:
        parties = [Party(), Party()]
        call = agent.invite(invitation(phone.tls("sip.example.com"), "1"), parties[0])
        await soon(parties[0].answered.wait())
        call.hangup()
        await soon(parties[0].ended)
    async with Phone.open(tls=theirs) as phone, caller(tls=careless) as agent:
        agent.invite(invitation(phone.tls("strict.example.com"), "2"), parties[1])
        assert (await soon(parties[1].ended)).cause is EndCause.TRANSPORT


async def test_tls_spoken_to_a_plain_port(authority: Authority) -> None:
    async with Phone.open() as phone, caller(tls=Tls(ca_file=authority.ca_file, port=0)) as agent:
        party = Party()
        hop = Hop(*phone.agent.local, "tls", "sip.example.com")
        agent.invite(invitation(hop), party)
        assert (await soon(party.ended)).cause is EndCause.TRANSPORT
        assert agent.why_unreachable(hop)


async def test_files_that_are_none(tmp_path: Path, authority: Authority) -> None:
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("rubbish")
    first, second = authority.certificate("a"), authority.certificate("b")
    for tls in (
        Tls(ca_file=str(rubbish)),
        Tls(ca_file=str(tmp_path / "none.pem")),
        Tls(certificate_file=str(rubbish)),
        Tls(certificate_file=first.certificate, key_file=second.key),
    ):
        with pytest.raises(TlsError, match=r"^/.*: "):
            tls.client_context()
    with pytest.raises(TlsError):
        await Agent.open(bind=(HOST, 0), tls=Tls(certificate_file=str(rubbish), port=0))


@contextlib.asynccontextmanager
async def served(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[Hop]:
    """A TCP server that is no SIP phone; gone afterwards, whatever happened."""
    server = await asyncio.start_server(serve, HOST, 0)
    try:
        yield _hop(server)
    finally:
        server.close()


# -- connections that break ---------------------------------------------------------------------------------------


class Proxy:
    """Between two agents: carries bytes, cuts them up, breaks when told."""

    def __init__(self, target: Hop) -> None:
        self._target = target
        self._pairs: set[asyncio.StreamWriter] = set()
        self.accepted = 0
        self.piece = 65_536
        self.server: asyncio.Server

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, target: Hop) -> AsyncIterator["Proxy"]:
        proxy = cls(target)
        proxy.server = await asyncio.start_server(proxy._serve, HOST, 0)
        try:
            yield proxy
        finally:
            await proxy.stop()

    @property
    def hop(self) -> Hop:
        return _hop(self.server)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self._pairs.add(writer)
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target[:2])
            self._pairs.add(far_writer)
            await asyncio.gather(self._carry(reader, far_writer), self._carry(far_reader, writer))
        except OSError:
            pass
        finally:
            for each in (writer, far_writer):
                self._pairs.discard(each)
                each.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(self.piece):
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError

    def cut(self) -> None:
        """Break all connections with a reset."""
        for writer in list(self._pairs):
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            writer.transport.abort()

    async def stop(self) -> None:
        self.server.close()
        self.cut()
        await until(lambda: not self._pairs)


async def test_bye_goes_over_a_new_connection_when_the_first_is_cut() -> None:
    """S27: the call stays up, and hanging it up leaves nobody on the line."""
    async with Phone.open() as phone, Proxy.open(phone.tcp) as proxy, caller() as agent:
        party = Party()
        call = agent.invite(invitation(proxy.hop), party)
        await soon(party.answered.wait())
        await soon(phone.parties[0].answered.wait())
        proxy.cut()
        call.hangup()  # before the cut is noticed: what is written now is lost
        assert await soon(party.ended) == HUNG_UP
        assert (await soon(phone.parties[0].ended)).by == "remote"


async def test_connection_is_made_again_while_a_call_is_up() -> None:
    async with Phone.open() as phone, Proxy.open(phone.tcp) as proxy, caller() as agent:
        party = Party()
        agent.invite(invitation(proxy.hop), party)
        await soon(phone.parties[0].answered.wait() if phone.parties else party.answered.wait())
        # The proxy's port is what the phone sees and its Contact is its own, so that the call uses both hops.
        await until(lambda: agent.connections >= 1)
        proxy.cut()
        await until(lambda: agent.connections >= 1)
        assert not party.ended.done()


async def test_bye_waits_for_a_trunk_that_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections_module, "FIRST_PAUSE_S", 0.05)
    async with caller() as agent:
        async with Phone.open() as phone:
            hop = phone.tcp
            parties = [Party(), Party()]
            call = agent.invite(invitation(hop), parties[0])
            await soon(parties[0].answered.wait())
            phone.agent._connections._closed = True  # it dies without a word: no BYE to its calls
            phone.agent._ua.calls.clear()
        call.hangup()
        agent.invite(invitation(hop, "second"), parties[1])
        assert (await soon(parties[1].ended)).cause is EndCause.TRANSPORT  # a dial doesn't wait
        assert not parties[0].ended.done()
        async with Phone.open(port=hop.port):
            end = await soon(parties[0].ended)
        assert end == CallEnd(EndCause.HANGUP, "local", None, "", "BYE: 481 Call/Transaction Does Not Exist")


async def test_answer_reaches_us_on_another_connection(authority: Authority) -> None:
    """The connection breaks while it rings: the 200 goes where our Via says (RFC 3261 §18.2.2)."""
    async with Phone.open(answers=False) as phone, caller(tcp=True) as agent:
        party = Party()
        call = agent.invite(invitation(phone.tcp), party)
        await soon(party.ringing.wait())
        (first,) = phone.agent._connections._all
        first.abort()
        await until(lambda: first not in phone.agent._connections._all)
        phone.calls[0].answer(b"late answer")
        await soon(party.answered.wait())
        assert party.told == ["180 Ringing", "late answer"]
        call.hangup()
        assert await soon(party.ended) == HUNG_UP


async def test_nobody_listens() -> None:
    hop = Hop(HOST, free_port(), "tcp")
    async with caller() as agent:
        for number in range(2):  # the second while the pause lasts
            party = Party()
            agent.invite(invitation(hop, f"leg-{number}"), party)
            assert party.told == []
            assert await soon(party.ended) == CallEnd(EndCause.TRANSPORT, "remote", None, "destination unreachable")
        assert agent.why_unreachable(hop) == "Connection refused"
        assert (agent.open_calls, agent.connections) == (0, 0)


async def test_invite_is_sent_once_more_when_its_connection_breaks() -> None:
    """An idle connection may be closed at any time; what crosses the closing is not lost."""
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"offer"))
        writer.transport.abort()

    async with served(serve) as hop, caller() as agent:
        party = Party()
        agent.invite(invitation(hop), party)
        assert (await soon(party.ended)).cause is EndCause.TRANSPORT
    assert len(seen) == 2
    assert seen[0] == seen[1]


# -- a peer that is written by hand ---------------------------------------------------------------------------------


class Raw:
    """A TCP client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._framer = Framer()
        self._waiting: list[bytes] = []

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, hop: Hop) -> AsyncIterator["Raw"]:
        reader, writer = await asyncio.open_connection(*hop[:2])
        try:
            yield cls(reader, writer)
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def options(self, number: int, body: bytes = b"") -> bytes:
        return (
            f"OPTIONS sip:a@b SIP/2.0\r\nVia: SIP/2.0/TCP 10.0.0.1:5070;branch=z9hG4bK{number}\r\n"
            f"From: <sip:a@b>;tag=1\r\nTo: <sip:b@b>\r\nCall-ID: c{number}\r\nCSeq: {number} OPTIONS\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode() + body

    async def next(self) -> Request | Response:
        while not self._waiting:
            data = await soon(self.reader.read(65_536))
            assert data, "the connection was closed"
            self._waiting += self._framer.feed(data)
        return parse(self._waiting.pop(0))

    async def closed(self) -> bool:
        try:
            return await soon(self.reader.read()) == b""
        except ConnectionResetError:
            return True


async def test_two_messages_in_one_segment_and_one_in_single_bytes() -> None:
    async with Phone.open() as phone, Raw.open(phone.tcp) as raw:
        raw.writer.write(raw.options(1) + raw.options(2, b"body"))
        assert [(await raw.next()).cseq for _ in range(2)] == [1, 2]
        for byte in raw.options(3, b"x"):
            raw.writer.write(bytes([byte]))
            await raw.writer.drain()
            await asyncio.sleep(0)
        answer = await raw.next()
        assert isinstance(answer, Response)
        # On the connection that it came on, whatever the Via says.
        assert (answer.code, answer.header("via")) == (
            200,
            f"SIP/2.0/TCP 10.0.0.1:5070;branch=z9hG4bK3;received={HOST}",
        )


async def test_pings_are_answered() -> None:
    async with Phone.open() as phone, Raw.open(phone.tcp) as raw:
        raw.writer.write(b"\r\n\r\n")
        assert await soon(raw.reader.readexactly(2)) == b"\r\n"
        raw.writer.write(b"\r\n")
        raw.writer.write(raw.options(1))
        assert (await raw.next()).cseq == 1


async def test_oversized_and_garbage_end_the_connection() -> None:
    async with Phone.open() as phone:
        for data in (b"GET / HTTP/1.1\r\n\r\n", b"OPTIONS sip:a@b SIP/2.0\r\nContent-Length: 70000\r\n\r\n"):
            async with Raw.open(phone.tcp) as raw:
                raw.writer.write(data)
                assert await raw.closed()
        await until(lambda: phone.agent.connections == 0)


async def test_half_a_message_and_then_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "MESSAGE_LIMIT_S", 0.1)
    async with Phone.open() as phone, Raw.open(phone.tcp) as raw:
        raw.writer.write(raw.options(1) + raw.options(2)[:-9])
        assert (await raw.next()).cseq == 1
        assert await raw.closed()


async def test_strangers_are_closed_unread() -> None:
    agent = await Agent.open(bind=(HOST, 0), tcp=True, peers=["192.0.2.1"])
    async with Raw.open(Hop(*agent.local, "tcp")) as raw:
        assert await raw.closed()
    assert (agent.connections, agent._connections.discarded) == (0, 1)
    await agent.close()


async def test_peer_that_does_not_read_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "MAX_UNSENT", 100_000)
    async with Phone.open() as phone, Raw.open(phone.tcp) as raw:
        raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await until(lambda: phone.agent.connections == 1)
        for number in range(1, 100_000):
            raw.writer.write(raw.options(number))
            if number % 100 == 0:
                await asyncio.sleep(0)
                if phone.agent.connections == 0:
                    break
        assert phone.agent.connections == 0


def test_a_call_over_tls_on_uvloop(authority: Authority) -> None:
    """The service runs on uvloop, whose sockets and TLS are its own."""

    async def call() -> None:
        theirs = shown(authority.certificate("sip.example.com"), authority.ca_file)
        mine = Tls(ca_file=authority.ca_file, port=0)
        async with Phone.open(tls=theirs) as phone, caller(tls=mine) as agent:
            await whole_call(agent, phone.tls("sip.example.com"), phone)
            refused = Party()
            agent.invite(invitation(phone.tls("other.example.com"), "refused"), refused)
            # The connection that is open was made for another name, and is nobody else's.
            assert (await soon(refused.ended)).cause is EndCause.TRANSPORT

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(call())


async def test_peer_that_answered_pings_and_stops_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "KEEP_ALIVE_S", (0.02, 0.03))
    monkeypatch.setattr(connection_module, "PONG_LIMIT_S", 0.4)
    pings, dropped = 0, asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal pings
        await reader.readuntil(b"offer")
        while await reader.readexactly(4) == b"\r\n\r\n":
            pings += 1
            if pings < 3:
                writer.write(b"\r\n")

    async def serve_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await serve(reader, writer)
        writer.transport.abort()
        dropped.set()

    async with served(serve_and_close) as hop, caller() as agent:
        agent.invite(invitation(hop), Party())
        await soon(dropped.wait())
        assert pings == 3


async def test_long_message_goes_over_tcp_where_the_trunk_has_it() -> None:
    async with Phone.open() as phone, caller() as agent:
        hop = Hop(*phone.agent.local, tcp_too=True)
        parties = [Party(), Party()]
        agent.invite(invitation(hop, "short"), parties[0])
        await soon(parties[0].answered.wait())
        assert agent.connections == 0
        agent.invite(invitation(hop, "long", b"x" * 1_300), parties[1])
        await soon(parties[1].answered.wait())
        assert (agent.connections, phone.calls[1].source.transport) == (1, "tcp")


async def test_long_message_goes_over_udp_where_tcp_is_refused() -> None:
    phone = Phone()
    phone.agent = await Agent.open(bind=(HOST, 0), peers=None, on_invite=phone.ring)
    async with caller() as agent:
        party = Party()
        call = agent.invite(invitation(Hop(*phone.agent.local, tcp_too=True), "long", b"x" * 1_300), party)
        await soon(party.answered.wait())
        assert (len(phone.calls), phone.calls[0].source.transport) == (1, "udp")
        call.hangup()
        assert await soon(party.ended) == HUNG_UP
    await phone.agent.close()


async def test_no_descriptor_left_is_a_pause(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(connections_module, "ACCEPT_PAUSE_S", 0.05)
    async with Phone.open() as phone:
        (listener,) = phone.agent._connections._listeners

        class Exhausted:
            """The listener in a process that may open no more."""

            def accept(self) -> None:
                raise OSError(24, "Too many open files")

            def fileno(self) -> int:
                return listener.fileno()

        phone.agent._connections._acceptable(Exhausted(), "tcp")  # type: ignore[arg-type]
        assert "cannot accept a connection" in caplog.text
        phone.agent._connections._accept_again(listener, "tcp")
        async with Raw.open(phone.tcp) as raw:
            raw.writer.write(raw.options(1))
            assert (await raw.next()).cseq == 1


async def test_limits_of_what_peers_may_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections_module, "MAX_ACCEPTED_PER_HOST", 1)
    async with Phone.open() as phone, Raw.open(phone.tcp) as first:
        first.writer.write(first.options(1))
        assert (await first.next()).cseq == 1
        async with Raw.open(phone.tcp) as second:
            assert await second.closed()
        first.writer.write(first.options(2))
        assert (await first.next()).cseq == 2


async def test_plain_words_to_a_tls_port_are_no_connection(authority: Authority) -> None:
    async with Phone.open(tls=shown(authority.certificate(HOST))) as phone:
        async with Raw.open(phone.tls("")) as raw:
            raw.writer.write(raw.options(1))
            await raw.closed()
        assert phone.agent.connections == 0


async def test_hops_that_need_nothing_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections_module, "MAX_LINES", 2)
    async with caller() as agent:
        for number in range(4):
            party = Party()
            agent.invite(invitation(Hop(HOST, 1 + number, "tcp"), f"leg-{number}"), party)
            await soon(party.ended)
        assert len(agent._connections._lines) <= 2


async def test_our_port_that_another_program_has_is_no_hindrance() -> None:
    async with Phone.open() as phone, caller() as agent:
        with socket.socket() as other:
            other.bind(agent.local)
            other.listen()
            party = Party()
            call = agent.invite(invitation(phone.tcp), party)
            await soon(party.answered.wait())
            call.hangup()
            assert await soon(party.ended) == HUNG_UP
