"""Makes the carrier and its media relay out of the settings: trunks, addresses, codecs."""

import os
from typing import Literal

from dosvoces.carriers import Carrier
from dosvoces.carriers.caller_id import CallerIds, Identity
from dosvoces.carriers.fake import FakeCarrier
from dosvoces.carriers.public import Nat
from dosvoces.carriers.sip import SipCarrier
from dosvoces.carriers.sip_codecs import CODECS
from dosvoces.carriers.trunks import Trunk
from dosvoces.errors import SettingsError
from dosvoces.media import MediaRelay
from dosvoces.media.relay import MediaSettings, WorkerRelay
from dosvoces.media.rtpengine import RtpengineRelay, RtpengineSettings
from dosvoces.settings import Settings, is_loopback
from dosvoces.settings import Trunk as TrunkSettings
from dosvoces.settings.tls import tls_of
from dosvoces.sip.sdp import Security
from dosvoces.sip.session_timer import SessionTerms
from dosvoces.sip.transport import reachable_address

RTP_HEADERS_KEPT = 2000  # of each connection, the newest: ten seconds both ways
DEFAULT_PING_S = 30.0


def make_carrier(settings: Settings) -> Carrier:
    """What the trunks name to make calls. Raises `SettingsError` if they can't stand together."""
    kinds = {trunk.carrier for trunk in settings.trunks}
    if kinds == {"fake"}:
        return FakeCarrier(caller_ids={number for trunk in settings.trunks for number in trunk.pool})
    if "fake" in kinds:
        raise SettingsError('trunks: a scripted trunk (carrier = "fake") can\'t stand beside a real one; remove one')
    return SipCarrier(
        trunks=[
            Trunk(
                name=trunk.name,
                host=trunk.proxy.host,
                port=trunk.proxy.port,
                username=trunk.username or "",
                password=trunk.password.get_secret_value() if trunk.password else "",
                country=trunk.country,
                prefixes=trunk.prefixes,
                srtp=Security(trunk.srtp),
                codecs=tuple(CODECS[name] for name in dict.fromkeys(trunk.codecs)),
                transport=trunk.proxy.transport,
                secure=trunk.proxy.secure,
                auth_username=trunk.auth_username or "",
                realm=trunk.realm or "",
                digest_md5=trunk.digest_md5,
                hosts=trunk.hosts,
                register=trunk.register_,
                register_expires_s=trunk.register_expires_s,
                options_interval_s=_ping_interval_s(trunk),
                large_over_tcp=trunk.large_over_tcp,
                shows=caller_ids(trunk),
            )
            for trunk in settings.trunks
            if trunk.proxy is not None
        ],
        relay=_relay(settings),
        hang_up_silent=settings.media.silence_action == "hangup",
        bind=settings.sip.bind,
        advertised=None if settings.sip.advertised == "auto" else settings.sip.advertised,
        tcp=any(trunk.large_over_tcp or _may_use(trunk, "tcp") for trunk in settings.trunks),
        tls=tls_of(settings),
        media_host=_known_media_host(settings),
        nat=Nat(
            stun=settings.nat.stun,
            signalling=settings.sip.advertised == "auto",
            media=settings.media.advertised == "auto" and settings.media.relay == "worker",
        ),
        user_agent=settings.sip.user_agent,
        capture=settings.sip.capture,
        session=SessionTerms(expires_s=settings.sip.session_expires_s),
    )


def caller_ids(trunk: TrunkSettings) -> CallerIds:
    """Which of its numbers a trunk shows to whom."""
    default = trunk.caller_id or next(iter(trunk.pool), "")
    return CallerIds(
        pool=trunk.pool,
        first=trunk.caller_id_first or default,
        second=trunk.caller_id_second or default,
        identity=Identity(trunk.identity),
        hidden=trunk.privacy == "id",
    )


def _may_use(trunk: TrunkSettings, transport: Literal["tcp", "tls"]) -> bool:
    return trunk.proxy is not None and trunk.proxy.may_use(transport)


def _media_host(settings: Settings) -> str:
    """What SDP says until more is learned."""
    media = settings.media
    if media.advertised not in (None, "auto"):
        return str(media.advertised)
    return reachable_address(media.address, "2001:db8::1" if ":" in media.address else "192.0.2.1")


def _known_media_host(settings: Settings) -> str:
    """Where audio comes to, if that is ours to know and not to be learned."""
    media = settings.media
    if media.relay == "rtpengine":
        return ""
    if is_loopback(media.address):
        return media.address
    return "" if media.advertised == "auto" else _media_host(settings)


def _relay(settings: Settings) -> MediaRelay:
    media = settings.media
    if media.relay == "rtpengine":
        return RtpengineRelay(
            RtpengineSettings(media.rtpengine, digits=media.rtpengine_digits, silence_s=media.silence_s)
        )
    return WorkerRelay(
        MediaSettings(
            bind_host=media.address,
            advertised_host=_media_host(settings),
            port_range=media.ports,
            workers=_cores() if media.workers == "auto" else media.workers,
            silence_s=media.silence_s,
            headers=RTP_HEADERS_KEPT if media.capture_headers else 0,
        )
    )


def _cores() -> int:
    """Those that this process may use; a container may have fewer than its machine."""
    return len(os.sched_getaffinity(0))


def _ping_interval_s(trunk: TrunkSettings) -> float:
    """A trunk on this machine is most likely a PBX of ours or a trial phone: it is asked only where that is set."""
    if trunk.options_interval_s is not None:
        return trunk.options_interval_s
    return 0.0 if trunk.proxy is None or is_loopback(trunk.proxy.host) else DEFAULT_PING_S
