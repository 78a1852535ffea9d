"""A few requests begin in each turn of the loop, the next ones in the next, in the order in which they came."""

import asyncio

from dosvoces.web.turns import AT_ONCE, Turns


async def test_the_first_begin_at_once_and_the_others_a_few_in_each_turn() -> None:
    turns, begun = Turns(), []

    async def request(number: int) -> None:
        if (turn := turns.wait()) is not None:
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
    assert turns.wait() is None


async def test_who_has_gone_takes_nobodys_turn() -> None:
    turns = Turns()
    while (gone := turns.wait()) is None:
        pass
    others = [turns.wait() for _ in range(AT_ONCE)]
    gone.cancel()
    await asyncio.sleep(0)
    assert all(turn is not None and turn.done() for turn in others)
