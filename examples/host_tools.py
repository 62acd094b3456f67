"""The Python tools of host.yaml: plain functions, called as `python:host_tools.<name>`."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from ordinaut import Context

TABLES = """
create table if not exists host_sample (
  at              timestamptz not null default now(),
  run_id          uuid        not null primary key,
  load1           float8      not null,
  memory_used     bigint,
  memory_total    bigint,
  database_bytes  bigint      not null,
  connections     integer     not null
);
create table if not exists host_disk (
  run_id  uuid    not null references host_sample,
  path    text    not null,
  used    bigint  not null,
  total   bigint  not null,
  primary key (run_id, path)
);
create table if not exists host_minute (
  minute           timestamptz not null primary key,
  samples          integer     not null,
  load_average     float8      not null,
  memory_used_max  bigint,
  database_bytes   bigint      not null
)
"""


def sample(context: Context, disks: list[str]) -> dict[str, Any]:
    """Record how this host and this database are.

    `context.connection` is one transaction with the completion of the run: the rows are there
    exactly once, whatever dies in between.
    """
    total, free = _memory()
    load = os.getloadavg()[0]
    used = None if total is None or free is None else total - free
    with context.connection.cursor() as cur:
        for statement in TABLES.split(";"):
            cur.execute("set local client_min_messages = warning")
            cur.execute(statement)
        cur.execute(
            "insert into host_sample"
            " (run_id, load1, memory_used, memory_total, database_bytes, connections)"
            " select %s, %s, %s, %s, pg_database_size(current_database()), count(*)"
            " from pg_stat_activity where datname = current_database()",
            [context.run_id, load, used, total],
        )
        seen = {}
        for path in disks:
            disk = shutil.disk_usage(path)
            seen[path] = f"{disk.used / disk.total:.0%}"
            cur.execute(
                "insert into host_disk (run_id, path, used, total) values (%s, %s, %s, %s)",
                [context.run_id, path, disk.used, disk.total],
            )
    result = {"load": round(load, 2), "memory_used": used, "disks": seen}
    _drop(Path("inbox"), f"{context.run_id}.json", result)
    return result


def unsteady(context: Context, failures: int) -> str:
    """Fail on the first attempts, as a sensor or a service on the network does."""
    if context.attempt <= failures:
        raise OSError(f"the sensor does not answer (attempt {context.attempt})")
    return f"answered at attempt {context.attempt}"


def _memory() -> tuple[int | None, int | None]:
    """Total and available bytes, where there is a /proc."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None, None
    sizes = {
        name: int(rest.split()[0]) * 1024 for name, _, rest in (s.partition(":") for s in lines)
    }
    return sizes.get("MemTotal"), sizes.get("MemAvailable")


def _drop(folder: Path, name: str, content: dict[str, Any]) -> None:
    """Write a file so that nobody ever sees half of it."""
    folder.mkdir(exist_ok=True)
    part = folder / f".{name}.part"
    part.write_text(json.dumps(content))
    part.rename(folder / name)
