"""
Rules of DAILY and coarser, expanded: from any wall time on, without walking there.

A rule is a row of periods (years, months, weeks, days), every INTERVAL-th one counted from
DTSTART's own.  What a period holds depends on nothing before it, so a search begins at the period
it asks about.  dateutil walks from DTSTART instead: 6.8 s for five years of MINUTELY, for ever on
a rule that never matches; and begins inside the first week or year, so its BYSETPOS counts wrong
there; and gives a week number all seven days where RFC 5545 means DTSTART's weekday.  Re-anchoring
it, filling in the parts that it would take from DTSTART and bounding it needs more lines than the
expansion itself, so this is the only one; dateutil is what the tests compare it with.
"""

from __future__ import annotations

import calendar
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

from ordinaut.recurrence.occurrence import LAST_DAY, Times
from ordinaut.recurrence.rule import Rule

_DAY = timedelta(days=1)


@dataclass(slots=True)
class Expansion:
    """A rule from its start.

    Attributes:
        rule: of DAILY or coarser.
        start: DTSTART, a wall time.
    """

    rule: Rule
    start: datetime
    times: Times = field(init=False)
    _months: dict[tuple[int, int], list[date]] = field(init=False, default_factory=dict)
    _shapes: dict[tuple[int, int, bool], list[int]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        rule, start = self.rule, self.start
        self.times = Times(
            rule.hours or {start.hour}, rule.minutes or {start.minute},
            rule.seconds or {start.second},
        )  # fmt: skip

    def wishes(self, low: datetime) -> Iterator[datetime]:
        """Wall times from `low` and from the start on, regardless of COUNT and UNTIL."""
        low = max(low, self.start)
        for days in self._periods(low.date()):
            if self.rule.positions:
                yield from (wish for wish in self._chosen(days) if wish >= low)
                continue
            for day in days:
                if day >= low.date():
                    first = self.times.rank(low.time()) if day == low.date() else 0
                    for number in range(first, len(self.times)):
                        yield datetime.combine(day, self.times[number])

    def _chosen(self, days: list[date]) -> list[datetime]:
        """BYSETPOS: by number among days x times, which are not built."""
        size, wishes = len(days) * len(self.times), set()
        for position in self.rule.positions:
            number = position - 1 if position > 0 else size + position
            if 0 <= number < size:
                day, at = divmod(number, len(self.times))
                wishes.add(datetime.combine(days[day], self.times[at]))
        return sorted(wishes)

    def _periods(self, low: date) -> Iterator[list[date]]:
        """The matching days of each period, from the one that holds `low`."""
        rule, start = self.rule, self.start.date()
        step = rule.interval
        if rule.freq == "YEARLY":
            for year in range(_align(start.year, low.year, step), LAST_DAY.year + 1, step):
                yield self._year(year)
        elif rule.freq == "MONTHLY":
            months = _align(_month_number(start), _month_number(low), step)
            for number in range(months, _month_number(LAST_DAY) + 1, step):
                yield self._month(number // 12, number % 12 + 1)
        elif rule.freq == "WEEKLY":
            week = _align(self._week(start), self._week(low), step)
            for number in range(week, self._week(LAST_DAY), step):
                yield self._days_of_week(number)
        else:
            for day in limited_days(rule, low, self._months):
                if (day - start).days % step == 0:
                    yield [day]

    def _week(self, day: date) -> int:
        """Weeks since the first one of the calendar, by WKST."""
        return (day.toordinal() - 1 - self.rule.week_start + 7) // 7

    def _days_of_week(self, number: int) -> list[date]:
        rule = self.rule
        first = number * 7 - 6 + rule.week_start
        wanted = {day for _, day in rule.weekdays} or {self.start.weekday()}
        offsets = sorted((day - rule.week_start) % 7 for day in wanted)
        days = [date.fromordinal(first + offset) for offset in offsets]
        return [day for day in days if day.month in rule.months] if rule.months else days

    def _month(self, year: int, month: int, weekdays: bool = True) -> list[date]:
        if self.rule.months and month not in self.rule.months:
            return []
        first, length = calendar.monthrange(year, month)
        shape = (first, length, weekdays)
        if shape not in self._shapes:
            self._shapes[shape] = self._days_of_month(date(year, month, 1), length, weekdays)
        return [date(year, month, day) for day in self._shapes[shape]]

    def _days_of_month(self, first: date, length: int, weekdays: bool) -> list[int]:
        """The matching days of a month; the same in all that are as long and begin as this one."""
        rule, last = self.rule, first.replace(day=length)
        if rule.monthdays:
            found = {n if n > 0 else length + 1 + n for n in rule.monthdays}
            days = {first.replace(day=n) for n in found if 1 <= n <= length}
            if rule.weekdays and weekdays:
                days &= _weekdays(rule.weekdays, first, last)
        elif rule.weekdays:
            days = _weekdays(rule.weekdays, first, last)
        else:
            return [self.start.day] if self.start.day <= length else []
        return sorted(day.day for day in days)

    def _year(self, year: int) -> list[date]:
        rule = self.rule
        first, last = date(year, 1, 1), date(year, 12, 31)
        if not rule.weeknos and not rule.yeardays:
            if rule.weekdays and not rule.months and not rule.monthdays:
                return sorted(_weekdays(rule.weekdays, first, last))
            if rule.months:
                return [d for m in sorted(rule.months) for d in self._month(year, m)]
            if rule.monthdays:  # a numbered weekday is numbered in the year here
                days = {d for m in range(1, 13) for d in self._month(year, m, weekdays=False)}
                if rule.weekdays:
                    days &= _weekdays(rule.weekdays, first, last)
                return sorted(days)
            return _existing(year, self.start.month, self.start.day)
        sets: list[set[date]] = []
        if rule.weeknos:
            days = self._days_of_weeks(year)
            # RFC 5545: what the rule leaves open, here the weekday, is DTSTART's.
            if not rule.weekdays and not rule.monthdays and not rule.yeardays:
                days = {d for d in days if d.weekday() == self.start.weekday()}
            sets.append(days)
        if rule.yeardays:
            length = (last - first).days + 1
            found = {n if n > 0 else length + 1 + n for n in rule.yeardays}
            sets.append({first + (n - 1) * _DAY for n in found if 1 <= n <= length})
        days = set.intersection(*sets)
        if rule.weekdays:
            days &= _weekdays(rule.weekdays, first, last, rule.months)
        if rule.monthdays:
            days = {d for d in days if d in self._month(year, d.month, weekdays=False)}
        return sorted(d for d in days if not rule.months or d.month in rule.months)

    def _days_of_weeks(self, year: int) -> set[date]:
        """The days of this calendar year in the numbered weeks, which may be its neighbours'."""
        days = set()
        for owner in (year - 1, year, year + 1):
            first, following = self._first_week(owner), self._first_week(owner + 1)
            weeks = (following - first).days // 7
            for n in self.rule.weeknos:
                number = n if n > 0 else weeks + 1 + n
                if 1 <= number <= weeks:
                    monday = first + 7 * (number - 1) * _DAY
                    days |= {d for d in (monday + i * _DAY for i in range(7)) if d.year == year}
        return days

    def _first_week(self, year: int) -> date:
        """The first day of week 1: the one that holds 4 January."""
        fourth = date(year, 1, 4)
        return fourth - ((fourth.weekday() - self.rule.week_start) % 7) * _DAY


def limited_days(
    rule: Rule, low: date, months: dict[tuple[int, int], list[date]]
) -> Iterator[date]:
    """Days from `low` on that a rule of DAILY or finer lets through."""
    year, month = low.year, low.month
    while (year, month) <= (LAST_DAY.year, LAST_DAY.month):
        if not rule.months or month in rule.months:
            days = months.get((year, month))
            if days is None:
                days = _limited_month(rule, year, month)
                months.clear()  # one is enough: searches ask for the same month again and again
                months[year, month] = days
            yield from (day for day in days if day >= low)
        year, month = (year, month + 1) if month < 12 else (year + 1, 1)


def _limited_month(rule: Rule, year: int, month: int) -> list[date]:
    length = calendar.monthrange(year, month)[1]
    numbers = {n if n > 0 else length + 1 + n for n in rule.monthdays} or range(1, length + 1)
    days = [date(year, month, n) for n in sorted(numbers) if 1 <= n <= length]
    if rule.weekdays:
        wanted = {day for _, day in rule.weekdays}
        days = [day for day in days if day.weekday() in wanted]
    if rule.yeardays:
        size = 366 if calendar.isleap(year) else 365
        found = {n if n > 0 else size + 1 + n for n in rule.yeardays}
        days = [day for day in days if day.timetuple().tm_yday in found]
    return days


def _weekdays(
    wanted: set[tuple[int, int]], first: date, last: date, months: set[int] | None = None
) -> set[date]:
    """Weekdays between two dates, all or the n-th; per month if months are given."""
    if months and any(ordinal for ordinal, _ in wanted):
        return set().union(
            *(
                _weekdays(wanted, date(first.year, m, 1),
                          date(first.year, m, calendar.monthrange(first.year, m)[1]))
                for m in months
            )
        )  # fmt: skip
    days = set()
    for ordinal, weekday in wanted:
        earliest = first + (weekday - first.weekday()) % 7 * _DAY
        all_of_them = [earliest + 7 * n * _DAY for n in range((last - earliest).days // 7 + 1)]
        if not ordinal:
            days.update(all_of_them)
        elif abs(ordinal) <= len(all_of_them):
            days.add(all_of_them[ordinal - 1 if ordinal > 0 else ordinal])
    return days


def _existing(year: int, month: int, day: int) -> list[date]:
    return [date(year, month, day)] if day <= calendar.monthrange(year, month)[1] else []


def _month_number(day: date) -> int:
    return day.year * 12 + day.month - 1


def _align(start: int, low: int, step: int) -> int:
    """The first of start, start + step, … that is not before `low`'s own."""
    return start + max(0, -(-(low - start) // step)) * step
