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
import shutil
import socket
import stat
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

from dosvoces.app.limits import budget
from dosvoces.doctor.door import examine_door
from dosvoces.doctor.hours import examine_hours
from dosvoces.doctor.trunks import Finding as Finding
from dosvoces.doctor.trunks import Level as Level
from dosvoces.doctor.trunks import examine_trunk, own_certificate, unverified
from dosvoces.errors import MailError, MediaError, NoRecordYet, SettingsError, StoreError
from dosvoces.mail import Mailbox
from dosvoces.media import ng
from dosvoces.settings import PORTS_PER_CONNECTION, HostPort, Settings, is_loopback
from dosvoces.settings.sources import secret_files, secrets_in
from dosvoces.store import Store
from dosvoces.store.address import SqliteAddress, parse_database_url
from dosvoces.store.keys import Keys

MIN_DISK_BYTES = 100 << 20  # a connection takes some kilobytes; below that the end is near
FILES_BESIDE_MEDIA = 200  # descriptors for the record, HTTP clients, mail connections, logs
EARLIEST_TIME = 1_767_225_600  # 2026-01-01T00:00Z: before that this program did not exist


async def examine(
    settings: Settings, *, file: Path | None, store: Store, mailbox: Mailbox, keys: Keys
) -> list[Finding]:
    """All findings. `store` is a reader, not yet open; it, `mailbox` and `keys` are closed in the end."""
    findings = [*_configuration(file), *_secret_files(file, os.environ), *_clock(time.time()), *_budget(settings)]
    try:
        findings += [finding async for finding in _database(settings, store)]
        findings += [finding async for finding in _mail(settings, mailbox)]
        findings += [finding async for finding in examine_door(settings, keys)]
    finally:
        await keys.close()
        await mailbox.close()
        await store.close()
    findings += [
        *_http(settings),
        *offline(settings),
        *_sip_socket(settings),
        *own_certificate(settings),
        *(_media_ports(settings) if settings.media.relay == "worker" else await _rtpengines(settings)),
        *_descriptors(settings, *resource.getrlimit(resource.RLIMIT_NOFILE)),
    ]
    for trunk in settings.trunks:
        findings += [finding async for finding in examine_trunk(settings, trunk)]
    return findings


def offline(settings: Settings) -> list[Finding]:
    """What the settings alone tell: cheap enough for every start."""
    return [*_dialing(settings), *unverified(settings), *_addresses(settings), *examine_hours(settings)]


# --- the machine and the file ---


def _configuration(file: Path | None) -> Iterator[Finding]:
    if file is None:
        yield Finding(Level.OK, "configuration", "no dosvoces.toml: defaults and the environment are used")
        return
    yield Finding(Level.OK, "configuration", f"{file} is valid")
    if file.stat().st_mode & stat.S_IROTH and (secret := secrets_in(file)):
        yield Finding(
            Level.WARNING,
            "configuration",
            f"every account of this machine can read {file}, and it holds {', '.join(secret)}",
            f"chmod 600 {file}, or put each secret in a file of its own (password_file, secret_file, url_file)",
        )


def _secret_files(file: Path | None, environ: Mapping[str, str]) -> Iterator[Finding]:
    """The same for secrets that have a file of their own, which `umask` leaves to be read by all."""
    for where, secret in secret_files(file, environ):
        # What a container's runtime mounts read-only can't be changed, and nobody else is in there.
        if _open_to_all(secret) and not os.statvfs(secret).f_flag & os.ST_RDONLY:
            yield Finding(
                Level.WARNING,
                "configuration",
                f"every account of this machine can read {secret}, which is {where}",
                f"chmod 600 {secret}, and chown it to the service's account",
            )


def _open_to_all(file: Path) -> bool:
    """Whether everybody can read it: every folder on the way must let them through, too."""
    file = file.resolve()
    return bool(file.stat().st_mode & stat.S_IROTH) and all(each.stat().st_mode & stat.S_IXOTH for each in file.parents)


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


def _budget(settings: Settings) -> Iterator[Finding]:
    """Whether the day's minutes and money can be counted, where they are limited."""
    try:
        allowed = budget(settings)
    except SettingsError as error:
        yield Finding(Level.ERROR, "budget", str(error), "see docs/howto/limits.md")
        return
    if allowed.rates is not None:
        yield Finding(Level.OK, "budget", f"{len(allowed.rates.by_prefix)} rates in {allowed.rates.currency}")


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
    address = parse_database_url(settings.database.address)
    if isinstance(address, SqliteAddress) and (finding := _place(address.path)) is not None:
        yield finding
        return
    try:
        await store.open()
        concerns = await store.concerns()
    except NoRecordYet:
        yield Finding(Level.OK, "database", f"{address} is there; the record is made in it at the first start")
    except StoreError as error:
        yield Finding(Level.ERROR, "database", str(error), "see [database] url")
    else:
        for concern in concerns:
            level = Level.ERROR if concern.stops else Level.WARNING
            yield Finding(level, "database", concern.text, concern.remedy)
        if not any(concern.stops for concern in concerns):
            yield Finding(Level.OK, "database", f"{address} can be read and written")


def _place(path: Path) -> Finding | None:
    """What can be said of the record's file without opening it; `None` if it is there and may be written."""
    remedy = "see [database] url, or chown it to the service's account"
    if not path.parent.is_dir():
        text = f"there is no folder {path.parent.absolute()}"
        return Finding(Level.ERROR, "database", text, "make it, or see [database] url")
    if path.is_dir():
        remedy = f'name a file in it: [database] url = "sqlite:///{path / "dosvoces.db"}"'
        return Finding(Level.ERROR, "database", f"{path} is a folder", remedy)
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
        elif not trunk.pool:
            yield Finding(
                Level.WARNING,
                f"trunk {trunk.name}",
                "no caller_id: what both parties see is up to the carrier, and some refuse the call",
                'caller_id = "+34910000000", a number of this account',
            )
        proxy = trunk.proxy
        if trunk.srtp != "off" and proxy is not None and not (proxy.secure or proxy.transport == "tls"):
            yield Finding(
                Level.WARNING,
                f"trunk {trunk.name}",
                f'srtp = "{trunk.srtp}", and its keys go to {proxy} in clear: who reads them can listen in',
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
    if settings.media.relay == "rtpengine":
        return  # What its daemons advertise is in their own configuration.
    said = settings.media.advertised or settings.media.address
    if said == "auto":
        return  # what will be learned, nobody knows yet
    if is_loopback(said):
        yield Finding(
            Level.ERROR,
            "media",
            f"audio of trunk {far.name} can't come to {said}",
            '[media] address = "0.0.0.0" and advertised = the IP address that the trunk shall send audio to',
        )
    if _private(said) and _public_literal(far.proxy.host):
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


async def _rtpengines(settings: Settings) -> list[Finding]:
    nodes = settings.media.rtpengine
    answers = await asyncio.gather(*(ng.ping(*node) for node in nodes), return_exceptions=True)
    dead = Level.ERROR if all(isinstance(answer, MediaError) for answer in answers) else Level.WARNING
    remedy = "start it, or see [media] rtpengine: host and port of its listen-ng"
    return [
        Finding(dead, "rtpengine", str(answer), remedy)
        if isinstance(answer, MediaError)
        else Finding(Level.OK, "rtpengine", f"{node} answers")
        for node, answer in zip(nodes, answers, strict=True)
    ]


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
