"""Where a party's packets may come from: the signalled address, or another port of that host learned once."""

SocketAddress = tuple[str, int] | tuple[str, int, int, int]
"""As `recvfrom` gives it: two members for IPv4, four for IPv6."""

LEARNING_PACKETS = 5  # a port other than the signalled one is final after so many packets (rtpengine's number)


class SourceLock:
    """
    The source of one party's packets.

    A party behind a NAT sends from a port it doesn't know of, so one other port of the signalled host is learned. Until
    it is final the signalled port itself still wins: a stray packet from a host that carries many calls must not take a
    line. Another host is never learned (RTP bleed and injection).
    """

    __slots__ = ("_before", "_learned", "_packets", "_rival", "_rival_packets", "signalled", "source")

    def __init__(self) -> None:
        self.signalled: tuple[str, int] | None = None
        self.source: SocketAddress | None = None
        """Final: the relay takes its packets without asking `admit`."""
        self._learned: SocketAddress | None = None
        self._before: SocketAddress | None = None
        """Where packets came from before `relearn`."""
        self._packets = 0
        self._rival: SocketAddress | None = None
        """Another port than the learned one that sends, while that isn't final."""
        self._rival_packets = 0

    def expect(self, signalled: tuple[str, int]) -> None:
        """Take packets from there; the same address again changes nothing."""
        if signalled != self.signalled:
            self.signalled, self.source, self._learned, self._before, self._packets = signalled, None, None, None, 0
            self._rival = None

    def relearn(self) -> None:
        """
        The party was on hold, and its NAT may have given it another port since (RFC 4787 §4.3: after two minutes).

        Who sent from the signalled port is behind none and stays locked.
        """
        if self.signalled is not None and self.heard is not None and self.heard[1] != self.signalled[1]:
            self._before, self.source, self._learned, self._packets = self.heard, None, None, 0
            self._rival = None

    def admit(self, source: SocketAddress) -> bool:
        """Whether a packet from `source` is the party's; learns and locks."""
        if self.source is not None:
            return source == self.source
        if self.signalled is None or source[0] != self.signalled[0]:
            return False
        if source[1] == self.signalled[1]:
            self.source = source
            return True
        if self._learned is None:
            self._learned = source
        if source != self._learned:
            return self._compete(source)
        self._packets += 1
        if self._packets >= LEARNING_PACKETS:
            self.source = source
        return True

    def _compete(self, source: SocketAddress) -> bool:
        """
        Whether another port than the learned one takes its place: the first with enough packets in a row is final.

        One stray packet before the party's first would else shut out a party behind a NAT for the whole call.
        """
        if source != self._rival:
            self._rival, self._rival_packets = source, 0
        self._rival_packets += 1
        if self._rival_packets < LEARNING_PACKETS:
            return False
        self.source = self._learned = source
        return True

    @property
    def heard(self) -> SocketAddress | None:
        """Where packets were taken from, final or not."""
        return self.source or self._learned

    @property
    def reply_to(self) -> SocketAddress | None:
        """Where to send: back to the source once there is one, or a NAT would drop it."""
        return self.heard or self._before or self.signalled
