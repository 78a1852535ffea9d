"""STUN's bytes, with the RFC's own example, and the public address that is learned with it."""

import asyncio
import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dosvoces.sip import agent as agent_module
from dosvoces.sip import stun
from dosvoces.sip.agent import Agent
from dosvoces.sip.api import Address
from dosvoces.sip.stun import StunError, binding_request, mapped_address, transaction_of
from tests.stun_server import ID, StunServer, answer, xored

HOST = "127.0.0.1"
# RFC 5769 §2.2 and §2.3, sample answers over IPv4 and IPv6.
IPV4 = bytes.fromhex(
    "0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000080001a147e112a643"
    "000800142b91f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96"
)
IPV6 = bytes.fromhex(
    "010100482112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000140002a147"
    "0113a9faa5d3f179bc25f4b5bed2b9d900080014a382954e4be67bf11784c97c8292c275bfe3ed4180280004c8fb0b4c"
)


def without_integrity(sample: bytes) -> bytes:
    """The samples are signed with a password, which we have none of: RFC 8489 §9 makes that attribute unknown to us."""
    start = sample.index(bytes.fromhex("00080014"))
    body = sample[20:start]
    return sample[:2] + struct.pack("!H", len(body)) + sample[4:20] + body


def test_the_question() -> None:
    assert binding_request(ID) == bytes.fromhex("000100002112a442") + ID


def test_the_samples_of_rfc_5769() -> None:
    assert transaction_of(IPV4) == transaction_of(IPV6) == ID
    assert mapped_address(without_integrity(IPV4)) == ("192.0.2.1", 32853)
    assert mapped_address(without_integrity(IPV6)) == ("2001:db8:1234:5678:11:2233:4455:6677", 32853)
    with pytest.raises(StunError, match="attribute 0x0008"):
        mapped_address(IPV4)


def test_a_server_of_rfc_3489() -> None:
    assert mapped_address(answer((1, bytes([0, 1, 0x13, 0xC4, 203, 0, 113, 7])))) == ("203.0.113.7", 5060)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (answer(), "without an address"),
        (answer((0x20, b"")), "no known family"),
        (answer((0x20, bytes([0, 3, 1, 1, 1, 1, 1, 1]))), "no known family"),
        (answer((0x20, xored(bytes(4), 5060))), "nobody's address"),
        (answer((0x20, xored(bytes([224, 0, 0, 1]), 5060))), "nobody's address"),
        (answer((0x20, xored(bytes([203, 0, 113, 7]), 0))), "nobody's address"),
        (answer()[:2] + b"\x00\x04" + answer()[4:] + b"\x00\x20\x00\x08", "cut short"),
        (answer((9, bytes([0, 0, 4, 20]) + b"Unknown \x01Attribute"), kind=0x0111), "^420 Unknown Attribute$"),
        (answer((9, b""), kind=0x0111), "^an error$"),
    ],
)
def test_answers_that_say_nothing(data: bytes, why: str) -> None:
    with pytest.raises(StunError, match=why):
        mapped_address(data)


@given(st.one_of(st.binary(max_size=80), st.binary(max_size=60).map(lambda tail: answer((0x20, tail)))))
def test_nothing_else_is_raised(data: bytes) -> None:
    if transaction_of(data) is not None:
        with contextlib.suppress(StunError):
            mapped_address(data)


async def test_the_agent_learns_its_public_address_and_notices_a_change() -> None:
    told: asyncio.Queue[Address] = asyncio.Queue()
    async with StunServer.open() as server:
        agent = await Agent.open(bind=(HOST, 0))
        public = agent.learn_public_address(server.address, told.put_nowait, interval_s=0.02)
        assert await public.first(5) == ("203.0.113.7", 40_000)
        assert (agent.advertised, server.from_port, public.problem) == (("203.0.113.7", 40_000), agent.local[1], "")
        server.says = ("203.0.113.8", 40_001)
        assert [await asyncio.wait_for(told.get(), 5) for _ in range(2)] == [
            ("203.0.113.7", 40_000),
            ("203.0.113.8", 40_001),
        ]
        assert agent.advertised == ("203.0.113.8", 40_001)
        await agent.close()


async def test_a_silent_server_leaves_the_address_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stun, "RETRIES_S", (0.01, 0.01))
    async with StunServer.open() as server:
        server.says = None
        agent = await Agent.open(bind=(HOST, 0))
        before = agent.advertised
        public = agent.learn_public_address(server.address, lambda address: None)
        assert await public.first(5) is None
        assert (agent.advertised, public.problem) == (before, "no answer")
        await agent.close()


async def test_a_server_that_has_no_address() -> None:
    agent = await Agent.open(bind=(HOST, 0))
    public = agent.learn_public_address(("no-such-host.invalid", 3478), lambda address: None)
    assert await public.first(5) is None
    assert public.problem not in ("", "no answer yet")
    await agent.close()


async def test_a_server_whose_name_is_no_longer_found_is_asked_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    async with StunServer.open() as server:
        agent = await Agent.open(bind=(HOST, 0))
        public = agent.learn_public_address(("localhost", server.address[1]), lambda address: None, interval_s=0.02)
        assert await public.first(5) == ("203.0.113.7", 40_000)

        async def not_found(host: str, port: int, family: int) -> Address:
            raise OSError("Temporary failure in name resolution")

        monkeypatch.setattr(agent_module, "_resolve", not_found)
        for _ in range(3):
            server.asked.clear()
            await asyncio.wait_for(server.asked.wait(), 5)
        assert public.problem == ""
        await agent.close()
