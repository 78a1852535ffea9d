"""RFC 7616, RFC 2617 and RFC 8760: vectors, the odd things servers send, and what must be refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dosvoces.sip.digest import Challenge, Credentials, DigestError, answer, check, parse_challenges

MUFASA = Credentials("Mufasa", "Circle of Life")
NONCE = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v"
OPAQUE = "FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"
CNONCE = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"


@pytest.mark.parametrize(
    ("algorithm", "response"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_vectors_of_rfc_7616_section_3_9_1(algorithm: str, response: str) -> None:
    challenges = parse_challenges(
        [
            f'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm={algorithm}, '
            f'nonce="{NONCE}", opaque="{OPAQUE}"'
        ]
    )
    value = answer(challenges, MUFASA, method="GET", uri="/dir/index.html", cnonce=CNONCE)
    assert value == (
        f'Digest username="Mufasa", realm="http-auth@example.org", nonce="{NONCE}", uri="/dir/index.html", '
        f'response="{response}", algorithm={algorithm}, qop=auth, cnonce="{CNONCE}", nc=00000001, '
        f'opaque="{OPAQUE}"'
    )
    assert check(value, MUFASA, method="GET", realm="http-auth@example.org", nonce=NONCE)


def test_vector_of_rfc_2617_section_3_5() -> None:
    nonce = "dcd98b7102dd2f0e8b11d0f600bfb0c093"
    challenges = parse_challenges(
        [
            'Digest realm="testrealm@host.com", qop="auth,auth-int", '
            f'nonce="{nonce}", opaque="5ccc069c403ebaf9f0171e9517f40e41"'
        ]
    )
    value = answer(
        challenges,
        Credentials("Mufasa", "Circle Of Life"),
        method="GET",
        uri="/dir/index.html",
        cnonce="0a4f113b",
    )
    assert 'response="6629fae49393a05397450978507c4ef1"' in value


def test_no_qop_is_answered_as_rfc_2069_had_it() -> None:
    """The vector of RFC 2069 §2.4 with the value of its erratum 749."""
    challenges = parse_challenges(['Digest realm="testrealm@host.com", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093"'])
    value = answer(challenges, Credentials("Mufasa", "CircleOfLife"), method="GET", uri="/dir/index.html", cnonce="x")
    assert value == (
        'Digest username="Mufasa", realm="testrealm@host.com", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", '
        'uri="/dir/index.html", response="1949323746fe6a43ef61f9606e7febea", algorithm=MD5'
    )


def test_every_field_of_a_challenge_is_read() -> None:
    assert parse_challenges(
        [
            'dIGEST Realm = "a \\"b\\" c\\\\d" ,NONCE="n,1" , qop="auth,auth-int",algorithm="sha-256", '
            'opaque="", STALE=TRUE, domain="sip:a, sip:b", userhash=true, charset=UTF-8, new=1,,'
        ]
    ) == [Challenge('a "b" c\\d', "n,1", "sha-256", ("auth", "auth-int"), "", True)]


def test_several_headers_and_several_challenges_in_one() -> None:
    assert parse_challenges(
        [
            'Basic realm="x, y", Digest realm="r", nonce="1", algorithm=SHA-256, qop="auth", '
            'Negotiate YWJj/+==, Digest realm="r", nonce="2", Bearer',
            'Digest realm="r",nonce="3",algorithm=AKAv1-MD5,qop=auth',
            "NTLM a/b==,c/d",
            "",
        ]
    ) == [
        Challenge("r", "1", "SHA-256", ("auth",)),
        Challenge("r", "2"),
        Challenge("r", "3", "AKAv1-MD5", ("auth",)),
    ]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ('Digest nonce="n"', "without realm"),
        ('Digest realm="r"', "without nonce"),
        ("Digest", "without realm"),
        ('Digest realm="r", nonce="n', "doesn't end"),
        ('Digest realm="r", nonce="n" opaque="o"', "not a parameter"),
        ('Digest realm="r", nonce="n", "x"', "not a parameter"),
        ('realm="r", nonce="n"', "without a scheme"),
        ('"realm"', "not a parameter"),
        ('Digest realm="r", nonce="n", nonce="m"', "two values of nonce"),
        ('Digest realm="r\r\nX: y", nonce="n"', "control character"),
        ('Digest realm="r", nonce="n", algorithm="MD5,MD5"', "no token"),
        ("Digest " + "x" * 9_000, "at most"),
    ],
)
def test_a_malformed_challenge_is_refused(value: str, why: str) -> None:
    with pytest.raises(DigestError, match=why):
        parse_challenges([value])


def test_too_many_challenges_are_refused() -> None:
    with pytest.raises(DigestError, match="more than 16"):
        parse_challenges(['Digest realm="r", nonce="n"'] * 17)


def test_the_same_parameter_twice_is_forgiven() -> None:
    assert parse_challenges(['Digest realm="r", nonce="n", realm="r"']) == [Challenge("r", "n")]


@pytest.mark.parametrize(
    ("challenges", "chosen"),
    [
        ([Challenge("r", "1"), Challenge("r", "2", "SHA-256"), Challenge("r", "3", "SHA-512-256")], "3"),
        ([Challenge("r", "1", "AKAv1-MD5"), Challenge("r", "2"), Challenge("r", "3", "MD5-sess")], "2"),
        ([Challenge("r", "1", "SHA-256", ("token",)), Challenge("r", "2", "MD5", ("x", "auth-int"))], "2"),
        ([Challenge("one", "1"), Challenge("two", "2")], "1"),
    ],
)
def test_the_best_challenge_is_answered(challenges: list[Challenge], chosen: str) -> None:
    value = answer(challenges, MUFASA, method="INVITE", uri="sip:x", cnonce="c")
    assert f'nonce="{chosen}"' in value


@pytest.mark.parametrize(
    ("challenges", "why"),
    [
        ([], "no Digest challenge to answer"),
        ([Challenge("r", "n", "AKAv1-MD5", ("auth",))], r"AKAv1-MD5 \(qop auth\); we do"),
        ([Challenge("r", "n", "MD5", ("token",))], r"MD5 \(qop token\)"),
        ([Challenge("r\x00", "n")], "control character"),
        ([Challenge("r\ud800", "n")], "UTF-8"),
    ],
)
def test_what_cannot_be_answered_is_said(challenges: list[Challenge], why: str) -> None:
    with pytest.raises(DigestError, match=why):
        answer(challenges, MUFASA, method="INVITE", uri="sip:x", cnonce="c")


def test_auth_int_covers_the_body() -> None:
    challenge = Challenge("r", "n", "SHA-256", ("auth-int",))
    value = answer([challenge], MUFASA, method="INVITE", uri="sip:x", cnonce="c", body=b"v=0")
    assert "qop=auth-int" in value
    assert check(value, MUFASA, method="INVITE", realm="r", nonce="n", body=b"v=0")
    assert not check(value, MUFASA, method="INVITE", realm="r", nonce="n", body=b"v=1")


def test_a_session_algorithm_without_qop_still_sends_the_cnonce() -> None:
    value = answer([Challenge("r", "n", "MD5-sess")], MUFASA, method="BYE", uri="sip:x", cnonce="c")
    assert value.endswith('algorithm=MD5-sess, cnonce="c"')
    assert check(value, MUFASA, method="BYE", realm="r", nonce="n")


@pytest.mark.parametrize(
    ("changed", "right"),
    [
        ({}, True),
        ({"method": "BYE"}, False),
        ({"realm": "other"}, False),
        ({"nonce": "other"}, False),
        ({"credentials": Credentials("Mufasa", "wrong")}, False),
        ({"credentials": Credentials("Scar", "Circle of Life")}, False),
    ],
)
def test_check_refuses_what_differs(changed: dict[str, object], right: bool) -> None:
    value = answer([Challenge("r", "n", "MD5", ("auth",))], MUFASA, method="INVITE", uri="sip:x", cnonce="c")
    asked: dict[str, object] = {"credentials": MUFASA, "method": "INVITE", "realm": "r", "nonce": "n"} | changed
    assert check(value, **asked) is right  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Basic abc==",
        "Digest",
        'Digest username="Mufasa", realm="r", nonce="n", uri="sip:x", response="00"',
        'Digest username="Mufasa", realm="r", nonce="n", uri="sip:x", response="é"',
        'Digest username="Mufasa", realm="r", nonce="n", uri="sip:x", response="\ud800"',
        'Digest username="Mufasa", realm="r", nonce="n", uri="sip:x", qop=token, response="00"',
        'Digest username="Mufasa", realm="r", nonce="n", uri="sip:x", algorithm=X, response="00"',
        'Digest realm="r", Digest realm="r"',
        'Digest realm="r',
    ],
)
def test_check_refuses_what_it_cannot_read(value: str) -> None:
    assert not check(value, MUFASA, method="INVITE", realm="r", nonce="n")


def test_the_password_is_not_shown() -> None:
    shown = repr(MUFASA)
    assert MUFASA.password not in shown
    assert shown == "Credentials(username='Mufasa', realm='', hosts=frozenset(), md5=True)"


@given(st.lists(st.text(), max_size=3))
def test_arbitrary_text_raises_nothing_else(values: list[str]) -> None:
    try:
        parse_challenges(values)
    except DigestError:
        pass


@given(st.lists(st.sampled_from(['"', "\\", ",", "=", " ", "Digest ", "realm", "nonce", "Basic", "a"])))
def test_arbitrary_pieces_of_a_challenge_raise_nothing_else(pieces: list[str]) -> None:
    try:
        parse_challenges(["".join(pieces)])
    except DigestError:
        pass


_TEXT = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=20)


@given(
    username=_TEXT,
    password=_TEXT,
    realm=_TEXT,
    nonce=_TEXT,
    opaque=st.none() | _TEXT,
    algorithm=st.sampled_from(["MD5", "md5-SESS", "SHA-256", "SHA-256-sess", "SHA-512-256", "sha-512-256-sess"]),
    qop=st.sampled_from([(), ("auth",), ("auth-int",), ("auth-int", "auth")]),
)
def test_what_is_answered_is_right(
    username: str,
    password: str,
    realm: str,
    nonce: str,
    opaque: str | None,
    algorithm: str,
    qop: tuple[str, ...],
) -> None:
    credentials = Credentials(username, password)
    value = answer(
        [Challenge(realm, nonce, algorithm, qop, opaque)],
        credentials,
        method="INVITE",
        uri="sip:+34600@example.com;user=phone",
        cnonce="c",
        nonce_count=17,
        body=b"v=0\r\n",
    )
    assert check(value, credentials, method="INVITE", realm=realm, nonce=nonce, body=b"v=0\r\n")
    assert not check(
        value,
        Credentials(username, password + "x"),
        method="INVITE",
        realm=realm,
        nonce=nonce,
        body=b"v=0\r\n",
    )
