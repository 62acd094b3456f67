"""Backfills: what a calendar held in the past, run now."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from ordinaut.calls.base import Conn, jsonb, rows, scalar
from ordinaut.calls.plan import Unplanned


@dataclass(frozen=True, slots=True)
class Backfill:
    """One request as it stands.

    Attributes:
        state: pending (a planner is waited for), done, failed or cancelled.
        fired: how many occurrences, from `first_at` to `last_at`; None: not done.
        left_alone: how many had a run before.
        at_most: more of them, and none fires.
        rate: runs a minute; None: all at once.
        reason: why it failed, or what was cancelled.
    """

    backfill_id: UUID
    task: str
    state: str
    from_at: datetime
    to_at: datetime
    fired: int | None
    left_alone: int | None
    first_at: datetime | None
    last_at: datetime | None
    at_most: int
    rate: int | None
    revision: int
    reason: str | None
    note: str | None
    created_at: datetime
    created_by: str
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class UnplannedBackfill(Unplanned):
    """A backfill that waits for what its task's calendar holds after `plan_after` to `end_at`."""

    backfill_id: UUID


def backfill(
    conn: Conn,
    task: str | UUID,
    low: datetime | str,
    high: datetime | str,
    *,
    limit: int | None = None,
    rate: int | None = None,
    note: str | None = None,
) -> UUID:
    """Run a task once for each occurrence of a range that has no run; return the request's id.

    It goes by the task as it is now: calendar, payload and queue.  What calendars exclude now
    does not run.

    Args:
        low: the first instant of the range.
        high: the first instant after it, at most now.
        limit: of occurrences; more, and none runs.  None: 1000; at most 10000.
        rate: runs a minute; None: all at once.

    Raises:
        NotFound, WrongState: no such task, or it is cancelled or invalid.
        psycopg.errors.InvalidParameterValue: the range, or a task without a calendar.
        psycopg.errors.ConfigurationLimitExceeded: its queue has no room.

    Source: sql/backfill_calls.sql, ordinaut.backfill
    """
    named: dict[str, Any] = {"from": low, "to": high}
    backfill_id: UUID = scalar(
        conn, "backfill", task=str(task), limit=limit, rate=rate, note=note, **named
    )
    return backfill_id


def list_backfills(
    conn: Conn, task: str | UUID | None = None, limit: int | None = None
) -> list[Backfill]:
    """Return the backfills of a task, or of all, the latest first.

    Args:
        limit: None: 100.

    Source: sql/backfill_calls.sql, ordinaut.list_backfills
    """
    name = None if task is None else str(task)
    return rows(conn, Backfill, "list_backfills", task=name, limit=limit)


def cancel_backfill(conn: Conn, backfill_id: UUID, note: str | None = None) -> int:
    """Cancel a backfill, and return how many of its runs: those that have not started.

    Raises:
        NotFound: there is none.

    Source: sql/backfill_calls.sql, ordinaut.cancel_backfill
    """
    return int(scalar(conn, "cancel_backfill", backfill_id=backfill_id, note=note))


def unplanned_backfills(
    conn: Conn, limit: int | None = None, backfill_id: UUID | None = None
) -> list[UnplannedBackfill]:
    """Return backfills that wait for a planner, the oldest first.

    Args:
        limit: None: 1.
        backfill_id: only this one.

    Source: sql/backfill_calls.sql, ordinaut.unplanned_backfills
    """
    return rows(
        conn, UnplannedBackfill, "unplanned_backfills", limit=limit, backfill_id=backfill_id
    )


def plan_backfill(
    conn: Conn, backfill_id: UUID, at: list[datetime], notes: dict[str, str] | None = None
) -> bool:
    """Fire the occurrences of a backfill.

    Args:
        notes: what a change of the clocks did, by instant.

    Returns:
        False: it is not pending any more, or somebody holds its task; nothing is stored.

    Source: sql/backfill_calls.sql, ordinaut.plan_backfill
    """
    found = conn.execute(
        "select ordinaut.plan_backfill(%s, %s::timestamptz[], %s)",
        [backfill_id, at, jsonb(dict(notes or {}))],
    ).fetchone()
    return bool(found and found[0])


def fail_backfill(conn: Conn, backfill_id: UUID, reason: str) -> bool:
    """End a pending backfill; False: it is not pending any more, or somebody holds its task.

    Source: sql/backfill_calls.sql, ordinaut.fail_backfill
    """
    return bool(scalar(conn, "fail_backfill", backfill_id=backfill_id, reason=reason))
