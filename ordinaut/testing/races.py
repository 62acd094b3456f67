"""
Named races: drive two or more sessions through one exact interleaving.

A race is written as a script, not as luck.  Each `Session` is a real connection with its own
thread; `start()` sends a statement without waiting, `wait_blocked()` proves that the server has
parked it on a lock, `result()` collects the outcome.  No sleeps, no retries, no "usually fails".

    worker, reaper = session("worker").at("12:00:59"), session("reaper").at("12:01:01")
    assert reaper.run("select ordinaut.reap()") == [(1,)]    # uncommitted: holds the row
    worker.start("select * from ordinaut.complete_work(%s)", lease_id)
    worker.wait_blocked(by=reaper)
    reaper.commit()
    with pytest.raises(LeaseLost):
        worker.result()
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import psycopg
from psycopg.rows import namedtuple_row

import ordinaut.errors  # noqa: F401  psycopg raises our classes once they are declared

PATIENCE = 10.0  # seconds until a test calls a statement stuck; the machine may be busy


class Session:
    """One connection, one thread, one open transaction at a time."""

    def __init__(self, name: str, dsn: str) -> None:
        self.name = name
        self._dsn = dsn
        self.conn: psycopg.Connection[Any] = psycopg.connect(
            dsn, application_name=name, row_factory=namedtuple_row
        )
        self._begin(deadlock_timeout="50ms", statement_timeout=f"{PATIENCE:.0f}s")
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._pending: Future[list[Any]] | None = None

    def _begin(self, **settings: str) -> None:
        for name, value in settings.items():
            self.conn.execute(f"set {name} = '{value}'")
        self.conn.commit()

    @property
    def pid(self) -> int:
        """The server's process."""
        return self.conn.info.backend_pid

    def run(self, query: str, *args: Any) -> list[Any]:
        """Run a statement now, inside this session's open transaction."""
        self.start(query, *args)
        return self.result()

    def one(self, query: str, *args: Any) -> Any:
        """Run a statement and return the only column of its only row."""
        ((value,),) = self.run(query, *args)
        return value

    def start(self, query: str, *args: Any) -> None:
        """Send a statement and do not wait for it."""
        assert self._pending is None, f"{self.name} still has a statement pending"

        self._pending = self._pool.submit(self._execute, query, args)

    def _execute(self, query: str, args: tuple[Any, ...]) -> list[Any]:
        cur = self.conn.execute(query, args or None)
        return cur.fetchall() if cur.description else []

    def wait_blocked(self, by: Session | None = None) -> None:
        """Return once the server says that `by` (None: anyone) blocks this session; else fail."""
        deadline = time.monotonic() + PATIENCE
        with psycopg.connect(self._dsn, autocommit=True) as watch:
            while time.monotonic() < deadline:
                row = watch.execute("select pg_blocking_pids(%s)", [self.pid]).fetchone()
                blockers = row[0] if row else []
                if blockers if by is None else by.pid in blockers:
                    return
                if self._pending is not None and self._pending.done():
                    break
        who = "anyone" if by is None else by.name
        raise AssertionError(f"{self.name} never blocked on {who}")

    def has_answered(self, watch: psycopg.Connection[Any]) -> bool:
        """Return whether the statement has ended (True) or the server has parked it (False)."""
        assert self._pending is not None, f"{self.name} has nothing pending"
        deadline = time.monotonic() + PATIENCE
        while not wait([self._pending], 0.001).done:
            assert time.monotonic() < deadline, f"{self.name} neither ends nor waits for anybody"
            row = watch.execute("select pg_blocking_pids(%s)", [self.pid]).fetchone()
            if row and row[0]:
                return False
        return True

    def result(self) -> list[Any]:
        """Wait for the statement that `start()` sent; return its rows or raise its error."""
        assert self._pending is not None, f"{self.name} has nothing pending"
        pending, self._pending = self._pending, None
        return pending.result(PATIENCE + 5)

    def at(self, when: str) -> Session:
        """Set this session's clock; other sessions keep theirs.  Commits."""
        self.run("select set_config('test.now', %s, false)", when)
        self.commit()
        return self

    def commit(self) -> Session:
        self._pool.submit(self.conn.commit).result(PATIENCE)
        return self

    def rollback(self) -> Session:
        self._pool.submit(self.conn.rollback).result(PATIENCE)
        return self

    def give_up(self) -> None:
        """Cancel what is pending, and roll back."""
        # Again and again: a cancel that arrives before its statement cancels nothing.
        while self._pending is not None and not wait([self._pending], 0.05).done:
            self.conn.cancel_safe(timeout=PATIENCE)
        self._pending = None
        self.rollback()

    def close(self) -> None:
        while self._pending is not None and not wait([self._pending], 0.05).done:
            self.conn.cancel_safe(timeout=PATIENCE)
        self._pool.shutdown(wait=True)
        self.conn.close()
