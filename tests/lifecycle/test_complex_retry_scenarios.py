"""complex_retry_scenarios: failures where several steps depend on each other."""

from __future__ import annotations

from typing import Any

import pytest

from ordinaut.testing import (
    Database,
    ExecutionStatus,
    RecommendedAction,
    StepAssertions,
    StepErrorConfig,
    StepErrorSimulator,
    Task,
    TaskAssertions,
    TaskStepDistribution,
    TestOrchestrator,
    TestScenarioBuilder,
    create_diamond_workflow_task,
    execution_context,
    get_task_steps,
    readiness,
)

Kit = TestOrchestrator
MIXED = {
    "init": [],
    "process_left": ["init"],
    "process_right": ["init"],
    "validate": ["process_left", "process_right"],
    "transform": ["process_left"],
    "analyze": ["process_right"],
    "finalize": ["validate", "transform", "analyze"],
}
TREE = {
    "root": [],
    "branch_left": ["root"],
    "branch_right": ["root"],
    "leaf_a": ["branch_left"],
    "leaf_b": ["branch_left"],
    "leaf_c": ["branch_right"],
    "leaf_d": ["branch_right"],
    "convergence": ["leaf_a", "leaf_b", "leaf_c", "leaf_d"],
}


@pytest.fixture
def diamond(kit: Kit) -> Task:
    task = create_diamond_workflow_task(kit)
    assert [step.name for step in kit.get_task_steps(task)] == [
        "start", "branch_a", "branch_b", "convergence",
    ]  # fmt: skip
    return task


def workflow(kit: Kit, shape: dict[str, list[str]]) -> Task:
    pipeline = [{"id": name, "uses": "echo", "needs": needs} for name, needs in shape.items()]
    return kit.create_task("test", "workflow", pipeline)


def parents(database: Database, step: Any) -> tuple[bool, int, int]:
    said = readiness(database, step)
    return said["dependencies_satisfied"], said["total_parents"], said["completed_parents"]


def ready(database: Database, task: Task) -> set[str]:
    steps = get_task_steps(database, task)
    return {step.name for step in steps if readiness(database, step)["ready_for_execution"]}


def test_cascading_retries_with_dependencies(
    kit: Kit, ordinaut_db: Database, diamond: Task
) -> None:
    """AC-69: one branch recovers, the other fails for good, and the join never starts."""
    start, branch_a, branch_b, convergence = kit.get_task_steps(diamond)
    kit.execute_step(start, True, 100)
    StepAssertions.assert_step_ready(ordinaut_db, branch_a)
    StepErrorSimulator.simulate_execution_error(ordinaut_db, branch_a, 1)
    StepAssertions.assert_step_retry_behavior(ordinaut_db, branch_a, 1, None, True)
    kit.execute_step(branch_a, True, 150)
    StepAssertions.assert_step_complete(ordinaut_db, branch_a)

    StepErrorSimulator.simulate_validation_error(ordinaut_db, branch_b, "the branch is broken")

    StepAssertions.assert_step_failed_permanently(ordinaut_db, branch_b)
    StepAssertions.assert_step_blocked(ordinaut_db, convergence)
    TaskAssertions.assert_task_step_distribution(
        ordinaut_db,
        diamond,
        TaskStepDistribution(
            total_steps=4,
            completed_steps=2,
            failed_steps=1,
            ready_steps=0,
            pending_steps=1,
            in_progress_steps=0,
            error_steps=1,
        ),
    )
    TaskAssertions.assert_task_execution_status(
        ordinaut_db, diamond, ExecutionStatus.BlockedByFailures, RecommendedAction.HandleFailures
    )
    TaskAssertions.assert_task_completion_percentage(ordinaut_db, diamond, 50.0, 0.1)
    assert execution_context(ordinaut_db, diamond)["blocked_by_errors"] is True


def test_a_join_waits_for_all_of_its_parents(
    kit: Kit, ordinaut_db: Database, diamond: Task
) -> None:
    """AC-68"""
    start, branch_a, branch_b, convergence = kit.get_task_steps(diamond)
    assert parents(ordinaut_db, convergence) == (False, 2, 0)
    kit.execute_step(start)
    assert ready(ordinaut_db, diamond) == {"branch_a", "branch_b"}

    StepErrorSimulator.simulate_validation_error(ordinaut_db, branch_b)
    kit.execute_step(branch_a)

    assert parents(ordinaut_db, convergence) == (False, 2, 1)
    StepAssertions.assert_step_dependencies_satisfied(ordinaut_db, convergence, False)
    StepAssertions.assert_step_blocked(ordinaut_db, convergence)


def test_an_early_failure_blocks_everything_after_it(
    kit: Kit, ordinaut_db: Database, diamond: Task
) -> None:
    """AC-70"""
    start, *descendants = kit.get_task_steps(diamond)

    StepErrorSimulator.simulate_execution_error(ordinaut_db, start, 3)

    context = execution_context(ordinaut_db, diamond)
    assert (context["completed_steps"], context["ready_steps"]) == (0, 0)
    for step in descendants:
        StepAssertions.assert_step_blocked(ordinaut_db, step)
    assert kit.evaluate(start) == "failed"
    assert [s.state for s in kit.get_task_steps(diamond)] == ["error"] + 3 * ["cancelled"]
    for step in descendants:
        StepAssertions.assert_step_blocked(ordinaut_db, step)


def test_both_branches_fail(kit: Kit, ordinaut_db: Database, diamond: Task) -> None:
    """AC-71"""
    start, branch_a, branch_b, convergence = kit.get_task_steps(diamond)
    kit.execute_step(start)

    StepErrorSimulator.simulate_validation_error(ordinaut_db, branch_a)
    StepErrorSimulator.simulate_validation_error(ordinaut_db, branch_b)

    context = execution_context(ordinaut_db, diamond)
    assert (context["error_steps"], context["completed_steps"]) == (2, 1)
    assert parents(ordinaut_db, convergence) == (False, 2, 0)
    TaskAssertions.assert_task_error(ordinaut_db, diamond, 2)


def test_a_passing_failure_delays_the_join_and_no_more(
    kit: Kit, ordinaut_db: Database, diamond: Task
) -> None:
    """AC-72"""
    start, branch_a, branch_b, convergence = kit.get_task_steps(diamond)
    kit.execute_step(start)
    kit.execute_step(branch_a)
    StepErrorSimulator.simulate_execution_error(ordinaut_db, branch_b, 2)
    StepAssertions.assert_step_waiting(ordinaut_db, branch_b)
    TaskAssertions.assert_task_execution_status(
        ordinaut_db, diamond, ExecutionStatus.WaitingForRetry, RecommendedAction.WaitForRetry
    )

    kit.execute_step(branch_b)

    StepAssertions.assert_step_ready(ordinaut_db, convergence)
    kit.execute_step(convergence)
    TaskAssertions.assert_task_complete(ordinaut_db, diamond)
    TaskAssertions.assert_task_completion_percentage(ordinaut_db, diamond, 100.0)


@pytest.mark.parametrize("shape", [MIXED, TREE], ids=["mixed", "tree"])
def test_readiness_after_each_step(
    shape: dict[str, list[str]], kit: Kit, ordinaut_db: Database
) -> None:
    """AC-73: exactly those are ready whose needs have all been met; the last one is the last."""
    task = workflow(kit, shape)
    done: set[str] = set()
    while len(done) < len(shape):
        wanted = {name for name, needs in shape.items() if done >= set(needs)} - done
        assert ready(ordinaut_db, task) == wanted
        name = max(wanted)
        kit.execute_step(kit.step(task, name))
        done.add(name)

    TaskAssertions.assert_task_complete(ordinaut_db, task)
    last = kit.get_task_steps(task)[-1]
    assert parents(ordinaut_db, last) == (True, len(last.needs), len(last.needs))


def test_levels_of_workflows(kit: Kit, ordinaut_db: Database) -> None:
    """AC-73: levels 0 to 3."""
    for shape, n in ((MIXED, 7), (TREE, 8)):
        pipeline = [{"id": name, "uses": "echo", "needs": needs} for name, needs in shape.items()]
        task = kit.create_task(f"ns{n}", "levels", pipeline)
        levels = ordinaut_db.rows(
            "select p.name, p.level from ordinaut.pipeline_step as p"
            " join ordinaut.task_run as r on r.pipeline_id = p.pipeline_id where r.run_id = %s",
            task.task_uuid,
        )
        assert len(levels) == n
        assert {row.level for row in levels} == {0, 1, 2, 3}


def test_one_step_of_several_counts_parents_outside_of_the_question(
    kit: Kit, ordinaut_db: Database, diamond: Task
) -> None:
    """AC-83"""
    start, branch_a, _, convergence = kit.get_task_steps(diamond)
    kit.execute_step(start)
    kit.execute_step(branch_a)

    [row] = ordinaut_db.rows(
        "select * from ordinaut.get_step_readiness_status(%s, %s)",
        diamond.task_uuid, [convergence.workflow_step_uuid],
    )  # fmt: skip

    assert (row.dependencies_satisfied, row.total_parents, row.completed_parents) == (False, 2, 1)


def test_a_scenario_is_built_run_and_checked(ordinaut_db: Database) -> None:
    scenario = (
        TestScenarioBuilder(ordinaut_db, "shop", "checkout")
        .with_step("reserve")
        .with_step("pay", needs=["reserve"], retry_count=5)
        .with_step("ship", needs=["pay"])
        .with_error("pay", StepErrorConfig("ExternalServiceError", 3, 30))
        .with_error("ship", StepErrorConfig("ValidationError", permanently_fails=True))
        .expect_complete("reserve", "pay")
        .expect_failed("ship")
    )

    summary = scenario.run()

    assert (summary.final_state, summary.retried_steps, summary.failed_steps) == ("Error", 1, 1)
    assert summary.sql_validations_failed == 0


def test_a_scenario_whose_expectation_is_wrong_fails(ordinaut_db: Database) -> None:
    scenario = TestScenarioBuilder(ordinaut_db).with_step("only").expect_failed("only")

    with pytest.raises(AssertionError, match="expected Error, found Complete"):
        scenario.run()


def test_a_scenario_knows_its_steps(ordinaut_db: Database) -> None:
    scenario = TestScenarioBuilder(ordinaut_db).with_step("only")

    with pytest.raises(ValueError, match="there is no step onyl, only only"):
        scenario.with_error("onyl", StepErrorConfig()).run()
