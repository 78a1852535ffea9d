"""
A thread that runs database functions one after another for the event loop.

One hop per function, not one per statement: SQLAlchemy's asyncio layer and aiosqlite cross to a thread and back for
each statement, and that crossing is most of what a small commit costs (figures in `bench/store_bench.py`).
"""

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Lane:
    """One worker thread and its queue. Whatever is given to it runs there, in order, one at a time."""

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[_Job[Any] | None] = SimpleQueue()
        # A daemon: a process that fails before `close` must still be able to exit.
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def submit(self, function: Callable[[], T], done: "Callable[[T | None, BaseException | None], None]") -> None:
        """Run `function` on the lane; then, on the calling loop, `done` with its result or its error."""
        self._jobs.put(_Job(function, done, asyncio.get_running_loop()))

    async def run(self, function: Callable[[], T]) -> T:
        """
        Run `function` on the lane and wait for what it returns or raises.

        Whoever stops waiting before its turn has come has it not run at all: a crowd that gave up must not hold up who
        comes after it, and what was called a failure must not be done later.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def unless_given_up() -> T:
            if future.cancelled():
                raise asyncio.CancelledError
            return function()

        def done(result: T | None, error: BaseException | None) -> None:
            if future.cancelled():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]  # No error, so it is what `function` returned.

        self.submit(unless_given_up, done)
        return await future

    def stop(self) -> None:
        """Let the thread end after what it was given so far."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.run()


class _Job(Generic[T]):
    __slots__ = ("done", "function", "loop")

    def __init__(
        self,
        function: Callable[[], T],
        done: Callable[[T | None, BaseException | None], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.function = function
        self.done = done
        self.loop = loop

    def run(self) -> None:
        result: T | None = None
        error: BaseException | None = None
        try:
            result = self.function()
        except BaseException as caught:  # Carried to the loop, which is where it is handled.
            error = caught
        try:
            self.loop.call_soon_threadsafe(self.done, result, error)
        except RuntimeError:
            pass  # The loop was closed meanwhile: nobody waits any more.
