"""
sql_function_integration_validation: six lifecycles, 25 questions to the SQL functions, one figure.

1 basic lifecycle (2)   2 error and retry (4)       3 exhaustion (4)
4 dependencies (6)      5 permanent failure (5)     6 completion (4)
"""

from __future__ import annotations

import logging

from ordinaut.testing import (
    Database,
    ExecutionStatus,
    RecommendedAction,
    StepAssertions,
    StepErrorSimulator,
    TaskAssertions,
    TaskStepDistribution,
    TestOrchestrator,
    get_step,
)
from ordinaut.testing.lifecycle import Validations

log = logging.getLogger(__name__)

Step, Task, Fail = StepAssertions, TaskAssertions, StepErrorSimulator


def basic_lifecycle(kit: TestOrchestrator, db: Database, v: Validations) -> None:
    task = kit.create_simple_task("validation", "basic")
    step = kit.get_first_step(task)
    v.check(Step.assert_step_ready, db, step)
    kit.execute_step(step, True, 1000)
    v.check(Step.assert_step_complete, db, step)


def error_and_retry(kit: TestOrchestrator, db: Database, v: Validations) -> None:
    task = kit.create_simple_task("validation", "error")
    step = kit.get_first_step(task)
    Fail.simulate_external_service_error(db, step, 1, 5)
    v.check(Step.assert_step_retry_behavior, db, step, 1, 5, True)
    v.check(Step.assert_step_waiting, db, step, get_step(db, step).next_retry_at)
    wait = (ExecutionStatus.WaitingForRetry, RecommendedAction.WaitForRetry)
    v.check(Task.assert_task_execution_status, db, task, *wait)
    v.check(Step.assert_step_state_sequence, db, step, ["InProgress", "Error", "WaitingForRetry"])


def exhaustion(kit: TestOrchestrator, db: Database, v: Validations) -> None:
    task = kit.create_simple_task("validation", "exhaustion")
    step = kit.get_first_step(task)
    Fail.simulate_execution_error(db, step, 2)
    v.check(Step.assert_step_retry_behavior, db, step, 2, None, True)
    Fail.simulate_execution_error(db, step, 3)
    v.check(Step.assert_step_retry_behavior, db, step, 3, None, False)
    v.check(Step.assert_step_failed_permanently, db, step)
    v.check(Task.assert_task_error, db, task, 1)


def dependencies(kit: TestOrchestrator, db: Database, v: Validations) -> None:
    task = kit.create_diamond_workflow_task("validation", "dependencies")
    start, branch_a, branch_b, convergence = kit.get_task_steps(task)
    v.check(Step.assert_step_dependencies_satisfied, db, branch_a, False)
    kit.execute_step(start)
    v.check(Step.assert_step_ready, db, branch_a)
    v.check(Step.assert_step_ready, db, branch_b)
    kit.execute_step(branch_a)
    v.check(Step.assert_step_dependencies_satisfied, db, convergence, False)
    kit.execute_step(branch_b)
    v.check(Step.assert_step_dependencies_satisfied, db, convergence, True)
    v.check(Task.assert_task_completion_percentage, db, task, 75.0, 5.0)


def permanent_failure(kit: TestOrchestrator, db: Database, v: Validations) -> None:
    task = kit.create_diamond_workflow_task("validation", "permanent")
    start, branch_a, branch_b, convergence = kit.get_task_steps(task)
    kit.execute_step(start)
    kit.execute_step(branch_a)
    Fail.simulate_validation_error(db, branch_b, "it is not valid")
    v.check(Step.assert_step_failed_permanently, db, branch_b)
    v.check(Step.assert_step_blocked, db, convergence)
    v.check(Task.assert_task_error, db, task, 1)
    v.check(Task.assert_task_step_distribution, db, task, TaskStepDistribution(4, 2, 1, 0, 1, 0, 1))
    blocked = (ExecutionStatus.BlockedByFailures, RecommendedAction.HandleFailures)
    v.check(Task.assert_task_execution_status, db, task, *blocked)


def completion(kit: TestOrchestrator, db: Database, v: Validations) -> None:
    task = kit.create_diamond_workflow_task("validation", "completion")
    for step in kit.get_task_steps(task):
        kit.execute_step(step)
    v.check(Task.assert_task_complete, db, task)
    v.check(Task.assert_task_completion_percentage, db, task, 100.0)
    v.check(Task.assert_task_step_distribution, db, task, TaskStepDistribution(4, 4, 0, 0, 0, 0, 0))
    v.check(Step.assert_step_state_sequence, db, step, ["Pending", "InProgress", "Complete"])


SCENARIOS = {
    basic_lifecycle: 2,
    error_and_retry: 4,
    exhaustion: 4,
    dependencies: 6,
    permanent_failure: 5,
    completion: 4,
}


def test_comprehensive_sql_function_integration(
    ordinaut_orchestrator: TestOrchestrator, ordinaut_db: Database
) -> None:
    passed, failures = 0, []
    for scenario, expected in SCENARIOS.items():
        validations = Validations()
        scenario(ordinaut_orchestrator, ordinaut_db, validations)
        passed += validations.passed
        failures += validations.failures
        assert validations.passed + validations.failed == expected, scenario.__name__
        log.info(
            "scenario validated",
            extra={"scenario": scenario.__name__, "validations_passed": validations.passed},
        )

    assert failures == []
    assert (len(SCENARIOS), passed) == (6, 25)
    assert f"{100 * passed / (passed + len(failures)):.2f} %" == "100.00 %"
