"""
A real SMTP server (aiosmtpd) for tests, that misbehaves at a chosen step: `FaultySmtp({"rcpt": Reply("550 no")})`.

    async with FaultySmtp({"rcpt": [Reply("451 4.7.1 greylisted")]}) as server:
        ...  # smtp://127.0.0.1:{server.port}?tls=none
        assert server.received == []

A fault alone is met at every occurrence of its step, a list of faults once each (`None` passes), then all is well.
"""

import asyncio
import datetime
import ipaddress
import ssl
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

Step = Literal["banner", "ehlo", "starttls", "hello", "auth", "mail", "rcpt", "data", "body", "dot", "rset", "quit"]
"""
`hello` is what follows our own answer to STARTTLS, `data` the answer to the command, `body` the arrival of the first
line, `dot` the answer to the final dot.
"""


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer with `line` instead; after 421 the connection is closed."""

    line: str


@dataclass(frozen=True, slots=True)
class Stall:
    """Answer nothing, keep the connection."""


@dataclass(frozen=True, slots=True)
class Drop:
    """Close the connection without an answer."""


@dataclass(frozen=True, slots=True)
class DropTaken:
    """At `dot`: take the mail, and close the connection without saying so."""


@dataclass(frozen=True, slots=True)
class Flood:
    """Answer with `line` again and again, never a last one, until the client leaves."""

    line: str = "250-more"


Fault = Reply | Stall | Drop | DropTaken | Flood
Script = Mapping[Step, "Fault | Sequence[Fault | None]"]


@dataclass(frozen=True, slots=True)
class Received:
    """One mail that the server took responsibility for."""

    mail_from: str
    recipients: tuple[str, ...]
    content: bytes
    connection: int
    """The how-manieth connection it came over, from 1."""
    encrypted: bool
    username: str | None


@dataclass(frozen=True, slots=True)
class Certificate:
    """A self-made certificate and its key, in PEM files."""

    path: Path
    key: Path

    def server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.path, self.key)
        return context


def make_certificate(folder: Path, *, name: str = "localhost") -> Certificate:
    """Write a certificate for `name` and 127.0.0.1, signed by itself, valid for a day, into `folder`."""
    # Imported here, so that a server without TLS needs no `cryptography`.
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    names: list[x509.GeneralName] = [x509.DNSName(name)]
    if name == "localhost":
        names.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    made = Certificate(folder / f"{name}.pem", folder / f"{name}.key")
    made.path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    made.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return made


class FaultySmtp:
    """
    An SMTP server on 127.0.0.1, a free port, on the running loop; use it as an async context manager.

    `certificate` offers STARTTLS, or TLS from the first byte with `implicit_tls`. `users` makes AUTH required
    (`plain_auth` offers it without TLS too), by one of `mechanisms` (`PLAIN`, `LOGIN`).
    """

    def __init__(
        self,
        script: Script | None = None,
        *,
        certificate: Certificate | None = None,
        implicit_tls: bool = False,
        users: Mapping[str, str] | None = None,
        plain_auth: bool = False,
        mechanisms: Sequence[str] = ("PLAIN", "LOGIN"),
    ) -> None:
        self._script: dict[Step, Fault | list[Fault | None]] = {
            step: list(fault) if isinstance(fault, Sequence) else fault for step, fault in (script or {}).items()
        }
        self._tls = certificate.server_context() if certificate else None
        self._implicit_tls = implicit_tls
        self._users = users
        self._plain_auth = plain_auth or implicit_tls
        self._mechanisms = mechanisms if users is not None else ()
        self._sessions: list[ScriptedSession] = []
        self._server: asyncio.Server | None = None
        self.port = 0
        self.received: list[Received] = []
        self.commands: list[str] = []
        """What the clients said, over all connections: `EHLO`, `MAIL` …"""
        self._said: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._met: defaultdict[Step, asyncio.Event] = defaultdict(asyncio.Event)
        self.auth_tries: list[str] = []
        """The user of every AUTH."""

    @property
    def connections(self) -> int:
        """How many connections were made."""
        return len(self._sessions)

    @property
    def open_connections(self) -> int:
        return sum(session.is_open for session in self._sessions)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        tls = self._tls if self._implicit_tls else None
        self._server = await loop.create_server(self._session, "127.0.0.1", 0, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.drop_connections()
        await asyncio.gather(*(session.gone.wait() for session in self._sessions))
        await self._server.wait_closed()

    def drop_connections(self) -> None:
        """Close every connection from our side, as a server does with idle ones."""
        for session in self._sessions:
            session.drop()

    async def wait_idle(self) -> None:
        """Until no connection is open any more."""
        await asyncio.gather(*(session.gone.wait() for session in self._sessions))

    async def said(self, command: str) -> None:
        """Until some client has said `command` (`RCPT`)."""
        await self._said[command].wait()

    async def met(self, step: Step) -> None:
        """Until some client has met the script's fault at `step`."""
        await self._met[step].wait()

    def hear(self, command: str) -> None:
        self.commands.append(command)
        self._said[command].set()

    def fault_at(self, step: Step) -> Fault | None:
        """The fault to show now, used up if it is one of a list."""
        fault = self._script.get(step)
        if isinstance(fault, list):
            fault = fault.pop(0) if fault else None
        if fault is not None:
            self._met[step].set()
        return fault

    def welcome(self, session: "ScriptedSession") -> None:
        """Count a connection: once it can speak, which a failed TLS handshake never does, and not again at STARTTLS."""
        if session not in self._sessions:
            self._sessions.append(session)

    def take(self, session: "ScriptedSession", envelope: Envelope, peer: Session) -> None:
        assert isinstance(envelope.content, bytes)
        assert envelope.mail_from is not None
        login = peer.auth_data
        self.received.append(
            Received(
                mail_from=envelope.mail_from,
                recipients=tuple(envelope.rcpt_tos),
                content=envelope.content,
                connection=self._sessions.index(session) + 1,
                encrypted=peer.ssl is not None or self._implicit_tls,
                username=login.login.decode() if isinstance(login, LoginPassword) else None,
            )
        )

    def authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, login: LoginPassword
    ) -> AuthResult:
        assert self._users is not None
        user, password = login.login.decode(), login.password.decode()
        self.auth_tries.append(user)
        return AuthResult(success=self._users.get(user) == password, auth_data=login, handled=False)

    def _session(self) -> "ScriptedSession":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # aiosmtpd warns of AUTH without TLS; some tests are about just that.
            return ScriptedSession(
                self,
                hostname="mail.test",
                tls_context=None if self._implicit_tls else self._tls,
                auth_required=self._users is not None,
                auth_require_tls=not self._plain_auth,
                authenticator=self.authenticate if self._users is not None else None,
                auth_exclude_mechanism={"PLAIN", "LOGIN"}.difference(self._mechanisms),
                loop=asyncio.get_running_loop(),
            )


class ScriptedSession(SMTP):
    """One connection: aiosmtpd's own behaviour, but at the steps where the script says otherwise."""

    def __init__(self, owner: FaultySmtp, **options: Any) -> None:
        super().__init__(_Handler(), **options)
        self.owner = owner
        self.gone = asyncio.Event()
        self._banner_due = True
        steps: tuple[Step, ...] = ("ehlo", "starttls", "auth", "mail", "rcpt", "data", "rset", "quit")
        for step in steps:
            command = step.upper()
            self._smtp_methods[command] = self._scripted(step, command, self._smtp_methods[command])

    @property
    def is_open(self) -> bool:
        return self.transport is not None and not self.gone.is_set()

    def drop(self) -> None:
        if self.transport is not None:
            self.transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.owner.welcome(self)

    def eof_received(self) -> bool:
        super().eof_received()
        return False  # aiosmtpd leaves a plain connection half open, for ever if it was stalled.

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self.gone.set()

    def _scripted(self, step: Step, command: str, method: Any) -> Any:
        async def scripted(argument: str | None) -> None:
            self.owner.hear(command)
            if not await self.misbehave(step):
                await method(argument)
            elif step == "starttls":
                await self.misbehave("hello")

        return scripted

    async def push(self, status: Any) -> None:
        banner, self._banner_due = self._banner_due, False
        if banner and await self.misbehave("banner"):
            return
        await super().push(status)
        if status[:3] in ("354", b"354"):
            await self._first_line()

    async def _first_line(self) -> None:
        fault = self.owner.fault_at("body")
        if fault is not None:
            await self._reader.readline()
            await self.show(fault)

    async def misbehave(self, step: Step) -> bool:
        """Show the script's fault for `step`, if there is one."""
        fault = self.owner.fault_at(step)
        if fault is None:
            return False
        await self.show(fault)
        return True

    async def show(self, fault: Fault) -> None:
        match fault:
            case Reply(line):
                await super().push(line)
                if line.startswith("421"):
                    self.drop()
            case Stall():
                await self.gone.wait()
            case Drop() | DropTaken():
                self.drop()
                await self.gone.wait()
            case Flood(line):
                while self.is_open:
                    await super().push(line)


class _Handler:
    async def handle_DATA(self, server: ScriptedSession, session: Session, envelope: Envelope) -> str:
        fault = server.owner.fault_at("dot")
        match fault:
            case None:
                server.owner.take(server, envelope, session)
                return "250 2.0.0 taken"
            case Reply(line):
                return line
            case _:
                if isinstance(fault, DropTaken):
                    server.owner.take(server, envelope, session)
                await server.show(fault)
                return "250 never said"
