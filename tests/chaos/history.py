"""
A recorded history: what a run of chaos leaves, written as it happens and read once it is over.

One directory.  Lines of .jsonl files are appended by one os.write each; a line that a crash cut off
is passed over and counted (History.torn).

    witness.jsonl   by test tools, outside PostgreSQL, fsynced, on the host that ran the tool:
        {"e": "start"|"end", "run": uuid, "work": uuid, "step": name|null, "task": uuid|null,
         "attempt": n, "token": lease uuid, "key": text|null, "scheduled_for": iso|null,
         "outcome": text, "result": json,      of an end only: success, failed, released, ...
         "rt": CLOCK_REALTIME, "mt": CLOCK_MONOTONIC, "boot": name of the clocks, "pid": n}
    client.jsonl    a line before a call (t1 null), and the same n again after it:
        {"n": serial, "call": name, "args": {...}, "t0": rt, "t1": rt|null,
         "answer": "ok"|"fail"|"unknown", "result": json, "error": {"sqlstate", "message"}|null}
        fail: the server said no, and nothing happened.  unknown: the answer never came; so is a
        call without its second line.  Names and arguments are those of the SQL functions, without
        p_, result is what they return (one row: an object; one column: its value).  Read are:
        enqueue         args idempotency_key, queue, key; result run_id, or {"run_id", ...}
        enqueue_many    result: a list of either
        run_now         as enqueue
        create_task     args namespace, name; result task_id
        cancel_run      args run_id; result cancelled | requested | too_late
        retry_run       args run_id; result [{"run_id", "retried_as", "outcome"}] or one of them
        complete_work   args lease_id, work_id, output; result anything (also called: complete)
        respond         args approval_id (or step_id), response; result anything
        emit_event      args topic, key, payload; result event_id, or {"event_id", ...}
    faults.jsonl    {"fault": kind, "target": text, "t0": rt, "t1": rt when it was healed|null}
    samples.jsonl   {"t": rt, "connections": n, "rss": {name: bytes}, "fds": {name: n},
                     "log_bytes": n, "tables": {name: bytes}, "due": n, "late": seconds, ...}
    dump/TABLE.jsonl  row_to_json of every row of every table of schema ordinaut (of a partitioned
        one the parent), instants in UTC, taken when everything has come to rest: dump() below
    before/run_log.jsonl  an earlier dump of the journal, if there is one: nothing may be gone since
    config.json     everything may be left out:
        {"seed": n, "now": server time of the dump, "lease_ttl": s, "quiescent": true,
         "bounds": {"recovery_s", "start_late_s", "kill_grace_s", "clock_s", "connections",
                    "rss_bytes", "rss_growth", "fds", "log_bytes_per_s", "table_bytes",
                    "table_growth", "backlog", "late_s", "async_window_s", "sweep_s"},
         "declared": {"async_failover": bool, "self_fencing": bool},
         "keys": {prefix: limit}, "queues": [...], "fifo_keys": [prefix, ...],
         "witnessed": [tool, ...],     tools that write to the witness; left out: all but CONTROL
         "shifted": [boot, ...],       clocks that were set wrong on purpose
         "canary": text, "logs": [files in which the canary must not be]}

The token is the id of the lease under which a unit runs.  This module knows nothing of the product,
and neither does what reads by it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

Row = dict[str, Any]


class Recorder:
    """Append lines to one file of a history; safe from several processes and from a crash.

    Args:
        durable: flush each line to the disk before going on.
    """

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        self._durable = durable

    def write(self, record: Row) -> None:
        line = json.dumps(record, default=str, separators=(",", ":")) + "\n"
        os.write(self._fd, line.encode())
        if self._durable:
            os.fsync(self._fd)

    def close(self) -> None:
        os.close(self._fd)


TABLES = """
select c.relname::text
from pg_class as c
where c.relnamespace = 'ordinaut'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
order by 1
"""


def dump(conn: Any, directory: Path) -> str:
    """Write every table of schema ordinaut under `directory`, in one snapshot.

    Args:
        conn: a psycopg connection with the right to read the tables, in no transaction.

    Returns:
        The server's time of the snapshot, for config.json.
    """
    into = directory / "dump"
    into.mkdir(parents=True, exist_ok=True)
    with conn.transaction():
        conn.execute("set transaction isolation level repeatable read, read only")
        conn.execute("set local timezone = 'UTC'")
        conn.execute("set local statement_timeout = 0")
        tables = [row[0] for row in conn.execute(TABLES).fetchall()]
        for table in tables:
            with open(into / f"{table}.jsonl", "w", encoding="utf-8") as file:
                cur = conn.cursor(name=f"dump_{table}")
                cur.execute(f'select row_to_json(t)::text from ordinaut."{table}" as t')
                for row in cur:
                    file.write(row[0] + "\n")
                cur.close()
        return str(conn.execute("select to_json(clock_timestamp())::text").fetchone()[0]).strip('"')


def instant(text: Any) -> datetime | None:
    """Read a timestamp of the dump, or seconds of CLOCK_REALTIME; None and infinity: None."""
    if text is None or text in ("infinity", "-infinity"):
        return None
    if isinstance(text, int | float):
        return datetime.fromtimestamp(text, UTC)
    at = datetime.fromisoformat(text)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def seconds(text: Any) -> float | None:
    """Read an instant as seconds since 1970."""
    at = instant(text)
    return None if at is None else at.timestamp()


def read_lines(path: Path) -> tuple[list[Row], int]:
    """Return the whole lines of a file, and how many were cut off; no file: none."""
    rows: list[Row] = []
    torn = 0
    if not path.exists():
        return rows, torn
    for line in path.read_bytes().split(b"\n"):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError:
                torn += 1
                continue
            if isinstance(row, dict):
                rows.append(row)
            else:
                torn += 1
    return rows, torn


@dataclass(frozen=True, slots=True)
class Start:
    """One attempt as the witness saw it; `end` is None if the tool never came to its end."""

    run: str
    work: str
    step: str | None
    task: str | None
    attempt: int
    token: str
    key: str | None
    scheduled_for: str | None
    rt: float
    mt: float
    boot: str
    pid: int
    end: Row | None

    def until(self) -> float | None:
        """When it ended, in its own monotonic clock."""
        return None if self.end is None else float(self.end["mt"])


@dataclass(frozen=True, slots=True)
class Call:
    """One API call, as its client saw it."""

    n: int
    call: str
    args: Row
    t0: float
    t1: float | None
    answer: str
    result: Any
    error: Row | None


@dataclass
class History:
    """All that was recorded, typed, and the indexes that several invariants need."""

    config: Row
    witness: list[Row] = field(default_factory=list)
    client: list[Row] = field(default_factory=list)
    faults: list[Row] = field(default_factory=list)
    samples: list[Row] = field(default_factory=list)
    tables: dict[str, list[Row]] = field(default_factory=dict)
    torn: dict[str, int] = field(default_factory=dict)
    directory: Path | None = None

    def table(self, name: str) -> list[Row]:
        return self.tables.get(name, [])

    def bound(self, name: str, default: float) -> float:
        return float((self.config.get("bounds") or {}).get(name, default))

    def declares(self, name: str) -> bool:
        return bool((self.config.get("declared") or {}).get(name))

    @property
    def now(self) -> datetime | None:
        return instant(self.config.get("now"))

    def is_shifted(self, boot: str) -> bool:
        return boot in (self.config.get("shifted") or [])

    @cached_property
    def starts(self) -> list[Start]:
        """The attempts that the witness saw, each with its end, in the order of the file."""
        ends: dict[tuple[str, int, str, int], Row] = {}
        for row in self.witness:
            if row["e"] == "end":
                ends.setdefault((row["work"], row["attempt"], row["token"], row["pid"]), row)
        return [
            Start(
                row["run"], row["work"], row.get("step"), row.get("task"), row["attempt"],
                row["token"], row.get("key"), row.get("scheduled_for"), float(row["rt"]),
                float(row["mt"]), str(row.get("boot")), row["pid"],
                ends.get((row["work"], row["attempt"], row["token"], row["pid"])),
            )
            for row in self.witness
            if row["e"] == "start"
        ]  # fmt: skip

    @cached_property
    def calls(self) -> list[Call]:
        """The calls, each once: by its second line if it has one, else unknown."""
        by_n: dict[int, Row] = {}
        for row in self.client:
            if row["n"] not in by_n or row.get("t1") is not None:
                by_n[row["n"]] = row
        return [
            Call(
                row["n"], row["call"], row.get("args") or {}, float(row["t0"]), row.get("t1"),
                row.get("answer") or "unknown" if row.get("t1") is not None else "unknown",
                row.get("result"), row.get("error"),
            )
            for row in by_n.values()
        ]  # fmt: skip

    def called(self, *names: str) -> Iterator[Call]:
        return (call for call in self.calls if call.call in names)


def load(directory: Path) -> History:
    """Read a recorded history.

    Raises:
        FileNotFoundError: there is no dump in this directory.
    """
    into = directory / "dump"
    if not into.is_dir():
        raise FileNotFoundError(f"{directory} is no recorded history: it has no dump/")
    config = directory / "config.json"
    history = History(json.loads(config.read_text()) if config.exists() else {})
    history.directory = directory
    for name in ("witness", "client", "faults", "samples"):
        rows, history.torn[name] = read_lines(directory / f"{name}.jsonl")
        setattr(history, name, rows)
    for path in sorted(into.glob("*.jsonl")):
        history.tables[path.stem], history.torn[path.stem] = read_lines(path)
    return history
