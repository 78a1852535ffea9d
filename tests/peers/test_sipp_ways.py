"""
Several ways to one number, with SIPp as the trunks: moved on only when nobody can have been rung.

The first trunk misbehaves; the second one answers; party B has a trunk of its own and hangs up.
"""

import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from dosvoces.model import Side
from dosvoces.settings import Settings
from tests.peers.sipp import HOST, SippPhone, free_ports
from tests.peers.trial import PREFIXES, Trial, open_service, settings_values


class WaysTrial(Trial):
    """Two trunks to A, one to B."""

    second: SippPhone
    b: SippPhone

    def told(self, side: Side = Side.A) -> list[str]:
        """The events of a leg in order."""
        (journal,) = self.journals.values()
        names = ("dialed", "ringing", "answered", "unreached", "ended")
        return [entry.event for entry in journal if entry.side is side and entry.event in names]


@asynccontextmanager
async def ways(folder: Path, first_port: int, *, moved: bool, **dialing: float) -> AsyncIterator[WaysTrial]:
    """`moved`: whether A is to be reached by the second trunk; otherwise nobody may ring there, nor at B."""
    async with AsyncExitStack() as stack:
        calls = 1 if moved else 0
        second = await stack.enter_async_context(SippPhone.start(folder, "answer", name="second", calls=calls))
        b = await stack.enter_async_context(SippPhone.start(folder, "hang_up", name="b", calls=calls))
        values = settings_values(folder, {Side.A: first_port, Side.B: b.port}, dialing=dialing)
        to_a, to_b = values["trunks"]
        spare = {**to_a, "name": "second", "proxy": f"sip:{HOST}:{second.port};transport=udp"}
        values["trunks"] = [{**to_a, "name": "first"}, spare, to_b]
        assert to_a["prefixes"] == [PREFIXES[Side.A]]
        async with open_service(Settings.model_validate(values)) as (service, client):
            running = WaysTrial(service, client)
            running.second, running.b = second, b
            yield running
            await running.over()
        for phone in (second, b):
            await phone.finished()


@contextmanager
def silent_port() -> Iterator[socket.socket]:
    """A port where somebody listens and nobody speaks."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind((HOST, 0))
        listener.setblocking(False)
        yield listener


def datagrams(listener: socket.socket) -> list[str]:
    """The first words of all that came."""
    found = []
    while True:
        try:
            found.append(listener.recv(65_535).split(b" ", 1)[0].decode())
        except BlockingIOError:
            return found


MOVED = ["dialed", "unreached", "dialed", "ringing", "answered", "ended"]


@pytest.mark.parametrize(
    ("scenario", "status"),
    [
        ("reject", "503 Service Unavailable"),
        ("reject_at_once", "503 Service Unavailable"),
        ("reject", "500 Server Internal Error"),
        ("reject_at_once", "408 Request Timeout"),
    ],
)
async def test_a_trunk_that_can_t_take_the_call_is_passed_by(tmp_path: Path, scenario: str, status: str) -> None:
    async with SippPhone.start(tmp_path, scenario, name="first", status=status) as first:
        async with ways(tmp_path, first.port, moved=True) as t:
            assert (await t.post()).status_code == 200
        await first.finished()
    assert (t.outcome, t.told()) == ("completed", MOVED)
    (unreached,) = t.entries("unreached")
    assert unreached.facts == {"way": f"first {HOST}:{first.port}/udp", "detail": status}
    assert [entry.facts["via"] for entry in t.entries("dialed", Side.A)] == [
        f"first {HOST}:{first.port}/udp",
        f"second {HOST}:{t.second.port}/udp",
    ]
    # At once: the second trunk has its INVITE within 100 ms of the first one's refusal.
    refusal = next(m for m in first.messages if m.sent and m.status == int(status[:3]))
    assert t.second.received("INVITE")[0].at - refusal.at < 0.1
    assert len(first.received("INVITE")) == len(t.second.received("INVITE")) == 1


async def test_a_trunk_where_nobody_listens_is_passed_by_at_once(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    async with ways(tmp_path, port, moved=True) as t:
        begin = time.time()
        assert (await t.post()).status_code == 200
    assert (t.outcome, t.told()) == ("completed", MOVED)
    assert t.second.received("INVITE")[0].at - begin < 0.5
    first, second = (entry.at for entry in t.entries("dialed", Side.A))
    assert (second - first).total_seconds() < 0.1


async def test_a_silent_trunk_is_passed_by_after_its_time(tmp_path: Path) -> None:
    with silent_port() as listener:
        async with ways(tmp_path, listener.getsockname()[1], moved=True, trunk_timeout_s=1) as t:
            assert (await t.post()).status_code == 200
        sent = datagrams(listener)
    assert (t.outcome, t.told()) == ("completed", MOVED)
    first, second = (entry.at for entry in t.entries("dialed", Side.A))
    assert 1.0 <= (second - first).total_seconds() < 1.3
    # After the give-up its INVITE isn't repeated any more; the CANCEL is, as its phone may ring.
    assert sent[:3] == ["INVITE", "INVITE", "CANCEL"]
    assert set(sent[3:]) <= {"CANCEL"}


async def test_a_phone_that_rings_unheard_is_cancelled_when_it_is_given_up(tmp_path: Path) -> None:
    async with SippPhone.start(tmp_path, "says_nothing", name="first") as first:
        async with ways(tmp_path, first.port, moved=True, trunk_timeout_s=1) as t:
            assert (await t.post()).status_code == 200
            await first.finished()
    assert (t.outcome, t.told()) == ("completed", MOVED)
    assert len(first.received("CANCEL")) == 1


@pytest.mark.parametrize(
    ("scenario", "status", "outcome"),
    [
        ("reject", "486 Busy Here", "first_busy"),
        ("reject", "600 Busy Everywhere", "first_busy"),
        ("reject", "603 Decline", "first_failed"),
        ("reject", "480 Temporarily Unavailable", "first_no_answer"),
        ("reject", "404 Not Found", "first_failed"),
        ("reject", "403 Forbidden", "first_failed"),
        ("reject", "302 Moved Temporarily", "first_failed"),
        ("reject", "408 Request Timeout", "first_no_answer"),
        ("ring_then_reject", "500 Server Internal Error", "first_failed"),
        ("ring_then_reject", "503 Service Unavailable", "first_failed"),
        ("ring_then_reject", "408 Request Timeout", "first_no_answer"),
    ],
)
async def test_who_may_have_been_rung_is_not_dialed_elsewhere(
    tmp_path: Path, scenario: str, status: str, outcome: str
) -> None:
    async with SippPhone.start(tmp_path, scenario, name="first", status=status) as first:
        async with ways(tmp_path, first.port, moved=False) as t:
            assert (await t.post()).status_code == 500
        await first.finished()
    assert (t.outcome, t.told()[-1], t.told().count("dialed")) == (outcome, "ended", 1)


async def test_a_trunk_that_asks_for_rest_gets_it(tmp_path: Path) -> None:
    """RFC 3261 §20.33. The next call would take the second trunk right away."""
    status, reason = "503 Service Unavailable", "Retry-After: 30 (overload)"
    async with SippPhone.start(tmp_path, "reject", name="first", status=status, reason=reason) as first:
        async with ways(tmp_path, first.port, moved=True) as t:
            assert (await t.post()).status_code == 200
            warnings = t.service.warnings()
        await first.finished()
    assert t.told() == MOVED
    assert warnings == [f"trunk first is down ({HOST}:{first.port}/udp: 503, Retry-After 30 s)"]


async def test_no_trunk_left_is_told_before_anything_is_done(tmp_path: Path) -> None:
    """Two dead trunks: the first request finds out; when both circuits are open the next ones are refused at once."""
    async with ways(tmp_path, free_ports(1)[0], moved=False) as t:
        await t.second.unplug()
        codes = [(await t.post()).status_code for _ in range(3)]
        took_s = []
        for _ in range(3):
            begin = time.monotonic()
            refused = await t.post()
            took_s.append(time.monotonic() - begin)
        ready = await t.client.get("/readyz")
        mails = await t.service.store.mails()
    assert (codes, refused.status_code) == ([500, 500, 503], 503)
    assert refused.headers["retry-after"]
    assert "no trunk is up" in refused.json()["Message"]
    assert min(took_s) < 0.05  # the machine may be busy with others
    assert len(mails) == 2
    # The trunk of B is up, so that the service as a whole is.
    assert (ready.status_code, len(ready.json()["warnings"])) == (200, 2)
