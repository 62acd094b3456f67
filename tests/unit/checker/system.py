"""Violations of I5, I19, I22, I23, I24, I25."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

from tests.unit.checker.broken import Broken, moved, violates


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


@violates("I5")
def a_lease_that_ran_out(b: Broken) -> None:
    b.h.config["quiescent"] = False
    run = b.plain()
    b.drop("task_run", run)
    b.lease(run, expires_at=moved(run["started_at"], -3600))


@violates("I5")
def a_unit_of_a_step_that_is_over(b: Broken) -> None:
    step = b.step("left")
    unit = {"work_id": step["step_id"], "run_id": step["run_id"], "step": "left"}
    run_at = moved(step["finished_at"], 10**7)
    b.h.tables["due_work"].append({**unit, "tool": "echo", "queue": "default", "run_at": run_at})
