"""Violations of I7, I8, I9, I14, I17, I18."""

from __future__ import annotations

from uuid import uuid4

from tests.unit.checker.broken import Broken, moved, violates


@violates("I7")
def another_output_than_was_acknowledged(b: Broken) -> None:
    token = b.calls("complete_work")[0]["args"]["lease_id"]
    b.row("task_run", lease_id=token)["output"] = {"ok": 2}


@violates("I7")
def an_acknowledged_completion_that_failed(b: Broken) -> None:
    run = b.row("task_run", tool="fail", state="failed", retry={"base": "1 s"})
    call = b.calls("complete_work")[0]
    args = {"lease_id": run["lease_id"], "work_id": run["run_id"]}
    b.h.client.append({**call, "n": 999, "args": args})


@violates("I7")
def an_acknowledged_completion_of_nothing(b: Broken) -> None:
    call = b.calls("complete_work")[0]
    args = {"lease_id": str(uuid4()), "work_id": str(uuid4())}
    b.h.client.append({**call, "n": 999, "args": args})


@violates("I8")
def a_success_that_nobody_saw_end(b: Broken) -> None:
    b.h.witness.remove(b.seen(b.plain(), "end"))


@violates("I8")
def a_success_that_ended_otherwise(b: Broken) -> None:
    b.seen(b.plain(), "end")["outcome"] = "failed"


@violates("I8")
def a_step_that_nobody_saw_end(b: Broken) -> None:
    b.h.witness.remove(b.seen(b.step("join"), "end"))


@violates("I9")
def an_acknowledged_run_is_lost(b: Broken) -> None:
    call = b.calls("enqueue")[0]
    result = {**call["result"], "run_id": str(uuid4())}
    b.h.client.append({**call, "n": 999, "args": {}, "result": result})


@violates("I9")
def an_idempotency_key_with_two_runs(b: Broken) -> None:
    b.retried()["idempotency_key"] = "k1"


@violates("I9")
def a_refused_enqueue_exists(b: Broken) -> None:
    call = next(c for c in b.calls("enqueue") if c["result"]["run_id"] == b.retried()["run_id"])
    b.retried()["idempotency_key"] = "k9"
    call["args"]["idempotency_key"] = "k9"
    call["answer"] = "fail"


@violates("I9")
def an_acknowledged_task_is_lost(b: Broken) -> None:
    call = b.calls("create_task")[0]
    b.h.client.append({**call, "n": 999, "args": {"name": "gone"}, "result": str(uuid4())})


@violates("I9")
def an_acknowledged_event_is_lost(b: Broken) -> None:
    call = {**b.calls("create_task")[0], "n": 999, "call": "emit_event", "args": {"topic": "a.b"}}
    b.h.client.append({**call, "result": str(uuid4())})


@violates("I14")
def started_after_it_was_cancelled(b: Broken) -> None:
    call = next(c for c in b.calls("cancel_run") if c["result"] == "cancelled")
    run = b.run(call["args"]["run_id"])
    token = str(uuid4())
    run.update(attempt=1, scheduled_for=None)
    cancelled = b.line("cancelled", run)
    cancelled["attempt"] = 1
    b.add("run_log", cancelled, event="released", lease_id=token, at=moved(cancelled["at"], -0.001))
    start = b.seen(b.plain(), "start")
    b.h.witness.append({**start, "run": run["run_id"], "work": run["run_id"], "token": token,
                        "rt": call["t1"] + 5})  # fmt: skip


@violates("I14")
def cancelled_and_yet_a_success(b: Broken) -> None:
    next(c for c in b.calls("cancel_run") if c["result"] == "too_late")["result"] = "cancelled"


@violates("I14")
def too_late_and_yet_it_ended_later(b: Broken) -> None:
    call = next(c for c in b.calls("cancel_run") if c["result"] == "too_late")
    call["t0"] -= 100
    call["t1"] -= 100


@violates("I14")
def a_requested_cancel_that_is_not_heard(b: Broken) -> None:
    call = next(c for c in b.calls("cancel_run") if c["result"] == "requested")
    run = b.run(call["args"]["run_id"])
    line = b.line("cancelled", run)
    line.update(event="failed", detail={"message": "no"})
    run.update(state="failed", failures=1)
    call["t0"] -= 100
    call["t1"] -= 100


@violates("I17")
def a_run_in_two_places(b: Broken) -> None:
    run = b.plain()
    item = b.lease(run)["work"][0]
    b.h.tables["lease"].clear()
    b.h.tables["due_work"].append({**item, "run_at": moved(run["enqueued_at"], 10**7)})


@violates("I17")
def the_run_of_an_occurrence_is_nowhere(b: Broken) -> None:
    b.drop("task_run", b.run(b.occurrences("quarters")[2]["run_id"]))


@violates("I17")
def a_run_that_nobody_made(b: Broken) -> None:
    calls = [c for c in b.h.client if c["call"] == "enqueue"]
    keyless = next(c for c in calls if not c["args"].get("idempotency_key"))
    b.h.client = [c for c in b.h.client if c["n"] != keyless["n"]]


@violates("I17")
def a_counter_that_does_not_agree(b: Broken) -> None:
    b.plan("quarters")["fired_count"] += 1


@violates("I18")
def the_second_in_line_starts_first(b: Broken) -> None:
    one, other = (b.seen(r, "start") for r in sorted(
        b.rows("task_run", key="line:1"), key=lambda r: r["run_id"])[:2])  # fmt: skip
    one["rt"], other["rt"] = other["rt"], one["rt"]


@violates("I14")
def too_late_for_a_run_that_is_not_there(b: Broken) -> None:
    call = next(c for c in b.calls("cancel_run") if c["result"] == "too_late")
    b.h.client.append({**call, "n": 999, "args": {"run_id": str(uuid4())}})
