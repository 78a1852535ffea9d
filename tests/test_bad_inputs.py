"""Every line of `data/bad_inputs.jsonl` whose profile is the default one, through the real HTTP server."""

import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest
import pytest_asyncio

from dosvoces.web.server import HttpServer
from tests.web_fakes import FakeConnector, app_with

Line = dict[str, Any]

LINES: list[Line] = [
    json.loads(line) for line in (Path(__file__).parent / "data" / "bad_inputs.jsonl").read_text("utf-8").splitlines()
]
DEFAULT = [line for line in LINES if "profile" not in line]


class Service(Protocol):
    """A running service with something countable at both its ends."""

    url: str

    def dials(self) -> int:
        """Calls that were placed so far."""

    def mails(self) -> int:
        """Mails that were accepted so far."""

    def skips_waiting(self) -> bool:
        """Whether `call_interval` passes on a clock of the test's, not on the wall's."""


@dataclass
class DoorOnly:
    """The HTTP server in front of a connector that counts."""

    url: str
    connector: FakeConnector

    def dials(self) -> int:
        return self.connector.dials

    def mails(self) -> int:
        return self.connector.mails

    def skips_waiting(self) -> bool:
        return True


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service() -> AsyncIterator[Service]:
    connector = FakeConnector()
    server = HttpServer(app_with(connector), host="127.0.0.1", port=0)
    await server.start()
    yield DoorOnly(f"http://127.0.0.1:{server.address[1]}", connector)
    await server.stop()


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
    body = body_of(line)
    content = in_chunks(body) if body is not None and line.get("chunked") else body
    return await client.request(
        line.get("method", "POST"), line.get("path", "/call"), content=content, headers=line["headers"]
    )


def test_the_file_is_whole() -> None:
    assert (len(LINES), len(DEFAULT)) == (270, 246)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("line", DEFAULT, ids=lambda line: str(line["name"]))
async def test_line_gets_what_it_wants(service: Service, client: httpx.AsyncClient, line: Line) -> None:
    for earlier in line.get("pre", []):
        assert (await send(client, earlier)).status_code == 200
    dials, mails = service.dials(), service.mails()
    response = await send(client, line)

    assert response.status_code in (line["want_status"], *line.get("ok_status", [])), response.text
    assert line["want_contains"] in response.text
    if "want_error" in line:
        errors = [f"{error['field']}.{error['code']}" for error in response.json()["Errors"]]
        assert line["want_error"] in errors
    for name, value in line.get("want_header", {}).items():
        assert response.headers[name] == value
    for name in line.get("absent_header", []):
        assert name not in response.headers
    if "want_min_seconds" in line and not service.skips_waiting():
        assert response.elapsed.total_seconds() >= line["want_min_seconds"]
    assert (service.dials() - dials, service.mails() - mails) == (line["want_dials"], line["want_mails"])
