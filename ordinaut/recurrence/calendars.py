"""
Unions and exclusions: several schedules as one, minus the times of named calendars.

A calendar is data, as a task file or ordinaut.calendar has it:

    {"name": "closed", "timezone": "Europe/Berlin",
     "dates":  ["2026-12-25", "2026-12-26"],                       whole days
     "ranges": [["2026-12-24T14:00", "2027-01-02"]],               a freeze; the end is not in it
     "weekly": [{"days": "MON-FRI", "from": "22:00", "to": "06:00"},   quiet hours, over midnight
                {"days": "SAT,SUN"}]}                              without times: the whole day

Wall times are the calendar's own zone's; ranges may have offsets.  In a repeated hour a window
covers what the clocks show: 02:00 to 02:30 is quiet both times.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from operator import itemgetter
from typing import Any

from ordinaut.recurrence.cron import parse_cron
from ordinaut.recurrence.occurrence import END, InvalidSchedule, Occurrence
from ordinaut.recurrence.schedule import AfterEnd, Schedule, merged
from ordinaut.recurrence.zone import Zone, zone

MAX_BLOCKS = 1000  # excluded stretches that a search passes before it gives up
_DAY = timedelta(days=1)
_KEYS = {"name", "timezone", "dates", "ranges", "weekly"}


@dataclass(frozen=True, slots=True)
class Window:
    """Some weekdays (0 is Sunday), from a time to a time; ends on the next day if not later."""

    days: frozenset[int]
    start: time = time()
    end: time = time()

    def end_of(self, wall: datetime) -> datetime | None:
        """The wall time when the window that holds `wall` closes; None if none does."""
        for back in (0, 1):
            day = wall.date() - back * _DAY
            if day.isoweekday() % 7 in self.days:
                opens = datetime.combine(day, self.start)
                closes = datetime.combine(day + (self.end <= self.start) * _DAY, self.end)
                if opens <= wall < closes:
                    return closes
        return None


@dataclass(frozen=True, slots=True)
class Calendar:
    """Times at which nothing fires.

    Attributes:
        ranges: pairs of instants; the second is not in it.  In order, and apart.
    """

    name: str
    zone: Zone
    dates: frozenset[date] = frozenset()
    ranges: tuple[tuple[datetime, datetime], ...] = ()
    weekly: tuple[Window, ...] = ()

    @classmethod
    def read(cls, data: Mapping[str, Any], timezone: str = "UTC") -> Calendar:
        """Build a calendar from data.

        Args:
            timezone: for a calendar that names none.

        Raises:
            InvalidSchedule: naming the key.
        """
        name = str(data.get("name", "exclusion"))
        if unknown := sorted(set(data) - _KEYS):
            raise InvalidSchedule(f"calendar {name}", f"has no {unknown[0]!r}")
        where = zone(str(data.get("timezone") or timezone))
        return cls(
            name,
            where,
            frozenset(_date(name, value) for value in _listed(name, data, "dates")),
            _joined(_range(name, where, pair) for pair in _listed(name, data, "ranges")),
            tuple(_window(name, window) for window in _listed(name, data, "weekly")),
        )

    def covers(self, instant: datetime) -> datetime | None:
        """When the stretch that holds `instant` ends; None if the calendar does not exclude it."""
        last = bisect_right(self.ranges, instant, key=itemgetter(0)) - 1
        ends = [end for _, end in self.ranges[max(last, 0) : last + 1] if instant < end]
        wall = self.zone.wall(instant).replace(fold=0)
        faces = [end for window in self.weekly if (end := window.end_of(wall))]
        if wall.date() in self.dates:
            faces.append(datetime.combine(wall.date() + _DAY, time()))
        for face in faces:
            first, second = self.zone.instants(face)
            if first > second:
                first = second = self.zone.first_instant(face)
            end = first if first > instant else second
            # Clocks put back on the way show other times again: look there, not beyond.
            change = self.zone.change(instant, min(end, instant + _DAY))
            ends.append(change.at if change and not change.is_gap else end)
        return max(ends, default=None)


@dataclass(frozen=True, slots=True)
class Excluded:
    """A stretch in which calendars keep a schedule from firing.

    Attributes:
        first: the first occurrence in it; there may be more.
        until: its end, or an instant up to which it reaches at least.
        by: the names of the calendars.
    """

    first: Occurrence
    until: datetime
    by: str


@dataclass(frozen=True, slots=True)
class Union(Schedule):
    """All occurrences of several schedules, an instant once, minus what calendars exclude."""

    includes: tuple[Schedule, ...]
    excludes: tuple[Calendar, ...] = ()
    kind: str = field(default="union", init=False)

    def __post_init__(self) -> None:
        if not self.includes:
            raise InvalidSchedule("union", "has no schedules")
        for schedule in self.includes:
            if isinstance(schedule, AfterEnd):
                raise InvalidSchedule("union", f"{schedule.expr!r} is no calendar: runs decide it")

    @property
    def expr(self) -> str:  # type: ignore[override]
        return "; ".join(schedule.expr for schedule in self.includes)

    @property
    def zone(self) -> Zone:  # type: ignore[override]
        return self.includes[0].zone

    @property
    def whole(self) -> Schedule:
        return Union(self.includes) if self.excludes else self

    def excluded_by(self, instant: datetime) -> str | None:
        return ", ".join(c.name for c in self.excludes if c.covers(instant)) or None

    def walk(self, after: datetime) -> Iterator[Occurrence]:
        blocks = 0
        for found in self.judged(after):
            if isinstance(found, Occurrence):
                blocks = 0
                yield found
                continue
            blocks += 1
            if blocks > MAX_BLOCKS:
                names = ", ".join(calendar.name for calendar in self.excludes)
                raise InvalidSchedule("exclude", f"{names}: nothing is left after {after:%Y-%m-%d}")

    def judged(self, after: datetime) -> Iterator[Occurrence | Excluded]:
        """All that fires after an instant, and the stretches in which nothing does, in order.

        Without end: stretches may follow one another until 2200.
        """
        source = merged(self.includes, after)
        while (occurrence := next(source, None)) is not None and occurrence.at < END:
            covers = [(c.name, end) for c in self.excludes if (end := c.covers(occurrence.at))]
            if not covers:
                yield occurrence
                continue
            until = max(end for _, end in covers)
            yield Excluded(occurrence, until, ", ".join(name for name, _ in covers))
            if until >= END:
                return
            source = merged(self.includes, until - timedelta(microseconds=1))


def excluding(schedule: Schedule, calendars: Sequence[Calendar]) -> Schedule:
    """Return a schedule without what calendars exclude."""
    if not calendars:
        return schedule
    members = schedule.includes if isinstance(schedule, Union) else (schedule,)
    return Union(members, tuple(calendars))


def _listed(name: str, data: Mapping[str, Any], key: str) -> list[Any]:
    found = data.get(key) or []
    if not isinstance(found, list):
        raise InvalidSchedule(f"calendar {name}", f"{key} is not a list")
    return found


def _joined(ranges: Iterator[tuple[datetime, datetime]]) -> tuple[tuple[datetime, datetime], ...]:
    """The ranges in order, those that touch made one."""
    out: list[tuple[datetime, datetime]] = []
    for start, end in sorted(ranges):
        if out and start <= out[-1][1]:
            start, end = out[-1][0], max(end, out.pop()[1])
        out.append((start, end))
    return tuple(out)


def _date(name: str, value: object) -> date:
    try:
        return value if type(value) is date else date.fromisoformat(str(value))
    except ValueError:
        raise InvalidSchedule(f"calendar {name}", f"{value!r} is not a date") from None


def _range(name: str, where: Zone, pair: object) -> tuple[datetime, datetime]:
    if not isinstance(pair, list) or len(pair) != 2:
        raise InvalidSchedule(f"calendar {name}", f"{pair!r} is not a pair of times")
    instants = []
    for value in pair:
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            raise InvalidSchedule(f"calendar {name}", f"{value!r} is not a time") from None
        instants.append(moment.astimezone(UTC) if moment.tzinfo else where.first_instant(moment))
    if instants[0] >= instants[1]:
        raise InvalidSchedule(f"calendar {name}", f"the range {pair!r} ends before it begins")
    return instants[0], instants[1]


def _window(name: str, data: object) -> Window:
    if not isinstance(data, dict):
        raise InvalidSchedule(f"calendar {name}", f"{data!r} is no window like {{'days': 'SUN'}}")
    if unknown := sorted(set(data) - {"days", "from", "to"}):
        raise InvalidSchedule(f"calendar {name}", f"a weekly window has no {unknown[0]!r}")
    days = str(data.get("days", "*"))
    cron = parse_cron(f"0 0 * * {''.join(days.split())}")
    if cron.numbered_weekdays:
        raise InvalidSchedule(f"calendar {name}", f"{days!r} are not days of every week")
    try:
        start, end = (time.fromisoformat(str(data.get(key, "00:00"))) for key in ("from", "to"))
    except ValueError as error:
        raise InvalidSchedule(f"calendar {name}", f"{error}: write times like 22:00") from None
    return Window(cron.weekdays, start, end)
