"""I1, I2, I20: occurrences against calendars that are computed again."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice, takewhile

from tests.chaos.calendar import MICROSECOND, Undecided, occurrences
from tests.chaos.history import History, Row, instant
from tests.chaos.invariants import Finding, invariant
from tests.chaos.lives import Lives

SCHEDULE = frozenset({
    "schedule_kind", "schedule_expr", "timezone", "dst_gap", "dst_overlap", "start_at", "end_at",
    "max_runs", "exclude",
})  # fmt: skip
ENDS = frozenset({"task_paused", "task_cancelled", "task_invalid", "task_completed"})
MOST = 200_000  # occurrences of one task


@dataclass
class Ledger:
    """One task, its schedule row, its rows of `occurrence` and what the journal says of it."""

    task: Row
    plan: Row
    rows: list[Row]
    lines: list[Row]

    def label(self) -> str:
        return f"task {self.task['namespace']}/{self.task['name']}"


def ledgers(history: History) -> list[Ledger]:
    rows: dict[str, list[Row]] = defaultdict(list)
    for row in history.table("occurrence"):
        rows[row["task_id"]].append(row)
    lines: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(history.table("run_log"), key=lambda r: (r["at"], r["log_id"])):
        if row.get("task_id") and row["event"].startswith("task_"):
            lines[row["task_id"]].append(row)
    plans = {row["task_id"]: row for row in history.table("task_schedule")}
    return [
        Ledger(
            task, plans.get(task["task_id"], {}),
            sorted(rows[task["task_id"]], key=lambda r: instant(r["scheduled_for"]) or 0),
            lines[task["task_id"]],
        )
        for task in history.table("task")
    ]  # fmt: skip


def since(ledger: Ledger) -> datetime:
    """Return from when on its present definition counts: its creation, or its last new schedule."""
    at = instant(ledger.task["created_at"])
    assert at is not None
    for line in ledger.lines:
        patch = (line.get("detail") or {}).get("patch") or {}
        if line["event"] == "task_updated" and SCHEDULE & patch.keys():
            at = instant(line["at"]) or at
    return at


def silences(ledger: Ledger) -> list[tuple[datetime, datetime | None]]:
    """Return when the task was not active, or was snoozed: from, until (None: still)."""
    found: list[tuple[datetime, datetime | None]] = []
    begun: datetime | None = None
    for line in ledger.lines:
        at = instant(line["at"])
        assert at is not None
        if line["event"] in ENDS and begun is None:
            begun = at
        elif line["event"] in ("task_resumed", "task_updated") and begun is not None:
            if line["event"] == "task_resumed" or ledger.task["status"] == "active":
                found.append((begun, at))
                begun = None
        elif line["event"] == "task_snoozed":
            found.append((at, (instant(line["detail"].get("next_run")) or at) - MICROSECOND))
    if begun is not None:
        found.append((begun, None))
    return found


@invariant("I1", "the recomputed occurrences are the rows of the ledger, each run or reasoned")
def completeness(history: History, lives: Lives, found: Finding) -> None:
    late = timedelta(seconds=history.bound("start_late_s", 60))
    for ledger in ledgers(history):
        for row in ledger.rows:
            found.count()
            if bool(row.get("run_id")) == bool(row["decision"] not in ("fired", "buffered")) or (
                row["decision"] != "fired" and not row.get("reason")
            ):
                found.wrong(
                    f"{ledger.label()}: {row['scheduled_for']} is {row['decision']}, with run"
                    f" {row.get('run_id')} and reason {row.get('reason')}", row,
                )  # fmt: skip
        try:
            _compare(ledger, history, late, found)
        except Undecided as why:
            found.skip(str(why))


def _compare(ledger: Ledger, history: History, late: timedelta, found: Finding) -> None:
    task, plan = ledger.task, ledger.plan
    begin = since(ledger)
    own = [r for r in ledger.rows if r.get("backfill_id") is None]
    after = begin
    if task["schedule_kind"] == "once":  # a past that was accepted fires at once
        after = datetime.min.replace(tzinfo=begin.tzinfo)
    # Up to where it was decided; and what is due for long and has no row is missing, too.
    marks = [begin, instant(plan.get("fired_until"))]
    marks += [instant(row["scheduled_for"]) for row in own]
    if task["status"] == "active" and history.now is not None:
        marks.append(history.now - late)
    last = max(mark for mark in marks if mark is not None)
    expected = list(islice(takewhile(lambda at: at <= last, occurrences(task, after)), MOST + 1))
    if len(expected) > MOST:
        raise Undecided(f"more than {MOST} occurrences of one task")
    rows = {instant(row["scheduled_for"]) for row in ledger.rows}
    quiet = silences(ledger)
    found.count(len(expected))
    for at in expected:
        if at not in rows and not _is_excused(at, quiet, ledger, own):
            found.wrong(f"{ledger.label()}: the occurrence of {at.isoformat()} has no row", task)
    wanted = set(expected)
    for row in own:
        decided = instant(row["scheduled_for"])
        if decided is not None and decided > begin and decided not in wanted:
            found.wrong(
                f"{ledger.label()}: {decided.isoformat()} is no occurrence of its calendar", row
            )
        elif task["schedule_kind"] != "once" and any(
            begin < decided <= (end or decided) for begin, end in quiet if decided is not None
        ):
            found.wrong(f"{ledger.label()}: {decided} was decided while it was silent", row)


def _is_excused(
    at: datetime,
    quiet: list[tuple[datetime, datetime | None]],
    ledger: Ledger,
    own: list[Row],
) -> bool:
    """Whether the task was silent at this instant, or fell silent before anybody decided it."""
    max_runs = ledger.task.get("max_runs")
    if max_runs is not None and ledger.task["status"] == "completed":
        ran = sum(r["decision"] in ("fired", "buffered") for r in own)
        if ran >= max_runs and all((instant(r["scheduled_for"]) or at) < at for r in own):
            return True
    for begin, end in quiet:
        if begin <= at and (end is None or at <= end):
            return True
        if at < begin and not any(
            (instant(r["scheduled_for"]) or at) >= at and (instant(r["decided_at"]) or at) <= begin
            for r in own
        ):
            return True
    return False


@invariant("I2", "an occurrence has one run at most")
def uniqueness(history: History, lives: Lives, found: Finding) -> None:
    keys = Counter((r["task_id"], r["scheduled_for"]) for r in history.table("occurrence"))
    for (task, at), n in keys.items():
        found.count()
        if n > 1:
            found.wrong(f"task {task} has {n} rows for {at}")
    owner: dict[str, Row] = {}
    for row in history.table("occurrence"):
        run = row.get("run_id")
        if run and run in owner:
            found.wrong(f"run {run} belongs to two occurrences", owner[run], row)
        elif run:
            owner[run] = row
    runs: dict[tuple[str, str], dict[str, Row | None]] = defaultdict(dict)
    for run, places in lives.runs.items():
        row = places[0][1]
        if row.get("task_id") and row.get("scheduled_for") and not row.get("retry_of"):
            runs[row["task_id"], row["scheduled_for"]][run] = row
    for (task, at), made in runs.items():
        found.count()
        if len(made) > 1:
            found.wrong(f"task {task} has {len(made)} runs for {at}", *made.values())
        for run, made_row in made.items():
            if run in owner and instant(owner[run]["scheduled_for"]) != instant(at):
                found.wrong(f"run {run} is of {at}, not of its occurrence", owner[run], made_row)


@invariant("I20", "the next run of an active task is the next occurrence of its calendar")
def next_due(history: History, lives: Lives, found: Finding) -> None:
    for ledger in ledgers(history):
        task, plan = ledger.task, ledger.plan
        if task["status"] != "active":
            found.count()
            if plan.get("next_run"):
                found.wrong(f"{ledger.label()} is {task['status']}, and has a next run", task, plan)
            continue
        try:
            after = max(
                at
                for at in (
                    since(ledger),
                    instant(plan.get("fired_until")) if ledger.rows else None,
                    *(at for _, at in silences(ledger)),
                )
                if at is not None
            )
            if task["schedule_kind"] == "once":
                # Snoozed, it is moved; an old one that was accepted fires at once.
                if any(line["event"] == "task_snoozed" for line in ledger.lines):
                    raise Undecided("once that was snoozed")
                after = datetime.min.replace(tzinfo=after.tzinfo)
                if ledger.rows:
                    after = max(instant(r["scheduled_for"]) or after for r in ledger.rows)
            expected = next(occurrences(task, after), None)
        except Undecided as why:
            found.skip(str(why))
            continue
        found.count()
        actual = instant(plan.get("next_run"))
        if actual != expected:
            found.wrong(
                f"{ledger.label()}: its next run is {actual}, its calendar says {expected}",
                task, plan,
            )  # fmt: skip
