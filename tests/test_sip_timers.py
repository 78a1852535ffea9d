"""The heap of timers."""

from functools import partial

from dosvoces.sip.timers import COMPACT_AT, Timers


def test_in_order_of_time_and_start() -> None:
    timers = Timers()
    fired: list[str] = []
    timers.start(2.0, lambda: fired.append("late"))
    timers.start(1.0, lambda: fired.append("first"))
    timers.start(1.0, lambda: fired.append("second"))
    assert (timers.next(), len(timers)) == (1.0, 3)
    timers.run(0.9)
    assert fired == []
    timers.run(1.0)
    assert (fired, timers.next()) == (["first", "second"], 2.0)
    timers.run(9.0)
    assert (fired, timers.next(), len(timers)) == (["first", "second", "late"], None, 0)


def test_started_by_a_timer_and_due_at_once() -> None:
    timers = Timers()
    fired: list[str] = []

    def again() -> None:
        fired.append("first")
        timers.start(1.0, lambda: fired.append("second"))

    timers.start(1.0, again)
    timers.run(1.0)
    assert fired == ["first", "second"]


def test_stopped_timers_do_not_fire_and_are_cleaned_away() -> None:
    timers = Timers()
    fired: list[int] = []
    started = [timers.start(float(at), partial(fired.append, at)) for at in range(3 * COMPACT_AT)]
    for timer in started[1:]:
        timers.stop(timer)
        timers.stop(timer)
    timers.stop(None)
    assert (len(timers), len(timers._heap) <= COMPACT_AT + 1) == (1, True)
    timers.run(1e9)
    timers.stop(started[0])
    assert (fired, len(timers), timers.next()) == ([0], 0, None)
