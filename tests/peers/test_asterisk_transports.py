"""Asterisk 22 by TCP and TLS: one connection serves all calls, and its own hang-ups come by it."""

from pathlib import Path

import pytest

from dosvoces.model import Side
from tests.certificates import Authority
from tests.house import house
from tests.peers.asterisk import Asterisk
from tests.peers.sipp import HOST
from tests.peers.test_asterisk import ECHO, RING_S, TALK_S, TONE, Street

BUSY, HANGS_UP = "603", "612"


@pytest.mark.parametrize("transport", ["tcp", "tls"])
async def test_calls_by_one_connection(tmp_path: Path, transport: str) -> None:
    """We show no certificate, so that Asterisk has no other way to us than the connection that we opened."""
    authority = Authority(tmp_path)
    files = authority.certificate(HOST)
    async with Asterisk.start(tmp_path, certificate=files.certificate, key=files.key) as carrier:
        port = carrier.tls_port if transport == "tls" else carrier.sip_port
        async with house(
            tmp_path,
            trunks=(carrier.trunk(proxy=f"sip:{HOST}:{port};transport={transport}"),),
            sip={"bind": f"{HOST}:0", "tls_ca_file": authority.ca_file, "tls_port": 0},
            dialing={"ring_timeout_s": RING_S, "talk_limit_s": TALK_S},
            media={"silence_s": 2},
        ) as running:
            made = await Street(carrier, running).connect_all([(TONE, ECHO), (TONE, HANGS_UP), (BUSY, ECHO)])
            assert running.service.carrier.agent.connections == 1  # type: ignore[attr-defined]
        await carrier.quiet()
    assert [(one.record.outcome, one.record.ended_by) for one in made] == [
        ("completed", "timer"),
        ("completed", "b"),
        ("first_busy", "a"),
    ]
    assert made[0].speaks_all_the_time(Side.A)
    assert made[0].speaks_all_the_time(Side.B)
