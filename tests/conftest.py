"""For all tests: what helps them to assert explains itself as they do."""

import pytest

# Before anything imports them: tests/contract uses them too, and is collected before tests/peers.
pytest.register_assert_rewrite("tests.peers.trial", "tests.peers.sipp", "tests.peers.baresip")
