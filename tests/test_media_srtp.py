"""What libsrtp does to packets, against the RFCs' arithmetic: keys derived and packets sealed here a second time."""

import hashlib
import hmac
import struct

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dosvoces.media import SRTP_KEY_BYTES, Srtp, rtcp, rtp
from dosvoces.media.rtp import Packet
from dosvoces.media.srtp import Shield

# RFC 3711 §B.3
KEY = bytes.fromhex("E1F97A0D3E018BE0D64FA32C06DE4139")
SALT = bytes.fromhex("0EC675AD498AFEEBB6960B3AABE6")
OTHER = bytes(range(30))
CM_80, CM_32, GCM = "AES_CM_128_HMAC_SHA1_80", "AES_CM_128_HMAC_SHA1_32", "AEAD_AES_128_GCM"


def counter_stream(key: bytes, start: int, length: int) -> bytes:
    """RFC 3711 §4.1.1."""
    encryptor = Cipher(algorithms.AES(key), modes.CTR(start.to_bytes(16, "big"))).encryptor()
    return encryptor.update(bytes(length))


def derived(key: bytes, salt: bytes, label: int, length: int) -> bytes:
    """RFC 3711 §4.3, with a key derivation rate of 0."""
    x = int.from_bytes(salt.ljust(14, b"\0"), "big") ^ (label << 48)
    return counter_stream(key, x << 16, length)


def test_the_derivation_is_the_rfc_s() -> None:
    assert derived(KEY, SALT, 0, 16).hex().upper() == "C61E7A93744F39EE10734AFE3FF7A087"
    assert derived(KEY, SALT, 2, 14).hex().upper() == "30CBBC08863D8C85D49DB34A9AE1"
    assert derived(KEY, SALT, 1, 20).hex().upper() == "CEBE321F6FF7716B6FD4AB49AF256A156D38BAA4"


def sealed_by_hand(suite: str, key: bytes, packet: bytes, cycles: int = 0) -> bytes:
    """`packet`, which has a header of 12 bytes, as RFC 3711 §4 and RFC 7714 §8 say."""
    header, payload = packet[:12], packet[12:]
    sequence, _, ssrc = struct.unpack_from("!HII", packet, 2)
    if suite == GCM:
        master, salt = key[:16], key[16:]
        nonce = int.from_bytes(struct.pack("!HIIH", 0, ssrc, cycles, sequence), "big")
        nonce ^= int.from_bytes(derived(master, salt, 2, 12), "big")
        return header + AESGCM(derived(master, salt, 0, 16)).encrypt(nonce.to_bytes(12, "big"), payload, header)
    master, salt = key[:16], key[16:]
    start = int.from_bytes(derived(master, salt, 2, 14), "big") << 16
    start ^= ssrc << 64 ^ (cycles << 16 | sequence) << 16
    stream = counter_stream(derived(master, salt, 0, 16), start, len(payload))
    encrypted = header + bytes(a ^ b for a, b in zip(payload, stream, strict=True))
    tag = hmac.new(derived(master, salt, 1, 20), encrypted + cycles.to_bytes(4, "big"), hashlib.sha1).digest()
    return encrypted + tag[: 10 if suite == CM_80 else 4]


def pair(suite: str) -> tuple[Shield, Shield]:
    """Both ends."""
    ours, theirs = (KEY + SALT)[: SRTP_KEY_BYTES[suite]], OTHER[: SRTP_KEY_BYTES[suite]]
    return Shield(Srtp(suite, ours, theirs)), Shield(Srtp(suite, theirs, ours))


def voice(sequence: int, payload: bytes = b"\xab" * 16) -> bytes:
    return rtp.build(Packet(15, sequence & 0xFFFF, 0xDECAFBAD, 0xCAFEBABE, payload))


@pytest.mark.parametrize("suite", SRTP_KEY_BYTES)
def test_a_packet_is_sealed_as_the_rfc_says(suite: str) -> None:
    shield, peer = pair(suite)
    for cycles, sequence in ((0, 0x1234), (0, 0xFFFF), (1, 0), (1, 1)):
        sealed = shield.seal(voice(sequence))
        assert sealed == sealed_by_hand(suite, shield.srtp.local_key, voice(sequence), cycles)
        assert peer.open(sealed) == voice(sequence)


def test_the_known_vector() -> None:
    """That of libsrtp's own driver, which uses the master key of RFC 3711 §B.3."""
    shield, _ = pair(CM_80)
    assert shield.seal(voice(0x1234)).hex() == (
        "800f1234decafbadcafebabe4e55dc4ce79978d88ca4d215949d2402b78d6acc99ea179b8dbb"
    )


@pytest.mark.parametrize("suite", SRTP_KEY_BYTES)
def test_what_was_changed_or_repeated_opens_to_nothing(suite: str) -> None:
    shield, peer = pair(suite)
    sealed = shield.seal(voice(1))
    for at in range(len(sealed)):
        changed = bytearray(sealed)
        changed[at] ^= 1
        assert peer.open(bytes(changed)) is None
    for length in range(len(sealed)):
        assert peer.open(sealed[:length]) is None
    assert peer.open(sealed) == voice(1)
    assert peer.open(sealed) is None
    assert peer.open(bytes(4000)) is None


def test_late_packets_are_taken_within_the_window() -> None:
    shield, peer = pair(CM_80)
    sealed = [shield.seal(voice(number)) for number in range(200)]
    assert peer.open(sealed[150]) == voice(150)
    assert peer.open(sealed[100]) == voice(100)
    assert peer.open(sealed[100]) is None
    assert peer.open(sealed[10]) is None, "older than the window"


def test_what_can_t_be_sealed_is_not_sent() -> None:
    """A sequence number that was used, and what is longer than any voice: never the same key stream twice."""
    shield, _ = pair(CM_80)
    assert shield.seal(voice(7))
    assert shield.seal(voice(7, b"other")) == b""
    assert shield.seal(voice(8, bytes(1600))) == b""


@pytest.mark.parametrize("suite", SRTP_KEY_BYTES)
def test_reports_are_sealed_too(suite: str) -> None:
    shield, peer = pair(suite)
    report = rtcp.build(rtcp.ReceiverReport(7))
    sealed = shield.seal_rtcp(report)
    assert peer.open_rtcp(sealed[:-1]) is None
    assert peer.open_rtcp(sealed) == report
    assert peer.open_rtcp(sealed) is None, "a repeat"
    assert peer.open_rtcp(report) is None, "in clear"


def test_a_key_that_stays_keeps_its_stream() -> None:
    shield, peer = pair(CM_80)
    assert peer.open(shield.seal(voice(0xFFFF)))
    same, same_peer = Shield(shield.srtp, before=shield), Shield(peer.srtp, before=peer)
    first = same.seal(voice(0))
    assert first == sealed_by_hand(CM_80, shield.srtp.local_key, voice(0), cycles=1)
    assert same_peer.open(first) == voice(0)
    assert same_peer.open(first) is None
    new = Shield(Srtp(CM_80, OTHER[::-1], shield.srtp.remote_key), before=same)
    assert new.seal(voice(1)) == sealed_by_hand(CM_80, OTHER[::-1], voice(1), cycles=0)


def test_keys_are_checked_and_not_shown() -> None:
    with pytest.raises(ValueError, match="no SRTP suite 'AES_CM_128_HMAC_SHA1_80'") as caught:
        Srtp(CM_80, KEY, OTHER)
    assert KEY.hex() not in str(caught.value)
    with pytest.raises(ValueError, match="no SRTP suite 'F8"):
        Srtp("F8_128_HMAC_SHA1_80", OTHER, OTHER)
    assert repr(Srtp(CM_80, OTHER, OTHER)) == "Srtp(suite='AES_CM_128_HMAC_SHA1_80')"
