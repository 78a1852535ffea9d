"""
Who may come in: by the network they come from, the page that sends them, and the API key that they show.

Stands before the whole application, so that no address is forgotten: what isn't open by name takes a key. What comes
later finds whom it serves by `principal_of`. `server.py` refuses before this without a look at the key, but only when
there is no room for anybody: that says nothing and begins nothing.
"""

import base64
import binascii
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from dosvoces.keys import (
    KEYLESS,
    TEST_PREFIX,
    Address,
    Network,
    Principal,
    Refused,
    address_of,
    source_of,
    within,
)
from dosvoces.keys import Scope as KeyScope
from dosvoces.model import Asker
from dosvoces.web.answers import Header, Reply, message
from dosvoces.web.keyring import Keyring, KeysUnknown
from dosvoces.web.origin import Origins
from dosvoces.web.problems import (
    FOREIGN_PAGE,
    KEY_EXPIRED,
    KEY_NEEDED,
    KEY_NETWORK,
    KEY_REVOKED,
    KEY_UNKNOWN,
    KEYS_UNREACHABLE,
    NETWORK_REFUSED,
    SCOPE_MISSING,
    SEVERAL_KEYS,
    STRAY_TEST_KEY,
    TEST_KEY,
    Kind,
    problem,
)

OPEN = frozenset({"/healthz", "/readyz"})
"""What needs no key: a balancer asks it. `/readyz` tells details only to who may read."""
MACHINE = frozenset({"/metrics"})
"""What this machine itself may read without a key."""
PRINCIPAL = "dosvoces.principal"
"""The key in the ASGI scope."""
PEER = "dosvoces.peer"
"""The address that the request comes from, in the ASGI scope."""

_CHALLENGE = b'Bearer realm="dosvoces"'
_WRONG_KEY: Header = (b"www-authenticate", _CHALLENGE + b', error="invalid_token"')
_BY_REASON = {
    Refused.UNKNOWN: KEY_UNKNOWN,
    Refused.REVOKED: KEY_REVOKED,
    Refused.EXPIRED: KEY_EXPIRED,
    Refused.NETWORK: KEY_NETWORK,
}
_TRIED = re.compile(r"/call|/v1/connections|/v1/connections/[^/]+/cancellation")
"""What a test key may ask for beside looking: there it is seen to that nothing real is touched."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Networks:
    """Where requests may come from."""

    allow: tuple[Network, ...] = ()
    """Empty: from everywhere."""
    trusted_proxies: tuple[Network, ...] = ()
    """Whose word on where a request comes from is believed."""


def asker_of(scope: Scope) -> Asker:
    """Who asks, as the record is told."""
    principal = principal_of(scope) or KEYLESS
    peer: Address | None = scope.get(PEER)
    return Asker(principal.key_id, "" if peer is None else source_of(peer), principal.limits)


def principal_of(scope: Scope) -> Principal | None:
    """Who asks; `None` for who has shown no key where one is needed, and asks what is open."""
    principal: Principal | None = scope.get(PRINCIPAL, KEYLESS)  # Without a guard there is no door to keep shut.
    return principal


def peer_of(scope: Scope) -> Address | None:
    """Where a request comes from; `None` where that isn't known."""
    peer: Address | None = scope.get(PEER)
    return peer


def caller_of(scope: Scope) -> Principal:
    """Who asks at an address that isn't open: there is always somebody."""
    principal = principal_of(scope)
    assert principal is not None, "the guard lets nobody through without a principal"
    return principal


class Guard:
    """The ASGI application that lets requests through to `app`, or refuses them."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        keyring: Keyring,
        networks: Networks,
        origins: Origins,
        public: frozenset[str] = frozenset(),
    ) -> None:
        """`public`: paths that judge for themselves who may come, from which page and with what key."""
        self._app = app
        self._keyring = keyring
        self._networks = networks
        self._origins = origins
        self._public = public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        if scope["path"] in self._public:
            return await self._pass(scope, receive, send)
        refusal = self._origins.refuse(scope)
        if refusal is not None:
            foreign = refusal.status == 403 and _in_v1(scope)
            return await (_reply(FOREIGN_PAGE, scope) if foreign else refusal).send(send)
        send = self._origins.admit(scope, send)
        decided = await self._decide(scope)
        if isinstance(decided, Reply):
            return await decided.send(send)
        scope[PRINCIPAL] = decided
        await self._app(scope, receive, send)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let everybody of the networks through."""
        scope[PEER] = peer = _peer(scope, self._networks.trusted_proxies)
        if self._networks.allow and not within(peer, self._networks.allow):
            return await _refused(NETWORK_REFUSED, scope, why="network", peer=peer).send(send)
        await self._app(scope, receive, send)

    async def _decide(self, scope: Scope) -> Principal | Reply | None:
        """Whom to serve; `None`: whoever it is. Or the refusal."""
        headers: list[Header] = scope["headers"]
        path = scope["path"]
        if path == "/healthz":
            return None
        peer = scope[PEER] = _peer(scope, self._networks.trusted_proxies)
        if self._networks.allow and not within(peer, self._networks.allow):
            return _refused(NETWORK_REFUSED, scope, why="network", peer=peer)
        shown = keys_shown(headers)
        try:
            if not await self._keyring.needed():
                # Whoever shows a test key expects that nobody is rung, also where it is a key of another service.
                return _refused(STRAY_TEST_KEY, scope, why="stray test key", peer=peer) if _any_test(shown) else KEYLESS
            if not shown and (path in OPEN or (path in MACHINE and _here(peer, headers))):
                return None
            if len(shown) != 1:
                return _refused(SEVERAL_KEYS if shown else KEY_NEEDED, scope, why="no key", peer=peer)
            found = await self._keyring.verify(shown.pop(), peer)
        except KeysUnknown:
            return None if path in OPEN else _reply(KEYS_UNREACHABLE, scope)
        if isinstance(found, Refused):
            return None if path in OPEN else _refused(_BY_REASON[found], scope, why=found.value, peer=peer)
        wanted = KeyScope.READ if scope["method"] in ("GET", "HEAD", "OPTIONS") else KeyScope.CALL
        if path not in OPEN and not found.may(wanted):
            return _refused(SCOPE_MISSING, scope, why="scope", peer=peer, key=found.key_id, wanted=wanted)
        if found.test and wanted is KeyScope.CALL and _TRIED.fullmatch(path) is None:
            return _refused(TEST_KEY, scope, why="test key", peer=peer, key=found.key_id)
        return found


def _refused(
    kind: Kind, scope: Scope, *, why: str, peer: Address | None, key: str = "", wanted: KeyScope | None = None
) -> Reply:
    log.info("request_refused", status=kind.status, why=why, path=scope["path"][:64], peer=str(peer), key=key)
    return _reply(kind, scope, wanted)


def _reply(kind: Kind, scope: Scope, wanted: KeyScope | None = None) -> Reply:
    """As problem details at `/v1`, and as the contract of `/call` has it elsewhere."""
    headers: list[Header] = []
    detail = "" if wanted is None else f"This API key lacks the scope {wanted}"
    if kind is KEY_NEEDED:
        headers.append((b"www-authenticate", _CHALLENGE))
    elif kind.status == 401:
        headers.append(_WRONG_KEY)
    elif wanted is not None:
        challenge = _CHALLENGE + f', error="insufficient_scope", scope="{wanted}"'.encode()
        headers.append((b"www-authenticate", challenge))
    elif kind.status == 503:
        headers.append((b"retry-after", b"5"))
    if _in_v1(scope):
        return problem(kind, detail, *headers)
    return message(kind.status, detail or kind.title, *headers)


def _in_v1(scope: Scope) -> bool:
    return bool(scope["path"].startswith("/v1/"))


def _any_test(shown: Collection[str]) -> bool:
    return any(key.startswith(TEST_PREFIX) for key in shown)


# --- what a request shows ---


def keys_shown(headers: Sequence[Header]) -> set[str]:
    """
    The different keys in the headers; empty texts where something else than a key is shown.

    A bearer token (RFC 6750), the user name of Basic (RFC 7617), which is how clients of other services send theirs,
    or `X-Api-Key`. Never from the URL, which is logged by every proxy, nor from the body.
    """
    shown = set()
    for name, value in headers:
        if name == b"x-api-key":
            shown.add(value.decode("latin-1").strip())
        elif name == b"authorization":
            shown.add(_credential(value.decode("latin-1")))
    return shown


def _credential(value: str) -> str:
    scheme, _, rest = value.strip().partition(" ")
    match scheme.lower():
        case "bearer":
            return rest.strip()
        case "basic":
            try:
                return base64.b64decode(rest.strip(), validate=True).decode("latin-1").partition(":")[0]
            except (binascii.Error, ValueError):
                return ""
        case _:
            return ""


def _peer(scope: Scope, trusted: Sequence[Network]) -> Address | None:
    """
    Where the request comes from; `None` where that can't be known.

    A proxy that is trusted names its client in the last place of `X-Forwarded-For`; what stands before that is the
    client's own word.
    """
    client = scope.get("client")
    peer = address_of(client[0]) if client else None
    hops = [
        hop
        for name, value in scope["headers"]
        if name == b"x-forwarded-for"
        for hop in value.decode("latin-1").split(",")
    ]
    while hops and within(peer, trusted):
        peer = address_of(hops.pop())
    return peer


def _here(peer: Address | None, headers: Sequence[Header]) -> bool:
    """Whether the request comes from this machine, and not through a proxy on it."""
    forwarded = any(name in (b"x-forwarded-for", b"forwarded", b"via") for name, _ in headers)
    return peer is not None and peer.is_loopback and not forwarded
