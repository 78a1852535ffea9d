"""
From a SIP URI to the addresses behind it (RFC 3263), as rules: which questions to ask the DNS, what their answers mean.

`locate` is a generator: it yields questions, is sent the answers, and returns where requests may go. Who asks, how
long an answer is good and what randomness is, is the caller's business.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from .api import Hop
from .uri import DEFAULT_PORT, DEFAULT_TLS_PORT, literal

MAX_TARGETS = 16  # SRV records that are followed
MAX_ADDRESSES = 8  # of one name
PARTIAL_TTL_S = 60.0  # at most, where the DNS left some questions unanswered and the rest was enough


class Target(NamedTuple):
    """Whom to find: what a SIP URI says."""

    host: str
    """A name, or a literal address without brackets."""
    port: int | None = None
    transport: str = ""
    """`udp`, `tcp`, `tls`; empty where the URI leaves it open."""
    secure: bool = False
    """Whether it is a `sips:` URI: nothing but TLS will do."""


class Query(NamedTuple):
    """One question to the DNS."""

    name: str
    kind: str
    """`NAPTR`, `SRV`, `A` or `AAAA`."""


class Naptr(NamedTuple):
    """RFC 3403 §4.1, the fields that RFC 3263 §4.1 uses."""

    order: int
    preference: int
    flags: str
    service: str
    replacement: str


class Srv(NamedTuple):
    """RFC 2782."""

    priority: int
    weight: int
    port: int
    target: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What the DNS said; no records and no `failure`: there are none (NXDOMAIN, or no data)."""

    records: tuple[Naptr | Srv | str, ...] = ()
    """In the kind of the question; an address is text."""
    ttl_s: float = 0.0
    failure: str = ""
    """Why nothing is known (`SERVFAIL`, no answer …): another try may tell more."""


@dataclass(frozen=True, slots=True)
class Place:
    """One server: its addresses, and its rank among others (RFC 2782; a lower priority goes first)."""

    hops: tuple[Hop, ...]
    priority: int = 0
    weight: int = 0


@dataclass(frozen=True, slots=True)
class Located:
    """Where requests to a target may go."""

    places: tuple[Place, ...]
    ttl_s: float | None
    """How long that is good; `None`: for ever, the target is an address."""


class ResolveError(Exception):
    """The target has no address; the text says why. `temporary`: because nobody told us."""

    def __init__(self, message: str, *, temporary: bool) -> None:
        super().__init__(message)
        self.temporary = temporary


Answers: TypeAlias = Mapping[Query, Answer]
Location: TypeAlias = Generator[tuple[Query, ...], Answers, Located]

# RFC 3263 §4.1: the NAPTR services, and §4.2: the SRV names.
_SERVICES = {"SIPS+D2T": "tls", "SIP+D2T": "tcp", "SIP+D2U": "udp"}
_SRV_PREFIXES = {"tls": "_sips._tcp.", "tcp": "_sip._tcp.", "udp": "_sip._udp."}


def default_port(transport: str) -> int:
    return DEFAULT_TLS_PORT if transport == "tls" else DEFAULT_PORT


def locate(target: Target, *, transports: Sequence[str], families: Sequence[str]) -> Location:
    """
    Find `target` over one of `transports` (the best first), at addresses of `families` (`A`, `AAAA`).

    Raises `ResolveError`.
    """
    chosen = target.transport or ("tls" if target.secure else "udp")
    if address := literal(target.host):
        hop = Hop(address, target.port or default_port(chosen), chosen, target.host)
        return Located((Place((hop,)),), None)
    if target.port is not None:
        return (yield from _by_address(target, chosen, target.port, families))
    if target.transport or target.secure:
        wanted = [(_SRV_PREFIXES[chosen] + target.host, chosen)]
    else:
        wanted = (yield from _by_naptr(target, transports)) or [
            (_SRV_PREFIXES[transport] + target.host, transport) for transport in transports
        ]
    found = yield from _by_srv(target, wanted, families)
    if found is None:
        # RFC 3263 §4.2: no SRV records, so the name's own addresses at the default port.
        found = yield from _by_address(target, chosen, default_port(chosen), families)
    return found


def ordered(places: Sequence[Place], pick: Callable[[int], int]) -> tuple[Hop, ...]:
    """
    All hops in the order in which to try them, by priority and weighted chance (RFC 2782, page 3).

    `pick(n)` is a random whole number from 0 to n, both included.
    """
    if len(places) == 1:
        return places[0].hops
    hops: list[Hop] = []
    for priority in sorted({place.priority for place in places}):
        # The zero weights first, so that they have a small chance of being chosen first.
        waiting = sorted((p for p in places if p.priority == priority), key=lambda place: place.weight > 0)
        while waiting:
            at, running, drawn = 0, waiting[0].weight, pick(sum(place.weight for place in waiting))
            while running < drawn:
                at += 1
                running += waiting[at].weight
            hops += waiting.pop(at).hops
    return tuple(dict.fromkeys(hops))


def _by_naptr(
    target: Target, transports: Sequence[str]
) -> Generator[tuple[Query, ...], Answers, list[tuple[str, str]]]:
    """SRV names with their transports, by the domain's own preference; empty without usable records."""
    query = Query(target.host, "NAPTR")
    # Many servers refuse or drop this question; then it is as if there were no such record.
    records = (yield (query,))[query].records
    usable = [
        (record, _SERVICES[record.service.upper()])
        for record in records
        if isinstance(record, Naptr) and record.flags.lower() == "s" and record.service.upper() in _SERVICES
    ]
    usable = [(record, transport) for record, transport in usable if transport in transports]
    usable.sort(key=lambda pair: (pair[0].order, pair[0].preference))
    return [(record.replacement.rstrip("."), transport) for record, transport in usable[:MAX_TARGETS]]


def _by_srv(
    target: Target, wanted: Sequence[tuple[str, str]], families: Sequence[str]
) -> Generator[tuple[Query, ...], Answers, Located | None]:
    """The servers of the first name that has any; `None` where no name has."""
    queries = {Query(name, "SRV"): transport for name, transport in wanted}
    answers = yield tuple(queries)
    denied = ""
    for query, transport in queries.items():
        answer = answers[query]
        records = [record for record in answer.records if isinstance(record, Srv)]
        if not records:
            continue
        if all(record.target in ("", ".") for record in records):
            # RFC 2782: not by this transport; another one's name may have servers.
            denied = denied or query.name
            continue
        return (yield from _servers(target, transport, records, _good_s(answer.ttl_s, answers), families))
    failures = [f"{query.name}: {answers[query].failure}" for query in queries if answers[query].failure]
    if failures:
        # The name's own address may be a web server's; rather ask again than call there.
        raise ResolveError(f"{'; '.join(failures)} (with a port in the URI no SRV is asked for)", temporary=True)
    if denied:
        raise ResolveError(f"{denied} says that there is no such service", temporary=False)
    return None


def _servers(
    target: Target, transport: str, records: Sequence[Srv], ttl_s: float, families: Sequence[str]
) -> Generator[tuple[Query, ...], Answers, Located]:
    records = sorted(records)[:MAX_TARGETS]
    names = dict.fromkeys(record.target.rstrip(".") for record in records)
    answers = yield tuple(Query(name, family) for name in names for family in families)
    places = []
    for record in records:
        found, good_s = _addresses(record.target.rstrip("."), answers, families)
        if found:
            hops = tuple(Hop(address, record.port, transport, target.host) for address in found)
            places.append(Place(hops, record.priority, record.weight))
            ttl_s = min(ttl_s, good_s)
    if not places:
        raise _no_address(", ".join(names), answers)
    return Located(tuple(places), _good_s(ttl_s, answers))


def _by_address(
    target: Target, transport: str, port: int, families: Sequence[str]
) -> Generator[tuple[Query, ...], Answers, Located]:
    answers = yield tuple(Query(target.host, family) for family in families)
    found, ttl_s = _addresses(target.host, answers, families)
    if not found:
        raise _no_address(target.host, answers)
    return Located(
        (Place(tuple(Hop(address, port, transport, target.host) for address in found)),), _good_s(ttl_s, answers)
    )


def _addresses(name: str, answers: Answers, families: Sequence[str]) -> tuple[list[str], float]:
    found: list[str] = []
    ttl_s = float("inf")
    for family in families:
        answer = answers[Query(name, family)]
        addresses = [record for record in answer.records if isinstance(record, str)]
        if addresses:
            found += addresses[:MAX_ADDRESSES]
            ttl_s = min(ttl_s, answer.ttl_s)
    return found, ttl_s


def _good_s(ttl_s: float, answers: Answers) -> float:
    """How long this is good: not for long where a server may be missing from it."""
    return min(ttl_s, PARTIAL_TTL_S) if any(answer.failure for answer in answers.values()) else ttl_s


def _no_address(names: str, answers: Answers) -> ResolveError:
    failures = dict.fromkeys(answer.failure for answer in answers.values() if answer.failure)
    if failures:
        return ResolveError(f"{names}: {', '.join(failures)}", temporary=True)
    return ResolveError(f"{names} has no address", temporary=False)
