"""ordinaut task preview, ordinaut task dst-report: what a calendar does, before it does it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from ordinaut import calls, planner
from ordinaut.cli import base
from ordinaut.cli.base import answer, state, table
from ordinaut.recurrence import (
    Excluded,
    InvalidSchedule,
    Occurrence,
    Schedule,
    Union,
    describe,
    dst_report,
)
from ordinaut.recurrence.schedule import AfterEnd

Name = Annotated[str | None, typer.Argument(help="A task; or give an expression.")]
Cron = Annotated[str | None, typer.Option("--cron", help="A cron expression instead of a task.")]
Rrule = Annotated[str | None, typer.Option("--rrule", help="A rule of RFC 5545 instead.")]
Timezone = Annotated[str | None, typer.Option(help="Of the expression; an IANA name.")]
Start = Annotated[str | None, typer.Option(help="DTSTART: local, or with an offset.")]
Gap = Annotated[str | None, typer.Option(help="shift or skip.")]
Overlap = Annotated[str | None, typer.Option(help="first, second or both.")]


def commands(app: typer.Typer) -> None:
    app.command()(preview)
    app.command("dst-report")(report)


_STRETCHES = 10  # excluded ones in a row: then it is told well enough
_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_NOTES = {
    "overlap first": "comes twice: the first",
    "overlap second": "comes twice: the second",
}


def preview(
    task: Name = None,
    cron: Cron = None,
    rrule: Rrule = None,
    n: Annotated[int, typer.Option("-n", min=1, max=1000, help="How many.")] = 10,
    timezone: Timezone = None,
    start: Start = None,
    dst_gap: Gap = None,
    dst_overlap: Overlap = None,
) -> None:
    """Say when a task, or an expression, would fire next, and what summer time does to it.

    A stretch in which a calendar keeps it from firing is one line, at the first time in it.
    """
    schedule, after, end = _asked(task, cron, rrule, timezone, start, dst_gap, dst_overlap)
    if task is not None and isinstance(schedule, AfterEnd):
        _next_only(task, schedule)
        return
    rows = [_row(schedule, found) for found in _next(schedule, after, end, n)]
    if not state.json:
        base.console().print(base.clean(describe(schedule)), soft_wrap=True)
    columns = [("local", f"local, {schedule.timezone}"), ("utc", "UTC"), ("note", "summer time")]
    if isinstance(schedule, Union) and schedule.excludes:
        columns.append(("excluded", "excluded"))
    table(rows, columns, "no occurrence is left")


def _next_only(name: str, schedule: AfterEnd) -> None:
    """Say what is known of a task that follows the end of its runs: at most the next one."""
    at = calls.get_task(state.connect(), name).next_run
    note = "only the next is known: the one after it waits until its run has ended"
    empty = f"none is known: its last run has not ended; ordinaut why {name} says which"
    rows = [{"utc": f"{at:%Y-%m-%d %H:%M:%S}", "note": note}] if at else []
    if not state.json:
        base.console().print(base.clean(describe(schedule)), soft_wrap=True)
    table(rows, [("utc", "UTC"), ("note", "and then")], empty)


def _next(
    schedule: Schedule, after: datetime, end: datetime | None, n: int
) -> Iterator[Occurrence | Excluded]:
    """The next n that fire, and the excluded stretches before them, ten of these in a row."""
    if not isinstance(schedule, Union):
        yield from (o for o in schedule.after(after, n) if end is None or o.at <= end)
        return
    fired = stretches = 0
    for found in schedule.judged(after):
        at = found.at if isinstance(found, Occurrence) else found.first.at
        if fired == n or stretches == _STRETCHES or (end is not None and at > end):
            return
        if isinstance(found, Occurrence):
            fired, stretches = fired + 1, 0
        else:
            stretches += 1
        yield found


def _row(schedule: Schedule, found: Occurrence | Excluded) -> dict[str, Any]:
    o = found if isinstance(found, Occurrence) else found.first
    note = f"{o.local:%H:%M:%S} is skipped" if o.note == "gap" else _NOTES.get(o.note or "")
    row = {"local": _wall(schedule, o.at), "utc": f"{o.at:%Y-%m-%d %H:%M:%S}", "note": note}
    if isinstance(found, Excluded):
        row["excluded"] = f"by {found.by}, as all until {_wall(schedule, found.until)}"
    return row | {"excluded": row.get("excluded")}


def _wall(schedule: Schedule, at: datetime) -> str:
    wall = schedule.zone.wall(at)
    return f"{_WEEKDAYS[wall.weekday()]} {wall:%Y-%m-%d %H:%M:%S}"


def report(
    task: Name = None,
    year: Annotated[int, typer.Option(min=1971, max=2198, help="Which year.")] = 0,
    cron: Cron = None,
    rrule: Rrule = None,
    timezone: Timezone = None,
    start: Start = None,
    dst_gap: Gap = None,
    dst_overlap: Overlap = None,
) -> None:
    """Show what each change of the clocks in a year does to a task, or to an expression."""
    schedule, after, _ = _asked(task, cron, rrule, timezone, start, dst_gap, dst_overlap)
    if isinstance(schedule, AfterEnd):
        raise typer.BadParameter(f"{task} follows the end of its runs, whatever clocks do")
    days = dst_report(schedule, year or after.year)
    if state.json:
        answer(days)
        return
    lines = [describe(schedule)]
    for day in days:
        lines += ["", f"{day.day:%A, %Y-%m-%d}, {day.timezone}: {day.change}"]
        lines += [f"  {sentence}" for sentence in day.moved or ("nothing moves",)]
        times = [f"{o.local:%H:%M:%S}".removesuffix(":00") for o in day.fires[:24]]
        more = f" … {len(day.fires) - 24} more" if len(day.fires) > 24 else ""
        without = f", {day.excluded} are excluded" if day.excluded else ""
        lines.append(f"  fires {len(day.fires)} times{without}: {' '.join(times)}{more}")
    if not days:
        lines += ["", f"{schedule.timezone} changes no clocks in {year or after.year}"]
    answer(days, "\n".join(lines))


def _asked(
    name: str | None,
    cron: str | None,
    rrule: str | None,
    timezone: str | None,
    start: str | None,
    dst_gap: str | None,
    dst_overlap: str | None,
) -> tuple[Schedule, datetime, datetime | None]:
    """The calendar that is asked about, from where on, and until when."""
    given = [word for word in (name, cron, rrule) if word is not None]
    if len(given) != 1:
        raise typer.BadParameter("give a task, or --cron, or --rrule, and one of them")
    if name is None:
        now, zone = datetime.now(UTC), timezone or "UTC"
        try:
            begin = datetime.fromisoformat(start) if start else now
        except ValueError:
            raise typer.BadParameter(f"--start: {start!r} is no timestamp") from None
        kind = "rrule" if cron is None else "cron"
        try:
            schedule = planner.calendar(
                kind, given[0], zone, dtstart=begin, dst_gap=dst_gap, dst_overlap=dst_overlap
            )
        except InvalidSchedule as exc:
            raise typer.BadParameter(str(exc)) from None
        return schedule, now, None
    if any((timezone, start, dst_gap, dst_overlap)):
        raise typer.BadParameter(f"{name} has a time zone and policies of its own")
    conn = state.connect()
    task = calls.get_task(conn, name)
    if task.schedule_kind == "condition":
        raise typer.BadParameter(
            f"task {name} is a condition: nobody knows when it becomes true;"
            f" ordinaut why {name} says what it is now"
        )
    if task.schedule_kind == "event":
        raise typer.BadParameter(
            f"task {name} starts when event {task.schedule_expr} is emitted: no calendar tells when"
        )
    if task.schedule_expr is None:
        raise typer.BadParameter(f"task {name} is {task.schedule_kind}: it has no calendar")
    schedule = planner.of_task(conn, task)
    after = calls.server(conn).now
    if task.start_at is not None:
        after = max(after, task.start_at - timedelta(microseconds=1))
    return schedule, after, task.end_at
