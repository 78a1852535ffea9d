"""
Requests outside of any dialog, such as OPTIONS and REGISTER, and what their answers tell of our own address.

Those of one `Series` share Call-ID and From tag and count on, as a registrar wants it (RFC 3261 §10.2). Challenges are
answered below, by `exchange`.
"""

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeAlias

from .account import Account
from .api import Address, Hop, header_lines
from .dialog import Dialog
from .digest import Credentials
from .exchange import Exchange
from .message import Message, Response
from .transaction import TIMEOUT, Failure
from .uri import literal

if TYPE_CHECKING:
    from .ua import UserAgent

Answered: TypeAlias = Callable[[Response | Failure], None]

_RECEIVED = re.compile(r";\s*received\s*=\s*([^;,\s]+)", re.IGNORECASE)
_RPORT = re.compile(r";\s*rport\s*=\s*([0-9]{1,5})(?=[;,\s]|$)", re.IGNORECASE)


class Series:
    """Requests to one place that belong together; each is sent by `send`, one at a time or several."""

    __slots__ = ("_account", "_dialog", "_ua")

    def __init__(
        self,
        ua: "UserAgent",
        *,
        request_uri: str,
        from_uri: str,
        to_uri: str,
        credentials: Credentials | None,
    ) -> None:
        self._ua = ua
        local_tag = ua.token()
        self._dialog = Dialog(
            call_id=ua.token(),
            local=f"<{from_uri}>;tag={local_tag}",
            local_tag=local_tag,
            remote=f"<{to_uri}>",
            remote_target=request_uri,
            fallback=Hop("", 0),
        )
        self._account = Account(credentials) if credentials else None

    def send(
        self,
        method: str,
        hop: Hop,
        answered: Answered,
        *,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        limit_s: float = TIMEOUT,
    ) -> None:
        """
        Send one request; `answered` gets its final answer or why there is none, once, never before this returns.

        Raises `MessageError` for a line break in a text.
        """
        _Pending(self._ua, self._dialog, self._account, method, hop, answered, headers, body, limit_s)


class _Pending:
    """A request under way; `hop` is heard until it is over."""

    __slots__ = ("_answered", "_ua", "peers")

    def __init__(
        self,
        ua: "UserAgent",
        dialog: Dialog,
        account: Account | None,
        method: str,
        hop: Hop,
        answered: Answered,
        headers: Iterable[tuple[str, str]],
        body: bytes,
        limit_s: float,
    ) -> None:
        self.peers: set[str] = set()
        self._ua = ua
        self._answered = answered
        ua.learn(self, [hop.host])
        Exchange(
            ua,
            dialog,
            method,
            self._event,
            account=account,
            body=body,
            extra=header_lines(headers),
            destination=hop,
            limit=limit_s,
        )

    def _event(self, exchange: Exchange, event: Response | Failure) -> None:
        self._ua.unlearn_later(self)
        self._answered(event)


def seen_address(answer: Message) -> Address | None:
    """
    Our address as the other end saw it: `received` and `rport` of the topmost Via (RFC 3581 §4).

    `None` unless both are there: half of it may be what we wrote ourselves.
    """
    top = answer.header("via").partition(",")[0]
    received, rport = _RECEIVED.search(top), _RPORT.search(top)
    if received is None or rport is None:
        return None
    host, port = literal(received[1]), int(rport[1])
    return (host, port) if host and 0 < port < 65_536 else None
