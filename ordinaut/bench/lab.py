"""
A throwaway server, databases on it, real workers beside it, and meters on all of them.

fsync is on, as in production: a queue that does not wait for the disk measures nothing.  The
settings differ from PostgreSQL's own in what keeps checkpoints and page images out of runs of a
few seconds; both loops, ours and the bare one, get the same.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, Self
from uuid import UUID

import psycopg
from psycopg import sql

from ordinaut import db, schema
from ordinaut.binaries import find_bindir
from ordinaut.embedded import EmbeddedPostgres
from ordinaut.errors import ConfigurationError, OrdinautError

Conn = psycopg.Connection[Any]

_SETTINGS = {
    "shared_buffers": "512MB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "1h",
    "autovacuum_naptime": "5s",
}
_TEMPLATE = "ordinaut_template"
_TICKS = os.sysconf("SC_CLK_TCK")
_STOP = 15.0


class BenchError(OrdinautError):
    """A measurement that could not be made, and why."""


class Lab:
    """The server, from `with` to its end; nothing is left of it, however that comes."""

    def __init__(self) -> None:
        bindir = None
        if not os.environ.get("ORDINAUT_PG_BINDIR"):
            with contextlib.suppress(ConfigurationError):
                bindir = find_bindir(15)  # figures of different versions do not compare
        self.server = EmbeddedPostgres(None, bindir, _SETTINGS)
        self.version = ""
        self._keep = ExitStack()
        self._count = 0
        self._admin: Conn | None = None

    def __enter__(self) -> Self:
        with ExitStack() as keep:
            keep.enter_context(self.server)
            self._admin = admin = keep.enter_context(self.connect(self.server.dsn))
            self.version = admin.info.parameter_status("server_version") or "?"
            admin.execute(sql.SQL("create database {}").format(sql.Identifier(_TEMPLATE)))
            with self.connect(self.server.dsn_of(_TEMPLATE)) as conn:
                schema.install(conn)
            self._keep = keep.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._keep.close()

    @staticmethod
    def connect(dsn: str) -> Conn:
        return db.connect(
            dsn, name="ordinaut bench", statement_timeout=None, idle_in_transaction=None
        )

    @contextlib.contextmanager
    def database(self) -> Iterator[str]:
        """Lend a fresh database with the schema in it; yield its DSN."""
        assert self._admin is not None
        self._count += 1
        name = sql.Identifier(f"bench_{self._count}")
        self._admin.execute(
            sql.SQL("create database {} template {}").format(name, sql.Identifier(_TEMPLATE))
        )
        # What one figure wrote is not flushed at the cost of the next.
        self._admin.execute("checkpoint")
        try:
            yield self.server.dsn_of(f"bench_{self._count}")
        finally:
            self._admin.execute(sql.SQL("drop database {} with (force)").format(name))

    @contextlib.contextmanager
    def without_page_images(self) -> Iterator[None]:
        """Let WAL hold changes only: how many pages it repeats is a matter of checkpoints."""
        assert self._admin is not None
        self._reload("off")
        try:
            yield
        finally:
            self._reload("on")

    def _reload(self, page_images: str) -> None:
        assert self._admin is not None
        self._admin.execute(f"alter system set full_page_writes = {page_images}".encode())
        self._admin.execute("select pg_reload_conf()")
        time.sleep(0.3)  # until every process has read it, the one that writes for others too

    def wal(self) -> int:
        """Return how many bytes of WAL were ever written."""
        assert self._admin is not None
        row = self._admin.execute("select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')")
        return int(row.fetchone()[0])  # type: ignore[index]

    def cpu(self) -> float:
        """Return the CPU seconds of the server and of all it ever started."""
        pid = int((self.server.cluster / "postmaster.pid").read_text().split()[0])
        return cpu_of(pid)

    def process(self, dsn: str, name: str, *words: str) -> Process:
        """Start `ordinaut WORDS`; a context manager that ends it."""
        return Process(dsn, words, self.server.data_dir / f"{name}.log")

    @contextlib.contextmanager
    def workers(self, dsn: str, count: int, concurrency: int) -> Iterator[list[Process]]:
        """Run real workers, guard and all, and yield once they are registered and idle."""
        with ExitStack() as keep:
            workers = [
                keep.enter_context(
                    self.process(dsn, f"worker{n}", "worker", "--concurrency", str(concurrency))
                )
                for n in range(count)
            ]
            with self.connect(dsn) as conn:
                wait_for(
                    lambda: (
                        one(conn, "select count(*) from ordinaut.worker where is_idle") == count
                    ),
                    30,
                    "workers that are ready",
                    workers,
                )
            yield workers


class Process:
    """One `ordinaut worker` or `ordinaut scheduler`, as a user would start it."""

    def __init__(self, dsn: str, words: Sequence[str], log: Path) -> None:
        self._log, self._name = log, words[0]
        env = os.environ | {"ORDINAUT_DSN": dsn}
        command = [sys.executable, "-m", "ordinaut", *words]
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                command, cwd=log.parent, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                start_new_session=True, preexec_fn=_die_with_parent,
            )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP)
        except subprocess.TimeoutExpired:
            for pid in reversed(tree(self._process.pid)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.wait()

    def check(self) -> None:
        """Raise if it has ended."""
        if self._process.poll() is not None:
            last = self._log.read_text(errors="replace").strip().splitlines()[-5:]
            raise BenchError(
                f"a {self._name} ended with {self._process.returncode}: " + " / ".join(last)
            )

    def cpu(self) -> float:
        return cpu_of(self._process.pid)


def tree(pid: int) -> list[int]:
    """Return `pid` and its descendants, parents first."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            children.setdefault(int(_stat(stat)[1]), []).append(int(stat.parent.name))
    found = [pid]
    for parent in found:
        found += children.get(parent, [])
    return found


def cpu_of(pid: int) -> float:
    """Return the CPU seconds of a process and its descendants, those that ended included."""
    total = 0
    for each in tree(pid):
        with contextlib.suppress(OSError):
            total += sum(int(field) for field in _stat(Path(f"/proc/{each}/stat"))[11:15])
    return total / _TICKS


def _stat(path: Path) -> list[str]:
    # The name, in parentheses, may hold spaces.
    return path.read_text().rpartition(")")[2].split()


def one(conn: Conn, query: str, *args: Any) -> Any:
    """Return the first value of the first row."""
    row = conn.execute(query.encode(), args or None).fetchone()
    return None if row is None else row[0]


def wait_for(
    fact: Callable[[], bool], seconds: float, what: str, workers: Sequence[Process] = ()
) -> None:
    """Look until `fact` holds.

    Raises:
        BenchError: it did not within `seconds`, or one of the workers ended.
    """
    until = time.monotonic() + seconds
    while not fact():
        for worker in workers:
            worker.check()
        if time.monotonic() > until:
            raise BenchError(f"waited {seconds:g} s in vain for {what}")
        time.sleep(0.02)


def sync_time(directory: Path) -> float:
    """Return the seconds that a small write to this disk takes until it is safe."""
    file = os.open(directory / "fsync", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        times = []
        for _ in range(51):
            began = time.perf_counter()
            os.pwrite(file, b"x" * 8192, 0)
            os.fdatasync(file)
            times.append(time.perf_counter() - began)
        return median(times)
    finally:
        os.close(file)


def in_history(conn: Conn, run_id: UUID) -> bool:
    """Has this run ended?  One descent of one index: it may be asked often."""
    return bool(one(conn, "select count(*) from ordinaut.task_run where run_id = %s", run_id))


def _die_with_parent() -> None:
    """Have the kernel end it when the bench is killed (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)
