"""
`dosvoces check`: what is wrong with this configuration on this machine, and how to mend it.

Every check is a small function that yields findings; none changes anything, rings anybody or sends a mail. The store
and the mailbox are given, so that this module knows no adapter.
"""

import asyncio
import errno
import ipaddress
import os
import resource
import secrets
import shutil
import socket
import stat
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from dosvoces.errors import MailError, StoreError
from dosvoces.mail import Mailbox
from dosvoces.settings import PORTS_PER_CONNECTION, HostPort, Settings, Trunk, is_loopback
from dosvoces.sip.message import MessageError, Response, compose, parse
from dosvoces.store import Store

OPTIONS_LIMIT_S = 4.0  # for a trunk's answer; three tries fit in
OPTIONS_REPEATS_S = (0.5, 1.0, 2.0)  # T1, doubling (RFC 3261 §17.1.2.2)
RESOLVE_LIMIT_S = 5.0
MIN_DISK_BYTES = 100 << 20  # a connection takes some kilobytes; below that the end is near
FILES_BESIDE_MEDIA = 200  # descriptors for the record, HTTP clients, mail connections, logs
EARLIEST_TIME = 1_767_225_600  # 2026-01-01T00:00Z: before that this program did not exist


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


async def examine(settings: Settings, *, file: Path | None, store: Store, mailbox: Mailbox) -> list[Finding]:
    """All findings. `store` is a reader, not yet open; it and `mailbox` are closed in the end."""
    findings = [*_configuration(file), *_clock(time.time())]
    try:
        findings += [finding async for finding in _database(settings, store)]
        findings += [finding async for finding in _mail(settings, mailbox)]
    finally:
        await mailbox.close()
        await store.close()
    findings += [
        *_http(settings),
        *offline(settings),
        *_sip_socket(settings),
        *_media_ports(settings),
        *_descriptors(settings, *resource.getrlimit(resource.RLIMIT_NOFILE)),
    ]
    for trunk in settings.trunks:
        findings += [finding async for finding in _trunk(settings, trunk)]
    return findings


def offline(settings: Settings) -> list[Finding]:
    """What the settings alone tell: cheap enough for every start."""
    return [*_dialing(settings), *_addresses(settings)]


# --- the machine and the file ---


def _configuration(file: Path | None) -> Iterator[Finding]:
    if file is None:
        yield Finding(Level.OK, "configuration", "no dosvoces.toml: defaults and the environment are used")
        return
    yield Finding(Level.OK, "configuration", f"{file} is valid")
    text = file.read_text(encoding="utf-8", errors="replace")
    if file.stat().st_mode & stat.S_IROTH and any(word in text for word in ("password =", "password=", "://")):
        yield Finding(
            Level.WARNING,
            "configuration",
            f"every account of this machine can read {file}, and it may hold a password",
            f"chmod 600 {file}, or put the secret in a file of its own (password_file, url_file)",
        )


def _clock(now: float) -> Iterator[Finding]:
    if now < EARLIEST_TIME:
        yield Finding(
            Level.ERROR,
            "clock",
            f"it says {time.strftime('%Y-%m-%d', time.gmtime(now))}",
            "set the time, for instance with systemd-timesyncd: the record and certificates go by it",
        )
    else:
        yield Finding(Level.OK, "clock", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now)))


def _descriptors(settings: Settings, soft: int, hard: int) -> Iterator[Finding]:
    needed = PORTS_PER_CONNECTION * settings.dialing.max_connections + FILES_BESIDE_MEDIA
    if soft != resource.RLIM_INFINITY and soft < needed:
        remedy = f"ulimit -n {needed}, or LimitNOFILE={needed} in the systemd unit"
        if hard != resource.RLIM_INFINITY and hard < needed:
            remedy += f" (the hard limit of {hard} is too low as well)"
        text = f"{soft} open files are allowed, {settings.dialing.max_connections} connections need {needed}"
        yield Finding(Level.ERROR, "open files", text, f"{remedy}; or lower [dialing] max_connections")
    else:
        yield Finding(Level.OK, "open files", f"{needed} are enough")


# --- record, mail, HTTP ---


async def _database(settings: Settings, store: Store) -> AsyncIterator[Finding]:
    """The record is only read, so that this works beside the service and makes nothing for another account."""
    path = Path(settings.database.url.get_secret_value().removeprefix("sqlite:///"))
    if (finding := _place(path)) is not None:
        yield finding
        return
    try:
        await store.open()
    except StoreError as error:
        yield Finding(Level.ERROR, "database", str(error), "see [database] url")
    else:
        yield Finding(Level.OK, "database", f"{path} can be read and written")


def _place(path: Path) -> Finding | None:
    """What can be said of the record's file without opening it; `None` if it is there and may be written."""
    remedy = "see [database] url, or chown it to the service's account"
    if not os.access(path.parent, os.W_OK | os.X_OK):
        return Finding(Level.ERROR, "database", f"nothing can be written in {path.parent.absolute()}", remedy)
    if path.exists() and not os.access(path, os.W_OK):
        return Finding(Level.ERROR, "database", f"{path} can't be written", remedy)
    if shutil.disk_usage(path.parent).free < MIN_DISK_BYTES:
        text = f"less than {MIN_DISK_BYTES >> 20} MiB are free for {path}"
        return Finding(Level.ERROR, "database", text, "make room, or move it: [database] url")
    if not path.exists():
        return Finding(Level.OK, "database", f"{path} will be made at the first start")
    return None


async def _mail(settings: Settings, mailbox: Mailbox) -> AsyncIterator[Finding]:
    inbox = settings.mail.url.get_secret_value() == "inbox:"
    try:
        await mailbox.check()
    except MailError as error:
        yield Finding(Level.ERROR, "mail", str(error), "see [mail] url; nobody is dialled while mail is refused")
        return
    if inbox:
        yield Finding(
            Level.OK, "mail", "mails are kept here (dosvoces mail list)", 'to send them: [mail] url = "smtp://…"'
        )
        return
    yield Finding(Level.OK, "mail", "the mail server takes us")
    if settings.mail.from_.rstrip(">").endswith("@localhost"):
        yield Finding(Level.WARNING, "mail", "the sender is nobody's address", '[mail] from = "Name <you@your-domain>"')


def _http(settings: Settings) -> Iterator[Finding]:
    address = HostPort(settings.http.host, settings.http.port)
    error = _bind_error(address, socket.SOCK_STREAM)
    if error is None:
        yield Finding(Level.OK, "http", f"{address} is free")
    else:
        yield Finding(_taken(error), "http", f"{address}: {error.strerror}", _free_it(error, "[http] host, port"))


# --- dialling ---


def _dialing(settings: Settings) -> Iterator[Finding]:
    if not settings.trunks:
        yield Finding(Level.ERROR, "trunk", "there is none: no call can be made", "add a [[trunks]] section")
        return
    yield Finding(Level.OK, "countries", f"numbers of {', '.join(settings.countries)} may be dialled")
    for trunk in settings.trunks:
        if trunk.carrier == "fake":
            yield Finding(Level.WARNING, f"trunk {trunk.name}", "it is a scripted one: nobody is rung")
        elif trunk.caller_id is None:
            yield Finding(
                Level.WARNING,
                f"trunk {trunk.name}",
                "no caller_id: what both parties see is up to the carrier, and some refuse the call",
                'caller_id = "+34910000000", a number of this account',
            )
        if trunk.srtp != "off" and trunk.proxy is not None and trunk.proxy.transport in ("udp", "tcp"):
            yield Finding(
                Level.WARNING,
                f"trunk {trunk.name}",
                f'srtp = "{trunk.srtp}", and its keys go over {trunk.proxy.transport}: who reads those can listen in',
                "a proxy with ;transport=tls, if the carrier has one",
            )


def _addresses(settings: Settings) -> Iterator[Finding]:
    """Whether a trunk on another machine can reach us, by what is written."""
    far = next((t for t in settings.trunks if t.proxy is not None and not is_loopback(t.proxy.host)), None)
    if far is None or far.proxy is None:
        return
    if settings.sip.bind.loopback:
        yield Finding(
            Level.ERROR,
            "sip",
            f"bound to {settings.sip.bind} it can't reach {far.proxy.host} (trunk {far.name})",
            f'[sip] bind = "0.0.0.0:{settings.sip.bind.port}"',
        )
    if is_loopback(settings.media.advertised or settings.media.address):
        yield Finding(
            Level.ERROR,
            "media",
            f"audio of trunk {far.name} can't come to {settings.media.advertised or settings.media.address}",
            '[media] address = "0.0.0.0" and advertised = the IP address that the trunk shall send audio to',
        )
    if _private(settings.media.advertised or settings.media.address) and _public_literal(far.proxy.host):
        yield Finding(
            Level.WARNING,
            "media",
            "the advertised address is a private one and the trunk is on the internet",
            "behind a NAT: [media] advertised = the public address, and forward [media] ports to this machine",
        )


def _private(host: str) -> bool:
    return ipaddress.ip_address(host).is_private and not is_loopback(host)


def _public_literal(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return False


# --- sockets ---


def _sip_socket(settings: Settings) -> Iterator[Finding]:
    if not any(trunk.carrier == "sip" for trunk in settings.trunks):
        return
    error = _bind_error(settings.sip.bind, socket.SOCK_DGRAM)
    if error is None:
        yield Finding(Level.OK, "sip", f"UDP {settings.sip.bind} is free")
    else:
        text = f"UDP {settings.sip.bind}: {error.strerror}"
        yield Finding(_taken(error), "sip", text, _free_it(error, "[sip] bind"))


def _media_ports(settings: Settings) -> Iterator[Finding]:
    ports, wanted = settings.media.ports, settings.dialing.max_connections
    if ports.connections < wanted:
        yield Finding(
            Level.ERROR,
            "media",
            f"ports {ports} are enough for {ports.connections} connections, {wanted} are allowed",
            f'[media] ports = "{ports.low}-{ports.low + PORTS_PER_CONNECTION * wanted - 1}" or wider, '
            "or lower [dialing] max_connections",
        )
        return
    error = _bind_error(HostPort(settings.media.address, ports.low), socket.SOCK_DGRAM)
    if error is not None and error.errno != errno.EADDRINUSE:
        text = f"UDP {settings.media.address}: {error.strerror}"
        yield Finding(Level.ERROR, "media", text, "[media] address must be one of this machine's, or 0.0.0.0")
        return
    taken = sum(
        _bind_error(HostPort(settings.media.address, port), socket.SOCK_DGRAM) is not None
        for port in range(ports.low, ports.high + 1)
    )
    if (ports.high - ports.low + 1 - 2 * taken) // PORTS_PER_CONNECTION < wanted:  # each spoils the pair that it is in
        yield Finding(
            Level.WARNING,
            "media",
            f"{taken} of the UDP ports {ports} are taken by other programs",
            "choose another range in [media] ports",
        )
    else:
        yield Finding(Level.OK, "media", f"UDP ports {ports} have room for {ports.connections} connections")


def _bind_error(address: HostPort, kind: socket.SocketKind) -> OSError | None:
    """Why `address` can't be bound; `None` if it can. Nothing stays open."""
    try:
        family, _, _, _, where = socket.getaddrinfo(address.host, address.port, type=kind, flags=socket.AI_PASSIVE)[0]
        with socket.socket(family, kind) as probe:
            if kind is socket.SOCK_STREAM:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
    except OSError as error:
        return error
    return None


def _taken(error: OSError) -> Level:
    """Taken is no error while the service itself runs, which is when most people look."""
    return Level.WARNING if error.errno == errno.EADDRINUSE else Level.ERROR


def _free_it(error: OSError, key: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"nothing to do if that is the running service; else stop the other program or change {key}"
    if error.errno == errno.EACCES:
        return f"ports below 1024 need a privilege; change {key}"
    return f"it must be an address of this machine: see {key}"


# --- trunks ---


async def _trunk(settings: Settings, trunk: Trunk) -> AsyncIterator[Finding]:
    if trunk.proxy is None:
        return
    thing, family = f"trunk {trunk.name}", socket.AF_INET6 if ":" in settings.sip.bind.host else socket.AF_INET
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(RESOLVE_LIMIT_S):
            found = await loop.getaddrinfo(trunk.proxy.host, trunk.proxy.port, family=family, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:  # TimeoutError is an OSError; a label too long is a UnicodeError.
        why = "no answer from the DNS" if isinstance(error, TimeoutError) else str(error)
        yield Finding(Level.ERROR, thing, f"{trunk.proxy.host} can't be resolved: {why}", "mend its proxy, or the DNS")
        return
    peer = HostPort(str(found[0][4][0]), int(found[0][4][1]))
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
