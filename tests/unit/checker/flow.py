"""Violations of I15, I16."""

from __future__ import annotations

from uuid import uuid4

from tests.unit.checker.broken import Broken, moved, violates


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


@violates("I16")
def a_gate_that_ended_before_the_answer(b: Broken) -> None:
    b.step("gate")["finished_at"] = moved(b.row("approval")["decided_at"], -0.05)


@violates("I16")
def an_expiry_that_nobody_recorded(b: Broken) -> None:
    run, gate, join = b.flow(), b.step("gate"), b.step("join")
    b.drop("run_log", b.line("approval_answered", run))
    b.h.client = [row for row in b.h.client if row["call"] != "respond"]
    b.h.witness = [row for row in b.h.witness if row["work"] != join["step_id"]]
    expires_at = moved(gate["started_at"], -3600)
    b.row("approval").update(decision=None, decided_at=None, expires_at=expires_at)
    gate.update(state="in_progress", wait={"kind": "approval"}, finished_at=None)
    join.update(state="pending", attempt=0, started_at=None, finished_at=None, lease_id=None)
    run.update(state="running", finished_at=None)
    unit = {"work_id": gate["step_id"], "run_id": run["run_id"], "step": "gate"}
    b.h.tables["parked"].append({**unit, "tool": "approval", "queue": run["queue"]})
