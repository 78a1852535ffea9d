"""Keys in session descriptions (RFC 4568), and what is offered, answered and agreed on with them (RFC 8643)."""

import base64
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dosvoces.sip.sdp import PCMA, Crypto, Keys, NotAcceptable, Security, answer_to, choose, new_crypto, offer, parse
from dosvoces.sip.security import MAX_CRYPTO, OFFERED, SUITES, read_crypto

CM_80, CM_32, GCM = "AES_CM_128_HMAC_SHA1_80", "AES_CM_128_HMAC_SHA1_32", "AEAD_AES_128_GCM"
KEY = bytes(range(30))
TEXT = base64.b64encode(KEY).decode()
OURS = new_crypto(lambda length: bytes([length]) * length)


def test_the_rfc_s_own_example() -> None:
    """RFC 4568 §10.1, without the master key identifier of the one there."""
    line = "1 AES_CM_128_HMAC_SHA1_80 inline:WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz|2^20"
    assert read_crypto(line) == Crypto(1, CM_80, b"YS___semctl () {\t220;}\n}\nunles")
    assert read_crypto(line + "|1:4") is None


@pytest.mark.parametrize(
    "value",
    [
        f"1 {CM_80} inline:{TEXT}",
        f"1  {CM_80.lower()}   INLINE:{TEXT}",
        f"1 {CM_80} inline:{TEXT}|2^48",
        f"1 {CM_80} inline:{TEXT}|1048576",
        f"1 {CM_80} inline:{TEXT} WSH=64",
        f"1 {CM_80} inline:{TEXT} -some-extension",
    ],
)
def test_what_is_read(value: str) -> None:
    assert read_crypto(value) == Crypto(1, CM_80, KEY)


def test_the_padding_of_a_gcm_key_may_be_missing() -> None:
    text = base64.b64encode(KEY[:28]).decode()
    assert text.endswith("==")
    assert (
        read_crypto(f"2 {GCM} inline:{text}") == read_crypto(f"2 {GCM} inline:{text[:-2]}") == Crypto(2, GCM, KEY[:28])
    )


@pytest.mark.parametrize(
    "value",
    [
        "",
        "1",
        f"1 {CM_80}",
        f"one {CM_80} inline:{TEXT}",
        f"-1 {CM_80} inline:{TEXT}",
        f"1234567890 {CM_80} inline:{TEXT}",
        f"1 F8_128_HMAC_SHA1_80 inline:{TEXT}",
        f"1 {GCM} inline:{TEXT}",
        f"1 {CM_80} inline:{TEXT[:-4]}",
        f"1 {CM_80} inline:{TEXT}AAAA",
        f"1 {CM_80} inline:{TEXT[:-1]}!",
        f"1 {CM_80} inline:" + "A" * 5000,
        f"1 {CM_80} inline:",
        f"1 {CM_80} uri:{TEXT}",
        f"1 {CM_80} inline:{TEXT}|2^20|1:4",
        f"1 {CM_80} inline:{TEXT}|1:4",
        f"1 {CM_80} inline:{TEXT}|for ever",
        f"1 {CM_80} inline:{TEXT};inline:{TEXT}",
        f"1 {CM_80} inline:{TEXT} UNENCRYPTED_SRTP",
        f"1 {CM_80} inline:{TEXT} KDR=1",
        f"1 {CM_80} inline:{TEXT} FEC_ORDER=FEC_SRTP",
    ],
)
def test_what_is_not_used(value: str) -> None:
    assert read_crypto(value) is None


@given(st.text(max_size=200))
def test_any_text_is_a_crypto_or_none(value: str) -> None:
    read_crypto(value)


@given(st.lists(st.sampled_from(["1", CM_80, GCM, "inline:", TEXT, "|", "2^20", ":", ";", " ", "é", "="]), max_size=12))
def test_any_mixture_is_a_crypto_or_none(parts: list[str]) -> None:
    read_crypto("".join(parts))


def test_keys_are_not_shown() -> None:
    crypto = Crypto(1, CM_80, KEY)
    assert repr(crypto) == f"Crypto(tag=1, suite='{CM_80}')"
    assert repr(Keys(CM_80, KEY, KEY)) == f"Keys(suite='{CM_80}')"


def test_our_lines_have_a_key_each() -> None:
    numbers = itertools.count(1)
    lines = new_crypto(lambda length: bytes([next(numbers)]) * length)
    assert [(line.tag, line.suite, len(line.key)) for line in lines] == [(1, CM_80, 30), (2, GCM, 28), (3, CM_32, 30)]
    assert len({line.key for line in lines}) == 3
    assert set(OFFERED) == set(SUITES)


# --- offer and answer ---

OFFERED_TEXT = """\
v=0\r
o=- 5 1 IN IP4 198.51.100.7\r
s=-\r
c=IN IP4 198.51.100.7\r
t=0 0\r
m=audio 20000 RTP/SAVP 8\r
a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwd\r
a=rtpmap:8 PCMA/8000\r
a=ptime:20\r
a=sendrecv\r
"""


def test_an_offer_of_srtp_alone_as_text() -> None:
    crypto = (Crypto(1, CM_80, KEY),)
    written = offer("198.51.100.7", 20000, [PCMA], session_id=5, security=Security.REQUIRED, crypto=crypto)
    assert written == OFFERED_TEXT.encode()
    optional = offer("198.51.100.7", 20000, [PCMA], session_id=5, security=Security.OPTIONAL, crypto=crypto)
    assert optional == OFFERED_TEXT.replace("RTP/SAVP", "RTP/AVP").encode()
    off = offer("198.51.100.7", 20000, [PCMA], session_id=5, crypto=crypto)
    assert b"crypto" not in off


def description(*media: str) -> bytes:
    head = ("v=0", "o=- 1 1 IN IP4 192.0.2.9", "s=-", "c=IN IP4 192.0.2.9", "t=0 0")
    return "".join(f"{line}\r\n" for line in (*head, *media)).encode()


PLAIN = ("m=audio 4000 RTP/AVP 8",)
BEST_EFFORT = ("m=audio 4000 RTP/AVP 8", f"a=crypto:3 {CM_80} inline:{TEXT}")
SECURE = (
    "m=audio 5000 RTP/SAVP 8",
    f"a=crypto:1 F8_128_HMAC_SHA1_80 inline:{TEXT}",
    f"a=crypto:2 {CM_32} inline:{TEXT}",
)
DTLS = ("m=audio 6000 UDP/TLS/RTP/SAVP 8", "a=fingerprint:sha-256 00:11", "a=setup:actpass")
AGREED_80, AGREED_32 = Keys(CM_80, OURS[0].key, KEY), Keys(CM_32, OURS[2].key, KEY)


@pytest.mark.parametrize(
    ("offered", "security", "port", "keys"),
    [
        (PLAIN, Security.OFF, 4000, None),
        (PLAIN, Security.OPTIONAL, 4000, None),
        (BEST_EFFORT, Security.OFF, 4000, None),
        (BEST_EFFORT, Security.OPTIONAL, 4000, AGREED_80),
        (BEST_EFFORT, Security.REQUIRED, 4000, AGREED_80),
        (SECURE, Security.OPTIONAL, 5000, AGREED_32),
        (SECURE, Security.REQUIRED, 5000, AGREED_32),
        ((*PLAIN, *SECURE), Security.OFF, 4000, None),
        ((*PLAIN, *SECURE), Security.OPTIONAL, 5000, AGREED_32),
        ((*SECURE, *PLAIN), Security.OPTIONAL, 5000, AGREED_32),
        ((*DTLS, *SECURE), Security.REQUIRED, 5000, AGREED_32),
        (("m=audio 0 RTP/SAVP 8", SECURE[2], *PLAIN), Security.OPTIONAL, 4000, None),
    ],
)
def test_what_an_offer_comes_to(offered: tuple[str, ...], security: Security, port: int, keys: Keys | None) -> None:
    answer = answer_to(
        parse(description(*offered)), "198.51.100.7", 20000, session_id=1, security=security, crypto=OURS
    )
    assert (answer.chosen.port, answer.chosen.keys) == (port, keys)
    lines = parse(answer.body).media
    answered = next(media for media in lines if media.port)
    assert [media.port for media in lines].count(0) == len(lines) - 1, "every other line is refused"
    theirs = next(media for media in parse(description(*offered)).media if media.port == port)
    assert answered.profile == theirs.profile
    if keys is None:
        assert answered.encryption == ()
    else:
        tag = next(line.tag for line in theirs.crypto if line.suite == keys.suite)
        assert answered.crypto == (Crypto(tag, keys.suite, keys.ours),)


@pytest.mark.parametrize(
    ("offered", "security", "why"),
    [
        (SECURE, Security.OFF, "offered as RTP/SAVP only; we do RTP/AVP, not encrypted media"),
        (PLAIN, Security.REQUIRED, "without encryption, and we require SRTP"),
        (DTLS, Security.OPTIONAL, "UDP/TLS/RTP/SAVP with no key that we can use"),
        (DTLS, Security.REQUIRED, "UDP/TLS/RTP/SAVP with no key that we can use"),
        ((*PLAIN, f"a=crypto:1 {CM_80} inline:{TEXT[:-8]}"), Security.REQUIRED, "comes with no key that we can use"),
        (("m=audio 0 RTP/SAVP 8",), Security.REQUIRED, r"refused \(port 0\)"),
        (("m=image 4000 udptl t38",), Security.REQUIRED, "no audio"),
    ],
)
def test_what_is_refused(offered: tuple[str, ...], security: Security, why: str) -> None:
    with pytest.raises(NotAcceptable, match=why) as caught:
        answer_to(parse(description(*offered)), "198.51.100.7", 20000, session_id=1, security=security, crypto=OURS)
    assert TEXT[:20] not in str(caught.value)
    with pytest.raises(NotAcceptable, match=why):
        choose(parse(description(*offered)), [PCMA], security=security, crypto=OURS)


def test_our_own_answer_agrees_with_our_own_offer() -> None:
    theirs = new_crypto(lambda length: bytes([length + 1]) * length)
    for security in (Security.OPTIONAL, Security.REQUIRED):
        offered = offer("192.0.2.1", 4000, [PCMA], session_id=1, security=security, crypto=OURS)
        answer = answer_to(parse(offered), "192.0.2.2", 5000, [PCMA], session_id=2, security=security, crypto=theirs)
        chosen = choose(parse(answer.body), [PCMA], security=security, crypto=OURS)
        assert chosen.keys == Keys(CM_80, OURS[0].key, theirs[0].key)
        assert answer.chosen.keys == Keys(CM_80, theirs[0].key, OURS[0].key)


def test_keys_of_the_session_level_are_nobody_s() -> None:
    """RFC 4568 §5: the attribute belongs to an m= line."""
    parsed = parse(description(f"a=crypto:1 {CM_80} inline:{TEXT}", *PLAIN))
    assert parsed.media[0].crypto == ()


def test_more_lines_than_anybody_sends_are_not_looked_at() -> None:
    lines = [f"a=crypto:{tag} {CM_80} inline:{TEXT}" for tag in range(1, 100)]
    assert len(parse(description(*PLAIN, *lines)).media[0].crypto) == MAX_CRYPTO
