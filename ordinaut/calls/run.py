"""Runs: asking for them, looking at them, cancelling and repeating them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from psycopg.rows import scalar_row
from psycopg.types.json import Jsonb

from ordinaut.calls.base import Conn, Json, jsonb, rows, scalar
from ordinaut.calls.task import Interval
from ordinaut.errors import NotFound


@dataclass(frozen=True, slots=True)
class Enqueued:
    """The answer to an enqueue; outcome is new, existing or dropped (then run_id may be None)."""

    run_id: UUID | None
    outcome: str


@dataclass(frozen=True, slots=True)
class Run:
    """One run, live or finished; `backfill_id` is what made it up, if a backfill did.

    `current_step` is what a run of steps (`pipeline_id`) runs now, or what its tool said last.
    """

    run_id: UUID
    task_id: UUID | None
    task: str | None
    tool: str
    queue: str
    priority: int
    state: str
    reason: str | None
    payload: Any
    output: Any
    error: Any
    attempt: int
    failures: int
    crashes: int
    max_attempts: int
    key: str | None
    idempotency_key: str | None
    worker_id: UUID | None
    enqueued_at: datetime | None
    scheduled_for: datetime | None
    run_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    retry_of: UUID | None
    progress: Any
    backfill_id: UUID | None
    error_message: str | None
    progress_percentage: Decimal | None
    current_step: str | None
    pipeline_id: UUID | None
    parent_run_id: UUID | None


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a run's history; `step` is whose, if it is not the run's own."""

    at: datetime
    event: str
    state: str | None
    attempt: int | None
    worker_id: UUID | None
    actor: str | None
    detail: Any
    step: str | None


@dataclass(frozen=True, slots=True)
class Retried:
    """A finished run, and the run that repeats it (None: outcome says why not)."""

    run_id: UUID
    retried_as: UUID | None
    outcome: str


def enqueue(
    conn: Conn,
    tool: str | None = None,
    payload: Json = None,
    *,
    pipeline: list[Any] | None = None,
    queue: str | None = None,
    priority: int | None = None,
    run_at: datetime | str | None = None,
    delay: Interval | None = None,
    key: str | None = None,
    key_limit: int | None = None,
    if_busy: str | None = None,
    idempotency_key: str | None = None,
    idempotent_for: Interval | None = None,
    max_attempts: int | None = None,
    retry: Json = None,
    timeout: Interval | None = None,
    run_id: UUID | None = None,
) -> Enqueued:
    """Ask for one run of a tool, or of a pipeline.

    Args:
        pipeline: in place of a tool, the steps; payload has their params.
        priority: 1 (first) to 9.
        run_at: not before; None: now.  Or `delay`, not both.
        key: runs of one key take turns, `key_limit` at a time; `if_busy` wait or drop.
        idempotency_key: a second call with it within `idempotent_for` gets the first one's run.
        run_id: choose it (a uuid v7 of today) to make the call repeatable after a lost answer.

    Raises:
        psycopg.errors.InvalidParameterValue: an argument is refused; the message says which.
        psycopg.errors.ProgramLimitExceeded: the payload is too large.

    Source: sql/enqueue.sql, ordinaut.enqueue
    """
    return rows(
        conn, Enqueued, "enqueue", tool=tool, payload=jsonb(payload), pipeline=jsonb(pipeline),
        queue=queue, priority=priority, run_at=run_at, delay=delay, key=key, key_limit=key_limit,
        if_busy=if_busy, idempotency_key=idempotency_key, idempotent_for=idempotent_for,
        max_attempts=max_attempts, retry=jsonb(retry), timeout=timeout, run_id=run_id,
    )[0]  # fmt: skip


def enqueue_many(
    conn: Conn,
    items: Sequence[Mapping[str, Any]],
    *,
    tool: str | None = None,
    queue: str | None = None,
    priority: int | None = None,
    max_attempts: int | None = None,
) -> list[Enqueued]:
    """Ask for many runs in one statement: all of them or, on an error, none.

    Args:
        items: keys are the arguments of `enqueue`; what an item leaves out, the call gives.
            Values are JSON: timestamps and intervals as text.

    Returns:
        One answer per item, in their order.

    Source: sql/enqueue.sql, ordinaut.enqueue_many
    """
    if not items:
        return []
    return rows(
        conn, Enqueued, "enqueue_many", items=Jsonb([_plain(item) for item in items]), tool=tool,
        queue=queue, priority=priority, max_attempts=max_attempts,
    )  # fmt: skip


def _plain(item: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(item)
    for name, value in out.items():
        if isinstance(value, datetime):
            out[name] = value.isoformat()
        elif isinstance(value, timedelta):
            out[name] = f"{value / timedelta(microseconds=1):.0f} us"
        elif isinstance(value, UUID):
            out[name] = str(value)
    return out


def run_now(
    conn: Conn, task: str | UUID, payload: Json = None, idempotency_key: str | None = None
) -> Enqueued:
    """Run a task once, now, beside its schedule.

    Args:
        payload: instead of the task's own; None: the task's own.

    Raises:
        NotFound, WrongState: no such task, or it is not active.

    Source: sql/task.sql, ordinaut.run_now
    """
    return rows(
        conn, Enqueued, "run_now", task=str(task), payload=jsonb(payload),
        idempotency_key=idempotency_key,
    )[0]  # fmt: skip


def get_run(conn: Conn, run_id: UUID | str) -> Run:
    """Return one run.

    Raises:
        NotFound: there is none, or retention has taken it.

    Source: sql/observe.sql, ordinaut.get_run
    """
    found = rows(conn, Run, "get_run", run_id=run_id)
    if not found:
        raise NotFound(f"run {run_id} does not exist")
    return found[0]


def list_runs(
    conn: Conn,
    *,
    task: str | None = None,
    queue: str | None = None,
    state: str | None = None,
    tool: str | None = None,
    since: datetime | str | None = None,
    limit: int | None = None,
) -> list[Run]:
    """Return runs, newest first.

    Source: sql/observe.sql, ordinaut.list_runs
    """
    return rows(
        conn, Run, "list_runs", task=task, queue=queue, state=state, tool=tool, since=since,
        limit=limit,
    )  # fmt: skip


def find_run(conn: Conn, tail: str) -> UUID:
    """Return the only run whose id ends in `tail`.

    Raises:
        NotFound: none does, or several do.

    Source: sql/observe.sql, ordinaut.find_run
    """
    cur = conn.cursor(row_factory=scalar_row)
    found = cur.execute("select * from ordinaut.find_run(p_tail => %s)", [tail]).fetchall()
    if len(found) != 1:
        raise NotFound(
            f"{len(found) or 'no'} run{'s have' if found else ' has'} an id that ends in {tail!r}"
        )
    return UUID(str(found[0]))


def run_history(conn: Conn, run_id: UUID) -> list[Event]:
    """Return every transition of a run and every line of its journal, oldest first.

    Source: sql/runlog.sql, ordinaut.run_history
    """
    return rows(conn, Event, "run_history", run_id=run_id)


def cancel_run(conn: Conn, run_id: UUID, note: str | None = None) -> str:
    """Cancel a run: `cancelled`, `requested` (a worker has it) or `too_late`.

    Source: sql/settle.sql, ordinaut.cancel_run
    """
    return str(scalar(conn, "cancel_run", run_id=run_id, note=note))


def retry_run(
    conn: Conn,
    run_id: UUID | None = None,
    *,
    task: str | None = None,
    queue: str | None = None,
    tool: str | None = None,
    state: str | None = None,
    since: datetime | str | None = None,
    until: datetime | str | None = None,
    limit: int | None = None,
    note: str | None = None,
) -> list[Retried]:
    """Run finished runs again, as new runs: one, or all that the filters choose.

    Source: sql/settle.sql, ordinaut.retry_run
    """
    return rows(
        conn, Retried, "retry_run", run_id=run_id, task=task, queue=queue, tool=tool, state=state,
        since=since, until=until, limit=limit, note=note,
    )  # fmt: skip
