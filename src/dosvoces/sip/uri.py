"""
What is needed of a SIP URI that is kept as text: where it leads, and whether a route is loose.

Tolerant on purpose: hosts such as `pbx1` or `[::1]`, `SIP:` and `;transport=UDP` in any case (RFC 3261 §19.1.4) are
fine. Nothing here raises on a peer's text.
"""

import ipaddress
import re
from functools import lru_cache

from .api import Hop

DEFAULT_PORT = 5060  # RFC 3261 §19.1.2, for UDP and TCP
DEFAULT_TLS_PORT = 5061  # RFC 3261 §19.1.2
TRANSPORTS = ("udp", "tcp", "tls")
MAX_HOST = 255  # characters, RFC 1035 §2.3.4; what is longer leads nowhere and is not kept in a cache

_TRANSPORT = re.compile(r";\s*transport\s*=\s*([^;?\s]+)", re.IGNORECASE)


def literal(host: str) -> str | None:
    """`host` as an IP address without brackets, `None` if it is a name."""
    return _literal(host) if len(host) <= MAX_HOST else None


@lru_cache(maxsize=1024)
def _literal(host: str) -> str | None:
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
    # RFC 5118 §4.9: an IPv4 address in IPv6 dress is the same machine, and reached by IPv4.
    return str(getattr(address, "ipv4_mapped", None) or address)


def split_host_port(text: str) -> tuple[str, int | None]:
    """`host`, `host:port`, `[v6]:port` → host (brackets off) and port, `None` where there is none or it's no port."""
    return _split_host_port(text) if len(text) <= MAX_HOST else (text, None)


@lru_cache(maxsize=1024)
def _split_host_port(text: str) -> tuple[str, int | None]:
    text = text.strip()
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.strip().removeprefix(":")
    else:
        host, _, port = text.partition(":")
        if ":" in port:  # an IPv6 address without its brackets
            return text, None
    port = port.strip()
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65_536):
        return host.strip(), None
    return host.strip(), int(port)


def host_port(uri: str) -> tuple[str, int | None]:
    """The host and port of a SIP URI."""
    rest = uri.partition(":")[2]
    user, at, after = rest.partition("@")
    return split_host_port((after if at else user).partition(";")[0].partition("?")[0])


def transport_of(uri: str) -> str:
    """The transport that the URI asks for, in lower case; `""` if it leaves that open. `sips:` is TLS."""
    if uri[:5].lower() == "sips:":
        return "tls"
    match = _TRANSPORT.search(uri, uri.find("@") + 1)
    return match[1].lower() if match else ""


def destination(uri: str, along: Hop) -> Hop | None:
    """
    Where the URI leads if its host is a literal address that can be the peer's, else `None` (names are the shell's
    business).

    `along` is the hop that the dialog began with. A URI that asks for no transport stays with that hop's: we diverge
    from RFC 3263 §4.1 (UDP), since a trunk that is spoken to by TLS is not to be lost, or overheard, for a Contact
    that forgot to say so. A certificate on the way must be of the same name, as the URI has none.
    """
    return _destination(uri, along) if len(uri) <= MAX_HOST else _find_destination(uri, along)


def _find_destination(uri: str, along: Hop) -> Hop | None:
    host, port = host_port(uri)
    address = literal(host)
    if address is None or not _may_be_of(address, along.host):
        return None
    asked = transport_of(uri)
    if asked and asked not in TRANSPORTS:
        return None
    transport = asked or along.transport
    same_host = address == along.host
    if same_host and not asked and port is None and transport != "udp":
        return along
    port = port or (DEFAULT_TLS_PORT if transport == "tls" else DEFAULT_PORT)
    if (address, port, transport) == along[:3]:
        return along
    return Hop(address, port, transport, along.name if transport == "tls" else "", same_host and along.tcp_too)


def _may_be_of(address: str, known: str) -> bool:
    """
    Whether a peer that we reach at `known` can mean `address`: our sockets are of one family, and nobody is at 0.0.0.0.

    A loopback address would be this very machine: what listens there is no business of a trunk's.
    """
    if literal(known) is None:
        return True
    there, here = ipaddress.ip_address(address), ipaddress.ip_address(known)
    if there.version != here.version or there.is_unspecified or there.is_multicast:
        return False
    return here.is_loopback or not there.is_loopback


_destination = lru_cache(maxsize=1024)(_find_destination)
"""A trunk's own URIs come in every message of it: in Contact, in Record-Route."""


def is_loose(uri: str) -> bool:
    """Whether a route's URI has the `lr` parameter (RFC 3261 §16.12.1.1); `lr=on` and `;LR` count."""
    rest = uri.partition(":")[2]
    _user, at, after = rest.partition("@")
    parameters = (after if at else rest).partition("?")[0].split(";")[1:]
    return any(parameter.partition("=")[0].strip().lower() == "lr" for parameter in parameters)


def without_headers(uri: str) -> str:
    """The URI fit for a Request-URI: no `?headers`, no `method` parameter (RFC 3261 §19.1.1, table 1)."""
    at = uri.find("@")
    head, rest = uri[: at + 1], uri[at + 1 :]
    rest = rest.partition("?")[0]
    if ";" not in rest:
        return head + rest
    host, *parameters = rest.split(";")
    kept = [each for each in parameters if each.partition("=")[0].strip().lower() != "method"]
    return head + ";".join([host, *kept])


def is_request_uri(uri: str) -> bool:
    """Whether a peer's Contact may go into a start line as it is: SIP scheme, one word of printable ASCII."""
    scheme = uri[:5].lower()
    return (
        (scheme.startswith("sip:") or scheme == "sips:")
        and uri.isascii()
        and uri.isprintable()
        and " " not in uri
        and "<" not in uri
        and ">" not in uri
        and '"' not in uri
    )
