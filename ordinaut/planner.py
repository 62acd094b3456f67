"""
The planner: expands the calendars that SQL cannot compute, and hands them to the database.

A plan is a function of the task and of where its last decision was made; the clock only says how
far to go.  So any number of planners may run, one after the other or at once, and what passed
while none ran is planned all the same: tick and its catchup policy decide what becomes of it.

A calendar that is none makes its task invalid, with the reason, and no other task suffers.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import Any, Final, cast

import psycopg

from ordinaut import calls, db
from ordinaut.errors import sentence
from ordinaut.recurrence import (
    Calendar,
    InvalidSchedule,
    Occurrence,
    Schedule,
    excluding,
    parse,
    tzdata_version,
)
from ordinaut.recurrence.kinds import DstGap, DstOverlap

log = logging.getLogger(__name__)

PLANNED: Final = frozenset({"cron", "rrule", "union"})  # the kinds that SQL cannot compute

_AHEAD = timedelta(minutes=10)
MOST: Final = 1000  # occurrences in a plan, and of one task in a tick
_LEAST = 16
_PAGE = 100
_BUDGET = 0.1  # seconds: a tick waits for us
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Plan:
    """What `calls.plan_task` takes."""

    upcoming: list[datetime]
    planned_until: datetime | None
    exhausted: bool
    notes: dict[str, str]
    excluded: dict[str, str]


def calendar(
    kind: str,
    expr: str | None,
    timezone: str,
    *,
    dtstart: datetime | None = None,
    start_at: datetime | None = None,
    dst_gap: str | None = None,
    dst_overlap: str | None = None,
    calendars: list[dict[str, Any]] | None = None,
) -> Schedule:
    """Return the calendar that a task's fields describe.

    Args:
        dtstart: start_at, or where there is none created_at.
        start_at: what the phase of an interval is counted from; None: 1970.
        calendars: the data of those that it excludes, with name and timezone.

    Raises:
        InvalidSchedule: with the field and the reason.
    """
    schedule = parse(
        kind, expr or "", timezone, dtstart=dtstart, start_at=start_at,
        dst_gap=cast(DstGap | None, dst_gap), dst_overlap=cast(DstOverlap | None, dst_overlap),
    )  # fmt: skip
    return excluding(schedule, [Calendar.read(data) for data in calendars or ()])


def of_task(conn: db.Connection, task: calls.Task) -> Schedule:
    """Return the calendar of a task as it stands.

    Raises:
        InvalidSchedule: with the field and the reason.
    """
    live = calls.list_calendars(conn, task.namespace) if task.exclude else ()
    return of_fields(task, {(c.namespace, c.name): c.named for c in live})


def of_fields(task: calls.Task, named: Mapping[tuple[str, str], dict[str, Any]]) -> Schedule:
    """Return the calendar of a task whose calendars are `named`, by namespace and name.

    Raises:
        InvalidSchedule: with the field and the reason.
    """
    return calendar(
        task.schedule_kind, task.schedule_expr, task.timezone,
        dtstart=task.start_at or task.created_at, start_at=task.start_at,
        dst_gap=task.dst_gap, dst_overlap=task.dst_overlap,
        calendars=[named[task.namespace, name] for name in task.exclude or ()],
    )  # fmt: skip


def of_unplanned(task: calls.Unplanned) -> Schedule:
    """Return the calendar that the database asks a planner for.

    Raises:
        InvalidSchedule: with the field and the reason.
    """
    return calendar(
        task.schedule_kind, task.schedule_expr, task.timezone, dtstart=task.dtstart,
        start_at=task.start_at, dst_gap=task.dst_gap, dst_overlap=task.dst_overlap,
        calendars=task.calendars,
    )  # fmt: skip


def check(arguments: dict[str, Any]) -> None:
    """Refuse arguments of `create_task` whose calendar only a planner would find wrong.

    Raises:
        InvalidSchedule: with the field and the reason.
    """
    if arguments.get("schedule_kind") not in PLANNED:
        return
    start = arguments.get("start_at")
    if isinstance(start, str):
        try:
            start = datetime.fromisoformat(start)
        except ValueError:
            return  # PostgreSQL reads more forms than we do, and says what it does not read
    calendar(
        arguments["schedule_kind"], arguments.get("schedule_expr"),
        arguments.get("timezone") or "UTC", dtstart=start or datetime.now(UTC),
        dst_gap=arguments.get("dst_gap"), dst_overlap=arguments.get("dst_overlap"),
    )  # fmt: skip


def plan(schedule: Schedule, after: datetime, end: datetime | None, now: datetime) -> Plan:
    """Return the occurrences after `after`: ten minutes' worth, 16 at least, 1000 at most.

    What calendars exclude is among them, and counts: each has its row in the end, and a schedule
    of which they leave nothing is planned as quickly as any other.

    Raises:
        InvalidSchedule: the search was given up.
    """
    limit = _LEAST
    while True:
        found = schedule.whole.after(after, limit + 1)
        if len(found) <= limit or limit == MOST or found[limit].at > now + _AHEAD:
            break
        limit = min(limit * 8, MOST)
    kept = list(takewhile(lambda o: end is None or o.at <= end, found))
    is_exhausted = len(kept) <= limit
    upcoming = kept[:limit]
    return Plan(
        [o.at for o in upcoming],
        None if is_exhausted else kept[limit].at - _MICROSECOND,
        is_exhausted,
        {key(o): note(o) for o in upcoming if o.note},
        {key(o): f"calendar {by}" for o in upcoming if (by := schedule.excluded_by(o.at))},
    )


def key(occurrence: Occurrence) -> str:
    """An occurrence's instant, as plans name it."""
    return f"{occurrence.at:%Y-%m-%dT%H:%M:%SZ}"


def note(occurrence: Occurrence) -> str:
    """What a change of the clocks did, as the occurrence's row keeps it."""
    if occurrence.note == "gap":
        return f"gap: {occurrence.local:%Y-%m-%d %H:%M:%S} was skipped"
    return occurrence.note or ""


def step(conn: db.Connection) -> tuple[bool, datetime | None]:
    """Plan what is unplanned, for 0.1 s at most.

    Returns:
        Whether there is more to do, maybe after a tick, and the earliest occurrence planned.
    """
    stop = time.monotonic() + _BUDGET
    tasks = calls.unplanned_tasks(conn, _PAGE)
    more, earliest = len(tasks) == _PAGE, None
    for task in tasks:
        planned = _plan_one(conn, task)
        if planned and planned.upcoming:
            first = planned.upcoming[0]
            earliest = first if earliest is None else min(earliest, first)
        if planned and planned.planned_until and planned.planned_until <= task.now:
            more = True  # it makes up for an outage: tick uses the plan, and the next follows
        if time.monotonic() > stop:
            return True, earliest
    return more, earliest


def _plan_one(conn: db.Connection, task: calls.Unplanned) -> Plan | None:
    try:
        planned = plan(of_unplanned(task), task.plan_after, task.end_at, task.now)
        is_stored = calls.plan_task(
            conn, task.task_id, task.revision, planned.upcoming, planned.planned_until,
            tzdata_version(), exhausted=planned.exhausted, notes=planned.notes,
            excluded=planned.excluded,
        )  # fmt: skip
        return planned if is_stored else None
    except InvalidSchedule as exc:
        reason = str(exc)
    except (psycopg.DataError, psycopg.IntegrityError) as exc:
        reason = f"its plan cannot be stored: {sentence(exc)}"
    except psycopg.Error:
        raise
    except Exception as exc:  # of a pure function: the same tomorrow, and other tasks wait
        log.exception("the calendar of task %s cannot be computed", task.task_id)
        reason = f"its calendar cannot be computed: {exc!r}"
    if calls.invalidate_task(conn, task.task_id, task.revision, reason):
        log.error("task %s is invalid: %s", task.task_id, reason)
    return None
