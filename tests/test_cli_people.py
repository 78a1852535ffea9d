"""`dosvoces forget` and `export`, beside the running service."""

import asyncio
import json
from pathlib import Path

import pytest

from dosvoces.carriers.fake import FakeCarrier
from dosvoces.cli import main
from dosvoces.model import ConnectionId
from tests.house import EMAIL, FIRST, House, Sections, house

TEXT = "Ático con vistas canarias"


def run(running: House, *arguments: str) -> int:
    database = running.service.settings.database.url.get_secret_value()
    config = Path(database.removeprefix("sqlite:///")).with_name("dosvoces.toml")
    config.write_text(f'[database]\nurl = "{database}"\n', "utf-8")
    return main(["--config", str(config), *arguments])


async def test_who_is_forgotten_is_gone_from_all_files_beside_the_service(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A webhook that nobody takes: its work waits in the file beside the record.
    hook: Sections = {"url": "http://127.0.0.1:9/", "secret": "whsec_" + "YWFh" * 11}
    async with house(tmp_path, carrier=FakeCarrier(), webhooks=[hook]) as running:
        answer = await running.post(nombre_propiedad=TEXT)
        connection = ConnectionId(answer.headers["location"].rpartition("/")[2])
        assert await asyncio.to_thread(run, running, "forget", FIRST, "--yes") == 1
        assert "dosvoces hangup" in capsys.readouterr().err
        running.service.switchboard.cancel(connection, by="test")
        await running.over(answer)

        assert await asyncio.to_thread(run, running, "export", FIRST) == 0
        printed = capsys.readouterr().out  # The service's log is in it, too.
        told, _ = json.JSONDecoder().raw_decode(printed[printed.index('{\n  "about"') :])
        assert told["about"] == FIRST
        assert [row["property_name"] for row in told["record"]["connection"]] == [TEXT]

        assert await asyncio.to_thread(run, running, "forget", FIRST, "--yes") == 0
        assert await asyncio.to_thread(run, running, "forget", EMAIL, "--yes") == 0
        printed = capsys.readouterr().out
        for who in (FIRST, EMAIL):
            assert f"1 connection no longer knows {who}\n" in printed
        content = files_of(tmp_path)
        canaries = [FIRST[1:].encode(), EMAIL.encode(), TEXT.encode()]
        assert [name for name, data in content.items() if any(canary in data for canary in canaries)] == []
        # And the service goes on.
        assert (await running.post()).status_code == 200


def files_of(folder: Path) -> dict[str, bytes]:
    """The record, its log, the deferred work beside it."""
    found = {file.name: file.read_bytes() for file in folder.glob("record.db*")}
    assert {"record.db", "record.db-wal", "record.db.work"} <= set(found)
    return found


def test_what_is_nobody_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["forget", "600000011", "--yes"]) == 1
    assert "country's code" in capsys.readouterr().err
