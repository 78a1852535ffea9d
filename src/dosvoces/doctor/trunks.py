"""
What `dosvoces check` finds out of a trunk: whether the DNS knows it, whether it answers, whether it takes our account.

Here are the values of a finding too. Nothing is changed at the trunk, and nobody is rung.
"""

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from dosvoces.carriers.dns import Dns
from dosvoces.settings import HostPort, Settings, Trunk
from dosvoces.settings.tls import tls_of
from dosvoces.sip.agent import Agent
from dosvoces.sip.api import Hop
from dosvoces.sip.digest import Credentials
from dosvoces.sip.message import MessageError, Response, compose, parse, split_values
from dosvoces.sip.resolve import Query, ResolveError, Target, ordered
from dosvoces.sip.transaction import Failure
from dosvoces.sip.uri import literal

OPTIONS_LIMIT_S = 4.0  # for a trunk's answer; three tries fit in
OPTIONS_REPEATS_S = (0.5, 1.0, 2.0)  # T1, doubling (RFC 3261 §17.1.2.2)
RESOLVE_LIMIT_S = 5.0
MAX_HOPS = 4  # of one trunk that are asked
SOON = timedelta(days=14)  # before a certificate ends it is time to say so


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    """Works, but perhaps not as meant."""
    ERROR = "error"
    """No call can be made, or none with sound."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    thing: str
    """What was looked at, in a word or two."""
    text: str
    """What is so."""
    remedy: str = ""
    """What to do about it; empty where nothing is."""


async def examine_trunk(settings: Settings, trunk: Trunk) -> AsyncIterator[Finding]:
    """All findings of one trunk."""
    if trunk.proxy is None:
        return
    thing = f"trunk {trunk.name}"
    try:
        located = await Dns(lifetime_s=RESOLVE_LIMIT_S).locate(
            Target(*trunk.proxy),
            transports=Agent.transports,
            families=("AAAA",) if ":" in settings.sip.bind.host else ("A",),
        )
    except ResolveError as error:
        yield Finding(Level.ERROR, thing, f"{trunk.proxy} can't be resolved: {error}", "mend its proxy, or the DNS")
        return
    for hop in ordered(located.places, lambda most: most)[:MAX_HOPS]:
        if hop.transport == "udp":
            async for finding in _hop(settings, thing, HostPort(hop.host, hop.port)):
                yield finding
        else:
            async for finding in _connection(settings, thing, hop):
                yield finding
    for host in (host for host in trunk.hosts if literal(host) is None):
        answer = await Dns(lifetime_s=RESOLVE_LIMIT_S).ask(
            Query(host, "AAAA" if ":" in settings.sip.bind.host else "A")
        )
        if not answer.records:
            text = f"{host} of its hosts can't be resolved: {answer.failure or 'it has no address'}"
            yield Finding(Level.WARNING, thing, text, "mend that name, or the DNS")
    if trunk.register_:
        yield await _account(settings, trunk, ordered(located.places, lambda most: most)[0])


async def _hop(settings: Settings, thing: str, peer: HostPort) -> AsyncIterator[Finding]:
    # The port may be the running service's: ask from another one of the same address.
    try:
        status = await ask_options(peer, local=HostPort(settings.sip.bind.host, 0))
    except OSError as error:
        text = f"{peer} can't be reached: {error.strerror or error}"
        yield Finding(Level.ERROR, thing, text, "mend its proxy; see that it runs and that UDP gets there")
        return
    if status is None:
        yield Finding(
            Level.WARNING,
            thing,
            f"{peer} does not answer OPTIONS within {OPTIONS_LIMIT_S:.0f} s",
            "mend its proxy or open the firewall for UDP; some carriers stay silent to strangers and still take calls",
        )
    else:
        yield Finding(Level.OK, thing, f"{peer} answers ({status})")


async def _connection(settings: Settings, thing: str, hop: Hop) -> AsyncIterator[Finding]:
    """Connect as the service does, from another port, and ask with OPTIONS."""
    try:
        agent = await Agent.open(bind=(settings.sip.bind.host, 0), tls=replace(tls_of(settings), listen=False))
    except ValueError:
        return  # the files' fault, which has a finding of its own
    try:
        uri = f"sip:{HostPort(hop.host, hop.port)}"
        answer = await agent.request(
            "OPTIONS", uri, hop, from_uri="sip:dosvoces@" + agent.advertised[0], to_uri=uri, limit_s=OPTIONS_LIMIT_S
        )
        ends = agent.certificate_ends(hop)
        why = agent.why_unreachable(hop)
    finally:
        await agent.close()
    if answer is Failure.TRANSPORT:
        text = f"{hop} can't be reached: {why or 'it closed the connection'}"
        yield Finding(Level.ERROR, thing, text, _remedy(why))
        return
    if isinstance(answer, Failure):
        text = f"{hop} does not answer OPTIONS within {OPTIONS_LIMIT_S:.0f} s, but takes the connection"
        yield Finding(Level.WARNING, thing, text, "some carriers stay silent to strangers and still take calls")
    else:
        yield Finding(Level.OK, thing, f"{hop} answers ({answer.code} {answer.phrase})")
    if ends is not None:
        yield _ends(thing, "its certificate", ends, "tell the carrier")


def _remedy(why: str) -> str:
    if "of ours" in why or "our certificate" in why:
        return "tls_certificate_file and tls_key_file in [sip] must be a certificate that the carrier has said it takes"
    if "certificate" in why:
        return "its certificate must be of the host that proxy names, and be signed by who is in [sip] tls_ca_file"
    return "mend its proxy; see that it runs and that TCP gets there"


def unverified(settings: Settings) -> Iterator[Finding]:
    """Trunks that anybody may speak for."""
    for trunk in settings.trunks:
        if not trunk.tls_verify:
            yield Finding(
                Level.WARNING,
                f"trunk {trunk.name}",
                "tls_verify = false: nobody looks at its certificate; whoever sits between can listen in",
                "remove that line; a certificate of your own is believed by [sip] tls_ca_file",
            )


def own_certificate(settings: Settings) -> Iterator[Finding]:
    """What is so of the files of TLS, if any trunk or setting asks for them."""
    tls = tls_of(settings)
    try:
        tls.client_context()
        ends = tls.own_certificate_ends()
    except ValueError as error:
        yield Finding(Level.ERROR, "tls", str(error), "see tls_ca_file, tls_certificate_file and tls_key_file in [sip]")
        return
    if ends is not None:
        yield _ends("tls", "our certificate", ends, "renew it, and start the service again")


def _ends(thing: str, what: str, ends: datetime, remedy: str) -> Finding:
    text = f"{what} is good until {ends:%Y-%m-%d}"
    if ends - datetime.now(UTC) < SOON:
        return Finding(Level.WARNING, thing, text, remedy)
    return Finding(Level.OK, thing, text)


async def _account(settings: Settings, trunk: Trunk, hop: Hop) -> Finding:
    """Ask the registrar whom it knows: a REGISTER without Contact changes nothing (RFC 3261 §10.2.3)."""
    thing, proxy, user = f"trunk {trunk.name}", trunk.proxy, trunk.username or ""
    assert proxy is not None
    password = trunk.password.get_secret_value() if trunk.password else ""
    host = str(HostPort(proxy.host, proxy.port)) if proxy.port not in (None, 5060) else proxy.host
    uri = f"sip:{user}@{host}"
    agent = await Agent.open(bind=(settings.sip.bind.host, 0), tls=replace(tls_of(settings), listen=False))
    try:
        answer = await agent.request(
            "REGISTER",
            f"sip:{host}",
            hop,
            from_uri=uri,
            to_uri=uri,
            credentials=Credentials(trunk.auth_username or user, password, trunk.realm or "", md5=trunk.digest_md5),
            limit_s=OPTIONS_LIMIT_S,
        )
    finally:
        await agent.close()
    if isinstance(answer, Failure):
        return Finding(Level.ERROR, thing, f"{hop} does not answer REGISTER", "mend its proxy or open the firewall")
    if not 200 <= answer.code < 300:
        text = f"the registrar refuses {user}: {answer.code} {answer.phrase}"
        return Finding(Level.ERROR, thing, text, "see username, auth_username, password and realm")
    bindings = len(split_values(answer.values("contact")))
    return Finding(Level.OK, thing, f"the registrar takes {user}; {bindings or 'nobody'} registered there now")


async def ask_options(peer: HostPort, *, local: HostPort) -> str | None:
    """
    Send OPTIONS (RFC 3261 §11) and return what was answered, `200 OK`, say; any answer shows that SIP is spoken.

    `None` is silence. Raises `OSError` when the network says that nobody is there.
    """
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in peer.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.bind((local.host, local.port))
            # Connected: a closed port shows itself as an error, and nobody else is heard.
            probe.connect((peer.host, peer.port))
            call_id = secrets.token_hex(12)
            request = _options(peer, HostPort(*probe.getsockname()[:2]), call_id)
            async with asyncio.timeout(OPTIONS_LIMIT_S):
                repeats = asyncio.ensure_future(_repeat(probe, request))
                try:
                    return await _answer(loop, probe, call_id)
                finally:
                    repeats.cancel()
        except TimeoutError:
            return None


async def _repeat(probe: socket.socket, request: bytes) -> None:
    for pause in (*OPTIONS_REPEATS_S, OPTIONS_LIMIT_S):
        try:
            probe.send(request)
        except OSError:
            return  # The reader is told the same.
        await asyncio.sleep(pause)


async def _answer(loop: asyncio.AbstractEventLoop, probe: socket.socket, call_id: str) -> str:
    while True:
        data = await loop.sock_recv(probe, 65_535)
        try:
            message = parse(data)
        except MessageError:
            continue
        if isinstance(message, Response) and message.header("call-id") == call_id and message.code >= 200:
            return f"{message.code} {message.phrase}".strip()


def _options(peer: HostPort, local: HostPort, call_id: str) -> bytes:
    headers = [
        ("Via", f"SIP/2.0/UDP {local};branch=z9hG4bK{secrets.token_hex(8)};rport"),
        ("Max-Forwards", "70"),
        ("From", f"<sip:dosvoces@{local}>;tag={secrets.token_hex(6)}"),
        ("To", f"<sip:{peer}>"),
        ("Call-ID", call_id),
        ("CSeq", "1 OPTIONS"),
        ("Contact", f"<sip:dosvoces@{local}>"),
        ("Accept", "application/sdp"),
    ]
    return compose(f"OPTIONS sip:{peer} SIP/2.0", headers)
