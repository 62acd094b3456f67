"""Interval schedules: a duration, and where it is counted from."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from ordinaut import duration
from ordinaut.recurrence.occurrence import InvalidSchedule

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
    seconds = _seconds(rest)
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
    seconds = _seconds(text)
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
    seconds = _seconds(text)
    if seconds is None:
        raise InvalidSchedule("duration", f"{text[:40]!r} is not a duration like 90 s or 12 hours")
    try:
        return timedelta(seconds=seconds)
    except OverflowError:
        raise InvalidSchedule("duration", f"{text[:40]} is too long") from None


def _seconds(text: str) -> float | None:
    try:
        return duration.seconds(text)
    except ValueError as exc:
        raise InvalidSchedule("interval", f"{exc}; use an rrule") from None
