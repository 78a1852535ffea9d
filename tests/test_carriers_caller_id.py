"""What each party sees: the pool, the two sides, the identity headers; and that nothing else is ever shown."""

import itertools
from collections.abc import Callable, Iterator

import pytest

from dosvoces.app import number_rules
from dosvoces.app.telephony import caller_ids
from dosvoces.carriers import Call
from dosvoces.carriers.caller_id import CallerIds, Identity, Shown, one_number
from dosvoces.carriers.sip import SipCarrier
from dosvoces.carriers.trunks import Trunk, Trunks
from dosvoces.dialplan import Refusal, check_number
from dosvoces.errors import CarrierError, NotAllowed
from dosvoces.events import Ended
from dosvoces.media import Address as MediaAddress
from dosvoces.media import RelayEvent, Statistics
from dosvoces.model import ConnectionId, PhoneNumber, Side
from dosvoces.settings import Settings
from dosvoces.settings import Trunk as TrunkSettings
from dosvoces.sip.agent import Agent
from dosvoces.sip.api import Address, CallHandler, Hop
from dosvoces.sip.incoming import IncomingCall
from dosvoces.sip.message import Request, address_uri, parse
from dosvoces.testing import A, B
from tests.far_ends import HOST, Recorder, place

ONE, TWO, THREE = "+34910000001", "+34910000002", "+34910000003"
NUMBER = PhoneNumber("+34600000011", "+34600000011")
BOTH = CallerIds(pool=(ONE, TWO), first=ONE, second=TWO)
URI = f"sip:{ONE}@sip.example.com"


# --- which number ---


def test_each_side_has_its_default() -> None:
    assert [BOTH.number(side) for side in Side] == [ONE, TWO]
    assert [one_number(ONE).number(side) for side in Side] == [ONE, ONE]
    assert one_number("").number(A) == ""


def test_a_call_may_choose_within_the_pool() -> None:
    assert BOTH.number(A, TWO) == TWO


def test_a_number_out_of_the_pool_is_not_allowed() -> None:
    with pytest.raises(NotAllowed, match=r"^\+34910•••003 is not among the trunk's caller_ids$"):
        BOTH.number(A, THREE)


# --- how it is told ---


@pytest.mark.parametrize(
    ("callers", "shown"),
    [
        (CallerIds(), Shown(URI)),
        (CallerIds(identity=Identity.PAI), Shown(URI, "", (("P-Asserted-Identity", f"<{URI}>"),))),
        (CallerIds(identity=Identity.PPI), Shown(URI, "", (("P-Preferred-Identity", f"<{URI}>"),))),
        (
            CallerIds(identity=Identity.PAI, hidden=True),
            Shown(
                "sip:anonymous@anonymous.invalid",
                "Anonymous",
                (("P-Asserted-Identity", f"<{URI}>"), ("Privacy", "id")),
            ),
        ),
    ],
)
def test_what_the_invite_says(callers: CallerIds, shown: Shown) -> None:
    assert callers.shown(ONE, URI) == shown


def test_an_account_without_a_number_asserts_nothing() -> None:
    assert CallerIds(identity=Identity.PAI).shown("", "sip:user@sip.example.com") == Shown("sip:user@sip.example.com")


# --- which trunk ---


def trunks(*callers: CallerIds) -> Trunks:
    made = Trunks([Trunk(f"t{n}", HOST, 5060 + n, shows=each) for n, each in enumerate(callers)], lambda most: 0)
    for line in made.lines:
        line.found((), None)
    return made


def test_a_caller_id_that_no_trunk_to_the_number_has_is_refused() -> None:
    made = trunks(BOTH, one_number(THREE))
    made.check_caller_id(NUMBER, THREE)
    with pytest.raises(NotAllowed, match="caller_ids of a trunk that takes"):
        made.check_caller_id(NUMBER, "+34910000009")
    with pytest.raises(CarrierError, match="caller_ids of a trunk that takes"):
        made.way(NUMBER, 0.0, (), "+34910000009")


# --- settings ---


def settings(**trunk: object) -> Settings:
    made = {"name": "main", "proxy": f"sip:{HOST}:5060;transport=udp", **trunk}
    return Settings.model_validate({"trunks": [made]})


@pytest.mark.parametrize(
    ("trunk", "first", "second"),
    [
        ({"caller_id": ONE}, ONE, ONE),
        ({"caller_ids": [ONE, TWO]}, ONE, ONE),
        ({"caller_ids": [ONE, TWO], "caller_id": TWO}, TWO, TWO),
        ({"caller_ids": [ONE, TWO], "caller_id_second": TWO}, ONE, TWO),
        ({"caller_id_first": ONE, "caller_id_second": TWO}, ONE, TWO),
        ({}, "", ""),
    ],
)
def test_what_the_settings_come_to(trunk: dict[str, object], first: str, second: str) -> None:
    callers = caller_ids(settings(**trunk).trunks[0])
    assert (callers.number(A), callers.number(B)) == (first, second)


@pytest.mark.parametrize(
    ("trunk", "problem"),
    [
        ({"caller_ids": [ONE], "caller_id": TWO}, "`caller_id = .*` is not among `caller_ids`"),
        ({"caller_ids": [ONE], "caller_id_first": TWO}, "`caller_id_first = .*` is not among `caller_ids`"),
        ({"caller_ids": [ONE], "caller_id_second": TWO}, "`caller_id_second = .*` is not among `caller_ids`"),
        ({"caller_id": ONE, "privacy": "id"}, "needs `identity`"),
        ({"identity": "pai"}, "`identity` needs a number"),
    ],
)
def test_settings_that_contradict_themselves(trunk: dict[str, object], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        settings(**trunk)


def test_no_number_of_the_pool_is_dialled() -> None:
    rules = number_rules(settings(caller_ids=[ONE, TWO], caller_id_second=TWO))
    for number in (ONE, TWO):
        refused = check_number(number, rules)
        assert isinstance(refused, Refusal)
        assert refused.code == "own_number"


# --- on the wire: every setting with every order ---

POOLS = [(), (ONE,), (ONE, TWO), (ONE, TWO, THREE)]
WANTED = ["", ONE, TWO, THREE, "+34910000009"]
STRANGERS = {"+34910000009"}


def every_trunk(far: Address) -> Iterator[tuple[Settings, Trunk]]:
    """All combinations of the settings that are allowed; each takes the numbers that begin with its own prefix."""
    keys = ("caller_id", "caller_id_first", "caller_id_second")
    choices = itertools.product(POOLS, *([None, ONE, TWO] for _ in keys), ("none", "pai", "ppi"), ("none", "id"))
    count = 0
    for pool, *named, identity, privacy in choices:
        given = {key: number for key, number in zip(keys, named, strict=True) if number}
        try:
            made = settings(caller_ids=pool, identity=identity, privacy=privacy, **given)
        except ValueError:
            continue
        (trunk,) = made.trunks
        yield made, Trunk(f"t{count}", *far, prefixes=(f"+346{count:03d}",), shows=caller_ids(trunk))
        count += 1


class NoMedia:
    """A relay that has room for all and moves nothing."""

    async def start(self, report: Callable[[RelayEvent], None]) -> None: ...

    async def allocate(self, connection_id: ConnectionId, *, country: str) -> dict[Side, MediaAddress]:
        return {side: MediaAddress(HOST, 4000) for side in Side}

    def connect(self, *_: object, **__: object) -> None: ...

    def play_ringing(self, connection_id: ConnectionId, side: Side) -> None: ...

    def play_warning(self, connection_id: ConnectionId, side: Side) -> None: ...

    def stop_ringing(self, connection_id: ConnectionId, side: Side) -> None: ...

    async def join(self, connection_id: ConnectionId) -> None: ...

    async def release(self, connection_id: ConnectionId) -> dict[Side, Statistics]:
        return {}

    def capacity(self) -> int:
        return 1

    def problems(self) -> list[str]:
        return []

    async def close(self) -> None: ...


async def test_no_invite_shows_a_number_out_of_the_pool() -> None:
    """Whatever the settings and whatever is asked for: what isn't in the pool is refused before anything is sent."""
    seen: list[Request] = []

    def tap(ours: bool, data: bytes, hop: Hop) -> None:
        message = parse(data)
        if not ours and isinstance(message, Request) and message.method == "INVITE":
            seen.append(message)

    def refuse(call: IncomingCall) -> CallHandler:
        call.reject(486)
        return CallHandler()

    far = await Agent.open(bind=(HOST, 0), peers=None, on_invite=refuse, tap=tap)
    every = list(every_trunk(far.local))
    assert len(every) > 200
    carrier = SipCarrier(trunks=[trunk for _settings, trunk in every], relay=NoMedia(), bind=(HOST, 0), capture=False)
    told = Recorder()
    await carrier.start(told)
    expected: dict[str, tuple[Settings, str, Side]] = {}
    refused = 0
    for (made, trunk), (turn, (wanted, side)) in itertools.product(every, enumerate(itertools.product(WANTED, Side))):
        number = PhoneNumber(f"{trunk.prefixes[0]}{turn:05d}", "")
        call = Call(ConnectionId(f"{trunk.prefixes[0][1:]:0>20}{turn:06d}"), side, number, caller_id=wanted)
        try:
            await place(carrier, call)
        except CarrierError:
            assert wanted not in ("", *made.trunks[0].pool)
            refused += 1
            with pytest.raises(NotAllowed):
                carrier.check_caller_id(number, wanted)
        else:
            expected[number.e164] = made, wanted, side
    await told.until(lambda: sum(isinstance(event, Ended) for _, event in told.events) == len(expected))
    await carrier.close()
    await far.close()
    assert refused > 500
    assert len({request.uri for request in seen}) == len(expected)
    for request in seen:
        made, wanted, side = expected[request.uri.removeprefix("sip:").partition("@")[0]]
        check(request, made.trunks[0], wanted, side)


def check(request: Request, trunk: TrunkSettings, wanted: str, side: Side) -> None:
    own = trunk.caller_id_first if side is A else trunk.caller_id_second
    number = wanted or own or trunk.caller_id or next(iter(trunk.pool), "")
    asserted = request.header("p-asserted-identity"), request.header("p-preferred-identity")
    name = address_uri(request.header("from")).removeprefix("sip:").partition("@")[0]
    assert not STRANGERS & {mention for mention in STRANGERS if mention in str(request.headers)}
    if not number:
        assert (name, asserted, request.header("privacy")) == ("anonymous", ("", ""), "")
        return
    assert number in trunk.pool
    assert name == ("anonymous" if trunk.privacy == "id" else number)
    assert request.header("privacy") == ("id" if trunk.privacy == "id" else "")
    told = [value.removeprefix("<sip:").partition("@")[0] for value in asserted]
    assert told == [number if trunk.identity == header else "" for header in ("pai", "ppi")]
