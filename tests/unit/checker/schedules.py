"""Violations of I1, I2, I20."""

from __future__ import annotations

from typing import Any

from tests.unit.checker.broken import Broken, moved, violates


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
