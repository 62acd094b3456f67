"""
Simulation: what becomes of a task's occurrences, without a database.

The rules of sql/fire.sql once more, in another language and one occurrence at a time, to be asked
about what has not happened: a night of the clocks, an outage of a weekend, runs that take longer.
tests/unit/test_simulation.py drives the engine through the same weeks and compares row by row.

Assumed:

- A scheduler plans and ticks at the very instant at which something is due, but in an outage;
  at the end of an outage it ticks until nothing is due.  It catches up with this task alone: with
  more than 50 tasks at once the engine takes fewer than 1000 occurrences of each at a time, which
  overlap cancel_other can tell.
- A worker is always free, in an outage too.  A run takes `duration`, succeeds, is never tried
  again; whom cancel_other cancels ends at once.  What ends when the next is due has ended before.
- What follows the end of its own runs, and was created before `begin`, occurs first one duration
  after `begin`: when its last run ended is not asked.
- Nobody edits, pauses, snoozes or runs the task by hand, and no other task has its key.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from itertools import takewhile
from operator import attrgetter
from typing import Any, Final

from ordinaut.planner import MOST, PLANNED, calendar, note
from ordinaut.recurrence import InvalidSchedule, Occurrence, Schedule
from ordinaut.recurrence.interval import read_span
from ordinaut.recurrence.occurrence import BEGIN, END
from ordinaut.recurrence.schedule import AfterEnd, observed

MAX_OCCURRENCES: Final = 100_000
UNTOLD: Final = ("manual", "condition", "event")  # kinds that no calendar tells of
_RUNS = ("fired", "buffered")
_NEVER = datetime.max.replace(tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MINUTE = timedelta(minutes=1)

Outage = tuple[datetime, datetime]


@dataclass(frozen=True, slots=True)
class Subject:
    """What of a task decides about its occurrences.

    Attributes:
        after: nothing up to it occurs: its creation, or just before its start.
        slots: how many of its runs may be live at once; None: any number.
        ran: how many runs of max_runs are used up.
        share: where in its jitter its runs start, 0 to 1; the id of the task says.
        said: its grace and catchup_window in the words of its reasons.
    """

    schedule: Schedule
    after: datetime
    start_at: datetime | None = None
    end_at: datetime | None = None
    overlap: str = "allow"
    catchup: str = "latest"
    catchup_window: timedelta | None = None
    catchup_rate: int | None = None
    grace: timedelta = _MINUTE
    jitter: timedelta | None = None
    max_runs: int | None = None
    slots: int | None = None
    ran: int = 0
    share: float = 0.5
    said: Mapping[str, str] = field(default_factory=lambda: {"grace": "00:01:00"})

    @property
    def is_planned(self) -> bool:
        """Does a planner say when it occurs, and not SQL?"""
        return self.schedule.kind in PLANNED  # with exclusions all are unions


@dataclass(slots=True)
class Fate:
    """What becomes of an occurrence.

    Attributes:
        local: the wall time in the schedule's zone, without a zone.
        decision: fired, missed, skipped, buffered, dropped or excluded; `reason` as its row says.
        dst: what a change of the clocks did to it.
        decided_at: when a scheduler decided.
        run_at: when its run may start; None: it has none, as are the next two.
        started_at: None: it was cancelled before.
    """

    scheduled_for: datetime
    local: datetime
    decision: str
    reason: str | None
    dst: str | None
    decided_at: datetime
    run_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    is_cancelled: bool = False

    @property
    def is_odd(self) -> bool:
        """Is there more to say than that it fired?"""
        return self.decision != "fired" or self.dst is not None or self.is_cancelled


def subject(
    fields: Mapping[str, Any],
    created_at: datetime,
    *,
    calendars: Sequence[Mapping[str, Any]] = (),
    ran: int = 0,
    share: float = 0.5,
) -> Subject:
    """Return what is to be simulated.

    Args:
        fields: the arguments of `create_task`; what is left out or None is as there.
        created_at: where a schedule without a start begins; it does not occur then.
        calendars: the data of those that it excludes, with name and timezone.

    Raises:
        InvalidSchedule: there is nothing to be simulated, with the field and the reason.
    """
    kind = fields.get("schedule_kind") or "manual"
    if kind in UNTOLD:
        raise InvalidSchedule("schedule", f"of kind {kind}, nobody knows when it occurs")
    start = fields.get("start_at")
    schedule = calendar(
        kind, fields.get("schedule_expr"), fields.get("timezone") or "UTC",
        dtstart=start or created_at, start_at=start, dst_gap=fields.get("dst_gap"),
        dst_overlap=fields.get("dst_overlap"), calendars=[dict(data) for data in calendars],
    )  # fmt: skip
    spans = {
        name: _span(name, value)
        for name in ("catchup_window", "grace", "jitter")
        if (value := fields.get(name)) is not None
    }
    overlap, key = fields.get("overlap") or "allow", fields.get("key")
    after = start - _MICROSECOND if start else created_at
    if kind == "once" or (kind == "cron" and not start):  # the same, whenever it was created
        after = BEGIN
    return Subject(
        schedule, after, start, fields.get("end_at"), overlap, fields.get("catchup") or "latest",
        catchup_rate=fields.get("catchup_rate"), max_runs=fields.get("max_runs"),
        slots=(fields.get("key_limit") or 1) if key else None if overlap == "allow" else 1,
        ran=ran, share=share, said={"grace": "00:01:00"} | {n: str(fields[n]) for n in spans},
        **spans,
    )  # fmt: skip


def _span(name: str, value: str | timedelta) -> timedelta:
    if isinstance(value, timedelta):
        return value
    try:
        return read_span(value)
    except InvalidSchedule as exc:
        raise InvalidSchedule(name, exc.reason) from None


def simulate(
    task: Subject,
    begin: datetime,
    end: datetime,
    *,
    duration: timedelta = timedelta(),
    outages: Sequence[Outage] = (),
) -> list[Fate]:
    """Play a task.

    Args:
        begin, end: the occurrences from `begin` on and before `end`.
        duration: of each run.
        outages: pairs of instants; no scheduler runs from the first on, until the second.

    Raises:
        ValueError: it would be more than MAX_OCCURRENCES; a pair ends before it begins.
        InvalidSchedule: its calendars leave nothing.
    """
    if begin >= end or any(a >= b for a, b in outages):
        raise ValueError("what is simulated, and each outage, must end after it begins")
    if begin < BEGIN or max([end, *(until for _, until in outages)]) > END:
        raise ValueError("it must lie between 1970 and 2200")
    player = _Player(task, duration, sorted(outages))
    if isinstance(task.schedule, AfterEnd):
        player.follow(begin, end)
    else:
        player.fire(begin, end)
    player.work(_NEVER)
    return [fate for fate in player.fates if fate.scheduled_for < end]


class _Player:
    def __init__(self, task: Subject, duration: timedelta, outages: list[Outage]) -> None:
        self.fates: list[Fate] = []
        self._task, self._duration, self._outages = task, duration, outages
        self._ran = task.ran
        self._catchup_at: datetime | None = None
        self._waiting: list[tuple[datetime, int, Fate]] = []  # by run_at
        self._running: list[tuple[datetime, int, Fate]] = []  # by their end
        self._clock = datetime.min.replace(tzinfo=UTC)
        self._number = 0

    def fire(self, begin: datetime, end: datetime) -> None:
        """Decide what a calendar says, at the instants at which tick would."""
        task = self._task
        horizon = max([end, *(until for _, until in self._outages)])
        source = takewhile(
            lambda o: task.end_at is None or o.at <= task.end_at,
            task.schedule.whole.walk(max(begin - _MICROSECOND, task.after)),
        )
        found: list[Occurrence] = []
        for occurrence in source:
            found.append(occurrence)  # and the one after the last
            if occurrence.at > horizon:
                break
            if len(found) > MAX_OCCURRENCES:
                raise _too_many()
        done = 0
        while done < len(found) and found[done].at < end and not self._is_over():
            now = self._tick_after(found[done].at)
            self.work(now)
            while done < len(found) and found[done].at <= now and not self._is_over():
                done += self._tick(found, done, now)

    def follow(self, begin: datetime, end: datetime) -> None:
        """Decide what follows the end of the run before."""
        task, schedule = self._task, self._task.schedule
        assert isinstance(schedule, AfterEnd)
        low = task.after if begin <= task.after + _MICROSECOND else begin
        at = task.start_at if task.start_at and task.start_at >= low else low + schedule.step
        while at < end and at <= (task.end_at or at) and not self._is_over():
            if len(self.fates) == MAX_OCCURRENCES:
                raise _too_many()
            now = self._tick_after(at)
            self.work(now)
            self._decide([observed(schedule.zone, at)], [None], now, None)
            self.work(_NEVER)
            at = max((self.fates[-1].ended_at or now) + schedule.step, at + _MICROSECOND)

    def _is_over(self) -> bool:
        return self._task.max_runs is not None and self._task.max_runs <= self._ran

    def _tick_after(self, at: datetime) -> datetime:
        """When a scheduler sees what is due at an instant."""
        for begin, until in self._outages:
            if begin <= at < until:
                at = until
        return at

    def _tick(self, found: list[Occurrence], done: int, now: datetime) -> int:
        """Decide a plan's worth of what is due, and return how many that were."""
        task = self._task
        stop = bisect_right(found, now, lo=done, key=attrgetter("at"))
        end = done + MOST
        due = found[done : min(stop, end)]
        following: list[datetime | None] = [o.at for o in found[done + 1 : done + len(due) + 1]]
        latest_at = None
        if task.is_planned:
            following[MOST - 1 :] = []  # of another plan
            passing = [o.at for o in due if not task.schedule.excluded_by(o.at)]
            if task.catchup == "latest" and passing:
                latest_at = passing[-1]
                # The last of a plan that ends in the past: the next plan tells whether it is.
                is_cut = end < len(found) and found[end].at <= now + _MICROSECOND
                if is_cut and latest_at == due[-1].at:
                    due.pop()
        elif task.catchup == "latest":
            latest_at = found[stop - 1].at
        self._decide(due, [*following, None], now, latest_at)
        return len(due)

    def _decide(
        self,
        due: list[Occurrence],
        following: list[datetime | None],
        now: datetime,
        latest_at: datetime | None,
    ) -> None:
        task = self._task
        self._clock = max(self._clock, now)
        kept = [self._kept(o.at, now, latest_at) for o in due]
        passing = kept.count(None)
        live = len(self._waiting) + len(self._running)
        nth = number = 0
        fresh: list[Fate] = []
        catchup_at = self._catchup_at
        for i, occurrence in enumerate(due):
            nth += kept[i] is None
            decision, reason = kept[i] or self._overlapped(live + nth, nth == passing)
            number += decision in _RUNS
            if decision in _RUNS and self._ran + number > (task.max_runs or math.inf):
                decision, reason = "dropped", f"max_runs: it ran {task.max_runs} times"
            wall = task.schedule.zone.wall(occurrence.at).replace(fold=0)
            dst = note(occurrence) if task.is_planned else None
            fate = Fate(occurrence.at, wall, decision, reason, dst or None, now)
            self.fates.append(fate)
            if decision not in _RUNS:
                continue
            fate.run_at = now - (len(due) - 1 - i) * _MICROSECOND
            if task.jitter is not None:
                then = following[i]
                room = task.jitter if then is None else then - occurrence.at - _MICROSECOND
                jitter = task.share * min(task.jitter, room)
                fate.run_at = max(fate.run_at, occurrence.at + jitter)
            if task.catchup_rate is not None and occurrence.at < now - task.grace:
                turn = (number - 1) * _MINUTE / task.catchup_rate
                fate.run_at = max(fate.run_at, max(self._catchup_at or now, now) + turn)
                done = fate.run_at + _MINUTE / task.catchup_rate
                catchup_at = max(catchup_at or done, done)
            fresh.append(fate)
        self._catchup_at = catchup_at
        self._ran += len(fresh)
        if fresh and task.overlap == "cancel_other":
            self._cancel_all(now)
        for fate in fresh:
            assert fate.run_at
            self._number += 1
            heappush(self._waiting, (fate.run_at, self._number, fate))

    def _kept(
        self, at: datetime, now: datetime, latest_at: datetime | None
    ) -> tuple[str, str] | None:
        """What keeps an occurrence from being considered at all."""
        task = self._task
        if by := task.schedule.excluded_by(at):
            return "excluded", f"calendar {by}"
        if task.catchup == "none" and at < now - task.grace:
            return "missed", f"catchup none: later than its grace of {task.said['grace']}"
        if task.catchup_window is not None and at < now - task.catchup_window:
            return "missed", f"older than its catchup window of {task.said['catchup_window']}"
        if latest_at is not None and at < latest_at:
            return "missed", "catchup latest: a later occurrence was due too"
        return None

    def _overlapped(self, nth: int, is_last: bool) -> tuple[str, str | None]:
        """What becomes of one that is the nth live, if those before it are."""
        overlap = self._task.overlap
        if overlap == "cancel_other" and not is_last:
            return "skipped", "overlap cancel_other: a later occurrence was due too"
        if overlap in ("allow", "cancel_other") or nth == 1:
            return "fired", None
        if overlap == "skip":
            return "skipped", "overlap skip: an earlier run is live"
        if overlap == "buffer_one" and nth > 2:
            return "dropped", "overlap buffer_one: one run waits already"
        return "buffered", f"overlap {overlap}: it waits for an earlier run"

    def _cancel_all(self, now: datetime) -> None:
        for _, _, fate in (*self._waiting, *self._running):
            fate.ended_at, fate.is_cancelled = now, True
        self._waiting, self._running = [], []

    def work(self, until: datetime) -> None:
        """Play what a worker does before a tick: ends up to it, starts before it."""
        while True:
            ends = self._running[0][0] if self._running else _NEVER
            starts = _NEVER
            if self._waiting and (
                self._task.slots is None or len(self._running) < self._task.slots
            ):
                starts = max(self._clock, self._waiting[0][0])
            if ends <= min(starts, until) and ends < _NEVER:
                self._clock = max(self._clock, ends)
                heappop(self._running)
            elif starts < until:
                self._clock = starts
                _, number, fate = heappop(self._waiting)
                fate.started_at, fate.ended_at = starts, starts + self._duration
                heappush(self._running, (fate.ended_at, number, fate))
            else:
                return


def _too_many() -> ValueError:
    return ValueError(f"it occurs more than {MAX_OCCURRENCES} times; simulate a shorter time")
