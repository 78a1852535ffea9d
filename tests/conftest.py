"""For all tests: what helps them to assert explains itself as they do, and no clock judges a busy machine."""

import os
import threading
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

from tests.postgres import postgres_cluster, postgres_url, shared_cluster

__all__ = ["postgres_cluster", "postgres_url", "shared_cluster"]

# Before anything imports them: tests/contract uses them too, and is collected before tests/peers.
pytest.register_assert_rewrite("tests.peers.trial", "tests.peers.sipp", "tests.peers.baresip")


# Services are started by the hundred: each would compile our sources anew where this is set.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_make_parametrize_id(val: object) -> str | None:
    """API keys differ from run to run, the names of tests must not: each process that runs tests makes its own."""
    return "key" if isinstance(val, str) and val.startswith(("dv_live_", "dv_test_")) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules that take minutes begin first: begun last, one would keep a single process busy while the others idle."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None]:
    """No file leaves a thread to the next one: what it did there would look like a fault of another test."""
    yield
    if nextitem is not None and nextitem.path == item.path:
        return
    for thread in set(threading.enumerate()) - _OF_THE_RUN:
        thread.join(THREAD_LIMIT_S)
        if thread.is_alive():
            _OF_THE_RUN.add(thread)  # Told once.
            pytest.fail(f"{item.path.name} left a thread running: {thread.name}", pytrace=False)


THREAD_LIMIT_S = 10.0
_OF_THE_RUN: set[threading.Thread] = set()


@pytest.hookimpl(trylast=True)
def pytest_sessionstart() -> None:
    _OF_THE_RUN.update(threading.enumerate())


# What takes long on a machine that does much else is no fault; what a test may cost is the number of its examples.
settings.register_profile(
    "dosvoces", max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("dosvoces")
