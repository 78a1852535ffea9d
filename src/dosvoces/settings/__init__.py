"""
What an operator may set, as frozen values: the sections and keys of `dosvoces.toml`, checked.

Each field's docstring is its line in `docs/reference/settings.md`. How the file and the environment become these
values is `settings/sources.py`; `load` is here because it is what callers want. Knows no adapter and opens nothing.
"""

import functools
import ipaddress
import os
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator

from dosvoces import __version__
from dosvoces.errors import SettingsError
from dosvoces.settings import values as values
from dosvoces.settings.http import Http, ListenPort
from dosvoces.settings.limits import Limits
from dosvoces.settings.mail import Mail
from dosvoces.settings.numbers import Numbers
from dosvoces.settings.record import Record
from dosvoces.settings.section import Section
from dosvoces.settings.values import (
    DEFAULT_SIP_PORT,
    DEFAULT_SIPS_PORT,
    PORTS_PER_CONNECTION,
    HostPort,
    PortRange,
    Proxy,
    is_loopback,
)
from dosvoces.settings.webhooks import Webhook, WebhookUrls
from dosvoces.settings.widget import Widget

__all__ = [
    "PORTS_PER_CONNECTION",
    "Bind",
    "HostPort",
    "InvalidSettings",
    "Log",
    "PortRange",
    "Proxy",
    "Settings",
    "Trunk",
    "Webhook",
    "is_loopback",
    "load",
]

MIN_SESSION_S = 90  # RFC 4028 §5

Country = Annotated[str, AfterValidator(values.country)]
Bind = Annotated[HostPort, BeforeValidator(functools.partial(values.host_port, any_port=True))]
Listed = BeforeValidator(values.comma_separated)
CallerId = Annotated[str, AfterValidator(values.caller_id)]
AdvertisedBind = Annotated[HostPort | Literal["auto"], BeforeValidator(values.advertised_host_port)]
UserAgent = Annotated[str, Field(min_length=1, max_length=100), values.spelled(r"[\x20-\x7e]+", "write it in ASCII")]


# --- the sections ---


class Database(Section):
    """Where the record is kept."""

    url: Annotated[SecretStr, AfterValidator(values.database_url)] = SecretStr("sqlite:///dosvoces.db")
    """`sqlite:///file`, relative to where the service starts; four slashes begin a full path. Or
    `postgresql://user:password@host:5432/database`, with libpq's options after a `?` (`sslmode=verify-full`): see
    [PostgreSQL](../howto/postgresql.md). Or `url_file`."""
    password: SecretStr | None = None
    """The PostgreSQL user's password, if it shall not stand in the URL. Or `password_file`."""

    @property
    def address(self) -> str:
        """The URL with the password in it: a secret."""
        url = self.url.get_secret_value()
        if self.password is None:
            return url
        password = urllib.parse.quote(self.password.get_secret_value(), safe="")
        return f"{url}{'&' if '?' in url else '?'}password={password}"

    @model_validator(mode="after")
    def _password_has_user(self) -> Self:
        if self.password is not None and self.url.get_secret_value().startswith("sqlite:"):
            raise ValueError("there is a `password`, which SQLite has no use for: leave it out")
        return self


class Sip(Section):
    """Our end of the signalling."""

    bind: Bind = HostPort("127.0.0.1", DEFAULT_SIP_PORT)
    """Address to send from and listen on, for UDP and TCP. A trunk on another machine needs `0.0.0.0:5060`, or
    `[::]:5060` for IPv6: all trunks are reached by one of both. Port 0 lets the system choose."""
    advertised: AdvertisedBind | None = None
    """What the far end shall send to, if it isn't the bound address: the public side of a NAT. The port may be left out
    when it is 5060. `"auto"`: as learned, see [NAT](../howto/nat.md)."""
    tls_port: ListenPort = DEFAULT_SIPS_PORT
    """TCP port for TLS; 0 lets the system choose. It is only taken when a trunk is spoken to by TLS."""
    tls_ca_file: Annotated[str, Field(min_length=1)] = "system"
    """The authorities whose certificates are believed (PEM), or `system` for those of this machine."""
    tls_certificate_file: Annotated[str, Field(min_length=1)] | None = None
    """Our own certificate with its chain (PEM). Needed where a carrier asks for it, or opens TLS connections to us."""
    tls_key_file: Annotated[str, Field(min_length=1)] | None = None
    """Its key (PEM). Not needed if it is in `tls_certificate_file`."""
    user_agent: UserAgent = f"Dosvoces/{__version__}"
    """The User-Agent header."""
    session_expires_s: Annotated[int, Field(ge=0, le=86_400)] = 1800
    """After how many seconds without a sign of the far end a conversation is over, where the far end agrees to that
    (RFC 4028): offered with each call, refreshed at half of it, 90 at least. 0 offers nothing; what a far end asks for
    is kept either way. See [within a call](../howto/within_a_call.md)."""
    capture: bool = True
    """Whether a connection's SIP messages are kept in the record, for `dosvoces show ID --ladder` and `--pcap`."""

    @model_validator(mode="after")
    def _key_has_certificate(self) -> Self:
        if self.tls_key_file is not None and self.tls_certificate_file is None:
            raise ValueError("there is a `tls_key_file` and no `tls_certificate_file`")
        return self

    @model_validator(mode="after")
    def _session_long_enough(self) -> Self:
        if 0 < self.session_expires_s < MIN_SESSION_S:
            raise ValueError(f"`session_expires_s` is 0 or at least {MIN_SESSION_S} (RFC 4028 §5)")
        return self


class Nat(Section):
    """How our public address is learned behind a NAT, for `advertised = "auto"`."""

    stun: Annotated[HostPort, BeforeValidator(values.stun_server)] | None = None
    """A STUN server, `host` or `host:port` (3478); asked from the SIP socket every 25 s. Without one the address is
    taken from the answers of a registrar (`register = true`)."""


class Media(Section):
    """Our end of the audio."""

    relay: Literal["worker", "rtpengine"] = "worker"
    """What moves it: `worker`, processes of our own, or `rtpengine`, daemons that you run (see
    [rtpengine](../howto/rtpengine.md)), where `address`, `advertised`, `ports` and `workers` mean nothing."""
    rtpengine: Annotated[tuple[HostPort, ...], BeforeValidator(values.rtpengine_nodes)] = ()
    """Each daemon's `listen-ng`, `host:port`; the port may be left out when it is 2223. One that doesn't answer is left
    out until it does."""
    rtpengine_digits: Annotated[HostPort, BeforeValidator(values.host_port)] | None = None
    """UDP address to listen on for the keys that the daemons see: their `dtmf-log-dest`. Without it no key is
    recorded."""
    address: Annotated[str, AfterValidator(values.literal)] = "127.0.0.1"
    """IP address to receive audio on. A trunk on another machine needs `0.0.0.0`."""
    advertised: Annotated[str, AfterValidator(values.advertised_literal)] | None = None
    """The IP address that SDP names: this machine as the trunk sees it. Needed when `address` is `0.0.0.0`. `"auto"`:
    as learned, see [NAT](../howto/nat.md)."""
    ports: Annotated[PortRange, BeforeValidator(values.port_range)] = PortRange(20000, 29999)
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

    capture_headers: bool = False
    """Whether the newest 2,000 RTP headers of each connection, never the audio, are kept beside its SIP messages for
    `dosvoces show ID --pcap`. For looking into trouble: it costs memory and CPU."""

    @model_validator(mode="after")
    def _can_capture(self) -> Self:
        if self.capture_headers and self.relay != "worker":
            raise ValueError('`capture_headers` needs `relay = "worker"`: rtpengine keeps its packets to itself')
        return self

    @model_validator(mode="after")
    def _has_daemons(self) -> Self:
        if self.relay == "rtpengine" and not self.rtpengine:
            raise ValueError('`relay = "rtpengine"` needs `rtpengine = ["127.0.0.1:2223"]`, where it listens')
        return self

    @model_validator(mode="after")
    def _sendable(self) -> Self:
        if self.advertised is None and ipaddress.ip_address(self.address).is_unspecified:
            raise ValueError(
                f'`address = "{self.address}"` needs `advertised`: the IP address that the trunk shall send audio to'
            )
        return self


class Node(Section):
    """This process among others on the same record."""

    name: Annotated[str, Field(max_length=64), values.spelled(r"[\x21-\x7e]*", "write it in ASCII, no blanks")] = ""
    """What `dosvoces nodes` calls it. Without it: the name of the machine."""
    beat_s: Annotated[float, Field(ge=0.1, le=60)] = 2.0
    """Seconds from one sign of life in the record to the next."""
    fence_s: Annotated[float, Field(ge=0.3, le=300)] = 8.0
    """After so many seconds without one that arrived, this node hangs up its calls and takes none until the database
    answers. Not with SQLite, where nobody else could take them over."""
    dead_s: Annotated[float, Field(ge=0.5, le=600)] = 15.0
    """After so many seconds without one, the other nodes settle what a node left: the same on all nodes."""
    drain_s: Annotated[float, Field(ge=0, le=86_400)] = 5.0
    """How long calls may go on after SIGTERM, in seconds; then both parties hear a warning tone and are hung up. With
    tone and hang-up it stays below the 10 s after which Docker kills. Set it to 15 s less than whoever stops the
    service waits. See [many nodes](../howto/many_nodes.md)."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not 2 * self.beat_s <= self.fence_s:
            raise ValueError("`fence_s` must be at least twice `beat_s`: one beat that is late is no reason to hang up")
        if not self.fence_s < self.dead_s:
            raise ValueError("`dead_s` must be more than `fence_s`: a node hangs up before others settle its calls")
        return self


class Dialing(Section):
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
    max_open: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Open connections at once on all nodes together, exactly; a request beyond is answered 503. Without it: no limit
    but each node's `max_connections`."""
    max_per_number: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Open connections at once, on all nodes together, in which one number is called; a request beyond is answered
    503. Without it: no limit."""
    countries: Annotated[tuple[Country, ...] | None, Listed, Field(min_length=1)] = None
    """Countries whose numbers may be dialled (ISO 3166). Without it: those of the trunks, or `["ES"]`."""


class Trunk(Section):
    """An account at a carrier. One `[[trunks]]` section for each; the first whose prefix fits is used."""

    name: values.OwnName
    """Ours, for logs and the record: small letters, digits, `-` and `_`."""
    carrier: Literal["sip", "fake"] = "sip"
    """The kind of driver: `sip`, or `fake`, which rings nobody and answers everything, for trials."""
    proxy: Annotated[Proxy, BeforeValidator(values.proxy)] | None = None
    """Where calls are sent: `sip:host`, found by the DNS's NAPTR and SRV records, or `sip:host:5060;transport=udp`, or
    `tcp`, or `tls`; `sips:host` is TLS too. See [TLS trunks](../howto/tls.md)."""
    tls_verify: bool = True
    """Whether the trunk must show a certificate for the proxy's host. `false` lets whoever sits between listen in, and
    take the calls: for a trial on a network of your own only."""
    large_over_tcp: bool = False
    """Of a UDP trunk: whether messages over 1,300 bytes go to the same port by TCP, as RFC 3261 wants it."""
    username: Annotated[str, Field(min_length=1)] | None = None
    """Account for the digest challenge. None where the carrier knows us by our address."""
    password: SecretStr | None = None
    """Its password. Or `password_file`."""
    auth_username: Annotated[str, Field(min_length=1)] | None = None
    """Name for the digest challenge, if it isn't `username`."""
    realm: Annotated[str, Field(min_length=1)] | None = None
    """The only realm whose challenges are answered. Without it: those that ask when a call is begun, for that call."""
    digest_md5: bool = True
    """Whether the password may answer a challenge that offers nothing better than MD5, as most carriers' do."""
    hosts: Annotated[tuple[Annotated[str, AfterValidator(values.trunk_host)], ...], Listed] = ()
    """Further hosts of this trunk, names or addresses, beside those that the DNS gives for `proxy`: session border
    controllers that stand in its Record-Route, say. They are heard, and get the password's digest when they ask."""
    register_: bool = Field(default=False, alias="register")
    """Whether to register (REGISTER) as `username`: then the trunk is only used while the carrier knows us."""
    register_expires_s: Annotated[int, Field(ge=30, le=86_400)] = 600
    """How long a registration is asked for, in seconds; it is renewed in time."""
    options_interval_s: Annotated[float, Field(ge=0, le=3600)] | None = None
    """Seconds from one OPTIONS ping to the next; 0 sends none. Without it: 30, and none to this machine itself."""
    caller_id: CallerId | None = None
    """The number that both parties see, in E.164; carriers refuse numbers that aren't yours."""
    caller_ids: Annotated[tuple[CallerId, ...], Listed] = ()
    """All numbers of this account that may be shown: nothing else ever is. Without it: those named beside it.
    See [caller ids](../howto/caller_ids.md)."""
    caller_id_first: CallerId | None = None
    """What the first party sees, if it isn't `caller_id`."""
    caller_id_second: CallerId | None = None
    """What the second party sees, if it isn't `caller_id`."""
    identity: Literal["none", "pai", "ppi"] = "none"
    """Where the trunk reads the caller's number beside From: `pai`, P-Asserted-Identity, for a carrier that trusts us;
    `ppi`, P-Preferred-Identity; `none`, in From alone."""
    privacy: Literal["none", "id"] = "none"
    """`id`: the parties see no number (Privacy: id), only the carrier does, in the header that `identity` names."""
    country: Country = "ES"
    """Where the trunk is: its ringing tone, and the country of the numbers that it dials by default."""
    prefixes: Annotated[
        tuple[Annotated[str, AfterValidator(values.prefix)], ...],
        Listed,
        Field(min_length=1),
    ] = ("+",)
    """First digits of the numbers that go this way, in E.164."""
    codecs: Annotated[
        tuple[Literal["PCMA", "PCMU", "G722", "opus"], ...],
        Listed,
        Field(min_length=1),
    ] = ("PCMA", "PCMU")
    """What may be spoken, the preferred one first: `PCMA`, `PCMU`, `G722`, `opus`. PCMA or PCMU must be among them: the
    first party begins with one, for the ringing tone. See [codecs](../howto/codecs.md)."""
    max_calls: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Calls that the carrier takes at once, two a connection, on all nodes together. When as many are up, the next
    trunk is tried; where there is none, a request is answered 503."""
    calls_per_second: Annotated[float, Field(gt=0, le=1000)] | None = None
    """Calls a second that the carrier takes, on all nodes together, evenly spaced."""
    max_wait_s: Annotated[float, Field(ge=0, le=30)] = 5.0
    """Longest that a call waits for its turn at `calls_per_second`; beyond, it takes the next trunk, or fails."""
    srtp: Literal["off", "optional", "required"] = "off"
    """Whether the audio is encrypted, with SRTP and keys in the signalling (SDES). `optional` offers it and takes what
    is answered; `required` hangs up at once on an answer without. Who can read the signalling can read the keys."""

    @property
    def surely_tls(self) -> bool:
        """Whether it is spoken to by TLS, whatever the DNS says."""
        return self.proxy is not None and (self.proxy.secure or self.proxy.transport == "tls")

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

    @model_validator(mode="after")
    def _caller_ids_of_the_pool(self) -> Self:
        for key in ("caller_id", "caller_id_first", "caller_id_second"):
            number = getattr(self, key)
            if number is not None and number not in self.pool:
                raise ValueError(f'`{key} = "{number}"` is not among `caller_ids`; add it there, or choose one of them')
        if self.privacy == "id" and self.identity == "none":
            raise ValueError('`privacy = "id"` needs `identity`, "pai" or "ppi": else no carrier can tell who calls')
        if self.identity != "none" and not self.pool:
            raise ValueError("`identity` needs a number to tell: add `caller_id`")
        return self

    @property
    def pool(self) -> tuple[str, ...]:
        """The numbers that may be shown."""
        named = (self.caller_id, self.caller_id_first, self.caller_id_second)
        return self.caller_ids or tuple(dict.fromkeys(number for number in named if number is not None))


class Log(Section):
    """What is told while it runs, on standard error. Numbers and e-mail addresses are masked."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least that is told."""
    format: Literal["auto", "json", "console"] = "auto"
    """`json`: one object a line. `console`: for people. `auto`: `console` in a terminal, else `json`."""


class Settings(Section):
    """All of it. What isn't set has a default that works on one machine, with nobody to call."""

    http: Http = Http()
    database: Database = Database()
    record: Record = Record()
    mail: Mail = Mail()
    sip: Sip = Sip()
    nat: Nat = Nat()
    media: Media = Media()
    dialing: Dialing = Dialing()
    numbers: Numbers = Numbers()
    limits: Limits = Limits()
    node: Node = Node()
    log: Log = Log()
    widget: Widget = Widget()
    webhook_urls: WebhookUrls = WebhookUrls()
    trunks: tuple[Trunk, ...] = ()
    webhooks: tuple[Webhook, ...] = ()

    @model_validator(mode="after")
    def _encrypts(self) -> Self:
        secured = next((trunk.name for trunk in self.trunks if trunk.srtp != "off"), None)
        if self.media.relay == "rtpengine" and secured is not None:
            raise ValueError(f'trunk {secured!r} has srtp: that takes [media] relay = "worker"')
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        for kind, names in (
            ("trunks", [trunk.name for trunk in self.trunks]),
            ("webhooks", [webhook.name for webhook in self.webhooks]),
        ):
            if doubled := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"two {kind} are called {doubled[0]!r}; names must differ")
        return self

    @model_validator(mode="after")
    def _public_address_is_learned(self) -> Self:
        wanted = [name for name, part in (("sip", self.sip), ("media", self.media)) if part.advertised == "auto"]
        if wanted and self.nat.stun is None and not any(trunk.register_ for trunk in self.trunks):
            raise ValueError(
                f'[{wanted[0]}] `advertised = "auto"` needs somebody who tells the address: `stun` in [nat], '
                "or a trunk with `register = true`"
            )
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
    from dosvoces.settings import sources

    read, origin = sources.gather(config, environ)
    return sources.validate(read, origin)
