"""Every assertion of the kit can fail, and says why; and it takes whatever leads to a database."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from ordinaut.errors import ConfigurationError
from ordinaut.testing import (
    Clock,
    Database,
    ExecutionStatus,
    ExpectedStepState,
    SqlLifecycleAssertion,
    StepAssertions,
    StepErrorConfig,
    StepErrorSimulator,
    TaskAssertions,
    TaskStepDistribution,
    TestOrchestrator,
    get_first_step,
    get_step,
    get_task_steps,
)

Kit = TestOrchestrator
FAILED = ExpectedStepState("error", False, True, True, 1, True, 30)


class Pool:
    """What psycopg_pool's looks like from outside."""

    def __init__(self, conninfo: str) -> None:
        self.conninfo = conninfo


@pytest.fixture
def failed(kit: Kit, ordinaut_db: Database, ordinaut_clock: Clock) -> Any:
    """The first of two steps has failed once, and asks for 30 seconds."""
    ordinaut_clock.travel_to("2026-11-21T08:00:00Z")
    pipeline = [{"id": "first", "uses": "echo"}, {"id": "second", "uses": "echo"}]
    task = kit.create_task("test", "assertions", pipeline)
    return StepErrorSimulator.simulate_external_service_error(
        ordinaut_db, get_first_step(ordinaut_db, task), 1, 30
    )


step = StepAssertions
run = TaskAssertions
WRONG: dict[str, tuple[Callable[..., None], tuple[Any, ...]]] = {
    "expected Ready, found Error": (step.assert_step_ready, ()),
    "expected Complete, found Error": (step.assert_step_complete, ()),
    "expected Blocked, found Error": (step.assert_step_blocked, ()),
    "attempts expected 2, got 1": (step.assert_step_retry_behavior, (2, 30, True)),
    "backoff_request_seconds expected None, got 30": (
        step.assert_step_retry_behavior, (1, None, True)
    ),
    "retry_eligible expected False, got True": (step.assert_step_retry_behavior, (1, 30, False)),
    "dependencies_satisfied expected False, got True": (
        step.assert_step_dependencies_satisfied, (False,)
    ),
    "expected Error, Pending, found Pending, InProgress, Error": (
        step.assert_step_state_sequence, (["Error", "Pending"],)
    ),
    "retry assertion failed: retry_eligible expected False": (
        step.assert_step_failed_permanently, ()
    ),
    "next_retry_at expected 2026-11-21 08:00:32": (
        step.assert_step_waiting, (datetime(2026, 11, 21, 8, 0, 32, tzinfo=UTC),)
    ),
}  # fmt: skip
WRONG_RUN: dict[str, tuple[Callable[..., None], tuple[Any, ...]]] = {
    "expected Complete, found WaitingForRetry": (run.assert_task_complete, ()),
    "expected Error, found WaitingForRetry": (run.assert_task_error, (1,)),
    "pending_steps expected 0, got 1; error_steps expected 0, got 1": (
        run.assert_task_step_distribution, (TaskStepDistribution(2, 0, 0, 0, 0, 0, 0),)
    ),
    "expected Processing, found WaitingForRetry": (
        run.assert_task_execution_status, (ExecutionStatus.Processing,)
    ),
    "recommended_action expected HandleFailures, got WaitForRetry": (
        run.assert_task_execution_status, ("WaitingForRetry", "HandleFailures")
    ),
    "completion_percentage expected 50.0 ± 49.9, got 0.0": (
        run.assert_task_completion_percentage, (50.0, 49.9)
    ),
}  # fmt: skip


@pytest.mark.parametrize("said", WRONG)
def test_an_assertion_about_a_step_fails(said: str, failed: Any, ordinaut_db: Database) -> None:
    assertion, args = WRONG[said]
    with pytest.raises(AssertionError) as wrong:
        assertion(ordinaut_db, failed, *args)
    assert str(wrong.value).startswith(f"Step {failed.workflow_step_uuid} ")
    assert said in str(wrong.value)


@pytest.mark.parametrize("said", WRONG_RUN)
def test_an_assertion_about_a_task_fails(said: str, failed: Any, ordinaut_db: Database) -> None:
    assertion, args = WRONG_RUN[said]
    with pytest.raises(AssertionError) as wrong:
        assertion(ordinaut_db, failed.task_uuid, *args)
    assert str(wrong.value) == f"Task {failed.task_uuid} assertion failed: {said}"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"state": "InProgress"}, "state expected InProgress, got Error"),
        ({"ready_for_execution": True}, "ready_for_execution expected True, got False"),
        ({"dependencies_satisfied": False}, "dependencies_satisfied expected False, got True"),
        ({"retry_eligible": False}, "retry_eligible expected False, got True"),
        ({"attempts": 2}, "attempts expected 2, got 1"),
        ({"next_retry_at": None}, "next_retry_at expected None, got 2026-11-21"),
        ({"backoff_request_seconds": 31}, "backoff_request_seconds expected 31, got 30"),
        ({"retry_limit": 4}, "retry_limit expected 4, got 3"),
    ],
)
def test_a_scenario_compares_every_field(
    change: dict[str, Any], said: str, failed: Any, ordinaut_db: Database
) -> None:
    check = SqlLifecycleAssertion.assert_step_scenario
    check(ordinaut_db, failed.task_uuid, failed, FAILED)

    with pytest.raises(AssertionError, match=said):
        check(ordinaut_db, failed.task_uuid, failed, replace(FAILED, **change))


def test_blocked_needs_a_failure_above(kit: Kit, ordinaut_db: Database) -> None:
    start, *_, convergence = kit.get_task_steps(kit.create_diamond_workflow_task())
    with pytest.raises(AssertionError, match="nothing that it needs has failed"):
        StepAssertions.assert_step_blocked(ordinaut_db, convergence)
    with pytest.raises(AssertionError, match=r"found (Ready|Pending)|all that it needs"):
        StepAssertions.assert_step_blocked(ordinaut_db, start)
    StepErrorSimulator.simulate_validation_error(ordinaut_db, start)
    StepAssertions.assert_step_blocked(ordinaut_db, convergence)


def test_whatever_leads_to_a_database_will_do(failed: Any, ordinaut_db: Database) -> None:
    with psycopg.connect(ordinaut_db.dsn, autocommit=True) as conn:
        for pool in (ordinaut_db, ordinaut_db.dsn, conn, Pool(ordinaut_db.dsn)):
            StepAssertions.assert_step_retry_behavior(pool, failed, 1, 30, True)
            assert get_step(pool, str(failed.workflow_step_uuid)) == failed
            assert len(get_task_steps(pool, failed.task_uuid)) == 2
        assert not conn.closed
    with pytest.raises(TypeError, match="not a Database, a DSN, a connection or a pool"):
        get_step(42, failed)  # type: ignore[arg-type]


def test_an_orchestrator_on_a_dsn_follows_the_clock_of_the_database(
    ordinaut_db: Database, ordinaut_clock: Clock
) -> None:
    at = ordinaut_clock.travel_to("2030-01-01")
    kit = TestOrchestrator(ordinaut_db.dsn)
    task = kit.create_simple_task("test", "by_dsn")

    assert kit.execute_step(kit.get_first_step(task)).step.started_at == at
    kit.close()


def test_a_step_fails_no_more_often_than_it_can(failed: Any, ordinaut_db: Database) -> None:
    again = "has made 1 attempts already, and attempt 1 was to fail"
    with pytest.raises(AssertionError, match=again):
        StepErrorSimulator.simulate_execution_error(ordinaut_db, failed, 1)
    with pytest.raises(AssertionError, match="cannot be executed: expected Ready, found Error"):
        StepErrorSimulator.simulate_execution_error(ordinaut_db, failed, 4)
    with pytest.raises(ValueError, match="error_type 'Nonsense' is none of ExecutionError, "):
        StepErrorConfig("Nonsense")


def test_the_kit_refuses_what_is_no_test(
    ordinaut_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORDINAUT_ENV", "staging")
    with pytest.raises(ConfigurationError, match="ORDINAUT_ENV=staging"):
        TestOrchestrator(ordinaut_db)


def test_waiting_is_as_exact_as_the_clock(failed: Any, ordinaut_db: Database) -> None:
    at = ordinaut_db.now + timedelta(seconds=30)
    StepAssertions.assert_step_waiting(ordinaut_db, failed, at)
    StepAssertions.assert_step_waiting(ordinaut_db, failed, at)  # evaluated already
