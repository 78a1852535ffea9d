"""The mailbox of the service as an operator sees it: whether the last mail was taken, and if not, why."""

from dosvoces.errors import MailError
from dosvoces.mail import Mail, Mailbox
from dosvoces.telemetry import mask


class WatchedMailbox(Mailbox):
    """Hands everything on to `mailbox`, and remembers what the last delivery came to."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self._failure = ""

    def warnings(self) -> list[str]:
        """What the last mail failed at, masked; empty once one was taken since."""
        return [f"the last mail was not taken: {self._failure}"] if self._failure else []

    async def deliver(self, mail: Mail) -> None:
        try:
            await self._mailbox.deliver(mail)
        except MailError as error:
            self._failure = mask(str(error))
            raise
        self._failure = ""

    async def check(self) -> None:
        await self._mailbox.check()

    async def close(self) -> None:
        await self._mailbox.close()
