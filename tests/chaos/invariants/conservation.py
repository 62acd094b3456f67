"""I17: every run has a cause, is in exactly one place, and the counters agree."""

from __future__ import annotations

from collections import Counter

from tests.chaos.history import History
from tests.chaos.invariants import Finding, invariant
from tests.chaos.invariants.client import ENQUEUES, told_runs
from tests.chaos.invariants.failover import is_lost_attempt
from tests.chaos.lives import Lives

COUNTED = ("fired", "missed", "skipped", "buffered", "dropped", "excluded")


def caused(history: History, lives: Lives) -> set[str]:
    """Return the runs of which something says that they were made."""
    made = {r["run_id"] for r in history.table("occurrence") if r.get("run_id")}
    for call in history.called(*ENQUEUES):
        if call.answer == "ok":
            made.update(told_runs(call))
        if call.args.get("run_id"):
            made.add(str(call.args["run_id"]))
    for lines in lives.journal.values():
        for row in lines:
            detail = row.get("detail") or {}
            if row["event"] == "run_now":
                made.add(row["run_id"])
            made.update(str(detail[k]) for k in ("retried_as", "replayed_as") if detail.get(k))
    return made


@invariant("I17", "per queue, what was made is what has ended plus what is live")
def conservation(history: History, lives: Lives, found: Finding) -> None:
    made = caused(history, lives)
    keys = {c.args.get("idempotency_key") for c in history.called(*ENQUEUES)} - {None}
    unknown = sum(
        1
        for c in history.called(*ENQUEUES)
        if c.answer == "unknown" and not c.args.get("idempotency_key") and not c.args.get("run_id")
    )
    is_logged = any(True for _ in history.called(*ENQUEUES))
    states: dict[str, Counter[str]] = {}
    stray: list[dict[str, object]] = []
    for run, places in lives.runs.items():
        found.count()
        _, row = places[0]
        queue = states.setdefault(row["queue"], Counter())
        queue["made"] += 1
        queue[row.get("state") or "live"] += 1
        # Twice in one place is twice in a lease: I3.
        if len({place for place, _ in places}) > 1:
            found.wrong(
                f"run {run} is in {len(places)} places: {[place for place, _ in places]}",
                *[other for _, other in places],
            )
        key = row.get("idempotency_key")
        is_made_by_us = (key or "").startswith(("child:", "retry:")) or row.get("retry_of")
        if is_logged and run not in made and key not in keys and not is_made_by_us:
            stray.append(row)
    # One that nobody can name may be that of a call whose answer was lost.
    if len(stray) > unknown:
        found.wrong(
            f"{len(stray)} runs have no cause, and only {unknown} calls are unknown", *stray[:20]
        )
    elif stray:
        found.note(f"{len(stray)} runs come from calls whose answer was lost")
    if not is_logged:
        found.skip("causes: no client logged an enqueue")
    for queue_name, counts in sorted(states.items()):
        found.note(f"queue {queue_name}: " + ", ".join(f"{n} {s}" for s, n in counts.items()))

    for row in history.table("occurrence"):
        if row.get("run_id"):
            found.count()
            if not lives.runs.get(row["run_id"]):
                found.wrong(f"the run {row['run_id']} of an occurrence is nowhere", row)
    for start in history.starts:
        if not lives.runs.get(start.run) and not is_lost_attempt(history, lives, start):
            found.wrong(
                f"run {start.run} was started, and is nowhere",
                {"token": start.token, "attempt": start.attempt},
            )
    plans = {row["task_id"]: row for row in history.table("task_schedule")}
    told: dict[str, Counter[str]] = {task: Counter() for task in plans}
    for row in history.table("occurrence"):
        told.setdefault(row["task_id"], Counter())[row["decision"]] += 1
    for task, plan in plans.items():
        found.count()
        for decision in COUNTED:
            if plan.get(f"{decision}_count", 0) != told[task][decision]:
                found.wrong(
                    f"task {task}: {decision}_count is {plan.get(f'{decision}_count')}, its ledger"
                    f" has {told[task][decision]}",
                    plan,
                )
