"""
An INVITE that an earlier process may have sent and whose answer it didn't write down, taken back.

All that is known is what was on disk before it left. It may never have left, may be ringing, may be answered; after
challenges several may have gone, of which the last one counts. Each that may have gone is cancelled in turn, and for
64*T1 whatever is answered late is hung up.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from .account import Account
from .api import CallEnd, EndCause, Hop, InviteFacts
from .dialog import Dialog
from .digest import Credentials
from .exchange import MAX_ROUNDS, Exchange, ack
from .message import Response, clean, tag
from .offering import MAX_LONGER
from .orphan import CSEQ_LEAP, StrayAnswer
from .transaction import CANCEL_SUFFIX, T1, T2, TIMEOUT, Failure, Head, InviteClient, NonInviteClient
from .unwanted import UnwantedAnswer

if TYPE_CHECKING:
    from .ua import UserAgent

STAGGER_S = 0.2  # for the answer to one CANCEL, before the next INVITE that may have been sent is cancelled too
BYE_AFTER_S = 0.3  # from a CANCEL's 200 to the 487 that follows it at once
GRACE_S = T1 + T2  # from a CANCEL's 200 to the INVITE's answer, which a far end repeats each 4 s (T2) at least

_REFUSED_FOR_NOW = frozenset({401, 407, 422})
"""To an INVITE that was sent again with what was missing: nobody rang for this one."""


class RecalledCall:
    """Stands in `UserAgent.orphans` until it is told to be over; its transactions outlive it."""

    __slots__ = (
        "_account",
        "_done",
        "_facts",
        "_gone",
        "_pattern",
        "_places",
        "_stopped",
        "_ua",
        "_unsettled",
        "peers",
    )

    def __init__(
        self,
        ua: "UserAgent",
        facts: InviteFacts,
        credentials: Credentials | None,
        done: Callable[[CallEnd], None] | None,
    ) -> None:
        """Send the first CANCEL."""
        self.peers: set[str] = set()
        self._ua = ua
        self._facts = facts
        self._done = done
        # What the dead process was asked was not written down before the answer, and a phone must not stay up for it.
        self._account = Account(credentials, None) if credentials else None
        self._pattern = Dialog(
            call_id=facts.call_id,
            local=facts.local,
            local_tag=facts.mark.local_tag,
            remote=facts.remote,
            remote_target=facts.request_uri,
            fallback=facts.destination,
        )
        self._places = _places(facts, credentials)
        self._unsettled = 0
        """CANCELs that were not refused: without an answer, or accepted, so that the INVITE's own answer is due."""
        self._stopped = False
        """Whether the INVITE that counts was found."""
        self._gone = 0
        """Phones whose BYE arrived, where the answers were here before we were asked."""
        ua.orphans.add(self)
        ua.learn(self, [facts.destination.host])
        self._try_next()

    def _try_next(self) -> None:
        if self._stopped or not self._places:
            return
        (cseq, hop), *self._places = self._places
        facts = self._facts
        known = self._ua.wire.clients.get(facts.mark.branch(cseq, hop.transport))
        if known is not None:
            self._stopped = True
            if isinstance(known, StrayAnswer):
                # Its answer came again before we were asked, and is hung up as that of a call that nobody knows.
                known.take_over(partial(self._stray_hung_up, known))
            else:
                # It was sent by this very process, under an earlier name, and what is left of it is seen to.
                self._over(CallEnd(EndCause.CANCELLED, "local", None, "", "released before it was taken back"))
            return
        head = Head(
            uri=facts.request_uri,
            via=f"Via: {facts.mark.via(cseq, hop.transport)}",
            branch=facts.mark.branch(cseq, hop.transport),
            routes=(),
            from_=facts.local,
            to=facts.remote,
            call_id=facts.call_id,
            cseq=cseq,
        )
        invite = InviteClient(self._ua.wire, head, b"", hop, lambda event: self._answered(invite, event))
        self._cancel(invite)
        self._ua.wire.after(STAGGER_S, self._try_next)

    def _cancel(self, invite: InviteClient) -> None:
        """
        Send the CANCEL at once.

        We diverge from RFC 3261 §9.1, which wants a provisional answer first: that went to the process that died. Where
        the INVITE never arrived, 481 says so.
        """
        head = invite.head
        self._unsettled += 1
        NonInviteClient(
            self._ua.wire,
            head.branch + CANCEL_SUFFIX,
            head.hop_by_hop("CANCEL", head.to),
            invite.destination,
            partial(self._cancel_answered, invite),
        )

    def _cancel_answered(self, invite: InviteClient, event: Response | Failure) -> None:
        if isinstance(event, Response) and event.code < 300:
            after = self._ua.wire.after
            after(BYE_AFTER_S, partial(self._hang_up_unheard, event.header("to"), invite))
            after(GRACE_S, self._accepted)
            return
        self._unsettled -= 1
        if self._places:
            self._try_next()
        elif not self._unsettled and not self._stopped:
            found = "nothing there" if isinstance(event, Response) else event.value
            cause = EndCause.PROTOCOL if isinstance(event, Response) else EndCause.TIMEOUT
            self._over(CallEnd(cause, "local", None, "", f"CANCEL: {found}"))

    def _hang_up_unheard(self, to: str, invite: InviteClient) -> None:
        """
        Send BYE with the To tag of the CANCEL's answer, which is that of the INVITE's (RFC 3261 §9.2).

        Where nothing followed, the far end may have answered the INVITE before, to the process that died and to an
        address or on a connection at which nobody hears it repeat that. RFC 3261 §15 allows a BYE to a dialog that is
        early still; and a proxy, whose tag is its own, passes it on to somebody who says 481.
        """
        if self._stopped or self not in self._ua.orphans or not tag(to):
            return
        facts = self._facts
        dialog = Dialog(
            call_id=facts.call_id,
            local=facts.local,
            local_tag=facts.mark.local_tag,
            remote=to,
            remote_target=facts.request_uri,
            fallback=invite.destination,
        )
        dialog.remote_tag = tag(to)
        dialog.local_cseq = invite.head.cseq + CSEQ_LEAP
        Exchange(self._ua, dialog, "BYE", self._unheard_answered, account=self._account, destination=invite.destination)

    def _unheard_answered(self, exchange: Exchange, event: Response | Failure) -> None:
        if isinstance(event, Response) and event.code < 300:
            self._bye_answered(exchange, event)

    def _accepted(self) -> None:
        """The INVITE's answer is overdue: an earlier process had it, and all that was left to do was this CANCEL."""
        if self._stopped:
            return  # the one that counts was answered, and its BYE is on the way
        self._over(CallEnd(EndCause.CANCELLED, "local", None, "", "CANCEL accepted"))

    def _answered(self, invite: InviteClient, event: Response | Failure) -> None:
        """An answer to the INVITE that the earlier process sent."""
        if isinstance(event, Failure):
            self._over(CallEnd(EndCause.TIMEOUT, "local", None, "", f"CANCEL: {event.value}"))
        elif event.code < 200:
            # It is there after all: the CANCEL may have come before it, or was lost.
            if invite.head.branch + CANCEL_SUFFIX not in self._ua.wire.clients:
                self._cancel(invite)
        elif event.code < 300:
            self._hang_up(invite, event)
        elif event.code not in _REFUSED_FOR_NOW:
            self._stopped = True
            self._over(CallEnd(EndCause.CANCELLED, "local", event.code, clean(event.phrase)))

    def _hang_up(self, invite: InviteClient, response: Response) -> None:
        """Somebody answered; each fork that did is hung up, a repeated answer gets its ACK from the transaction."""
        self._stopped = True
        dialog = self._pattern.established_by(response)
        dialog.local_cseq = response.cseq + CSEQ_LEAP
        self._ua.learn(self, dialog.hosts())
        data, to_tag = ack(self._ua, dialog, dialog.destination, response.cseq), tag(response.header("to"))
        invite.hold(to_tag)
        acknowledge = partial(invite.acknowledge, to_tag, data, dialog.destination)
        UnwantedAnswer(self._ua, dialog, acknowledge, self._bye_answered, account=self._account)

    def _stray_hung_up(self, stray: StrayAnswer, dialog: Dialog, exchange: Exchange, event: Response | Failure) -> None:
        """A BYE went without credentials, as nobody knew whose call it was; where it didn't arrive we have some."""
        if self._account is None or _arrived(event):
            self._stray_answered(stray, exchange, event)
            return
        dialog.fallback = self._facts.destination  # not where the answer came from: the digest goes to the trunk alone
        if self in self._ua.orphans:
            self._ua.learn(self, dialog.hosts())
        Exchange(self._ua, dialog, "BYE", partial(self._stray_answered, stray), account=self._account)

    def _stray_answered(self, stray: StrayAnswer, exchange: Exchange, event: Response | Failure) -> None:
        self._gone += 1
        if self._gone >= stray.phones or not _arrived(event):
            self._bye_answered(exchange, event)

    def _bye_answered(self, exchange: Exchange, event: Response | Failure) -> None:
        if isinstance(event, Failure):
            self._over(CallEnd(EndCause.TIMEOUT, "local", None, "", f"BYE: {event.value}"))
        else:
            end = CallEnd(EndCause.HANGUP, "local", event.code, clean(event.phrase), withheld=exchange.withheld)
            self._over(end)

    def _over(self, end: CallEnd) -> None:
        if self not in self._ua.orphans:
            return
        self._ua.orphans.discard(self)
        self._ua.wire.after(TIMEOUT, partial(self._ua.unlearn_later, self))
        if self._done is not None:
            self._done(end)


def _arrived(bye: Response | Failure) -> bool:
    """Whether this answer to a BYE says that its dialog is no more."""
    return isinstance(bye, Response) and (bye.code < 300 or bye.code == 481)


def _places(facts: InviteFacts, credentials: Credentials | None) -> list[tuple[int, Hop]]:
    """The CSeq numbers and hops of all INVITEs that may have been sent for one dial, in their order."""
    hop = facts.destination
    hops = [hop, hop._replace(transport="tcp", tcp_too=False)] if hop.tcp_too and hop.transport == "udp" else [hop]
    most = len(hops) + (MAX_ROUNDS if credentials else 0) + MAX_LONGER
    return [(cseq, each) for cseq in range(1, most + 1) for each in hops]
