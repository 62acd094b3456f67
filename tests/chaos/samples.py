"""A look at the system every second: what it holds, how late it is, how much it writes."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path
from typing import Any

import psycopg

from tests.chaos.history import Recorder
from tests.chaos.lab import Lab

_LOOK = """
select
  (select count(*) from pg_stat_activity where backend_type = 'client backend') as connections,
  (
    select count(*) from ordinaut.due_work as w
    where w.run_at <= ordinaut.now() and w.queue = any (%s)
  ) as due,
  (
    select coalesce(extract(epoch from ordinaut.now() - min(w.run_at)), 0)::float8
    from ordinaut.due_work as w
    where w.run_at <= ordinaut.now() and w.queue = any (%s)
  ) as late,
  (
    select json_object_agg(c.relname, pg_total_relation_size(c.oid))
    from pg_class as c
    where c.relnamespace = 'ordinaut'::regnamespace and c.relkind = 'r'
      and c.relname in ('due_work', 'lease', 'worker', 'parked', 'hold', 'task_schedule')
  ) as tables
"""


class Sampler:
    """A thread that writes samples.jsonl until `close`; a database that is away leaves a gap."""

    def __init__(self, lab: Lab, queues: list[str], pause: float = 1.0) -> None:
        self._lab, self._queues, self._pause = lab, queues, pause
        self._file = Recorder(lab.folder / "samples.jsonl", durable=False)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join(10)
        self._file.close()

    def _run(self) -> None:
        conn: psycopg.Connection[Any] | None = None
        while not self._over.wait(self._pause):
            line: dict[str, Any] = {"t": time.time(), "rss": {}, "fds": {}}
            for process in self._lab.processes:
                for pid in process.tree[:2]:  # children come and go, and run what they are told
                    name = f"{process.name} {pid}"
                    with contextlib.suppress(OSError, ValueError, IndexError):
                        line["rss"][name] = _rss(pid)
                        line["fds"][name] = len(os.listdir(f"/proc/{pid}/fd"))
            line["log_bytes"] = sum(p.stat().st_size for p in self._lab.folder.glob("*.log"))
            try:
                if conn is None or conn.closed:
                    conn = self._lab.connect()
                    conn.execute("set statement_timeout = '2s'")
                row = conn.execute(_LOOK, [self._queues, self._queues]).fetchone()
                line |= row._asdict() if row else {}
            except (psycopg.Error, OSError):
                with contextlib.suppress(Exception):
                    conn and conn.close()
                conn = None
            self._file.write(line)
        if conn is not None:
            conn.close()


def _rss(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
