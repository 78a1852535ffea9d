"""
Which trunk a call takes, and which of them are worth trying: pure, with `now` in monotonic seconds from the caller.

A `Line` is what is known of one trunk: its hops, their circuits, its registration. `upkeep.py` finds these things out
and the carrier's calls add what they meet; nothing here waits or sends.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeAlias

from dosvoces.carriers import sip_codecs
from dosvoces.carriers.caller_id import CallerIds, one_number
from dosvoces.carriers.circuit import Circuit
from dosvoces.errors import CarrierError, NotAllowed
from dosvoces.model import PhoneNumber, mask_number
from dosvoces.sip import sdp
from dosvoces.sip.api import Hop
from dosvoces.sip.digest import Credentials
from dosvoces.sip.resolve import Place, Target, ordered

STALE_S = 3600.0  # how long what the DNS last said is good when it says nothing any more

Barred: TypeAlias = Callable[[Hop], str]


@dataclass(frozen=True, slots=True)
class Trunk:
    """A configured account at a carrier that speaks SIP."""

    name: str
    host: str
    """The proxy, as configured: it stands in the URIs."""
    port: int | None = None
    """`None`: the DNS tells it (RFC 3263)."""
    caller_id: str = ""
    """E.164; shown to both parties unless `shows` says otherwise."""
    username: str = ""
    password: str = field(default="", repr=False)
    country: str = "ES"
    prefixes: tuple[str, ...] = ("+",)
    """Of the numbers that go through this trunk, in E.164."""
    codecs: tuple[sdp.Codec, ...] = sip_codecs.DEFAULT
    """In the order of preference; G.711 is among them."""
    srtp: sdp.Security = sdp.Security.OFF
    """Whether its media are encrypted."""
    transport: str = ""
    """`udp`, `tcp` or `tls`; empty: the DNS tells it."""
    secure: bool = False
    """Whether the proxy is a `sips:` URI."""
    auth_username: str = ""
    """For the digest, where it isn't `username`."""
    realm: str = ""
    """The only realm whose challenges are answered; empty: those that ask for a call's INVITE."""
    digest_md5: bool = True
    """Whether a challenge that offers MD5 alone is answered."""
    hosts: tuple[str, ...] = ()
    """Names and literal addresses that are this trunk's beside those of the proxy."""
    register: bool = False
    register_expires_s: int = 600
    options_interval_s: float = 0.0
    """From one OPTIONS ping to the next; 0: none."""
    large_over_tcp: bool = False
    """Whether messages over 1,300 bytes go to a UDP hop's port by TCP."""
    shows: CallerIds | None = None
    """Which numbers it may show, and how; `None`: `caller_id` alone."""

    @property
    def callers(self) -> CallerIds:
        return self.shows or one_number(self.caller_id)

    @property
    def credentials(self) -> Credentials | None:
        if not self.username:
            return None
        return Credentials(self.auth_username or self.username, self.password, self.realm, md5=self.digest_md5)

    @property
    def domain(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port in (None, 5060) else f"{host}:{self.port}"

    def uri(self, user: str = "") -> str:
        # Never `sips:`, whatever the proxy's URI: that would promise TLS up to the phone that rings (RFC 5630 §3.1.3),
        # which no trunk can keep, and Asterisk and Kamailio refuse as they are delivered.
        return f"sip:{user}{'@' if user else ''}{self.domain}"

    @property
    def target(self) -> Target:
        return Target(self.host, self.port, self.transport, self.secure)


class Line:
    """What is known of one trunk just now."""

    def __init__(self, trunk: Trunk, pick: Callable[[int], int], barred: Barred) -> None:
        """`pick(n)` is a random whole number from 0 to n, both included."""
        self.trunk = trunk
        self.trouble = f"{trunk.host} has not been found yet"
        """Why the DNS gave no address when it was last asked; empty if it did."""
        self.registration_trouble = "not registered yet" if trunk.register else ""
        """Why the trunk doesn't know us; empty if it does, or needn't."""
        self._pick = pick
        self._barred = barred
        self._places: tuple[Place, ...] = ()
        self._good_until: float | None = 0.0
        self._circuits: dict[Hop, Circuit] = {}
        self.further: dict[str, frozenset[str]] = {}
        """By each of the trunk's `hosts`, the literal addresses that it has."""

    def found(self, places: tuple[Place, ...], good_until: float | None) -> None:
        """The DNS said where it is; `None`: for ever. What is known of hops that stay is kept."""
        self.trouble = ""
        if self.trunk.large_over_tcp:
            places = tuple(_with_tcp(place) for place in places)
        self._places, self._good_until = places, good_until
        self._circuits = {hop: self.circuit(hop) for place in places for hop in place.hops}

    def not_found(self, why: str) -> None:
        """The DNS didn't say; what it said before holds for `STALE_S` more."""
        self.trouble = why

    def hops(self, now: float) -> tuple[Hop, ...]:
        """All hops, in the order in which to try them this time."""
        if self._good_until is not None and now > self._good_until + STALE_S:
            return ()
        return ordered(self._places, self._pick)

    @property
    def credentials(self) -> Credentials | None:
        """Those of the trunk, good at all addresses that it has just now."""
        known = self.trunk.credentials
        return known and replace(known, hosts=self.hosts)

    @property
    def hosts(self) -> frozenset[str]:
        """The literal addresses that the trunk has, as far as the DNS has told."""
        named = {hop.host for place in self._places for hop in place.hops}
        return frozenset(named.union(*self.further.values()))

    def circuit(self, hop: Hop) -> Circuit:
        return self._circuits.get(hop) or self._circuits.setdefault(hop, Circuit())

    def usable(self, hop: Hop, now: float) -> bool:
        """Whether a call may go there now."""
        return self.circuit(hop).usable(now) and not self._barred(hop)

    def problem(self, now: float) -> str:
        """Why it can't be used now, in words; empty if it can."""
        hops = self.hops(now)
        if not hops:
            return f"trunk {self.trunk.name} can't be found: {self.trouble or 'what the DNS said is too old'}"
        if self.registration_trouble:
            return f"trunk {self.trunk.name} is not registered: {self.registration_trouble}"
        if all(barred := [self._barred(hop) for hop in hops]):
            return f"trunk {self.trunk.name} can't be used: {barred[0]}"
        if any(self.usable(hop, now) for hop in hops):
            return ""
        states = ", ".join(f"{hop}: {self.circuit(hop).why or 'tried just now'}" for hop in dict.fromkeys(hops))
        return f"trunk {self.trunk.name} is down ({states})"

    def warnings(self, now: float) -> list[str]:
        """What an operator should know of it though calls go through."""
        told = [f"trunk {self.trunk.name}: {self.trouble}; the last addresses are used"] if self.trouble else []
        circuits = {hop: self.circuit(hop) for hop in self.hops(now)}
        return told + [
            f"trunk {self.trunk.name}: {hop} is down ({circuit.why})"
            for hop, circuit in circuits.items()
            if not circuit.closed or not circuit.usable(now)  # half open isn't up: only a trial tells
        ]


def _open(hop: Hop) -> str:
    return ""


def _with_tcp(place: Place) -> Place:
    return replace(place, hops=tuple(hop._replace(tcp_too=True) for hop in place.hops))


class Way(NamedTuple):
    """A trunk and the hop by which to reach it."""

    line: Line
    hop: Hop

    def __str__(self) -> str:
        return f"{self.line.trunk.name} {self.hop}"

    @property
    def trunk(self) -> Trunk:
        return self.line.trunk

    @property
    def circuit(self) -> Circuit:
        return self.line.circuit(self.hop)


class Trunks:
    """All lines, in the order of the settings."""

    def __init__(self, trunks: Sequence[Trunk], pick: Callable[[int], int], barred: Barred = _open) -> None:
        """`barred` says why no call may go to a hop, whatever its state, or nothing."""
        self.lines = tuple(Line(trunk, pick, barred) for trunk in trunks)

    def ways(self, number: PhoneNumber, now: float, avoid: Sequence[str] = (), caller_id: str = "") -> Iterator[Way]:
        """The ways to this number that are worth trying: trunks in the order of the settings, each hop by its rank."""
        for line in self._lines_for(number):
            if line.registration_trouble or not line.trunk.callers.allows(caller_id) or line.trunk.name in avoid:
                continue
            for hop in line.hops(now):
                way = Way(line, hop)
                if line.usable(hop, now) and not (avoid and str(way) in avoid):
                    yield way

    def way(self, number: PhoneNumber, now: float, avoid: Sequence[str] = (), caller_id: str = "") -> Way:
        """The first of `ways`. Raises `CarrierError` if there is none."""
        for way in self.ways(number, now, avoid, caller_id):
            return way
        if caller_id and not any(line.trunk.callers.allows(caller_id) for line in self._lines_for(number)):
            raise CarrierError(_not_ours(number, caller_id), permanent=True)
        trouble = "; ".join(self._no_way(number, now)) or f"no further way to {number.masked}"
        raise CarrierError(trouble, permanent=not self._lines_for(number))

    def another(self, number: PhoneNumber, now: float, avoid: Sequence[str], caller_id: str = "") -> bool:
        """Whether a way is left beside those."""
        return next(self.ways(number, now, avoid, caller_id), None) is not None

    def check_caller_id(self, number: PhoneNumber, caller_id: str) -> None:
        """Raises `NotAllowed` if no trunk that takes `number` may show `caller_id`."""
        if not any(line.trunk.callers.allows(caller_id) for line in self._lines_for(number)):
            raise NotAllowed(_not_ours(number, caller_id))

    def names(self, number: PhoneNumber) -> list[str]:
        """Of the trunks that take this number, in the order of the settings."""
        return [line.trunk.name for line in self._lines_for(number)]

    def named(self, name: str) -> Line | None:
        """The line of the trunk with this name."""
        return next((line for line in self.lines if line.trunk.name == name), None)

    def at(self, host: str, port: int, now: float) -> Line | None:
        """The line of the first trunk at this address: two accounts may share a proxy."""
        for line in self.lines:
            if any((hop.host, hop.port) == (host, port) for hop in line.hops(now)):
                return line
        return None

    def problems(self, numbers: Sequence[PhoneNumber], now: float) -> list[str]:
        """Why no call can be made, or none to one of `numbers`; empty if all can."""
        if not self.lines:
            return ["no trunk is configured: add [[trunks]] to dosvoces.toml"]
        for number in numbers:
            if troubles := self._no_way(number, now):
                return troubles
        troubles = _troubles(self.lines, now)
        return ["no trunk is up", *troubles] if troubles else []

    def warnings(self, now: float) -> list[str]:
        """What is amiss beside what works."""
        told: list[str] = []
        for line in self.lines:
            problem = line.problem(now)
            told += [problem] if problem else line.warnings(now)
        return told

    def _lines_for(self, number: PhoneNumber) -> list[Line]:
        return [line for line in self.lines if number.e164.startswith(line.trunk.prefixes)]

    def _no_way(self, number: PhoneNumber, now: float) -> list[str]:
        lines = self._lines_for(number)
        if not lines:
            return [f"no trunk takes {number.masked}: see the trunks' prefixes"]
        troubles = _troubles(lines, now)
        return [f"no trunk is up for {number.masked}", *troubles] if troubles else []


def _troubles(lines: Sequence[Line], now: float) -> list[str]:
    """Why none of these lines can be used; empty as soon as one can."""
    troubles = []
    for line in lines:
        trouble = line.problem(now)
        if not trouble:
            return []
        troubles.append(trouble)
    return troubles


def _not_ours(number: PhoneNumber, caller_id: str) -> str:
    return f"{mask_number(caller_id)} is not among the caller_ids of a trunk that takes {number.masked}"
