"""
Peers from Debian packages that are unpacked into a folder of ours, never installed: `requirements/debian-unpacked.txt`.

They stay in the user's cache folder, so that only the first run pays for them (some 10 s each).
"""

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).parent.parent.parent / "scripts" / "debian-unpack"
UNPACK_LIMIT_S = 300.0


@dataclass(frozen=True)
class Unpacked:
    """An unpacked peer with its libraries."""

    folder: Path

    @property
    def root(self) -> Path:
        """What would be `/` if it were installed."""
        return self.folder / "root"

    def command(self, program: str, *arguments: str) -> tuple[str, ...]:
        """The command line that runs `program` (below the root) with the libraries that came with it."""
        loader = (self.folder / "loader").resolve()
        return (str(loader), "--library-path", self._libraries, str(self.root / program), *arguments)

    def find(self, name: str) -> Path:
        """The file of that name."""
        return next((self.root / "usr/lib").rglob(name))

    @property
    def _libraries(self) -> str:
        own = self.find("libc.so.6").parent
        return ":".join(str(path) for path in (own, own / "asterisk", own / "kamailio") if path.is_dir())


async def unpacked(name: str) -> Unpacked:
    """Get `name` of the list. Raises `AssertionError` that says what is missing, if this machine can't have it."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "dosvoces-tests" / name
    process = await asyncio.create_subprocess_exec(
        *(str(SCRIPT), name, str(folder)), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        said, _ = await asyncio.wait_for(process.communicate(), UNPACK_LIMIT_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, said.decode(errors="replace")
    return Unpacked(folder)
