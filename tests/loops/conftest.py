"""
Real worker processes on a real database, ended in every way they can end.

`worker(**config)` starts one under guard and waits until it is registered.  The tools write what
they did to a witness file: the database's word alone could not show a double execution.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ordinaut import calls
from ordinaut.workerconfig import WorkerConfig

ROOT = Path(__file__).parents[2]
_START = (
    "import sys; from ordinaut import guard; from ordinaut.workerconfig import WorkerConfig;"
    "from ordinaut.logs import logging_to_stderr; logging_to_stderr('info', 'text');"
    "sys.exit(guard.run(WorkerConfig.from_json(sys.stdin.read())))"
)
FAST: dict[str, Any] = {
    "runner": {"tools": {"python": {"modules": ["tests.loops.hands"]}}},
    "ttl": 3.0,
    "heartbeat": 0.3,
    "drain": 10.0,
    "poll": 0.1,
    "grace": 0.3,
    "concurrency": 1,
}


def wait_for(fact: Callable[[], Any], seconds: float = 15.0) -> Any:
    """Return the first true answer of `fact`; fail after `seconds`."""
    until = time.monotonic() + seconds
    while not (answer := fact()):
        if time.monotonic() > until:
            pytest.fail(f"never came true: {fact}")
        time.sleep(0.01)
    return answer


@dataclass(frozen=True)
class Line:
    event: str
    pid: int
    at: float
    label: str


class Witness:
    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def lines(self, event: str = "") -> list[Line]:
        try:
            text = Path(self.path).read_text()
        except FileNotFoundError:
            return []
        # The last line may be on its way.
        rows = [line.split(" ", 3) for line in text[: text.rfind("\n") + 1].splitlines()]
        found = [Line(r[0], int(r[1]), float(r[2]), r[3]) for r in rows]
        return [line for line in found if not event or line.event == event]

    def wait(self, event: str, times: int = 1) -> list[Line]:
        wait_for(lambda: len(self.lines(event)) >= times)
        return self.lines(event)


class Running:
    """A worker: `guard` is the process that was started, `parent` and `children` below it."""

    def __init__(
        self, config: WorkerConfig, log: Path, environ: dict[str, str], root: Path = ROOT
    ) -> None:
        self.log_path = log
        paths = [str(root), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        path = os.pathsep.join(dict.fromkeys(paths))
        with log.open("ab") as stderr:
            self.guard = subprocess.Popen(
                [sys.executable, "-c", _START],
                stdin=subprocess.PIPE,
                stderr=stderr,
                cwd=root,
                env=os.environ | environ | {"PYTHONPATH": path},
                text=True,
            )
        assert self.guard.stdin is not None
        self.guard.stdin.write(config.to_json())
        self.guard.stdin.close()

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    @property
    def parent(self) -> int:
        return wait_for(lambda: _below(self.guard.pid))[0]

    @property
    def children(self) -> list[int]:
        return _below(self.parent)

    def signal(self, signum: int) -> None:
        self.guard.send_signal(signum)

    def wait(self, seconds: float = 15.0) -> int:
        return self.guard.wait(seconds)

    def end(self) -> None:
        """Leave no process, whatever happened."""
        tree = [self.guard.pid]
        for pid in tree:
            tree += _below(pid)
        for pid in tree if self.guard.returncode is None else tree[1:]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.guard.wait()


def alive(pid: int) -> bool:
    """Is there such a process, and not a zombie?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _below(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(word) for word in found.stdout.split() if alive(int(word))]


@pytest.fixture
def witness(tmp_path: Path) -> Witness:
    return Witness(tmp_path / "witness")


@pytest.fixture
def db(prod_dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(prod_dsn, autocommit=True) as conn:
        yield conn


@pytest.fixture
def worker(prod_dsn: str, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def start(dsn: str = prod_dsn, ready: bool = True, **config: Any) -> Running:
        environ, root = config.pop("environ", {}), config.pop("root", ROOT)
        log = tmp_path / f"worker{len(started)}.log"
        running = Running(WorkerConfig(dsn, **(FAST | config)), log, environ, root)
        started.append(running)
        if ready:
            wait_for(lambda: "registered" in running.log or running.guard.poll() is not None)
            assert running.guard.poll() is None, running.log
        return running

    yield start
    for running in started:
        running.end()
        print(f"--- {running.log_path.name}\n{running.log}")


@pytest.fixture
def enqueue(db: psycopg.Connection[Any], witness: Witness) -> Callable[..., Any]:
    """enqueue("work", seconds=1): a run of tests.loops.hands.work; returns its id."""

    def enqueue(
        tool: str = "work", *, timeout: str | None = None, attempts: int = 3, **payload: Any
    ) -> Any:
        (row,) = db.execute(
            "select run_id from ordinaut.enqueue(%s, %s, p_timeout => %s::interval,"
            ' p_max_attempts => %s, p_retry => \'{"base": "10 ms", "cap": "10 ms"}\')',
            [
                f"python:tests.loops.hands.{tool}",
                psycopg.types.json.Jsonb({"witness": witness.path} | payload),
                timeout,
                attempts,
            ],
        ).fetchall()
        return row[0]

    return enqueue


@pytest.fixture
def ended(db: psycopg.Connection[Any]) -> Callable[..., Any]:
    """ended(run_id): the run, once it has ended."""

    def ended(run_id: Any, seconds: float = 15.0) -> Any:
        done = {"success", "failed", "cancelled", "timed_out", "abandoned"}

        def look() -> Any:
            run = calls.get_run(db, run_id)
            return run if run is not None and run.state in done else None

        return wait_for(look, seconds)

    return ended
