"""The DNS shell against a server on loopback that fails as servers do."""

import asyncio
from pathlib import Path

import dns.rcode
import pytest

from dosvoces.carriers import dns as shell
from dosvoces.sip.api import Hop
from dosvoces.sip.resolve import Answer, Naptr, Query, ResolveError, Srv, Target, ordered
from tests.dns_server import DnsServer

NAME = "trunk.example"


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("A", "192.0.2.1", "192.0.2.1"),
        ("AAAA", "2001:db8::1", "2001:db8::1"),
        ("SRV", "10 20 5070 one.trunk.example.", Srv(10, 20, 5070, "one.trunk.example")),
        (
            "NAPTR",
            '10 20 "s" "SIP+D2U" "" _sip._udp.trunk.example.',
            Naptr(10, 20, "s", "SIP+D2U", "_sip._udp.trunk.example"),
        ),
    ],
)
async def test_a_record_is_read(kind: str, text: str, expected: str | Srv | Naptr) -> None:
    async with DnsServer.open() as server:
        server.add(NAME, kind, text)
        assert await server.dns.ask(Query(NAME, kind)) == Answer((expected,), 60)


async def test_no_such_name_and_no_such_record_are_no_failures() -> None:
    async with DnsServer.open() as server:
        server.add(NAME, "A", "192.0.2.1")
        assert await server.dns.ask(Query(NAME, "SRV")) == Answer()
        assert await server.dns.ask(Query("other.example", "A")) == Answer()


async def test_servfail_is_told() -> None:
    async with DnsServer.open() as server:
        server.rcode = dns.rcode.SERVFAIL
        assert await server.dns.ask(Query(NAME, "A")) == Answer(failure="the DNS answered SERVFAIL")


async def test_silence_ends_at_its_limit_and_blocks_nobody() -> None:
    async with DnsServer.open() as server:
        server.silent = True
        asking = asyncio.create_task(server.dns.ask(Query(NAME, "A")))
        turns = 0
        while not asking.done():
            await asyncio.sleep(0.01)
            turns += 1
        assert asking.result() == Answer(failure="the DNS gave no answer within 0.5 s")
        assert turns > 20


async def test_no_server_at_all_is_a_failure_in_words() -> None:
    answer = await shell.Dns([("127.0.0.1", 9)], lifetime_s=0.5).ask(Query(NAME, "A"))
    assert answer.failure


@pytest.mark.parametrize("name", ["", "a..b", "x" * 70 + ".example", "señor..", "\x00"])
async def test_a_name_that_can_t_be_is_a_failure_and_no_fault(name: str) -> None:
    async with DnsServer.open() as server:
        answer = await server.dns.ask(Query(name, "A"))
        assert answer.records == ()


async def test_the_hosts_file_is_honoured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("# ours\n192.0.2.8 pbx PBX.example # the old one\n2001:db8::8\tpbx\n\n")
    monkeypatch.setattr(shell, "HOSTS", hosts)
    async with DnsServer.open() as server:
        assert await server.dns.ask(Query("pbx", "A")) == Answer(("192.0.2.8",), 60)
        assert await server.dns.ask(Query("pbx", "AAAA")) == Answer(("2001:db8::8",), 60)
        assert await server.dns.ask(Query("pbx.EXAMPLE", "A")) == Answer(("192.0.2.8",), 60)
        assert server.asked == []


async def test_a_trunk_is_found_from_naptr_to_address() -> None:
    async with DnsServer.open() as server:
        server.add(NAME, "NAPTR", '10 20 "s" "SIP+D2U" "" _sip._udp.trunk.example.')
        server.add("_sip._udp.trunk.example", "SRV", "2 0 5072 two.trunk.example.", "1 0 5071 one.trunk.example.")
        server.add("one.trunk.example", "A", "192.0.2.1")
        server.add("two.trunk.example", "A", "192.0.2.2")
        located = await server.dns.locate(Target(NAME), transports=("udp",), families=("A",))
    expected = (Hop("192.0.2.1", 5071, "udp", NAME), Hop("192.0.2.2", 5072, "udp", NAME))
    assert (ordered(located.places, lambda most: most), located.ttl_s) == (expected, 60)


async def test_a_trunk_that_is_not_there_is_told() -> None:
    async with DnsServer.open() as server:
        with pytest.raises(ResolveError, match=r"^trunk\.example has no address$"):
            await server.dns.locate(Target(NAME), transports=("udp",), families=("A",))
