"""The settings of TLS in the agent's words, for the service and for `dosvoces check` alike."""

from dosvoces.settings import Settings
from dosvoces.sip.tls import Tls


def tls_of(settings: Settings) -> Tls:
    """How TLS is spoken; its port is only taken where a trunk surely needs it, or we have a certificate to show."""
    sip = settings.sip
    return Tls(
        ca_file="" if sip.tls_ca_file == "system" else sip.tls_ca_file,
        certificate_file=sip.tls_certificate_file or "",
        key_file=sip.tls_key_file or "",
        port=sip.tls_port,
        listen=sip.tls_certificate_file is not None or any(trunk.surely_tls for trunk in settings.trunks),
        unverified=frozenset(t.proxy.host for t in settings.trunks if t.proxy is not None and not t.tls_verify),
    )
