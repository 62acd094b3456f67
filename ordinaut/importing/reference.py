"""
The other side: when cron and pg_cron fire, minute by minute, by their own algorithms.

Written from the manuals and the sources' behaviour, and apart from ordinaut.recurrence: bitmaps
instead of candidates, the daemon's loop instead of a policy.

    cron      Debian's: keeps a virtual clock of local minutes.  Behind by 6 minutes to 3 hours
              (clocks went forward), it runs the fixed times that it passed, at once; ahead by up
              to 3 hours (clocks went back), only jobs whose minute or hour begins with *.
    pg_cron   looks at the local minute and nothing else: what is skipped is skipped, what comes
              twice fires twice.  $ is the last day of the month.

The first was compared with Debian's cron 3.0pl1-162 itself, under a fast clock, in both nights of
Berlin.  One thing is left out: of several fixed times in one gap, cron runs the job for each, some
seconds apart; here that is one firing, as it is with us.

Debian's cron notices a new offset only when summer time begins or ends; for a zone that changes
otherwise, it is right after its next start, and here at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

Daemon = Literal["cron", "pg_cron"]

_DAY = 1440
_SETTLED = 240  # minutes after which cron's clocks agree again, whatever change there was
_LIMIT = int(datetime(2200, 1, 1, tzinfo=UTC).timestamp()) // 60
_EPOCH = date(1970, 1, 1).toordinal()

ALIASES = {
    "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0", "@daily": "0 0 * * *", "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}  # fmt: skip

_NAMES = {
    "month": ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    "day of week": ["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
}
_FIELDS = (
    ("minute", 0, 59), ("hour", 0, 23), ("day of month", 1, 31), ("month", 1, 12),
    ("day of week", 0, 7),
)  # fmt: skip


class NotCron(ValueError):
    """The daemon does not read this: the field, and the reason."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field, self.reason = field, reason


@dataclass(frozen=True, slots=True)
class Entry:
    """The bitmaps of a line, and what its stars say."""

    times: tuple[int, ...]  # minutes of a day
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    both_days: bool  # a day field begins with *: a day must be in both
    last_day: bool
    is_wild: bool  # minute or hour begins with *

    def has_day(self, number: int) -> bool:
        """Does the day match, `number` of them after 1 January 1970?"""
        day = date.fromordinal(_EPOCH + number)
        if day.month not in self.months:
            return False
        in_month = day.day in self.days or (
            self.last_day and date.fromordinal(_EPOCH + number + 1).day == 1
        )
        in_week = day.isoweekday() % 7 in self.weekdays
        return (in_month and in_week) if self.both_days else (in_month or in_week)

    def has(self, face: int) -> bool:
        """Does a minute of the wall clock match, counted from 1970?"""
        return face % _DAY in self.times and self.has_day(face // _DAY)


def read(text: str, daemon: Daemon = "cron") -> Entry:
    """Read the time fields of a line.

    Raises:
        NotCron: the daemon would refuse the line.
    """
    words = ALIASES.get(text.strip(), text).split()
    if len(words) != 5:
        raise NotCron("time", f"{text.strip()[:40]!r} is no time that {daemon} reads")
    last_day = daemon == "pg_cron" and words[2] == "$"
    bits = [
        set() if last_day and name == "day of month" else _bits(word, name, low, high)
        for word, (name, low, high) in zip(words, _FIELDS, strict=True)
    ]
    minutes, hours, days, months, weekdays = bits
    return Entry(
        times=tuple(hour * 60 + minute for hour in sorted(hours) for minute in sorted(minutes)),
        days=frozenset(days),
        months=frozenset(months),
        weekdays=frozenset(n % 7 for n in weekdays),
        both_days=words[2][0] == "*" or words[4][0] == "*",
        last_day=last_day,
        is_wild=words[0][0] == "*" or words[1][0] == "*",
    )


def _bits(word: str, name: str, low: int, high: int) -> set[int]:
    names = _NAMES.get(name, [])

    def number(text: str) -> int:
        found = names.index(text.lower()) + low if text.lower() in names else -1
        if found < 0 and text.isdecimal():
            found = int(text[:9])
        if not low <= found <= high:
            raise NotCron(name, f"{text[:40]!r} is not between {low} and {high}")
        return found

    bits: set[int] = set()
    for part in word.split(","):
        match = re.fullmatch(r"(?:(\*)|(\w+)(?:-(\w+))?)(?:/(\d+))?", part, re.ASCII)
        if not match or (match[4] and not match[1] and not match[3]):
            raise NotCron(name, f"cron does not read {part[:40]!r}")
        first, last = (low, high) if match[1] else (number(match[2]), number(match[3] or match[2]))
        if first > last:
            raise NotCron(name, f"{part[:40]!r} runs backwards, and is nothing to cron")
        if match[4] and not int(match[4]):
            raise NotCron(name, f"cron does not read {part[:40]!r}")
        bits.update(range(first, last + 1, int(match[4] or 1)))
    return bits


def firings(entry: Entry, zone: str, after: datetime, daemon: Daemon) -> Iterator[datetime]:
    """When the daemon, running in `zone`, fires the entry after an instant; up to 2200."""
    info = ZoneInfo(zone)
    minute = int(after.timestamp()) // 60 + 1
    while minute < _LIMIT:
        today = minute // _DAY
        stop = (today + 1) * _DAY
        # Whatever the zone, its day is this one or a neighbour; most entries have few days.
        if not any(entry.has_day(day) for day in (today + 1, today, today - 1)):
            minute = stop
            continue
        shift = _shift(info, stop)
        if _shift(info, minute - _SETTLED) == shift:
            found = _plain(entry, minute, stop, shift)
        else:
            found = _walk(entry, info, minute, stop, daemon)
        for fired in found:
            yield datetime.fromtimestamp(fired * 60, UTC)
        minute = stop


def _shift(info: ZoneInfo, minute: int) -> int:
    offset = datetime.fromtimestamp(minute * 60, info).utcoffset()
    assert offset is not None
    return offset // timedelta(minutes=1)


def _plain(entry: Entry, minute: int, stop: int, shift: int) -> Iterator[int]:
    """Minutes of a span in which the clocks do not change."""
    for day in range((minute + shift) // _DAY, (stop + shift - 1) // _DAY + 1):
        if entry.has_day(day):
            for time in entry.times:
                if minute <= (fired := day * _DAY + time - shift) < stop:
                    yield fired


def _walk(entry: Entry, info: ZoneInfo, minute: int, stop: int, daemon: Daemon) -> Iterator[int]:
    """Minutes of a span in which, or shortly before which, the clocks change."""
    begin = minute - _SETTLED
    virtual = begin - 1 + _shift(info, begin - 1)
    for now in range(begin, stop):
        face = now + _shift(info, now)
        behind = face - virtual
        if daemon == "pg_cron":
            fires = entry.has(face)
        elif -180 < behind <= 0:
            fires = entry.is_wild and entry.has(face)
            face = virtual
        elif behind <= -180 or behind > 180 or behind == 1:
            fires = entry.has(face)
        elif behind <= 5 or not entry.is_wild:
            fires = any(entry.has(passed) for passed in range(virtual + 1, face + 1))
        else:
            fires = entry.has(face)
        virtual = face
        if fires and now >= minute:
            yield now
