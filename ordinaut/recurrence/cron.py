"""
Cron expressions: five fields, or six with seconds first, and what they match.

    second?  minute  hour  day-of-month  month  day-of-week
             @hourly @daily @midnight @weekly @monthly @yearly @annually

    *  a  a-b  a,b  */n  a-b/n  a/n (from a to the end)  names for months and days  0 and 7 = Sunday
    day-of-month: L last, L-3 third before it, LW last weekday, 15W weekday nearest the 15th
    day-of-week:  MON#2 second Monday, 5L or FRIL last Friday.      either: ? the same as *

As in Vixie cron: if both day fields are restricted, a day matches either of them; a field that
begins with * restricts nothing, even as */2, and then both must match.  Ranges do not wrap:
22-2 is refused, as everywhere but in croniter, with the spelling that works (22-23,0-2).
Names may stand in lists and ranges, and FRI-SUN ends on the Sunday after the Friday.  A step
larger than its field is refused: */90 would run hourly, which nobody means who writes it.

One matcher for all expressions, instead of croniter with exceptions: it needs fewer lines than
the exceptions would (fires twice in autumn, reads 5-5 as *, refuses LW and 5L, raises on
`1 + MON#2`, clamps 31W, finds out that a date is impossible only when asked for it) and answers
in a tenth of the time.  croniter and cronsim are what the tests compare it with.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

from ordinaut.recurrence.occurrence import LAST_DAY, MONTHS, InvalidSchedule, Times

ALIASES = {
    "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0", "@daily": "0 0 * * *", "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}  # fmt: skip

WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")

_PART = re.compile(r"(\*|([0-9A-Z]+)(?:-([0-9A-Z]+))?)(?:/([0-9]+))?", re.ASCII)
_NEAREST = re.compile(r"([0-9]{1,2})W", re.ASCII)
_BEFORE_LAST = re.compile(r"L(?:-([0-9]{1,2}))?", re.ASCII)
_NTH = re.compile(r"([0-7]|[A-Z]{3})(?:#([0-9]+)|L)", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()
    first: int = 0  # the number of names[0]


_SECOND, _MINUTE, _HOUR = _Field("second", 0, 59), _Field("minute", 0, 59), _Field("hour", 0, 23)
_DAY, _MONTH = _Field("day of month", 1, 31), _Field("month", 1, 12, MONTHS, 1)
_WEEKDAY = _Field("day of week", 0, 6, WEEKDAYS)


@dataclass(frozen=True, slots=True)
class Cron:
    """A parsed expression.

    Attributes:
        fields: the six fields as written, the seconds `0` if there were five.
        follows_clock: minute or hour begin with *: it follows elapsed time through DST changes.
    """

    fields: tuple[str, ...]
    times: Times
    months: tuple[int, ...]
    follows_clock: bool
    _days: frozenset[int]
    _before_last: frozenset[int]
    _nearest: frozenset[int]
    _last_weekday: bool
    weekdays: frozenset[int]
    numbered_weekdays: frozenset[tuple[int, int]]
    either: bool
    _found: dict[tuple[int, int], tuple[int, ...]] = field(default_factory=dict, compare=False)

    def wishes(self, low: datetime) -> Iterator[datetime]:
        """Wall times from `low` on."""
        first, start = low.date(), self.times.rank(low.time())
        for day in self._dates(first):
            for number in range(start if day == first else 0, len(self.times)):
                yield datetime.combine(day, self.times[number])

    def _dates(self, low: date) -> Iterator[date]:
        for year in range(low.year, LAST_DAY.year + 1):
            for month in self.months:
                if (year, month) >= (low.year, low.month):
                    for day in self.days_of(year, month):
                        if (found := date(year, month, day)) >= low:
                            yield found

    def days_of(self, year: int, month: int) -> tuple[int, ...]:
        """The matching days of a month, whether or not the month itself matches."""
        first = date(year, month, 1)
        following = first.replace(day=28) + timedelta(days=4)
        length = (following.replace(day=1) - first).days
        key = (first.isoweekday() % 7, length)
        if key not in self._found:
            self._found[key] = tuple(d for d in range(1, length + 1) if self._matches(d, *key))
        return self._found[key]

    def _matches(self, day: int, first: int, length: int) -> bool:
        """Does `day` match in a month of `length` days that begins on weekday `first`?"""

        def weekday(of: int) -> int:
            return (first + of - 1) % 7

        dom = day in self._days or length - day in self._before_last
        dom = dom or (
            self._last_weekday and day == max(d for d in range(1, length + 1) if 0 < weekday(d) < 6)
        )
        dom = dom or any(
            day == min((d for d in range(1, length + 1) if 0 < weekday(d) < 6),
                       key=lambda d: abs(d - n))
            for n in self._nearest if n <= length
        )  # fmt: skip
        dow = (
            weekday(day) in self.weekdays
            or (weekday(day), (day + 6) // 7) in self.numbered_weekdays
        )
        dow = dow or ((weekday(day), 0) in self.numbered_weekdays and day + 7 > length)
        return (dom or dow) if self.either else (dom and dow)


def parse_cron(text: str) -> Cron:
    """Read an expression.

    Raises:
        InvalidSchedule: it is none, or no day ever matches it.
    """
    if len(text) > 1000:
        raise InvalidSchedule("expression", "is longer than 1000 characters")
    words = tuple(_expand_alias(text).upper().split())
    if len(words) not in (5, 6):
        raise InvalidSchedule(
            "expression",
            f"has {len(words)} field{'s' * (len(words) != 1)}; write 5 (minute, hour, day of "
            "month, month, day of week), or 6 with the second first",
        )
    if len(words) == 5:
        words = ("0", *words)
    second, minute, hour, dom, month, dow = words
    days = _days(dom)
    weekdays, nths = _weekdays(dow)
    stars = ("*", "?")
    cron = Cron(
        fields=words,
        times=Times(_plain(_HOUR, hour), _plain(_MINUTE, minute), _plain(_SECOND, second)),
        months=tuple(sorted(_plain(_MONTH, month))),
        follows_clock=minute.startswith("*") or hour.startswith("*"),
        _days=frozenset(days.plain),
        _before_last=frozenset(days.before_last),
        _nearest=frozenset(days.nearest),
        _last_weekday=days.last_weekday,
        weekdays=frozenset(weekdays),
        numbered_weekdays=frozenset(nths),
        either=not dom.startswith(stars) and not dow.startswith(stars),
    )
    # 28 years have every kind of month: each length, begun on each weekday.
    if not any(cron.days_of(y, m) for m in cron.months for y in range(2000, 2028)):
        names = ", ".join(MONTHS[m - 1].title() for m in cron.months)
        days_of_week = "" if dow in stars else f" on {dow}"
        raise InvalidSchedule("day of month", f"{dom}{days_of_week} never occurs in {names}")
    return cron


def _expand_alias(text: str) -> str:
    text = text.strip()
    if not text.startswith("@"):
        return text
    if text.lower() in ALIASES:
        return ALIASES[text.lower()]
    hint = {"@reboot": "a database has no boot; run the task by hand or by an event",
            "@every": "that is a schedule of kind interval"}  # fmt: skip
    word = text.split()[0][:20]
    raise InvalidSchedule(
        "expression", hint.get(word.lower(), f"{word} is none of {', '.join(ALIASES)}")
    )


def _plain(of: _Field, text: str) -> set[int]:
    """The numbers that a field of numbers, names, ranges and steps stands for."""
    found: set[int] = set()
    for part in text.split(","):
        found |= _part(of, part)
    return found


def _part(of: _Field, part: str) -> set[int]:
    match = _PART.fullmatch(part)
    if not match:
        raise InvalidSchedule(of.name, f"{part[:40]!r} is not a number, a name, a range or *")
    whole, start, end, step = match.groups()
    if whole == "*":
        low, high = of.low, of.high
    else:
        low = _number(of, start)
        high = max(low, of.high) if step and not end else low
        if end:
            high = 7 if end == "SUN" and low else _number(of, end)  # SAT-SUN
    if low > high:
        raise InvalidSchedule(
            of.name,
            f"the range {whole} runs backwards; write {start}-{of.high},{of.low}-{end}",
        )
    if step and not 1 <= int(step) <= of.high - of.low + 1:
        raise InvalidSchedule(
            of.name,
            f"a step of {step[:9]} does not fit {of.low}-{of.high}"
            + ("; every n of elapsed time is kind interval" if int(step) else ""),
        )
    numbers = range(low, high + 1, int(step or 1))
    return {n % 7 for n in numbers} if of is _WEEKDAY else set(numbers)


def _number(of: _Field, text: str) -> int:
    if text in of.names:
        return of.names.index(text) + of.first
    if not text.isdecimal():
        raise InvalidSchedule(
            of.name, f"{text[:40]!r} is not a number{' or a name' * bool(of.names)}"
        )
    number, high = int(text[:9]), of.high + (of is _WEEKDAY)  # 7 is Sunday too
    if not of.low <= number <= high:
        raise InvalidSchedule(of.name, f"{text[:9]} is not between {of.low} and {high}")
    return number


@dataclass(slots=True)
class _Days:
    plain: set[int] = field(default_factory=set)
    before_last: set[int] = field(default_factory=set)
    nearest: set[int] = field(default_factory=set)
    last_weekday: bool = False


def _days(text: str) -> _Days:
    days = _Days()
    for part in ("*" if text == "?" else text).split(","):
        if part == "LW":
            days.last_weekday = True
        elif match := _BEFORE_LAST.fullmatch(part):
            back = int(match[1] or 0)
            if back > 30:
                raise InvalidSchedule(_DAY.name, f"{part} is before the month")
            days.before_last.add(back)
        elif match := _NEAREST.fullmatch(part):
            days.nearest.add(_number(_DAY, match[1]))
        else:
            days.plain |= _part(_DAY, part)
    return days


def _weekdays(text: str) -> tuple[set[int], set[tuple[int, int]]]:
    """Weekdays, and (weekday, n-th) with 0 for the last; Sunday is 0."""
    plain: set[int] = set()
    nths: set[tuple[int, int]] = set()
    for part in ("*" if text == "?" else text).split(","):
        if match := _NTH.fullmatch(part):
            nth = int(match[2][:9]) if match[2] else 0
            if match[2] and not 1 <= nth <= 5:
                raise InvalidSchedule(_WEEKDAY.name, f"#{match[2][:9]} is not between #1 and #5")
            nths.add((_number(_WEEKDAY, match[1]) % 7, nth))
        elif re.fullmatch(r"L[0-7]?", part):
            raise InvalidSchedule(_WEEKDAY.name, f"{part} is not a day; the last Friday is 5L")
        else:
            plain |= _part(_WEEKDAY, part)
    return plain, nths
