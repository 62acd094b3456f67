"""
Failures to order: a step fails as its tool would have failed, through the engine's own functions.

A failure is two transitions: the attempt fails (`error`), and what follows is decided
(`waiting_for_retry`, or the run fails).  A worker makes both in one transaction; the simulator
makes the first alone, so that a test can look between them.  The next attempt, the orchestrator
and `StepAssertions.assert_step_waiting` make the second.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from ordinaut.testing.database import Database, Pool, opened
from ordinaut.testing.environment import require_test
from ordinaut.testing.steps import Step, StepLike, get_step, pascal, readiness

log = logging.getLogger(__name__)

_HELD = "1 hour"
# What each type of error is, in the engine's words: category, code, retryable.
ERROR_TYPES = {
    "ExecutionError": ("internal", "E5002", True),
    "ExternalServiceError": ("external_service", "E4004", True),
    "TimeoutError": ("timeout", "E6001", True),
    "ValidationError": ("validation", "E2002", False),
    "PermissionError": ("permission", "E8001", False),
}


@dataclass(frozen=True, slots=True)
class StepErrorConfig:
    """How a step misbehaves.

    Attributes:
        error_type: one of ERROR_TYPES.
        attempts_before_success: so many attempts fail first; None: one, or all that there are.
        custom_backoff_seconds: the delay that each failure asks for; None: the policy's.
        permanently_fails: it never succeeds.
    """

    error_type: str = "ExecutionError"
    attempts_before_success: int | None = None
    custom_backoff_seconds: int | None = None
    permanently_fails: bool = False

    def __post_init__(self) -> None:
        if self.error_type not in ERROR_TYPES:
            raise ValueError(f"error_type {self.error_type!r} is none of {', '.join(ERROR_TYPES)}")

    @property
    def retryable(self) -> bool:
        return ERROR_TYPES[self.error_type][2]


class StepErrorSimulator:
    """Makes steps fail."""

    @staticmethod
    def simulate_execution_error(
        pool: Pool,
        step: StepLike,
        attempt_number: int = 1,
        custom_backoff_seconds: int | None = None,
    ) -> Step:
        """Fail with a retryable error until `attempts` is attempt_number; return the step.

        Raises:
            AssertionError: the step cannot fail so often any more.
        """
        error = StepErrorConfig("ExecutionError", custom_backoff_seconds=custom_backoff_seconds)
        return _fail_until(pool, step, attempt_number, error, "the simulated execution failed")

    @staticmethod
    def simulate_external_service_error(
        pool: Pool,
        step: StepLike,
        attempt_number: int = 1,
        custom_backoff_seconds: int | None = None,
    ) -> Step:
        """As simulate_execution_error, of a service that asks for a delay of its own."""
        kind = "ExternalServiceError"
        error = StepErrorConfig(kind, custom_backoff_seconds=custom_backoff_seconds)
        return _fail_until(pool, step, attempt_number, error, "the simulated service is down")

    @staticmethod
    def simulate_validation_error(
        pool: Pool, step: StepLike, message: str = "the simulated input is invalid"
    ) -> Step:
        """Fail the next attempt for good; return the step."""
        attempt = get_step(pool, step).attempts + 1
        return _fail_until(pool, step, attempt, StepErrorConfig("ValidationError"), message)

    @staticmethod
    def simulate(pool: Pool, step: StepLike, config: StepErrorConfig, message: str = "") -> Step:
        """Fail the next attempt as `config` says; return the step."""
        attempt = get_step(pool, step).attempts + 1
        return _fail_until(pool, step, attempt, config, message or "a simulated failure")


def lease_step(database: Database, step: StepLike) -> UUID:
    """Borrow exactly this step, whenever it would run, and return the lease.

    An error that nobody has evaluated is evaluated first.

    Raises:
        AssertionError: it is neither ready nor waiting for a retry.
    """
    require_test()
    found = get_step(database, step)
    if found.state == "error":
        evaluate(database, step)
        found = get_step(database, step)
    if found.state not in ("ready", "waiting_for_retry"):
        raise AssertionError(
            f"Step {found.workflow_step_uuid} ({found.name}) cannot be executed:"
            f" expected Ready, found {pascal(found.state)}"
        )
    lease: UUID = database.one(
        "select ordinaut._lease_step(%s, 'ordinaut.testing', %s::interval)",
        found.workflow_step_uuid, _HELD,
    )  # fmt: skip
    return lease


def evaluate(database: Database, step: StepLike) -> str:
    """Let the engine decide what follows from a failed attempt: retry or failed."""
    decided: str = database.one(
        "select ordinaut.evaluate_step_failure(%s)", get_step(database, step).workflow_step_uuid
    )
    return decided


def fail_leased(
    database: Database, lease_id: UUID, step: StepLike, config: StepErrorConfig, message: str
) -> None:
    """End a leased attempt with an error, and leave it at that."""
    category, code, retryable = ERROR_TYPES[config.error_type]
    error: dict[str, Any] = {
        "message": message,
        "type": config.error_type,
        "category": category,
        "code": code,
        "retryable": retryable and not config.permanently_fails,
        "retry_after": config.custom_backoff_seconds,
        "traceback": None,
    }
    found = get_step(database, step)
    database.conn.execute(
        "select ordinaut._fail_unevaluated(%s, %s, %s)",
        [lease_id, found.workflow_step_uuid, Jsonb(error)],
    )
    status = readiness(database, step)
    log.info(
        "step failed",
        extra={
            "lifecycle_action": "fail_step",
            "step_uuid": str(found.workflow_step_uuid),
            "step": found.name,
            "error_type": config.error_type,
            "retryable": error["retryable"],
            "attempts": status["attempts"],
            "backoff": status["backoff_request_seconds"],
            "retry_eligible": status["retry_eligible"],
        },
    )


def _fail_until(
    pool: Pool, step: StepLike, attempt: int, config: StepErrorConfig, message: str
) -> Step:
    with opened(pool) as database:
        found = get_step(database, step)
        if found.attempts >= attempt:
            raise AssertionError(
                f"Step {found.workflow_step_uuid} ({found.name}) has made {found.attempts}"
                f" attempts already, and attempt {attempt} was to fail"
            )
        for _ in range(found.attempts, attempt):
            lease_id = lease_step(database, step)
            fail_leased(database, lease_id, step, config, message)
        return get_step(database, step)
