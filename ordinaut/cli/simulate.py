"""ordinaut task simulate: what would become of a task's occurrences, outages and slow runs too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer

from ordinaut import calls, manifest, whatif
from ordinaut.apply import INSTANTS, instant
from ordinaut.cli import base
from ordinaut.cli.base import answer, state
from ordinaut.cli.calendar import Cron, Gap, Name, Overlap, Rrule, Start, Timezone
from ordinaut.manifest import Definition
from ordinaut.recurrence import InvalidSchedule
from ordinaut.recurrence.interval import read_span
from ordinaut.recurrence.zone import zone
from ordinaut.simulation import UNTOLD, Fate, Subject, subject
from ordinaut.simulation import simulate as play

_WEEK = timedelta(days=7)


def commands(app: typer.Typer) -> None:
    app.command()(simulate)


@dataclass(frozen=True, slots=True)
class Asked:
    """A task that is asked about; its subject is made when it is known from when on."""

    name: str
    timezone: str
    subject: Callable[[datetime], Subject]


def simulate(
    task: Name = None,
    file: Annotated[Path | None, typer.Option(help="A manifest: all its tasks, or --task.")] = None,
    only: Annotated[str | None, typer.Option("--task", help="Of the manifest, this one.")] = None,
    cron: Cron = None,
    rrule: Rrule = None,
    begin: Annotated[
        str | None, typer.Option("--from", help="Local to the task, or with an offset. Now.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", help="Up to here. 7 days later.")] = None,
    duration: Annotated[str, typer.Option(help="How long each run takes: '5 min'.")] = "0 s",
    outage: Annotated[
        list[str] | None,
        typer.Option(metavar="FROM/TO", help="No scheduler runs then. May be repeated."),
    ] = None,
    only_odd: Annotated[
        bool, typer.Option("--only-odd", help="Only what did not just fire, or was moved.")
    ] = False,
    overlap: Annotated[str | None, typer.Option(help="Instead of the task's.")] = None,
    catchup: Annotated[str | None, typer.Option(help="Instead of the task's.")] = None,
    timezone: Timezone = None,
    start: Start = None,
    dst_gap: Gap = None,
    dst_overlap: Overlap = None,
) -> None:
    """Play a task: clocks, calendars, overlap, catch-up. Nothing is changed, nothing runs.

    A scheduler is taken to fire at once, a worker to be always free, and runs to succeed.
    """
    instead = {k: v for k, v in (("overlap", overlap), ("catchup", catchup)) if v is not None}
    _check(overlap, ("allow", "skip", "buffer_one", "buffer_all", "cancel_other"), "--overlap")
    _check(catchup, ("all", "latest", "none"), "--catchup")
    if [task, file, cron, rrule].count(None) != 3 or (only and file is None):
        raise typer.BadParameter("give a task, or --file (and --task), or --cron, or --rrule")
    of_expression = {"start_at": start, "dst_gap": dst_gap, "dst_overlap": dst_overlap}
    if cron is None and rrule is None and (timezone or any(of_expression.values())):
        raise typer.BadParameter("a task has a time zone and DST policies of its own")
    untold: list[str] = []
    if task is not None:
        asked = [_live(task, instead)]
    elif file is not None:
        asked = _defined(file, only, instead, untold)
    else:
        kind = "rrule" if cron is None else "cron"
        expression = {"schedule_kind": kind, "schedule_expr": cron or rrule} | of_expression
        asked = [_expressed(expression | instead, timezone or "UTC")]
    try:
        takes = read_span(duration)
        played = [_play(one, begin, end, takes, outage or []) for one in asked]
    except (InvalidSchedule, ValueError) as exc:
        raise typer.BadParameter(str(exc)) from None
    _print(played, takes, only_odd, untold)


def _check(value: str | None, known: tuple[str, ...], option: str) -> None:
    if value is not None and value not in known:
        raise typer.BadParameter(f"{option}: {value!r} is not one of {', '.join(known)}")


def _live(name: str, instead: dict[str, Any]) -> Asked:
    conn = state.connect()
    task = calls.get_task(conn, name)
    full = f"{task.namespace}/{task.name}"
    return Asked(full, task.timezone, lambda begin: whatif.of_task(conn, task, begin, **instead))


def _defined(
    file: Path, only: str | None, instead: dict[str, Any], untold: list[str]
) -> list[Asked]:
    """The tasks of a manifest; those that no calendar tells of are added to `untold`."""
    definitions = manifest.read(file)
    tasks = [d for d in definitions if d.what == "task" and only in (None, d.name, d.full_name)]
    if not tasks:
        raise typer.BadParameter(f"{file} has no task {only}" if only else f"{file} has no task")
    named = {
        (d.namespace, d.name): d.arguments["data"]
        | {"name": d.name, "timezone": d.arguments.get("timezone") or "UTC"}
        for d in definitions
        if d.what == "calendar"
    }
    wanted = {(d.namespace, name) for d in tasks for name in d.arguments.get("exclude") or ()}
    if not wanted <= named.keys():
        named = whatif.live_calendars(state.connect()) | named
    found = []
    for task in tasks:
        if only is None and (task.arguments.get("schedule_kind") or "manual") in UNTOLD:
            untold.append(task.full_name)
            continue
        zone = task.arguments.get("timezone") or "UTC"
        make = partial(_of_definition, task, named, instead)
        found.append(Asked(task.full_name, zone, make))
    return found


def _of_definition(
    wanted: Definition, named: whatif.Named, instead: dict[str, Any], begin: datetime
) -> Subject:
    """A task of a manifest, created at `begin`.

    Raises:
        ManifestError: with file, line and field.
    """
    arguments = dict(wanted.arguments)
    for name in INSTANTS & arguments.keys():
        text = instant(wanted, name, arguments[name], arguments.get("timezone") or "UTC")
        arguments[name] = datetime.fromisoformat(text) if text else None
    names = arguments.get("exclude") or ()
    if missing := [name for name in names if (wanted.namespace, name) not in named]:
        raise wanted.error(f"there is no calendar {missing[0]}", "exclude")
    calendars = [named[wanted.namespace, name] for name in names]
    try:
        return subject(arguments | instead, begin, calendars=calendars)
    except InvalidSchedule as exc:
        field = exc.field if exc.field in wanted.lines else "schedule_expr"
        raise wanted.error(str(exc), field) from None


def _expressed(fields: dict[str, Any], timezone: str) -> Asked:
    start = fields["start_at"] and _moment(fields["start_at"], timezone, "--start")
    fields = fields | {"timezone": timezone, "start_at": start}
    return Asked(fields["schedule_expr"], timezone, partial(subject, fields))


@dataclass(frozen=True, slots=True)
class Played:
    """What became of a task's occurrences between two instants."""

    task: str
    timezone: str
    begin: datetime
    end: datetime
    fates: list[Fate]

    @property
    def counts(self) -> dict[str, int]:
        return dict(Counter(fate.decision for fate in self.fates))


def _play(
    asked: Asked, begin: str | None, end: str | None, duration: timedelta, outages: list[str]
) -> Played:
    now = datetime.now(UTC).replace(microsecond=0)
    low = _moment(begin, asked.timezone, "--from") if begin else now
    high = _moment(end, asked.timezone, "--to") if end else low + _WEEK
    pairs = []
    for text in outages:
        first, slash, last = text.partition("/")
        if not slash:
            raise typer.BadParameter(f"--outage: {text!r} is not written as FROM/TO")
        pairs.append(tuple(_moment(t, asked.timezone, "--outage") for t in (first, last)))
    task = asked.subject(low)
    fates = play(task, low, high, duration=duration, outages=[(a, b) for a, b in pairs])
    return Played(asked.name, asked.timezone, low, high, fates)


def _moment(text: str, timezone: str, option: str) -> datetime:
    """An ISO timestamp; one without an offset is local to the task's time zone."""
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        raise typer.BadParameter(
            f"{option}: {text!r} is no time; write 2027-03-28T02:30, or with an offset"
        ) from None
    return at.astimezone(UTC) if at.tzinfo else zone(timezone).first_instant(at)


def _print(played: list[Played], duration: timedelta, only_odd: bool, untold: list[str]) -> None:
    if state.json:
        tasks = [
            {
                "task": p.task, "timezone": p.timezone, "from": p.begin, "to": p.end,
                "counts": p.counts,
                "occurrences": [
                    {**base.plain(fate), "local": fate.local.isoformat(sep=" ")}
                    for fate in p.fates
                    if fate.is_odd or not only_odd
                ],
            }
            for p in played
        ]  # fmt: skip
        answer({"duration": duration, "tasks": tasks, "untold": untold})
        return
    for p in played:
        rows = list(_folded(fate for fate in p.fates if fate.is_odd or not only_odd))
        if rows:
            columns = [("local", f"local, {p.timezone}"), *_COLUMNS]
            base.console().print(base.grid(rows, columns, style="decision"))
        told = ", ".join(f"{n} {decision}" for decision, n in p.counts.items())
        base.console().print(base.clean(f"{p.task}: {told or 'no occurrence'}"), soft_wrap=True)
    for name in untold:
        base.console().print(f"{name}: nobody knows when it occurs", soft_wrap=True)


_COLUMNS = [("utc", "UTC"), ("decision", "decision"), ("runs", "runs, UTC"), ("why", "why")]


def _folded(fates: Iterable[Fate]) -> Iterator[dict[str, str | None]]:
    """One row each; of many in a row that do not run for the same reason the first and last."""
    for is_run, group in groupby(fates, lambda f: f.run_at or (f.decision, f.reason, f.dst)):
        same = list(group)
        if isinstance(is_run, datetime) or len(same) <= 3:
            yield from map(_row, same)
            continue
        yield _row(same[0])
        yield _row(same[0]) | {
            "local": f"… {len(same) - 2} more …", "utc": "", "runs": "", "why": ""
        }  # fmt: skip
        yield _row(same[-1])


def _row(fate: Fate) -> dict[str, str | None]:
    said = [fate.reason, fate.dst and f"clocks: {fate.dst}"]
    if fate.is_cancelled:
        said.append("cancelled" if fate.started_at else "cancelled before it began")
    return {
        "local": f"{fate.local:%a %Y-%m-%d %H:%M:%S}",
        "utc": f"{fate.scheduled_for:%Y-%m-%d %H:%M:%S}",
        "decision": fate.decision,
        "runs": _span(fate),
        "why": "; ".join(word for word in said if word) or None,
    }


def _span(fate: Fate) -> str | None:
    if fate.started_at is None or fate.ended_at is None:
        return None
    day = fate.scheduled_for.date()
    first, last = (
        f"{at:%H:%M:%S}" if at.date() == day else f"{at:%m-%d %H:%M:%S}"
        for at in (fate.started_at, fate.ended_at)
    )
    return first if first == last else f"{first} to {last}"
