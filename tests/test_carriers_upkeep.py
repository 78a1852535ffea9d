"""What is kept current of the trunks: their addresses, their answers, our registration, against servers on loopback."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import dns.rcode
import pytest

from dosvoces.carriers.dns import Dns
from dosvoces.carriers.trunks import Line, Trunk, Trunks
from dosvoces.carriers.upkeep import Times, Upkeep
from dosvoces.sip.agent import Agent
from dosvoces.sip.digest import Credentials
from dosvoces.testing import until
from tests.dns_server import DnsServer
from tests.trunk_server import HOST, TrunkServer

QUICK = Times(
    first_look_s=0.3,
    min_ttl_s=0.1,
    min_backoff_s=0.05,
    ping_limit_s=0.2,
    ping_again_s=0.02,
    register_limit_s=0.3,
    leave_limit_s=0.3,
)
NAME = "trunk.example"


@dataclass
class House:
    trunks: Trunks
    agent: Agent
    upkeep: Upkeep
    seen: list[tuple[str, int]] = field(default_factory=list)
    """Our address, as it was reported."""

    @property
    def line(self) -> Line:
        return self.trunks.lines[0]

    def problems(self) -> list[str]:
        return self.trunks.problems([], asyncio.get_running_loop().time())

    def hosts(self) -> list[str]:
        return [str(hop) for hop in self.line.hops(asyncio.get_running_loop().time())]

    async def up(self) -> None:
        async def fine() -> bool:
            return not self.problems()

        await until(fine)

    async def down(self) -> list[str]:
        async def amiss() -> bool:
            return bool(self.problems())

        await until(amiss)
        return self.problems()


@asynccontextmanager
async def house(*trunks: Trunk, resolver: Dns | None = None, follows: bool = False) -> AsyncIterator[House]:
    """`follows`: our Contact becomes what the registrar saw."""
    known = Trunks(trunks, lambda most: most)
    seen: list[tuple[str, int]] = []

    def on_public_address(_trunk: str, host: str, port: int) -> None:
        seen.append((host, port))
        if follows and agent.advertised != (host, port):
            agent.set_advertised(host, port)
            upkeep.renew()

    upkeep = Upkeep(
        known,
        resolver or Dns(),
        families=("A",),
        on_public_address=on_public_address,
        times=QUICK,
    )
    await upkeep.look()
    agent = await Agent.open(bind=(HOST, 0), peers=upkeep.hosts())
    try:
        await upkeep.start(agent)
        yield House(known, agent, upkeep, seen)
    finally:
        await upkeep.close()
        await agent.close()


# --- OPTIONS ---


async def test_unanswered_options_open_the_circuit_and_an_answer_closes_it() -> None:
    async with TrunkServer.open() as server, house(pinged(server)) as made:
        (first, *_more) = await server.came("OPTIONS", 2)
        assert first.uri == f"sip:{HOST}:{server.port}"
        assert made.problems() == []
        server.silent = True
        expected = f"trunk main is down ({HOST}:{server.port}/udp: no answer to OPTIONS)"
        assert await made.down() == ["no trunk is up", expected]
        server.silent = False
        await made.up()


@pytest.mark.parametrize("code", [401, 404, 405, 481, 500, 603])
async def test_any_answer_to_options_is_a_sign_of_life(code: int) -> None:
    async with TrunkServer.open() as server:
        server.options_code = code
        async with house(pinged(server)) as made:
            await server.came("OPTIONS", 4)
            assert made.problems() == []


async def test_a_trunk_that_says_503_to_options_is_down() -> None:
    async with TrunkServer.open() as server:
        server.options_code = 503
        async with house(pinged(server)) as made:
            assert await made.down() == ["no trunk is up", f"trunk main is down ({HOST}:{server.port}/udp: 503)"]
            server.options_code = 200
            await made.up()


async def test_a_port_where_nobody_listens_is_down_and_up_when_somebody_does() -> None:
    async with TrunkServer.open() as server:
        trunk = pinged(server)
    async with house(trunk) as made:
        await made.down()
        async with TrunkServer.open(trunk.port or 0):
            await made.up()


def pinged(server: TrunkServer) -> Trunk:
    return Trunk("main", HOST, server.port, options_interval_s=0.03)


# --- registration ---


def registering(server: TrunkServer, **more: object) -> Trunk:
    values: dict[str, object] = {"username": "us", "password": "secret", "register": True, **more}
    return Trunk("main", HOST, server.port, **values)  # type: ignore[arg-type]


async def test_it_is_registered_with_digest_when_the_start_returns() -> None:
    async with TrunkServer.open() as server:
        server.account = Credentials("us", "secret")
        async with house(registering(server)) as made:
            assert made.problems() == []
            first, second = server.of("REGISTER")
            contact = f"<sip:dosvoces@{HOST}:{made.agent.local[1]}>"
            assert first.uri == f"sip:{HOST}:{server.port}"
            assert second.header("to") == f"<sip:us@{HOST}:{server.port}>"
            assert server.bound == {contact: 600}
            assert made.seen == [("203.0.113.7", made.agent.local[1])]
        # We are gone, and said so.
        assert server.bound == {contact: 0}
        assert server.of("REGISTER")[-1].header("expires") == "0"


async def test_refreshes_keep_call_id_and_count_on() -> None:
    async with TrunkServer.open() as server:
        server.account = Credentials("us", "secret")
        server.grant_s = 1
        async with house(registering(server)) as made:
            requests = await server.came("REGISTER", 4)
            assert len({(request.header("call-id"), request.header("from")) for request in requests}) == 1
            counted = [request.cseq for request in requests]
            assert counted == list(range(counted[0], counted[0] + len(counted)))
            # Only the first was challenged: the nonce is used on.
            assert ["nc=" in request.header("authorization") for request in requests[:4]] == [False, True, True, True]
            assert made.problems() == []


async def test_too_brief_is_asked_for_longer() -> None:
    async with TrunkServer.open() as server:
        server.min_expires_s = 1800
        async with house(registering(server)) as made:
            assert made.problems() == []
            assert [request.header("expires") for request in server.of("REGISTER")] == ["600", "1800"]


async def test_a_contact_that_the_registrar_shows_to_be_another_is_registered_at_once() -> None:
    async with TrunkServer.open() as server, house(registering(server), follows=True) as made:
        first, second = await server.came("REGISTER", 2)
        await made.up()
        port = made.agent.local[1]
        assert (first.header("contact"), second.header("contact")) == (
            f"<sip:dosvoces@{HOST}:{port}>",
            f"<sip:dosvoces@203.0.113.7:{port}>",
        )
        assert server.bound == {f"<sip:dosvoces@203.0.113.7:{port}>": 600}


async def test_a_registrar_that_shows_another_contact_each_time_is_not_asked_without_end() -> None:
    """Once more at once, then with pauses: hundreds a second would have us barred."""
    async with TrunkServer.open() as server:
        shown = itertools.count(40_000)
        server.sees = lambda _port: next(shown)
        async with house(registering(server), follows=True) as made:
            await server.came("REGISTER", 2)
            await made.up()
            await asyncio.sleep(0.2)
            assert len(server.of("REGISTER")) == 2


async def test_a_wrong_password_is_told_and_not_tried_again_and_again() -> None:
    async with TrunkServer.open() as server:
        server.account = Credentials("us", "another")
        async with house(registering(server)) as made:
            assert made.problems() == ["no trunk is up", "trunk main is not registered: 401 said"]
            await asyncio.sleep(0.3)
            assert len(server.of("REGISTER")) == 2


async def test_a_lost_registration_is_noticed_and_regained() -> None:
    async with TrunkServer.open() as server:
        server.grant_s = 1
        async with house(registering(server)) as made:
            assert made.problems() == []
            server.silent = True
            assert await made.down() == ["no trunk is up", "trunk main is not registered: no answer"]
            server.silent = False
            await made.up()


async def test_several_trunks_register_at_once_and_one_that_fails_hurts_no_other() -> None:
    async with TrunkServer.open() as one, TrunkServer.open() as two:
        two.register_code = 403
        spare = Trunk("spare", HOST, two.port, username="us", register=True)
        async with house(registering(one), spare) as made:
            now = asyncio.get_running_loop().time()
            assert made.problems() == []
            assert made.trunks.warnings(now) == ["trunk spare is not registered: 403 said"]
        assert (len(one.of("REGISTER")), len(two.of("REGISTER"))) == (2, 1)


async def test_the_next_address_is_registered_at_when_the_first_is_dead() -> None:
    async with DnsServer.open() as zone, TrunkServer.open() as dead, TrunkServer.open() as alive:
        dead.silent = True
        srv(zone, dead, alive)
        trunk = Trunk("main", NAME, username="us", register=True, transport="udp")
        async with house(trunk, resolver=zone.dns) as made:
            await made.up()
            assert list(alive.bound.values()) == [600]
            assert dead.of("REGISTER")


# --- DNS ---


def srv(zone: DnsServer, *servers: TrunkServer) -> None:
    """The zone names the servers in this order."""
    texts = [f"{priority} 0 {server.port} host.{NAME}." for priority, server in enumerate(servers)]
    zone.add(f"_sip._udp.{NAME}", "SRV", *texts)
    zone.add(f"host.{NAME}", "A", HOST)


async def test_a_record_that_changes_is_followed_after_its_ttl() -> None:
    async with DnsServer.open() as zone:
        zone.ttl = 0  # held for `min_ttl_s` all the same
        zone.add(NAME, "A", "192.0.2.1")
        async with house(Trunk("main", NAME, 5060), resolver=zone.dns) as made:
            assert made.hosts() == ["192.0.2.1:5060/udp"]
            zone.add(NAME, "A", "192.0.2.2")

            async def followed() -> bool:
                return made.hosts() == ["192.0.2.2:5060/udp"]

            await until(followed)


@pytest.mark.parametrize("failure", ["NXDOMAIN", "SERVFAIL", "silence"])
async def test_what_the_dns_last_said_is_used_on_when_it_fails(failure: str) -> None:
    async with DnsServer.open() as zone:
        zone.ttl = 0
        zone.add(NAME, "A", "192.0.2.1")
        async with house(Trunk("main", NAME, 5060), resolver=zone.dns) as made:
            if failure == "NXDOMAIN":
                zone.records.clear()
            zone.rcode = dns.rcode.SERVFAIL if failure == "SERVFAIL" else None
            zone.silent = failure == "silence"

            async def noticed() -> bool:
                return bool(made.line.trouble)

            await until(noticed)
            assert (made.hosts(), made.problems()) == (["192.0.2.1:5060/udp"], [])
            zone.silent, zone.rcode = False, None
            zone.add(NAME, "A", "192.0.2.3")

            async def back() -> bool:
                return made.hosts() == ["192.0.2.3:5060/udp"]

            await until(back)
            assert made.line.trouble == ""


async def test_a_trunk_that_can_t_be_found_at_first_is_up_when_it_can() -> None:
    async with DnsServer.open() as zone:
        zone.silent = True
        began = asyncio.get_running_loop().time()
        async with house(Trunk("main", NAME, 5060), resolver=zone.dns) as made:
            assert asyncio.get_running_loop().time() - began < 1.0
            assert made.problems()[0] == "no trunk is up"
            zone.silent = False
            zone.add(NAME, "A", "192.0.2.1")
            await made.up()
