"""Where a contract is kept in a database, it is kept in each that we know."""

from pathlib import Path

import pytest


@pytest.fixture(params=["sqlite", "postgresql"])
def record_url(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """Where a new record may be."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path / 'record.db'}"
