"""Every template under every error pattern, step by step and with its own tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ordinaut import calls
from ordinaut.errors import NotFound
from ordinaut.testing import (
    Clock,
    Database,
    ErrorPattern,
    StepErrorConfig,
    TemplateTestRunner,
    TestOrchestrator,
    WorkRunner,
    create_mathematical_test_context,
    create_test_task_request,
)

STEPS = {
    "linear_workflow.yaml": 4,
    "mathematical_sequence.yaml": 4,
    "diamond.yaml": 4,
    "tree.yaml": 8,
    "mixed_dag.yaml": 7,
    "order_fulfillment.yaml": 6,
    "conditional_approval.yaml": 4,
    "batch.yaml": 3,
}


@pytest.fixture
def runner(ordinaut_db: Database, templates: Path) -> TemplateTestRunner:
    return TemplateTestRunner(ordinaut_db, templates)


def test_all_templates_are_here(templates: Path) -> None:
    assert {path.name for path in templates.glob("*.yaml")} == set(STEPS)


@pytest.mark.slow
@pytest.mark.parametrize("template", STEPS)
def test_every_pattern_on_every_template(template: str, runner: TemplateTestRunner) -> None:
    """AC-81"""
    summaries = runner.run_template_with_all_patterns(template)

    assert len(summaries) == 8
    assert [s.validation_failures for s in summaries] == [[]] * 8
    assert all(s.sql_validations_passed > 0 for s in summaries)
    assert {s.total_steps for s in summaries if s.final_state == "Complete"} == {STEPS[template]}
    ends = {s.error_pattern: s.final_state for s in summaries}
    assert ends["AllSuccess()"] == ends["FirstStepFails(retryable=True)"] == "Complete"
    assert ends["FirstStepFails(retryable=False)"] == ends["LastStepFails(permanently=True)"]
    assert ends["LastStepFails(permanently=True)"] == "Error"


def test_the_counts_of_the_linear_workflow(runner: TemplateTestRunner) -> None:
    """AC-81: three validations per step, and three for the one that was retried."""
    smooth = runner.run_template_with_errors("linear_workflow.yaml", ErrorPattern.AllSuccess)
    bumpy = runner.run_template_with_errors(
        "linear_workflow.yaml", ErrorPattern.FirstStepFails(retryable=True)
    )

    def counts(s: Any) -> tuple[Any, ...]:
        return s.sql_validations_passed, s.successful_steps, s.failed_steps, s.retried_steps

    assert counts(smooth) == (12, 4, 0, 0)
    assert counts(bumpy) == (15, 4, 0, 1)
    for summary in (smooth, bumpy):
        assert (summary.final_state, summary.sql_validations_failed) == ("Complete", 0)
        assert summary.success_rate == 100.0
        assert summary.execution_time_ms > 0


def test_patterns_name_steps_of_the_template(runner: TemplateTestRunner) -> None:
    summary = runner.run_template_with_errors(
        "order_fulfillment.yaml",
        ErrorPattern.Custom(
            {
                "validate_payment": StepErrorConfig("ExecutionError", attempts_before_success=2),
                "process_payment": StepErrorConfig("ExternalServiceError", 2, 120),
                "critical_step": StepErrorConfig("ValidationError", permanently_fails=True),
            }
        ),
    )
    assert (summary.retried_steps, summary.failed_steps, summary.final_state) == (2, 1, "Error")
    assert summary.validation_failures == []

    blocked = ErrorPattern.DependencyBlockage("finalize_order", "process_payment")
    summary = runner.run_template_with_errors("order_fulfillment.yaml", blocked)
    assert (summary.successful_steps, summary.failed_steps) == (4, 1)  # one of them a rollback

    with pytest.raises(ValueError, match="there is no step pay, only initialize, "):
        runner.run_template_with_errors("linear_workflow.yaml", ErrorPattern.MiddleStepFails("pay"))


def test_a_missing_template_says_so(runner: TemplateTestRunner) -> None:
    """AC-82"""
    with pytest.raises(FileNotFoundError) as missing:
        runner.run_template_with_errors("nonexistent.yaml", ErrorPattern.AllSuccess)
    assert str(missing.value) == "Template 'nonexistent.yaml' not found"


@pytest.mark.parametrize(
    ("template", "context", "power"),
    [
        ("mathematical_sequence.yaml", create_mathematical_test_context(6), 16),
        ("diamond.yaml", create_mathematical_test_context(6), 16),
        ("tree.yaml", create_mathematical_test_context(6), 32),
        ("mixed_dag.yaml", create_mathematical_test_context(6), 64),
    ],
)
def test_mathematics_with_real_tools(
    template: str,
    context: dict[str, int],
    power: int,
    ordinaut_db: Database,
    ordinaut_worker: WorkRunner,
    templates: Path,
) -> None:
    kit = TestOrchestrator(ordinaut_db, templates)
    [definition] = kit.apply_template(template)

    run = ordinaut_worker.execute_task(definition.full_name, context)

    assert run.state == "success", run.error
    assert kit.get_task_steps(run.run_id)[-1].output == 6**power


def test_an_order_that_cannot_be_shipped_is_undone(
    ordinaut_db: Database, ordinaut_worker: WorkRunner, templates: Path
) -> None:
    kit = TestOrchestrator(ordinaut_db, templates)
    kit.apply_template("order_fulfillment.yaml")
    order = {"id": 1, "amount": 5, "card": "4242", "items": [{"sku": "a"}]}

    run = ordinaut_worker.execute_task("order_fulfillment/order_fulfillment", {"order": order})
    assert (run.state, run.output["result"]["status"]) == ("success", "shipped")
    unpaid = {"order": {**order, "card": None}}
    run = ordinaut_worker.execute_task("order_fulfillment/order_fulfillment", unpaid)
    assert run.state == "failed"
    assert "an order is paid by card" in run.error["message"]


def test_a_small_amount_needs_nobody(
    ordinaut_db: Database, ordinaut_worker: WorkRunner, templates: Path
) -> None:
    kit = TestOrchestrator(ordinaut_db, templates)
    kit.apply_template("conditional_approval.yaml")

    run = ordinaut_worker.execute_task("conditional_approval/conditional_approval")

    assert run.state == "success", run.error
    states = {step.name: step.state for step in kit.get_task_steps(run.run_id)}
    assert (states["auto_approve"], states["manager_approval"]) == ("complete", "skipped")


def test_a_large_amount_waits_for_an_answer_and_for_no_longer_than_a_day(
    ordinaut_db: Database, ordinaut_clock: Clock, templates: Path
) -> None:
    kit = TestOrchestrator(ordinaut_db, templates)
    task = kit.create_task_from_template("conditional_approval.yaml", {"amount": 5000})
    ordinaut_clock.settle()
    approval = kit.step(task, "manager_approval")
    assert (approval.state, approval.wait["kind"]) == ("in_progress", "approval")
    assert ordinaut_clock.worker.drain() == 0

    at = ordinaut_clock.now
    asked = ordinaut_clock.advance_to_next_event()

    assert asked is not None and 23 < (asked - at).total_seconds() / 3600 <= 24
    assert calls.get_run(ordinaut_db.conn, task.task_uuid).state == "failed"


def test_a_batch_squares_its_numbers(
    ordinaut_db: Database, ordinaut_worker: WorkRunner, templates: Path
) -> None:
    kit = TestOrchestrator(ordinaut_db, templates)
    kit.apply_template("batch.yaml")

    run = ordinaut_worker.execute_task("batch/batch", {"numbers": [2, 3, 4]})

    assert run.state == "success", run.error
    assert run.output["squares"] == [4, 9, 16]
    assert run.output["result"] == 4 * 9 * 16


def test_a_request_names_namespace_name_and_version(ordinaut_db: Database, templates: Path) -> None:
    kit = TestOrchestrator(ordinaut_db, templates)
    kit.apply_template("mathematical_sequence.yaml")
    of = ("linear_workflow", "mathematical_sequence")

    task = kit.create_task_from_request(
        create_test_task_request(*of, "1.0.0", create_mathematical_test_context(6), "a reason")
    )

    assert (task.namespace, task.name, task.version) == (*of, "1.0.0")
    assert len(kit.get_task_steps(task)) == 4
    with pytest.raises(NotFound, match=r"has no version 2\.0\.0, only 1\.0\.0"):
        kit.create_task_from_request(create_test_task_request(*of, "2.0.0"))
    with pytest.raises(NotFound):
        kit.create_task_from_request(create_test_task_request("linear_workflow", "nothing"))
    with pytest.raises(ValueError, match="an even number, not 7"):
        create_mathematical_test_context(7)
