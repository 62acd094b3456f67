"""task_finalization_error_scenarios: how runs end when something went wrong in them."""

from __future__ import annotations

import psycopg
import pytest
from psycopg.types.json import Jsonb

from ordinaut import calls
from ordinaut.errors import IllegalTransition
from ordinaut.testing import (
    Clock,
    Database,
    Step,
    StepAssertions,
    StepErrorSimulator,
    TaskAssertions,
    TestOrchestrator,
    WorkRunner,
    get_step,
)
from ordinaut.testing.orchestrator import DIAMOND
from ordinaut.testing.races import Session
from ordinaut.testing.simulator import lease_step

Kit = TestOrchestrator


def test_a_run_whose_only_step_failed_is_failed(kit: Kit, ordinaut_db: Database) -> None:
    task = kit.create_simple_task("test", "only_step")
    [step] = kit.get_task_steps(task)
    StepErrorSimulator.simulate_validation_error(ordinaut_db, step, "no such thing")
    assert calls.get_run(ordinaut_db.conn, task.task_uuid).state == "running"

    assert kit.evaluate(step) == "failed"

    run = calls.get_run(ordinaut_db.conn, task.task_uuid)
    assert run.state == "failed" and run.finished_at is not None
    assert "no such thing" in run.error["message"]
    TaskAssertions.assert_task_error(ordinaut_db, task, 1)


def test_what_is_under_way_ends_before_the_run_does(kit: Kit, ordinaut_db: Database) -> None:
    saving = [{**step, "save_as": f"of_{step['id']}"} for step in DIAMOND]
    task = kit.create_task("test", "saving", saving)
    start, branch_a, branch_b, convergence = kit.get_task_steps(task)
    kit.execute_step(start)
    lease_id = lease_step(ordinaut_db, branch_a)
    StepErrorSimulator.simulate_validation_error(ordinaut_db, branch_b)
    kit.evaluate(branch_b)
    assert calls.get_run(ordinaut_db.conn, task.task_uuid).state == "running"

    calls.complete_work(ordinaut_db.conn, lease_id, branch_a.workflow_step_uuid, {"kept": 1})

    run = calls.get_run(ordinaut_db.conn, task.task_uuid)
    assert run.state == "failed"
    assert run.error["context"]["partial"]["of_branch_a"] == {"kept": 1}
    assert get_step(ordinaut_db, convergence).state == "cancelled"
    StepAssertions.assert_step_complete(ordinaut_db, branch_a)


def test_rollbacks_run_in_reverse_order_before_the_end(kit: Kit, ordinaut_db: Database) -> None:
    undo = {"uses": "echo", "with": {"undo": True}}
    task = kit.create_task(
        "test",
        "undone",
        [
            {"id": "first", "uses": "echo", "on_rollback": undo},
            {"id": "second", "uses": "echo", "on_rollback": undo},
            {"id": "third", "uses": "echo"},
        ],
    )
    for name in ("first", "second"):
        kit.execute_step(kit.step(task, name))
    third = kit.step(task, "third")
    StepErrorSimulator.simulate_validation_error(ordinaut_db, third)
    kit.evaluate(third)

    undone = []
    while rollbacks := [s for s in kit.get_task_steps(task) if s.state == "ready"]:
        [step] = rollbacks
        undone.append(step.name)
        kit.execute_step(step)

    assert undone == ["rollback(second)", "rollback(first)"]
    assert calls.get_run(ordinaut_db.conn, task.task_uuid).state == "failed"


def test_a_cancelled_run_stays_cancelled(kit: Kit, ordinaut_db: Database) -> None:
    task = kit.create_diamond_workflow_task()

    calls.cancel_run(ordinaut_db.conn, task.task_uuid)

    assert calls.get_run(ordinaut_db.conn, task.task_uuid).state == "cancelled"
    assert {step.state for step in kit.get_task_steps(task)} == {"cancelled"}


def failed_diamond(kit: Kit, database: Database) -> list[Step]:
    task = kit.create_diamond_workflow_task()
    start, branch_a, branch_b, _ = kit.get_task_steps(task)
    kit.execute_step(start)
    kit.execute_step(branch_a)
    StepErrorSimulator.simulate_execution_error(database, branch_b, 3)
    assert kit.evaluate(branch_b) == "failed"
    assert calls.get_run(database.conn, task.task_uuid).state == "failed"
    return kit.get_task_steps(task)


def test_a_step_that_was_resolved_by_hand_lets_the_others_go_on(
    kit: Kit, ordinaut_db: Database
) -> None:
    """AC-78"""
    *_, branch_b, convergence = failed_diamond(kit, ordinaut_db)
    StepAssertions.assert_step_blocked(ordinaut_db, convergence)

    ordinaut_db.one("select ordinaut.resolve_step(%s, 'seen to')", branch_b.workflow_step_uuid)

    assert get_step(ordinaut_db, branch_b).state == "resolved_manually"
    StepAssertions.assert_step_ready(ordinaut_db, convergence)
    kit.execute_step(convergence)
    TaskAssertions.assert_task_complete(ordinaut_db, convergence.task_uuid)


def test_a_step_completed_by_hand_hands_on_its_output(
    kit: Kit, ordinaut_db: Database, ordinaut_worker: WorkRunner
) -> None:
    """AC-78"""
    task = kit.create_task(
        "test",
        "by_hand",
        [
            {"id": "broken", "uses": "echo", "save_as": "made"},
            {"id": "next", "uses": "echo", "with": {"got": "${steps.made.n}"}},
        ],
    )
    broken = kit.get_first_step(task)
    StepErrorSimulator.simulate_validation_error(ordinaut_db, broken)
    kit.evaluate(broken)

    ordinaut_db.one(
        "select ordinaut.complete_step(%s, %s)", broken.workflow_step_uuid, Jsonb({"n": 42})
    )
    ordinaut_worker.drain()

    assert kit.step(task, "next").output == {"got": 42}
    TaskAssertions.assert_task_complete(ordinaut_db, task)


def test_a_step_that_was_reset_has_all_of_its_attempts_again(
    kit: Kit, ordinaut_db: Database
) -> None:
    """AC-78"""
    *_, branch_b, convergence = failed_diamond(kit, ordinaut_db)

    ordinaut_db.one("select ordinaut.reset_step(%s)", branch_b.workflow_step_uuid)

    StepAssertions.assert_step_retry_behavior(ordinaut_db, branch_b, 0, None, False)
    StepAssertions.assert_step_ready(ordinaut_db, branch_b)
    StepErrorSimulator.simulate_execution_error(ordinaut_db, branch_b, 2)
    kit.execute_step(branch_b)
    kit.execute_step(convergence)
    TaskAssertions.assert_task_complete(ordinaut_db, convergence.task_uuid)


def test_no_update_moves_a_step_where_the_machine_does_not(kit: Kit, ordinaut_db: Database) -> None:
    """AC-74"""
    step = kit.get_first_step(kit.create_simple_task("test", "guarded"))
    kit.execute_step(step)

    with pytest.raises(IllegalTransition, match="Cannot transition from Complete to InProgress"):
        ordinaut_db.conn.execute(
            "update ordinaut.step as s set state = 'in_progress' where s.step_id = %s",
            [step.workflow_step_uuid],
        )
    StepAssertions.assert_step_complete(ordinaut_db, step)
    history = ordinaut_db.rows("select * from ordinaut.step_history(%s)", step.workflow_step_uuid)
    assert [row.to_state for row in history if row.is_current] == ["complete"]
    assert [row.from_state for row in history[1:]] == [row.to_state for row in history[:-1]]


def test_of_two_sessions_one_starts_a_run(
    kit: Kit, ordinaut_db: Database, ordinaut_session
) -> None:
    """AC-75"""
    task = kit.create_simple_task("test", "raced")
    run_id = calls.run_now(ordinaut_db.conn, task.task_id).run_id
    one: Session = ordinaut_session("one")
    two: Session = ordinaut_session("two")

    one.run("select ordinaut.start_run(%s)", run_id)
    two.start("select ordinaut.start_run(%s)", run_id)
    two.wait_blocked(by=one)
    one.commit()

    with pytest.raises(psycopg.errors.DatabaseError, match="waits to start"):
        two.result()
    two.rollback()
    assert ordinaut_db.one("select count(*) from ordinaut.step where run_id = %s", run_id) == 1


@pytest.mark.parametrize(
    "needs", [{"a": ["b"], "b": ["a"]}, {"a": ["a"], "b": []}], ids=["cycle", "itself"]
)
def test_a_cycle_is_refused_and_leaves_nothing(
    needs: dict[str, list[str]], kit: Kit, ordinaut_db: Database
) -> None:
    """AC-76"""
    pipeline = [{"id": name, "uses": "echo", "needs": above} for name, above in needs.items()]

    with pytest.raises(psycopg.errors.InvalidParameterValue):
        kit.create_task("test", "cyclic", pipeline)

    for table in ("task", "pipeline", "pipeline_step", "step", "task_run"):
        assert ordinaut_db.one(f"select count(*) from ordinaut.{table}") == 0


def test_a_stuck_run_is_reported_then_ended_once(
    kit: Kit, ordinaut_db: Database, ordinaut_clock: Clock
) -> None:
    """AC-84"""
    task = kit.create_simple_task("test", "stuck")
    ordinaut_db.one(
        "select ordinaut._lease_step(%s, 'gone', '1 day')",
        kit.get_first_step(task).workflow_step_uuid,
    )
    ordinaut_clock.advance("61 min")

    def sweep(dry_run: bool) -> list[tuple[object, str]]:
        rows = ordinaut_db.rows("select * from ordinaut.timeout_stuck('60 min', %s)", dry_run)
        return [(row.run_id, row.outcome) for row in rows]

    assert sweep(True) == [(task.task_uuid, "stuck")]
    assert calls.get_run(ordinaut_db.conn, task.task_uuid).state == "running"
    assert sweep(False) == [(task.task_uuid, "timed_out")]
    assert calls.get_run(ordinaut_db.conn, task.task_uuid).state == "timed_out"
    assert sweep(False) == []


def test_a_run_of_steps_ends_at_its_timeout(
    kit: Kit, ordinaut_db: Database, ordinaut_clock: Clock
) -> None:
    task = kit.create_task("test", "late", [{"id": "one", "uses": "echo"}], timeout="10 min")
    ordinaut_db.one(
        "select ordinaut._lease_step(%s, 'slow', '1 hour')",
        kit.get_first_step(task).workflow_step_uuid,
    )
    begun = ordinaut_clock.now

    at = ordinaut_clock.advance_to_next_event()

    assert at is not None and (at - begun).total_seconds() == 600
    assert calls.get_run(ordinaut_db.conn, task.task_uuid).state == "timed_out"


def test_ids_of_runs_and_steps_sort_by_time(kit: Kit, ordinaut_db: Database) -> None:
    """AC-85"""
    ids = [ordinaut_db.one("select ordinaut.uuid_generate_v7()") for _ in range(3)]
    task = kit.create_simple_task("test", "ids")
    step = kit.get_first_step(task)

    everything = [*ids, task.task_uuid, step.workflow_step_uuid]
    assert {made.version for made in everything} == {7}
    assert [made.int >> 80 for made in ids] == sorted(made.int >> 80 for made in ids)
    assert task.task_uuid.int >> 80 == step.workflow_step_uuid.int >> 80
