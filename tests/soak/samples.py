"""What is measured every few seconds: of processes in /proc, of tables in the catalog."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import psycopg

from tests.soak.lab import Lab

HOT = (
    "due_work", "parked", "lease", "hold", "worker", "task", "task_schedule", "cancel_request",
    "queue", "breaker", "unheard_end", "backfill", "pipeline", "pipeline_step", "calendar",
)  # fmt: skip
HISTORY = ("task_run", "run_log", "step", "occurrence", "event", "payload", "approval")
_SIZES = """
  select coalesce(p.relname, c.relname)::text as name,
    sum(pg_relation_size(c.oid))::bigint as heap,
    sum(pg_indexes_size(c.oid))::bigint as indexes,
    sum(pg_total_relation_size(c.oid) - pg_relation_size(c.oid) - pg_indexes_size(c.oid))::bigint
      as toast,
    coalesce(sum(pg_stat_get_dead_tuples(c.oid)), 0)::bigint as dead,
    count(*) as parts
  from pg_class as c
  left join pg_inherits as i on i.inhrelid = c.oid
  left join pg_class as p on p.oid = i.inhparent
  where c.relnamespace = 'ordinaut'::regnamespace and c.relkind = 'r'
  group by 1
"""
_FIGURES = """
  select
    (select count(*) from pg_stat_activity as a where a.backend_type = 'client backend'),
    (select count(*) from ordinaut.due_work),
    (select coalesce(extract(epoch from ordinaut.now() - min(w.run_at)), 0)
      from ordinaut.due_work as w where w.run_at < ordinaut.now()),
    (select count(*) from ordinaut.lease),
    pg_current_wal_lsn() - '0/0'::pg_lsn,
    (select sum(pg_stat_get_tuples_inserted(i.inhrelid)) from pg_inherits as i
      where i.inhparent = 'ordinaut.task_run'::regclass),
    (select sum(s.fired_count) from ordinaut.task_schedule as s),
    (select count(*) from ordinaut.due_work) + (select count(*) from ordinaut.parked)
      + (select count(*) from ordinaut.lease) + (select count(*) from ordinaut.cancel_request)
      + (select count(*) from ordinaut.unheard_end)
      + (select count(*) from ordinaut.hold as h where h.held_until is null)
"""


class Sampler:
    """Takes samples, and appends them to samples.jsonl."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._conn = psycopg.connect(lab.server.dsn, autocommit=True, application_name="soak-look")
        self._out = (lab.folder / "samples.jsonl").open("a")
        self.taken: list[dict[str, Any]] = []

    def close(self) -> None:
        self._conn.close()
        self._out.close()

    def take(self, phase: str) -> None:
        """Append a sample."""
        figures = self._conn.execute(_FIGURES).fetchone()
        assert figures is not None
        connections, due, late, leases, wal, runs, fired, left = figures
        sizes = {
            name: {"heap": heap, "indexes": indexes, "toast": toast, "dead": dead, "parts": parts}
            for name, heap, indexes, toast, dead, parts in self._conn.execute(_SIZES).fetchall()
        }
        rss, fds = self._processes()
        logs = {path.stem: path.stat().st_size for path in sorted(self._lab.folder.glob("*.log"))}
        logs["postgres"] = self._lab.server.log.stat().st_size
        sample = {
            "t": time.time(), "phase": phase, "connections": connections, "rss": rss, "fds": fds,
            "log_bytes": sum(logs.values()), "logs": logs,
            "tables": {n: s["heap"] + s["indexes"] + s["toast"] for n, s in sizes.items()},
            "sizes": sizes, "due": due, "late": float(late), "leases": leases, "wal": int(wal),
            "runs": int(runs), "fired": int(fired or 0), "left": left,
        }  # fmt: skip
        self.taken.append(sample)
        self._out.write(json.dumps(sample) + "\n")
        self._out.flush()

    def _processes(self) -> tuple[dict[str, int], dict[str, int]]:
        """Private memory and open files, by the process's place: it may be another each time."""
        children: dict[int, list[int]] = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = stat.read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
        places: dict[str, int] = {}
        for name, process in self._lab.processes.items():
            places[name] = process.pid
            for parent in sorted(children.get(process.pid, [])):
                places[f"{name}/parent"] = parent
                for n, child in enumerate(sorted(children.get(parent, []))):
                    places[f"{name}/child{n}"] = child
        asked = "select a.application_name, a.pid from pg_stat_activity as a" \
            " where a.backend_type = 'client backend' order by a.backend_start"  # fmt: skip
        for name, pid in self._conn.execute(asked).fetchall():
            n = sum(place.startswith(f"pg {name} ") for place in places)
            places[f"pg {name} {n}"] = pid
        rss, fds = {}, {}
        for place, pid in places.items():
            with contextlib.suppress(OSError):  # it has just ended
                status = Path(f"/proc/{pid}/status").read_text().split("RssAnon:")
                rss[place] = int(status[1].split()[0]) * 1024
                fds[place] = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        return rss, fds
