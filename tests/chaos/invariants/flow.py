"""I15, I16: steps in the order of their needs, and approvals."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from tests.chaos.history import History, Row, Start, seconds
from tests.chaos.invariants import Finding, invariant
from tests.chaos.invariants.failover import is_lost_attempt
from tests.chaos.lives import ANEW, BY_HAND, STEP_LIVE, STEP_TERMINAL, TERMINAL, Lives

DONE = frozenset({"complete", "skipped", "resolved_manually"})


def needs(lives: Lives, run: Row, step: Row, at: dict[int, Row]) -> Iterator[Row]:
    """Yield the steps of the run that this one needs."""
    definition = lives.definitions.get((run.get("pipeline_id") or "", step["defined_by"])) or {}
    if step.get("kind") is None:
        for position in definition.get("needs") or []:
            if position in at:
                yield at[position]


def witnessed_ends(history: History) -> dict[tuple[str, str], Start]:
    return {(s.work, s.token): s for s in history.starts if s.end is not None}


def is_before(history: History, one: Start, other: Start) -> bool | None:
    """Whether the end of one attempt came before the start of another; None: no clock tells."""
    if one.end is None:
        return None
    if one.boot == other.boot:
        return float(one.end["mt"]) <= other.mt
    if history.is_shifted(one.boot) or history.is_shifted(other.boot):
        return None
    return float(one.end["rt"]) <= other.rt + history.bound("clock_s", 0.25)


@invariant("I15", "a step starts after its needs and skips for a reason; a run ends with its steps")
def dag(history: History, lives: Lives, found: Finding) -> None:
    ends = witnessed_ends(history)
    first: dict[str, Start] = {}
    for start in history.starts:
        # What a failover forgot may have been started by a need that was forgotten as well.
        if start.step is not None and not is_lost_attempt(history, lives, start):
            first.setdefault(start.work, start)
    for run_id, steps in lives.steps_of.items():
        run = lives.run_row(run_id) or {}
        at = {row["position"]: row for row in steps}
        lines = lives.journal.get(run_id, [])
        # What people did to a run may put an end after what it let go on.
        touched = any(r["event"] in BY_HAND | ANEW | {"step_reopened"} for r in lines)
        found.count(len(steps))
        if len(at) < len(steps):
            found.wrong(f"run {run_id} has two steps at one position", *steps)
        for step in steps:
            _order(history, lives, found, run, step, at, ends, first, touched)
            _outcome(lives, found, run, step, at, lines)
        _whole(found, run, steps, lives)


def _order(
    history: History,
    lives: Lives,
    found: Finding,
    run: Row,
    step: Row,
    at: dict[int, Row],
    ends: dict[tuple[str, str], Start],
    first: dict[str, Start],
    touched: bool,
) -> None:
    began = seconds(step.get("started_at"))
    is_begun = step["state"] != "pending" and step["attempt"] > 0
    for need in needs(lives, run, step, at):
        name = f"run {run.get('run_id')}: step {step['name']}"
        definition = lives.definitions.get((run["pipeline_id"], need["defined_by"])) or {}
        fine = need["state"] in DONE or (
            need["state"] == "error" and definition.get("continue_on_error")
        )
        if is_begun and not touched and not fine:
            found.wrong(
                f"{name} began, and {need['name']}, which it needs, is {need['state']}", need, step
            )
            continue
        ended = seconds(need.get("finished_at"))
        if is_begun and not touched and began is not None and ended is not None and began < ended:
            found.wrong(
                f"{name} began {ended - began:.6f} s before {need['name']}, which it needs,"
                " had ended",
                need,
                step,
            )
        over = ends.get((need["step_id"], need.get("lease_id") or ""))
        start = first.get(step["step_id"])
        if over is not None and start is not None and is_before(history, over, start) is False:
            found.wrong(
                f"{name} was started before {need['name']}, which it needs, had ended",
                over.end,
                {"work": start.work, "token": start.token, "mt": start.mt},
            )


def _outcome(
    lives: Lives,
    found: Finding,
    run: Row,
    step: Row,
    at: dict[int, Row],
    lines: list[Row],
) -> None:
    name = f"run {run.get('run_id')}: step {step['name']}"
    own = [row for row in lines if row.get("step") == step["name"]]
    if step["state"] == "skipped" and not (step["attempt"] == 0 and run.get("retry_of")):
        said = [row for row in own if row["event"] in ("skipped", "step_skipped")]
        definition = lives.definitions.get((run.get("pipeline_id") or "", step["defined_by"])) or {}
        if not said:
            if step.get("lease_id") is not None or not run.get("retry_of"):
                found.wrong(f"{name} is skipped, and nothing says why", step)
        elif said[-1]["event"] == "skipped" and "if" not in (definition.get("body") or {}):
            before = list(needs(lives, run, step, at))
            if not before or any(need["state"] != "skipped" for need in before):
                found.wrong(f"{name} is skipped, and has no condition", step, said[-1])


def _whole(found: Finding, run: Row, steps: list[Row], lives: Lives) -> None:
    """The run ends when, and only when, its steps have."""
    live = [
        row
        for row in steps
        if row["state"] in STEP_LIVE or (row.get("wait") and row["state"] == "error")
    ]
    pending = [row for row in steps if row["state"] == "pending"]
    state = run.get("state")
    if state in TERMINAL and (live or pending):
        found.wrong(
            f"run {run['run_id']} is {state}, and {len(live) + len(pending)} of its steps"
            " are not over",
            run,
            *(live + pending)[:5],
        )
    elif state == "success":
        for row in steps:
            definition = lives.definitions.get((run["pipeline_id"], row["defined_by"])) or {}
            if (row["state"] == "cancelled" and row.get("kind") is None) or (
                row["state"] == "error"
                and row.get("kind") is None
                and not definition.get("continue_on_error")
            ):
                found.wrong(
                    f"run {run['run_id']} is success, and its step {row['name']} is {row['state']}",
                    run,
                    row,
                )
    elif state not in TERMINAL and run and all(r["state"] in STEP_TERMINAL for r in steps):
        found.wrong(f"run {run['run_id']} is {state}, and all its steps are over", run)
    ended = seconds(run.get("finished_at"))
    last = max((seconds(r.get("finished_at")) or 0 for r in steps), default=0)
    if ended is not None and last > ended and state == "success":
        found.wrong(f"run {run['run_id']} ended {last - ended:.6f} s before its last step", run)


@invariant("I16", "a gate has one decision; nothing follows before it; its expiry is recorded")
def approvals(history: History, lives: Lives, found: Finding) -> None:
    rows = {row["approval_id"]: row for row in history.table("approval")}
    answered: Counter[str] = Counter()
    for lines in lives.journal.values():
        for line in lines:
            if line["event"] == "approval_answered":
                answered[(line.get("detail") or {}).get("approval_id", "")] += 1
    accepted: dict[str, list[Row]] = defaultdict(list)
    newest: dict[str, Row] = {}
    for row in sorted(rows.values(), key=lambda r: (r["created_at"], r["approval_id"])):
        newest[row["step_id"]] = row
    for call in history.called("respond"):
        target = str(
            call.args.get("approval_id") or call.args.get("id") or call.args.get("step_id")
        )
        target = target if target in rows else newest.get(target, {}).get("approval_id", target)
        if call.answer == "ok":
            accepted[target].append({"n": call.n, "args": call.args, "t0": call.t0, "t1": call.t1})
            if target not in rows:
                found.wrong(
                    f"the answer to approval {target} was accepted, and it is nowhere", call.args
                )

    for id, row in rows.items():
        found.count()
        decision = row.get("decision")
        if answered[id] > 1 or len(accepted[id]) > 1:
            found.wrong(
                f"approval {id} was answered {max(answered[id], len(accepted[id]))} times",
                row,
                *accepted[id],
            )
        if (decision == "answered") != (answered[id] > 0):
            found.wrong(
                f"approval {id} is {decision}, and the journal has {answered[id]} answers", row
            )
        for call_ in accepted[id]:
            if decision != "answered" or row.get("response") != call_["args"].get("response"):
                found.wrong(f"an accepted answer to approval {id} is not its decision", call_, row)
        decided = seconds(row.get("decided_at"))
        expires = seconds(row.get("expires_at"))
        if decision == "expired" and (expires is None or decided is None or decided < expires):
            found.wrong(f"approval {id} expired before its time", row)
        now = history.now.timestamp() if history.now else None
        unit = lives.by_work.get(row["step_id"])
        is_waiting = any(place == "parked" for place, _ in lives.places.get(row["step_id"], ()))
        if decision is None and is_waiting and expires is not None and now is not None:
            over = now - expires
            if over > history.bound("recovery_s", 60):
                found.wrong(f"approval {id} has expired, and nobody recorded it", row)
        if unit is None or newest.get(row["step_id"]) is not row:
            continue
        _follows(history, lives, found, row, unit.row, decided)


def _follows(
    history: History,
    lives: Lives,
    found: Finding,
    approval: Row,
    gate: Row,
    decided: float | None,
) -> None:
    """What needs the gate, and the gate itself, against the decision."""
    id, run_id = approval["approval_id"], gate["run_id"]
    own = [r for r in lives.journal.get(run_id, []) if r.get("step") == gate["name"]]
    if any(row["event"] in BY_HAND for row in own):
        return
    if gate["state"] == "complete" and approval.get("decision") not in ("answered", "expired"):
        found.wrong(f"the step of approval {id} is complete without a decision", approval, gate)
    if decided is None:
        return
    if gate["state"] == "complete" and (seconds(gate.get("finished_at")) or 0) < decided:
        found.wrong(f"the step of approval {id} ended before the decision", approval, gate)
    run = lives.run_row(run_id) or {}
    steps = lives.steps_of[run_id]
    at = {row["position"]: row for row in steps}
    slack = history.bound("clock_s", 0.25)
    for step in steps:
        if not any(need["step_id"] == gate["step_id"] for need in needs(lives, run, step, at)):
            continue
        for start in history.starts:
            if start.work == step["step_id"] and not history.is_shifted(start.boot):
                found.count()
                if start.rt < decided - slack:
                    found.wrong(
                        f"step {step['name']} of run {run_id} started before approval {id}"
                        " was decided",
                        approval,
                        {"token": start.token, "rt": start.rt},
                    )
