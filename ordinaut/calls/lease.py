"""Leasing and settling, one call at a time: what psql does, and the worker off its hot path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from ordinaut.calls.base import Conn, Json, jsonb, rows, scalar


@dataclass(frozen=True, slots=True)
class Work:
    """One unit of work on loan; `lease_id` is the token that proves the loan."""

    lease_id: UUID
    work_id: UUID
    run_id: UUID
    task_id: UUID | None
    step: str | None
    tool: str
    payload: Any
    attempt: int
    failures: int
    max_attempts: int
    timeout: str | None
    priority: int
    run_at: datetime
    scheduled_for: datetime | None
    key: str | None


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of a unit.  `already`: this lease had settled it before."""

    work_id: UUID
    outcome: str


@dataclass(frozen=True, slots=True)
class Heard:
    """News from a heartbeat: kind is lost, cancel or sweep."""

    kind: str
    lease_id: UUID | None
    work_id: UUID | None


def register_worker(
    conn: Conn,
    worker_id: UUID,
    queues: Sequence[str],
    tools: Sequence[str],
    *,
    name: str | None = None,
    version: str | None = None,
    api: int | None = None,
    ttl: timedelta | None = None,
    concurrency: int | None = None,
) -> None:
    """Announce a worker, so that it may lease and what waits for its tools is released.

    Args:
        worker_id: new for every process; never reused.
        tools: exact names, or a prefix as in 'python:*'.
        ttl: silence for longer than this means dead; None: 60 s.

    Raises:
        VersionSkew: the database speaks another API; exit 75.

    Source: sql/lease.sql, ordinaut.register_worker
    """
    scalar(
        conn, "register_worker", worker_id=worker_id, queues=list(queues), tools=list(tools),
        name=name, version=version, api=api, ttl=ttl, concurrency=concurrency,
    )  # fmt: skip


def deregister_worker(conn: Conn, worker_id: UUID, state: str = "stopped") -> int:
    """Take a worker off the list and return how many units it gave back.

    Args:
        state: `stopped` gives its leases back uncharged; `dead` charges a crash to each.

    Idempotent.

    Source: sql/lease.sql, ordinaut.deregister_worker
    """
    return int(scalar(conn, "deregister_worker", worker_id=worker_id, state=state) or 0)


def lease_work(
    conn: Conn,
    worker: str,
    queue: str = "default",
    limit: int = 1,
    lasting: timedelta | None = None,
    lease_id: UUID | None = None,
) -> list[Work]:
    """Borrow up to `limit` due units of one queue on an ad-hoc lease.

    Args:
        worker: the id of a registered worker, or free text kept for people.
        lasting: how long, by the server's clock; None: one minute.  `heartbeat` extends it.
        lease_id: choose it to make the call repeatable after a lost answer.

    Returns:
        0 to `limit` units, highest priority first.  Empty means nothing is due *or* others
        hold the rest; the two cannot be told apart.

    Raises:
        psycopg.errors.InvalidParameterValue: `limit` or `lasting` too small.

    Source: sql/lease.sql, ordinaut.lease_work
    """
    args: dict[str, Any] = {"for": lasting}
    return rows(
        conn, Work, "lease_work", worker=worker, queue=queue, limit=limit, lease_id=lease_id, **args
    )


def listen(conn: Conn) -> None:
    """Hear of new work from now on; for a session of our own only, never through a pooler."""
    conn.execute("listen ordinaut")


def heartbeat(
    conn: Conn,
    id: UUID,
    lasting: timedelta | None = None,
    lease_ids: Sequence[UUID] | None = None,
) -> list[Heard]:
    """Say that a worker lives, or extend an ad-hoc lease.

    Args:
        id: of the worker, or of the lease.
        lasting: for a lease: how long from now on.
        lease_ids: all leases that the worker holds, those of exchanges under way included:
            others of this worker go back uncharged.  None compares nothing.

    Returns:
        lost (a lease that the database lacks), cancel (a unit to stop), sweep.

    Raises:
        WorkerUnknown: register again under a new id.
        LeaseLost: the ad-hoc lease is gone.

    Source: sql/lease.sql, ordinaut.heartbeat
    """
    held = None if lease_ids is None else list(lease_ids)
    args: dict[str, Any] = {"for": lasting}
    return rows(conn, Heard, "heartbeat", id=id, lease_ids=held, **args)


def complete_work(
    conn: Conn, lease_id: UUID, work_id: UUID | None = None, output: Json = None
) -> list[Settled]:
    """End leased work with success.

    Args:
        work_id: one unit; None: all that the lease still holds.

    Raises:
        LeaseLost: drop the result.

    Source: sql/settle.sql, ordinaut.complete_work
    """
    return rows(
        conn, Settled, "complete_work", lease_id=lease_id, work_id=work_id, output=jsonb(output)
    )


def fail_work(
    conn: Conn,
    lease_id: UUID,
    work_id: UUID | None = None,
    error: str | None = None,
    *,
    retryable: bool = True,
    retry_after: timedelta | None = None,
    details: Json = None,
) -> list[Settled]:
    """Report a failed attempt.

    Args:
        retry_after: the tool's own wish; None: the backoff of the work's policy.

    Returns:
        outcome `retry` when it will be tried again, `failed` or `cancelled` when not.

    Raises:
        LeaseLost: somebody else has the work.

    Source: sql/settle.sql, ordinaut.fail_work
    """
    return rows(
        conn, Settled, "fail_work", lease_id=lease_id, work_id=work_id, error=error,
        retryable=retryable, retry_after=retry_after,
        details=jsonb(details),
    )  # fmt: skip


def release_work(
    conn: Conn, lease_id: UUID, work_id: UUID | None = None, note: str | None = None
) -> list[Settled]:
    """Give work back unstarted; it keeps its place in line and is charged nothing.

    Source: sql/lease.sql, ordinaut.release_work
    """
    return rows(conn, Settled, "release_work", lease_id=lease_id, work_id=work_id, note=note)


def snooze_work(
    conn: Conn, lease_id: UUID, work_id: UUID | None, lasting: timedelta, note: str | None = None
) -> list[Settled]:
    """Give work back for a while; it is charged nothing.

    Source: sql/settle.sql, ordinaut.snooze_work
    """
    args: dict[str, Any] = {"lease_id": lease_id, "work_id": work_id, "for": lasting, "note": note}
    return rows(conn, Settled, "snooze_work", **args)


def assert_lease(conn: Conn, lease_id: UUID, work_id: UUID) -> None:
    """Hold the lease for the rest of the caller's transaction, or raise.

    Raises:
        LeaseLost, WorkCancelled: roll back.

    Source: sql/lease.sql, ordinaut.assert_lease
    """
    scalar(conn, "assert_lease", lease_id=lease_id, work_id=work_id)


def log_work(conn: Conn, lease_id: UUID, work_id: UUID, event: str, data: Json) -> None:
    """Write a line into the journal of leased work.

    Source: sql/runlog.sql, ordinaut.log_work
    """
    scalar(conn, "log_work", lease_id=lease_id, work_id=work_id, event=event, data=Jsonb(data))


def reap(conn: Conn, limit: int | None = None) -> int:
    """Take back what dead workers and expired leases hold, and return how many units.

    Source: sql/lease.sql, ordinaut.reap
    """
    return int(scalar(conn, "reap", limit=limit) or 0)
