"""
The encryption of one party's media (RFC 3711, RFC 7714), by libsrtp.

Two contexts: one for what the party sends, one for what it gets. Each keeps its roll-over counter and its replay
window, so they live as long as their keys do.
"""

import pylibsrtp

from dosvoces.media import Srtp

_PROFILES = {
    "AES_CM_128_HMAC_SHA1_80": pylibsrtp.Policy.SRTP_PROFILE_AES128_CM_SHA1_80,
    "AES_CM_128_HMAC_SHA1_32": pylibsrtp.Policy.SRTP_PROFILE_AES128_CM_SHA1_32,
    "AEAD_AES_128_GCM": pylibsrtp.Policy.SRTP_PROFILE_AEAD_AES_128_GCM,
}
REPLAY_WINDOW = 128  # packets, RFC 3711 §3.3.2 asks for 64 at least

_REFUSED = (pylibsrtp.Error, ValueError)  # not authentic, repeated, too old; or too long for libsrtp


class Shield:
    """
    Opens what one party sends and seals what it gets.

    A packet that isn't authentic, or came before, opens to None, and changes nothing.
    """

    __slots__ = ("_inward", "_outward", "srtp")

    def __init__(self, srtp: Srtp, before: "Shield | None" = None) -> None:
        """
        `before` is the shield that this one replaces: where a key stays, so does its stream.

        A key that is new begins with a roll-over counter of 0, as every SDES peer that is made of libsrtp does.
        """
        self.srtp = srtp
        same = before is not None and before.srtp.suite == srtp.suite
        if before is not None and same and before.srtp.remote_key == srtp.remote_key:
            self._inward: pylibsrtp.Session = before._inward
        else:
            self._inward = _context(srtp.suite, srtp.remote_key, pylibsrtp.Policy.SSRC_ANY_INBOUND)
        if before is not None and same and before.srtp.local_key == srtp.local_key:
            self._outward: pylibsrtp.Session = before._outward
        else:
            self._outward = _context(srtp.suite, srtp.local_key, pylibsrtp.Policy.SSRC_ANY_OUTBOUND)

    def open(self, packet: bytes) -> bytes | None:
        """The RTP packet in an SRTP packet."""
        try:
            plain: bytes = self._inward.unprotect(packet)
        except _REFUSED:
            return None
        return plain

    def open_rtcp(self, packet: bytes) -> bytes | None:
        """The RTCP packet in an SRTCP packet."""
        try:
            plain: bytes = self._inward.unprotect_rtcp(packet)
        except _REFUSED:
            return None
        return plain

    def seal(self, packet: bytes) -> bytes:
        """The SRTP packet for an RTP packet; `b""` if it can't be sealed: longer than any voice, or sent before."""
        try:
            sealed: bytes = self._outward.protect(packet)
        except _REFUSED:
            return b""
        return sealed

    def seal_rtcp(self, packet: bytes) -> bytes:
        """The SRTCP packet for an RTCP packet."""
        sealed: bytes = self._outward.protect_rtcp(packet)
        return sealed


def _context(suite: str, key: bytes, kind: int) -> pylibsrtp.Session:
    policy = pylibsrtp.Policy(key=key, ssrc_type=kind, srtp_profile=_PROFILES[suite])
    policy.window_size = REPLAY_WINDOW
    return pylibsrtp.Session(policy)
