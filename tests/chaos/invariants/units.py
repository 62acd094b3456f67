"""I3, I4, I6, I10: the attempts of one unit, as the tables tell them."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

from tests.chaos.history import History, Row, seconds
from tests.chaos.invariants import Finding, invariant
from tests.chaos.invariants.failover import is_lost_attempt
from tests.chaos.lives import (
    ANEW,
    BY_HAND,
    FAILURES,
    STEP_TERMINAL,
    TERMINAL,
    Lives,
    Settle,
    Unit,
    live_items,
)

# A tool that is refused before it starts: its arguments, its configuration, who may call it.
UNSTARTED = frozenset({"validation", "configuration", "permission"})


@invariant("I3", "the leases of a unit do not overlap")
def exclusion(history: History, lives: Lives, found: Finding) -> None:
    slack = history.bound("clock_s", 0.25)
    held: dict[str, list[Row]] = defaultdict(list)
    for place, row in live_items(history):
        if place == "lease":
            held[row["work_id"]].append(row["lease"])
    for work, leases in held.items():
        if len(leases) > 1:
            found.wrong(f"unit {work} is in {len(leases)} leases at once", *leases)

    starts: dict[tuple[str, str], float] = {}
    for start in history.starts:
        if not history.is_shifted(start.boot):
            starts.setdefault((start.work, start.token), start.rt)
    for unit in lives.units.values():
        for series in unit.series():
            found.count(len(series))
            for before, after in pairwise(series):
                if after.attempt <= before.attempt or after.token == before.token:
                    continue  # one lease that writes twice: I4
                if after.started is not None and after.started < before.at:
                    found.wrong(
                        f"{unit.label()}: attempt {after.attempt} began"
                        f" {before.at - after.started:.6f} s before attempt {before.attempt} was"
                        " over",
                        before.row,
                        after.row,
                    )
                # The witness's clock is another than the database's.
                began = starts.get((unit.work or "", after.token or ""))
                if began is not None and began < before.at - slack:
                    found.wrong(
                        f"{unit.label()}: attempt {after.attempt} was started"
                        f" {before.at - began:.3f} s before attempt {before.attempt} was over",
                        before.row,
                        {"token": after.token, "started": began},
                    )


@invariant("I4", "attempts strictly increase, and no write is accepted after its lease is gone")
def fencing(history: History, lives: Lives, found: Finding) -> None:
    for unit in lives.units.values():
        for series in unit.series():
            found.count(len(series))
            for before, after in pairwise(series):
                if after.attempt <= before.attempt:
                    found.wrong(
                        f"{unit.label()}: attempt {after.attempt} was settled after attempt"
                        f" {before.attempt}",
                        before.row,
                        after.row,
                    )
        settled: dict[str, Settle] = {}
        for settle in unit.settles:
            if settle.token is None or not (settle.is_attempt or settle.event == "late"):
                continue
            if settle.token in settled and settle.event != "late":
                found.wrong(
                    f"{unit.label()}: lease {settle.token} wrote"
                    f" {settled[settle.token].event} and, being gone, {settle.event}",
                    settled[settle.token].row,
                    settle.row,
                )
            settled[settle.token] = settle
    for start in history.starts:
        found.count()
        ran = lives.by_work.get(start.work)
        for settle in ran.settles if ran else ():
            if settle.token == start.token and settle.attempt != start.attempt:
                found.wrong(
                    f"unit {start.work}: lease {start.token} ran as attempt {start.attempt}, and is"
                    f" recorded as attempt {settle.attempt}",
                    _brief(start),
                    settle.row,
                )


def _brief(start: object) -> dict[str, object]:
    names = ("run", "work", "step", "attempt", "token", "rt", "mt", "boot", "pid", "end")
    return {name: getattr(start, name) for name in names}


@invariant("I6", "states follow the permitted arrows, and what has ended stays ended")
def lifecycle(history: History, lives: Lives, found: Finding) -> None:
    for unit in lives.units.values():
        found.count()
        fault = _step_fault(unit) if unit.is_step else _run_fault(unit)
        if fault:
            found.wrong(f"{unit.label()}: {fault}", unit.row, *[s.row for s in unit.settles[-3:]])
    for run, places in lives.runs.items():
        for place, row in places:
            if place != "history" or not row.get("pipeline_id"):
                continue
            found.count()
            fault = _flow_fault(row, lives.journal.get(run, []))
            if fault:
                found.wrong(f"run {run}: {fault}", row)


def _run_fault(unit: Unit) -> str | None:
    """Say what is wrong with the life of a run of one tool; None: nothing."""
    over: Settle | None = None
    for settle in unit.settles:
        if settle.row is unit.row:
            break  # its end, which no line tells
        if over is not None:
            return f"{settle.event} after it had ended ({over.event})"
        if settle.event not in (
            *FAILURES,
            "released",
            "snoozed",
            "declined",
            "cancelled",
            "withdrawn",
        ):
            return f"a run of one tool cannot be {settle.event}"
        if settle.event in ("cancelled", "withdrawn") or (
            settle.event in FAILURES and settle.run_at is None
        ):
            over = settle
    state = unit.row.get("state")
    if state is None:
        return f"{over.event}, but it is still queued" if over else None
    if state not in TERMINAL:
        return f"a run of one tool has no row before it ends, and it is {state}"
    told = (
        {"crashed": "abandoned", "withdrawn": "cancelled"}.get(over.event, over.event)
        if (over is not None)
        else "success"
    )
    if told != state:
        return f"it is {state}, and the journal says {told}"
    if over is not None and over.at != seconds(unit.row["finished_at"]):
        return f"it ended at {unit.row['finished_at']}, and the journal says {over.row['at']}"
    return None


def _step_fault(unit: Unit) -> str | None:
    state: str | None = None  # None: anything that is not over
    for settle in unit.settles:
        if settle.event == "late" or settle.row is unit.row:
            continue
        event = settle.event
        again = settle.run_at is not None
        is_item = "[" in (unit.name[1] or "")
        if state in ("complete", "skipped", "resolved_manually"):
            return f"{event} after it was {state}"
        if (
            state in ("error", "cancelled")
            and (
                event in FAILURES
                or event in ("released", "snoozed", "declined", "complete", "skipped", "cancelled")
            )
            and not is_item
        ):
            return f"{event} after it was {state}, without having been started anew"
        if event == "step_reopened" and state == "error":
            return "reopened, though it was in error"
        state = {
            "complete": "complete",
            "skipped": "skipped",
            "step_skipped": "skipped",
            "step_completed": "complete",
            "step_resolved": "resolved_manually",
            "cancelled": "cancelled",
        }.get(event)
        if event in FAILURES:
            state = None if again else "error"
    now = unit.row["state"]
    if state is not None and now != state and "[" not in (unit.name[1] or ""):
        return f"it is {now}, and the journal says {state}"
    if state is None and now == "error" and unit.settles:
        return "it is in error, and the journal does not say so"
    if (now in STEP_TERMINAL) != (unit.row.get("finished_at") is not None):
        return f"it is {now}, and finished_at is {unit.row.get('finished_at')}"
    return None


def _flow_fault(row: Row, lines: list[Row]) -> str | None:
    over: Row | None = None
    for line in lines:
        event = line["event"]
        if line.get("step") is not None:
            if event in BY_HAND | ANEW:
                over = None
            continue
        if event == "steps_retried":
            over = None
        elif event in ("failed", "cancelled"):
            if over is not None and over["event"] != "timed_out":
                return f"{event} after it was {over['event']}"
            over = line
        elif event == "timed_out":
            over = line
    state = row["state"]
    if state == "success" and over is not None and over["event"] != "timed_out":
        return f"it is success, and the journal says {over['event']}"
    if state in ("failed", "cancelled", "timed_out") and (over is None or over["event"] != state):
        return f"it is {state}, and the journal says {over['event'] if over else 'nothing'}"
    return None


@invariant("I10", "attempts = leases; starts <= leases; a lease without a start has a reason")
def accounting(history: History, lives: Lives, found: Finding) -> None:
    for unit in lives.units.values():
        found.count()
        _count_attempts(unit, found)
    if not history.witness:
        found.skip("starts: there is no witness")
        return
    witnessed = history.config.get("witnessed")
    seen: dict[tuple[str, str], object] = {}
    for start in history.starts:
        if (start.work, start.token) in seen:
            found.wrong(
                f"unit {start.work} was started twice under lease {start.token}",
                seen[start.work, start.token],
                _brief(start),
            )
        seen[start.work, start.token] = _brief(start)
        if is_lost_attempt(history, lives, start):
            continue
        unit_ = lives.by_work.get(start.work)
        if unit_ is not None and not _accounts_for(history, unit_, start.token, start.attempt):
            found.wrong(
                f"{unit_.label()}: no lease accounts for the start of attempt {start.attempt}",
                _brief(start),
                unit_.row,
            )
    for unit in lives.units.values():
        if unit.is_control or (witnessed is not None and unit.tool not in witnessed):
            continue
        for settle in unit.attempts():
            # What succeeded without a start is no accounting: I8.
            if settle.event not in ("failed", "timed_out") or settle.is_fenced:
                continue
            if settle.token is None or (unit.work, settle.token) in seen:
                continue
            category = (settle.row.get("detail") or settle.row.get("error") or {}).get("category")
            if category not in UNSTARTED:
                found.wrong(
                    f"{unit.label()}: attempt {settle.attempt} {settle.event}, and was never"
                    " started",
                    settle.row,
                )


def _accounts_for(history: History, unit: Unit, token: str, attempt: int) -> bool:
    if token in unit.tokens() or token == unit.row.get("lease_id"):
        return True
    # Taken away by who does not name the lease.
    if any(s.token is None and s.attempt == attempt for s in unit.attempts()):
        return True
    # A map that starts anew makes other items; what is leased has not come to its end.
    return any(
        place == "lease" and row["work_id"] == unit.work and row["lease"]["lease_id"] == token
        for place, row in live_items(history)
    )


def _count_attempts(unit: Unit, found: Finding) -> None:
    row, series = unit.row, unit.series()[-1]
    if unit.is_step and row.get("attempt") and not unit.settles and row.get("lease_id") is None:
        return  # it came with a replay: its attempts are those of another run
    is_open = row.get("state") not in (TERMINAL | STEP_TERMINAL)
    attempts = [s.attempt for s in series]
    total = row.get("attempt") or 0
    expected = list(range(1, total + 1))
    if unit.is_control:
        return  # it waits without a worker, and what it waits for ends it
    missing = [n for n in expected if n not in attempts]
    if is_open and missing == [total]:
        missing = []  # it is leased
    if missing or any(n > total for n in attempts):
        found.wrong(
            f"{unit.label()}: {total} leases, and the journal knows of attempts {attempts}",
            row,
            *[s.row for s in series],
        )
    for column, events in (("failures", ("failed", "timed_out")), ("crashes", ("crashed",))):
        n = sum(s.event in events for s in series)
        if (row.get(column) or 0) != n:
            found.wrong(
                f"{unit.label()}: {column} is {row.get(column)}, and the journal knows {n}",
                row,
                *[s.row for s in series],
            )
    failures = 0
    for settle in series:
        failures += settle.event in ("failed", "timed_out")
        if settle.run_at is not None and failures >= unit.limit() and settle.event != "crashed":
            found.wrong(
                f"{unit.label()}: tried again after {failures} failures of {unit.limit()}",
                settle.row,
                row,
            )
    if row.get("state") == "abandoned" and (row.get("crashes") or 0) < 3:
        found.wrong(f"{unit.label()}: abandoned after {row.get('crashes')} crashes", row)
