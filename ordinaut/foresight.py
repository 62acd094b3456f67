"""
What applying a manifest would change: fields, old and new, and the times at which tasks fire.

The answer is apply's own: it does all of it in a transaction that is rolled back, so a plan is
empty exactly when apply does nothing, and what the database refuses is refused here.  A task that
is not named may fire at other times too, because a calendar of it changes: it is in the plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from ordinaut import db
from ordinaut.apply import Change, all_tasks, apply
from ordinaut.calls import Calendar, Task
from ordinaut.manifest import Definition
from ordinaut.planner import of_fields
from ordinaut.recurrence import InvalidSchedule
from ordinaut.recurrence.occurrence import END
from ordinaut.recurrence.schedule import AfterEnd
from ordinaut.whatif import Named, live_calendars

MAX_FIRINGS: Final = 10_000  # of a task, in a comparison
_MICROSECOND = timedelta(microseconds=1)
_TIMING = {
    "schedule_kind", "schedule_expr", "timezone", "dst_gap", "dst_overlap", "exclude", "start_at",
    "end_at", "namespace",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Planned:
    """What apply would do with one task or calendar.

    Attributes:
        what: task or calendar.
        action: created, updated or unchanged; affected: a task that a changed calendar moves.
        fields: the values of those that change, old and new.
        appear, disappear: instants at which it would fire, and would no longer.
        until: as far as firings were compared; None: they were not, or nobody knows when it fires.
        task: as it would be.
    """

    what: str
    name: str
    action: str
    timezone: str
    fields: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    appear: list[datetime] = field(default_factory=list)
    disappear: list[datetime] = field(default_factory=list)
    until: datetime | None = None
    task: Task | None = None


def plan(
    conn: db.Connection, definitions: Iterable[Definition], now: datetime, ahead: timedelta
) -> list[Planned]:
    """Return what `apply` would do, and what that does to the firings from `now` on.

    Raises:
        ManifestError: apply would refuse a definition.
    """
    before = live_calendars(conn)
    changes = apply(conn, definitions, dry_run=True)
    after = before | {
        (c.calendar.namespace, c.calendar.name): c.calendar.named for c in changes if c.calendar
    }
    out = [_planned(change, before, after, now, ahead) for change in changes]

    changed = {
        (c.calendar.namespace, c.calendar.name)
        for c in changes
        if c.calendar and c.action == "updated"
    }
    named = {c.name for c in changes if c.task and c.action != "unchanged"}
    for namespace in sorted({namespace for namespace, _ in changed}):
        for task in all_tasks(conn, namespace, "active"):
            full = f"{task.namespace}/{task.name}"
            if full in named or not changed & {(namespace, n) for n in task.exclude or ()}:
                continue
            moved = _moved(task, task, before, after, now, ahead)
            if moved.appear or moved.disappear:
                out = [p for p in out if (p.what, p.name) != ("task", full)]
                out.append(Planned("task", full, "affected", task.timezone, {}, *moved.all, task))
    return out


@dataclass(frozen=True, slots=True)
class _Moved:
    appear: list[datetime]
    disappear: list[datetime]
    until: datetime | None

    @property
    def all(self) -> tuple[list[datetime], list[datetime], datetime | None]:
        return self.appear, self.disappear, self.until


def _planned(
    change: Change, before: Named, after: Named, now: datetime, ahead: timedelta
) -> Planned:
    if change.calendar is not None:
        zone, what = change.calendar.timezone, "calendar"
        return Planned(what, change.name, change.action, zone, _fields(change, change.calendar))
    assert change.task is not None
    was = change.was if isinstance(change.was, Task) else None
    fields = _fields(change, change.task)
    moved = _Moved([], [], None)
    if change.action != "unchanged" and (
        was is None
        or _TIMING & fields.keys()
        or was.status != change.task.status
        or was.exclude  # what it excludes may change
    ):
        moved = _moved(was, change.task, before, after, now, ahead)
    return Planned(
        "task", change.name, change.action, change.task.timezone, fields, *moved.all, change.task
    )


def _fields(change: Change, now: Task | Calendar) -> dict[str, tuple[Any, Any]]:
    return {name: (getattr(change.was, name, None), getattr(now, name)) for name in change.fields}


def _moved(
    was: Task | None, task: Task, before: Named, after: Named, now: datetime, ahead: timedelta
) -> _Moved:
    """The firings that one has and the other has not, as far as both are known."""
    until = now + ahead
    old, old_until = _firings(was, before, now, until) if was else ([], until)
    new, new_until = _firings(task, after, now, until)
    if old_until is None and new_until is None:
        return _Moved([], [], None)
    until = min(old_until or until, new_until or until)
    ours, theirs = ({at for at in found if at <= until} for found in (new, old))
    return _Moved(sorted(ours - theirs), sorted(theirs - ours), until)


def _firings(
    task: Task, named: Mapping[tuple[str, str], dict[str, Any]], now: datetime, until: datetime
) -> tuple[list[datetime], datetime | None]:
    """When a task fires after now, and up to when that is known; None: of this task it is not."""
    if task.status != "active":
        return [], until
    if task.schedule_kind in ("manual", "condition", "event"):
        return [], None
    found: list[datetime] = []
    try:
        schedule = of_fields(task, named)
        if isinstance(schedule, AfterEnd):
            return [], None
        low = max(now, (task.next_run or now) - _MICROSECOND, (task.start_at or now) - _MICROSECOND)
        for occurrence in schedule.walk(low):
            if occurrence.at > min(until, task.end_at or until) or occurrence.at >= END:
                return found, until
            found.append(occurrence.at)
            if len(found) == MAX_FIRINGS:
                return found, found[-1]
        return found, until
    except InvalidSchedule:  # calendars leave nothing more, or a planner would refuse it
        return found, until
