"""The live service does what `/openapi.json` says, whatever is asked: schemathesis' checks, all of them."""

import asyncio
import sys
from pathlib import Path

from dosvoces.carriers.fake import FakeCarrier
from dosvoces.store.sql import open_keys
from tests.house import house
from tests.keys import make_key

CASES, SEED = 40, 4711
"""Examples for each operation, of which there are ten, and what they are drawn by: each run asks the same."""
LIMIT_S = 240.0
CONFIG = Path(__file__).parent / "data" / "schemathesis.toml"


async def test_the_service_does_what_its_description_says(tmp_path: Path) -> None:
    program = str(Path(sys.executable).parent / "schemathesis")
    async with house(tmp_path, carrier=FakeCarrier(), dialing={"max_connections": 5000}) as running:
        keys = open_keys(running.service.settings.database.address)
        key = await make_key(keys, "schemathesis")
        await keys.close()
        await asyncio.sleep(1.0)  # By then the door knows of it.
        tried = await asyncio.create_subprocess_exec(
            *(
                program,
                "--config-file",
                str(CONFIG),
                "run",
                f"{running.service.http_url}/openapi.json",
                "--checks",
                "all",
            ),
            *("--max-examples", str(CASES), "--seed", str(SEED), "--generation-database", "none", "--no-color"),
            *("--header", f"Authorization: Bearer {key}"),
            *("--phases", "examples,coverage,fuzzing", "--request-timeout", "10"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=tmp_path,
        )
        async with asyncio.timeout(LIMIT_S):
            told, _ = await tried.communicate()
    assert tried.returncode == 0, told.decode()
