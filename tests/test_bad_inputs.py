"""
The lines of `data/bad_inputs.jsonl`, sent to the real HTTP server: those of the default profile once to the door alone
and once to the whole service, those of a broken environment to a service that has it.
"""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email import message_from_bytes, policy
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest
import pytest_asyncio

from dosvoces.carriers.fake import FakeCarrier, Script
from dosvoces.clock import utc_now
from dosvoces.keys import Scope, digest_of, id_of
from dosvoces.mail.inbox import read_mail
from dosvoces.model import EndReason, Side
from dosvoces.store.sql import open_keys
from dosvoces.web.server import HttpServer
from tests.house import HOST, House, house
from tests.keys import make_key
from tests.peers.smtp_server import FaultySmtp, Received, Reply, Stall
from tests.peers.smtp_server import Script as SmtpScript
from tests.web_fakes import FakeConnector, app_with

Line = dict[str, Any]

LINES: list[Line] = [
    json.loads(line) for line in (Path(__file__).parent / "data" / "bad_inputs.jsonl").read_text("utf-8").splitlines()
]
DEFAULT = [line for line in LINES if "profile" not in line]


class Service(Protocol):
    """A running service with something countable at both its ends."""

    @property
    def url(self) -> str:
        """Where it listens."""

    def dials(self) -> int:
        """Calls that were placed so far."""

    def mails(self) -> int:
        """Mails that were accepted so far."""

    def last_mail(self) -> Received | None:
        """The mail that was accepted last, where mails can be looked at."""


@dataclass
class DoorOnly:
    """The HTTP server in front of a connector that counts."""

    url: str
    connector: FakeConnector

    def dials(self) -> int:
        return self.connector.dials

    def mails(self) -> int:
        return self.connector.mails

    def last_mail(self) -> Received | None:
        return None


@dataclass
class Whole:
    """The whole service, with a real mail server and a scripted carrier."""

    house: House
    server: FaultySmtp
    carrier: FakeCarrier

    @property
    def url(self) -> str:
        return self.house.service.http_url

    def dials(self) -> int:
        return len(self.carrier.dialed)

    def mails(self) -> int:
        return len(self.server.received)

    def last_mail(self) -> Received | None:
        return self.server.received[-1]


@asynccontextmanager
async def door_only() -> AsyncIterator[DoorOnly]:
    connector = FakeConnector()
    server = HttpServer(app_with(connector), host=HOST, port=0)
    await server.start()
    yield DoorOnly(f"http://{HOST}:{server.address[1]}", connector)
    await server.stop()


@asynccontextmanager
async def whole(
    folder: Path, environment: "Environment", wall: Callable[[], datetime] = utc_now, **sections: dict[str, object]
) -> AsyncIterator[Whole]:
    carrier = FakeCarrier(lambda call: environment.first if call.side is Side.A else environment.second)
    async with FaultySmtp(environment.smtp) as server:
        mail: dict[str, object] = {
            "url": f"smtp://{HOST}:{server.port}?tls=none",
            "from": "Dosvoces <leads@example.com>",
            "timeout_s": environment.mail_timeout_s,
        }
        dialing: dict[str, object] = {"max_connections": environment.max_connections}
        sections = {"dialing": dialing, **sections, "mail": {**mail, **sections.get("mail", {})}}
        async with house(folder, phone=None, carrier=carrier, trunks=[OWN], wall=wall, **sections) as running:
            yield Whole(running, server, carrier)


OWN: dict[str, object] = {"name": "scripted", "carrier": "fake", "caller_id": "+34960000000"}
"""The trunk whose number is ours, as `web_fakes.RULES` has it."""

UP, LEAVES = Script(), Script(hangs_up_after_s=0.0)


@dataclass(frozen=True)
class Environment:
    """What a service has around it."""

    smtp: SmtpScript = field(default_factory=dict)
    first: Script = UP
    second: Script = LEAVES
    max_connections: int = 100
    mail_timeout_s: float = 10.0


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["door", "whole"])
async def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    if request.param == "door":
        async with door_only() as door:
            yield door
    else:
        async with whole(tmp_path_factory.mktemp("whole"), Environment()) as running:
            yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=service.url, timeout=60) as client:
        yield client


def body_of(line: Line) -> bytes | None:
    if "json" in line:
        return json.dumps(line["json"]).encode()
    if "raw_body" in line:
        return str(line["raw_body"]).encode()
    if "raw_body_b64" in line:
        return base64.b64decode(line["raw_body_b64"])
    if (gen := line.get("raw_body_gen")) is not None:
        count = gen["count"]
        units = "".join(gen["unit"].replace("{i}", str(i)) for i in range(count))
        return (
            f"{gen['prefix']}{units}{gen.get('middle', '')}{gen.get('tail_unit', '') * count}{gen['suffix']}".encode()
        )
    return None


async def in_chunks(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 8192):
        yield body[start : start + 8192]


async def send(client: httpx.AsyncClient, line: Line) -> httpx.Response:
    """Until it is heard: while the machine has no time, the door says so, and nothing was done."""
    body = body_of(line)
    for _ in range(20):
        content = in_chunks(body) if body is not None and line.get("chunked") else body
        response = await client.request(
            line.get("method", "POST"), line.get("path", "/call"), content=content, headers=line["headers"]
        )
        if "Too many requests at once" not in response.text:
            break
        await asyncio.sleep(0.5)
    return response


def test_the_file_is_whole() -> None:
    assert (len(LINES), len(DEFAULT)) == (270, 246)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("line", DEFAULT, ids=lambda line: str(line["name"]))
async def test_line_gets_what_it_wants(service: Service, client: httpx.AsyncClient, line: Line) -> None:
    for earlier in line.get("pre", []):
        assert (await send(client, earlier)).status_code == 200
    dials, mails = service.dials(), service.mails()
    if "want_min_seconds" in line and isinstance(service, Whole):
        return await assert_waits(service, client, line)
    response = await send(client, line)

    assert_answered(response, line)
    assert (service.dials() - dials, service.mails() - mails) == (line["want_dials"], line["want_mails"])
    if "assert_mail" in line and (mail := service.last_mail()) is not None:
        assert_mailed(mail, **line["assert_mail"])


def assert_answered(response: httpx.Response, line: Line) -> None:
    assert response.status_code in (line["want_status"], *line.get("ok_status", [])), response.text
    assert line["want_contains"] in response.text
    if "want_error" in line:
        errors = [f"{error['field']}.{error['code']}" for error in response.json()["Errors"]]
        assert line["want_error"] in errors
    for name, value in line.get("want_header", {}).items():
        assert value in ("", response.headers[name])  # An empty one has only to be there.
    for name in line.get("absent_header", []):
        assert name not in response.headers
    if "want_max_seconds" in line:
        assert response.elapsed.total_seconds() <= line["want_max_seconds"]


def assert_mailed(
    received: Received,
    *,
    body_contains: str = "",
    html_not_contains: str = "",
    no_header: str = "",
    rcpt_count: int = 1,
) -> None:
    mail, headers = read_mail(received.content), message_from_bytes(received.content, policy=policy.default)
    assert body_contains in mail.text
    assert not html_not_contains or html_not_contains not in mail.html
    assert not no_header or no_header not in headers
    assert len(received.recipients) == len(headers["To"].addresses) == rcpt_count


async def assert_waits(service: Whole, client: httpx.AsyncClient, line: Line) -> None:
    """The wait is as long as was asked for; this test doesn't sit it out, but ends it."""
    posting = asyncio.create_task(send(client, line))
    record = await service.house.journalled("answered")
    (first,) = [leg for leg in record.legs if leg.side is Side.A]
    due = await service.house.deadline(record.id)
    assert (record.phase, record.interval_s) == ("waiting", line["want_min_seconds"])
    assert first.dialed_at is not None
    assert due == first.dialed_at + timedelta(seconds=line["want_min_seconds"])
    assert [call.side for call in service.carrier.dialed[-1:]] == [Side.A]
    assert service.house.service.switchboard.cancel(record.id, by="test")
    assert (await posting).status_code == 500


# --- broken environments ---

ENVIRONMENTS = {
    "smtp_550": Environment({"rcpt": Reply("550 5.1.1 nobody of that name")}),
    "smtp_421": Environment({"banner": Reply("421 4.3.2 busy")}),
    "smtp_stall_banner": Environment({"banner": Stall()}, mail_timeout_s=0.3),
    "smtp_stall_dot": Environment({"dot": Stall()}, mail_timeout_s=0.3),
    "trunk_down": Environment(first=Script(unreachable=True)),
    "first_486": Environment(first=Script(None, fails_after_s=0.0, reason=EndReason.BUSY)),
    "second_404": Environment(second=Script(None, fails_after_s=0.0, reason=EndReason.UNREACHABLE)),
    "overload": Environment(first=Script(answers_after_s=None), max_connections=1),
}
OUTCOMES = {
    **dict.fromkeys(("smtp_550", "smtp_421", "smtp_stall_banner", "smtp_stall_dot"), "mail_failed"),
    "trunk_down": "first_failed",
    "first_486": "first_busy",
    "second_404": "second_failed",
}
BROKEN = [line for line in LINES if line.get("profile") in ENVIRONMENTS]


def test_each_environment_has_its_line() -> None:
    assert sorted(line["profile"] for line in BROKEN) == sorted(ENVIRONMENTS)


@pytest.mark.parametrize("line", BROKEN, ids=lambda line: str(line["name"]))
async def test_a_broken_environment_gets_a_clear_answer(tmp_path: Path, line: Line) -> None:
    async with (
        whole(tmp_path, ENVIRONMENTS[line["profile"]]) as service,
        httpx.AsyncClient(base_url=service.url, timeout=20) as client,
    ):
        occupying = asyncio.create_task(send(client, line)) if line["profile"] == "overload" else None
        if occupying is not None:
            await service.house.journalled("ringing")
        dials, mails = service.dials(), service.mails()
        response = await send(client, line)
        if occupying is not None:
            service.carrier.hangup(service.carrier.live_legs[0])
            await occupying
        assert_answered(response, line)
        assert service.dials() - dials == line["want_dials"]
        assert str(service.mails() - mails) in str(line["want_mails"]).split(" or ")
        if response.status_code == 500:
            record = await service.house.over(response)
            assert record.outcome == OUTCOMES[line["profile"]]
        assert service.carrier.live_legs == []


# --- who may come in ---

DOOR = [line for line in LINES if line.get("profile") in ("auth_on", "ip_allow", "mail_allow")]


PROFILES: dict[str, dict[str, dict[str, object]]] = {
    "auth_on": {},  # On because there are keys.
    "ip_allow": {"http": {"allow": ["10.0.0.0/8"]}},
    "mail_allow": {"mail": {"recipient_domains": ["milmoh.com"]}},
}


async def test_nobody_is_called_at_a_quiet_hour(tmp_path: Path) -> None:
    (line,) = [line for line in LINES if line.get("profile") == "quiet_hours_es"]
    numbers: dict[str, object] = {"calling_hours": ["ES mon-fri 09:00-21:00"]}
    wall = partial(datetime.fromisoformat, line["clock"])
    async with (
        whole(tmp_path, Environment(), wall=wall, numbers=numbers) as service,
        httpx.AsyncClient(base_url=service.url, timeout=20) as client,
    ):
        response = await send(client, line)
        assert_answered(response, line)
        assert "2026-11-23T09:00+00:00" in response.text  # In Madrid 10:00: a mobile may be on the Canaries.
        assert (service.dials(), service.mails()) == (line["want_dials"], line["want_mails"])


def test_each_line_about_the_door_is_there() -> None:
    assert len(DOOR) == 8


async def keys_in(running: Whole) -> dict[str, str]:
    """Real keys for those that the lines name."""
    keys = open_keys(running.house.service.settings.database.address)
    try:
        made = {
            "TESTKEY": await make_key(keys, "test"),
            "READKEY": await make_key(keys, "read", Scope.READ),
            "REVOKEDKEY": await make_key(keys, "revoked"),
        }
        assert await keys.revoke(id_of(digest_of(made["REVOKEDKEY"])), by="test")
    finally:
        await keys.close()
    return made


@pytest.mark.parametrize("line", DOOR, ids=lambda line: str(line["name"]))
async def test_who_may_not_come_in_calls_nobody(tmp_path: Path, line: Line) -> None:
    sections: dict[str, dict[str, object]] = PROFILES[line["profile"]]
    async with (
        whole(tmp_path, Environment(), utc_now, **sections) as service,
        httpx.AsyncClient(base_url=service.url, timeout=20) as client,
    ):
        text = json.dumps(line)
        keys = await keys_in(service) if line["profile"] == "auth_on" else {}
        for name, key in keys.items():
            text = text.replace(f"Bearer {name}", f"Bearer {key}").replace(f'"{name}"', f'"{key}"')
        response = await send(client, json.loads(text))
        assert_answered(response, line)
        assert (service.dials(), service.mails()) == (line["want_dials"], line["want_mails"])
