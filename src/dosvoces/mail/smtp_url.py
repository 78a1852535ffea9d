"""
`mail.url` for SMTP as a value: `smtp://user:password@host:587?tls=starttls`. Pure.

No error text repeats the URL: it may hold a password.
"""

import difflib
import enum
import ipaddress
import re
import socket
from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from dosvoces.errors import SettingsError

SUBMISSION_PORT = 587  # RFC 6409 §3.1
SUBMISSIONS_PORT = 465  # RFC 8314 §7.3: TLS from the first byte
TIMEOUT_S = 10.0
LONGEST_TIMEOUT_S = 60.0
CONNECTIONS = 8
MOST_CONNECTIONS = 64


class Tls(enum.StrEnum):
    """How the way to the server is encrypted."""

    STARTTLS = "starttls"
    """Asked for on a plain connection; without it nothing is sent."""
    IMPLICIT = "implicit"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class SmtpSettings:
    """A submission server and how to speak to it."""

    host: str
    port: int
    tls: Tls
    username: str | None = None
    password: str = field(default="", repr=False)
    ca: str | None = None
    """A PEM file; if set, its certificates alone are trusted."""
    timeout_s: float = TIMEOUT_S
    """For one delivery in all."""
    connections: int = CONNECTIONS
    """At most so many are open at once."""
    ehlo: str = "[127.0.0.1]"
    """Our own name in EHLO: a domain name or an address literal (RFC 5321 §4.1.4)."""


_OPTIONS = ("tls", "ca", "timeout", "connections", "ehlo", "allow_plain_login")


def parse_mail_url(url: str) -> SmtpSettings:
    """
    The settings in `url`. Options: `tls` (`starttls`, `implicit`, `none`), `ca` (path), `timeout` (seconds),
    `connections`, `ehlo` (name), `allow_plain_login=1`. Raises `SettingsError` that says what to write instead.
    """
    parts = _split(url)
    options = _options(parts.query)
    tls = _tls(parts.scheme, options.get("tls"))
    username = unquote(parts.username) if parts.username else None
    if parts.password and username is None:
        raise SettingsError("mail.url has a password but no user; write smtp://user:password@host")
    host = parts.hostname or ""
    if username is not None and tls is Tls.NONE and not _loopback(host) and options.get("allow_plain_login") != "1":
        raise SettingsError(
            f"mail.url would send the password to {host} unencrypted; use tls=starttls or tls=implicit, "
            "or allow it with allow_plain_login=1"
        )
    if "ca" in options and tls is Tls.NONE:
        raise SettingsError("mail.url has ca= but tls=none: without TLS there is no certificate to check")
    return SmtpSettings(
        host=host,
        port=_port(parts) or (SUBMISSIONS_PORT if tls is Tls.IMPLICIT else SUBMISSION_PORT),
        tls=tls,
        username=username,
        password=unquote(parts.password or ""),
        ca=options.get("ca"),
        timeout_s=_number(options, "timeout", TIMEOUT_S, LONGEST_TIMEOUT_S),
        connections=int(_number(options, "connections", CONNECTIONS, MOST_CONNECTIONS)),
        ehlo=_ehlo(options.get("ehlo")),
    )


def _split(url: str) -> SplitResult:
    encode = "characters like # / ? @ : % in the user or the password must be percent-encoded (@ is %40)"
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise SettingsError(f"mail.url can't be read; {encode}") from error
    if parts.scheme not in ("smtp", "smtps"):
        raise SettingsError("mail.url must begin with smtp://, smtps:// or be inbox:")
    if parts.fragment or parts.path not in ("", "/") or not url.isprintable():
        raise SettingsError(f"mail.url has more than user, host, port and options; {encode}")
    if not parts.hostname or not re.fullmatch(r"[A-Za-z0-9._:-]+", parts.hostname):
        raise SettingsError(f"mail.url names no host; write smtp://host:587 ({encode})")
    _port(parts)
    return parts


def _port(parts: SplitResult) -> int | None:
    try:
        port = parts.port
    except ValueError as error:
        raise SettingsError(
            "mail.url: the port must be 1 to 65535; if a user or password comes before the host, "
            "characters like # / ? @ : % in it must be percent-encoded"
        ) from error
    if port == 0:
        raise SettingsError("mail.url: the port must be 1 to 65535")
    return port


def _options(query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _OPTIONS:
            near = difflib.get_close_matches(name, _OPTIONS, n=1)
            remedy = f"do you mean {near[0]}?" if near else f"there are {', '.join(_OPTIONS)}"
            raise SettingsError(f"mail.url: {name!r} is no option; {remedy}")
        if name in options:
            raise SettingsError(f"mail.url: {name}= is given twice")
        options[name] = value
    return options


def _tls(scheme: str, option: str | None) -> Tls:
    if option is None:
        return Tls.IMPLICIT if scheme == "smtps" else Tls.STARTTLS
    if option not in tuple(Tls):
        raise SettingsError(f"mail.url: tls={option!r} must be one of {', '.join(Tls)}")
    if scheme == "smtps" and option != Tls.IMPLICIT:
        raise SettingsError(f"mail.url: smtps:// is TLS from the first byte; for tls={option} write smtp://")
    return Tls(option)


def _number(options: dict[str, str], name: str, default: float, most: float) -> float:
    text = options.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"\d{1,4}(\.\d{1,3})?", text, re.ASCII) or not 0 < float(text) <= most:
        raise SettingsError(f"mail.url: {name}={text!r} must be a number above 0, up to {most:g}")
    if isinstance(default, int) and not text.isdigit():
        raise SettingsError(f"mail.url: {name}={text!r} must be a whole number")
    return float(text)


def _ehlo(option: str | None) -> str:
    """
    `option`, this machine's own name if it is a full one, or an address literal.

    Not `socket.getfqdn`: it asks the DNS, and a first mail would wait for that.
    """
    name = socket.gethostname() if option is None else option
    if re.fullmatch(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+|\[[A-Za-z0-9:.]+\]", name, re.ASCII):
        return name
    if option is not None:
        raise SettingsError(f"mail.url: ehlo={option!r} must be a full domain name, or an address in brackets")
    return "[127.0.0.1]"


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
