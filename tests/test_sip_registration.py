"""A registration as a machine: granted, refreshed, refused, lost and regained."""

import pytest

from dosvoces.sip.message import Response, parse
from dosvoces.sip.registration import Registration, granted_s
from dosvoces.sip.transaction import Failure

CONTACT = "<sip:dosvoces@198.51.100.7:5060>"


def answer(code: int, *headers: str, phrase: str = "x") -> Response:
    lines = [
        f"SIP/2.0 {code} {phrase}",
        "Via: SIP/2.0/UDP h;branch=z9hG4bKx",
        "From: <sip:a>",
        "To: <sip:a>",
        "Call-ID: c",
        "CSeq: 1 REGISTER",
        *headers,
    ]
    parsed = parse(("\r\n".join(lines) + "\r\n\r\n").encode())
    assert isinstance(parsed, Response)
    return parsed


def machine(expires_s: int = 600) -> Registration:
    """Its randomness is the upper end of each range."""
    return Registration(expires_s=expires_s, uniform=lambda low, high: high, now=0.0)


def test_it_asks_at_once_and_again_before_the_end() -> None:
    registration = machine()
    assert (registration.due, registration.registered(0.0)) == (0.0, False)
    assert registration.headers(CONTACT) == (("Contact", CONTACT), ("Expires", "600"))
    registration.answered(answer(200, f"Contact: {CONTACT};expires=100"), CONTACT, 0.0)
    assert (registration.due, registration.good_until, registration.trouble) == (85.0, 100.0, "")
    assert registration.registered(99.9)
    assert not registration.registered(100.0)


def test_too_brief_is_asked_again_at_once_for_longer() -> None:
    registration = machine(60)
    registration.answered(answer(423, "Min-Expires: 3600"), CONTACT, 1.0)
    assert (registration.due, registration.headers(CONTACT)[1]) == (1.0, ("Expires", "3600"))
    registration.answered(answer(200), CONTACT, 1.0)
    assert registration.good_until == 3601.0


@pytest.mark.parametrize("least", ["", "Min-Expires: 10", "Min-Expires: 999999999", "Min-Expires: soon"])
def test_a_423_that_makes_no_sense_is_a_refusal(least: str) -> None:
    registration = machine(60)
    registration.answered(answer(423, *([least] if least else [])), CONTACT, 0.0)
    assert (registration.due, registration.trouble) == (30.0, "423 x")


def test_423_for_ever_is_given_up() -> None:
    registration = machine(60)
    for least in (100, 200, 300):
        registration.answered(answer(423, f"Min-Expires: {least}"), CONTACT, 0.0)
    assert registration.due == 30.0


def test_failures_back_off_up_to_a_minute_and_a_success_ends_that() -> None:
    registration, pauses = machine(), []
    for _ in range(8):
        registration.answered(Failure.TIMEOUT, CONTACT, 0.0)
        pauses.append(registration.due)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    assert registration.trouble == "no answer"
    registration.answered(answer(200), CONTACT, 0.0)
    registration.answered(Failure.TRANSPORT, CONTACT, 0.0)
    assert registration.due == 1.0


def test_a_refresh_that_fails_leaves_the_registration_until_its_end() -> None:
    registration = machine()
    registration.answered(answer(200, "Expires: 100"), CONTACT, 0.0)
    registration.answered(Failure.TIMEOUT, CONTACT, 85.0)
    assert registration.registered(99.0)
    assert not registration.registered(100.0)


@pytest.mark.parametrize("code", [401, 403, 404, 407])
def test_a_refusal_of_who_we_are_ends_the_registration_and_is_not_repeated_soon(code: int) -> None:
    registration = machine()
    registration.answered(answer(200), CONTACT, 0.0)
    registration.answered(answer(code, phrase="No"), CONTACT, 10.0)
    assert (registration.registered(10.0), registration.due, registration.trouble) == (False, 40.0, f"{code} No")


def test_retry_after_is_kept_up_to_a_minute() -> None:
    registration = machine()
    registration.answered(answer(503, "Retry-After: 20"), CONTACT, 0.0)
    assert registration.due == 20.0
    registration.answered(answer(500, "Retry-After: 7200"), CONTACT, 0.0)
    assert registration.due == 60.0


def test_no_time_granted_is_no_registration() -> None:
    registration = machine()
    registration.answered(answer(200, "Expires: 0"), CONTACT, 0.0)
    assert (registration.registered(0.0), registration.trouble) == (False, "the registrar granted no time")


def test_leaving_says_zero() -> None:
    registration = machine()
    registration.answered(answer(200), CONTACT, 0.0)
    assert registration.leave() == (("Contact", CONTACT), ("Expires", "0"))


def test_a_contact_that_has_changed_takes_the_old_one_back() -> None:
    registration, other = machine(), "<sip:dosvoces@203.0.113.7:40000>"
    registration.answered(answer(200), CONTACT, 0.0)
    expected = (("Contact", other), ("Contact", f"{CONTACT};expires=0"), ("Expires", "600"))
    assert registration.headers(other) == expected
    registration.answered(answer(200), other, 0.0)
    assert registration.headers(other) == (("Contact", other), ("Expires", "600"))


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([f"Contact: {CONTACT};expires=30", "Expires: 99"], 30),
        ([f'Contact: "us" {CONTACT};q=0.5;expires="30"'], 30),
        (["Contact: <sip:other@192.0.2.9>;expires=5", "Expires: 99"], 99),
        ([f"Contact: <sip:other@192.0.2.9>;expires=5, {CONTACT};expires=44"], 44),
        ([f"Contact: {CONTACT}"], 600),
        # Mended for a NAT, or spelt otherwise: the user is what stays.
        (["Contact: <sip:dosvoces@203.0.113.9:40123;ob>;expires=60"], 60),
        (["Contact: <sip:dosvoces@198.51.100.7>;expires=60;received=x, <sip:other@192.0.2.9>;expires=5"], 60),
        (["Contact: <sip:dosvoces@203.0.113.9>;expires=60, <sip:dosvoces@203.0.113.8>;expires=50"], 50),
        (["Contact: <sip:dosvoces@203.0.113.9>;expires=60, <sip:dosvoces@203.0.113.8>;expires=0"], 60),
        (["Contact: <sip:dosvoces@203.0.113.9>", "Expires: 99"], 99),
        (["Expires: never"], 600),
        ([], 600),
    ],
)
def test_what_was_granted(headers: list[str], expected: int) -> None:
    assert granted_s(answer(200, *headers), CONTACT, 600) == expected
