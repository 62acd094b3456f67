"""
The proof: the next firing times of a task, and of what it was, side by side.

Two witnesses.  reference.py says when the daemon fires, changes of the clocks included; it is
asked always.  croniter expands the expression in a zone without changes; it is asked where it
reads expressions as cron does, which is not: `5-5` (every minute, to it), a * that is not the
first of its list (a star for the rule of the two day fields, to it), $ and what it refuses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile, zip_longest

from croniter import CroniterError, croniter

from ordinaut.importing.found import Job
from ordinaut.importing.reference import firings, read
from ordinaut.recurrence import Schedule, parse

COUNT = 1000
_SHOWN = 3
_END = datetime(2200, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Difference:
    """The n-th firing, by us and by a witness; None: there is none."""

    witness: str
    n: int
    ours: datetime | None
    theirs: datetime | None


@dataclass(frozen=True, slots=True)
class Proof:
    """What came of comparing a task: equal, if there are no differences.

    Attributes:
        compared: how many firing times; fewer than asked for: there are no more before 2200.
        until: the last of them.
        witnesses: who was asked.
    """

    name: str
    where: str
    schedule: str
    timezone: str
    compared: int
    until: datetime | None
    witnesses: tuple[str, ...]
    differences: tuple[Difference, ...]

    @property
    def verdict(self) -> str:
        return "differs" if self.differences else "equal"


def calendar(job: Job, now: datetime) -> Schedule:
    """The calendar that the task will have.

    Raises:
        InvalidSchedule: it would have none.
    """
    given = job.task["schedule"]
    return parse(
        job.kind or "", job.expr, job.timezone, dtstart=now,
        dst_gap=given.get("dst_gap"), dst_overlap=given.get("dst_overlap"),
    )  # fmt: skip


def prove(job: Job, now: datetime, count: int = COUNT) -> Proof:
    """Compare a task's calendar with what it was to the daemon that it comes from."""
    was = job.was
    ours = [o.at for o in calendar(job, now).after(now, count)]
    if job.kind == "interval":
        step = timedelta(seconds=int(was.split()[0]))
        asked = {f"{job.daemon}'s interval": [now + n * step for n in range(1, count + 1)]}
        differences = compare("interval", ours, asked[f"{job.daemon}'s interval"])
        return _proof(job, was, ours, (f"{job.daemon}'s interval",), differences)
    theirs = list(islice(firings(read(was, job.daemon), job.timezone, now, job.daemon), count))
    witnesses = [f"{job.daemon}'s clock"]
    differences = compare(witnesses[0], ours, theirs)
    if (walls := _croniter(was, now)) is not None:
        plain = [o.at for o in parse("cron", job.expr, "UTC").after(now, count)]
        witnesses.append("croniter")
        differences += compare("croniter", plain, list(islice(walls, count)))
    return _proof(job, was, ours, tuple(witnesses), differences)


def compare(witness: str, ours: list[datetime], theirs: list[datetime]) -> tuple[Difference, ...]:
    """The first differences of two lists of instants; none if they are equal."""
    pairs = enumerate(zip_longest(ours, theirs), start=1)
    unequal = (Difference(witness, n, a, b) for n, (a, b) in pairs if a != b)
    return tuple(islice(unequal, _SHOWN))


def _proof(
    job: Job,
    was: str,
    ours: list[datetime],
    witnesses: tuple[str, ...],
    differences: tuple[Difference, ...],
) -> Proof:
    until = ours[-1] if ours else None
    return Proof(job.name, job.where, was, job.timezone, len(ours), until, witnesses, differences)


def _croniter(expr: str, now: datetime) -> Iterator[datetime] | None:
    """The expression in UTC by croniter, if it reads it as cron does."""
    if re.search(r"\$|,\*|(?<![0-9])([0-9]+)-\1(?![0-9])", expr):
        return None
    try:
        found = croniter(expr, now.replace(tzinfo=None), implement_cron_bug=True)
    except CroniterError:
        return None
    return takewhile(lambda at: at < _END, _all(found))


def _all(found: croniter) -> Iterator[datetime]:
    while True:
        try:
            yield found.get_next(datetime).replace(tzinfo=UTC)
        except CroniterError:  # there is no other within fifty years
            return
