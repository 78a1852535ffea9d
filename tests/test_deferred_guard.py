"""No webhook connects to what is near the service, whatever its URL looks like: tried with a listener that is there."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from ipaddress import IPv4Network, ip_address
from urllib.parse import urlsplit

import httpcore
import pytest

from dosvoces.deferred.guard import (
    ADDRESSES_LIMIT,
    ForbiddenAddress,
    GuardedBackend,
    Network,
    SocketOptions,
    is_public,
    networks_of,
    resolve,
)
from dosvoces.deferred.webhooks import Endpoint, Poster, Reply
from dosvoces.settings.webhooks import webhook_url
from tests.hostile_urls import HOSTILE, NAMED
from tests.webhook_receiver import SECRET, Receiver

PUBLIC = "93.184.215.14"
LOOPBACK: tuple[Network, ...] = (IPv4Network("127.0.0.0/8"),)
Answers = dict[str, list[Sequence[str]]]


class Below(httpcore.AnyIOBackend):
    """Notes what it is to connect to; really connects within this machine alone."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 (httpcore's own)
        local_address: str | None = None,
        socket_options: SocketOptions | None = None,
    ) -> httpcore.AsyncNetworkStream:
        self.asked.append(host)
        if not ip_address(host).is_loopback:
            raise httpcore.ConnectError("nobody there")
        return await super().connect_tcp(host, port, timeout, local_address, socket_options)


class Trial:
    """A poster whose names are made up."""

    def __init__(self, answers: Answers | None = None) -> None:
        self.below = Below()
        self._answers = answers or {}
        self.poster = Poster(backend=lambda networks: GuardedBackend(networks, self._resolve, self.below))

    async def post(self, url: str, *networks: Network) -> Reply:
        return await self.poster.post(Endpoint("main", url, (SECRET,), frozenset(), 20.0, networks), "msg_1", "{}")

    async def _resolve(self, host: str, port: int) -> Sequence[str]:
        if host in self._answers:
            answers = self._answers[host]
            return answers.pop(0) if len(answers) > 1 else answers[0]
        if any(char in "ghijklmnopqrstuvwyz" for char in host):
            raise OSError("no such name")
        return await resolve(host, port)  # Numbers only, which nobody else is asked about.


@pytest.fixture
async def listener() -> AsyncIterator[Receiver]:
    async with Receiver.open() as receiver:
        yield receiver


@pytest.mark.parametrize("url", HOSTILE)
async def test_no_connection_is_made_to_what_is_near(url: str, listener: Receiver) -> None:
    name = urlsplit(url.format(port=1)).hostname or ""
    # As httpx asks for it: a wide or an encircled letter is the letter.
    names = {name, "localhost" if not name.isascii() else name}
    trial = Trial({each: [NAMED[url]] for each in names} if url in NAMED else None)
    reply = await trial.post(url.format(port=listener.port))
    await trial.poster.close()
    assert reply.status is None
    assert trial.below.asked == []
    assert listener.connections == 0
    assert reply.words.startswith(("not sent: ", "InvalidURL: ", "UnsupportedProtocol: ", "ConnectError: ")), (
        reply.words
    )


async def test_the_listener_is_there(listener: Receiver) -> None:
    """Else the tests above would claim nothing."""
    trial = Trial({"near.example.com": [["127.0.0.1"]]})
    assert (await trial.post(listener.url(), *LOOPBACK)).taken
    assert (await trial.post(f"http://near.example.com:{listener.port}/", *LOOPBACK)).taken
    await trial.poster.close()
    assert listener.connections == 2
    assert trial.below.asked == ["127.0.0.1", "127.0.0.1"]


async def test_what_was_checked_is_what_is_connected_to(listener: Receiver) -> None:
    """A second answer, to whoever asked again, would lead here (DNS rebinding)."""
    trial = Trial({"rebinding.example.com": [[PUBLIC], ["127.0.0.1"]]})
    url = f"http://rebinding.example.com:{listener.port}/"
    assert (await trial.post(url)).words == "ConnectError: nobody there"
    assert trial.below.asked == [PUBLIC]
    assert "rebinding.example.com is 127.0.0.1, no public address" in (await trial.post(url)).words
    await trial.poster.close()
    assert trial.below.asked == [PUBLIC]
    assert listener.connections == 0


async def test_no_connection_is_borrowed_from_one_who_may_go_further(listener: Receiver) -> None:
    trial = Trial()
    assert (await trial.post(listener.url(), *LOOPBACK)).taken
    reply = await trial.post(listener.url())
    await trial.poster.close()
    assert reply.words == "not sent: 127.0.0.1, no public address: if it is yours, write its network as `networks`"
    assert len(listener.received) == 1


async def test_addresses_are_tried_in_turn_and_not_without_end() -> None:
    many = [f"93.184.215.{last}" for last in range(20)]
    trial = Trial({"many.example.com": [many]})
    assert (await trial.post("https://many.example.com/")).words == "ConnectError: nobody there"
    await trial.poster.close()
    assert trial.below.asked == many[:ADDRESSES_LIMIT]


async def test_a_name_without_an_address_is_told() -> None:
    trial = Trial({"none.example.com": [[]]})
    assert (await trial.post("https://none.example.com/")).words == "ConnectError: none.example.com has no address"
    assert "gone.example.com can't be resolved" in (await trial.post("https://gone.example.com/")).words
    await trial.poster.close()


async def test_no_socket_of_the_machine_is_opened() -> None:
    with pytest.raises(ForbiddenAddress, match="no public address"):
        await GuardedBackend().connect_unix_socket("/run/x.sock")


async def test_the_certificate_is_that_of_the_name() -> None:
    """What is connected to is an address; what TLS is told is the name."""
    seen: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.set_result(await reader.read(4096))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    trial = Trial({"named.example.com": [["127.0.0.1"]]})
    port = server.sockets[0].getsockname()[1]
    assert (await trial.post(f"https://named.example.com:{port}/", *LOOPBACK)).status is None
    await trial.poster.close()
    server.close()
    assert b"named.example.com" in await seen  # RFC 6066 §3: in clear in the first message.


@pytest.mark.parametrize("text", [PUBLIC, "8.8.8.8", "2606:4700:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"])
def test_what_is_public(text: str) -> None:
    assert is_public(ip_address(text))


@pytest.mark.parametrize("text", ["10.0.0.0/8", "fd00::/8", "127.0.0.1"])
def test_networks_are_read(text: str) -> None:
    (network,) = networks_of([text])
    assert network.network_address in network


async def test_an_ipv4_network_holds_what_is_written_as_ipv6_too(listener: Receiver) -> None:
    trial = Trial({"mapped.example.com": [["::ffff:127.0.0.1"]]})
    assert (await trial.post(f"http://mapped.example.com:{listener.port}/")).status is None
    assert trial.below.asked == []
    await trial.post(f"http://mapped.example.com:{listener.port}/", *LOOPBACK)
    await trial.poster.close()
    assert trial.below.asked == ["::ffff:127.0.0.1"]


@pytest.mark.parametrize(
    "url",
    [
        *["http://127.1/", "https://0x7f.1/", "https://2130706433/", "https://[fe80::1%25lo]/", "https://a@b.example/"],
        *["https://@b.example/", "https://b.example:0/", "https://b.example:65536/", "https://b.example/ x", "//b/"],
        *["https://a\\@b.example/", "https://b.example/#", "https://b..example/", "https://127.0.0.1./", "https:///b"],
        *["https://crm\u3002example/", "https://-b.example/", "https://b.example%2f/", "file:///etc/passwd", ""],
    ],
)
def test_a_url_that_is_read_in_two_ways_is_none(url: str) -> None:
    with pytest.raises(ValueError, match=r"write it as|leave out|a port is|only https"):
        webhook_url(url)
