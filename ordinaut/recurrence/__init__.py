"""
Calendars: when a schedule fires, on every night of the year, and why.

    parse(kind, expr, timezone)   ->  Schedule, or InvalidSchedule
    schedule.after(instant, n)    ->  the next n Occurrences: strictly after, strictly increasing,
                                      the same whatever instant was asked about before

Pure: no clock, no database, no randomness; the IANA data of the `tzdata` package.  Wall times are
expanded without a zone (cron.py, expand.py) and become instants in one place (schedule.py), under
one stated policy.  Real time is counted as such (ticks.py, interval).

    | a wall time that          | cron, once: as Debian's cron        | rrule: RFC 5545 3.3.5      |
    |---------------------------|-------------------------------------|----------------------------|
    | does not exist            | once, at the first instant after it | by the offset before it    |
    | comes twice               | once, at the first                  | once, at the first         |
    | … minute or hour begins * | as the clocks show it: never, twice | HOURLY, finer: real time   |

A gap of more than three hours is a change of date (Samoa had no 30 December 2011), not summer
time: cron drops what falls into it, as Debian's cron does.  dst_gap and dst_overlap override all
of this.  Every search is bounded, from BEGIN (1970) to END (2200), and rules that never fire are
refused when they are parsed.
"""

from ordinaut.recurrence.calendars import Calendar, Excluded, Union, excluding
from ordinaut.recurrence.describe import describe
from ordinaut.recurrence.kinds import parse
from ordinaut.recurrence.occurrence import InvalidSchedule, Occurrence
from ordinaut.recurrence.report import DstDay, dst_report
from ordinaut.recurrence.schedule import Schedule
from ordinaut.recurrence.zone import tzdata_version

__all__ = [
    "Calendar",
    "DstDay",
    "Excluded",
    "InvalidSchedule",
    "Occurrence",
    "Schedule",
    "Union",
    "describe",
    "dst_report",
    "excluding",
    "parse",
    "tzdata_version",
]
