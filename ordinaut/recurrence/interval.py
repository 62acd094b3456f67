"""Durations: what PostgreSQL and ISO 8601 call one, as far as it has one length."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta

from ordinaut.recurrence.occurrence import InvalidSchedule

_UNITS = {
    "s": 1, "sec": 1, "secs": 1, "second": 1, "seconds": 1,
    "m": 60, "min": 60, "mins": 60, "minute": 60, "minutes": 60,
    "h": 3600, "hr": 3600, "hrs": 3600, "hour": 3600, "hours": 3600,
    "d": 86400, "day": 86400, "days": 86400, "w": 604800, "week": 604800, "weeks": 604800,
    "ms": 0.001, "millisecond": 0.001, "milliseconds": 0.001,
}  # fmt: skip
_CALENDAR = {"mon", "mons", "month", "months", "y", "yr", "yrs", "year", "years"}
_WORD = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)\s*([a-z]*)[\s,]*", re.ASCII)
_CLOCK = re.compile(r"([0-9]{1,5}):([0-5][0-9])(?::([0-5][0-9](?:\.[0-9]{1,6})?))?", re.ASCII)
_ISO = re.compile(r"p(?:([0-9.]+)w)?(?:([0-9.]+)d)?(?:t(?:([0-9.]+)h)?(?:([0-9.]+)m)?"
                  r"(?:([0-9.]+)s)?)?", re.ASCII)  # fmt: skip

LEAST, MOST = timedelta(seconds=1), timedelta(days=3650)


@dataclass(frozen=True, slots=True)
class Interval:
    """An interval schedule.

    Attributes:
        phase: None: counted from its start, or from its creation.
        after_end: counted from the end of the last run.
    """

    every: timedelta
    phase: timedelta | None = None
    after_end: bool = False


def read_interval(text: str) -> Interval:
    """Read `5 min`, `15 min phase 2 min` or `10 min after end`.

    Raises:
        InvalidSchedule: a duration is none; the phase is not less than the duration.
    """
    if text.endswith(" after end"):
        return Interval(parse_interval(text.removesuffix(" after end")), after_end=True)
    every, word, rest = text.partition(" phase ")
    if not word:
        return Interval(parse_interval(every))
    step = parse_interval(every)
    seconds = _seconds(rest.strip().lower()) if 0 < len(rest.strip()) <= 100 else None
    if seconds is None:
        raise InvalidSchedule("interval", f"{rest[:40]!r} is not a phase like 2 min")
    if not seconds < step.total_seconds():
        raise InvalidSchedule("interval", f"the phase {rest[:40]} is not less than {every[:40]}")
    return Interval(step, timedelta(seconds=seconds))


def parse_interval(text: str) -> timedelta:
    """Read `90 s`, `1 hour 30 min`, `01:30:00`, `PT15M`; a bare number is seconds, a day 24 hours.

    Raises:
        InvalidSchedule: it is none, or has months or years, or is not 1 s to 3650 days.
    """
    words = text.strip().lower()
    seconds = _seconds(words) if 0 < len(words) <= 100 else None
    if seconds is None:
        raise InvalidSchedule("interval", f"{text[:40]!r} is not a duration like 90 s or 12 hours")
    if not LEAST.total_seconds() <= seconds <= MOST.total_seconds():
        raise InvalidSchedule("interval", f"{text[:40]} is not between 1 s and 3650 days")
    return timedelta(seconds=seconds)


def read_span(text: str) -> timedelta:
    """Read a duration of any length, PostgreSQL's own `1 day 02:00:00` too.

    Raises:
        InvalidSchedule: it is none, or has months or years.
    """
    words = text.strip().lower()
    seconds = _seconds(words) if 0 < len(words) <= 100 else None
    if seconds is None:
        raise InvalidSchedule("duration", f"{text[:40]!r} is not a duration like 90 s or 12 hours")
    try:
        return timedelta(seconds=seconds)
    except OverflowError:
        raise InvalidSchedule("duration", f"{text[:40]} is too long") from None


def _seconds(text: str) -> float | None:
    if text.startswith("p"):
        if re.match(r"p[^t]*[ym]", text):
            raise InvalidSchedule("interval", "months and years differ in length; use an rrule")
        match = _ISO.fullmatch(text)
        if not match or not any(match.groups()):
            return None
        try:
            parts = [float(part or 0) for part in match.groups()]
        except ValueError:
            return None
        return sum(n * size for n, size in zip(parts, (604800, 86400, 3600, 60, 1), strict=True))
    total, position = 0.0, 0
    while position < len(text):
        if clock := _CLOCK.fullmatch(text, position):
            return total + 3600 * int(clock[1]) + 60 * int(clock[2]) + float(clock[3] or 0)
        match = _WORD.match(text, position)
        if not match:
            return None
        if match[2] in _CALENDAR:
            raise InvalidSchedule("interval", "months and years differ in length; use an rrule")
        if match[2] not in _UNITS and (match[2] or match[0] != text):
            return None
        total += float(match[1]) * _UNITS.get(match[2], 1)
        position = match.end()
    return total
