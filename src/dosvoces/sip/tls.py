"""TLS for SIP: whose certificates are believed, and which one we show (RFC 5922)."""

import contextlib
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from .uri import DEFAULT_TLS_PORT


class TlsError(ValueError):
    """The certificate files can't be used; the text names the file and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """
    What TLS needs to know.

    A peer's certificate must be of the host that its URI names, as OpenSSL checks it: subjectAltName (dNSName,
    iPAddress), with wildcards. We diverge from RFC 5922 §7.2, which forbids wildcards, since large carriers have them.
    """

    ca_file: str = ""
    """PEM; the certificates that are believed. `""` and `"system"`: those of the system."""
    certificate_file: str = ""
    """PEM, with its chain; shown to peers. Without one nobody can open a TLS connection to us."""
    key_file: str = ""
    """PEM; may be in `certificate_file`."""
    port: int = DEFAULT_TLS_PORT
    """TCP port of ours; 0 lets the system choose."""
    listen: bool = True
    """Whether the port is taken; without it connections leave from any port."""
    unverified: frozenset[str] = frozenset()
    """Hosts whose certificate is not looked at: whoever sits between can listen and speak for them."""

    def client_context(self, *, verified: bool = True) -> ssl.SSLContext:
        """For connections that we open. Raises `TlsError`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8996
        if verified:
            self._believe(context)
        else:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.certificate_file:
            self._show(context)
        return context

    def server_context(self) -> ssl.SSLContext | None:
        """For connections of peers, `None` where we have no certificate. Raises `TlsError`."""
        if not self.certificate_file:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._show(context)
        return context

    def own_certificate_ends(self) -> datetime | None:
        """
        When our certificate ends, `None` where we have none.

        Raises `TlsError` when it can't be used, or isn't valid now. Found by a handshake with ourselves in memory, as
        the standard library reads certificates only of peers.
        """
        server_side = self.server_context()
        if server_side is None:
            return None
        believer = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        believer.check_hostname = False
        believer.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        believer.load_verify_locations(self.certificate_file)
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        server = server_side.wrap_bio(to_server, to_client, server_side=True)
        client = believer.wrap_bio(to_client, to_server)
        try:
            for side in (client, server, client):
                with contextlib.suppress(ssl.SSLWantReadError):
                    side.do_handshake()
        except ssl.SSLError as error:
            raise TlsError(f"{self.certificate_file}: {refusal(error)}") from error
        return certificate_ends(client.getpeercert())

    def _believe(self, context: ssl.SSLContext) -> None:
        if self.ca_file in ("", "system"):
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
            return
        try:
            context.load_verify_locations(self.ca_file)
        except OSError as error:  # ssl.SSLError is one
            raise TlsError(f"{self.ca_file} is no file of CA certificates in PEM: {_why(error)}") from error

    def _show(self, context: ssl.SSLContext) -> None:
        try:
            # The empty password keeps OpenSSL from asking at the terminal.
            context.load_cert_chain(self.certificate_file, self.key_file or None, password="")
        except OSError as error:
            files = " and ".join(filter(None, (self.certificate_file, self.key_file)))
            raise TlsError(f"{files} can't be used as certificate and key (PEM): {_why(error)}") from error


def certificate_ends(certificate: Mapping[str, object] | None) -> datetime | None:
    """When a certificate ends that `getpeercert` gave; `None` if it wasn't looked at."""
    ends = (certificate or {}).get("notAfter")
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(ends), UTC) if isinstance(ends, str) else None


def _why(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "unknown format").replace("_", " ").lower()
    return error.strerror or str(error)


_ALERTS = {
    "CERTIFICATE_REQUIRED": "it wants a certificate of ours, and there is none",
    "HANDSHAKE_FAILURE": "it broke off the handshake: it may want a certificate of ours",
    "UNKNOWN_CA": "it refuses our certificate: it doesn't believe who signed it",
    "CERTIFICATE_EXPIRED": "it refuses our certificate: it has expired",
    "CERTIFICATE_REVOKED": "it refuses our certificate: it was revoked",
    "CERTIFICATE_UNKNOWN": "it refuses our certificate",
    "BAD_CERTIFICATE": "it refuses our certificate",
    "UNSUPPORTED_CERTIFICATE": "it refuses our certificate: it isn't one for this use",
}
"""What a peer says of our certificate (RFC 8446 §6.2), by OpenSSL's names."""


def refusal(error: BaseException) -> str:
    """Why a connection could not be made, in words for an operator."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        for alert, said in _ALERTS.items():
            if (error.reason or "").endswith(f"ALERT_{alert}"):
                return said
        return f"TLS: {(error.reason or str(error)).replace('_', ' ').lower()}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ConnectionResetError):
        return "it closed the connection"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)  # asyncio puts its own text into `strerror`
    return str(error) or type(error).__name__
