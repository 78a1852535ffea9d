"""
Mail addresses as they go into a header and an envelope. Pure.

Stricter than RFC 5321 allows: no quoted local part, no address literal, nothing outside ASCII left of the `@`.
What would need quoting is refused, so an address can't end a header or a command early.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from email_validator import EmailNotValidError, validate_email

from dosvoces.errors import MailError, SettingsError
from dosvoces.model import mask_email

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ADDR_SPEC = re.compile(rf"(?=.{{3,254}}\Z)(?=[^@]{{1,64}}@){_ATOM}(?:\.{_ATOM})*@{_LABEL}(?:\.{_LABEL})*", re.ASCII)
_MAILBOX = re.compile(r"(?P<name>[^<>]*)<(?P<address>[^<>]+)>")


@dataclass(frozen=True, slots=True)
class Sender:
    """Whom the mails come from."""

    name: str
    """What the reader sees; may be empty."""
    address: str
    """The From header's addr-spec and the envelope's MAIL FROM, ASCII."""

    @property
    def domain(self) -> str:
        return self.address.rpartition("@")[2]


def ascii_address(address: str) -> str:
    """
    `address` with its domain in ASCII (IDNA 2008, UTS 46): what goes on the wire.

    Raises `MailError` (permanent) if it is not one plain addr-spec, or needs SMTPUTF8 (RFC 6531).
    """
    if not address.isascii():
        try:
            checked = validate_email(address, check_deliverability=False, test_environment=True)
        except EmailNotValidError as error:
            raise MailError(f"{mask_email(address)!r} is not a mail address: {error}", permanent=True) from error
        address = checked.ascii_email or ""
    if not _ADDR_SPEC.fullmatch(address):
        raise MailError(f"{mask_email(address)!r} is not a plain ASCII mail address", permanent=True)
    return address


@lru_cache(maxsize=16)
def parse_sender(sender: str) -> Sender:
    """`Dosvoces <leads@example.com>` or a bare address. Raises `SettingsError` with the remedy."""
    match = _MAILBOX.fullmatch(sender.strip())
    name, address = (match["name"].strip(), match["address"]) if match else ("", sender)
    if len(name) > 1 and name[0] == name[-1] == '"':
        name = name[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    if not name.isprintable():
        raise SettingsError(f"mail.from: the name in {sender!r} has control characters; write it in plain text")
    try:
        return Sender(name, ascii_address(address.strip()))
    except MailError as error:
        raise SettingsError(f"mail.from is {sender!r}; write it as `Dosvoces <leads@example.com>`") from error
