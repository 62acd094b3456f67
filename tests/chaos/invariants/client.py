"""I7, I8, I9, I14, I18: what clients were told, against what the tables and the witness say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from tests.chaos.history import Call, History, Row, seconds
from tests.chaos.invariants import Finding, invariant
from tests.chaos.invariants.failover import is_excused
from tests.chaos.lives import CONTROL, TERMINAL, Lives

ENQUEUES = ("enqueue", "enqueue_many", "run_now")
COMPLETES = ("complete_work", "complete")


def told_runs(call: Call) -> Iterator[str]:
    """Yield the ids of the runs that an answer names."""
    answers = call.result if isinstance(call.result, list) else [call.result]
    for answer in answers:
        if isinstance(answer, dict):
            if answer.get("run_id") and answer.get("outcome") != "dropped":
                yield str(answer["run_id"])
        elif isinstance(answer, str):
            yield answer


def _brief(call: Call) -> Row:
    return {name: getattr(call, name) for name in call.__slots__}


@invariant("I7", "what was acknowledged as complete is a success of that lease with that result")
def completions(history: History, lives: Lives, found: Finding) -> None:
    for call in history.called(*COMPLETES):
        if call.answer != "ok":
            continue
        found.count()
        token, work = call.args.get("lease_id"), call.args.get("work_id")
        unit = lives.by_work.get(str(work)) if work else None
        if unit is None and work is None and token:
            unit = next((u for u, s in lives.by_token.get(str(token), []) if s.is_attempt), None)
        row = unit.row if unit else {}
        is_done = row.get("state") in ("success", "complete") and row.get("lease_id") == token
        if is_done and ("output" not in call.args or row.get("output") == call.args["output"]):
            continue
        if not is_done and is_excused(history, call.t1 or call.t0):
            again = unit is not None and (
                row.get("state") in ("success", "complete", "failed", "error", "abandoned")
                and any(s.work == work and s.token != token for s in history.starts)
            )
            kind = "allowed rerun" if again else "lost"
            found.note(f"{kind}, by the declared failover: completion of {work} under {token}")
            continue
        what = "has another output" if is_done else f"is {row.get('state') or 'nowhere'}"
        found.wrong(
            f"completion of {work} under lease {token} was acknowledged, and it {what}"
            + (f" (lease {row.get('lease_id')})" if row and not is_done else ""),
            _brief(call),
            row or None,
        )


@invariant("I8", "every success has an end of the same lease in the witness")
def causes(history: History, lives: Lives, found: Finding) -> None:
    if not history.witness:
        found.skip("there is no witness")
        return
    ended = {
        (s.work, s.token)
        for s in history.starts
        if s.end is not None and s.end.get("outcome", "success") == "success"
    }
    # Who completes by a call of its own says so in the client log, whatever the answer.
    called: set[tuple[str | None, str]] = {
        (c.args.get("work_id"), str(c.args.get("lease_id")))
        for c in history.called(*COMPLETES)
        if c.answer != "fail"
    }
    by_hand = {
        (row["run_id"], row.get("step"))
        for lines in lives.journal.values()
        for row in lines
        if row["event"] == "step_completed"
    }
    witnessed = history.config.get("witnessed")
    for unit in lives.units.values():
        if unit.is_control or unit.tool in CONTROL or unit.state not in ("success", "complete"):
            continue
        if witnessed is not None and unit.tool not in witnessed:
            continue
        token = unit.row.get("lease_id")
        if unit.is_step and (unit.name in by_hand or (token is None and not unit.settles)):
            continue  # done by hand, or with the run that was replayed
        found.count()
        if (unit.work, token) in ended or {(unit.work, token), (None, token)} & called:
            continue
        found.wrong(
            f"{unit.label()} is {unit.state}, and nobody saw it end under lease {token}", unit.row
        )


@invariant("I9", "what was accepted exists; what is unknown exists once or never")
def acceptance(history: History, lives: Lives, found: Finding) -> None:
    by_name: dict[str, set[str]] = defaultdict(set)
    for run, places in lives.runs.items():
        key = places[0][1].get("idempotency_key")
        by_name[run].add(run)
        if key and not key.startswith(("child:", "retry:", "id:")):
            by_name[key].add(run)
    # By the names that a client gave: those it was not refused.
    calls = list(history.called(*ENQUEUES))
    accepted = {name for call in calls if call.answer != "fail" for name in _names(call)}
    for call in calls:
        found.count()
        if call.answer == "ok":
            for run in told_runs(call):
                if not lives.runs.get(run):
                    _missing(history, call, f"run {run}", found)
        elif call.answer == "fail":
            for name in _names(call):
                if by_name.get(name) and name not in accepted:
                    found.wrong(f"an enqueue of {name} was refused, and exists", _brief(call))
    forgotten = {
        name for call in calls if call.args.get("idempotent_for") is not None
        for name in _names(call)
    }  # fmt: skip
    for name, runs in by_name.items():
        found.count()
        if len(runs) > 1 and name not in forgotten:
            found.wrong(f"the idempotency key {name} made {len(runs)} runs", *sorted(runs))

    tasks = {(row["namespace"], row["name"]) for row in history.table("task")}
    tasks |= {("", row["task_id"]) for row in history.table("task")}
    for call in history.called("create_task"):
        found.count()
        task = (call.args.get("namespace") or "default", call.args.get("name"))
        if call.answer == "ok" and not {task, ("", call.result)} & tasks:
            _missing(history, call, f"task {task[1]}", found)
    events = {row["event_id"] for row in history.table("event")}
    for call in history.called("emit_event"):
        found.count()
        result: Any = call.result
        event = result.get("event_id") if isinstance(result, dict) else result
        if call.answer == "ok" and event and event not in events:
            _missing(history, call, f"event {event}", found)


def _names(call: Call) -> list[str]:
    named = (call.args.get("idempotency_key"), call.args.get("run_id"))
    return [str(name) for name in named if name]


def _missing(history: History, call: Call, what: str, found: Finding) -> None:
    if is_excused(history, call.t1 or call.t0):
        found.note(f"lost, by the declared failover: {what}")
    else:
        found.wrong(f"{what} was acknowledged and does not exist", _brief(call))


@invariant("I14", "what was cancelled does not start again; too late means it had ended")
def cancels(history: History, lives: Lives, found: Finding) -> None:
    slack = history.bound("clock_s", 0.25)
    starts = defaultdict(list)
    for start in history.starts:
        if not history.is_shifted(start.boot):
            starts[start.run].append(start)
    reopened = {
        run: max(seconds(row["at"]) or 0 for row in rows)
        for run, lines in lives.journal.items()
        if (rows := [r for r in lines if r["event"].startswith("step") and r["event"] != "skipped"])
    }
    for call in history.called("cancel_run"):
        if call.answer != "ok" or call.t1 is None:
            continue
        found.count()
        run = str(call.args.get("run_id"))
        row = lives.run_row(run) or {}
        state = row.get("state")
        ended = seconds(row.get("finished_at"))
        is_again = reopened.get(run, 0.0) > call.t0 - slack or is_excused(history, call.t1)
        if call.result == "cancelled":
            late = [s for s in starts[run] if s.rt > call.t1 + slack]
            if late and not is_again:
                found.wrong(
                    f"run {run} was cancelled, and started {late[0].rt - call.t1:.3f} s later",
                    _brief(call),
                    {"token": late[0].token, "rt": late[0].rt},
                )
            if state != "cancelled" and not is_again:
                found.wrong(f"run {run} was cancelled, and is {state}", _brief(call), row or None)
        elif call.result == "too_late":
            if ended is None or state not in TERMINAL:
                if not is_again:
                    found.wrong(f"run {run} had ended, and is {state}", _brief(call), row or None)
            elif ended > call.t1 + slack and not is_again:
                found.wrong(
                    f"run {run} had ended, and did so {ended - call.t1:.3f} s later",
                    _brief(call),
                    row,
                )
        elif call.result == "requested" and not is_again:
            # A success wins, and so does what ended while the request was made.
            is_flow = bool(row.get("pipeline_id"))
            fine = {"cancelled", "success", "timed_out"} | ({"failed"} if is_flow else set())
            if state in TERMINAL and state not in fine and (ended or 0) > call.t1 + slack:
                found.wrong(
                    f"a cancel of run {run} was requested, and it is {state}", _brief(call), row
                )


@invariant("I18", "runs of one key start in the order in which they were enqueued")
def order(history: History, lives: Lives, found: Finding) -> None:
    """Only where the client log proves the order: one call was answered before the other began."""
    prefixes = history.config.get("fifo_keys")
    if not prefixes:
        found.skip("no fifo_keys are declared")
        return
    first: dict[str, float] = {}
    for start in history.starts:
        if not history.is_shifted(start.boot):
            first[start.run] = min(start.rt, first.get(start.run, start.rt))
    lines: dict[tuple[str, str, int], list[tuple[Call, str, float]]] = defaultdict(list)
    for call in history.called("enqueue"):
        key = call.args.get("key")
        if call.answer != "ok" or not key or not str(key).startswith(tuple(prefixes)):
            continue
        if (
            call.args.get("run_at")
            or call.args.get("delay")
            or int(call.args.get("key_limit") or 1) > 1
        ):
            continue
        if isinstance(call.result, dict) and call.result.get("outcome", "new") != "new":
            continue
        for run in told_runs(call):
            if run in first:
                place = (
                    str(key),
                    call.args.get("queue") or "default",
                    call.args.get("priority") or 5,
                )
                lines[place].append((call, run, first[run]))
    for (key, _, _), members in lines.items():
        # The latest start of all that were surely enqueued before.
        members.sort(key=lambda m: m[0].t0)
        found.count(len(members))
        by_end = sorted(members, key=lambda m: m[0].t1 or 0)
        n, latest = 0, None
        for call, run, began in members:
            while n < len(by_end) and (by_end[n][0].t1 or 0) < call.t0:
                if latest is None or by_end[n][2] > latest[2]:
                    latest = by_end[n]
                n += 1
            if latest is not None and began < latest[2]:
                found.wrong(
                    f"key {key}: run {run} started {latest[2] - began:.3f} s before run"
                    f" {latest[1]}, which was enqueued before it",
                    _brief(latest[0]),
                    _brief(call),
                )
