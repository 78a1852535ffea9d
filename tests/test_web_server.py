"""The HTTP server on a real socket: bytes that no client library would send, limits, start and stop."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from dosvoces.errors import SettingsError
from dosvoces.web import server as server_module
from dosvoces.web import turns
from dosvoces.web.server import HttpServer
from dosvoces.web.turns import TRICKLE
from tests.web_fakes import FakeConnector, app_with

BODY = json.dumps({"firstnumber": "+34600000011", "secondnumber": "+34960000022", "email": "ana@milmoh.com"}).encode()
HEAD = b"POST /call HTTP/1.1\r\nHost: dosvoces\r\nContent-Type: application/json\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
GOOD = HEAD + LENGTH + b"Connection: close\r\n\r\n" + BODY
KEPT = HEAD + LENGTH + b"\r\n" + BODY
KEYED = HEAD + b"Idempotency-Key: a\r\n" + LENGTH + b"Connection: close\r\n\r\n" + BODY
LOOK = b"GET /healthz HTTP/1.1\r\nHost: dosvoces\r\n\r\n"


@pytest.fixture
def connector() -> FakeConnector:
    return FakeConnector()


@pytest.fixture
async def server(connector: FakeConnector) -> AsyncIterator[HttpServer]:
    server = HttpServer(app_with(connector), host="127.0.0.1", port=0)
    await server.start()
    yield server
    await server.stop()


async def talk(server: HttpServer, *data: bytes) -> bytes:
    """Send `data`; all that comes back until the server closes."""
    reader, writer = await asyncio.open_connection(*server.address)
    try:
        for part in data:
            writer.write(part)
            await writer.drain()
        return await asyncio.wait_for(reader.read(), 5)
    except ConnectionError:
        return b""
    finally:
        writer.close()


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


HOSTILE = {
    "two lengths": HEAD + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\n{}",
    "length and chunked": HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "negative length": HEAD + b"Content-Length: -1\r\n\r\n{}",
    "header without colon": HEAD + b"nonsense\r\n\r\n",
    "folded header": HEAD + b"X-A: 1\r\n 2\r\nContent-Length: 2\r\n\r\n{}",
    "blank before colon": HEAD + b"Content-Length : 2\r\n\r\n{}",
    "control in header": HEAD + b"X-A: a\x00b\r\nContent-Length: 2\r\n\r\n{}",
    "no version": b"GET /call\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "100 KB header": HEAD + b"X-A: " + b"a" * 100_000 + b"\r\n\r\n",
    "10,000 headers": HEAD + b"X-A: a\r\n" * 10_000 + b"\r\n",
    "bad chunk size": HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_bytes_never_call_and_do_no_harm(server: HttpServer, connector: FakeConnector, name: str) -> None:
    assert status(await talk(server, HOSTILE[name])) in (0, 400, 404, 405, 408, 413, 431, 501)
    assert connector.orders == []
    assert status(await talk(server, GOOD)) == 200


async def test_a_client_that_leaves_in_the_middle_of_its_body_calls_nobody(
    server: HttpServer, connector: FakeConnector
) -> None:
    reader, writer = await asyncio.open_connection(*server.address)
    writer.write(HEAD + b"Content-Length: 100\r\n\r\n{")
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()
    assert connector.orders == []


async def test_no_server_header_and_a_date(server: HttpServer) -> None:
    head = (await talk(server, GOOD)).partition(b"\r\n\r\n")[0].lower()
    names = {line.partition(b":")[0] for line in head.split(b"\r\n")[1:]}
    assert names == {b"date", b"content-type", b"content-length", b"location", b"connection"}


async def test_requests_may_follow_each_other_on_a_connection(server: HttpServer, connector: FakeConnector) -> None:
    reader, writer = await asyncio.open_connection(*server.address)
    for _ in range(2):
        writer.write(HEAD + LENGTH + b"\r\n" + BODY)
        await reader.readuntil(b"Data received successfully")
    writer.close()
    assert len(connector.orders) == 2


async def test_a_body_that_is_too_large_gets_its_answer_and_the_end(server: HttpServer) -> None:
    body = b"x" * 1_000_000
    answer = await talk(server, HEAD + b"Content-Length: 1000000\r\n\r\n", body)
    assert status(answer) == 413
    assert b"connection: close" in answer
    assert answer.endswith(b'{"Message": "The body is larger than 65536 bytes"}')


async def test_expect_continue_is_honoured(server: HttpServer) -> None:
    reader, writer = await asyncio.open_connection(*server.address)
    writer.write(HEAD + b"Expect: 100-continue\r\n" + LENGTH + b"\r\n")
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(BODY)
    assert status(await reader.readuntil(b"Data received successfully")) == 200
    writer.close()


async def test_a_slow_head_is_cut(connector: FakeConnector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "HEAD_TIMEOUT_S", 0.05)
    server = HttpServer(app_with(connector), host="127.0.0.1", port=0)
    await server.start()
    reader, writer = await asyncio.open_connection(*server.address)
    writer.write(b"POST /call HTTP/1.1\r\nX-Slow")
    assert status(await asyncio.wait_for(reader.read(), 5)) == 408
    writer.close()
    await server.stop()


@pytest.mark.parametrize(
    ("answered", "more"),
    [
        (LOOK, b""),
        (LOOK, b"\r\n"),
        (b"GET /call HTTP/1.1\r\nHost: dosvoces\r\nContent-Length: 9\r\n\r\n", b"x"),
    ],
    ids=["nothing", "an empty line", "a body that nobody reads"],
)
async def test_who_asks_for_nothing_more_is_sent_away(
    connector: FakeConnector, monkeypatch: pytest.MonkeyPatch, answered: bytes, more: bytes
) -> None:
    monkeypatch.setattr(server_module, "KEEP_ALIVE_S", 0.3)
    server = HttpServer(app_with(connector), host="127.0.0.1", port=0)
    await server.start()
    reader, writer = await asyncio.open_connection(*server.address)
    writer.write(answered)
    await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    writer.write(more)
    await asyncio.wait_for(reader.read(), 5)
    writer.close()
    await server.stop()


@pytest.mark.parametrize("request_", [GOOD, HEAD + LENGTH + b"\r\n" + BODY], ids=["parsed", "plain"])
async def test_too_many_clients_are_told_to_come_back(connector: FakeConnector, request_: bytes) -> None:
    server = HttpServer(app_with(connector), host="127.0.0.1", port=0, max_clients=1)
    await server.start()
    _, first = await asyncio.open_connection(*server.address)
    first.write(b"GET")
    await first.drain()
    answer = await talk(server, request_)
    assert status(answer) == 503
    assert b"retry-after: 5" in answer
    assert answer.endswith(b'{"Message": "Too many connections; nothing was done"}')
    assert connector.orders == []
    first.close()
    await server.stop()


async def test_an_address_that_is_taken_is_named_with_the_remedy(server: HttpServer) -> None:
    host, port = server.address
    with pytest.raises(SettingsError, match=rf"^Can't listen for HTTP on 127.0.0.1:{port}: Address already in use; "):
        await HttpServer(app_with(FakeConnector()), host=host, port=port).start()


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1"])
async def test_an_address_that_is_not_ours_is_named(host: str) -> None:
    with pytest.raises(SettingsError, match=host):
        await HttpServer(app_with(FakeConnector()), host=host, port=0).start()


async def test_signals_are_left_to_the_application(connector: FakeConnector) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    server = HttpServer(app_with(connector), host="127.0.0.1", port=0)
    await server.start()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    await server.stop()


async def test_who_has_connected_when_it_stops_is_heard_and_answered(server: HttpServer) -> None:
    reader, writer = await asyncio.open_connection(*server.address)
    stopping = asyncio.create_task(server.stop())
    await asyncio.sleep(0.05)
    writer.write(GOOD)
    assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
    writer.close()
    await stopping


async def test_stop_waits_for_the_request_under_way_and_may_be_repeated() -> None:
    connector = FakeConnector(gate=asyncio.Event())
    server = HttpServer(app_with(connector), host="127.0.0.1", port=0)
    await server.start()
    request = asyncio.create_task(talk(server, GOOD))
    await connector.arrived.wait()
    stopping = asyncio.create_task(server.stop())
    assert connector.gate is not None
    asyncio.get_running_loop().call_later(0.05, connector.gate.set)
    assert status(await request) == 200
    await stopping
    await server.stop()


# --- too much at once ---


def statuses(answers: bytes) -> list[int]:
    return [int(part[:3]) for part in answers.split(b"HTTP/1.1 ")[1:]]


@asynccontextmanager
async def full_server(
    connector: FakeConnector, full: Callable[[int], bool] = lambda waiting: True
) -> AsyncIterator[HttpServer]:
    """A server that has no room for a call, or as much as `full` says."""
    server = HttpServer(app_with(connector), host="127.0.0.1", port=0, full=full)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def test_a_full_house_refuses_calls_in_turn_and_still_answers_the_rest(connector: FakeConnector) -> None:
    """The refused bodies are dropped, not taken for the next request; a repeat under a key may have its answer."""
    async with full_server(connector) as server:
        answers = await talk(server, KEPT, KEPT, LOOK, KEPT, KEYED)
    assert statuses(answers) == [503, 503, 200, 503, 200]
    assert answers.count(b"retry-after: 1\r\n") == 3
    assert [order.idempotency_key for order in connector.orders] == ["a"]


@pytest.mark.parametrize(
    "request_bytes",
    [
        KEPT,
        HEAD + b"Connection: keep-alive\r\n" + LENGTH + b"\r\n" + BODY,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(BODY) + BODY + b"\r\n0\r\n\r\n",
        KEPT + KEPT[:40],
        KEPT[:-5],
        HEAD + b"X-Connection: close\r\n" + LENGTH + b"\r\n" + BODY,
    ],
    ids=["plain", "kept", "chunked", "one and a bit", "all but the end", "another header"],
)
async def test_however_a_refused_request_comes_the_next_one_is_understood(
    connector: FakeConnector, request_bytes: bytes
) -> None:
    end = {KEPT + KEPT[:40]: KEPT[40:], KEPT[:-5]: KEPT[-5:]}.get(request_bytes, b"")
    async with full_server(connector) as server:
        reader, writer = await asyncio.open_connection(*server.address)
        writer.write(request_bytes)
        await asyncio.wait_for(reader.readuntil(b"}"), 5)
        writer.write(end + LOOK + GOOD)
        rest = await asyncio.wait_for(reader.read(), 5)
        writer.close()
    assert statuses(rest) == [*([503] if request_bytes.startswith(KEPT + b"P") else []), 200, 503]
    assert connector.orders == []


@pytest.mark.parametrize(
    "target", [b"/call?from=crm", b"/call?", b"http://dosvoces/call", b"/c%61ll", b"/v1/connections?"]
)
async def test_however_an_address_is_written_it_is_the_same_door(connector: FakeConnector, target: bytes) -> None:
    closing = GOOD.replace(b"/call", target, 1)
    async with full_server(connector) as server:
        answers = await talk(server, closing.replace(b"Connection: close\r\n", b""), closing)
    assert statuses(answers) == [503, 503]
    assert connector.orders == []


async def test_a_refused_client_that_never_reads_is_not_read_from_either(connector: FakeConnector) -> None:
    """Its refusals would pile up in our memory: what it sends must stay in its own."""
    async with full_server(connector) as server:
        _, writer = await asyncio.open_connection(*server.address)
        with pytest.raises(TimeoutError):
            await pour(writer)
        writer.transport.abort()


async def pour(writer: asyncio.StreamWriter) -> None:
    """Send 16 MB of requests, to as many answers. Raises `TimeoutError` once nobody reads them."""
    for _ in range(400):
        writer.write(KEPT * 200)
        await asyncio.wait_for(writer.drain(), 2)


async def test_a_refused_client_that_sends_its_body_slowly_is_refused_once(connector: FakeConnector) -> None:
    async with full_server(connector) as server:
        reader, writer = await asyncio.open_connection(*server.address)
        writer.write(HEAD + LENGTH + b"\r\n")
        first = await asyncio.wait_for(reader.readuntil(b"}"), 5)
        writer.write(BODY + LOOK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        rest = await asyncio.wait_for(reader.read(), 5)
        writer.close()
    assert [statuses(first), statuses(rest)] == [[503], [200]]


async def test_who_waits_for_a_turn_is_counted_where_there_is_little_room(connector: FakeConnector) -> None:
    """To be told only then, turns later, that there is no room would take as long as to be served."""
    most = 5
    async with full_server(connector, lambda waiting: len(connector.orders) + waiting >= most) as server:
        answers = await talk(server, KEPT * (most + 3) + LOOK + GOOD)
    assert statuses(answers) == [*[200] * most, *[503] * 3, 200, 503]
    assert len(connector.orders) == most


async def test_more_at_once_than_the_loop_keeps_up_with_is_refused(
    server: HttpServer, connector: FakeConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All arrive in one piece, and are counted before the loop can turn."""
    burst = TRICKLE + 10
    monkeypatch.setattr(turns, "BURST", burst)
    answers = await talk(server, KEPT * burst + KEPT * 3 + GOOD)
    assert statuses(answers) == [200] * burst + [503] * 4
    assert len(connector.orders) == burst
