"""Violations of I3, I4, I6, I10."""

from __future__ import annotations

from uuid import uuid4

from tests.unit.checker.broken import Broken, moved, violates


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


@violates("I6")
def a_step_in_another_state_than_the_journal_says(b: Broken) -> None:
    b.step("spoil", "failed")["state"] = "cancelled"


@violates("I6")
def a_step_in_error_of_which_no_line_tells(b: Broken) -> None:
    b.step("rollback(make)", "failed").update(state="error", failures=1)


@violates("I6")
def a_step_that_is_over_and_has_no_end(b: Broken) -> None:
    b.step("rollback(make)", "failed")["finished_at"] = None


@violates("I6")
def a_failed_run_of_which_no_line_tells(b: Broken) -> None:
    b.drop("run_log", b.line("failed", b.flow("failed"), step=None))


@violates("I6")
def a_run_that_ended_twice(b: Broken) -> None:
    line = b.line("failed", b.flow("failed"), step=None)
    b.add("run_log", line, event="cancelled", at=moved(line["at"], -0.01))


@violates("I6")
def a_run_of_one_tool_that_was_skipped(b: Broken) -> None:
    b.line("failed", b.retried())["event"] = "skipped"
    b.retried()["failures"] = 0


@violates("I6")
def complete_after_it_was_skipped(b: Broken) -> None:
    b.line("failed", b.flow(), step="right")["event"] = "skipped"
    b.step("right")["failures"] = 0


@violates("I6")
def reopened_though_it_was_in_error(b: Broken) -> None:
    line = b.line("failed", b.flow("failed"), step="spoil")
    b.add("run_log", line, event="step_reopened", at=moved(line["at"], 0.001), lease_id=None,
          detail={})  # fmt: skip


@violates("I10")
def abandoned_after_one_crash(b: Broken) -> None:
    run = b.zombie()
    line = b.line("crashed", run)
    del line["detail"]["run_at"]
    b.h.witness = [r for r in b.h.witness if r["work"] != run["run_id"] or r["attempt"] == 1]
    run.update(state="abandoned", attempt=1, lease_id=None, finished_at=line["at"],
               started_at=moved(line["at"], -5))  # fmt: skip
