"""
The embedded mailbox: mails are kept in our own store, to be listed and shown. No mail server needed.

Knows nothing of the store but `MailShelf`.
"""

import asyncio
import email
import email.policy
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from email.utils import parsedate_to_datetime
from typing import Protocol

from dosvoces.errors import MailError, StoreError
from dosvoces.mail import Mail, Mailbox

TIME_LIMIT_S = 10.0


class MailShelf(Protocol):
    """Where the inbox keeps its mails: the store."""

    async def keep_mail(self, mail: Mail, *, at: datetime) -> None:
        """
        Keep `mail`, received `at`; returns once it is durable.

        The same Message-ID twice is one row: the first stays. Raises `StoreError` if it can't be written.
        """


class Inbox(Mailbox):
    """Takes every mail into the store; `clock` gives the time of arrival, an aware UTC `datetime`."""

    def __init__(self, shelf: MailShelf, clock: Callable[[], datetime], *, time_limit_s: float = TIME_LIMIT_S) -> None:
        self._shelf = shelf
        self._clock = clock
        self._time_limit_s = time_limit_s

    async def deliver(self, mail: Mail) -> None:
        try:
            async with asyncio.timeout(self._time_limit_s):
                await self._shelf.keep_mail(mail, at=self._clock())
        except TimeoutError as error:
            message = f"inbox: the store took longer than {self._time_limit_s:g} s; the mail may be kept or not"
            raise MailError(message, unknown=True) from error
        except StoreError as error:
            raise MailError(f"inbox: {error}", permanent=error.permanent, unknown=error.unknown) from error

    async def check(self) -> None:
        """Always ready: whether the store can be written is the store's own check."""

    async def close(self) -> None:
        """Nothing to give back: the store closes itself."""


@dataclass(frozen=True, slots=True)
class ReadableMail:
    """A mail as a person reads it."""

    subject: str
    sender: str
    """The From header, decoded."""
    recipient: str
    """The To header, decoded."""
    date: datetime | None
    text: str
    html: str
    """Empty if there is no HTML part. Whoever shows it takes it as a stranger's."""


def read_mail(content: bytes) -> ReadableMail:
    """What a mail's bytes say. Never raises on what a mail may hold: a part that can't be read is empty."""
    message = email.message_from_bytes(content, policy=email.policy.default)
    return ReadableMail(
        subject=_header(message, "Subject"),
        sender=_header(message, "From"),
        recipient=_header(message, "To"),
        date=_date(_header(message, "Date")),
        text=_body(message, "plain"),
        html=_body(message, "html"),
    )


def _header(message: EmailMessage, name: str) -> str:
    return str(message[name] or "")


def _date(header: str) -> datetime | None:
    try:
        return parsedate_to_datetime(header)
    except ValueError:
        return None


def _body(message: EmailMessage, kind: str) -> str:
    part = message.get_body((kind,))
    if part is None:
        return ""
    octets = part.get_payload(decode=True)
    assert isinstance(octets, bytes), "a part that is no multipart has bytes"
    return octets.decode("utf-8", "replace").replace("\r\n", "\n")
