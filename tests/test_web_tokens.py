"""The widget's tokens: what is signed is read, and nothing else."""

import base64
import json
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from dosvoces.web.body import Number
from dosvoces.web.tokens import BadToken, Offer, check_time, key_of, read, seal

NOW = datetime(2026, 3, 2, 10, 30, tzinfo=UTC)
SECRET = b"s" * 32
CLAIMS = {
    "jti": "a" * 16,
    "exp": int(NOW.timestamp()) + 600,
    "origin": "https://www.example.com",
    "agent": "+34960000022",
}

# Made by the Node example of docs/howto/widget.md with a secret of 32 "s": OpenSSL's idea of it.
NODE_TOKEN = (
    "eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIn0..oD3_EP3wtBa3BkNg.rBFdWUfdKDpX1Ca4OjKr0NUFfk_VwX8tLrZx0YrC-q"
    "wMyp7YyJS0Z5f2P4pK2zwSyMznB--sV_lThj2SZ7iKczmOx5OZZaf4oALRGXU4ADdCBT-ix4mkU3KMbqDX3DOKNtDzHrV1E2T8N9"
    "35q4rSCOtNbqoCNA_FaYmL6PasUaKNzWi9xyAXemxN4G3TCTbnGMEOWL7qZbVSHBnHxzQzoXXd1qraUWGLUzYPXck.XgbxU6Nyj3"
    "gRGloj_LWF_w"
)
# RFC 7515, appendix A.1: signed, as tokens were before.
SIGNED = (
    "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9"
    ".eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
    ".dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
)


def refusal(token: str, *secrets: bytes) -> str:
    with pytest.raises(BadToken) as caught:
        read(token, secrets or [SECRET])
    return str(caught.value)


def test_what_was_sealed_is_read() -> None:
    expected = Offer(
        "a" * 16,
        "https://www.example.com",
        NOW + timedelta(minutes=10),
        {**CLAIMS, "exp": Number(str(CLAIMS["exp"]))},
    )
    assert expected == read(seal(CLAIMS, SECRET), [b"new" * 16, SECRET])


def test_a_visitor_can_not_read_it() -> None:
    token = seal(CLAIMS, SECRET)
    assert token != seal(CLAIMS, SECRET)
    shown = b"".join(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in token.split("."))
    assert b"34960000022" not in shown
    assert b"example.com" not in shown


def test_a_token_of_another_maker_is_read() -> None:
    offer = read(NODE_TOKEN, [SECRET])
    assert (offer.origin, offer.members["agent"]) == ("https://www.example.com", "+34960000022")
    assert offer.members["lead"] == {"city": "Alcalá"}
    assert "is not encrypted with [widget] secret" in refusal(NODE_TOKEN, b"x" * 32)


def test_a_token_that_is_only_signed_is_refused_and_it_is_said_why() -> None:
    assert "it is signed and not encrypted" in refusal(SIGNED)


@given(st.data())
def test_no_changed_token_is_read(data: st.DataObject) -> None:
    token = seal(CLAIMS, SECRET)
    at = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.sampled_from("AZaz09-_.="))
    changed = token[:at] + other + token[at + 1 :]
    if changed != token:
        with pytest.raises(BadToken):
            read(changed, [SECRET])


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "dir", "enc": "A128GCM"},
        {"alg": "dir", "enc": "A256GCM", "zip": "DEF"},
        {"alg": "A256KW", "enc": "A256GCM", "typ": "JWT"},
        {"enc": "A256GCM"},
    ],
)
def test_only_one_kind_of_header_is_taken(header: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dosvoces.web.tokens._HEADER", header)
    token = seal(CLAIMS, SECRET)
    monkeypatch.undo()
    assert "its header is not" in refusal(token)


def test_libraries_that_say_what_it_is_are_welcome(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dosvoces.web.tokens._HEADER", {"typ": "JWT", "alg": "dir", "enc": "A256GCM"})
    token = seal(CLAIMS, SECRET)
    monkeypatch.undo()
    assert read(token, [SECRET]).id == CLAIMS["jti"]


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
    assert words in refusal(seal({**CLAIMS, claim: value}, SECRET))


@pytest.mark.parametrize(
    "token", ["", "a.b", "a.b.c", "a.b.c.d", "a.b.c.d.e", "a..c.d.é", "a" * 20_000, "a..?.?.?", "....", "." * 20_000]
)
def test_what_is_no_token_is_refused(token: str) -> None:
    assert refusal(token)


def test_a_token_that_names_a_member_twice_is_refused() -> None:
    body = json.dumps(CLAIMS)[:-1] + ', "agent": "+34807000000"}'
    head = seal(CLAIMS, SECRET).partition(".")[0]
    sealed = AESGCM(key_of(SECRET)).encrypt(b"n" * 12, body.encode(), head.encode())
    parts = [base64.urlsafe_b64encode(each).rstrip(b"=").decode() for each in (b"n" * 12, sealed[:-16], sealed[-16:])]
    assert "twice" in refusal(".".join([head, "", *parts]))


def test_a_token_opens_for_fifteen_minutes_at_most() -> None:
    def code(ahead: timedelta) -> str:
        try:
            check_time(read(seal({**CLAIMS, "exp": int((NOW + ahead).timestamp())}, SECRET), [SECRET]), NOW)
        except BadToken as error:
            return error.code
        return "open"

    found = [code(timedelta(seconds=s)) for s in (-1, 0, 1, 900, 960, 961)]
    assert found == ["expired", "expired", "open", "open", "open", "bad_token"]
