"""
The event loop that async tools of a child share.

It runs in a thread of its own, so that the main thread can go on with sync units, and a second
thread watches it: a coroutine that blocks the loop would block the loop's own timers too.  For one
that holds the GIL on top there is faulthandler's watchdog, which is C: it ends the process.

    timeout, cancel   task.cancel()
    + GRACE           the unit is overdue: the parent kills this child
    + GRACE again     so does the watchdog, in case that nobody could say so
"""

from __future__ import annotations

import asyncio
import faulthandler
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from ordinaut import wire
from ordinaut.tools.errors import ToolFailed
from ordinaut.tools.python import PythonTool, abandon
from ordinaut.tools.registry import Context

LIMIT = 32  # units at a time
GRACE = 5.0


class Cancelled(ToolFailed):
    """The unit was stopped from outside."""


class Reporter(Protocol):
    """Where results go."""

    def started(self, unit: wire.Unit) -> None: ...
    def succeeded(self, unit: wire.Unit, output: bytes | None, started: int) -> None: ...
    def failed(self, unit: wire.Unit, exc: BaseException, started: int, outcome: str = "") -> None:
        """Report a failure; `outcome` overrules what the exception says."""

    def overdue(self, work_id: bytes) -> None: ...


class Loop:
    """Runs async units; every method may be called from any thread."""

    def __init__(self, reporter: Reporter, grace: float) -> None:
        self._reporter = reporter
        self._grace = grace
        self._slots = threading.Semaphore(LIMIT)
        self._tasks: dict[bytes, asyncio.Task[None] | None] = {}  # None: has not begun
        self._keep: set[asyncio.Task[None]] = set()
        self._why: dict[bytes, str] = {}  # timed_out or cancelled
        self._overdue_at: dict[bytes, float] = {}
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        for target in (self._loop.run_forever, self._watch):
            threading.Thread(target=target, daemon=True).start()

    def start(self, unit: wire.Unit, tool: PythonTool) -> None:
        """Start a unit; waits for a free slot.

        Raises:
            ToolFailed: the payload does not fit the function.
        """
        kwargs, context = tool.arguments(unit)
        self._slots.acquire()
        self._tasks[unit[wire.WORK]] = None
        self._reporter.started(unit)
        self._soon(self._begin, unit, tool, kwargs, context)

    def cancel(self, work_id: bytes, why: str = "cancelled") -> bool:
        """Ask a unit to stop; False: it is not here."""
        if not self._arm(work_id, time.monotonic() + self._grace):
            return False
        self._soon(self._stop, work_id, why)
        return True

    def join(self) -> None:
        """Wait until nothing runs."""
        for _ in range(LIMIT):
            self._slots.acquire()
        for _ in range(LIMIT):
            self._slots.release()

    # In the loop's thread

    def _begin(
        self, unit: wire.Unit, tool: PythonTool, kwargs: dict[str, Any], context: Context | None
    ) -> None:
        work_id = unit[wire.WORK]
        task = self._loop.create_task(self._run(unit, tool, kwargs, context))
        self._keep.add(task)  # the loop itself holds tasks weakly
        task.add_done_callback(self._keep.discard)
        if unit[wire.TIMEOUT]:
            limit = unit[wire.TIMEOUT] / 1e6
            timer = self._loop.call_later(limit, self._stop, work_id, "timed_out")
            task.add_done_callback(lambda _: timer.cancel())
            self._arm(work_id, time.monotonic() + limit + self._grace)

    async def _run(
        self, unit: wire.Unit, tool: PythonTool, kwargs: dict[str, Any], context: Context | None
    ) -> None:
        work_id = unit[wire.WORK]
        started = time.monotonic_ns()
        try:
            try:
                # Not earlier: a task that is cancelled before its first step never takes it, and
                # nobody would hear of the unit again.
                self._tasks[work_id] = asyncio.current_task()
                if work_id in self._why:
                    raise asyncio.CancelledError
                result = await tool.function(**kwargs)
                output = tool.finish(context, result)
            except BaseException as exc:
                abandon(context, exc)
                raise
        except BaseException as exc:
            outcome = self._why.get(work_id, "")
            if outcome and isinstance(exc, asyncio.CancelledError | TimeoutError):
                words = "ran longer than its timeout" if outcome == "timed_out" else outcome
                exc = Cancelled(words, "E6001" if outcome == "timed_out" else "E5003")
                self._reporter.failed(unit, exc, started, outcome)
            else:
                self._reporter.failed(unit, exc, started)
        else:
            # Work that is done is done, in time or not.
            self._reporter.succeeded(unit, output, started)
        finally:
            self._disarm(work_id)
            self._why.pop(work_id, None)
            self._slots.release()

    def _stop(self, work_id: bytes, why: str) -> None:
        if work_id in self._tasks and work_id not in self._why:
            self._why[work_id] = why
            if task := self._tasks[work_id]:
                task.cancel()

    def _soon(self, callback: Callable[..., None], *args: Any) -> None:
        self._loop.call_soon_threadsafe(callback, *args)

    # The watch

    def _arm(self, work_id: bytes, at: float) -> bool:
        with self._changed:
            if work_id not in self._tasks:
                return False
            known = self._overdue_at.get(work_id)
            self._overdue_at[work_id] = at if known is None else min(at, known)
            # Here, and not only in the watching thread: a unit that takes the GIL with its first
            # step would never let that thread begin.
            self._guard(min(self._overdue_at.values()) - time.monotonic())
            self._changed.notify()
            return True

    def _guard(self, left: float) -> None:
        """End the process by force, a grace after the next unit was overdue."""
        faulthandler.dump_traceback_later(max(left, 0.0) + self._grace, exit=True)

    def _disarm(self, work_id: bytes) -> None:
        with self._changed:
            self._tasks.pop(work_id, None)
            if self._overdue_at.pop(work_id, None) is not None:
                self._changed.notify()

    def _watch(self) -> None:
        with self._changed:
            while True:
                if not self._overdue_at:
                    faulthandler.cancel_dump_traceback_later()
                    self._changed.wait()
                    continue
                work_id, at = min(self._overdue_at.items(), key=lambda item: item[1])
                left = at - time.monotonic()
                if left > 0:
                    self._guard(left)
                    self._changed.wait(left)
                else:
                    self._reporter.overdue(work_id)
                    self._overdue_at[work_id] = at + 3600.0  # said once; the kill is under way
