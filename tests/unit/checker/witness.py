"""Violations of I11, I12, I13."""

from __future__ import annotations

from tests.unit.checker.broken import Broken, moved, violates


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
