"""
Write a tool: a function, perhaps decorated, that takes the payload's fields as arguments.

    @ordinaut.tool
    def resize(path: str, width: int = 800, *, context: Context) -> dict: ...

Its signature is its input schema (signature.py): a payload that does not fit is refused before it
runs.  What it returns is the output of the run; what it raises decides about the next attempt
(errors.py).  An argument annotated Context, or called `context`, gets the unit's context.

`async def` tools share one event loop, so many of them run in one child at a time.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

from ordinaut import wire
from ordinaut.tools.errors import Permanent, Retry, Snooze, ToolFailed

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    import psycopg

    from ordinaut.tools.database import Database, Transaction
    from ordinaut.tools.secrets import Secrets

__all__ = ["Context", "Permanent", "Retry", "Snooze", "ToolFailed", "tool"]

F = TypeVar("F", bound=Callable[..., Any])

TOOLS: dict[str, Callable[..., Any]] = {}  # by the names that @tool gave them


@overload
def tool(name: F, /) -> F: ...
@overload
def tool(name: str | None = None) -> Callable[[F], F]: ...
def tool(name: Any = None) -> Any:
    """Register a function as a tool; it stays an ordinary function.

    Args:
        name: what tasks call it by; None: the function's name.

    Raises:
        ValueError: another function has this name.
    """
    if callable(name):
        return tool()(name)

    def register(function: F) -> F:
        called = name or function.__name__
        known = TOOLS.get(called)
        if called in BUILTIN or ":" in called:
            raise ValueError(f"{called!r} is the name of a built-in tool")
        if known and (known.__module__, known.__qualname__) != (
            function.__module__,
            function.__qualname__,
        ):
            raise ValueError(
                f"two tools are called {called!r}: {known.__module__}.{known.__qualname__}"
                f" and {function.__module__}.{function.__qualname__}"
            )
        TOOLS[called] = function
        return function

    return register


# Returned in place of an output; no JSON looks like these.
SETTLED = b""  # the tool's own transaction has completed the unit
DEFERRED = b"..."  # it has only begun: the event loop will report it

BUILTIN = frozenset({
    "echo", "fail", "http", "mcp", "python", "shell", "sql",
    "approval", "sleep", "task", "wait_for_event",  # steps that wait
    "pipeline",  # what a run of steps is called
})  # fmt: skip


class Host(Protocol):
    """What the process that runs a tool does for it."""

    secrets: Secrets

    def note(self, unit: wire.Unit, event: str, data: dict[str, Any]) -> None:
        """Send a line to the journal of the unit."""

    def database(self, dsn: str | None = None) -> Database:
        """Return the tools' way to the database, or to the same as another login."""


class Context:
    """The unit of work that a tool is running, as the tool sees it.

    `run_id` and `attempt` make a key for services that deduplicate: work is started at least
    once, and only writes through `connection` are done exactly once.
    """

    __slots__ = ("_host", "_unit", "transaction")

    def __init__(self, unit: wire.Unit, host: Host) -> None:
        self._unit = unit
        self._host = host
        self.transaction: Transaction | None = None

    @property
    def run_id(self) -> UUID:
        return _uuid(self._unit[wire.RUN])

    @property
    def work_id(self) -> UUID:
        """The run's id, or that of a step of it."""
        return _uuid(self._unit[wire.WORK])

    @property
    def lease_id(self) -> UUID:
        """The fencing token: of two who run the same unit, the database listens to one."""
        return _uuid(self._unit[wire.LEASE])

    @property
    def task_id(self) -> UUID | None:
        """None: nobody's schedule, an enqueue."""
        task_id = self._unit[wire.TASK]
        return task_id and _uuid(task_id)

    @property
    def step(self) -> str | None:
        step: bytes | None = self._unit[wire.STEP]
        return step.decode() if step else None

    @property
    def attempt(self) -> int:
        """1 at first; grows with every start, whatever it came to."""
        return int(self._unit[wire.ATTEMPT])

    @property
    def failures(self) -> int:
        return int(self._unit[wire.FAILURES])

    @property
    def max_attempts(self) -> int:
        """How many failures end the run."""
        return int(self._unit[wire.MAX_ATTEMPTS])

    @property
    def scheduled_for(self) -> datetime | None:
        """The instant of the schedule that this run answers, however late it is."""
        from datetime import UTC, datetime, timedelta

        at = self._unit[wire.SCHEDULED_FOR]
        return None if at is None else datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at)

    def log(self, message: str, **fields: Any) -> None:
        """Write a line into the run's journal, even if the run fails later."""
        self._host.note(self._unit, "log", {**fields, "message": message})

    def progress(self, percent: float, note: str | None = None) -> None:
        """Say how far the work is, 0 to 100."""
        if not 0 <= percent <= 100:
            raise ValueError(f"progress is from 0 to 100, not {percent}")
        self._host.note(self._unit, "progress", {"percent": percent, "note": note})

    @property
    def connection(self) -> psycopg.Connection[Any]:
        """The tool's own transaction, which completes the work when the tool returns.

        It opens at the first use, holds the lease, and stays open until the tool ends: then the
        completion is its last statement, and what was written and that it was done are committed
        together, or not at all.  So nobody commits it; `connection.transaction()` gives
        savepoints.

        Raises:
            LeaseLost: somebody else has the work by now.
            WorkCancelled: it is cancelled.
        """
        if self.transaction is None:
            self.transaction = self._host.database().begin(self._unit)
        return self.transaction.connection


def load(modules: list[str]) -> None:
    """Import the modules and entry points that declare tools.

    Raises:
        Exception: whatever the import of one of them raises.
    """
    from importlib import import_module

    for module in modules:
        import_module(module)
    if _entry_points_exist():
        from importlib.metadata import entry_points

        for entry in entry_points(group="ordinaut.tools"):
            found = entry.load()
            if callable(found) and not any(found is known for known in TOOLS.values()):
                tool(entry.name)(found)


def _entry_points_exist() -> bool:
    # importlib.metadata takes longer to import than everything else that a child needs.
    for folder in sys.path:
        try:
            names = os.listdir(folder or ".")
        except OSError:
            continue
        for name in names:
            if name.endswith((".dist-info", ".egg-info")):
                try:
                    with open(os.path.join(folder, name, "entry_points.txt"), "rb") as file:
                        if b"[ordinaut.tools]" in file.read():
                            return True
                except OSError:
                    continue
    return False


def _uuid(raw: bytes) -> UUID:
    from uuid import UUID

    return UUID(bytes=raw)
