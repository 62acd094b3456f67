"""
pg_cron: the rows of cron.job become tasks of the tool `sql`.

pg_cron looks at the clock of cron.timezone, GMT if that is not set, and at nothing else: what a
change of the clocks skips is skipped, what comes twice fires twice.  One run of a job at a time: a
firing meanwhile waits for its end (overlap: buffer_all), that of an interval does not (skip).

Our `sql` runs one statement in one transaction; commands that are more, or cannot be in one, are
left out and said.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ordinaut.calls import PgCron, PgCronJob
from ordinaut.importing.found import Found, Job, Names, Problem, check_zone, name_of
from ordinaut.importing.reference import NotCron, read
from ordinaut.recurrence import InvalidSchedule, parse

_SECONDS = re.compile(r"\s*([1-9]|[1-5][0-9])\s+seconds?\s*", re.IGNORECASE)
_UTC = {"GMT", "UTC", "Etc/UTC", "Etc/GMT"}

# What SQL text is made of, as far as a semicolon may hide in it; quotes that do not end run on.
_TOKEN = re.compile(
    r"""--[^\n]* | /\*(?:.|\n)*?\*/ | \$(\w*)\$(?:.|\n)*?\$\1\$ | [eE]'(?:[^'\\]|\\(?:.|\n)|'')*'
      | '(?:[^']|'')*' | "[^"]*" | (?P<end>;) | \s+ | \w+ | .""",
    re.VERBOSE,
)
_ALONE = re.compile(
    r"vacuum|(create|drop)\s+(database|tablespace|subscription)|alter\s+system|"
    r"(create|drop)\s+(unique\s+)?index\s+concurrently|reindex\b.*\bconcurrently|"
    r"reindex\s+(\(.*\)\s*)?(database|system)|begin|start\s+transaction|commit|rollback|cluster\s*$",
    re.IGNORECASE | re.DOTALL,
)


def read_pg_cron(there: PgCron) -> Found:
    """Make tasks of the jobs of a database."""
    zone = "UTC" if there.timezone in _UTC else there.timezone
    names = Names()
    found = Found(
        head=[
            f"From cron.job of database {there.database}; pg_cron's time zone is {there.timezone}.",
            "Day of month and day of week: either, if neither begins with *, as in cron. When the",
            "clocks change: as pg_cron, what is skipped is skipped, what comes twice fires twice.",
            "No second try, and no run for what an outage swallowed. The tasks run in Ordinaut's",
            "database as the worker's role; a worker must offer the tool: [tools.sql]",
        ]
    )
    for job in there.jobs:
        where, text = f"cron.job {job.jobid}", f"{job.schedule} | {job.command}"
        try:
            found.items.append(_job(there, job, zone, where, names))
        except (NotCron, InvalidSchedule) as exc:
            found.items.append(Problem(where, exc.field, exc.reason, text))
    return found


def _job(there: PgCron, job: PgCronJob, zone: str, where: str, names: Names) -> Job:
    _check_command(job.command)
    notes = []
    if job.database != there.database:
        notes.append(f"pg_cron runs it in database {job.database}")
    if job.username != there.role:
        notes.append(f"pg_cron runs it as {job.username}")
    if job.nodename not in ("localhost", "", "127.0.0.1", "::1") and "/" not in job.nodename:
        notes.append(f"pg_cron runs it on {job.nodename}")
    schedule, overlap, kind, expr = _schedule(job.schedule, zone)
    if not job.active:
        notes.append(f"it is inactive; to start it, give it schedule: {schedule}")
        schedule = "manual"
    task: dict[str, Any] = {
        "name": names.unique(_name(job)),
        "uses": "sql",
        "with": {"statement": job.command.strip()},
        "schedule": schedule,
        "overlap": overlap,
        "catchup": "none",
        "retry": {"attempts": 1},
    }
    is_live = kind if job.active else None
    return Job(where, task, job.schedule, is_live, expr, zone, "pg_cron", tuple(notes))


def _schedule(text: str, zone: str) -> tuple[Any, str, str, str]:
    """The manifest's schedule and overlap, and the kind and expression of the calendar."""
    if match := _SECONDS.fullmatch(text):
        every = f"{match[1]} s"
        return {"every": every}, "skip", "interval", every
    words = text.split()
    if words[:1] in (["@reboot"], ["@restart"]):
        raise NotCron("schedule", "a database that others share has no boot; run it by hand")
    read(text, "pg_cron")
    expr = " ".join("L" if word == "$" else word for word in words)
    schedule: dict[str, str] = {"cron": expr, "timezone": zone}
    if zone != "UTC":
        schedule |= {"dst_gap": "skip", "dst_overlap": "both"}
    check_zone(zone)
    parse("cron", expr, zone)
    return schedule, "buffer_all", "cron", expr


def _name(job: PgCronJob) -> str:
    given = re.sub(r"[^A-Za-z0-9_.-]+", "-", job.jobname or "")[:60].strip("-._")
    return given or name_of(re.sub(r"\(.*", "", job.command.lstrip(), flags=re.DOTALL))


def _check_command(command: str) -> None:
    """Refuse what the tool `sql` cannot run."""
    statements = _statements(command)
    if len(statements) != 1:
        raise NotCron(
            "command",
            f"has {len(statements)} statements, and the tool sql runs one; put them into a"
            " function or a do block",
        )
    if match := _ALONE.match(statements[0]):
        raise NotCron(
            "command",
            f"{' '.join(match[0].split()[:3]).upper()} cannot run in a transaction, and the tool"
            " sql runs in one; run psql by the tool shell",
        )


def _statements(command: str) -> Sequence[str]:
    """The statements of a text, without comments."""
    found = [""]
    for match in _TOKEN.finditer(command):
        if match["end"]:
            found.append("")
        elif not match[0].startswith(("--", "/*")):
            found[-1] += match[0]
    return [text.strip() for text in found if text.strip()]
