"""A few requests begin in each turn of the loop, in the order in which they came; too many don't wait for theirs."""

import asyncio

import pytest

from dosvoces.web.turns import AT_ONCE, BURST, CALM_S, HELD_UP_S, TRICKLE, Turns


async def test_the_first_begin_at_once_and_the_others_a_few_in_each_turn() -> None:
    turns, begun = Turns(), []

    async def request(number: int) -> None:
        if (turn := turns.take()) is not None:
            await turn
        begun.append(number)

    tasks = [asyncio.create_task(request(number)) for number in range(3 * AT_ONCE)]
    seen = []
    while len(begun) < len(tasks):
        await asyncio.sleep(0)
        seen.append(len(begun))
    assert begun == list(range(3 * AT_ONCE))
    steps = [after - before for before, after in zip([0, *seen], seen, strict=False)]
    assert max(steps) <= AT_ONCE
    assert seen[0] == AT_ONCE
    # Nobody waits any more, so the next one doesn't either.
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert turns.take() is None


async def test_who_has_gone_takes_nobodys_turn() -> None:
    turns = Turns()
    while (gone := turns.take()) is None:
        pass
    others = [turns.take() for _ in range(AT_ONCE)]
    gone.cancel()
    await asyncio.sleep(0)
    assert all(turn is not None and turn.done() for turn in others)


def taken(turns: Turns) -> int:
    """How many of twice the burst are let in now."""
    before = turns.waiting
    for _ in range(2 * BURST):
        if turns.too_many():
            turns.refused()
        else:
            turns.take()
    return turns.waiting - before


async def begun(turns: Turns, count: int) -> None:
    """Wait until that many more have had their turn."""
    left = turns.waiting - count
    while turns.waiting > left:  # noqa: ASYNC110  # turn by turn is what is looked at
        await asyncio.sleep(0)


async def test_a_burst_is_taken_whole_and_no_more() -> None:
    turns = Turns()
    assert (taken(turns), turns.waiting, taken(turns)) == (BURST, BURST, 0)


async def test_while_requests_are_refused_few_may_wait() -> None:
    turns = Turns()
    taken(turns)
    await begun(turns, BURST // 2)
    assert taken(turns) == 0
    await begun(turns, turns.waiting)
    assert taken(turns) == TRICKLE


async def test_after_a_calm_second_a_burst_is_taken_whole_again(monkeypatch: pytest.MonkeyPatch) -> None:
    turns, loop = Turns(), asyncio.get_running_loop()
    taken(turns)
    await begun(turns, turns.waiting)
    now = loop.time()
    monkeypatch.setattr(loop, "time", lambda: now + CALM_S / 2)
    assert taken(turns) == TRICKLE
    await begun(turns, turns.waiting)
    monkeypatch.setattr(loop, "time", lambda: now + 1.6 * CALM_S)
    assert taken(turns) == BURST


async def test_a_queue_that_is_short_refuses_nobody() -> None:
    turns = Turns()
    turns.refused()
    for _ in range(TRICKLE):
        assert not turns.too_many()
        turns.take()
    assert turns.too_many()


async def test_nobody_begins_while_those_who_have_begun_must_wait() -> None:
    crowded = True
    turns = Turns(lambda: crowded)
    turn = turns.take()
    assert turn is not None
    await asyncio.sleep(5 * HELD_UP_S)
    assert (turn.done(), turns.waiting) == (False, 1)
    crowded = False
    await asyncio.wait_for(turn, 5)


async def test_who_has_begun_is_counted_until_he_may_count_elsewhere() -> None:
    """A request is read and checked in two turns; meanwhile nobody else may be promised its place."""
    turns, counted = Turns(), []
    turns.take()
    for _ in range(3):
        counted.append(turns.waiting)
        await asyncio.sleep(0)
    assert (counted, turns.waiting) == ([1, 1, 0], 0)
