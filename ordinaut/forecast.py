"""
Forecast: how many occurrences of how many tasks there will be, by stretches of time.

Calendars and bounds count; what overlap, jitter or an outage would make of them does not: that is
`simulation`, of one task.  What many tasks share is expanded once: a cron expression of the same
zone, policy and calendars occurs at the same instants, whenever its tasks were created.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from heapq import nlargest
from itertools import islice
from typing import Any, Final

from ordinaut import calls
from ordinaut.planner import of_fields
from ordinaut.recurrence import InvalidSchedule, Schedule
from ordinaut.recurrence.occurrence import BEGIN, END
from ordinaut.recurrence.schedule import AfterEnd, Every

MAX_BUCKETS: Final = 2000
MAX_EXPANDED: Final = 2_000_000  # 10 s
_MICROSECOND = timedelta(microseconds=1)


@dataclass(slots=True)
class Bucket:
    """A stretch of time; `tasks` is how many occurrences of each there are."""

    at: datetime
    count: int = 0
    tasks: dict[str, int] = field(default_factory=dict)

    def top(self, n: int) -> list[tuple[str, int]]:
        """The n tasks that occur most often."""
        return nlargest(n, self.tasks.items(), key=lambda item: item[1])


@dataclass(slots=True)
class Forecast:
    """What is ahead.

    Attributes:
        tasks: how many were looked at.
        untold: those of which at most the next occurrence is known: conditions, what follows the
            end of a run, and what no planner can read.
    """

    begin: datetime
    end: datetime
    buckets: list[Bucket]
    tasks: int = 0
    untold: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        return sum(bucket.count for bucket in self.buckets)

    @property
    def busiest(self) -> Bucket:
        """The first of those with the most occurrences."""
        return max(self.buckets, key=lambda bucket: bucket.count)


def forecast(
    tasks: Iterable[calls.Task],
    named: Mapping[tuple[str, str], dict[str, Any]],
    begin: datetime,
    end: datetime,
    bucket: timedelta,
) -> Forecast:
    """Count the occurrences of active tasks from `begin` on and before `end`.

    Args:
        named: calendars, by namespace and name.

    Raises:
        ValueError: it is no time, or too long for its buckets, or of too many occurrences.
    """
    if not BEGIN <= begin < end <= END or bucket < timedelta(seconds=1):
        raise ValueError("a forecast must end after it begins, in buckets of a second at least")
    number = -((begin - end) // bucket)
    if number > MAX_BUCKETS:
        raise ValueError(f"it would have {number} buckets, more than {MAX_BUCKETS}: widen them")
    found = Forecast(begin, end, [Bucket(begin + n * bucket) for n in range(number)])
    edges = [b.at for b in found.buckets]
    shared: dict[object, list[datetime]] = {}
    expanded = 0
    for task in tasks:
        found.tasks += 1
        name = f"{task.namespace}/{task.name}"
        instants = shared.get(key := _key(task))
        if instants is None:
            try:
                told = task.schedule_kind in ("condition", "event")
                schedule = None if told else of_fields(task, named)
            except InvalidSchedule:
                schedule = None
            if schedule is None or isinstance(schedule, AfterEnd):
                found.untold.append(name)
                instants = [task.next_run] if task.next_run else []
            else:
                instants = _expand(schedule, begin, end, MAX_EXPANDED - expanded)
                expanded += len(instants)
                if key is not None:
                    shared[key] = instants
        _count(found, edges, name, _own(task, instants, begin, end))
    return found


def _key(task: calls.Task) -> object:
    """What decides when a task occurs, but for its bounds; None: it is alone with it."""
    if task.schedule_kind != "cron":
        return None
    exclude = (task.namespace, *task.exclude) if task.exclude else ()
    return task.schedule_expr, task.timezone, task.dst_gap, task.dst_overlap, exclude


def _expand(schedule: Schedule, begin: datetime, end: datetime, limit: int) -> list[datetime]:
    instants: list[datetime] = []
    if isinstance(schedule, Every):  # nothing but a sum: no clocks are asked
        first = max(0, -((schedule.anchor - begin) // schedule.step))
        last = max(first, -((schedule.anchor - end) // schedule.step))
        if last - first <= limit:
            return [schedule.anchor + n * schedule.step for n in range(first, last)]
        raise _too_many()
    try:
        for occurrence in islice(schedule.walk(max(begin - _MICROSECOND, BEGIN)), limit + 1):
            if occurrence.at >= end:
                return instants
            instants.append(occurrence.at)
    except InvalidSchedule:  # calendars leave nothing more
        return instants
    if len(instants) > limit:
        raise _too_many()
    return instants


def _too_many() -> ValueError:
    return ValueError(f"more than {MAX_EXPANDED} occurrences; forecast a shorter time")


def _own(
    task: calls.Task, instants: list[datetime], begin: datetime, end: datetime
) -> list[datetime]:
    """Those within a task's bounds: from its next run on (a snooze), to its end, of its max_runs.

    What is without a next run, a planner is about to plan.  Of max_runs nothing is taken off for
    what fires before `begin`.
    """
    low = max(begin, task.next_run or begin, task.start_at or begin)
    first = bisect_left(instants, low)
    last = bisect_right(instants, task.end_at) if task.end_at else len(instants)
    if task.max_runs is not None:
        left = task.max_runs - task.fired_count - task.buffered_count
        last = min(last, first + max(left, 0))
    return [at for at in instants[first:last] if at < end]


def _count(found: Forecast, edges: list[datetime], name: str, instants: list[datetime]) -> None:
    position = 0
    while position < len(instants):
        n = bisect_right(edges, instants[position]) - 1
        after = len(instants)
        if n + 1 < len(edges):
            after = bisect_left(instants, edges[n + 1], position)
        found.buckets[n].count += after - position
        found.buckets[n].tasks[name] = after - position
        position = after
