"""
One request of ours from first sending to final answer, credentials included (RFC 3261 §22).

A challenge (401, 407) is answered here by a new request: same Call-ID, tags and body, next CSeq, new branch. Whoever
asked for the request sees only what came of it.
"""

from collections.abc import Callable
from typing import Protocol, TypeAlias

from .account import Account
from .api import SDP, Hop, InviteMark, Withheld
from .dialog import Dialog
from .digest import DigestError, parse_challenges
from .message import Message, Response, clean, compose_lines, tag
from .transaction import CANCEL_SUFFIX, TIMEOUT, ClientUser, Failure, Head, InviteClient, NonInviteClient, Wire

MAX_DATAGRAM = 1_300  # bytes, RFC 3261 §18.1.1
MAX_ROUNDS = 2  # challenges answered per request: one, and one more if the nonce was stale or callee and proxy ask
MAX_REALM = 64  # characters of a peer's text that are told

_CHALLENGES = {401: ("www-authenticate", "Authorization"), 407: ("proxy-authenticate", "Proxy-Authorization")}


class Line(Protocol):
    """What an exchange needs of the user agent: identity, randomness, transactions."""

    wire: Wire
    via_prefixes: dict[str, str]
    """By transport: the Via value up to the branch."""
    contacts: dict[str, str]
    """By transport: the Contact line."""
    request_lines: tuple[str, ...]
    token: Callable[[], str]


Done: TypeAlias = Callable[["Exchange", Response | Failure], None]


class Exchange:
    """A request within (or beginning) a dialog. `done` gets its final answer or failure; for INVITE also the rest."""

    __slots__ = (
        "_account",
        "_answered",
        "_authorization",
        "_body",
        "_content_type",
        "_destination",
        "_done",
        "_extra",
        "_limit",
        "_line",
        "_mark",
        "_method",
        "_rounds",
        "_udp_only",
        "cseq",
        "dialog",
        "stopped",
        "transaction",
        "withheld",
    )

    def __init__(
        self,
        line: Line,
        dialog: Dialog,
        method: str,
        done: Done,
        *,
        account: Account | None = None,
        body: bytes = b"",
        content_type: str = SDP,
        extra: tuple[str, ...] = (),
        destination: Hop | None = None,
        limit: float = TIMEOUT,
        mark: InviteMark | None = None,
    ) -> None:
        """
        Send the request, to `destination` instead of the dialog's next hop where that is given.

        `limit` bounds the wait for a sign of the peer (INVITE), or for the final answer. `mark`: what its Via says.
        """
        self.dialog = dialog
        self.stopped = False
        """Set to have no further challenge answered: the caller no longer wants what it asked for."""
        self.withheld: Withheld | None = None
        """Why a challenge that we have credentials for was not answered."""
        self._line = line
        self._method = method
        self._done = done
        self._account = account
        self._body = body
        self._content_type = content_type
        self._extra = extra
        self._destination = destination
        self._limit = limit
        self._mark = mark
        self._rounds = 0
        self._udp_only = False
        """Whether TCP was tried for the size and refused."""
        self._answered: dict[str, str] = {}
        """By our header, the realm that was answered with it."""
        self._authorization: tuple[str, ...] = ()
        self._authorize()
        self.transaction: InviteClient | NonInviteClient = self._send()

    def send_again(self, *session_lines: str) -> None:
        """Send the refused request anew (next CSeq, new branch) with these lines in place of its session timer's."""
        kept = [line for line in self._extra if not line.startswith(("Session-Expires:", "Min-SE:"))]
        self._extra = (*session_lines, *kept)
        self._authorize()
        self.transaction = self._send()

    def acknowledge(self, response: Message, dialog: Dialog) -> None:
        """Send the ACK of a 2xx to this INVITE in the dialog that it made (RFC 3261 §13.2.2.4)."""
        assert isinstance(self.transaction, InviteClient)
        destination = dialog.destination
        account = self._account
        authorization = self._authorization if account and account.may_go_to(destination.host, dialog) else ()
        data = ack(self._line, dialog, destination, response.cseq, authorization)
        self.transaction.acknowledge(tag(response.header("to")), data, destination)

    def hold(self, response: Message) -> None:
        """Have repeats of this 2xx ignored until `acknowledge`."""
        assert isinstance(self.transaction, InviteClient)
        self.transaction.hold(tag(response.header("to")))

    def cancel(self, extra: tuple[str, ...] = (), done: ClientUser | None = None) -> None:
        """
        Send a CANCEL for this INVITE; `done` gets what came of it.

        The caller has seen a provisional answer (RFC 3261 §9.1), or has given up waiting for one.
        """
        transaction = self.transaction
        assert isinstance(transaction, InviteClient)
        head, wire = transaction.head, self._line.wire
        data = head.hop_by_hop("CANCEL", head.to, extra)
        NonInviteClient(wire, head.branch + CANCEL_SUFFIX, data, transaction.destination, done)

    @property
    def may_have_arrived(self) -> bool:
        """Whether this INVITE, which failed, may have been heard all the same."""
        return isinstance(self.transaction, InviteClient) and self.transaction.may_have_arrived

    def abandon(self) -> None:
        """Wait no longer for this INVITE's final answer; a late 2xx is still told, so that it can be hung up."""
        assert isinstance(self.transaction, InviteClient)
        self.transaction.abandon()

    def release(self) -> None:
        """Keep only what late answers need: the offer and the extra headers have done their work."""
        self._body = b""
        self._extra = ()

    def _send(self) -> InviteClient | NonInviteClient:
        line, dialog = self._line, self.dialog
        dialog.local_cseq += 1
        self.cseq = dialog.local_cseq
        destination = self._next_hop
        uri, routes = dialog.route()
        branch, via = self._via(destination.transport)
        data = compose_lines(self._lines(uri, via, routes), self._body)
        if len(data) > MAX_DATAGRAM and destination.tcp_too and destination.transport == "udp" and not self._udp_only:
            # RFC 3261 §18.1.1: a long message goes by a transport with congestion control, and its Via says so.
            destination = destination._replace(transport="tcp")
            branch, via = self._via("tcp")
            data = compose_lines(self._lines(uri, via, routes), self._body)
        if self._method != "INVITE":
            # Whom a BYE doesn't reach stays on the line, and a route that is gone is often back in seconds. Without its
            # PRACK a reliable answer is repeated, and we drop its repeats: the callee gives the INVITE up.
            patient = self._method in ("BYE", "PRACK")
            return NonInviteClient(line.wire, branch, data, destination, self._receive, self._limit, patient=patient)
        head = Head(
            uri=uri,
            via=via,
            branch=branch,
            routes=routes,
            from_=dialog.local,
            to=dialog.remote,
            call_id=dialog.call_id,
            cseq=self.cseq,
        )
        return InviteClient(line.wire, head, data, destination, self._receive, self._limit)

    def _via(self, transport: str) -> tuple[str, str]:
        """A branch for the next sending, and the Via line."""
        if self._mark is not None:
            return self._mark.branch(self.cseq, transport), f"Via: {self._mark.via(self.cseq, transport)}"
        branch = "z9hG4bK" + self._line.token()
        return branch, f"Via: {self._line.via_prefixes[transport]}{branch}"

    def _lines(self, uri: str, via: str, routes: tuple[str, ...]) -> list[str]:
        dialog, method = self.dialog, self._method
        lines = [
            f"{method} {uri} SIP/2.0",
            via,
            *routes,
            "Max-Forwards: 70",
            f"From: {dialog.local}",
            f"To: {dialog.remote}",
            f"Call-ID: {dialog.call_id}",
            f"CSeq: {self.cseq} {method}",
        ]
        if method in ("INVITE", "UPDATE"):
            lines.append(self._line.contacts[dialog.fallback.transport])
        lines += self._line.request_lines
        lines += self._authorization
        lines += self._extra
        if self._body:
            lines.append(f"Content-Type: {self._content_type}")
        return lines

    def _receive(self, event: Response | Failure) -> None:
        if event is Failure.TRANSPORT and self._goes_elsewhere():
            return
        if isinstance(event, Response) and event.code in _CHALLENGES and self._retry(event):
            return
        done = self._done
        if self._method == "BYE" and event is Failure.TRANSPORT:
            self._done = _told  # it goes on, and what it then gets is no news
        done(self, event)

    def _goes_elsewhere(self) -> bool:
        """Send by UDP, with fragments if need be, what TCP was refused for (RFC 3261 §18.1.1)."""
        if self.stopped or self._udp_only or self.transaction.destination.transport == self._next_hop.transport:
            return False
        if self.may_have_arrived and not self.dialog.remote_tag:
            return False  # a second INVITE, by its number another one, would ring the phone twice
        self._udp_only = True
        self.transaction = self._send()
        return True

    def _retry(self, response: Response) -> bool:
        """Answer a challenge if that makes sense."""
        account = self._account
        if account is None or self.stopped or self._rounds >= MAX_ROUNDS:
            return False
        source, header = _CHALLENGES[response.code]
        try:
            challenges = parse_challenges(response.values(source))
            if not self._may_have_digest:
                self.withheld = Withheld("address", self._next_hop.host)
                return False
            asked = [c for c in challenges if self._accepts(account, header, c.realm)]
            if challenges and not asked:
                self.withheld = Withheld("realm", clean(challenges[0].realm)[:MAX_REALM])
            # Where several realms ask at once, the first one's: the next request could answer no other.
            challenges = [c for c in asked if c.realm == asked[0].realm]
            if not challenges:
                return False
            realm = challenges[0].realm
            if self._answered.get(header) == realm and not challenges[0].stale:
                return False  # the password is wrong; asking again would only lock the account
            account.learn(header, challenges, self._line.token())
            self._authorize()
            account.settle(realm)
        except DigestError:
            account.unlearn(header)
            return False
        self._rounds += 1
        self._answered[header] = realm
        self.transaction = self._send()
        return True

    def _accepts(self, account: Account, header: str, realm: str) -> bool:
        if account.accepts(realm):
            return True
        # The request that begins a call goes to the trunk alone, and there the proxy and the callee may each ask.
        return account.open and not self.dialog.remote_tag and self._answered.get(header, realm) == realm

    @property
    def _next_hop(self) -> Hop:
        return self._destination or self.dialog.destination

    @property
    def _may_have_digest(self) -> bool:
        # Whoever chose the destination knows the peer; a route or a Contact is the far end's word.
        return self._account is not None and (
            self._destination is not None or self._account.may_go_to(self._next_hop.host, self.dialog)
        )

    def _authorize(self) -> None:
        if self._account is not None and self._may_have_digest:
            self._authorization = self._account.lines(self._method, self.dialog.route()[0], self._body)


def _told(exchange: Exchange, event: Response | Failure) -> None:
    """Whoever asked knows what came of it."""


def ack(line: Line, dialog: Dialog, destination: Hop, cseq: int, authorization: tuple[str, ...] = ()) -> bytes:
    """The ACK of a 2xx: within the dialog, with the INVITE's CSeq number and credentials (RFC 3261 §13.2.2.4)."""
    uri, routes = dialog.route()
    lines = [
        f"ACK {uri} SIP/2.0",
        f"Via: {line.via_prefixes[destination.transport]}z9hG4bK{line.token()}",
        *routes,
        "Max-Forwards: 70",
        f"From: {dialog.local}",
        f"To: {dialog.remote}",
        f"Call-ID: {dialog.call_id}",
        f"CSeq: {cseq} ACK",
        *authorization,
    ]
    return compose_lines(lines)
