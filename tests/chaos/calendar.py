"""
Calendars, computed again by another engine than the product's: cronsim for cron, own arithmetic for
interval and once.

Decided are the kinds once, interval (with and without a phase, not "after end") and cron of five or
six fields in any zone, all with the default rules for the change of clocks, which for cron are
those of Debian's cron, and cronsim's.  Not decided: rrule, union, condition, event, after end, and
tasks with dst_gap or dst_overlap of their own.  manual never occurs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim

from tests.chaos.history import Row, instant
from tests.chaos.lives import interval

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
NICKNAMES = {
    "@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0", "@monthly": "0 0 1 * *", "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}  # fmt: skip


class Undecided(Exception):
    """This calendar is not one that is recomputed here."""


def occurrences(task: Row, after: datetime) -> Iterator[datetime]:
    """Yield the occurrences of a task's schedule after an instant, up to its end_at.

    Raises:
        Undecided: its kind, or its expression, is none of those above.
    """
    end = instant(task.get("end_at"))
    start = instant(task.get("start_at"))
    if start is not None and task["schedule_kind"] != "once":
        after = max(after, start - MICROSECOND)
    for at in _walk(task, after, start):
        if end is not None and at > end:
            return
        yield at


def _walk(task: Row, after: datetime, start: datetime | None) -> Iterator[datetime]:
    kind, expr = task["schedule_kind"], (task.get("schedule_expr") or "").strip()
    if kind == "manual":
        return iter(())
    if kind == "interval":
        return _interval(expr, after, start, instant(task["created_at"]))
    if kind == "once":
        at = _once(expr, task["timezone"])
        return iter([at] if at > after else [])
    if kind != "cron":
        raise Undecided(f"kind {kind}")
    if task.get("dst_gap") or task.get("dst_overlap"):
        raise Undecided("cron with a rule of its own for the change of clocks")
    try:
        ticks = CronSim(NICKNAMES.get(expr, expr), after.astimezone(ZoneInfo(task["timezone"])))
    except Exception as problem:
        raise Undecided(f"cron {expr!r}: {problem}") from None
    return (at for at in (tick.astimezone(UTC) for tick in ticks) if at > after)


def _interval(
    expr: str, after: datetime, start: datetime | None, created: datetime | None
) -> Iterator[datetime]:
    if expr.endswith(" after end"):
        raise Undecided("interval after end")
    words, _, phase = expr.partition(" phase ")
    every, shift = interval(words), interval(phase) if phase else None
    if every is None or (phase and shift is None):
        raise Undecided(f"interval {expr!r}")
    step = timedelta(seconds=every)
    if shift is not None:
        anchor = (start or EPOCH) + timedelta(seconds=shift)
    else:
        anchor = start or created or EPOCH
    # With a start of its own it begins there, else one duration after its creation.
    n = 0 if after < anchor else math.floor((after - anchor) / step) + 1
    while True:
        yield anchor + n * step
        n += 1


def _once(expr: str, zone: str) -> datetime:
    try:
        at = datetime.fromisoformat(expr)
    except ValueError:
        raise Undecided(f"once {expr!r}") from None
    if at.tzinfo is not None:
        return at.astimezone(UTC)
    local = at.replace(tzinfo=ZoneInfo(zone), fold=0)
    utc = local.astimezone(UTC)
    if utc.astimezone(ZoneInfo(zone)).replace(tzinfo=None) == at:
        return utc
    # In the gap of spring: the first instant after it, to the microsecond.
    low, high = utc - timedelta(days=1), utc + timedelta(days=1)
    while high - low > MICROSECOND:
        middle = low + (high - low) / 2
        if middle.astimezone(ZoneInfo(zone)).replace(tzinfo=None) < at:
            low = middle
        else:
            high = middle
    return high
