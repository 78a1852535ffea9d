"""One JSON object a line, each on disk before the next thing happens: what one witness saw."""

import json
import time
from pathlib import Path


class Witness:
    """Writes down what it is told, with the time."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("a", encoding="utf-8", buffering=1)

    def note(self, **facts: object) -> None:
        self._file.write(json.dumps({"at": time.time()} | facts) + "\n")

    def close(self) -> None:
        self._file.close()
