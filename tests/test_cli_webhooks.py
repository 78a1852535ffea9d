"""`dosvoces webhooks`, in a process of its own, and the receiver that the documentation shows."""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dosvoces.cli import main
from dosvoces.testing import until
from tests.house import LIMIT_S, Sections
from tests.ports import HOST, free_port
from tests.test_architecture import ROOT
from tests.test_deferred_kill import a_call_that_ends, serving
from tests.test_deferred_service import hook
from tests.webhook_receiver import SECRET, Answer, Receiver


def record_of(folder: Path) -> Sections:
    return {"url": f"sqlite:///{folder / 'record.db'}"}


async def test_what_was_told_and_what_waits_is_listed(tmp_path: Path) -> None:
    async with Receiver.open({"/crm": Answer(503)}) as receiver:
        hooks = [hook(receiver, "crm"), hook(receiver, "erp")]
        async with serving(tmp_path, record_of(tmp_path), hooks) as node:
            connection = await a_call_that_ends(node)
            await receiver.got(2)

            async def both_noted() -> bool:
                return sum('"webhook tried"' in line for line in node.lines) == 2

            await until(both_noted, limit_s=LIMIT_S)
            rows = json.loads(await node.command("webhooks", "list", "--json"))
            assert [(row["target"], row["state"], row["tries"] > 0, row["answer"]) for row in rows] == [
                ("webhook:crm", "waiting", True, "HTTP 503"),
                ("webhook:erp", "delivered", True, "HTTP 204"),
            ]
            waiting = (await node.command("webhooks", "list", "--waiting")).splitlines()
            assert len(waiting) == 2
            assert waiting[1].split()[:4] == [f"{connection}.1", "connection.ended", "crm", "waiting"]
            assert "HTTP 503; next 20" in waiting[1]


async def test_what_failed_is_told_once_more_and_a_disabled_webhook_enabled(tmp_path: Path) -> None:
    async with Receiver.open({"/crm": [Answer(410)]}) as receiver:
        async with serving(tmp_path, record_of(tmp_path), [hook(receiver, "crm")]) as node:
            connection = await a_call_that_ends(node)

            async def disabled() -> bool:
                (row,) = json.loads(await node.command("webhooks", "endpoints", "--json"))
                return row["disabled_at"] is not None

            await until(disabled, limit_s=LIMIT_S)
            shown = await node.command("webhooks", "endpoints")
            assert shown.split()[:3] == ["crm", receiver.url("/crm"), "DISABLED"]
            assert shown.endswith(": HTTP 410\n")
            assert await node.command("webhooks", "enable", "crm") == "crm is told again\n"
            assert await node.command("webhooks", "enable", "crm") == "crm was not disabled\n"
            replay = ("webhooks", "replay", "--failed-since", "2020-01-01")
            assert await node.command(*replay, "--endpoint", "crm") == "1 to be told again\n"
            first, second = await receiver.got(2)
            assert first.id == second.id == f"{connection}.1"
            assert first.body == second.body

            async def delivered() -> bool:
                (row,) = json.loads(await node.command("webhooks", "list", "--json"))
                return (row["webhook_id"], row["state"]) == (first.id, "delivered")

            await until(delivered, limit_s=LIMIT_S)
            assert await node.command("webhooks", "replay", first.id) == "1 to be told again\n"
            await receiver.got(3)


async def test_a_trial_message_is_signed(tmp_path: Path) -> None:
    async with Receiver.open() as receiver:
        async with serving(tmp_path, record_of(tmp_path), [hook(receiver)]) as node:
            said = await node.command("webhooks", "test")
            assert said == f"{receiver.url('/main')}: taken: HTTP 204\n"
            (message,) = receiver.received
            assert message.verify()["type"] == "test"


@asynccontextmanager
async def documented_receiver(port: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """The ten lines of docs/howto/webhooks.md, on another port."""
    page = (ROOT / "docs" / "howto" / "webhooks.md").read_text("utf-8")
    found = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert found is not None
    assert SECRET in found[1]
    assert sum(bool(line.strip()) for line in found[1].splitlines()) <= 10
    code = found[1].replace("8000", str(port))
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield running
    finally:
        running.kill()
        await running.wait()


async def test_the_receiver_of_the_documentation_works(tmp_path: Path) -> None:
    port = free_port()
    hooks: list[Sections] = [{"name": "crm", "url": f"http://{HOST}:{port}/", "secret": SECRET}]
    async with documented_receiver(port) as receiver:
        assert receiver.stdout is not None
        async with serving(tmp_path, record_of(tmp_path), hooks) as node:
            assert (await node.command("webhooks", "test", "crm")).endswith(": taken: HTTP 204\n")
            _, event, outcome = (await asyncio.wait_for(receiver.stdout.readline(), 2 * LIMIT_S)).decode().split()
            assert (event, outcome) == ("test", "None")
            connection = await a_call_that_ends(node)
            line = await asyncio.wait_for(receiver.stdout.readline(), 2 * LIMIT_S)
            name, event, outcome = line.decode().split()
            assert (name, event) == (f"{connection}.1", "connection.ended")
            assert outcome in ("cancelled", "completed")


def test_where_there_is_no_webhook_that_is_said(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    none = "there is no webhook in the settings: add a section [[webhooks]], see docs/howto/webhooks.md\n"
    assert (main(["webhooks", "test"]), *capsys.readouterr()) == (1, "", f"dosvoces: {none}")
    hooks = [f'[[webhooks]]\nname = "{name}"\nurl = "https://h/"\nsecret = "{SECRET}"\n' for name in ("crm", "erp")]
    (tmp_path / "dosvoces.toml").write_text("".join(hooks))
    those = "those in the settings are: crm, erp\n"
    expected = f"dosvoces: name one: dosvoces webhooks test NAME; {those}"
    assert (main(["webhooks", "test"]), *capsys.readouterr()) == (1, "", expected)
    for command in ("test", "enable"):
        expected = f"dosvoces: there is no webhook 'foo'; {those}"
        assert (main(["webhooks", command, "foo"]), *capsys.readouterr()) == (1, "", expected)
