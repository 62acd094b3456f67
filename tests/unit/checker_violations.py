"""
One violation at a time: each function breaks a correct history (checker_world.py) in one way.

VIOLATIONS lists them by the invariant that must find it, and no other may.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.chaos.history import History, Row, instant

Break = Callable[["Broken"], None]
VIOLATIONS: list[tuple[str, Break]] = []


def violates(id: str) -> Callable[[Break], Break]:
    def register(function: Break) -> Break:
        VIOLATIONS.append((id, function))
        return function

    return register


def moved(at: str, seconds: float) -> str:
    was = instant(at)
    assert was is not None
    return (was + timedelta(seconds=seconds)).isoformat()


@dataclass
class Broken:
    """A history that is about to be broken, and ways to find something in it."""

    h: History

    def rows(self, table: str, **fields: Any) -> list[Row]:
        found = [r for r in self.h.tables[table] if all(r.get(k) == v for k, v in fields.items())]
        assert found, f"no {fields} in {table}"
        return found

    def row(self, table: str, **fields: Any) -> Row:
        return self.rows(table, **fields)[0]

    def task(self, name: str) -> Row:
        return self.row("task", name=name)

    def plan(self, name: str) -> Row:
        return self.row("task_schedule", task_id=self.task(name)["task_id"])

    def occurrences(self, name: str, decision: str = "fired") -> list[Row]:
        found = self.rows("occurrence", task_id=self.task(name)["task_id"], decision=decision)
        return sorted(found, key=lambda r: r["scheduled_for"])

    def run(self, id: str) -> Row:
        return self.row("task_run", run_id=id)

    def plain(self) -> Row:
        """The run of a client's own enqueue that simply succeeded, without a key."""
        call = next(c for c in self.calls("enqueue") if c["args"].get("idempotency_key"))
        return self.run(call["result"]["run_id"])

    def retried(self) -> Row:
        """A run that succeeded at its second attempt."""
        return next(r for r in self.rows("task_run", tool="fail", state="success", attempt=2)
                    if r["retry"] == {"base": "2 s", "jitter": 0})  # fmt: skip

    def zombie(self) -> Row:
        return self.row("task_run", crashes=1)

    def flow(self, state: str = "success") -> Row:
        return self.row("task_run", tool="pipeline", state=state)

    def step(self, name: str, state: str = "success") -> Row:
        return self.row("step", run_id=self.flow(state)["run_id"], name=name)

    def definition(self, step: Row) -> Row:
        run = self.run(step["run_id"])
        return self.row(
            "pipeline_step", pipeline_id=run["pipeline_id"], position=step["defined_by"]
        )

    def line(self, event: str, run: Row, **fields: Any) -> Row:
        return self.row("run_log", event=event, run_id=run["run_id"], **fields)

    def calls(self, name: str) -> list[Row]:
        return [r for r in self.h.client if r["call"] == name and r["t1"] is not None]

    def seen(self, work: Row, e: str, attempt: int = 1) -> Row:
        id = work.get("step_id") or work["run_id"]
        return next(r for r in self.h.witness
                    if r["work"] == id and r["e"] == e and r["attempt"] == attempt)  # fmt: skip

    def drop(self, table: str, row: Row) -> None:
        self.h.tables[table].remove(row)

    def add(self, table: str, row: Row, **changes: Any) -> Row:
        made = {**copy.deepcopy(row), **changes}
        self.h.tables[table].append(made)
        return made

    def lease(self, run: Row, **fields: Any) -> Row:
        """Put a run back into a lease, as a unit that has not been settled."""
        item = {**run, "work_id": run["run_id"], "step": None, "run_at": run["enqueued_at"]}
        for name in ("state", "worker_id", "lease_id", "started_at", "finished_at", "output",
                     "error"):  # fmt: skip
            item.pop(name)
        worker = self.row("worker")["worker_id"]
        lease = {"lease_id": run["lease_id"], "worker_id": worker, "holder": None, "size": 1,
                 "queue": run["queue"], "leased_at": run["started_at"], "expires_at": None,
                 "settled": [], "work": [item], **fields}  # fmt: skip
        self.h.tables["lease"].append(lease)
        return lease


# Schedules


@violates("I1")
def an_occurrence_without_a_row(b: Broken) -> None:
    b.drop("occurrence", b.occurrences("alone", "skipped")[0])
    b.plan("alone")["skipped_count"] -= 1


@violates("I1")
def a_row_that_is_no_occurrence(b: Broken) -> None:
    row = b.occurrences("alone", "skipped")[0]
    b.add("occurrence", row, scheduled_for=moved(row["scheduled_for"], -60))
    b.plan("alone")["skipped_count"] += 1


@violates("I1")
def a_row_without_a_reason(b: Broken) -> None:
    b.occurrences("alone", "skipped")[0]["reason"] = None


@violates("I1")
def an_hour_off_after_the_clocks_changed(b: Broken) -> None:
    row = b.occurrences("berlin")[-1]
    b.run(row["run_id"])["scheduled_for"] = moved(row["scheduled_for"], -3660)
    row["scheduled_for"] = moved(row["scheduled_for"], -3660)


@violates("I1")
def an_occurrence_while_paused(b: Broken) -> None:
    paused = b.row("run_log", event="task_paused")
    at = moved(paused["at"][:16] + ":00+00:00", 600)
    at = at[:15] + "0:00+00:00"
    b.add("occurrence", b.occurrences("alone", "skipped")[0], scheduled_for=at,
          task_id=b.task("paused")["task_id"])  # fmt: skip
    b.plan("paused")["skipped_count"] += 1


@violates("I1")
def nothing_is_decided_any_more(b: Broken) -> None:
    rows = b.occurrences("quarters")[-4:]
    plan = b.plan("quarters")
    for row in rows:
        run = b.run(row["run_id"])
        b.drop("occurrence", row)
        run["task_id"] = run["scheduled_for"] = None
        b.calls("enqueue")[0]["result"] = [b.calls("enqueue")[0]["result"], run["run_id"]]
        flat: list[Any] = []
        for told in b.calls("enqueue")[0]["result"]:
            flat += told if isinstance(told, list) else [told]
        b.calls("enqueue")[0]["result"] = flat
    plan["fired_count"] -= 4
    plan["next_run"], plan["fired_until"] = (
        rows[0]["scheduled_for"], moved(rows[0]["scheduled_for"], -900),
    )  # fmt: skip


@violates("I2")
def two_runs_of_one_occurrence(b: Broken) -> None:
    one, other = b.occurrences("quarters")[:2]
    b.run(other["run_id"])["scheduled_for"] = one["scheduled_for"]


@violates("I2")
def one_run_of_two_occurrences(b: Broken) -> None:
    skipped, plan = b.occurrences("alone", "skipped")[0], b.plan("alone")
    skipped.update(decision="fired", reason=None, run_id=b.occurrences("alone")[0]["run_id"])
    plan["skipped_count"] -= 1
    plan["fired_count"] += 1


@violates("I2")
def an_occurrence_decided_twice(b: Broken) -> None:
    b.add("occurrence", b.occurrences("alone", "skipped")[0])
    b.plan("alone")["skipped_count"] += 1


@violates("I20")
def a_next_run_off_its_calendar(b: Broken) -> None:
    b.plan("berlin")["next_run"] = moved(b.plan("berlin")["next_run"], 60)


@violates("I20")
def a_next_run_that_skips_one(b: Broken) -> None:
    b.plan("quarters")["next_run"] = moved(b.plan("quarters")["next_run"], 900)


@violates("I20")
def no_next_run_though_there_is_one(b: Broken) -> None:
    b.plan("alone")["next_run"] = None


@violates("I20")
def a_next_run_of_what_is_completed(b: Broken) -> None:
    b.plan("few")["next_run"] = moved(b.task("few")["status_at"], 9000)


# Attempts of one unit


@violates("I3")
def in_two_leases_at_once(b: Broken) -> None:
    run = b.plain()
    b.drop("task_run", run)
    b.lease(run)
    b.lease(run, lease_id=str(uuid4()))
    b.h.config["quiescent"] = False


@violates("I3")
def a_lease_before_the_other_was_over(b: Broken) -> None:
    run = b.zombie()
    run["started_at"] = moved(b.line("crashed", run)["at"], -1)


@violates("I3")
def a_start_before_the_other_lease_was_over(b: Broken) -> None:
    b.seen(b.zombie(), "start", 2)["rt"] -= 4


@violates("I4")
def a_release_after_the_lease_was_gone(b: Broken) -> None:
    run = b.zombie()
    crashed = b.line("crashed", run)
    b.add("run_log", crashed, log_id=str(crashed["log_id"])[:14] + str(uuid4())[14:],
          event="released", lease_id=crashed["detail"]["taken_from"],
          detail={"message": "bye"})  # fmt: skip


@violates("I4")
def the_zombie_completes_it(b: Broken) -> None:
    run = b.zombie()
    b.h.witness = [r for r in b.h.witness if r["work"] != run["run_id"] or r["attempt"] == 1]
    run["lease_id"] = b.line("crashed", run)["detail"]["taken_from"]


@violates("I4")
def one_lease_and_two_attempts(b: Broken) -> None:
    for e in ("start", "end"):
        b.seen(b.plain(), e)["attempt"] = 5


@violates("I4")
def attempts_run_backwards(b: Broken) -> None:
    run = b.row("task_run", tool="fail", state="failed", retry={"base": "1 s"})
    lines = b.rows("run_log", run_id=run["run_id"], event="failed")
    for line in lines:
        line["attempt"] = 3 - line["attempt"]
        for row in b.h.witness:
            if row["token"] == line["lease_id"]:
                row["attempt"] = line["attempt"]


@violates("I6")
def released_after_it_had_ended(b: Broken) -> None:
    run = b.row("task_run", state="timed_out")
    line = b.line("timed_out", run)
    b.add("run_log", line, event="released", attempt=2, at=moved(line["at"], 0.5),
          lease_id=str(uuid4()), detail={})  # fmt: skip
    run["attempt"] = 2


@violates("I6")
def another_end_than_the_journal_says(b: Broken) -> None:
    b.row("task_run", tool="fail", state="failed", retry={"base": "1 s"})["state"] = "cancelled"


@violates("I6")
def complete_after_its_last_error(b: Broken) -> None:
    line = b.line("failed", b.flow(), step="right")
    del line["detail"]["run_at"]


@violates("I6")
def a_success_that_failed(b: Broken) -> None:
    b.add("run_log", b.line("failed", b.flow("failed"), step=None), run_id=b.flow()["run_id"])


@violates("I6")
def a_run_of_one_tool_that_is_running(b: Broken) -> None:
    b.plain().update(state="running", finished_at=None, lease_id=b.plain()["lease_id"])


@violates("I6")
def it_ended_at_another_time_than_its_line(b: Broken) -> None:
    run = b.row("task_run", tool="fail", state="failed", retry={"base": "1 s"})
    line = b.rows("run_log", run_id=run["run_id"], event="failed", attempt=2)[0]
    run["finished_at"] = moved(run["finished_at"], 1)
    assert line["at"] != run["finished_at"]


@violates("I10")
def an_attempt_of_which_no_line_tells(b: Broken) -> None:
    b.drop("run_log", b.line("failed", b.retried()))


@violates("I10")
def started_twice_under_one_lease(b: Broken) -> None:
    start = b.seen(b.plain(), "start")
    b.h.witness.append({**start, "pid": 8, "mt": start["mt"] + 60})


@violates("I10")
def a_start_without_a_lease(b: Broken) -> None:
    start = b.seen(b.plain(), "start")
    b.h.witness.append({**start, "attempt": 9, "token": str(uuid4())})


@violates("I10")
def failures_that_were_not_counted(b: Broken) -> None:
    b.retried()["failures"] = 0


@violates("I10")
def a_crash_that_was_not_counted(b: Broken) -> None:
    b.zombie()["crashes"] = 2


@violates("I10")
def tried_again_after_its_last_attempt(b: Broken) -> None:
    b.retried()["max_attempts"] = 1


@violates("I10")
def failed_without_a_start(b: Broken) -> None:
    line = b.line("failed", b.retried())
    b.h.witness = [row for row in b.h.witness if row["token"] != line["lease_id"]]


# What clients were told


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


# What the witness saw


@violates("I11")
def two_of_one_key_at_once(b: Broken) -> None:
    runs = sorted(b.rows("task_run", key="line:1"), key=lambda r: r["started_at"])
    b.seen(runs[0], "end")["mt"] = b.seen(runs[1], "start")["mt"] + 0.1


@violates("I11")
def two_attempts_of_one_unit_at_once(b: Broken) -> None:
    run = b.retried()
    b.seen(run, "end", 1)["mt"] = b.seen(run, "start", 2)["mt"] + 0.1


@violates("I11")
def a_zombie_though_they_fence_themselves(b: Broken) -> None:
    b.h.config["declared"]["self_fencing"] = True


@violates("I12")
def begun_before_it_was_due(b: Broken) -> None:
    run = b.plain()
    run["scheduled_for"] = moved(run["started_at"], 10)


@violates("I12")
def started_before_it_was_due(b: Broken) -> None:
    run = b.plain()
    run["scheduled_for"] = run["started_at"]
    b.seen(run, "start")["rt"] -= 2


@violates("I12")
def tried_again_too_soon(b: Broken) -> None:
    line = b.line("failed", b.retried())
    line["detail"]["run_at"] = moved(line["at"], 0.5)


@violates("I12")
def tried_again_before_its_time(b: Broken) -> None:
    line = b.line("failed", b.retried())
    line["detail"]["run_at"] = moved(line["at"], 60)


@violates("I12")
def late_without_a_fault(b: Broken) -> None:
    b.h.config["bounds"]["start_late_s"] = 30
    b.seen(b.run(b.occurrences("quarters")[3]["run_id"]), "start")["rt"] += 100


@violates("I13")
def a_tool_outlives_its_timeout(b: Broken) -> None:
    b.seen(b.row("task_run", state="timed_out"), "end")["mt"] += 60


@violates("I13")
def a_success_long_after_its_timeout(b: Broken) -> None:
    run = b.plain()
    run["timeout"] = "00:00:00.01"
    b.seen(run, "end")["mt"] += 5


@violates("I13")
def timed_out_before_its_time(b: Broken) -> None:
    run = b.row("task_run", state="timed_out")
    run["started_at"] = moved(run["finished_at"], -1)


# Runs of steps


@violates("I15")
def a_step_begun_before_its_need_had_ended(b: Broken) -> None:
    b.step("left")["started_at"] = moved(b.step("fetch")["finished_at"], -0.1)


@violates("I15")
def a_step_started_before_its_need_had_ended(b: Broken) -> None:
    b.seen(b.step("left"), "start")["mt"] = b.seen(b.step("fetch"), "end")["mt"] - 0.05


@violates("I15")
def a_join_that_did_not_wait(b: Broken) -> None:
    b.step("each")["finished_at"] = moved(b.step("join")["started_at"], 0.01)


@violates("I15")
def a_success_with_a_cancelled_step(b: Broken) -> None:
    b.add("step", b.step("after", "failed"), step_id=str(uuid4()), name="extra", position=99,
          run_id=b.flow()["run_id"], finished_at=b.flow()["finished_at"], defined_by=1)  # fmt: skip


@violates("I15")
def an_end_with_a_step_that_is_not_over(b: Broken) -> None:
    b.add("step", b.step("after", "failed"), step_id=str(uuid4()), name="extra", position=99,
          state="pending", finished_at=None)  # fmt: skip


@violates("I15")
def two_steps_at_one_position(b: Broken) -> None:
    b.add("step", b.step("after", "failed"), step_id=str(uuid4()), name="twin")


@violates("I15")
def skipped_without_a_condition(b: Broken) -> None:
    del b.definition(b.step("never"))["body"]["if"]


@violates("I15")
def skipped_without_a_reason(b: Broken) -> None:
    b.drop("run_log", b.line("skipped", b.flow(), step="never"))


@violates("I15")
def running_though_all_its_steps_are_over(b: Broken) -> None:
    b.flow().update(state="running", finished_at=None)


@violates("I15")
def begun_though_its_need_had_failed(b: Broken) -> None:
    need, step = b.step("spoil", "failed"), b.step("after", "failed")
    step.update(attempt=1, started_at=moved(need["finished_at"], 0.01))
    line = b.line("failed", b.flow("failed"), step="spoil")
    b.add("run_log", line, step="after", event="cancelled", lease_id=str(uuid4()),
          log_id=line["log_id"][:14] + str(uuid4())[14:], at=step["finished_at"])  # fmt: skip


@violates("I16")
def a_gate_answered_twice(b: Broken) -> None:
    line = b.line("approval_answered", b.flow())
    b.add("run_log", line)


@violates("I16")
def two_answers_were_accepted(b: Broken) -> None:
    b.h.client.append({**b.calls("respond")[0], "n": 999})


@violates("I16")
def another_answer_than_was_accepted(b: Broken) -> None:
    b.row("approval")["response"] = False


@violates("I16")
def an_accepted_answer_to_nothing(b: Broken) -> None:
    call = b.calls("respond")[0]
    args = {"approval_id": str(uuid4()), "response": True}
    b.h.client.append({**call, "n": 999, "args": args})


@violates("I16")
def a_gate_that_opened_by_itself(b: Broken) -> None:
    b.row("approval").update(decision=None, decided_at=None)


@violates("I16")
def a_step_behind_the_gate_before_the_answer(b: Broken) -> None:
    b.seen(b.step("join"), "start")["rt"] -= 10


@violates("I16")
def expired_before_its_time(b: Broken) -> None:
    row = b.row("approval")
    row.update(decision="expired", expires_at=moved(row["decided_at"], 60))


# The system


@violates("I5")
def a_lease_that_is_left_over(b: Broken) -> None:
    run = b.plain()
    b.drop("task_run", run)
    b.lease(run)


@violates("I5")
def a_lease_without_an_owner(b: Broken) -> None:
    b.h.config["quiescent"] = False
    run = b.plain()
    b.drop("task_run", run)
    b.lease(run, worker_id=str(uuid4()))


@violates("I5")
def a_ready_step_without_a_unit(b: Broken) -> None:
    run = b.flow("failed")
    b.drop("run_log", b.line("failed", run, step=None))
    b.step("after", "failed").update(state="ready", finished_at=None)
    run.update(state="running", finished_at=None)


@violates("I5")
def a_slot_held_by_what_has_ended(b: Broken) -> None:
    b.add("hold", b.row("hold"), key="line:1", slot=1, run_id=b.plain()["run_id"], held_until=None)


@violates("I19")
def nobody_did_it(b: Broken) -> None:
    b.line("crashed", b.zombie())["actor"] = ""


@violates("I19")
def it_failed_for_no_reason(b: Broken) -> None:
    del b.line("failed", b.retried())["detail"]["message"]


@violates("I19")
def a_line_written_at_another_time_than_it_says(b: Broken) -> None:
    line = b.row("run_log", event="retried")
    line["at"] = moved(line["at"], -60)


@violates("I19")
def a_line_that_was_deleted(b: Broken) -> None:
    b.drop("run_log", b.row("run_log", event="task_created", task_id=b.task("berlin")["task_id"]))


@violates("I19")
def a_line_that_was_changed(b: Broken) -> None:
    b.row("run_log", event="task_created", task_id=b.task("berlin")["task_id"])["actor"] = "me"


@violates("I22")
def the_canary_is_in_an_output(b: Broken) -> None:
    b.plain()["output"] = {"echo": "canary-7f3a"}


@violates("I22")
def the_canary_is_in_a_log(b: Broken) -> None:
    b.h.config["logs"].append("leak.log")
    assert b.h.directory is not None
    Path(b.h.directory / "leak.log").write_text("password canary-7f3a\n")


@violates("I22")
def a_log_that_is_not_there(b: Broken) -> None:
    b.h.config["logs"].append("gone.log")


@violates("I23")
def the_backlog_never_drains(b: Broken) -> None:
    for sample in b.h.samples:
        sample["due"] = 50


@violates("I23")
def recovery_takes_too_long(b: Broken) -> None:
    b.h.config["bounds"]["recovery_s"] = 10


@violates("I23")
def it_falls_behind_again(b: Broken) -> None:
    b.h.samples.append({**b.h.samples[-1], "t": b.h.samples[-1]["t"] + 900, "late": 500})


@violates("I23")
def due_work_that_nobody_takes(b: Broken) -> None:
    run = b.plain()
    item = b.lease(run)["work"][0]
    b.h.tables["lease"].clear()
    b.drop("task_run", run)
    b.h.tables["due_work"].append(item)
    b.add("run_log", b.line("crashed", b.zombie()), run_id=run["run_id"], event="released",
          lease_id=run["lease_id"], detail={})  # fmt: skip


@violates("I23")
def a_fault_that_is_not_healed(b: Broken) -> None:
    b.h.faults.append({"fault": "partition", "target": "proxy", "t0": b.h.faults[0]["t0"],
                       "t1": None})  # fmt: skip


@violates("I24")
def too_many_connections(b: Broken) -> None:
    b.h.samples[2]["connections"] = 51


@violates("I24")
def memory_that_grows(b: Broken) -> None:
    for n, sample in enumerate(b.h.samples):
        sample["rss"] = {"worker": 1e7 * (n + 1)}


@violates("I24")
def descriptors_that_leak(b: Broken) -> None:
    b.h.samples[-1]["fds"] = {"worker": 500}


@violates("I24")
def a_log_that_floods(b: Broken) -> None:
    b.h.samples[-1]["log_bytes"] += 10**9


@violates("I25")
def an_end_in_the_future(b: Broken) -> None:
    b.plain()["finished_at"] = moved(b.plain()["finished_at"], 36000)


@violates("I25")
def an_end_before_its_beginning(b: Broken) -> None:
    b.plain()["started_at"] = moved(b.plain()["finished_at"], 0.5)


@violates("I25")
def a_decision_of_another_clock(b: Broken) -> None:
    row = b.occurrences("quarters")[-1]
    row["decided_at"] = moved(row["decided_at"], 36000)


@violates("I25")
def an_id_of_another_time(b: Broken) -> None:
    b.plain()["enqueued_at"] = moved(b.plain()["enqueued_at"], -3600)
