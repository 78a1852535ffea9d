"""
The credentials of one call: which challenges they may answer, where the answer may go, and what was seen so far.
"""

from collections.abc import Iterable

from .dialog import Dialog
from .digest import Challenge, Credentials, answer


class Account:
    """
    The credentials of one call, or of one series of requests, and the challenges seen in it.

    A challenge once seen is answered in advance in later requests of the call (RFC 3261 §22.3), with its nonce
    count going up. Where no realm is configured, the request that begins the call settles which are answered: one
    for each kind of challenge. Who gets into the dialog later can't have the password tried on a realm of theirs
    (CVE-2021-41158).
    """

    __slots__ = ("_seen", "_unknown", "credentials", "open", "realms")

    def __init__(self, credentials: Credentials, realms: Iterable[str] | None = ()) -> None:
        """
        `realms`: those that an earlier process answered in this call; `None`: which is not known, and the first that
        asks is taken.
        """
        self.credentials = credentials
        self.open = not credentials.realm
        """Whether the request that begins the call may add a realm."""
        self.realms: set[str] = {credentials.realm} if credentials.realm else set(realms or ())
        self._unknown = realms is None
        self._seen: dict[str, _Nonce] = {}

    def may_go_to(self, host: str, dialog: Dialog) -> bool:
        """
        Whether a digest may go to this address: it can be guessed at, and a Contact or a Record-Route leads anywhere.
        """
        return host == dialog.fallback.host or host in self.credentials.hosts

    def accepts(self, realm: str) -> bool:
        """Whether it is a realm that this account is for, as far as is known."""
        return realm in self.realms or (self._unknown and not self.realms)

    def learn(self, header: str, challenges: list[Challenge], cnonce: str) -> None:
        """Answer these, all of one realm, with `header` from now on; `settle` follows when that can be done."""
        seen = self._seen.get(header)
        if seen is None or seen.challenges[0].nonce != challenges[0].nonce:
            self._seen[header] = _Nonce(challenges, cnonce)

    def settle(self, realm: str) -> None:
        """A challenge of this realm was answered: it is this call's."""
        self.realms.add(realm)

    def unlearn(self, header: str) -> None:
        """Forget a challenge that can't be answered."""
        self._seen.pop(header, None)

    def lines(self, method: str, uri: str, body: bytes) -> tuple[str, ...]:
        """The Authorization lines for a request. Raises `DigestError`."""
        return tuple(
            f"{header}: {seen.answer(self.credentials, method, uri, body)}" for header, seen in self._seen.items()
        )


class _Nonce:
    __slots__ = ("challenges", "cnonce", "count")

    def __init__(self, challenges: list[Challenge], cnonce: str) -> None:
        self.challenges = challenges
        self.cnonce = cnonce
        self.count = 0

    def answer(self, credentials: Credentials, method: str, uri: str, body: bytes) -> str:
        self.count += 1
        return answer(
            self.challenges,
            credentials,
            method=method,
            uri=uri,
            body=body,
            cnonce=self.cnonce,
            nonce_count=self.count,
        )
