"""The section `[[webhooks]]` of the settings: who is told what happens."""

import base64
import binascii
import ipaddress
import re
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator

from dosvoces.settings.section import Section
from dosvoces.settings.values import OwnName, comma_separated, is_literal, is_loopback

SECRET_PREFIX = "whsec_"
SECRET_BYTES = range(24, 65)  # Standard Webhooks: 24 to 64 random bytes

EventName = Literal[
    "lead.email.sent",
    "lead.email.failed",
    "connection.leg.ringing",
    "connection.leg.answered",
    "connection.joined",
    "connection.ended",
]


_NAME = re.compile(
    r"(?=.{1,253}$)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.?"
)
_NUMBER = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)\.?")
"""What stands at the end of an IPv4 address, however odd (WHATWG URL, "ends in a number checker"); no name ends so."""


def webhook_url(value: str) -> str:
    """An https URL; http only where nobody between can read it: what is sent holds phone numbers."""
    scheme, host, _ = url_parts(value)
    if scheme == "http" and not _is_near(host):
        raise ValueError("only https goes to another network: what is sent holds phone numbers")
    return value


def url_parts(value: str) -> tuple[str, str, int]:
    """
    Scheme, host in small letters and port of a webhook's URL that all readers of URLs read alike.

    Raises `ValueError` with the remedy for any other.
    """
    try:
        parts = urlsplit(value)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port, parts = "", None, urlsplit("")
    if "@" in parts.netloc or parts.fragment or "#" in value:
        raise ValueError("leave out what is before the @ and behind the #: the signature tells who sends it")
    clear = value.isascii() and value.isprintable() and " " not in value and "\\" not in value
    if not clear or parts.scheme not in ("http", "https") or not _is_host(host):
        raise ValueError('write it as "https://crm.example.com/dosvoces"')
    if port == 0:
        raise ValueError("a port is 1 to 65535")
    return parts.scheme, host, port or (443 if parts.scheme == "https" else 80)


def _is_host(host: str) -> bool:
    """Whether it is a name or an address as it is usually written: not 0x7f.1, not 2130706433, without a zone."""
    if is_literal(host):
        return "%" not in host
    return _NAME.fullmatch(host) is not None and not _NUMBER.fullmatch(host.removesuffix(".").rpartition(".")[2])


def _is_near(host: str) -> bool:
    """Whether it is an address of this machine or of a private network, or a name without a domain."""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host


def network(value: str) -> str:
    try:
        return str(ipaddress.ip_network(value))
    except ValueError:
        raise ValueError('write it as "10.0.0.0/8", with nothing but zeros behind the prefix') from None


def webhook_secrets(value: SecretStr) -> SecretStr:
    secrets = value.get_secret_value().split()
    for secret in secrets:
        try:
            key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
        except binascii.Error:
            key = b""
        if not secret.startswith(SECRET_PREFIX) or len(key) not in SECRET_BYTES:
            raise ValueError(
                f"write {SECRET_PREFIX} and 24 to 64 random bytes in base64: "
                f"echo {SECRET_PREFIX}$(head -c 32 /dev/urandom | base64)"
            )
    if not secrets:
        raise ValueError("it is empty")
    return value


def host_pattern(value: str) -> str:
    name = value.lower()
    if not _is_host(name.removeprefix("*.")) or (name.startswith("*.") and is_literal(name[2:])) or name.endswith("."):
        raise ValueError('write it as "crm.example.com", or "*.example.com" for what is below it')
    return name


Networks = Annotated[tuple[Annotated[str, AfterValidator(network)], ...], BeforeValidator(comma_separated)]
REQUEST_NAME = "webhook_url"
"""What the record calls whoever a request named; no `[[webhooks]]` may be called so."""


class WebhookUrls(Section):
    """Whether a request may say itself who is told of its connection: `webhook_url` in `POST /v1/connections`."""

    secret: Annotated[SecretStr, AfterValidator(webhook_secrets)] | None = Field(default=None, repr=False)
    """What those messages are signed with, as in `[[webhooks]]`; without it no `webhook_url` is taken. Or
    `secret_file`."""
    hosts: Annotated[tuple[Annotated[str, AfterValidator(host_pattern)], ...], BeforeValidator(comma_separated)] = ()
    """Which hosts may be named: `["crm.example.com", "*.example.org"]`. Empty: any that is public."""
    networks: Networks = ()
    """Where they may lead beside to public addresses: `["10.0.0.0/8"]`. An address in one of them may be `http://`."""
    timeout_s: Annotated[float, Field(ge=1, le=30)] = 15.0
    """Longest that one try may take, in seconds."""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.secret is None and (self.hosts or self.networks):
            raise ValueError("`hosts` and `networks` need a `secret`, or a `secret_file`: without one nothing is taken")
        return self


def webhook_name(value: str) -> str:
    if value == REQUEST_NAME:
        raise ValueError(f"{value!r} is who a request names itself: take another name")
    return value


class Webhook(Section):
    """An address that is told what happens to connections. One `[[webhooks]]` section for each."""

    name: Annotated[OwnName, AfterValidator(webhook_name)] = "main"
    """Ours, for the log and the record: small letters, digits, `-` and `_`. Under another name it is another one."""
    url: Annotated[str, AfterValidator(webhook_url)]
    """Where messages are posted: `https://`, or `http://` within this machine or a private network. Redirects are not
    followed."""
    secret: Annotated[SecretStr, AfterValidator(webhook_secrets)]
    """What they are signed with, `whsec_…` (Standard Webhooks); two of them with a blank between while you change from
    one to the other. Or `secret_file`."""
    events: Annotated[tuple[EventName, ...], BeforeValidator(comma_separated), Field(min_length=1)] = (
        "connection.ended",
    )
    """What it is told: `connection.ended`, `connection.joined`, `connection.leg.ringing`, `connection.leg.answered`,
    `lead.email.sent`, `lead.email.failed`. See [webhooks](../howto/webhooks.md)."""
    timeout_s: Annotated[float, Field(ge=1, le=30)] = 15.0
    """Longest that one try may take, in seconds."""
    networks: Networks = ()
    """Where a name in `url` may lead beside to public addresses: `["10.0.0.0/8"]`. What leads elsewhere is not
    connected to. Not needed for an address that is itself in `url`, nor for `localhost`."""
    disable_after_days: Annotated[float, Field(gt=0, le=365)] = 5.0
    """When it has taken nothing for so long, nothing more is tried until `dosvoces webhooks enable`; messages wait."""

    @property
    def reach(self) -> tuple[str, ...]:
        """`networks` and what `url` says by itself."""
        _, host, _ = url_parts(self.url)
        if is_literal(host):
            return (*self.networks, str(ipaddress.ip_network(host)))
        return (*self.networks, "127.0.0.0/8", "::1/128") if is_loopback(host) else self.networks
