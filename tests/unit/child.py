"""A real child process on a real socket pair, and the parent's side of the conversation."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from ordinaut import calls, wire

HANDS = "tests.unit.child_hands"
_ROOT = str(Path(__file__).parents[2])


class Child:
    """What the worker's parent does, without a database: send units, read results."""

    def __init__(self, *, env: dict[str, str] | None = None, **config: Any) -> None:
        config.setdefault("tools", {}).setdefault("python", {"modules": [HANDS]})
        self.sock, theirs = socket.socketpair()
        self.sock.settimeout(20)
        memory = os.open("/tmp", os.O_TMPFILE | os.O_RDWR)
        os.ftruncate(memory, wire.CELL.size)
        self.cell = mmap.mmap(memory, wire.CELL.size)
        with theirs:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "ordinaut.runner", "--slot", "0"),
                    *("--fd", str(theirs.fileno()), "--cell", str(memory)),
                ],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(theirs.fileno(), memory),
                start_new_session=True,
                cwd=_ROOT,
                env={**os.environ, **(env or {}), "ORDINAUT_RUNNER_CONFIG": json.dumps(config)},
            )
        os.close(memory)
        self._reader = wire.Reader()
        self._heard: list[Any] = []
        self.notes: list[tuple[bytes, str, Any]] = []
        self.started: list[bytes] = []
        self.overdue: list[bytes] = []

    def hear(self) -> Any:
        """Return the next message; EOFError when the child has closed its end."""
        while not self._heard:
            try:
                data = self.sock.recv(1 << 16)
            except ConnectionError:
                data = b""
            if not data:
                raise EOFError
            self._heard += self._reader.feed(data)
        message = self._heard.pop(0)
        if message[0] == "note":
            self.notes.append((message[2], message[3], json.loads(message[4])))
        elif message[0] == "started":
            self.started.append(message[1])
        elif message[0] == "overdue":
            self.overdue.append(message[1])
        return message

    def ready(self) -> list[str]:
        kind, pid, names = self.hear()
        assert (kind, pid) == ("ready", self.process.pid)
        return list(names)

    def tell(self, *message: Any) -> None:
        wire.send(self.sock, message)

    def results(self, count: int = 1) -> list[wire.Result]:
        """Read until `count` units have ended; their results in the order of arrival."""
        found: list[wire.Result] = []
        while len(found) < count:
            message = self.hear()
            if message[0] == "done":
                found += message[1]
        return found

    def run(self, tool: str, payload: Any = None, **unit: Any) -> tuple[str, Any]:
        """Run one unit; return its outcome, and its output or error, decoded."""
        self.tell("run", [unit_of(tool, payload, **unit)])
        ((_, _, outcome, output, error, _),) = self.results()
        body = output if error is None else error
        return outcome, body if body is None else json.loads(body)

    def hand(self, name: str, payload: Any = None, **unit: Any) -> tuple[str, Any]:
        """Run a function of child_hands."""
        return self.run(f"python:{HANDS}.{name}", payload, **unit)

    def end(self) -> str:
        """End it, and return what it wrote to stderr."""
        self.sock.close()
        self.cell.close()
        _, err = self.process.communicate(timeout=20)
        return err.decode()


def unit_of(
    tool: str,
    payload: Any = None,
    *,
    lease_id: UUID | None = None,
    work_id: UUID | None = None,
    attempt: int = 1,
    failures: int = 0,
    timeout: float = 0,
    scheduled_for: int | None = None,
    step: str | None = None,
) -> wire.Unit:
    """A unit as the parent would send it."""
    work = (work_id or uuid4()).bytes
    return (
        (lease_id or uuid4()).bytes,
        work,
        work,
        None,
        tool.encode(),
        json.dumps({} if payload is None else payload).encode(),
        attempt,
        failures,
        3,
        int(timeout * 1e6),
        step and step.encode(),
        scheduled_for,
    )


def leased(work: calls.Work, timeout: float = 0) -> dict[str, Any]:
    """What `Child.run` needs to run leased work."""
    return {"lease_id": work.lease_id, "work_id": work.work_id, "timeout": timeout}


@pytest.fixture
def child() -> Iterator[Callable[..., Child]]:
    """Start children that end with the test: child(tools=…, dsn=…)."""
    with contextlib.ExitStack() as ends:

        def start(ready: bool = True, **config: Any) -> Child:
            started = Child(**config)
            ends.callback(started.end)
            if ready:
                started.ready()
            return started

        yield start
