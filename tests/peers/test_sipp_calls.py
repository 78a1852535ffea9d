"""Whole calls through SIPp: what was asked for over HTTP, what both phones saw, and what our journal says of it."""

from pathlib import Path

import pytest

from dosvoces.model import Side
from tests.peers.trial import FIRST, SECOND, Phone, trial


async def test_b_hangs_up_and_a_is_released(tmp_path: Path) -> None:
    async with trial(tmp_path, a=Phone("answer"), b=Phone("hang_up")) as t:
        response = await t.post()
    assert (response.status_code, response.text) == (200, "Data received successfully")
    assert (t.outcome, t.ended_by) == ("completed", "b")
    (their_bye,), (our_bye,) = t.b.sent("BYE"), t.a.received("BYE")
    assert our_bye.at - their_bye.at < 0.2
