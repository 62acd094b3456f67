"""Errors: their classes, retry policies, circuit breakers; what is stuck, what can be recovered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from ordinaut.calls.base import Conn, Json, jsonb, rows, scalar
from ordinaut.calls.task import Interval


@dataclass(frozen=True, slots=True)
class ErrorClass:
    """What kind of error it is, and whether another try can help."""

    category: str
    severity: str
    code: str
    recoverable: bool
    retryable: bool


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How errors of a category are tried again; max_attempts counts the first one."""

    category: str
    max_attempts: int
    retry: Any
    set_by: str
    set_at: datetime


@dataclass(frozen=True, slots=True)
class Breaker:
    """A circuit breaker; `changed_by` forced its state, `probe_at` is when the next unit tries."""

    name: str
    tools: list[str]
    state: str
    failures: int
    threshold: int
    window: str
    recovery: str
    categories: list[str]
    changed_at: datetime
    changed_by: str | None
    note: str | None
    probe_at: datetime | None
    probe_id: UUID | None
    parked: int


@dataclass(frozen=True, slots=True)
class Stuck:
    """A run that has been running for long; of a run of steps, the lease is None."""

    run_id: UUID
    task_id: UUID | None
    tool: str
    queue: str
    attempt: int
    started_at: datetime
    running_for: str
    worker_id: UUID | None
    lease_id: UUID | None


@dataclass(frozen=True, slots=True)
class TimedOut:
    """What became of a stuck run: timed_out, stuck (a dry run) or busy."""

    run_id: UUID
    running_for: str
    outcome: str


@dataclass(frozen=True, slots=True)
class FailedRun:
    """A failed run that may be worth recovering."""

    run_id: UUID
    task_id: UUID | None
    tool: str
    queue: str
    state: str
    category: str
    code: str
    message: str | None
    attempt: int
    finished_at: datetime


@dataclass(frozen=True, slots=True)
class ErrorStatistics:
    """Failed runs, counted."""

    total_failures: int
    by_category: dict[str, int]
    by_severity: dict[str, int]
    by_error_code: dict[str, int]
    recovery_candidates: int


@dataclass(frozen=True, slots=True)
class ExecutionStatistics:
    """Runs, counted; avg_duration in seconds; None where there is nothing to average."""

    total: int
    by_status: dict[str, int]
    avg_duration: float | None
    success_rate: float | None


@dataclass(frozen=True, slots=True)
class Changed:
    """One run of many: updated, skipped or failed, and into what or why."""

    run_id: UUID
    outcome: str
    detail: str | None


def classify_error(
    conn: Conn, type: str | None = None, message: str | None = None, sqlstate: str | None = None
) -> ErrorClass:
    """Return the class of an error that is known as text.

    Args:
        type: an exception's name, or a code as in E1001.

    Source: sql/classify.sql, ordinaut.classify_error
    """
    return rows(
        conn, ErrorClass, "classify_error", type=type, message=message, sqlstate=sqlstate
    )[0]  # fmt: skip


def list_retry_policies(conn: Conn) -> list[RetryPolicy]:
    """Return the policies that are set.

    Source: sql/retry.sql, ordinaut.list_retry_policies
    """
    return rows(conn, RetryPolicy, "list_retry_policies")


def set_retry_policy(conn: Conn, category: str, policy: Json = None) -> int:
    """Set the policy of a category of errors, or take it away (None); return how many changed.

    Args:
        category: or `defaults`, which loads those of all categories, or `none`.
        policy: {"max_attempts": 4, "base": "2 s", …}.

    Raises:
        psycopg.errors.InvalidParameterValue: no such category, or no such policy.

    Source: sql/retry.sql, ordinaut.set_retry_policy
    """
    return int(scalar(conn, "set_retry_policy", category=category, policy=jsonb(policy)))


def list_breakers(conn: Conn) -> list[Breaker]:
    """Return every circuit breaker.

    Source: sql/breaker_calls.sql, ordinaut.list_breakers
    """
    return rows(conn, Breaker, "list_breakers")


def set_breaker(
    conn: Conn,
    name: str,
    tools: Sequence[str] | None = None,
    *,
    threshold: int | None = None,
    window: Interval | None = None,
    recovery: Interval | None = None,
    categories: Sequence[str] | None = None,
) -> None:
    """Guard tools (None: the one of that name) by a circuit breaker.

    Args:
        threshold: so many failures in a row within `window` open it.
        recovery: after so long one unit tries.
        categories: of the errors that count.

    Raises:
        Conflict: another breaker guards one of the tools.
        psycopg.errors.InvalidParameterValue: an argument is refused.

    Source: sql/breaker_calls.sql, ordinaut.set_breaker
    """
    scalar(
        conn, "set_breaker", name=name, tools=None if tools is None else list(tools),
        threshold=threshold, window=window, recovery=recovery,
        categories=None if categories is None else list(categories),
    )  # fmt: skip


def open_breaker(conn: Conn, name: str, note: str | None = None) -> None:
    """Keep a breaker open, by hand.

    Raises:
        NotFound: there is none.

    Source: sql/breaker_calls.sql, ordinaut.open_breaker
    """
    scalar(conn, "open_breaker", name=name, note=note)


def close_breaker(conn: Conn, name: str, note: str | None = None) -> None:
    """Keep a breaker closed, by hand.

    Source: sql/breaker_calls.sql, ordinaut.close_breaker
    """
    scalar(conn, "close_breaker", name=name, note=note)


def reset_breaker(conn: Conn, name: str, note: str | None = None) -> None:
    """Close a breaker and let it decide by itself again.

    Source: sql/breaker_calls.sql, ordinaut.reset_breaker
    """
    scalar(conn, "reset_breaker", name=name, note=note)


def drop_breaker(conn: Conn, name: str, note: str | None = None) -> None:
    """Take a breaker away.

    Source: sql/breaker_calls.sql, ordinaut.drop_breaker
    """
    scalar(conn, "drop_breaker", name=name, note=note)


def breaker_allows(conn: Conn, name: str) -> bool:
    """Say that a breaker, or that of a tool, lets a call of one's own through.

    Raises:
        WrongState: Circuit breaker is OPEN.
        NotFound: there is none.

    Source: sql/breaker_calls.sql, ordinaut.breaker_allows
    """
    return bool(scalar(conn, "breaker_allows", name=name))


def get_stuck_runs(conn: Conn, after: Interval | None = None) -> list[Stuck]:
    """Return what has been running for `after` (None: 60 min) or longer.

    Source: sql/stuck.sql, ordinaut.get_stuck_runs
    """
    return rows(conn, Stuck, "get_stuck_runs", after=after)


def timeout_stuck(
    conn: Conn, after: Interval | None = None, dry_run: bool = False
) -> list[TimedOut]:
    """End what `get_stuck_runs` shows, as timed_out.

    Source: sql/stuck.sql, ordinaut.timeout_stuck
    """
    return rows(conn, TimedOut, "timeout_stuck", after=after, dry_run=dry_run)


def get_error_statistics(
    conn: Conn, since: datetime | str | None = None, task: str | None = None
) -> ErrorStatistics:
    """Count the runs that failed since then (None: a day ago).

    Source: sql/error_stats.sql, ordinaut.get_error_statistics
    """
    return rows(conn, ErrorStatistics, "get_error_statistics", since=since, task=task)[0]


def get_execution_statistics(
    conn: Conn, since: datetime | str | None = None, task: str | None = None
) -> ExecutionStatistics:
    """Count the runs that were asked for since then (None: a day ago).

    Source: sql/error_stats.sql, ordinaut.get_execution_statistics
    """
    return rows(conn, ExecutionStatistics, "get_execution_statistics", since=since, task=task)[0]


def get_failed_runs_for_recovery(
    conn: Conn, limit: int | None = None, min_age: Interval | None = None
) -> list[FailedRun]:
    """Return failed runs that may be worth recovering, oldest first.

    Source: sql/error_stats.sql, ordinaut.get_failed_runs_for_recovery
    """
    return rows(conn, FailedRun, "get_failed_runs_for_recovery", limit=limit, min_age=min_age)


def recover_run(conn: Conn, run_id: UUID | str, note: str | None = None) -> UUID:
    """Run again what failed; return the new run.

    Raises:
        NotFound, WrongState: there is no such run, or it is not in failed state.

    Source: sql/error_stats.sql, ordinaut.recover_run
    """
    new: UUID = scalar(conn, "recover_run", run_id=run_id, note=note)
    return new


def cancel_runs(conn: Conn, run_ids: Sequence[UUID], note: str | None = None) -> list[Changed]:
    """Cancel many runs.

    Source: sql/error_stats.sql, ordinaut.cancel_runs
    """
    return rows(conn, Changed, "cancel_runs", run_ids=list(run_ids), note=note)


def retry_runs(conn: Conn, run_ids: Sequence[UUID], note: str | None = None) -> list[Changed]:
    """Run many runs again.

    Source: sql/error_stats.sql, ordinaut.retry_runs
    """
    return rows(conn, Changed, "retry_runs", run_ids=list(run_ids), note=note)
