"""I5, I19, I22, I23, I24, I25: the system as a whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any
from uuid import UUID

from tests.chaos.history import History, Row, instant, read_lines, seconds
from tests.chaos.invariants import Finding, invariant
from tests.chaos.lives import STEP_LIVE, Lives


@invariant("I5", "at rest nothing is orphaned: what is leased has an owner, what lives a place")
def orphans(history: History, lives: Lives, found: Finding) -> None:
    is_quiet = history.config.get("quiescent", True)
    now = history.now
    workers = {row["worker_id"] for row in history.table("worker")}
    for lease in history.table("lease"):
        found.count()
        expires = instant(lease.get("expires_at"))
        if lease.get("worker_id") not in workers and expires is None:
            found.wrong(f"lease {lease['lease_id']} has no worker and no end", lease)
        elif is_quiet:
            found.wrong(f"lease {lease['lease_id']} is left at rest", lease)
        elif (
            expires is not None
            and now is not None
            and (now - expires).total_seconds() > (history.bound("recovery_s", 60))
        ):
            found.wrong(f"lease {lease['lease_id']} ran out, and nobody took it back", lease)
    for run, steps in lives.steps_of.items():
        for step in steps:
            found.count()
            places = lives.places.get(step["step_id"], [])
            is_live = step["state"] in STEP_LIVE or bool(
                step["state"] == "error" and step.get("wait")
            )
            if is_live and len(places) != 1:
                found.wrong(
                    f"run {run}: step {step['name']} is {step['state']}, and its unit is in"
                    f" {len(places)} places",
                    step,
                    *[row for _, row in places],
                )
            elif places and not is_live and all(p != "lease" for p, _ in places):
                found.wrong(
                    f"run {run}: step {step['name']} is {step['state']}, and its unit waits"
                    f" in {places[0][0]}",
                    step,
                )
    # A slot of what has ended keeps others waiting; sweeps release what a settle could not.
    sweep = history.bound("sweep_s", 10)
    for row in history.table("hold") if is_quiet else ():
        if row["slot"] < 1:
            continue
        found.count()
        holder = lives.run_row(row["run_id"])
        ended = instant(holder.get("finished_at")) if holder else None
        is_old = ended is not None and now is not None and (now - ended).total_seconds() > sweep
        if holder is None or is_old:
            found.wrong(
                f"a slot of key {row['key']} is held by run {row['run_id']}, which has ended", row
            )


@invariant("I19", "every line of the journal says who, when and why, and none is lost or changed")
def audit(history: History, lives: Lives, found: Finding) -> None:
    lines = {row["log_id"]: row for row in history.table("run_log")}
    for row in lines.values():
        found.count()
        detail = row.get("detail") or {}
        if not row.get("actor") or not row.get("at") or not row.get("event"):
            found.wrong("a line of the journal lacks who, when or what", row)
        elif row["event"] in ("failed", "timed_out", "crashed") and not detail.get("message"):
            found.wrong(f"a line says {row['event']} and not why", row)
        elif abs(_v7(row["log_id"]) - (seconds(row["at"]) or 0)) > 1:
            found.wrong("a line was written at another time than it says", row)
    # An earlier dump, if one was made: nothing of it may be gone.
    if history.directory is None or not (history.directory / "before" / "run_log.jsonl").exists():
        found.skip("what was deleted: there is no earlier dump before/run_log.jsonl")
        return
    for row in read_lines(history.directory / "before" / "run_log.jsonl")[0]:
        found.count()
        if lines.get(row["log_id"]) != row:
            found.wrong("a line of the journal is gone or changed", row, lines.get(row["log_id"]))


def _v7(id: str) -> float:
    return (UUID(id).int >> 80) / 1000


@invariant("I22", "the canary is in no table and in no log")
def secrets(history: History, lives: Lives, found: Finding) -> None:
    canary = history.config.get("canary")
    if not canary:
        found.skip("no canary is declared")
        return
    inside = json.dumps(canary)[1:-1]
    for table, rows in history.tables.items():
        for row in rows:
            found.count()
            text = json.dumps(row, ensure_ascii=False)
            if canary in text or inside in text:
                found.wrong(f"the canary is in table {table}", row)
    for name in history.config.get("logs") or []:
        path = Path(name)
        if not path.is_absolute() and history.directory is not None:
            path = history.directory / path
        found.count()
        if not path.exists():
            found.wrong(f"the log {name} is not there to be searched")
        elif canary.encode() in path.read_bytes():
            found.wrong(f"the canary is in {name}")


@invariant("I23", "after the last fault the backlog drains within the bound, unattended")
def liveness(history: History, lives: Lives, found: Finding) -> None:
    bound = history.bound("recovery_s", 60)
    most, late = history.bound("backlog", 0), history.bound("late_s", 5)
    unhealed = [f for f in history.faults if f.get("t1") is None]
    for fault in unhealed:
        found.wrong("a fault was never healed, so recovery cannot be judged", fault)
    samples = [s for s in history.samples if "due" in s or "late" in s]
    if samples and not unhealed:
        healed = max((f["t1"] for f in history.faults), default=samples[0]["t"])
        after = [s for s in samples if s["t"] >= healed]
        calm = [s for s in after if (s.get("due") or 0) <= most and (s.get("late") or 0) <= late]
        found.count(len(after))
        if not calm or calm[0]["t"] > healed + bound:
            took = f"{calm[0]['t'] - healed:.1f} s" if calm else "never"
            found.wrong(
                f"recovery after the last fault took {took}, the bound is {bound:g} s", *after[-1:]
            )
        else:
            found.note(f"recovered {calm[0]['t'] - healed:.1f} s after the last fault")
            # Back to normal, it stays so.
            for sample in after:
                if sample["t"] > healed + bound and (sample.get("late") or 0) > max(late, bound):
                    found.wrong("it fell behind again after its recovery", sample)
                    break
    elif not samples:
        found.skip("no samples of due and late work were taken")
    now = history.now
    if now is not None and history.config.get("quiescent", True):
        for row in history.table("due_work"):
            found.count()
            due = instant(row["run_at"])
            if due is not None and (now - due).total_seconds() > late:
                found.wrong(f"unit {row['work_id']} is due since {row['run_at']}, and at rest", row)


@invariant("I24", "connections, memory, descriptors, logs and tables stay within their bounds")
def resources(history: History, lives: Lives, found: Finding) -> None:
    bounds = history.config.get("bounds") or {}
    for bound, field in (
        ("connections", "connections"),
        ("rss_bytes", "rss"),
        ("fds", "fds"),
        ("table_bytes", "tables"),
    ):
        if bound not in bounds:
            continue
        for sample in history.samples:
            for name, value in _values(sample, field):
                found.count()
                if value > bounds[bound]:
                    found.wrong(f"{name} is {value}, the bound is {bounds[bound]}", sample)
    for bound, field in (("rss_growth", "rss"), ("table_growth", "tables")):
        if bound in bounds:
            _growth(history, field, float(bounds[bound]), found)
    if "log_bytes_per_s" in bounds:
        logs = [s for s in history.samples if "log_bytes" in s]
        for one, other in pairwise(logs):
            found.count()
            rate = (other["log_bytes"] - one["log_bytes"]) / max(other["t"] - one["t"], 1)
            if rate > bounds["log_bytes_per_s"]:
                found.wrong(f"logs grow by {rate:.0f} bytes a second", one, other)
    if not found.checked:
        found.skip("no bounds are stated, or no samples were taken")


def _values(sample: Row, field: str) -> Iterator[tuple[str, float]]:
    value: Any = sample.get(field)
    if isinstance(value, dict):
        for name, number in value.items():
            yield f"{field} of {name}", float(number)
    elif value is not None:
        yield field, float(value)


def _growth(history: History, field: str, most: float, found: Finding) -> None:
    """The middle of the last third against that of the first, of what was there all along."""
    series: dict[str, list[float]] = {}
    for sample in history.samples:
        for name, value in _values(sample, field):
            series.setdefault(name, []).append(value)
    for name, values in series.items():
        third = len(values) // 3
        if third >= 2:
            found.count(len(values))
            first, last = median(values[:third]), median(values[-third:])
            if first > 0 and last / first > most:
                found.wrong(f"{name} grew from {first:.0f} to {last:.0f}, by more than {most:g}")


FACTS = {
    "task_run": ("enqueued_at", "started_at", "finished_at"),
    "step": ("created_at", "started_at", "finished_at"),
    "run_log": ("at",),
    "occurrence": ("decided_at",),
    "event": ("emitted_at",),
    "approval": ("created_at", "decided_at"),
}


@invariant("I25", "no client's clock is in the tables: instants are in order and in the past")
def time_source(history: History, lives: Lives, found: Finding) -> None:
    slack = history.bound("clock_s", 0.25)
    now = history.now.timestamp() if history.now else None
    for table, columns in FACTS.items():
        for row in history.table(table):
            found.count()
            instants = [(c, seconds(row.get(c))) for c in columns]
            known = [(c, at) for c, at in instants if at is not None]
            if table == "step" and row.get("lease_id") is None:
                known = known[:1]  # replayed, or ended by hand
            for (one, a), (other, b) in pairwise(known):
                if b < a:
                    found.wrong(f"{table}: {other} is {a - b:.6f} s before {one}", row)
            for column, at in known:
                if now is not None and at > now + slack:
                    found.wrong(f"{table}.{column} is {at - now:.3f} s after the dump", row)
    for row in history.table("task_run"):
        own = (row.get("idempotency_key") or "").startswith("id:")
        at = seconds(row["enqueued_at"]) or 0
        if not own and abs(_v7(row["run_id"]) - at) > 1 + slack:
            found.wrong("a run's id is of another time than its enqueue", row)
    for unit in lives.units.values():
        for settle in unit.settles:
            if settle.started is not None and settle.at < settle.started:
                found.wrong(f"{unit.label()}: an attempt ended before it began", settle.row)
    shifted = history.config.get("shifted") or []
    seen = {s.boot for s in history.starts}
    for boot in shifted:
        if boot not in seen:
            found.note(f"nothing ran under the shifted clock {boot}")
