"""
step_retry_lifecycle_tests: the life of a single step, success and every kind of failure.

Each test makes the four moves: exercise the lifecycle, capture the SQL state, assert that the two
agree, and leave a structured log of it.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

import pytest

from ordinaut.testing import (
    Clock,
    Database,
    ExecutionStatus,
    ExpectedStepState,
    RecommendedAction,
    SqlLifecycleAssertion,
    StepAssertions,
    StepErrorConfig,
    StepErrorSimulator,
    TaskAssertions,
    TestOrchestrator,
    execution_context,
    get_first_step,
    get_step,
    get_task_steps,
    readiness,
)
from ordinaut.testing.simulator import lease_step

AT = datetime(2026, 11, 21, 8, tzinfo=UTC)
Kit = TestOrchestrator


def test_a_fresh_step_is_ready_and_nothing_has_happened(kit: Kit, ordinaut_db: Database) -> None:
    """AC-60"""
    task = kit.create_simple_task("expected_namespace", "fresh")
    assert task.namespace == "expected_namespace"
    [step] = get_task_steps(ordinaut_db, task.task_uuid)

    said = readiness(ordinaut_db, step.workflow_step_uuid)

    assert (said["ready_for_execution"], said["dependencies_satisfied"]) == (True, True)
    assert (said["retry_eligible"], said["attempts"]) == (False, 0)
    assert said["backoff_request_seconds"] is None
    context = execution_context(ordinaut_db, task.task_uuid)
    assert (context["total_steps"], context["completed_steps"], context["failed_steps"]) == (
        1,
        0,
        0,
    )
    StepAssertions.assert_step_ready(ordinaut_db, step.workflow_step_uuid)
    TaskAssertions.assert_task_execution_status(
        ordinaut_db, task, ExecutionStatus.HasReadySteps, RecommendedAction.ExecuteReadySteps
    )


def test_success_is_seen_at_once(kit: Kit, ordinaut_db: Database) -> None:
    """AC-61"""
    task = kit.create_simple_task("test", "success")
    step = get_first_step(ordinaut_db, task.task_uuid)

    result = kit.execute_step(step, True, 1000)

    assert result.success
    StepAssertions.assert_step_complete(ordinaut_db, step)
    StepAssertions.assert_step_state_sequence(
        ordinaut_db, step, ["Pending", "InProgress", "Complete"]
    )
    TaskAssertions.assert_task_complete(ordinaut_db, task.task_uuid)
    TaskAssertions.assert_task_completion_percentage(ordinaut_db, task, 100.0)
    TaskAssertions.assert_task_execution_status(ordinaut_db, task, "Complete", "FinalizeTask")


def test_the_clock_moves_on_while_a_step_runs(
    kit: Kit, ordinaut_db: Database, ordinaut_clock: Clock
) -> None:
    ordinaut_clock.travel_to(AT)
    step = get_first_step(ordinaut_db, kit.create_simple_task("test", "takes_time"))

    ended = kit.execute_step(step, True, 1000).step

    assert (ended.started_at, ended.finished_at) == (AT, AT + timedelta(seconds=1))


def test_a_retryable_error_leaves_the_step_in_error_and_eligible(
    kit: Kit, ordinaut_db: Database
) -> None:
    """AC-62"""
    task = kit.create_simple_task("test", "one_error")
    step = get_first_step(ordinaut_db, task.task_uuid)

    StepErrorSimulator.simulate_execution_error(ordinaut_db, step, 1)

    StepAssertions.assert_step_retry_behavior(ordinaut_db, step, 1, None, True)
    SqlLifecycleAssertion.assert_step_scenario(
        ordinaut_db, task, step, ExpectedStepState("Error", False, True, True, 1, True)
    )
    context = execution_context(ordinaut_db, task)
    assert not context["blocked_by_errors"]
    assert (context["error_steps"], context["failed_steps"]) == (1, 0)


def test_execute_step_can_fail_too(kit: Kit, ordinaut_db: Database) -> None:
    step = get_first_step(ordinaut_db, kit.create_simple_task("test", "told_to_fail"))

    result = kit.execute_step(step, False, 500)

    assert not result.success
    StepAssertions.assert_step_retry_behavior(ordinaut_db, step, 1, None, True)


def test_two_errors_are_two_attempts(kit: Kit, ordinaut_db: Database) -> None:
    """AC-63"""
    task = kit.create_simple_task("test", "two_errors")
    step = get_first_step(ordinaut_db, task.task_uuid)

    failed = StepErrorSimulator.simulate_execution_error(ordinaut_db, step, 2)

    SqlLifecycleAssertion.assert_step_scenario(
        ordinaut_db,
        task.task_uuid,
        step.workflow_step_uuid,
        ExpectedStepState(
            state="Error",
            ready_for_execution=False,
            dependencies_satisfied=True,
            retry_eligible=True,
            attempts=2,
            next_retry_at=failed.next_retry_at,
            backoff_request_seconds=None,
            retry_limit=3,
        ),
    )


def test_the_third_failure_is_the_last(kit: Kit, ordinaut_db: Database) -> None:
    """AC-64"""
    task = kit.create_simple_task("test", "exhausted")
    step = get_first_step(ordinaut_db, task.task_uuid)

    StepErrorSimulator.simulate_external_service_error(ordinaut_db, step, 3, 30)

    StepAssertions.assert_step_retry_behavior(ordinaut_db, step, 3, 30, False)
    StepAssertions.assert_step_failed_permanently(ordinaut_db, step)
    blocked = (ExecutionStatus.BlockedByFailures, RecommendedAction.HandleFailures)
    TaskAssertions.assert_task_execution_status(ordinaut_db, task, *blocked)
    assert kit.evaluate(step) == "failed"
    StepAssertions.assert_step_retry_behavior(ordinaut_db, step, 3, 30, False)
    assert "Max retries exhausted (3 of 3)" in get_step(ordinaut_db, step).error["message"]
    TaskAssertions.assert_task_error(ordinaut_db, task, 1)


def test_a_validation_error_is_permanent(kit: Kit, ordinaut_db: Database) -> None:
    """AC-65"""
    task = kit.create_simple_task("test", "invalid")
    step = get_first_step(ordinaut_db, task.task_uuid)

    StepErrorSimulator.simulate_validation_error(ordinaut_db, step, "no such customer")

    StepAssertions.assert_step_failed_permanently(ordinaut_db, step)
    StepAssertions.assert_step_retry_behavior(ordinaut_db, step, 1, None, False)
    TaskAssertions.assert_task_error(ordinaut_db, task.task_uuid, 1)
    assert execution_context(ordinaut_db, task)["blocked_by_errors"] is True


def test_a_custom_backoff_holds_to_the_second(
    kit: Kit, ordinaut_db: Database, ordinaut_clock: Clock
) -> None:
    """AC-66"""
    ordinaut_clock.travel_to(AT)
    step = get_first_step(ordinaut_db, kit.create_simple_task("test", "custom_backoff"))

    StepErrorSimulator.simulate_external_service_error(ordinaut_db, step, 1, 30)

    StepAssertions.assert_step_retry_behavior(ordinaut_db, step, 1, 30, True)
    StepAssertions.assert_step_waiting(ordinaut_db, step, AT + timedelta(seconds=30))
    ordinaut_clock.advance(29.999)
    assert not readiness(ordinaut_db, step)["ready_for_execution"]
    ordinaut_clock.advance(0.001)
    StepAssertions.assert_step_ready(ordinaut_db, step)


def test_the_whole_retry_path_is_remembered(kit: Kit, ordinaut_db: Database) -> None:
    """AC-67"""
    step = get_first_step(ordinaut_db, kit.create_simple_task("test", "retry_path"))
    StepErrorSimulator.simulate_execution_error(ordinaut_db, step, 1)
    StepAssertions.assert_step_waiting(ordinaut_db, step)

    kit.execute_step(step, True, 10)

    path = ["Pending", "InProgress", "Error", "WaitingForRetry", "Ready", "Complete"]
    StepAssertions.assert_step_state_sequence(ordinaut_db, step, path)
    whole = [*path[:5], "InProgress", "Complete"]
    StepAssertions.assert_step_state_sequence(ordinaut_db, step, whole, strict=True)
    with pytest.raises(
        AssertionError, match=r"^Step \S+ state sequence assertion failed: expected"
    ):
        StepAssertions.assert_step_state_sequence(ordinaut_db, step, ["Complete", "Pending"])


@pytest.mark.parametrize(
    ("limit", "error", "failures", "eligible"),
    [
        (1, "ExecutionError", 1, False),
        (2, "ExecutionError", 1, True),
        (2, "ExecutionError", 2, False),
        (3, "ExecutionError", 2, True),
        (3, "ExecutionError", 3, False),
        (3, "ValidationError", 1, False),
    ],
)
def test_the_boundaries_of_retrying(
    limit: int, error: str, failures: int, eligible: bool, kit: Kit, ordinaut_db: Database
) -> None:
    """AC-77: the first attempt is always allowed, the others only while retries are left."""
    pipeline = [{"id": "only", "uses": "echo", "retry_count": limit}]
    step = get_first_step(ordinaut_db, kit.create_task("test", "boundary", pipeline))
    StepAssertions.assert_step_ready(ordinaut_db, step)

    for _ in range(failures):
        StepErrorSimulator.simulate(ordinaut_db, step, StepErrorConfig(error))

    StepAssertions.assert_step_retry_behavior(ordinaut_db, step, failures, None, eligible)
    assert not readiness(ordinaut_db, step)["ready_for_execution"]
    assert kit.evaluate(step) == ("retry" if eligible else "failed")


def test_failed_assertions_say_what_was_expected_and_what_was_found(
    kit: Kit, ordinaut_db: Database
) -> None:
    task = kit.create_simple_task("test", "messages")
    step = get_first_step(ordinaut_db, task)
    lease_id = lease_step(ordinaut_db, step)
    with pytest.raises(AssertionError) as processing:
        TaskAssertions.assert_task_complete(ordinaut_db, task)
    ordinaut_db.conn.execute("select ordinaut.release_work(%s)", [lease_id])
    StepErrorSimulator.simulate_execution_error(ordinaut_db, step, 2)
    with pytest.raises(AssertionError) as retry:
        StepAssertions.assert_step_retry_behavior(ordinaut_db, step, 3, None, True)

    assert str(processing.value) == (
        f"Task {task.task_uuid} assertion failed: expected Complete, found Processing"
    )
    assert str(retry.value) == (
        f"Step {step.workflow_step_uuid} retry assertion failed: attempts expected 3, got 2"
    )


def test_a_step_that_cannot_run_is_not_executed(kit: Kit, ordinaut_db: Database) -> None:
    task = kit.create_diamond_workflow_task()
    last = get_task_steps(ordinaut_db, task)[-1]

    with pytest.raises(AssertionError, match="cannot be executed: expected Ready, found Pending"):
        kit.execute_step(last)
    with pytest.raises(AssertionError, match="cannot be executed: expected Ready, found Pending"):
        StepErrorSimulator.simulate_execution_error(ordinaut_db, last, 1)


def test_what_was_done_is_logged_with_keys_and_values(
    kit: Kit, ordinaut_db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ordinaut.testing")
    step = get_first_step(ordinaut_db, kit.create_simple_task("test", "logged"))

    StepErrorSimulator.simulate_validation_error(ordinaut_db, step)

    [record] = [r for r in caplog.records if getattr(r, "lifecycle_action", "") == "fail_step"]
    fields = {k: getattr(record, k) for k in ("step_uuid", "error_type", "retryable", "attempts")}
    assert fields == {
        "step_uuid": str(step.workflow_step_uuid),
        "error_type": "ValidationError",
        "retryable": False,
        "attempts": 1,
    }
    assert (record.backoff, record.retry_eligible) == (None, False)  # type: ignore[attr-defined]
