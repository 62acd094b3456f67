"""Tasks: lasting definitions, and the verbs on them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from ordinaut.calls.base import Conn, Json, jsonb, rows, scalar

Interval = str | timedelta


@dataclass(frozen=True, slots=True)
class Task:
    """One task as it stands.  Intervals are PostgreSQL's text: they may hold months."""

    task_id: UUID
    namespace: str
    name: str
    description: str | None
    tool: str
    payload: Any
    pipeline: Any
    queue: str
    priority: int
    schedule_kind: str
    schedule_expr: str | None
    timezone: str
    dst_gap: str | None
    dst_overlap: str | None
    exclude: list[str] | None
    start_at: datetime | None
    end_at: datetime | None
    key: str | None
    key_limit: int
    max_attempts: int
    retry: Any
    timeout: str | None
    catchup: str
    grace: str | None
    catchup_window: str | None
    catchup_rate: int | None
    overlap: str
    jitter: str | None
    max_runs: int | None
    pause_on_failure: int | None
    status: str
    status_note: str | None
    status_by: str | None
    status_at: datetime | None
    revision: int
    created_at: datetime
    created_by: str | None
    updated_at: datetime | None
    next_run: datetime | None
    last_run: datetime | None
    fired_count: int
    missed_count: int
    skipped_count: int
    buffered_count: int
    dropped_count: int
    excluded_count: int


def create_task(
    conn: Conn,
    name: str,
    tool: str | None = None,
    payload: Json = None,
    *,
    pipeline: list[Any] | None = None,
    schedule_kind: str | None = None,
    schedule_expr: str | None = None,
    timezone: str | None = None,
    start_at: datetime | str | None = None,
    end_at: datetime | str | None = None,
    namespace: str | None = None,
    description: str | None = None,
    queue: str | None = None,
    priority: int | None = None,
    key: str | None = None,
    key_limit: int | None = None,
    max_attempts: int | None = None,
    retry: Json = None,
    timeout: Interval | None = None,
    catchup: str | None = None,
    grace: Interval | None = None,
    allow_past: bool | None = None,
    dst_gap: str | None = None,
    dst_overlap: str | None = None,
    overlap: str | None = None,
    catchup_window: Interval | None = None,
    catchup_rate: int | None = None,
    jitter: Interval | None = None,
    max_runs: int | None = None,
    pause_on_failure: int | None = None,
    exclude: list[str] | None = None,
) -> UUID:
    """Create a task and return its id.

    Args:
        pipeline: in place of a tool, the steps that its runs take; payload has their params.
        schedule_kind: once, interval, cron, rrule, union, condition, event or manual (the
            default).
        schedule_expr: for once an ISO timestamp, for interval '5 min', '15 min phase 2 min' or
            '10 min after end', for condition 'every 30 s: select …', for event the topic (a.b,
            a.* or *), for cron five fields, or six with seconds first, for rrule what RFC 5545
            calls one, for union a JSON array of them: [{"kind": "cron", "expr": "@daily"}, …].
        start_at: no occurrence before it; the anchor of an interval, the DTSTART of a rule.
        dst_gap, dst_overlap: shift or skip; first, second or both.  None: as the kind has it.
        exclude: calendars of the namespace (`set_calendar`): what falls into one does not fire.
        priority: 1 (first) to 9.
        catchup: all, latest or none of what came while no scheduler ran; not what is older than
            catchup_window, and at most catchup_rate runs a minute.
        overlap: allow, skip, buffer_one, buffer_all or cancel_other, while a run of it is live.
        jitter: its runs start up to so much later, always the same.
        max_runs: then it is completed.
        pause_on_failure: so many failed runs in a row pause it.
        retry: {"base", "cap", "factor", "jitter", "strategy"}.

    Raises:
        Conflict: the namespace has a task of this name.
        psycopg.errors.InvalidParameterValue: an argument is refused; the message says which.

    Source: sql/task.sql, ordinaut.create_task
    """
    task_id: UUID = scalar(
        conn, "create_task", name=name, tool=tool, payload=jsonb(payload),
        pipeline=jsonb(pipeline), schedule_kind=schedule_kind, schedule_expr=schedule_expr,
        timezone=timezone, start_at=start_at, end_at=end_at, namespace=namespace,
        description=description, queue=queue, priority=priority, key=key, key_limit=key_limit,
        max_attempts=max_attempts, retry=jsonb(retry), timeout=timeout, catchup=catchup,
        grace=grace, allow_past=allow_past,
        dst_gap=dst_gap, dst_overlap=dst_overlap, overlap=overlap, catchup_window=catchup_window,
        catchup_rate=catchup_rate, jitter=jitter, max_runs=max_runs,
        pause_on_failure=pause_on_failure, exclude=exclude,
    )  # fmt: skip
    return task_id


def update_task(conn: Conn, task: str | UUID, patch: dict[str, Any]) -> int:
    """Change the named fields of a task and return its revision.

    Args:
        task: an id, the unique tail of one, `name` or `namespace/name`.
        patch: keys are the arguments of `create_task`.  Empty changes nothing.

    Raises:
        NotFound, psycopg.errors.InvalidParameterValue.

    Source: sql/task.sql, ordinaut.update_task
    """
    return int(scalar(conn, "update_task", task=str(task), patch=Jsonb(patch)))


def pause_task(conn: Conn, task: str | UUID, note: str | None = None) -> str:
    """Stop a task from firing and return its status.

    Source: sql/task.sql, ordinaut.pause_task
    """
    return str(scalar(conn, "pause_task", task=str(task), note=note))


def resume_task(conn: Conn, task: str | UUID, note: str | None = None) -> str:
    """Let a paused task fire again and return its status.

    Source: sql/task.sql, ordinaut.resume_task
    """
    return str(scalar(conn, "resume_task", task=str(task), note=note))


def cancel_task(conn: Conn, task: str | UUID, note: str | None = None) -> str:
    """End a task for good and return its status.

    Source: sql/task.sql, ordinaut.cancel_task
    """
    return str(scalar(conn, "cancel_task", task=str(task), note=note))


def snooze_task(
    conn: Conn, task: str | UUID, lasting: Interval, note: str | None = None
) -> datetime | None:
    """Put off the next firing by `lasting` and return when it will be.

    Source: sql/task.sql, ordinaut.snooze_task
    """
    args: dict[str, Any] = {"task": str(task), "for": lasting, "note": note}
    at: datetime | None = scalar(conn, "snooze_task", **args)
    return at


def get_task(conn: Conn, task: str | UUID) -> Task:
    """Return one task.

    Raises:
        NotFound: none has this id, tail or name.

    Source: sql/task.sql, ordinaut.get_task
    """
    return rows(conn, Task, "get_task", task=str(task))[0]


def list_tasks(
    conn: Conn,
    *,
    namespace: str | None = None,
    status: str | None = None,
    uses: str | None = None,
    limit: int | None = None,
    offset: int | None = None,
) -> list[Task]:
    """Return tasks, by namespace and name.

    Args:
        namespace, status: None for all.
        uses: only those that run this tool, also in a step.
        limit: None: 100.

    Source: sql/task.sql, ordinaut.list_tasks
    """
    return rows(
        conn, Task, "list_tasks", namespace=namespace, status=status, uses=uses, limit=limit,
        offset=offset,
    )  # fmt: skip


def jitter_share(conn: Conn, task_id: UUID) -> float:
    """Return where in its jitter the runs of a task start, 0 to 1.

    Source: sql/fire.sql, ordinaut._share; in full here, for those who may only read.
    """
    found = conn.execute(
        "select abs(hashtextextended(%s::text, 7146) %% 1000000) / 1e6::float8", [task_id]
    ).fetchone()
    return float(found[0]) if found else 0.0
