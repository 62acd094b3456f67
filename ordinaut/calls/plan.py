"""Plans: what the planner reads, and what it hands back."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from ordinaut.calls.base import Conn, jsonb, rows, scalar


@dataclass(frozen=True, slots=True)
class Unplanned:
    """A task whose calendar is to be expanded from `plan_after` on; `now` is the server's."""

    task_id: UUID
    revision: int
    schedule_kind: str
    schedule_expr: str
    timezone: str
    dst_gap: str | None
    dst_overlap: str | None
    dtstart: datetime
    start_at: datetime | None
    plan_after: datetime
    end_at: datetime | None
    now: datetime
    calendars: list[dict[str, Any]] | None


@dataclass(frozen=True, slots=True)
class ZoneUse:
    """A time zone of active and paused tasks, and of calendars.

    Attributes:
        uses: how many tasks and calendars.
        example: one of them.
        releases: of the IANA data that plans were made with; None: there is no plan.
    """

    timezone: str
    uses: int
    example: str
    releases: list[str] | None


def zones_in_use(conn: Conn) -> list[ZoneUse]:
    """Return the time zones of active and paused tasks, and of calendars.

    Source: sql/zone.sql, ordinaut.zones_in_use
    """
    return rows(conn, ZoneUse, "zones_in_use")


def zone_changes(
    conn: Conn, timezone: str, low: datetime, high: datetime
) -> list[tuple[datetime, timedelta]]:
    """Return a zone's offset from UTC at `low`, and from each change up to `high`, by the server.

    Args:
        high: at most 20 years after `low`.

    Raises:
        psycopg.errors.InvalidParameterValue: the server knows no such zone.

    Source: sql/zone.sql, ordinaut.zone_changes
    """
    return conn.execute(
        "select z.at, z.utc_offset from ordinaut.zone_changes(%s, %s, %s) as z order by z.at",
        [timezone, low, high],
    ).fetchall()


def unplanned_tasks(conn: Conn, limit: int | None = None) -> list[Unplanned]:
    """Return active tasks whose plan is missing or runs short, and that nobody holds.

    Args:
        limit: None: 100.

    Source: sql/plan.sql, ordinaut.unplanned_tasks
    """
    return rows(conn, Unplanned, "unplanned_tasks", limit=limit)


def outdate_plans(conn: Conn, tzdata: str) -> int:
    """Call for new plans where the IANA data was older, and return how many.

    Source: sql/plan.sql, ordinaut.outdate_plans
    """
    return int(scalar(conn, "outdate_plans", tzdata=tzdata))


def plan_task(
    conn: Conn,
    task_id: UUID,
    revision: int,
    upcoming: list[datetime],
    planned_until: datetime | None,
    tzdata: str,
    *,
    exhausted: bool = False,
    notes: dict[str, str] | None = None,
    excluded: dict[str, str] | None = None,
) -> bool:
    """Store a plan.

    Args:
        planned_until: nothing but `upcoming` occurs up to here; None: nothing at all, ever.
        notes: what a change of the clocks did, by instant.
        excluded: which of `upcoming` do not fire, and why, by instant.

    Returns:
        False: the task was edited or paused meanwhile, or somebody holds it; nothing is stored.

    Source: sql/plan.sql, ordinaut.plan_task
    """
    found = conn.execute(
        "select ordinaut.plan_task(%s, %s, %s::timestamptz[], %s, %s, %s, %s, %s)",
        [
            task_id, revision, upcoming, planned_until, tzdata, exhausted,
            jsonb(dict(notes or {})), jsonb(dict(excluded or {})),
        ],
    ).fetchone()  # fmt: skip
    return bool(found and found[0])


def invalidate_task(conn: Conn, task_id: UUID, revision: int, reason: str) -> bool:
    """Make a task invalid; False: it was edited or paused meanwhile, or somebody holds it.

    Source: sql/plan.sql, ordinaut.invalidate_task
    """
    return bool(scalar(conn, "invalidate_task", task_id=task_id, revision=revision, reason=reason))
