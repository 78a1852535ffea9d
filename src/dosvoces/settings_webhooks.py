"""The section `[[webhooks]]` of the settings: who is told what happens."""

import base64
import binascii
import ipaddress
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from dosvoces.settings_section import Section
from dosvoces.settings_values import comma_separated

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


def webhook_url(value: str) -> str:
    """An https URL; http only where nobody between can read it: what is sent holds phone numbers."""
    try:
        parts = urlsplit(value)
        host, _port = parts.hostname or "", parts.port
    except ValueError:
        host, parts = "", urlsplit("")
    if parts.scheme not in ("http", "https") or not host or not value.isascii() or not value.isprintable():
        raise ValueError('write it as "https://crm.example.com/dosvoces"')
    if parts.username is not None or parts.fragment:
        raise ValueError("leave out what is before the @ and behind the #: the signature tells who sends it")
    if parts.scheme == "http" and not _is_near(host):
        raise ValueError("only https goes to another network: what is sent holds phone numbers")
    return value


def _is_near(host: str) -> bool:
    """Whether it is an address of this machine or of a private network, or a name without a domain."""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host


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


class Webhook(Section):
    """An address that is told what happens to connections. One `[[webhooks]]` section for each."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")] = "main"
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
