"""
Virtual time: one heap for the whole world, and an asyncio event loop that lives in it and can be killed.
"""

import asyncio
import heapq
import warnings
from asyncio import events
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Any, TypeVarTuple, Unpack

_Ts = TypeVarTuple("_Ts")


class Clock:
    """What is planned in the world, in order of time; what is due together comes as it was planned."""

    def __init__(self) -> None:
        self.now = 0.0
        self.taken = 0
        """How many plans have come true."""
        self._heap: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._serial = 0

    def after(self, delay_s: float, action: Callable[..., object], *arguments: Any) -> None:
        self.at(self.now + delay_s, action, *arguments)

    def at(self, when: float, action: Callable[..., object], *arguments: Any) -> None:
        self._serial += 1
        heapq.heappush(self._heap, (when, self._serial, action, arguments))

    def advance(self) -> bool:
        """Let the next plan come true; whether there was one."""
        if not self._heap:
            return False
        when, _, action, arguments = heapq.heappop(self._heap)
        if when > self.now:
            self.now = when
        self.taken += 1
        action(*arguments)
        return True


class ProcessLoop(asyncio.BaseEventLoop):
    """
    The event loop of one process. A process that was killed runs nothing any more, not even the rest of its step's
    effects: whoever carries those out asks `alive`.
    """

    def __init__(self, clock: Clock, dies_after: int | None) -> None:
        """`dies_after`: at which of its steps it is killed; `None`: never."""
        super().__init__()
        self.alive = True
        self.faults: list[str] = []
        """What reached the loop's exception handler."""
        self._clock = clock
        self._left = dies_after
        self._tasks: list[asyncio.Task[Any]] = []
        self._soon: deque[asyncio.Handle] = deque()

    def step(self) -> bool:
        """One more thing that a kill can come before; whether the process lives to do it."""
        if self.alive and self._left is not None:
            self._left -= 1
            self.alive = self._left > 0
        return self.alive

    def run_ready(self) -> None:
        """Run until nothing is ready, or until it is killed."""
        if self._soon and self.alive:
            events._set_running_loop(self)
            try:
                self._run()
            finally:
                events._set_running_loop(None)

    def enter(self, action: Callable[..., object], *arguments: Any) -> None:
        """Call `action` as if it were the loop's own callback, then run what that made ready."""
        if not self.step():
            return
        events._set_running_loop(self)
        try:
            action(*arguments)
            self._run()
        finally:
            events._set_running_loop(None)

    def _run(self) -> None:
        ready = self._soon
        while ready:
            if not self.step():
                ready.clear()
                return
            handle = ready.popleft()
            if not handle.cancelled():
                handle._run()

    def bury(self) -> None:
        """Drop what a kill, or the end of the world, left unfinished."""
        self.alive = False
        with warnings.catch_warnings():
            # A coroutine that a task was to run and never began: that is what a kill does.
            warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
            for task in self._tasks:
                if not task.done() and (coroutine := task.get_coro()) is not None:
                    coroutine.close()
            self._tasks.clear()
            self._soon.clear()
        self.close()

    # --- what asyncio asks of a loop ---

    def time(self) -> float:
        return self._clock.now

    def get_debug(self) -> bool:
        return False

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: Any = None, context: Context | None = None) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        self._tasks.append(task)
        return task

    def call_soon(
        self, callback: Callable[[Unpack[_Ts]], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        if self.alive:
            self._soon.append(handle)
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self._clock.now + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._clock.at(when, self._due, handle)
        return handle

    def _due(self, handle: asyncio.TimerHandle) -> None:
        if self.alive and not handle.cancelled():
            self._soon.append(handle)
            self.run_ready()

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It stays in the heap and does nothing when its time comes."""

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        # What a killed process leaves unfinished is no fault.
        if self.alive:
            self.faults.append(f"{context.get('message')}: {context.get('exception')!r}")
