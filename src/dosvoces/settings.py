"""
What an operator may set, as frozen values: the sections and keys of `dosvoces.toml`, checked.

Each field's docstring is its line in `docs/reference/settings.md`. How the file and the environment become these
values is `settings_load.py`; `load` is here because it is what callers want. Knows no adapter and opens nothing.
"""

import functools
import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator

from dosvoces import __version__
from dosvoces.errors import SettingsError

PORTS_PER_CONNECTION = 4  # RTP and RTCP for each of two sides (RFC 3550 §11)
MIN_MEDIA_PORTS = 8  # two connections: a range below that is a slip of the pen
NO_PORT = 0
DEFAULT_SIP_PORT = 5060  # RFC 3261 §19.1.2


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


def is_loopback(host: str) -> bool:
    """Whether `host` (a literal address or a name) is this machine by its very spelling."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


# --- how a text becomes a value; each raises ValueError with the remedy ---

_HOST_PORT = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.?))(?::(?P<port>\d{1,5}))?"
)
_PROXY = re.compile(r"(?P<scheme>sips?):(?P<address>[^;?@]+)(?P<parameters>(?:;[^;?]+)*)", re.IGNORECASE)
_E164 = re.compile(r"\+[1-9]\d{6,14}")


def _port(text: str) -> int:
    if not 1 <= int(text) <= 65535:
        raise ValueError("a port is 1 to 65535")
    return int(text)


def _host_port(value: object, *, default_port: int | None = None, any_port: bool = False) -> object:
    if not isinstance(value, str):
        return value
    match = _HOST_PORT.fullmatch(value)
    if match is None or (match["port"] is None and default_port is None):
        raise ValueError("write it as host:port, an IPv6 address in brackets")
    if match["v6"]:
        _literal(match["v6"])
    port = match["port"] or str(default_port)
    if port == "0" and (any_port or (match["port"] is None and default_port == NO_PORT)):
        return HostPort(match["v6"] or match["host"], 0)
    return HostPort(match["v6"] or match["host"], _port(port))


def _advertised_host_port(value: object) -> object:
    return _host_port(value, default_port=DEFAULT_SIP_PORT)


def _literal(value: str) -> str:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        raise ValueError("an IP address is meant (media goes to addresses, not to names)") from None
    return value


def _advertised_literal(value: str) -> str:
    if ipaddress.ip_address(_literal(value)).is_unspecified:
        raise ValueError("it is what others send to: an address of this machine as they see it")
    return value


def _port_range(value: object) -> object:
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


def _proxy(value: object) -> object:
    if not isinstance(value, str):
        return value
    match = _PROXY.fullmatch(value.strip())
    if match is None:
        raise ValueError('write it as "sip:host:5060;transport=udp"')
    parameters = dict(p.lower().partition("=")[::2] for p in match["parameters"].split(";") if p)
    transport = parameters.pop("transport", "")
    secure = match["scheme"].lower() == "sips"
    if secure or transport in ("tcp", "tls"):
        raise ValueError("SIP over TCP or TLS is not spoken yet; use ;transport=udp")
    if transport not in ("", "udp") or parameters:
        raise ValueError("the only parameter is ;transport=udp")
    try:
        address = _host_port(match["address"], default_port=NO_PORT)
    except ValueError as error:
        raise ValueError(f'write it as "sip:host:5060;transport=udp" ({error})') from None
    assert isinstance(address, HostPort)
    # RFC 3263 §4.2: a port, where there is one, ends the search; without one the DNS may name another.
    port = None if address.port == NO_PORT else address.port
    return Proxy(address.host, port, "udp" if transport == "udp" else "", secure)


def _country(value: str) -> str:
    # phonenumbers is what the dial plan goes by; a region it doesn't know has no numbering plan.
    from phonenumbers import SUPPORTED_REGIONS

    if value.upper() not in SUPPORTED_REGIONS:
        raise ValueError('a country is two letters of ISO 3166, for instance "ES"')
    return value.upper()


def _caller_id(value: str) -> str:
    if not _E164.fullmatch(value):
        raise ValueError('write it in E.164: "+", the country code and the number, without spaces ("+34910000000")')
    return value


def _prefix(value: str) -> str:
    if not re.fullmatch(r"\+\d{0,15}", value):
        raise ValueError('a prefix is "+" and the first digits of the numbers meant; "+" alone is every number')
    return value


def _mail_from(value: str) -> str:
    from dosvoces.mail.address import parse_sender

    try:
        parse_sender(value)
    except SettingsError:
        raise ValueError('write it as "Dosvoces <leads@example.com>"') from None
    return value


def _mail_url(value: SecretStr) -> SecretStr:
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


def _database_url(value: SecretStr) -> SecretStr:
    url = value.get_secret_value()
    if url.startswith(("postgresql:", "postgres:", "postgresql+")):
        raise ValueError("PostgreSQL is not supported yet; use sqlite:///path")
    if not re.fullmatch(r"sqlite:///[^?#]+", url):
        raise ValueError(
            "write it as sqlite:///dosvoces.db, or sqlite:////var/lib/dosvoces/dosvoces.db for a full path"
        )
    return value


def _comma_separated(value: object) -> object:
    """A list as an environment variable says it: `ES,PT`."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


ListenPort = Annotated[int, Field(ge=0, le=65535)]
Country = Annotated[str, AfterValidator(_country)]
Bind = Annotated[HostPort, BeforeValidator(functools.partial(_host_port, any_port=True))]
AdvertisedBind = Annotated[HostPort, BeforeValidator(_advertised_host_port)]


# --- the sections ---


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True)


class Http(_Section):
    """Where requests come in."""

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """Address to listen on. `0.0.0.0` lets other machines in: put a proxy with TLS and access rules before it."""
    port: ListenPort = 8080
    """TCP port to listen on; 0 lets the system choose."""


class Database(_Section):
    """Where the record is kept."""

    url: Annotated[SecretStr, AfterValidator(_database_url)] = SecretStr("sqlite:///dosvoces.db")
    """`sqlite:///file`, relative to where the service starts; four slashes begin a full path. Or `url_file`."""


class Mail(_Section):
    """Who takes the mails."""

    url: Annotated[SecretStr, AfterValidator(_mail_url)] = SecretStr("inbox:")
    """`inbox:` keeps mails in the record (`dosvoces mail list`). `smtp://user:password@host:587?tls=starttls` submits
    them; `tls=implicit` (port 465, the same as `smtps://`) and `tls=none` too; further options are `ca`, `connections`,
    `ehlo`, `allow_plain_login=1`. In user and password `@` is written `%40`. Or `url_file`."""
    from_: Annotated[str, AfterValidator(_mail_from)] = Field(default="Dosvoces <dosvoces@localhost>", alias="from")
    """The sender, `Name <local@domain>`. A real mail server wants an address of yours."""
    locale: Literal["es", "en"] = "es"
    """Language of the mails."""
    timeout_s: Annotated[float, Field(gt=0, le=14)] = 10.0
    """Longest that handing over one mail may take, in seconds; nobody is dialled before it has been taken."""


class Sip(_Section):
    """Our end of the signalling."""

    bind: Bind = HostPort("127.0.0.1", DEFAULT_SIP_PORT)
    """UDP address to send from and listen on. A trunk on another machine needs `0.0.0.0:5060`. Port 0 lets the system
    choose."""
    advertised: AdvertisedBind | None = None
    """What the far end shall send to, if it isn't the bound address: the public side of a NAT. The port may be left out
    when it is 5060."""
    user_agent: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[\x20-\x7e]+$")] = (
        f"Dosvoces/{__version__}"
    )
    """The User-Agent header."""
    capture: bool = True
    """Whether a connection's SIP messages are kept in the record, for `dosvoces show ID --ladder` and `--pcap`."""


class Media(_Section):
    """Our end of the audio."""

    address: Annotated[str, AfterValidator(_literal)] = "127.0.0.1"
    """IP address to receive audio on. A trunk on another machine needs `0.0.0.0`."""
    advertised: Annotated[str, AfterValidator(_advertised_literal)] | None = None
    """The IP address that SDP names: this machine as the trunk sees it. Needed when `address` is `0.0.0.0`."""
    ports: Annotated[PortRange, BeforeValidator(_port_range)] = PortRange(20000, 29999)
    """UDP ports for audio, four a connection, given back 30 s after use."""
    workers: Annotated[int, Field(ge=1, le=64)] | Literal["auto"] = 1
    """Processes that move audio; `"auto"`: one per core. One carries some hundred conversations, a second one makes
    room for more, and when one dies only its own conversations are lost."""
    silence_s: Annotated[float, Field(ge=0, le=3600)] = 30.0
    """After how many seconds without audio from a side that should send it the leg counts as silent, and that is
    recorded; 0 turns it off. Not while that side is on hold."""
    silence_action: Literal["note", "hangup"] = "note"
    """What is done about a silent leg: `note` records it, `hangup` ends the leg as failed. Phones that send nothing
    while nobody speaks look silent."""

    @model_validator(mode="after")
    def _sendable(self) -> Self:
        if self.advertised is None and ipaddress.ip_address(self.address).is_unspecified:
            raise ValueError(
                f'`address = "{self.address}"` needs `advertised`: the IP address that the trunk shall send audio to'
            )
        return self


class Dialing(_Section):
    """Rules and limits of a connection."""

    default_interval_s: Annotated[int, Field(ge=0, le=300)] = 0
    """Seconds from dialling the first number to dialling the second, if the request has no `call_interval`."""
    ring_timeout_s: Annotated[float, Field(ge=1, le=300)] = 30.0
    """Longest that a number is rung, in seconds."""
    trunk_timeout_s: Annotated[float, Field(ge=1, le=32)] = 6.0
    """Longest that a trunk may give no sign at all, in seconds, before the next way to the number is tried."""
    talk_limit_s: Annotated[float, Field(ge=1, le=86400)] = 3600.0
    """Longest conversation, in seconds."""
    max_connections: Annotated[int, Field(ge=1, le=100_000)] = 100
    """Open connections at once; a request beyond is answered 503 and may be repeated."""
    countries: Annotated[tuple[Country, ...] | None, BeforeValidator(_comma_separated), Field(min_length=1)] = None
    """Countries whose numbers may be dialled (ISO 3166). Without it: those of the trunks, or `["ES"]`."""


class Trunk(_Section):
    """An account at a carrier. One `[[trunks]]` section for each; the first whose prefix fits is used."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]
    """Ours, for logs and the record: small letters, digits, `-` and `_`."""
    carrier: Literal["sip", "fake"] = "sip"
    """The kind of driver: `sip`, or `fake`, which rings nobody and answers everything, for trials."""
    proxy: Annotated[Proxy, BeforeValidator(_proxy)] | None = None
    """Where calls are sent: `sip:host`, found by the DNS's NAPTR and SRV records, or `sip:host:5060;transport=udp`."""
    username: Annotated[str, Field(min_length=1)] | None = None
    """Account for the digest challenge. None where the carrier knows us by our address."""
    password: SecretStr | None = None
    """Its password. Or `password_file`."""
    auth_username: Annotated[str, Field(min_length=1)] | None = None
    """Name for the digest challenge, if it isn't `username`."""
    realm: Annotated[str, Field(min_length=1)] | None = None
    """The only realm whose challenges are answered. Without it: any of this carrier's."""
    register_: bool = Field(default=False, alias="register")
    """Whether to register (REGISTER) as `username`: then the trunk is only used while the carrier knows us."""
    register_expires_s: Annotated[int, Field(ge=30, le=86_400)] = 600
    """How long a registration is asked for, in seconds; it is renewed in time."""
    options_interval_s: Annotated[float, Field(ge=0, le=3600)] | None = None
    """Seconds from one OPTIONS ping to the next; 0 sends none. Without it: 30, and none to this machine itself."""
    caller_id: Annotated[str, AfterValidator(_caller_id)] | None = None
    """The number that both parties see, in E.164; carriers refuse numbers that aren't yours."""
    country: Country = "ES"
    """Where the trunk is: its ringing tone, and the country of the numbers that it dials by default."""
    prefixes: Annotated[
        tuple[Annotated[str, AfterValidator(_prefix)], ...], BeforeValidator(_comma_separated), Field(min_length=1)
    ] = ("+",)
    """First digits of the numbers that go this way, in E.164."""
    codecs: Annotated[
        tuple[Literal["PCMA", "PCMU", "G722", "opus"], ...], BeforeValidator(_comma_separated), Field(min_length=1)
    ] = ("PCMA", "PCMU")
    """What may be spoken, the preferred one first: `PCMA`, `PCMU`, `G722`, `opus`. PCMA or PCMU must be among them: the
    first party begins with one, for the ringing tone. See [codecs](../howto/codecs.md)."""
    srtp: Literal["off", "optional", "required"] = "off"
    """Whether the audio is encrypted, with SRTP and keys in the signalling (SDES). `optional` offers it and takes what
    is answered; `required` hangs up at once on an answer without. Who can read the signalling can read the keys."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.carrier == "sip" and self.proxy is None:
            raise ValueError('a trunk needs `proxy = "sip:host:5060;transport=udp"`')
        if self.register_ and self.username is None:
            raise ValueError("`register = true` needs the `username` to register")
        if self.password is not None and self.username is None:
            raise ValueError("there is a password and no `username`")
        if not {"PCMA", "PCMU"} & set(self.codecs):
            raise ValueError("`codecs` needs PCMA or PCMU: the ringing tone is made in them")
        return self


class Log(_Section):
    """What is told while it runs, on standard error. Numbers and e-mail addresses are masked."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least that is told."""
    format: Literal["auto", "json", "console"] = "auto"
    """`json`: one object a line. `console`: for people. `auto`: `console` in a terminal, else `json`."""


class Settings(_Section):
    """All of it. What isn't set has a default that works on one machine, with nobody to call."""

    http: Http = Http()
    database: Database = Database()
    mail: Mail = Mail()
    sip: Sip = Sip()
    media: Media = Media()
    dialing: Dialing = Dialing()
    log: Log = Log()
    trunks: tuple[Trunk, ...] = ()

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [trunk.name for trunk in self.trunks]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two trunks are called {doubled[0]!r}; names must differ")
        return self

    @property
    def countries(self) -> tuple[str, ...]:
        """The countries whose numbers may be dialled."""
        if self.dialing.countries is not None:
            return self.dialing.countries
        return tuple(dict.fromkeys(trunk.country for trunk in self.trunks)) or ("ES",)


class InvalidSettings(SettingsError):
    """The configuration can't be used: every problem in it, with its remedy."""

    def __init__(self, source: str, problems: list[str]) -> None:
        listed = "\n".join(f"  {problem}" for problem in problems)
        super().__init__(f"{source} can't be used; {len(problems)} problem{'s' * (len(problems) != 1)}:\n{listed}")
        self.source = source
        """The file, or `the environment` where there is none."""
        self.problems = problems
        """One line each: the key as the file writes it, the value (secrets masked), the remedy."""


def load(config: Path | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """
    Read the file (`config`, else `dosvoces.toml` in this folder if it is there) and the environment over it.

    Raises `SettingsError` with every problem listed.
    """
    from dosvoces import settings_load

    values, origin = settings_load.gather(config, environ)
    return settings_load.validate(values, origin)
