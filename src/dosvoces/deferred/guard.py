"""
Keeps webhooks out of the operator's own networks: what a name stands for is looked at when the connection is made.

The address that was checked is the one that is connected to, so that no second answer of the DNS comes between; TLS
still checks the name. It must not know what is sent.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from socket import SOCK_STREAM

import httpcore
import httpx

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""What a host's name stands for, each address as a text. May raise `OSError` or `UnicodeError`."""
SocketOptions = Iterable[httpcore.SOCKET_OPTION]

ADDRESSES_LIMIT = 8
"""So many of a name's addresses are tried."""
CONNECT_S = 4.0
"""How long an address may take to answer while there is another one to try."""

_V4_INTERNAL = tuple(
    map(
        IPv4Network,
        (
            "100.64.0.0/10",  # RFC 6598; some clouds answer at 100.100.100.200 with what is secret of the machine.
            "168.63.129.16/32",  # Azure's own, in each of its networks.
            "192.0.0.0/24",  # RFC 6890: of the protocols themselves; older Pythons call some of it global.
            "192.88.99.0/24",  # RFC 7526: relays of 6to4, of which there are none any more.
            "224.0.0.0/4",  # Multicast.
        ),
    )
)
_V6_GLOBAL = IPv6Network("2000::/3")  # RFC 4291 §2.4, and all that IANA has given out
_V6_INTERNAL = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # RFC 2928: of the protocols themselves, Teredo among them, which has an IPv4 address inside.
            "2001:db8::/32",  # Documentation.
            "2002::/16",  # RFC 7526: 6to4, which has an IPv4 address inside.
            "3fff::/20",  # RFC 9637: documentation; older Pythons call it global.
        ),
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052 §2.1: the last 32 bits are an IPv4 address.


class ForbiddenAddress(Exception):
    """A webhook may not go there; nothing was connected to. Its text names address and remedy."""


def is_public(address: Address) -> bool:
    """Whether it is one of the Internet at large and in no network of anybody's own; by an IPv4 address inside."""
    if isinstance(address, IPv4Address):
        return address.is_global and not any(address in network for network in _V4_INTERNAL)
    if (inner := _inner(address)) is not None:
        return is_public(inner)
    if address.scope_id is not None or address not in _V6_GLOBAL:
        return False
    return address.is_global and not any(address in network for network in _V6_INTERNAL)


def check(host: str, address: Address, networks: Collection[Network]) -> None:
    """Raise `ForbiddenAddress` unless the address, or the IPv4 address inside it, is public or in one of `networks`."""
    inner = _inner(address) if isinstance(address, IPv6Address) else None
    if not any(each in network for each in (address, inner) if each is not None for network in networks):
        if is_public(address):
            return
        where = f"{host} is {address}" if host != str(address) else host
        raise ForbiddenAddress(f"{where}, no public address: if it is yours, write its network as `networks`")


def _inner(address: IPv6Address) -> IPv4Address | None:
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped


async def resolve(host: str, port: int) -> Sequence[str]:
    """By the system's own resolver."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """Connects to public addresses, and to those in `networks`; raises `ForbiddenAddress` for all others."""

    def __init__(
        self,
        networks: Collection[Network] = (),
        resolve: Resolve = resolve,
        below: httpcore.AsyncNetworkBackend | None = None,
    ) -> None:
        self._networks = networks
        self._resolve = resolve
        self._below = below or httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 (httpcore's own)
        local_address: str | None = None,
        socket_options: SocketOptions | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """As the port has it. One address that is not allowed forbids them all: the name is not to be trusted then."""
        *others, last = await self._checked(host, port)
        for address in others:
            limit_s = CONNECT_S if timeout is None else min(timeout, CONNECT_S)
            try:
                return await self._below.connect_tcp(address, port, limit_s, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return await self._below.connect_tcp(last, port, timeout, local_address, socket_options)

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 (httpcore's own)
        socket_options: SocketOptions | None = None,
    ) -> httpcore.AsyncNetworkStream:
        raise ForbiddenAddress(f"{path} is a socket of this machine, no public address")

    async def sleep(self, seconds: float) -> None:
        await self._below.sleep(seconds)

    async def _checked(self, host: str, port: int) -> list[str]:
        try:
            found = await self._resolve(host, port)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"{host} can't be resolved: {error}") from error
        if not found:
            raise httpcore.ConnectError(f"{host} has no address")
        for text in found:
            check(host, ip_address(text), self._networks)
        return list(found[:ADDRESSES_LIMIT])


class GuardedTransport(httpx.AsyncHTTPTransport):
    """httpx's own, over a `GuardedBackend`. A pool of its own: who may go less far finds no open connection in it."""

    def __init__(self, verify: ssl.SSLContext, backend: httpcore.AsyncNetworkBackend) -> None:
        super().__init__(verify=verify, trust_env=False)
        # httpx has no argument for it (0.28); the tests see to it that this is what connects.
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=verify,
            network_backend=backend,
            max_connections=100,
            max_keepalive_connections=20,
            keepalive_expiry=5.0,  # seconds; this and the above as httpx has them
        )


def networks_of(texts: Iterable[str]) -> tuple[Network, ...]:
    """Networks that are written as `10.0.0.0/8`. Raises `ValueError`."""
    return tuple(ip_network(text) for text in texts)
