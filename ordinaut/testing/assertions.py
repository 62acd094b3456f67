"""
What tests assert of workflows, and what they say when it is not so.

Every state may be written as the database writes it or as people do: in_progress, InProgress.
A step or a task is given as its object or its id.

    Step <id> retry assertion failed: attempts expected 2, got 1
    Task <id> assertion failed: expected Complete, found Processing
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from ordinaut.testing.database import Pool, opened
from ordinaut.testing.simulator import evaluate
from ordinaut.testing.steps import (
    StepLike,
    TaskLike,
    execution_context,
    get_step,
    get_task_steps,
    pascal,
    readiness,
    snake,
    state_sequence,
    step_id,
    task_id,
)

log = logging.getLogger(__name__)

_CLOSE = timedelta(seconds=1)  # how far two instants may be apart: they are drawn and computed
_DONE = {"complete": "all_complete"}


class ExecutionStatus(enum.StrEnum):
    """How a run as a whole stands."""

    HasReadySteps = "has_ready_steps"
    Processing = "processing"
    BlockedByFailures = "blocked_by_failures"
    AllComplete = "all_complete"
    WaitingForDependencies = "waiting_for_dependencies"
    WaitingForRetry = "waiting_for_retry"


class RecommendedAction(enum.StrEnum):
    """What an orchestrator or an operator should do about a run."""

    ExecuteReadySteps = "execute_ready_steps"
    WaitForCompletion = "wait_for_completion"
    HandleFailures = "handle_failures"
    FinalizeTask = "finalize_task"
    WaitForDependencies = "wait_for_dependencies"
    WaitForRetry = "wait_for_retry"


@dataclass(frozen=True, slots=True)
class ExpectedStepState:
    """All that a step's readiness says.

    Attributes:
        next_retry_at: an instant, give or take a second; True: there is one; None: there is none.
        backoff_request_seconds: the delay that the failure asked for; None: the policy's holds.
    """

    state: str
    ready_for_execution: bool
    dependencies_satisfied: bool
    retry_eligible: bool
    attempts: int
    next_retry_at: datetime | bool | None = None
    backoff_request_seconds: int | None = None
    retry_limit: int = 3


@dataclass(frozen=True, slots=True)
class TaskStepDistribution:
    """How many steps of a run are in which state."""

    total_steps: int
    completed_steps: int
    failed_steps: int
    ready_steps: int
    pending_steps: int
    in_progress_steps: int
    error_steps: int


class SqlLifecycleAssertion:
    """One assertion that compares all of a step's readiness."""

    @staticmethod
    def assert_step_scenario(
        pool: Pool, task_uuid: TaskLike, step_uuid: StepLike, expected: ExpectedStepState
    ) -> None:
        """Assert that the step belongs to the task, and is in every respect as expected."""
        step = get_step(pool, step_uuid)
        if step.task_uuid != task_id(task_uuid):
            raise _step_error(step_uuid, f"it belongs to task {step.task_uuid}")
        found = {**readiness(pool, step_uuid), "state": step.state, "retry_limit": step.retry_limit}
        wanted = {**asdict(expected), "state": snake(expected.state)}
        _compare(step_uuid, wanted, found)
        log.info(
            "step as expected",
            extra={
                "lifecycle_action": "assert_step_scenario",
                "step_uuid": str(step.workflow_step_uuid),
                "sql_result": {key: str(found[key]) for key in wanted},
            },
        )


class StepAssertions:
    """Assertions about one step."""

    @staticmethod
    def assert_step_ready(pool: Pool, step: StepLike) -> None:
        """It may be executed now."""
        if not readiness(pool, step)["ready_for_execution"]:
            raise _step_error(step, f"expected Ready, found {pascal(get_step(pool, step).state)}")

    @staticmethod
    def assert_step_complete(pool: Pool, step: StepLike) -> None:
        """It has succeeded."""
        _assert_state(pool, step, "complete")

    @staticmethod
    def assert_step_blocked(pool: Pool, step: StepLike) -> None:
        """It has not started and does not, because something that it needs has failed."""
        found = get_step(pool, step)
        if found.state not in ("pending", "cancelled"):
            raise _step_error(step, f"expected Blocked, found {pascal(found.state)}")
        if readiness(pool, step)["dependencies_satisfied"]:
            raise _step_error(step, "expected Blocked, but all that it needs has succeeded")
        by_name = {other.name: other for other in get_task_steps(pool, found.task_uuid)}
        above = list(found.needs)
        for name in above:
            above += [need for need in by_name[name].needs if need not in above]
        if not any(by_name[name].state == "error" for name in above):
            raise _step_error(step, "expected Blocked, but nothing that it needs has failed")

    @staticmethod
    def assert_step_retry_behavior(
        pool: Pool,
        step: StepLike,
        expected_attempts: int,
        custom_backoff: int | None = None,
        retry_eligible: bool = True,
    ) -> None:
        """It has made so many attempts, asks for this delay, and may or may not try again."""
        wanted = {
            "attempts": expected_attempts,
            "backoff_request_seconds": custom_backoff,
            "retry_eligible": retry_eligible,
        }
        _compare(step, wanted, readiness(pool, step), "retry assertion")

    @staticmethod
    def assert_step_dependencies_satisfied(
        pool: Pool, step: StepLike, satisfied: bool = True
    ) -> None:
        """All that it needs has ended well, or not."""
        _compare(step, {"dependencies_satisfied": satisfied}, readiness(pool, step))

    @staticmethod
    def assert_step_state_sequence(
        pool: Pool, step: StepLike, states: Sequence[str], *, strict: bool = False
    ) -> None:
        """It went through these states in this order.

        Args:
            strict: and through no others between them.
        """
        found = state_sequence(pool, step)
        wanted = [snake(state) for state in states]
        rest = iter(found)
        if found != wanted if strict else not all(state in rest for state in wanted):
            raise _step_error(
                step,
                f"expected {', '.join(map(pascal, wanted))}, found {', '.join(map(pascal, found))}",
                "state sequence assertion",
            )

    @staticmethod
    def assert_step_failed_permanently(pool: Pool, step: StepLike) -> None:
        """Its last attempt failed, and it is not tried again."""
        _assert_state(pool, step, "error")
        _compare(step, {"retry_eligible": False}, readiness(pool, step), "retry assertion")

    @staticmethod
    def assert_step_waiting(pool: Pool, step: StepLike, retry_time: datetime | None = None) -> None:
        """It waits to be tried again, at this time; a failure not yet evaluated is evaluated."""
        with opened(pool) as database:
            if get_step(database, step).state == "error":
                evaluate(database, step)
        _assert_state(pool, step, "waiting_for_retry")
        if retry_time is not None:
            wanted = {"next_retry_at": retry_time}
            _compare(step, wanted, readiness(pool, step), "retry assertion")


class TaskAssertions:
    """Assertions about a run as a whole."""

    __test__ = False

    @staticmethod
    def assert_task_complete(pool: Pool, task: TaskLike) -> None:
        """All of its steps have ended well."""
        context = execution_context(pool, task)
        if context["execution_status"] != "all_complete":
            raise _task_error(task, f"expected Complete, found {_status(context)}")

    @staticmethod
    def assert_task_error(pool: Pool, task: TaskLike, error_steps: int) -> None:
        """So many of its steps are in error, and it cannot go on by itself."""
        context = execution_context(pool, task)
        if not context["blocked_by_errors"]:
            raise _task_error(task, f"expected Error, found {_status(context)}")
        _compare_task(task, {"error_steps": error_steps}, context)

    @staticmethod
    def assert_task_step_distribution(
        pool: Pool, task: TaskLike, expected: TaskStepDistribution
    ) -> None:
        """Its steps are in these states."""
        _compare_task(task, asdict(expected), execution_context(pool, task))

    @staticmethod
    def assert_task_execution_status(
        pool: Pool,
        task: TaskLike,
        status: ExecutionStatus | str,
        action: RecommendedAction | str | None = None,
    ) -> None:
        """It stands so, and this is what should be done about it."""
        context = execution_context(pool, task)
        wanted = snake(_word(status))
        if context["execution_status"] != _DONE.get(wanted, wanted):
            raise _task_error(task, f"expected {pascal(wanted)}, found {_status(context)}")
        if action is not None and context["recommended_action"] != snake(_word(action)):
            raise _task_error(
                task,
                f"recommended_action expected {pascal(_word(action))},"
                f" got {pascal(context['recommended_action'])}",
            )

    @staticmethod
    def assert_task_completion_percentage(
        pool: Pool, task: TaskLike, expected: float, tolerance: float = 0.0
    ) -> None:
        """So much of it is complete, in percent."""
        found = float(execution_context(pool, task)["completion_percentage"])
        if abs(found - expected) > tolerance:
            raise _task_error(
                task, f"completion_percentage expected {expected} ± {tolerance}, got {found}"
            )


def _word(word: enum.Enum | str) -> str:
    return str(word.value) if isinstance(word, enum.Enum) else word


def _status(context: dict[str, Any]) -> str:
    status = pascal(context["execution_status"])
    return "Complete" if status == "AllComplete" else status


def _assert_state(pool: Pool, step: StepLike, state: str) -> None:
    found = get_step(pool, step).state
    if found != state:
        raise _step_error(step, f"expected {pascal(state)}, found {pascal(found)}")


def _compare(
    step: StepLike, wanted: dict[str, Any], found: dict[str, Any], what: str = "assertion"
) -> None:
    wrong = _differences(wanted, found)
    if wrong:
        raise _step_error(step, "; ".join(wrong), what)


def _compare_task(task: TaskLike, wanted: dict[str, Any], found: dict[str, Any]) -> None:
    wrong = _differences(wanted, found)
    if wrong:
        raise _task_error(task, "; ".join(wrong))


def _differences(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    return [
        f"{key} expected {_said(key, value)}, got {_said(key, found[key])}"
        for key, value in wanted.items()
        if not _is_equal(value, found[key])
    ]


def _is_equal(wanted: Any, found: Any) -> bool:
    if isinstance(found, datetime):
        return (
            wanted is True
            if isinstance(wanted, bool)
            else (isinstance(wanted, datetime) and abs(found - wanted) <= _CLOSE)
        )
    return bool(wanted == found)


def _said(key: str, value: Any) -> str:
    return pascal(value) if key == "state" else str(value)


def _step_error(step: StepLike, why: str, what: str = "assertion") -> AssertionError:
    found: UUID = step_id(step)
    return AssertionError(f"Step {found} {what} failed: {why}")


def _task_error(task: TaskLike, why: str) -> AssertionError:
    return AssertionError(f"Task {task_id(task)} assertion failed: {why}")
