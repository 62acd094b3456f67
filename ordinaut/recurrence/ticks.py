"""
Rules of HOURLY and finer: elapsed time.

Every INTERVAL-th hour, minute or second is counted in real time from DTSTART's instant, and the
BY… parts look at what the clocks on the wall show then.  So a day of 23 hours has 23 of them, a
day of 25 hours 25, all the same distance apart.  (dateutil counts wall time: the same instant
twice in spring, a hole of two hours in autumn.)  Stretches that a BY… part rules out are jumped
over, not walked.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta

from ordinaut.recurrence.expand import limited_days
from ordinaut.recurrence.occurrence import END, LAST_DAY, InvalidSchedule
from ordinaut.recurrence.rule import Rule
from ordinaut.recurrence.zone import Zone

UNITS = {
    "HOURLY": timedelta(hours=1), "MINUTELY": timedelta(minutes=1), "SECONDLY": timedelta(seconds=1)
}  # fmt: skip
MAX_MISSES = 2000  # periods looked at in vain, jumps included, before a search gives up: ~40 ms


@dataclass(slots=True)
class Ticks:
    """A rule from its start, in a zone.

    Attributes:
        rule: of HOURLY or finer.
        start: DTSTART, a wall time.
    """

    rule: Rule
    start: datetime
    zone: Zone
    begin: datetime = field(init=False)
    step: timedelta = field(init=False)
    _anchor: datetime = field(init=False)
    _minutes: set[int] = field(init=False)
    _seconds: set[int] = field(init=False)
    _months: dict[tuple[int, int], list[date]] = field(init=False, default_factory=dict)
    _offsets: dict[int, list[timedelta]] = field(init=False, default_factory=dict)
    _next_day: tuple[date, date] = field(init=False, default=(LAST_DAY, LAST_DAY))

    def __post_init__(self) -> None:
        rule, start = self.rule, self.start
        self.begin = self._anchor = self.zone.instants(start)[0]
        self.step = UNITS[rule.freq] * rule.interval
        self._minutes = rule.minutes or {start.minute}
        self._seconds = rule.seconds or {start.second}
        # With minutes or seconds of its own, a period begins on the full hour or minute.
        if self._chooses:
            seconds = start.second + (60 * start.minute if rule.freq == "HOURLY" else 0)
            self._anchor -= timedelta(seconds=seconds)

    @property
    def _chooses(self) -> bool:
        """A period has several candidates, or another one than its beginning."""
        rule = self.rule
        return (rule.freq == "HOURLY" and bool(rule.minutes or rule.seconds)) or (
            rule.freq == "MINUTELY" and bool(rule.seconds)
        )

    def instants(self, after: datetime) -> Iterator[datetime]:
        """Instants after `after`.

        Raises:
            InvalidSchedule: the next one is too far to be found in bounded time.
        """
        unit, misses = UNITS[self.rule.freq], 0
        number = max(0, (after - self._anchor) // self.step)
        while (begin := self._anchor + number * self.step) < END:
            wall = self.zone.wall(begin)
            target = self._blocked_until(wall)
            number += 1
            if target is None or target - wall < unit:
                chosen = self._inside(begin, wall, target)
                for at in chosen:
                    if at > after and at >= self.begin:
                        yield at
                misses = 0 if chosen else misses + 1
            else:
                reached = self._reach(begin, wall, target)
                # The period around it, or the first one that begins there or later.
                around = (reached - self._anchor) // self.step
                upward = -((self._anchor - reached) // self.step)
                number = max(number, around if self._chooses else upward)
                misses += 1
            if misses > MAX_MISSES:
                raise InvalidSchedule(
                    "RRULE", f"nothing matches soon after {begin:%Y-%m-%d}: INTERVAL and the BY… "
                    "parts hardly ever meet; name the hours and days in a DAILY rule",
                )  # fmt: skip

    def _inside(self, begin: datetime, wall: datetime, target: datetime | None) -> list[datetime]:
        """The chosen instants of the period that begins at `begin`, when clocks show `wall`."""
        rule = self.rule
        if not self._chooses:
            alone = not rule.positions or rule.positions & {1, -1}
            return [begin] if target is None and alone else []
        offsets = self._offsets_from(wall)
        end = wall.replace(fold=0) + UNITS[rule.freq] - timedelta(seconds=1)
        if (
            target is None
            and self._blocked_until(end) is None
            and self.zone.wall(begin + (end - wall.replace(fold=0))).replace(fold=0) == end
        ):
            found = offsets  # the usual case: nothing blocked or changed on the way
        else:
            found = [offset for offset in offsets if self._fits(begin + offset)]
        if rule.positions:
            size = len(found)
            numbers = sorted({p - 1 if p > 0 else size + p for p in rule.positions})
            found = [found[number] for number in numbers if 0 <= number < size]
        return [begin + offset for offset in found]

    def _offsets_from(self, wall: datetime) -> list[timedelta]:
        """The candidates of a period that begins when clocks show `wall`, from its beginning."""
        hourly = self.rule.freq == "HOURLY"
        shown = wall.second + (60 * wall.minute if hourly else 0)
        if shown not in self._offsets:
            size = UNITS[self.rule.freq] // timedelta(seconds=1)
            seconds = (
                60 * m + s for m in (self._minutes if hourly else {0}) for s in self._seconds
            )
            found = sorted((second - shown) % size for second in seconds)
            self._offsets[shown] = [timedelta(seconds=second) for second in found]
        return self._offsets[shown]

    def _fits(self, at: datetime) -> bool:
        wall = self.zone.wall(at)
        return (
            self._blocked_until(wall) is None
            and wall.second in self._seconds
            and (self.rule.freq != "HOURLY" or wall.minute in self._minutes)
        )

    def _blocked_until(self, wall: datetime) -> datetime | None:
        """The wall time up to which a BY… part rules everything out; None if none does."""
        rule, today = self.rule, wall.date()
        asked, day = self._next_day
        if asked != today:
            day = next(limited_days(rule, today, self._months), LAST_DAY)
            self._next_day = (today, day)
        if day != today:
            return datetime.combine(day, time())
        hour = wall.replace(minute=0, second=0, fold=0)
        if rule.hours and wall.hour not in rule.hours:
            return hour + timedelta(hours=_until_next(rule.hours, wall.hour, 24))
        if rule.freq != "HOURLY" and rule.minutes and wall.minute not in rule.minutes:
            return hour + timedelta(
                minutes=wall.minute + _until_next(rule.minutes, wall.minute, 60)
            )
        if rule.freq == "SECONDLY" and rule.seconds and wall.second not in rule.seconds:
            wait = _until_next(rule.seconds, wall.second, 60)
            return wall.replace(fold=0) + timedelta(seconds=wait)
        return None

    def _reach(self, begin: datetime, wall: datetime, target: datetime) -> datetime:
        """The first instant after `begin` that may show `target` or anything allowed."""
        wait = target - wall.replace(fold=0)
        reached = begin + wait
        if wait < timedelta(hours=25) and self.zone.wall(reached).replace(fold=0) == target:
            return reached  # no change on the way
        first, second = self.zone.instants(target)
        if first > second:
            reached = self.zone.first_instant(target)
        else:
            reached = first if first > begin else second
        # Clocks put back on the way show allowed times again.
        change = self.zone.change(begin, min(reached, begin + timedelta(hours=25)))
        return change.at if change and not change.is_gap else reached


def _until_next(allowed: set[int], now: int, wrap: int) -> int:
    """Steps from `now` to the next allowed number, or to the wrap."""
    ordered = sorted(allowed)
    index = bisect_right(ordered, now)
    return (ordered[index] if index < len(ordered) else wrap) - now
