"""
The port to whatever takes a mail, and what a lead's mail is made of.

`messages.py` writes the mail (pure), `smtp.py` and `inbox.py` deliver it.
"""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Mail:
    """One finished message to one recipient."""

    message_id: str
    """With angle brackets; the same however often it is sent."""
    recipient: str
    """The envelope's RCPT TO: one addr-spec."""
    subject: str
    text: str
    content: bytes
    """The whole message as it goes over the wire (RFC 5322, CRLF)."""


class Mailbox(Protocol):
    """
    Takes mails for delivery: an SMTP submission server, or the inbox in our own store.

    - *accepted or not*: `deliver` returns when the other end has taken responsibility, and raises `MailError`
      otherwise.
    - *bounded*: it never lasts longer than its time limit (10 s by default).
    - *no second try*: one call is one try; trying again is the caller's decision.
    """

    async def deliver(self, mail: Mail) -> None:
        """
        Hand `mail` over. Raises `MailError`: `permanent` if it will never be taken, as of a 5xx about the mail itself,
        `unknown` when the answer to the data never came.
        """

    async def check(self) -> None:
        """Say hello and nothing more: raises `MailError` if a mail could not be handed over now."""

    async def close(self) -> None:
        """Give connections back; idempotent."""
