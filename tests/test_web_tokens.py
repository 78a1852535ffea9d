"""The widget's tokens: what is signed is read, and nothing else."""

import base64
import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dosvoces.web.body import Number
from dosvoces.web.tokens import BadToken, Offer, check_time, read, sign

NOW = datetime(2026, 3, 2, 10, 30, tzinfo=UTC)
SECRET = b"s" * 32
CLAIMS = {
    "jti": "a" * 16,
    "exp": int(NOW.timestamp()) + 600,
    "origin": "https://www.example.com",
    "agent": "+34960000022",
}

# RFC 7515, appendix A.1.
RFC_KEY = base64.urlsafe_b64decode(
    "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow=="
)
RFC_TOKEN = (
    "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9"
    ".eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
    ".dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
)


def refusal(token: str, *secrets: bytes) -> str:
    with pytest.raises(BadToken) as caught:
        read(token, secrets or [SECRET])
    return str(caught.value)


def test_what_was_signed_is_read() -> None:
    expected = Offer(
        "a" * 16,
        "https://www.example.com",
        NOW + timedelta(minutes=10),
        {**CLAIMS, "exp": Number(str(CLAIMS["exp"]))},
    )
    assert expected == read(sign(CLAIMS, SECRET), [b"new" * 16, SECRET])


def test_the_signature_is_that_of_the_rfc() -> None:
    """The RFC's token is signed well, and lacks what ours have."""
    assert "`jti`" in refusal(RFC_TOKEN, RFC_KEY)
    assert "not signed" in refusal(RFC_TOKEN, b"x" * 64)


@given(st.data())
def test_no_changed_token_is_read(data: st.DataObject) -> None:
    token = sign(CLAIMS, SECRET)
    at = data.draw(st.integers(0, len(token) - 2))  # The last character has bits that say nothing.
    other = data.draw(st.sampled_from("AZaz09-_.="))
    changed = token[:at] + other + token[at + 1 :]
    if changed != token:
        with pytest.raises(BadToken):
            read(changed, [SECRET])


@pytest.mark.parametrize(
    "header", [{"alg": "none"}, {"alg": "HS512", "typ": "JWT"}, {"alg": "HS256", "kid": "1"}, {"typ": "JWT"}]
)
def test_only_one_kind_of_header_is_taken(header: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dosvoces.web.tokens._HEADER", header)
    token = sign(CLAIMS, SECRET)
    monkeypatch.undo()
    assert "its header is not" in refusal(token)


@pytest.mark.parametrize(
    ("claim", "value", "words"),
    [
        ("jti", "short", "`jti`"),
        ("jti", 7, "`jti`"),
        ("exp", "soon", "`exp`"),
        ("exp", 1.5, "`exp`"),
        ("exp", 999_999_999_999, "`exp`"),
        ("origin", None, "`origin`"),
    ],
)
def test_what_a_token_needs_is_named(claim: str, value: object, words: str) -> None:
    assert words in refusal(sign({**CLAIMS, claim: value}, SECRET))


@pytest.mark.parametrize("token", ["", "a.b", "a.b.c.d", "é.b.c", "a" * 20_000, "?.?.?"])
def test_what_is_no_token_is_refused(token: str) -> None:
    assert refusal(token)


def test_a_token_that_names_a_member_twice_is_refused() -> None:
    body = json.dumps(CLAIMS)[:-1] + ', "agent": "+34807000000"}'
    parts = sign(CLAIMS, SECRET).split(".")
    parts[1] = base64.urlsafe_b64encode(body.encode()).rstrip(b"=").decode()
    import hashlib
    import hmac

    mac = hmac.new(SECRET, f"{parts[0]}.{parts[1]}".encode(), hashlib.sha256).digest()
    parts[2] = base64.urlsafe_b64encode(mac).rstrip(b"=").decode()
    assert "twice" in refusal(".".join(parts))


def test_a_token_opens_for_fifteen_minutes_at_most() -> None:
    def code(ahead: timedelta) -> str:
        try:
            check_time(read(sign({**CLAIMS, "exp": int((NOW + ahead).timestamp())}, SECRET), [SECRET]), NOW)
        except BadToken as error:
            return error.code
        return "open"

    found = [code(timedelta(seconds=s)) for s in (-1, 0, 1, 900, 960, 961)]
    assert found == ["expired", "expired", "open", "open", "open", "bad_token"]
