"""
Calls that this process doesn't know: those that an earlier one left, and answers that come when nobody waits any more.

Both are hung up, so that nobody is left on a line.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from .account import Account
from .api import CallEnd, DialogFacts, EndCause, Hop
from .dialog import Dialog, target_of
from .digest import Credentials
from .exchange import Exchange, ack
from .message import Response, clean, tag
from .transaction import MAX_FORKS, TIMEOUT, Failure
from .unwanted import UnwantedAnswer

if TYPE_CHECKING:
    from .ua import UserAgent

CSEQ_LEAP = 100_000
"""
Requests that the earlier process may have sent since it wrote the facts; CSeq may leave gaps.

A session refreshed each 45 s, and challenged each time, takes as many in 26 days.
"""

MAX_STRAY_CSEQ = 1 << 30  # we count from 1; near the end of the range there would be no number left for the BYE

Heir = Callable[[Dialog, Exchange, Response | Failure], None]
"""Is told what came of a BYE in this dialog."""


class OrphanedCall:
    """A dialog from the record, being hung up."""

    __slots__ = ("_done", "_ua", "peers")

    def __init__(
        self,
        ua: "UserAgent",
        facts: DialogFacts,
        credentials: Credentials | None,
        done: Callable[[CallEnd], None] | None,
    ) -> None:
        """Send ACK and BYE."""
        self.peers: set[str] = set()
        self._ua = ua
        self._done = done
        dialog = Dialog.from_facts(facts)
        dialog.local_cseq += CSEQ_LEAP
        ua.learn(self, [facts.destination[0], *dialog.hosts()])
        if facts.invite_cseq:
            # It may have died between the 200 and its ACK; a second ACK harms nobody.
            destination = dialog.destination
            ua.wire.send(ack(ua, dialog, destination, facts.invite_cseq), destination)
        account = Account(credentials, facts.realms) if credentials else None
        Exchange(ua, dialog, "BYE", self._bye_event, account=account)

    def _bye_event(self, exchange: Exchange, event: Response | Failure) -> None:
        self._ua.orphans.discard(self)
        self._ua.unlearn_later(self)
        if isinstance(event, Failure):
            end = CallEnd(EndCause.TIMEOUT, "local", None, "", f"BYE: {event.value}")
        else:
            end = CallEnd(EndCause.HANGUP, "local", event.code, clean(event.phrase), withheld=exchange.withheld)
        if self._done is not None:
            self._done(end)


class StrayAnswer:
    """
    A 2xx to an INVITE of ours that no transaction remembers: a restart lies between, or more than 64*T1.

    Stands in the table of client transactions, so that repeats get the same ACK and no second BYE. Where the INVITE was
    forked, each phone that answered it is hung up (RFC 3261 §13.2.2.4).
    """

    __slots__ = ("_acks", "_heir", "_hung_up", "_key", "_source", "_ua", "destination")

    def __init__(self, ua: "UserAgent", key: str, response: Response, source: Hop) -> None:
        self._ua = ua
        self._key = key
        self._source = source
        self.destination = source
        self._acks: dict[str, tuple[bytes, Hop] | None] = {}
        """By To tag; `None` while the ACK waits for the BYE's answer."""
        self._heir: Heir | None = None
        self._hung_up: list[tuple[Dialog, Exchange, Response | Failure]] = []
        """What came of each BYE, until somebody asks."""
        ua.wire.clients[key] = self
        ua.hanging_up += 1
        ua.wire.after(TIMEOUT, self._terminate)
        self._hang_up(response, tag(response.header("to")))

    @staticmethod
    def is_ours(ua: "UserAgent", response: Response) -> bool:
        """Whether the answer is to an INVITE that this address sent, as far as it can tell, and can be hung up."""
        vias = response.values("via")
        ours = tuple(prefix.partition(";")[0] for prefix in ua.via_prefixes.values())
        if response.cseq >= MAX_STRAY_CSEQ:
            return False
        return len(vias) == 1 and vias[0].startswith(ours) and bool(target_of(response))

    @property
    def phones(self) -> int:
        """How many have answered."""
        return len(self._acks)

    def take_over(self, heir: Heir) -> None:
        """Tell `heir` what came of each phone's BYE, and what comes yet: they leave without credentials."""
        self._heir = heir
        for known in self._hung_up:
            heir(*known)
        self._hung_up = []

    @property
    def waits(self) -> bool:
        return False

    def takes(self, response: Response) -> bool:
        return 200 <= response.code < 300

    def receive(self, response: Response) -> None:
        to_tag = tag(response.header("to"))
        if to_tag in self._acks:
            self._acknowledge_again(to_tag)
        elif len(self._acks) < MAX_FORKS and self.is_ours(self._ua, response):
            self._hang_up(response, to_tag)

    def _hang_up(self, response: Response, to_tag: str) -> None:
        local = response.header("from")
        pattern = Dialog(
            call_id=response.header("call-id"),
            local=local,
            local_tag=tag(local),
            remote="",
            remote_target="",
            fallback=self._source,
        )
        dialog = pattern.established_by(response)
        dialog.local_cseq = response.cseq + CSEQ_LEAP
        data = ack(self._ua, dialog, dialog.destination, response.cseq)
        self._acks[to_tag] = None

        def acknowledge() -> None:
            self._acks[to_tag] = (data, dialog.destination)
            self._acknowledge_again(to_tag)

        def hung_up(exchange: Exchange, event: Response | Failure) -> None:
            if self._heir is None:
                self._hung_up.append((dialog, exchange, event))
            else:
                self._heir(dialog, exchange, event)

        UnwantedAnswer(self._ua, dialog, acknowledge, hung_up)

    def _acknowledge_again(self, to_tag: str) -> None:
        if (held := self._acks[to_tag]) is not None:
            self._ua.wire.send(*held)

    def unreachable(self) -> None:
        """Nothing to be done."""

    lost = unreachable

    def _terminate(self) -> None:
        self._ua.wire.clients.pop(self._key, None)
        self._ua.hanging_up -= 1
