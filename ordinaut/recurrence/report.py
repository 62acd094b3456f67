"""What summer time does to a schedule, day by day of change, in sentences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice, takewhile

from ordinaut.recurrence.calendars import Union
from ordinaut.recurrence.occurrence import Occurrence
from ordinaut.recurrence.schedule import RuleSet, Schedule, Wall
from ordinaut.recurrence.zone import Change, Zone

MAX_FIRES = 1500  # every minute of the longest day
MAX_MOVED = 60
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class DstDay:
    """A day on which a zone's clocks change.

    Attributes:
        day: the local date of the hour that is skipped or comes twice.
        at: the instant of the change.
        change: what the clocks do.
        fires: what fires between the day's midnights; at most MAX_FIRES.
        excluded: how many occurrences calendars exclude between them, as far as `fires` goes.
        moved: a sentence for each wall time that summer time touches; empty if it touches none.
    """

    day: date
    timezone: str
    at: datetime
    change: str
    fires: tuple[Occurrence, ...]
    moved: tuple[str, ...]
    excluded: int = 0


def dst_report(schedule: Schedule, year: int) -> list[DstDay]:
    """What changes of the clocks do to `schedule` in a year; empty if its zones have none.

    Args:
        year: 1971 to 2198.
    """
    if not 1971 <= year <= 2198:
        raise ValueError("dst_report() knows 1971 to 2198")
    members = list(_members(schedule))
    days = []
    for zone in {m.zone.name: m.zone for m in members}.values():
        for change in _changes(zone, year):
            day = change.low.date()
            start, end = _midnight(zone, day), _midnight(zone, day + _DAY)
            fires, excluded = _day(schedule, start, end)
            moved = tuple(s for m in members if m.zone is zone for s in _moved(m, change))
            days.append(DstDay(day, zone.name, change.at, _clocks(change), fires, moved, excluded))
    return sorted(days, key=lambda d: d.at)


def _day(schedule: Schedule, start: datetime, end: datetime) -> tuple[tuple[Occurrence, ...], int]:
    """What fires, and how many occurrences calendars exclude."""
    fires: list[Occurrence] = []
    excluded = 0
    for occurrence in schedule.whole.walk(start - timedelta(microseconds=1)):
        if occurrence.at >= end or len(fires) == MAX_FIRES:
            break
        if schedule.excluded_by(occurrence.at):
            excluded += 1
        else:
            fires.append(occurrence)
    return tuple(fires), excluded


def _members(schedule: Schedule) -> Iterator[Schedule]:
    parts = ()  # type: tuple[Schedule, ...]
    if isinstance(schedule, Union):
        parts = schedule.includes
    elif isinstance(schedule, RuleSet):
        parts = schedule.members
    if not parts:
        yield schedule
    for part in parts:
        yield from _members(part)


def _changes(zone: Zone, year: int) -> Iterator[Change]:
    day = datetime(year, 1, 1, tzinfo=UTC) - _DAY
    while day.year <= year:
        change = zone.change(day, day + _DAY)
        if change and change.low.year == year:
            yield change
        day += _DAY


def _midnight(zone: Zone, day: date) -> datetime:
    """When a day begins; the second time if it begins twice."""
    midnight = datetime.combine(day, time())
    return max(zone.instants(midnight)[1], zone.first_instant(midnight))


def _clocks(change: Change) -> str:
    wall = change.at.replace(tzinfo=None)
    before, after = wall + change.before, wall + change.after
    way = "forward" if change.is_gap else "back"
    to = _clock(after) if before.date() == after.date() else f"{after:%Y-%m-%d} {_clock(after)}"
    return (
        f"clocks go {way} from {_clock(before)} to {to} "
        f"(UTC{_offset(change.before)} to UTC{_offset(change.after)})"
    )


def _moved(schedule: Schedule, change: Change) -> Iterator[str]:
    if not isinstance(schedule, Wall):
        return
    touched = takewhile(lambda wall: wall < change.high, schedule.wanted(change.low))
    walls = list(islice(touched, MAX_MOVED + 1))
    for wall in walls[:MAX_MOVED]:
        yield f"{_clock(wall)} {_fate(schedule, change, wall)}"
    if len(walls) > MAX_MOVED:
        yield f"and so on until {_clock(change.high)}"


def _fate(schedule: Schedule, change: Change, wall: datetime) -> str:
    assert isinstance(schedule, Wall)
    first, second = (f"{_clock(i)} UTC" for i in schedule.zone.instants(wall))
    if not change.is_gap:
        return {
            "first": f"comes twice: runs the first time, {first}, and not at {second}",
            "second": f"comes twice: runs the second time, {second}, and not at {first}",
            "both": f"comes twice and runs twice, at {first} and {second}",
        }[schedule.overlap]
    if not schedule.drops(change):
        if schedule.gap == "offset":
            moved = schedule.zone.wall(schedule.zone.instants(wall)[0])
            return f"does not exist: runs at {_clock(moved)}, by the offset before the change"
        return f"does not exist: runs at {_clock(change.high)}, right after the gap"
    if schedule.gap == "end if short":
        return f"does not exist: left out, the gap of {change.length} is a change of date"
    return "does not exist: left out, the schedule follows the clocks over the gap"


def _clock(moment: datetime) -> str:
    return f"{moment:%H:%M:%S}" if moment.second else f"{moment:%H:%M}"


def _offset(offset: timedelta) -> str:
    minutes = round(offset / timedelta(minutes=1))
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"
