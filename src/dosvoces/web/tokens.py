"""
The widget's tokens: a JSON Web Token (RFC 7519) with HMAC-SHA256, as every JWT library makes it. Pure.

We check them by hand, because of all that JWT offers exactly one form is taken: compact, `alg` HS256, no other header
than `typ`. It is signed and not encrypted: whoever has it can read it.
"""

import base64
import binascii
import hashlib
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from dosvoces.web.body import BadBody, Number, parse_object

LIFETIME = timedelta(minutes=15)
"""The longest that a token may open a call."""
SKEW = timedelta(seconds=60)
"""How far the clock of the site's server may be ahead."""
MAX_TOKEN = 16 * 1024
"""Characters."""

_HEADER = {"alg": "HS256", "typ": "JWT"}
_ID = re.compile(r"[A-Za-z0-9_-]{16,64}")
_WHOLE = re.compile(r"\d{1,12}")


class BadToken(Exception):
    """It opens nothing. `code` is for the page: `expired`, or `bad_token`; the text is for the operator."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True)
class Offer:
    """What a token that was signed by the site's server fixes."""

    id: str
    """`jti`: of one call."""
    origin: str
    """The page that may use it, as browsers write it."""
    expires_at: datetime
    members: Mapping[str, object]
    """All of its members, numbers as `body.Number`."""


def sign(claims: Mapping[str, object], secret: bytes) -> str:
    """The token that says `claims`."""
    head, body = (_encode(json.dumps(part, ensure_ascii=False).encode()) for part in (_HEADER, claims))
    return f"{head}.{body}.{_encode(_mac(f'{head}.{body}', secret))}"


def read(token: str, secrets: Sequence[bytes]) -> Offer:
    """
    What `token` says, if one of `secrets` has signed it, however old it is. Raises `BadToken`.

    The signature is compared first, and in constant time: nothing is read of what a stranger wrote.
    """
    parts = token.split(".")
    if len(token) > MAX_TOKEN or len(parts) != 3 or not token.isascii():
        raise BadToken("bad_token", "it is no JWT of three parts")
    shown = _decode(parts[2])
    signed = f"{parts[0]}.{parts[1]}"
    if not any(hmac.compare_digest(_mac(signed, secret), shown) for secret in secrets):
        raise BadToken("bad_token", "it is not signed with [widget] secret by HS256")
    try:
        header, members = parse_object(_decode(parts[0])), parse_object(_decode(parts[1]))
    except BadBody as error:
        raise BadToken("bad_token", str(error)) from error
    if header.get("alg") != "HS256" or not set(header) <= set(_HEADER):
        raise BadToken("bad_token", 'its header is not {"alg": "HS256", "typ": "JWT"}')
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


def _mac(signed: str, secret: bytes) -> bytes:
    return hmac.new(secret, signed.encode("ascii"), hashlib.sha256).digest()


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadToken("bad_token", "a part of it is not base64url") from error
