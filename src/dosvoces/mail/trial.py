"""The mailbox of trial runs: keeps every mail where it can be looked at, but for one address, which it refuses."""

from dosvoces.errors import MailError
from dosvoces.mail import Mail, Mailbox

REFUSED = "mail-refused"
"""The local part of the address, whatever its domain, whose mails are refused."""


class TrialMailbox(Mailbox):
    """Gives to `inbox` what it takes; no mail leaves the machine."""

    def __init__(self, inbox: Mailbox) -> None:
        self._inbox = inbox

    async def deliver(self, mail: Mail) -> None:
        if mail.recipient.rpartition("@")[0].lower() == REFUSED:
            raise MailError("550 5.1.1 no such mailbox, as trial runs have it", permanent=True)
        await self._inbox.deliver(mail)

    async def check(self) -> None:
        await self._inbox.check()

    async def close(self) -> None:
        await self._inbox.close()
