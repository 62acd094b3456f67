"""
What a soak stands on: a directory with a server, a scheduler and workers, as a user starts them.

Weeks that are long past are in the database before it begins: prune has to drop them under load.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg

from ordinaut import schema
from ordinaut.binaries import find_bindir
from ordinaut.embedded import EmbeddedPostgres
from ordinaut.testing.postgres import install_clock

ROOT = Path(__file__).parents[2]
_OPTIONS = {
    "autovacuum_naptime": "5s",  # a minute is the default, and an hour has only sixty
    "log_autovacuum_min_duration": "-1",
    "shared_buffers": "128MB",
    "max_wal_size": "512MB",
}
_WEEKS = 4
_OLD = """
  with run as (
    select e.run_id from ordinaut.enqueue_many((
      select jsonb_agg(jsonb_build_object('payload', jsonb_build_object('text', t.text)))
      from generate_series(1, 500) as n
      cross join lateral (
        select string_agg(md5(n::text || m), '') as text from generate_series(1, 300) as m
      ) as t
    ), 'echo') as e
  ) select count(*) from run
"""


def wait_for(fact: Callable[[], Any], seconds: float, what: str) -> None:
    """Return once the fact is true.

    Raises:
        TimeoutError: not within `seconds`.
    """
    until = time.monotonic() + seconds
    while not fact():
        if time.monotonic() > until:
            raise TimeoutError(f"waited {seconds:g} s in vain: {what}")
        time.sleep(0.1)


class Lab:
    """From `with` to its end; the directory stays, but for the server's files."""

    def __init__(self, folder: Path, major: int | None) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.server = EmbeddedPostgres(None, find_bindir(major), _OPTIONS)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._keep = contextlib.ExitStack()

    def __enter__(self) -> Lab:
        with contextlib.ExitStack() as keep:
            keep.enter_context(self.server)
            keep.callback(self._end)
            with psycopg.connect(self.server.dsn, autocommit=True) as conn:
                schema.install(conn)
                self._age(conn)
            self._keep = keep.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._keep.close()

    def start(self, name: str, *words: str) -> None:
        """Start an `ordinaut` command under this name; its log is <name>.log."""
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        environ = {
            "PYTHONPATH": path,
            "ORDINAUT_DSN": self.server.dsn,
            "ORDINAUT_KEEP": "1 day",
            "ORDINAUT_TOOLS": json.dumps({"python": {"modules": ["tests.soak.tools"]}}),
        }
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "ordinaut", *words],
                cwd=self.folder,
                env=os.environ | environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def stop(self, seconds: float = 40.0) -> dict[str, int]:
        """SIGTERM to all; return how each ended."""
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        return {name: process.wait(seconds) for name, process in self.processes.items()}

    def _age(self, conn: psycopg.Connection[Any]) -> None:
        """Make runs of weeks ago, with partitions of their own, by a clock that is taken away."""
        install_clock(self.server.dsn)
        for weeks in range(_WEEKS + 1, 1, -1):
            conn.execute(
                "select set_config('test.now',"
                " (statement_timestamp() - %s * interval '7 days')::text, false)", [weeks]
            )  # fmt: skip
            conn.execute("select ordinaut.ensure_partitions()")
            conn.execute(_OLD)
            while held := conn.execute(
                "select distinct l.lease_id from ordinaut.lease_work('old', p_limit => 500) as l"
            ).fetchall():
                conn.execute("select * from ordinaut.complete_work(%s)", [held[0][0]])
        conn.execute("reset test.now")
        schema.install(conn)

    def _end(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()
