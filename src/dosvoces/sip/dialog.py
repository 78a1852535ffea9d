"""
A dialog (RFC 3261 §12): who the two ends are, what was counted, and where its requests go.

URIs and routes stay text, as they came. No timers, no sending: `exchange` and the calls do that.
"""

from .api import DialogFacts, Hop
from .message import Message, address_uri, clean, split_values, tag
from .uri import destination, is_loose, is_request_uri, without_headers


class Dialog:
    """
    One end of a dialog, or what will be one: before the first 2xx `remote_tag` is empty and the target is the callee.

    `local` and `remote` are whole From/To values of our requests, tags included.
    """

    __slots__ = (
        "call_id",
        "fallback",
        "invite_cseq",
        "local",
        "local_cseq",
        "local_tag",
        "remote",
        "remote_cseq",
        "remote_tag",
        "remote_target",
        "route_set",
    )

    def __init__(
        self, *, call_id: str, local: str, local_tag: str, remote: str, remote_target: str, fallback: Hop
    ) -> None:
        self.call_id = call_id
        self.local = local
        self.local_tag = local_tag
        self.remote = remote
        self.remote_tag = ""
        self.remote_target = remote_target
        self.route_set: tuple[str, ...] = ()
        self.local_cseq = 0
        self.invite_cseq = 0
        self.remote_cseq = -1  # RFC 3261 §12.1.2: empty until the peer's first request
        self.fallback = fallback

    def established_by(self, response: Message) -> "Dialog":
        """The dialog that this answer to our INVITE makes (RFC 3261 §12.1.2); this one is the pattern and stays."""
        to = response.header("to")
        made = Dialog(
            call_id=self.call_id,
            local=self.local,
            local_tag=self.local_tag,
            remote=to,
            remote_target=self.remote_target,
            fallback=self.fallback,
        )
        made.remote_tag = tag(to)
        made.local_cseq = self.local_cseq
        made.invite_cseq = response.cseq
        made.route_set = tuple(reversed(split_values(response.values("record-route"))))
        made.refresh_target(response)
        return made

    def refresh_target(self, message: Message) -> None:
        """Take the peer's Contact as the new target (RFC 3261 §12.2.1.2, §12.2.2); one that can't be used is left."""
        self.remote_target = target_of(message) or self.remote_target

    @property
    def destination(self) -> Hop:
        """
        The next hop: the first route, or else the target, if that is an address to be had, and the INVITE's otherwise.

        We diverge from RFC 3263 for names: a trunk that writes names into Record-Route or Contact is the one that we
        sent the INVITE to, and asking the resolver amid a hang-up could hold it up. So is one that writes an address of
        another family, or 0.0.0.0: what is sent to the INVITE's hop may arrive, what is sent there can't.
        """
        uri = address_uri(self.route_set[0]) if self.route_set else self.remote_target
        return destination(uri, self.fallback) or self.fallback

    def route(self) -> tuple[str, tuple[str, ...]]:
        """The Request-URI and the Route header lines of a request in this dialog (RFC 3261 §12.2.1.1)."""
        if not self.route_set:
            return self.remote_target, ()
        first = address_uri(self.route_set[0])
        if is_loose(first) or not is_request_uri(first):
            return self.remote_target, tuple(f"Route: {value}" for value in self.route_set)
        # A strict router: its URI goes into the start line and our target to the end of the route.
        rest = (*self.route_set[1:], f"<{self.remote_target}>")
        return without_headers(first), tuple(f"Route: {value}" for value in rest)

    def hosts(self) -> list[str]:
        """The literal addresses that the peer named in Contact and Record-Route: its requests may come from there."""
        uris = [self.remote_target, *(address_uri(value) for value in self.route_set)]
        return [found.host for uri in uris if (found := destination(uri, self.fallback))]

    def facts(self) -> DialogFacts:
        return DialogFacts(
            call_id=self.call_id,
            local=self.local,
            remote=clean(self.remote),
            local_tag=self.local_tag,
            remote_tag=clean(self.remote_tag),
            invite_cseq=self.invite_cseq,
            local_cseq=self.local_cseq,
            remote_target=self.remote_target,
            route_set=tuple(clean(value) for value in self.route_set),
            destination=self.fallback,
        )

    @classmethod
    def from_facts(cls, facts: DialogFacts) -> "Dialog":
        made = cls(
            call_id=facts.call_id,
            local=facts.local,
            local_tag=facts.local_tag,
            remote=facts.remote,
            remote_target=facts.remote_target,
            fallback=Hop(*facts.destination),
        )
        made.remote_tag = facts.remote_tag
        made.route_set = facts.route_set
        made.invite_cseq = facts.invite_cseq
        made.local_cseq = facts.local_cseq
        return made


def target_of(message: Message) -> str:
    """The URI of the peer's Contact, `""` if there is none that can be a Request-URI."""
    values = split_values(message.values("contact"))
    uri = without_headers(address_uri(values[0])) if values else ""
    return uri if is_request_uri(uri) else ""
