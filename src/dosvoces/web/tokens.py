"""
The widget's tokens: an encrypted JSON Web Token (RFC 7519, RFC 7516), `dir` with A256GCM, as JOSE libraries make it.

We open them by hand, because of all that JOSE offers exactly one form is taken: compact, `alg` dir, `enc` A256GCM, no
other header than `typ`. The visitor who carries it can neither read nor change it.
"""

import base64
import binascii
import contextlib
import hashlib
import hmac
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from dosvoces.web.body import BadBody, Number, parse_object

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

LIFETIME = timedelta(minutes=15)
"""The longest that a token may open a call."""
SKEW = timedelta(seconds=60)
"""How far the clock of the site's server may be ahead."""
MAX_TOKEN = 16 * 1024
"""Characters."""

_HEADER = {"alg": "dir", "enc": "A256GCM"}
_SIGNED_PARTS, _PARTS = 3, 5
"""Of a JWS (RFC 7515 §3.1) and a JWE (RFC 7516 §3.1) in their compact forms."""
_KEY_LABEL = b"dosvoces widget token"
"""What the key is derived for, so that it is nothing else's."""
_NONCE, _TAG = 12, 16  # octets, RFC 7518 §5.3
_ID = re.compile(r"[A-Za-z0-9_-]{16,64}")
_WHOLE = re.compile(r"\d{1,12}")


class BadToken(Exception):
    """It opens nothing. `code` is for the page: `expired`, or `bad_token`; the text is for the operator."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True)
class Offer:
    """What a token that was made by the site's server fixes."""

    id: str
    """`jti`: of one call."""
    origin: str
    """The page that may use it, as browsers write it."""
    expires_at: datetime
    members: Mapping[str, object]
    """All of its members, numbers as `body.Number`."""


def key_of(secret: bytes) -> bytes:
    """The 256 bits that tokens are encrypted with; any site's language has HMAC."""
    return hmac.digest(secret, _KEY_LABEL, hashlib.sha256)


def seal(claims: Mapping[str, object], secret: bytes) -> str:
    """The token that says `claims`, to nobody but who has `secret`."""
    head, nonce = _encode(json.dumps(_HEADER).encode()), os.urandom(_NONCE)
    sealed = _cipher(secret).encrypt(nonce, json.dumps(claims, ensure_ascii=False).encode(), head.encode())
    return f"{head}..{_encode(nonce)}.{_encode(sealed[:-_TAG])}.{_encode(sealed[-_TAG:])}"


def read(token: str, secrets: Sequence[bytes]) -> Offer:
    """
    What `token` says, if it was sealed with one of `secrets`, however old it is. Raises `BadToken`.

    It is opened first: nothing is read of what a stranger wrote.
    """
    parts = token.split(".")
    if len(token) <= MAX_TOKEN and len(parts) == _SIGNED_PARTS:
        raise BadToken("bad_token", "it is signed and not encrypted, so visitors can read it: see docs/howto/widget.md")
    if len(token) > MAX_TOKEN or len(parts) != _PARTS or parts[1] or not token.isascii():
        raise BadToken("bad_token", "it is no encrypted JWT of five parts, the second one empty")
    opened = _open(parts, secrets)
    try:
        header, members = parse_object(_decode(parts[0])), parse_object(opened)
    except BadBody as error:
        raise BadToken("bad_token", str(error)) from error
    if {**header, "typ": "JWT"} != {**_HEADER, "typ": "JWT"}:
        raise BadToken("bad_token", 'its header is not {"alg": "dir", "enc": "A256GCM"}')
    token_id, origin = members.get("jti"), members.get("origin")
    if not isinstance(token_id, str) or _ID.fullmatch(token_id) is None:
        raise BadToken("bad_token", "its `jti` is not 16 to 64 letters, digits, - and _")
    if not isinstance(origin, str) or not origin:
        raise BadToken("bad_token", "its `origin` is missing: the page's, such as https://www.example.com")
    return Offer(token_id, origin, _expiry(members.get("exp")), members)


def check_time(offer: Offer, now: datetime) -> None:
    """Raise `BadToken` unless `offer` opens a call now."""
    if offer.expires_at <= now:
        raise BadToken("expired", "it has expired")
    if offer.expires_at > now + LIFETIME + SKEW:
        raise BadToken("bad_token", f"its `exp` is more than {LIFETIME.seconds // 60} minutes ahead")


def _expiry(value: object) -> datetime:
    if not isinstance(value, Number) or _WHOLE.fullmatch(value.text) is None:
        raise BadToken("bad_token", "its `exp` is no whole number of seconds since 1970")
    try:
        return datetime.fromisoformat("1970-01-01T00:00:00+00:00") + timedelta(seconds=int(value.text))
    except OverflowError as error:
        raise BadToken("bad_token", "its `exp` is beyond the years that there are") from error


def _cipher(secret: bytes) -> "AESGCM":
    # Loaded only where there is a widget: it takes 7 MB.
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(key_of(secret))


def _open(parts: Sequence[str], secrets: Sequence[bytes]) -> bytes:
    from cryptography.exceptions import InvalidTag

    nonce, sealed, tag = (_decode(part) for part in parts[2:])
    if len(nonce) == _NONCE and len(tag) == _TAG:
        for secret in secrets:
            with contextlib.suppress(InvalidTag):
                return _cipher(secret).decrypt(nonce, sealed + tag, parts[0].encode())
    raise BadToken("bad_token", "it is not encrypted with [widget] secret by A256GCM")


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _decode(text: str) -> bytes:
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadToken("bad_token", "a part of it is not base64url") from error
    if _encode(data) != text:  # RFC 4648 §3.5: bits that say nothing would make two tokens of one.
        raise BadToken("bad_token", "a part of it is not base64url")
    return data
