"""`mail.url` for SMTP: what is understood, and what the refusals say."""

import socket

import pytest

from dosvoces.errors import SettingsError
from dosvoces.mail.smtp_url import SmtpSettings, Tls, parse_mail_url


@pytest.fixture(autouse=True)
def short_host_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "box")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("smtp://mail.example.com", SmtpSettings("mail.example.com", 587, Tls.STARTTLS)),
        ("smtp://mail.example.com:2525/", SmtpSettings("mail.example.com", 2525, Tls.STARTTLS)),
        ("smtps://mail.example.com", SmtpSettings("mail.example.com", 465, Tls.IMPLICIT)),
        ("smtp://mail.example.com?tls=implicit", SmtpSettings("mail.example.com", 465, Tls.IMPLICIT)),
        ("smtp://localhost:1025?tls=none", SmtpSettings("localhost", 1025, Tls.NONE)),
        ("smtp://[::1]:1025?tls=none", SmtpSettings("::1", 1025, Tls.NONE)),
        (
            "smtp://leads%40example.com:p%2Fw%3A%23%3F%25@mail.example.com:587?tls=starttls",
            SmtpSettings("mail.example.com", 587, Tls.STARTTLS, "leads@example.com", "p/w:#?%"),
        ),
        ("smtp://u:p@127.0.0.1?tls=none", SmtpSettings("127.0.0.1", 587, Tls.NONE, "u", "p")),
        ("smtp://u:p@10.0.0.1?tls=none&allow_plain_login=1", SmtpSettings("10.0.0.1", 587, Tls.NONE, "u", "p")),
        (
            "smtps://mail.example.com?ca=/etc/ca.pem&timeout=2.5&connections=3&ehlo=app.example.com",
            SmtpSettings(
                "mail.example.com",
                465,
                Tls.IMPLICIT,
                ca="/etc/ca.pem",
                timeout_s=2.5,
                connections=3,
                ehlo="app.example.com",
            ),
        ),
        ("smtp://h?ehlo=[192.0.2.1]", SmtpSettings("h", 587, Tls.STARTTLS, ehlo="[192.0.2.1]")),
    ],
)
def test_url_is_understood(url: str, expected: SmtpSettings) -> None:
    assert parse_mail_url(url) == expected


def test_full_host_name_is_said_in_ehlo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "box.example.com")
    assert parse_mail_url("smtp://h").ehlo == "box.example.com"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "must begin with smtp://, smtps:// or be inbox:"),
        ("http://mail.example.com", "must begin with smtp://"),
        ("smtp://", "names no host"),
        ("smtp://user:s3cret@", "names no host"),
        ("smtp://host name", "names no host"),
        ("smtp://h/inbox", "more than user, host, port and options"),
        ("smtp://h?x\n", "can't be read|more than|no option"),
        ("smtp://[::1", "can't be read"),
        ("smtp://h:0", "the port must be 1 to 65535"),
        ("smtp://h:65536", "the port must be 1 to 65535"),
        ("smtp://h:smtp", "the port must be 1 to 65535"),
        ("smtp://user:s3#cret@h", "percent-encoded"),
        ("smtp://user:s3/cret@h", "percent-encoded"),
        ("smtp://user:s3?cret@h", "percent-encoded"),
        ("smtp://:s3cret@h", "a password but no user"),
        ("smtp://h?tsl=none", "'tsl' is no option; do you mean tls"),
        ("smtp://h?zzz=1", "'zzz' is no option; there are tls, ca, timeout"),
        ("smtp://h?tls=none&tls=starttls", "tls= is given twice"),
        ("smtp://h?tls=off", "tls='off' must be one of starttls, implicit, none"),
        ("smtps://h?tls=starttls", "smtps:// is TLS from the first byte; for tls=starttls write smtp://"),
        ("smtp://u:s3cret@h?tls=none", "would send the password to h unencrypted"),
        ("smtp://u:s3cret@127.evil.example?tls=none", "would send the password to"),
        ("smtp://h?tls=none&ca=/x.pem", "without TLS there is no certificate"),
        ("smtp://h?timeout=0", "timeout='0' must be a number above 0, up to 60"),
        ("smtp://h?timeout=61", "up to 60"),
        ("smtp://h?timeout=nan", "must be a number"),
        ("smtp://h?connections=1.5", "must be a whole number"),
        ("smtp://h?connections=65", "up to 64"),
        ("smtp://h?ehlo=a%20b", "must be a full domain name"),
        ("smtp://h?ehlo=x.y%0d%0aRCPT", "must be a full domain name"),
    ],
)
def test_refusal_says_what_to_write_and_no_password(url: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        parse_mail_url(url)
    assert str(caught.value).startswith("mail.url")
    assert "cret" not in str(caught.value)


def test_settings_do_not_show_the_password() -> None:
    assert "s3cret" not in repr(parse_mail_url("smtp://u:s3cret@h"))
