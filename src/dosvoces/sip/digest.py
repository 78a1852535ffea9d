"""
Digest authentication: read a challenge, answer it, check an answer (RFC 7616, RFC 8760, RFC 3261 §22).

Pure: the cnonce and the nonce count come from the caller. It knows header values, not messages: which header they
stand in (401 with WWW-Authenticate, 407 with Proxy-Authenticate) and when to give up is the dialog's business.

The values are split here and not by sipmessage's `AuthParameters`, which splits at the comma inside
`qop="auth,auth-int"` and sees only one challenge per header; servers send both.
"""

import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

MAX_VALUE = 8_192  # characters of one header value
MAX_CHALLENGES = 16  # in one response, all headers together


class DigestError(ValueError):
    """The challenge can't be read or can't be answered; the text says why."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """The account of a trunk."""

    username: str
    password: str = field(repr=False)
    realm: str = ""
    """The only realm whose challenges are answered; empty: the first that asks (see `exchange.Account`)."""
    hosts: frozenset[str] = frozenset()
    """The peer's literal addresses: an answer goes there and to where a call began, whatever a route says."""
    md5: bool = True
    """Whether a challenge may be answered with MD5 where nothing better is offered."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """One Digest challenge (RFC 7616 §3.3), values without their quotes."""

    realm: str
    nonce: str
    algorithm: str = "MD5"
    """As the server wrote it; `MD5` where it wrote none."""
    qop: tuple[str, ...] = ()
    """In lower case, in the server's order; empty where there was none (RFC 2069)."""
    opaque: str | None = None
    """Goes back as it came; `None` where there was none."""
    stale: bool = False
    """The password was right and only the nonce is old: answer again with the same password."""


def parse_challenges(values: Iterable[str]) -> list[Challenge]:
    """
    The Digest challenges of some WWW-Authenticate or Proxy-Authenticate values, in the server's order.

    Other schemes are left out. Raises `DigestError` where a value is malformed, a Digest challenge lacks its realm
    or nonce, or contradicts itself.
    """
    found: list[Challenge] = []
    for value in values:
        for scheme, parameters in _split_schemes(value):
            if scheme == "digest":
                found.append(_challenge(parameters))
        if len(found) > MAX_CHALLENGES:
            raise DigestError(f"more than {MAX_CHALLENGES} challenges")
    return found


def answer(
    challenges: Sequence[Challenge],
    credentials: Credentials,
    *,
    method: str,
    uri: str,
    cnonce: str,
    nonce_count: int = 1,
    body: bytes = b"",
) -> str:
    """
    The value of the Authorization or Proxy-Authorization header that answers the best of `challenges`.

    `uri` is the Request-URI as it goes on the wire (RFC 3261 §22.4). `nonce_count` is 1 for a new nonce and goes up
    with every request under it; `cnonce` must then stay the same, as the session key of the `-sess` algorithms holds
    it. Raises `DigestError` if there is no challenge that we can answer.
    """
    challenge = _best(challenges, md5=credentials.md5)
    qop = _choose_qop(challenge.qop)
    session = challenge.algorithm.upper().endswith("-SESS")
    parts = [
        f"username={_quote(credentials.username)}",
        f"realm={_quote(challenge.realm)}",
        f"nonce={_quote(challenge.nonce)}",
        f"uri={_quote(uri)}",
    ]
    response = _response(
        algorithm=challenge.algorithm,
        credentials=credentials,
        realm=challenge.realm,
        nonce=challenge.nonce,
        method=method,
        uri=uri,
        qop=qop,
        cnonce=cnonce,
        nc=f"{nonce_count:08x}",
        body=body,
    )
    parts.append(f'response="{response}"')
    parts.append(f"algorithm={challenge.algorithm}")
    if qop:
        parts += [f"qop={qop}", f"cnonce={_quote(cnonce)}", f"nc={nonce_count:08x}"]
    elif session:
        # RFC 2617 §3.2.2 forbids cnonce without qop, but then nobody could compute the session key.
        parts.append(f"cnonce={_quote(cnonce)}")
    if challenge.opaque is not None:
        parts.append(f"opaque={_quote(challenge.opaque)}")
    return "Digest " + ", ".join(parts)


def check(
    header_value: str, credentials: Credentials, *, method: str, realm: str, nonce: str, body: bytes = b""
) -> bool:
    """
    Whether `header_value` answers our challenge of `realm` and `nonce` for `method` rightly.

    What can't be read is a wrong answer. The URI is taken from the answer itself: whether it is the Request-URI is
    left to the caller, since proxies may rewrite that (RFC 3261 §22.4).
    """
    try:
        schemes = list(_split_schemes(header_value))
        if len(schemes) != 1 or schemes[0][0] != "digest":
            return False
        given = schemes[0][1]
        expected = _response(
            algorithm=given.get("algorithm", "MD5"),
            credentials=credentials,
            realm=realm,
            nonce=nonce,
            method=method,
            uri=given.get("uri", ""),
            qop=given.get("qop", "").lower(),
            cnonce=given.get("cnonce", ""),
            nc=given.get("nc", ""),
            body=body,
        )
        response = given.get("response", "").lower().encode()
    except (DigestError, UnicodeEncodeError):
        return False
    same = (given.get("username"), given.get("realm"), given.get("nonce"))
    return same == (credentials.username, realm, nonce) and hmac.compare_digest(response, expected.encode())


# -- the arithmetic ------------------------------------------------------------------------------------------------

_Hash = Callable[[bytes], str]


def _md5(data: bytes) -> str:
    # Where OpenSSL runs in FIPS mode MD5 is refused unless it is said not to be for security; the server chose it.
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _sha512_256(data: bytes) -> str:
    return hashlib.new("sha512_256", data).hexdigest()


# Best first. SHA-512/256 is not in hashlib's guaranteed set: OpenSSL has it, other builds may not.
_HASHES: dict[str, _Hash] = {
    **({"SHA-512-256": _sha512_256} if "sha512_256" in hashlib.algorithms_available else {}),
    "SHA-256": _sha256,
    "MD5": _md5,
}
_RANK = {name: rank for rank, name in enumerate(_HASHES)}


def _base(algorithm: str) -> str:
    return algorithm.upper().removesuffix("-SESS")


def _best(challenges: Sequence[Challenge], *, md5: bool) -> Challenge:
    # RFC 7616 §3.7 lets local policy go before the server's order: an older hash in front must not weaken the answer.
    # Between equals `min` keeps the server's order.
    allowed = [name for name in _HASHES if md5 or name != "MD5"]
    usable = [c for c in challenges if _base(c.algorithm) in allowed and _choose_qop(c.qop) is not None]
    if usable:
        return min(usable, key=lambda c: _RANK[_base(c.algorithm)])
    if not challenges:
        raise DigestError("no Digest challenge to answer")
    offered = ", ".join(f"{c.algorithm} (qop {'/'.join(c.qop) or 'none'})" for c in challenges)
    raise DigestError(f"no challenge that can be answered: {offered}; we do {', '.join(allowed)}")


def _choose_qop(offered: Sequence[str]) -> str | None:
    """`auth` before `auth-int`; `""` where the server wants none (RFC 2069), `None` where it wants what we can't."""
    if not offered:
        # RFC 8760 §2.6 wants qop with the SHA-2 algorithms; a server that leaves it out is answered all the same.
        return ""
    return next((qop for qop in ("auth", "auth-int") if qop in offered), None)


def _response(
    *,
    algorithm: str,
    credentials: Credentials,
    realm: str,
    nonce: str,
    method: str,
    uri: str,
    qop: str | None,
    cnonce: str,
    nc: str,
    body: bytes,
) -> str:
    """The `response` directive, hex (RFC 7616 §3.4.1-3)."""
    hashed = _HASHES.get(_base(algorithm))
    if hashed is None or qop not in ("", "auth", "auth-int"):
        raise DigestError(f"algorithm {algorithm!r} with qop {qop!r} is not supported")

    def digest(*parts: str) -> str:
        return hashed(":".join(parts).encode("utf-8", "surrogateescape"))

    try:
        secret = digest(credentials.username, realm, credentials.password)
        if algorithm.upper().endswith("-SESS"):
            secret = digest(secret, nonce, cnonce)
        request = digest(method, uri, hashed(body)) if qop == "auth-int" else digest(method, uri)
        if qop:
            return digest(secret, nonce, nc, cnonce, qop, request)
        return digest(secret, nonce, request)
    except UnicodeEncodeError as error:
        raise DigestError("a value can't be encoded as UTF-8") from error


# -- the text ------------------------------------------------------------------------------------------------------

_TOKEN = r"[A-Za-z0-9\-.!%*_+`'~#$&^|]+"
_SCHEME = re.compile(rf"({_TOKEN})(?:[ \t]+|$)")
_PARAMETER = re.compile(rf'({_TOKEN})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s"]*))$')
_QUOTED_PAIR = re.compile(r"\\(.)")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def _split_schemes(value: str) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Each scheme of the value in lower case with its parameters (names in lower case, values unquoted)."""
    if len(value) > MAX_VALUE:
        raise DigestError(f"a challenge of {len(value)} characters, {MAX_VALUE} at most")
    if _CONTROL.search(value):
        raise DigestError("a control character in a challenge")
    scheme: str | None = None
    parameters: dict[str, str] = {}
    for item in _split_commas(value):
        parameter = _PARAMETER.match(item)
        if parameter is None:
            # `Digest realm="x"`: no parameter as a whole, so a new scheme begins here.
            begins = _SCHEME.match(item)
            if begins is None:
                if scheme not in (None, "digest"):
                    continue  # some other scheme's own syntax
                raise DigestError(f"not a parameter: {item[:40]!r}")
            if scheme is not None:
                yield scheme, parameters
            scheme, parameters = begins[1].lower(), {}
            item = item[begins.end() :]
            parameter = _PARAMETER.match(item)
        if scheme is None:
            raise DigestError("parameters without a scheme")
        if scheme != "digest" or not item:
            continue
        if parameter is None:
            raise DigestError(f"not a parameter: {item[:40]!r}")
        _add(parameters, parameter)
    if scheme is not None:
        yield scheme, parameters


def _split_commas(value: str) -> Iterator[str]:
    """The items between commas, stripped, without empty ones; commas in quotes separate nothing."""
    start = 0
    quoted = escaped = False
    for at, char in enumerate(value):
        if escaped:
            escaped = False
        elif quoted:
            escaped = char == "\\"
            quoted = char != '"'
        elif char == '"':
            quoted = True
        elif char == ",":
            if item := value[start:at].strip(" \t"):
                yield item
            start = at + 1
    if quoted:
        raise DigestError("a quote that doesn't end")
    if item := value[start:].strip(" \t"):
        yield item


def _add(parameters: dict[str, str], parameter: re.Match[str]) -> None:
    name = parameter[1].lower()
    text = parameter[3] if parameter[2] is None else _QUOTED_PAIR.sub(r"\1", parameter[2])
    # RFC 9110 §11.2: once per challenge. The same thing said twice harms nobody; two different ones can't be guessed.
    if parameters.setdefault(name, text) != text:
        raise DigestError(f"two values of {name}")


def _challenge(parameters: Mapping[str, str]) -> Challenge:
    for name in ("realm", "nonce"):
        if name not in parameters:
            raise DigestError(f"a Digest challenge without {name}")
    algorithm = parameters.get("algorithm") or "MD5"
    if not re.fullmatch(_TOKEN, algorithm):
        raise DigestError("the algorithm is no token")
    qop = (option.strip().lower() for option in parameters.get("qop", "").split(","))
    return Challenge(
        realm=parameters["realm"],
        nonce=parameters["nonce"],
        algorithm=algorithm,
        qop=tuple(option for option in qop if option),
        opaque=parameters.get("opaque"),
        stale=parameters.get("stale", "").lower() == "true",
    )


def _quote(text: str) -> str:
    """`text` as a quoted-string (RFC 3261 §25.1). Raises `DigestError` if it could break the header."""
    if _CONTROL.search(text):
        raise DigestError("a control character in a value")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
