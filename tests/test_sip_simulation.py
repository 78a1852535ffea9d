"""
Two user agents through a bad network, in virtual time and from a seed: whatever is lost, doubled or overtaken, every
call ends exactly once on both sides and nothing remains.
"""

import heapq
import random
from collections.abc import Callable

import pytest

from dosvoces.sip.api import Address, CallEnd, CallHandler, CallStateError, DialogFacts, EndCause, Hop, Invitation
from dosvoces.sip.call import Call
from dosvoces.sip.incoming import IncomingCall
from dosvoces.sip.message import Request, Response, compose_lines, parse, tag
from dosvoces.sip.session_timer import DEFAULT_TERMS, SessionTerms
from dosvoces.sip.ua import UserAgent

OFFER = b"v=0 offer"
ANSWER = b"v=0 answer"
CALLER: Address = ("192.0.2.1", 5060)
PHONE: Address = ("192.0.2.2", 5060)


class World:
    """A clock, a network and what is planned."""

    def __init__(
        self, seed: int, *, loss: float, twice: float, delay_s: float, session: SessionTerms = DEFAULT_TERMS
    ) -> None:
        self.random = random.Random(seed)
        self.session = session
        self.gateway: Gateway | None = None
        """Stands before the phones, if there is one."""
        self.cut = False
        """Whether nothing arrives any more."""
        self.transport = "udp"
        self.connection = 0
        """The number of the connection that stands, where the transport has any."""
        self.arrivals: dict[Address, float] = {}
        """When the last message on it arrives there."""
        self.now = 0.0
        self.loss = loss
        self.twice = twice
        self.delay_s = delay_s
        self.sites: dict[Address, UserAgent] = {}
        self._plan: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = 0

    def site(self, address: Address, on_invite: Callable[[IncomingCall], CallHandler | None] | None) -> UserAgent:
        other = PHONE if address == CALLER else CALLER
        made = UserAgent(
            local=address,
            user_agent="simulated",
            clock=lambda: self.now,
            token=lambda: f"{self.random.getrandbits(64):016x}",
            uniform=self.random.uniform,
            peers=[other[0]],
            on_invite=on_invite,
            session=self.session,
        )
        self.sites[address] = made
        return made

    def convey(self, data: bytes, source: Address, destination: Address) -> None:
        """By the connection that stands now: in order, and lost with it."""
        connection, hop = self.connection, Hop(*source, self.transport)

        def arrive() -> None:
            if connection == self.connection:
                self.sites[destination].receive(data, hop, self.now)

        self.arrivals[destination] = max(self.arrivals.get(destination, 0.0), self.now + self.random.random() * 0.1)
        self.later(self.arrivals[destination] - self.now, arrive)

    def break_connection(self) -> None:
        """What is on its way is lost; each side notices, and the next message goes by a new one."""
        self.connection += 1
        self.arrivals.clear()
        self.sites[CALLER].lost(Hop(*PHONE, self.transport), self.now)
        self.sites[PHONE].lost(Hop(*CALLER, self.transport), self.now)

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        self._serial += 1
        heapq.heappush(self._plan, (self.now + delay_s, self._serial, action))

    def run(self, until: float) -> None:
        """Take what is planned and what timers are due in order of time."""
        while True:
            self._carry()
            due = [timer for site in self.sites.values() if (timer := site.next_timer()) is not None]
            if self._plan:
                due.append(self._plan[0][0])
            if not due or min(due) > until:
                return
            self.now = max(self.now, min(due))
            while self._plan and self._plan[0][0] <= self.now:
                heapq.heappop(self._plan)[2]()
            for site in self.sites.values():
                site.advance(self.now)

    def _carry(self) -> None:
        for source, site in self.sites.items():
            waiting = site.outbox[:]
            site.outbox.clear()
            for data, destination in waiting:
                if self.gateway is not None and source == PHONE:
                    data = self.gateway.passed(data)
                self.carry(data, source, destination[:2])

    def carry(self, data: bytes, source: Address, destination: Address) -> None:
        if self.transport != "udp":
            self.convey(data, source, destination)
            return
        for _ in range(2 if self.random.random() < self.twice else 1):
            if self.random.random() >= self.loss and not self.cut:
                delay = 0.001 + self.random.random() * self.delay_s
                self.later(delay, self._arrival(data, Hop(*source), destination))

    def _arrival(self, data: bytes, source: Hop, destination: Address) -> Callable[[], None]:
        def arrive() -> None:
            if self.gateway is None or destination != PHONE or not self.gateway.took(data):
                self.sites[destination].receive(data, source, self.now)

        return arrive


class Gateway:
    """Makes every ringing of the phones reliable, and repeats it until its PRACK comes (RFC 3262 §3)."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.acknowledged: set[str] = set()
        self.pracks = 0
        self._rseq: dict[str, int] = {}
        """By the phone's tag: it rings once, and says the same when the INVITE is repeated."""

    def passed(self, data: bytes) -> bytes:
        message = parse(data)
        if not isinstance(message, Response) or not 100 < message.code < 200:
            return data
        to_tag = tag(message.header("to"))
        known = to_tag in self._rseq
        rseq = self._rseq.setdefault(to_tag, self.world.random.randrange(1, 1 << 31))
        head, _, body = data.partition(b"\r\n\r\n")
        made = head + f"\r\nRequire: 100rel\r\nRSeq: {rseq}\r\n\r\n".encode() + body
        if not known:
            self.world.later(0.5, lambda: self._repeat(made, to_tag, 1.0))
        return made

    def _repeat(self, data: bytes, to_tag: str, wait_s: float) -> None:
        if to_tag not in self.acknowledged and wait_s < 32:
            self.world.carry(data, PHONE, CALLER)
            self.world.later(wait_s, lambda: self._repeat(data, to_tag, 2 * wait_s))

    def took(self, data: bytes) -> bool:
        message = parse(data)
        if not isinstance(message, Request) or message.method != "PRACK":
            return False
        to_tag = tag(message.header("to"))
        assert message.header("rack") == f"{self._rseq[to_tag]} 1 INVITE"
        self.acknowledged.add(to_tag)
        self.pracks += 1
        lines = [f"{name}: {message.header(name)}" for name in ("via", "from", "to", "call-id", "cseq")]
        self.world.carry(compose_lines(["SIP/2.0 200 OK", *lines]), PHONE, CALLER)
        return True


class Party(CallHandler):
    """Does something at random moments and counts its ends."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.call: Call | None = None
        self.answers = 0
        self.rings = 0
        self.ends: list[CallEnd] = []

    def on_progress(self, status: int, phrase: str, body: bytes) -> None:
        self.rings += 1

    def on_answer(self, body: bytes, facts: DialogFacts) -> None:
        assert not self.ends
        self.answers += 1
        self.act()

    def on_confirmed(self, body: bytes) -> None:
        assert not self.ends
        self.act()

    def on_offer(self, body: bytes | None) -> bytes | None:
        return ANSWER if self.world.random.random() < 0.9 else None

    def on_ended(self, end: CallEnd) -> None:
        self.ends.append(end)

    def act(self) -> None:
        draw = self.world.random.random()
        if draw < 0.5:
            self.world.later(self.world.random.random() * 3, self.offer_again)
        if draw < 0.7:
            self.world.later(self.world.random.random() * 8, self.leave)

    def leave(self) -> None:
        assert self.call is not None
        self.call.hangup()

    def offer_again(self) -> None:
        assert self.call is not None
        try:
            self.call.reinvite(OFFER, lambda status, body: None)
        except CallStateError:
            pass


def simulate(
    seed: int,
    calls: int,
    *,
    loss: float,
    twice: float,
    delay_s: float,
    session: SessionTerms = DEFAULT_TERMS,
    reliable: bool = False,
    cut_at_s: float | None = None,
    breaks_every_s: float | None = None,
) -> tuple[World, list[Party], list[Party]]:
    world = World(seed, loss=loss, twice=twice, delay_s=delay_s, session=session)
    if reliable:
        world.gateway = Gateway(world)
    if cut_at_s is not None:
        world.later(cut_at_s, lambda: setattr(world, "cut", True))
    if breaks_every_s is not None:
        world.transport = "tcp"
        for number in range(1, round(100 / breaks_every_s)):
            world.later(number * breaks_every_s, world.break_connection)
    phones: list[Party] = []

    def on_invite(call: IncomingCall) -> CallHandler:
        party = Party(world)
        party.call = call
        phones.append(party)
        draw = world.random.random()
        if draw < 0.15:
            call.reject(486)
            return party
        if draw < 0.85:
            call.ring()
        if draw < 0.7:
            world.later(world.random.random() * 4, lambda: None if call.over or call.answered else call.answer(ANSWER))
        elif draw < 0.8:
            world.later(world.random.random() * 4, call.hangup)
        # The rest rings, or says nothing, until the caller gives up; nobody does if each answer and CANCEL is lost.
        world.later(120, lambda: None if call.answered else call.hangup())
        return party

    caller = world.site(CALLER, None)
    world.site(PHONE, on_invite)
    callers = [Party(world) for _ in range(calls)]

    def begin(party: Party, number: int) -> None:
        invitation = Invitation(
            request_uri=f"sip:{number}@192.0.2.2",
            destination=Hop(*PHONE, world.transport),
            from_uri="sip:caller@192.0.2.1",
            to_uri=f"sip:{number}@192.0.2.2",
            call_id=f"call-{number}",
            body=OFFER,
        )
        party.call = caller.invite(invitation, party)
        if world.random.random() < 0.4:
            world.later(world.random.random() * 6, party.leave)
        world.later(60, party.leave)

    for number, party in enumerate(callers):
        world.later(world.random.random() * 20, lambda party=party, number=number: begin(party, number))  # type: ignore[misc]
    world.run(600)
    return world, callers, phones


@pytest.mark.parametrize("seed", range(4))
def test_every_call_ends_once_and_nothing_remains(seed: int) -> None:
    world, callers, phones = simulate(seed, 150, loss=0.25, twice=0.1, delay_s=0.4)
    assert [len(party.ends) for party in callers] == [1] * len(callers)
    assert [len(party.ends) for party in phones] == [1] * len(phones)
    assert [site.open_calls for site in world.sites.values()] == [0, 0]
    assert [site.transactions for site in world.sites.values()] == [0, 0]
    assert [site.idle for site in world.sites.values()] == [True, True]


@pytest.mark.parametrize("seed", range(4))
def test_every_call_ends_once_though_connections_break(seed: int) -> None:
    """S27 over TCP: nothing is repeated there but what a connection took with it."""
    world, callers, phones = simulate(seed, 150, loss=0, twice=0, delay_s=0.1, breaks_every_s=0.7)
    assert world.connection > 100
    # A hang-up that a break took is sent again, so that hardly any waits for its time-out.
    assert sum("BYE: t" in party_end.detail for party in callers + phones for party_end in party.ends) <= 1
    assert [len(party.ends) for party in callers] == [1] * len(callers)
    assert [len(party.ends) for party in phones] == [1] * len(phones)
    assert [site.transactions for site in world.sites.values()] == [0, 0]
    assert [site.idle for site in world.sites.values()] == [True, True]


def test_a_good_network_gives_both_sides_the_same_view() -> None:
    _world, callers, phones = simulate(7, 150, loss=0.0, twice=0.0, delay_s=0.02)
    by_id = {party.call.call_id: party for party in phones if party.call is not None}
    for party in callers:
        assert party.call is not None
        phone = by_id[party.call.call_id]
        assert phone.call is not None
        assert (party.call.answered, len(party.ends), len(phone.ends)) == (phone.call.answered, 1, 1)


def test_the_same_seed_gives_the_same_run() -> None:
    first = [party.ends for party in simulate(3, 30, loss=0.3, twice=0.2, delay_s=0.5)[1]]
    second = [party.ends for party in simulate(3, 30, loss=0.3, twice=0.2, delay_s=0.5)[1]]
    assert first == second


SHORT = SessionTerms(expires_s=6, min_s=3)
"""A session is refreshed each 3 s, over after 6 and given up 2 s before that."""


@pytest.mark.parametrize("seed", range(4))
def test_session_timers_and_reliable_ringing_leave_nothing_either(seed: int) -> None:
    world, callers, phones = simulate(seed, 100, loss=0.2, twice=0.1, delay_s=0.3, session=SHORT, reliable=True)
    assert [len(party.ends) for party in callers] == [1] * len(callers)
    assert [len(party.ends) for party in phones] == [1] * len(phones)
    assert [site.idle for site in world.sites.values()] == [True, True]
    assert max(party.rings for party in callers) == 1  # however often it came
    assert world.gateway is not None
    assert world.gateway.pracks > 0


def test_refreshed_sessions_outlive_their_interval() -> None:
    _world, callers, phones = simulate(5, 100, loss=0.0, twice=0.2, delay_s=0.02, session=SHORT, reliable=True)
    causes = {end.cause for party in (*callers, *phones) for end in party.ends}
    assert EndCause.TIMEOUT not in causes
    assert sum(party.answers for party in callers) > 20


def test_sessions_end_on_both_sides_when_the_network_is_gone() -> None:
    world, callers, phones = simulate(6, 60, loss=0.0, twice=0.0, delay_s=0.02, session=SHORT, cut_at_s=10)
    assert [len(party.ends) for party in (*callers, *phones)] == [1] * (len(callers) + len(phones))
    assert [site.idle for site in world.sites.values()] == [True, True]
    # Who talked on either side is told so within the interval and the time of a BYE, not after the hour of the talk.
    talked = [end for party in phones for end in party.ends if end.cause is EndCause.TIMEOUT]
    assert len(talked) > 5
