"""
How a text of `dosvoces.toml` becomes a value: each function takes what was written and raises `ValueError` with the
remedy. The sections and keys are in `settings`.
"""

import ipaddress
import re
import zoneinfo
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, SecretStr

from dosvoces.errors import MailError, SettingsError

PORTS_PER_CONNECTION = 4  # RTP and RTCP for each of two sides (RFC 3550 §11)
MIN_MEDIA_PORTS = 8  # two connections: a range below that is a slip of the pen
NO_PORT = 0
DEFAULT_SIP_PORT = 5060  # RFC 3261 §19.1.2
DEFAULT_NG_PORT = 2223  # of rtpengine's listen-ng in the configuration that it ships
DEFAULT_SIPS_PORT = 5061  # RFC 3261 §19.1.2
DEFAULT_STUN_PORT = 3478  # RFC 8489 §8


class HostPort(NamedTuple):
    """Where a socket is bound or reached."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it, or be reached from it."""
        return is_loopback(self.host)


class PortRange(NamedTuple):
    """UDP ports from `low` to `high`, both included."""

    low: int
    high: int

    def __str__(self) -> str:
        return f"{self.low}-{self.high}"

    @property
    def connections(self) -> int:
        """How many connections find room in it at once."""
        return (self.high - self.low + 1) // PORTS_PER_CONNECTION


class Proxy(NamedTuple):
    """A trunk's SIP address."""

    host: str
    port: int | None = None
    """`None`: the DNS tells it (RFC 3263)."""
    transport: Literal["", "udp", "tcp", "tls"] = ""
    """Empty: the DNS tells it, and it is UDP where the DNS says nothing."""
    secure: bool = False
    """Whether it is a `sips:` URI."""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port is None else f":{self.port}"
        transport = f";transport={self.transport}" if self.transport else ""
        return f"{'sips' if self.secure else 'sip'}:{host}{port}{transport}"

    def may_use(self, transport: Literal["tcp", "tls"]) -> bool:
        """Whether requests may go this way, as far as the URI tells: without port and transport the DNS decides."""
        if self.secure or self.transport:
            return transport == ("tls" if self.secure else self.transport)
        return self.port is None and not is_literal(self.host)


def is_literal(host: str) -> bool:
    """Whether it is an IP address and no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether `host` (a literal address or a name) is this machine by its very spelling."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def spelled(pattern: str, remedy: str) -> AfterValidator:
    """For a text that fits `pattern`: pydantic would tell the pattern, which not everybody reads."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(remedy)
        return value

    return AfterValidator(check)


OwnName = Annotated[
    str, spelled(r"[a-z0-9][a-z0-9_-]{0,31}", 'write it in small letters, digits, "-" and "_", at most 32 ("main")')
]
"""What a section of several is called."""

_HOST_PORT = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.?))(?::(?P<port>\d{1,5}))?"
)
_PROXY = re.compile(r"(?P<scheme>sips?):(?P<address>[^;?@]+)(?P<parameters>(?:;[^;?]+)*)", re.IGNORECASE)
_HOST_NAME = re.compile(r"(?=.{1,253}$)(?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}", re.IGNORECASE)
_TRANSPORTS: tuple[Literal["udp", "tcp", "tls"], ...] = ("udp", "tcp", "tls")
_E164 = re.compile(r"\+[1-9]\d{6,14}")


def _port(text: str) -> int:
    if not 1 <= int(text) <= 65535:
        raise ValueError("a port is 1 to 65535")
    return int(text)


def host_port(value: object, *, default_port: int | None = None, any_port: bool = False) -> object:
    if not isinstance(value, str):
        return value
    match = _HOST_PORT.fullmatch(value)
    if match is None or (match["port"] is None and default_port is None):
        raise ValueError("write it as host:port, an IPv6 address in brackets")
    if match["v6"]:
        literal(match["v6"])
    port = match["port"] or str(default_port)
    if port == "0" and (any_port or (match["port"] is None and default_port == NO_PORT)):
        return HostPort(match["v6"] or match["host"], 0)
    return HostPort(match["v6"] or match["host"], _port(port))


def rtpengine_nodes(value: object) -> object:
    value = comma_separated(value)
    return [host_port(each, default_port=DEFAULT_NG_PORT) for each in value] if isinstance(value, list) else value


def stun_server(value: object) -> object:
    return host_port(value, default_port=DEFAULT_STUN_PORT)


def advertised_host_port(value: object) -> object:
    if value == "auto":
        return value
    return host_port(value, default_port=DEFAULT_SIP_PORT)


def literal(value: str) -> str:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        raise ValueError("an IP address is meant (media goes to addresses, not to names)") from None
    return value


def advertised_literal(value: str) -> str:
    if value == "auto":
        return value
    if ipaddress.ip_address(literal(value)).is_unspecified:
        raise ValueError("it is what others send to: an address of this machine as they see it")
    return value


def port_range(value: object) -> object:
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"(\d{1,5})\s*-\s*(\d{1,5})", value.strip())
    if match is None:
        raise ValueError('write it as "low-high", for instance "20000-29999"')
    low, high = _port(match[1]), _port(match[2])
    if low < 1024:
        raise ValueError("ports below 1024 belong to the system; begin at 1024 or above")
    if low % 2 or not high % 2:
        raise ValueError("begin with an even port and end with an odd one (RTP is even, its RTCP the odd one above)")
    if high - low + 1 < MIN_MEDIA_PORTS:
        raise ValueError(f"at least {MIN_MEDIA_PORTS} ports are needed, {PORTS_PER_CONNECTION} a connection")
    return PortRange(low, high)


def proxy(value: object) -> object:
    if not isinstance(value, str):
        return value
    match = _PROXY.fullmatch(value.strip())
    if match is None:
        raise ValueError('write it as "sip:host:5060;transport=udp"')
    parameters = dict(p.lower().partition("=")[::2] for p in match["parameters"].split(";") if p)
    transport = parameters.pop("transport", "")
    secure = match["scheme"].lower() == "sips"
    if parameters or transport not in ("", "udp", "tcp", "tls"):
        raise ValueError("the only parameter is ;transport=udp, tcp or tls")
    if secure and transport not in ("", "tls"):
        raise ValueError(f"sips: is TLS; write sip: with ;transport={transport}, or leave the parameter out")
    try:
        address = host_port(match["address"], default_port=NO_PORT)
    except ValueError as error:
        raise ValueError(f'write it as "sip:host:5060;transport=udp" ({error})') from None
    assert isinstance(address, HostPort)
    # RFC 3263 §4.2: a port, where there is one, ends the search; without one the DNS may name another.
    port = None if address.port == NO_PORT else address.port
    chosen: Literal["", "udp", "tcp", "tls"] = next((known for known in _TRANSPORTS if known == transport), "")
    return Proxy(address.host, port, chosen, secure)


def trunk_host(value: str) -> str:
    if not _HOST_NAME.fullmatch(value) and not is_literal(value):
        raise ValueError('write a name or an address alone, without a port: "sbc2.example.com", "203.0.113.9"')
    return value


def country(value: str) -> str:
    # phonenumbers is what the dial plan goes by; a region it doesn't know has no numbering plan.
    from phonenumbers import SUPPORTED_REGIONS

    if value.upper() not in SUPPORTED_REGIONS:
        raise ValueError('a country is two letters of ISO 3166, for instance "ES"')
    return value.upper()


def caller_id(value: str) -> str:
    if not _E164.fullmatch(value):
        raise ValueError('write it in E.164: "+", the country code and the number, without spaces ("+34910000000")')
    return value


def prefix(value: str) -> str:
    if not re.fullmatch(r"\+\d{0,15}", value):
        raise ValueError('a prefix is "+" and the first digits of the numbers meant; "+" alone is every number')
    return value


def mail_from(value: str) -> str:
    from dosvoces.mail.address import parse_sender

    try:
        parse_sender(value)
    except SettingsError:
        raise ValueError('write it as "Dosvoces <leads@example.com>"') from None
    return value


_DOMAIN = re.compile(r"(?:\*\.)?[a-z0-9-]+(?:\.[a-z0-9-]+)*")


def mail_domain(value: str) -> str:
    try:
        star, name = ("*.", value[2:]) if value.startswith("*.") else ("", value)
        domain = star + name.lower().encode("idna").decode("ascii")
    except UnicodeError:
        domain = ""
    if not _DOMAIN.fullmatch(domain):
        raise ValueError('write what stands behind the @: "example.com", or "*.example.com" for what is below it')
    return domain


def mail_to(value: str) -> str:
    from dosvoces.mail.address import ascii_address

    try:
        return ascii_address(value)
    except MailError:
        raise ValueError('write one plain address, "sales@example.com"') from None


def mail_url(value: SecretStr) -> SecretStr:
    from dosvoces.mail.smtp_url import parse_mail_url

    url = value.get_secret_value()
    if url in ("inbox:", "inbox"):
        return SecretStr("inbox:")
    if re.search(r"[?&]timeout=", url):
        raise ValueError("write the time limit as [mail] timeout_s")
    try:
        parse_mail_url(url)
    except SettingsError as error:  # Its text begins with the key, which the problem's line names already.
        raise ValueError(str(error).removeprefix("mail.url: ").replace("mail.url ", "it ")) from None
    return value


def database_url(value: SecretStr) -> SecretStr:
    from dosvoces.store.address import parse_database_url

    try:
        parse_database_url(value.get_secret_value())
    except SettingsError as error:  # Its text begins with the key, which the problem's line names already.
        text = str(error).removeprefix("[database] url")
        raise ValueError(text.removeprefix(": ") if text.startswith(": ") else f"it{text}") from None
    return value


def comma_separated(value: object) -> object:
    """A list as an environment variable says it: `ES,PT`."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def time_zone(text: str) -> str:
    """A name of the tz database."""
    if text not in zoneinfo.available_timezones():
        raise ValueError('there is no such time zone: write it as "Europe/Madrid", "Atlantic/Canary" or "UTC"')
    return text
