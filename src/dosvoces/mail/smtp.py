"""
Delivers mails to an SMTP submission server (RFC 5321, RFC 6409), over a few connections that are kept for a while.

The protocol is aiosmtplib's; which commands are sent, what a reply means and when a connection may be used again is
ours. One mail is MAIL, RCPT, DATA and the data, one after the other; a set-up is paid only when no connection waits.
"""

import asyncio
import re
import ssl
from collections import deque
from dataclasses import dataclass
from typing import cast

from aiosmtplib import SMTP, SMTPException, SMTPResponse, SMTPResponseException, SMTPServerDisconnected

from dosvoces.crashpoints import reached
from dosvoces.errors import MailError, SettingsError
from dosvoces.mail import Mail, Mailbox
from dosvoces.mail.address import ascii_address, parse_sender
from dosvoces.mail.smtp_url import SmtpSettings, Tls

IDLE_LIMIT_S = 30.0  # a connection that nobody used for so long is closed; RFC 5321 §4.5.3.2.7: servers wait 5 minutes
REUSE_PATIENCE_S = 3.0  # for the first reply on a kept connection: past it the path is dead (a NAT forgot us)
GOODBYE_LIMIT_S = 1.0  # for the answers to QUIT when we close
WORDS_LIMIT = 200  # characters of a server's reply that are worth repeating

READY_FOR_DATA = 354
AVAILABLE = frozenset({250, 251})
CLOSING = 421
LOGIN_WANTED = 530
"""To whatever command (RFC 4954 §6): it says nothing of the mail."""
STEPS_OF_A_MAIL = frozenset({"MAIL FROM", "RCPT TO", "DATA", "the final dot"})
"""Only there a 5xx is about the mail; elsewhere it is about us, or the server, and may pass."""


@dataclass(slots=True)
class _Progress:
    """How far one delivery got, for whoever finds it interrupted."""

    step: str = "waiting for a free connection"
    dot_sent: bool = False
    """The final dot left: from here on silence means that the server may have taken the mail."""


@dataclass(slots=True)
class _Idle:
    client: SMTP
    since: float
    """The loop's time at which it was given back."""


class SmtpMailbox(Mailbox):
    """
    Hands mails to the submission server of `settings`, as `sender` (`Dosvoces <leads@example.com>`).

    At most `settings.connections` are open at once; who comes later waits, within the same time limit. Raises
    `SettingsError` if the sender or the CA file can't be used. To be made inside or outside of a running loop.
    """

    def __init__(self, settings: SmtpSettings, *, sender: str) -> None:
        self._settings = settings
        self._server = f"{settings.host}:{settings.port}"
        self._from = f"FROM:<{parse_sender(sender).address}>".encode("ascii")
        self._tls = _tls_context(settings)
        self._slots = asyncio.Semaphore(settings.connections)
        self._idle: deque[_Idle] = deque()  # the longest unused first
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False

    async def deliver(self, mail: Mail) -> None:
        recipient, data = f"TO:<{ascii_address(mail.recipient)}>".encode("ascii"), _data(mail.content)
        progress = _Progress()
        try:
            async with asyncio.timeout(self._settings.timeout_s), self._slots:
                client = await self._begin(progress)
                try:
                    await self._send(client, recipient, data, progress)
                except BaseException:  # Cancelled or timed out too: whoever it is, the dialogue is broken off.
                    _leave(client)
                    raise
                self._keep(client)
        except (SMTPException, OSError) as error:  # TimeoutError is an OSError.
            raise self._explain(error, progress) from error

    async def check(self) -> None:
        progress = _Progress()
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                client = await self._open(progress)
                progress.step = "QUIT"
                try:
                    await client.quit()
                finally:
                    client.close()
        except (SMTPException, OSError) as error:
            raise self._explain(error, progress) from error

    async def close(self) -> None:
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        idle = [kept.client for kept in self._idle]
        self._idle.clear()
        await asyncio.gather(*map(_quit, idle))

    async def _begin(self, progress: _Progress) -> SMTP:
        """
        A connection on which MAIL FROM was accepted: a kept one, or a new one if the kept one turns out to be gone.

        The only thing done twice, and harmless: no recipient and no data were named yet.
        """
        progress.step = "MAIL FROM"
        client = self._take()
        if client is not None:
            try:
                async with asyncio.timeout(REUSE_PATIENCE_S):
                    reply = await client.execute_command(b"MAIL", self._from)
                if reply.code != CLOSING:  # RFC 5321 §3.8: the server's good-bye, its idle limit for example.
                    _expect(reply, AVAILABLE)
                    return client
            except (SMTPServerDisconnected, TimeoutError):
                pass
            except BaseException:
                _leave(client)
                raise
            client.close()
        client = await self._open(progress)
        progress.step = "MAIL FROM"
        try:
            _expect(await client.execute_command(b"MAIL", self._from), AVAILABLE)
        except BaseException:
            _leave(client)
            raise
        return client

    async def _send(self, client: SMTP, recipient: bytes, data: bytes, progress: _Progress) -> None:
        progress.step = "RCPT TO"
        _expect(await client.execute_command(b"RCPT", recipient), AVAILABLE)
        reached("k04_mail_recipient_taken")
        progress.step = "DATA"
        _expect(await client.execute_command(b"DATA"), {READY_FOR_DATA})
        reached("k05_mail_data_begun")
        protocol = client.protocol
        if protocol is None:
            raise SMTPServerDisconnected("Connection lost")
        protocol.write(data)
        progress.step, progress.dot_sent = "the final dot", True
        reached("k06_mail_dot_sent")
        _expect(await protocol.read_response(), AVAILABLE)
        reached("k07_mail_accepted")

    async def _open(self, progress: _Progress) -> SMTP:
        """A new connection, after EHLO, STARTTLS and AUTH as the settings ask for them."""
        settings = self._settings
        client = SMTP(
            hostname=settings.host,
            port=settings.port,
            use_tls=settings.tls is Tls.IMPLICIT,
            start_tls=False,  # Done below, so that a refusal says which step it was.
            tls_context=self._tls,
            local_hostname=settings.ehlo,
            timeout=None,  # The whole delivery has one limit.
        )
        progress.step = "connecting"
        await client.connect()
        reached("k03_mail_connected")
        try:
            progress.step = "EHLO"
            await client.ehlo()
            if settings.tls is Tls.STARTTLS:
                await self._start_tls(client, progress)
            if settings.username is not None:
                await self._login(client, settings.username, settings.password, progress)
        except BaseException:
            _leave(client)
            raise
        return client

    async def _start_tls(self, client: SMTP, progress: _Progress) -> None:
        progress.step = "STARTTLS"
        if not client.supports_extension("starttls"):
            # Never in plain text instead: whoever sits between could have removed the offer (RFC 3207 §6).
            message = f"{self._server} doesn't offer STARTTLS; nothing was sent. If it is meant so, write tls=none"
            raise MailError(message)
        await client.starttls()
        progress.step = "EHLO"
        await client.ehlo()  # RFC 3207 §4.2: what was said before TLS is forgotten.

    async def _login(self, client: SMTP, username: str, password: str, progress: _Progress) -> None:
        """One try with one method: `SMTP.login` tries them all, and a server counts each as a wrong password."""
        progress.step = "AUTH"
        offered = client.server_auth_methods
        encrypted = client.get_transport_info("sslcontext") is not None
        methods = ("plain", "login", "cram-md5") if encrypted else ("cram-md5", "plain", "login")
        method = next((method for method in methods if method in offered), None)
        match method:
            case "plain":
                await client.auth_plain(username, password)
            case "login":
                await client.auth_login(username, password)
            case "cram-md5":
                await client.auth_crammd5(username, password)
            case _:
                words = ", ".join(offered) or "none"
                raise MailError(f"{self._server} offers no way to log in that we know (offered: {_printable(words)})")

    def _take(self) -> SMTP | None:
        """The kept connection that was used last, if one is still up."""
        while self._idle:
            client = self._idle.pop().client
            if client.is_connected:
                return client
        return None

    def _keep(self, client: SMTP) -> None:
        if self._closed or not client.is_connected:
            _leave(client)
            return
        loop = asyncio.get_running_loop()
        self._idle.append(_Idle(client, loop.time()))
        if self._sweep is None:
            self._sweep = loop.call_later(IDLE_LIMIT_S, self._close_idle)

    def _close_idle(self) -> None:
        """Leave the connections that waited too long; come again when the next one has."""
        loop = asyncio.get_running_loop()
        self._sweep = None
        while self._idle and self._idle[0].since + IDLE_LIMIT_S <= loop.time():
            _leave(self._idle.popleft().client)
        if self._idle:
            self._sweep = loop.call_at(self._idle[0].since + IDLE_LIMIT_S, self._close_idle)

    def _explain(self, error: Exception, progress: _Progress) -> MailError:
        """What went wrong as a `MailError` that names the server, the step and the server's words."""
        where = f"{self._server} ({progress.step})"
        if isinstance(error, SMTPResponseException) and error.code > 0:
            words = f"{error.code} {self._without_password(error.message)}"
            of_the_mail = progress.step in STEPS_OF_A_MAIL and error.code != LOGIN_WANTED
            return MailError(f"{where} refused: {words}", permanent=500 <= error.code <= 599 and of_the_mail)
        if isinstance(error, TimeoutError):
            words = f"no answer within {self._settings.timeout_s:g} s"
        else:  # The connection broke, the certificate is wrong, or the reply is no SMTP (code -1).
            words = self._without_password(getattr(error, "message", None) or str(error) or type(error).__name__)
        return MailError(f"{where}: {words}", unknown=progress.dot_sent)

    def _without_password(self, words: str) -> str:
        password = self._settings.password
        return _printable(words.replace(password, "•••") if password else words)


def _data(content: bytes) -> bytes:
    """`content` as DATA carries it: dots doubled at a line's start, the final dot (RFC 5321 §4.5.2)."""
    if not content.count(b"\r") == content.count(b"\n") == content.count(b"\r\n") or not content.endswith(b"\r\n"):
        # RFC 5321 §2.3.8; a lone CR or LF before a dot is how a second mail is smuggled into one.
        raise MailError("the mail has a line that doesn't end in CRLF", permanent=True)
    stuffed = content.replace(b"\r\n.", b"\r\n..")
    return (b"." + stuffed if stuffed.startswith(b".") else stuffed) + b".\r\n"


def _expect(reply: SMTPResponse, accepted: "frozenset[int] | set[int]") -> None:
    if reply.code not in accepted:
        raise SMTPResponseException(reply.code, reply.message)


def _leave(client: SMTP) -> None:
    """Say QUIT and go, without waiting for the answer: what we think of this connection can't change any more."""
    if client.protocol is not None and client.protocol.is_connected:
        client.protocol.write(b"QUIT\r\n")
    client.close()


async def _quit(client: SMTP) -> None:
    transport = client.transport
    try:
        async with asyncio.timeout(GOODBYE_LIMIT_S):
            await client.quit()
    except (SMTPException, OSError):
        client.close()
    if transport is not None:
        # Over TLS, close() alone would wait up to 30 s for the peer's close_notify.
        cast(asyncio.Transport, transport).abort()


_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def _printable(words: str) -> str:
    line = " ".join(_CONTROLS.sub(" ", words).split())
    return line if len(line) <= WORDS_LIMIT else line[: WORDS_LIMIT - 1] + "…"


def _tls_context(settings: SmtpSettings) -> ssl.SSLContext | None:
    """Certificates are always verified: against the system's CAs, or against `ca` alone if there is one."""
    if settings.tls is Tls.NONE:
        return None
    try:
        return ssl.create_default_context(cafile=settings.ca)
    except OSError as error:  # ssl.SSLError is one.
        raise SettingsError(f"mail.url: ca={settings.ca} can't be read as PEM certificates: {error}") from error
