"""
Whole lifecycles: a workflow is driven to its end, and SQL is asked after every move.

Each step that is executed is validated three times: it is ready, what it needs has ended well, and
it is complete afterwards.  One that fails on the way is validated three times more.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ordinaut import calls
from ordinaut.testing.assertions import (
    ExpectedStepState,
    SqlLifecycleAssertion,
    StepAssertions,
    TaskAssertions,
)
from ordinaut.testing.database import Database, Pool
from ordinaut.testing.orchestrator import TestOrchestrator
from ordinaut.testing.patterns import AllSuccess, Custom, ErrorPattern, Pattern
from ordinaut.testing.simulator import StepErrorConfig, StepErrorSimulator
from ordinaut.testing.steps import Step, Task, get_step, get_task_steps, pascal

log = logging.getLogger(__name__)

_TURNS = 10_000
_WORDS = {"success": "Complete", "failed": "Error"}


@dataclass
class Validations:
    """Counts what was asserted; a failure is kept, and the lifecycle goes on."""

    passed: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def failed(self) -> int:
        return len(self.failures)

    def check(self, assertion: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        """Make an assertion and count it."""
        try:
            assertion(*args, **kwargs)
        except AssertionError as exc:
            self.failures.append(str(exc))
            log.warning("validation failed", extra={"reason": str(exc)})
        else:
            self.passed += 1


@dataclass(frozen=True, slots=True)
class TemplateTestSummary:
    """What one run of a template came to."""

    template: str
    error_pattern: str
    task: Task
    sql_validations_passed: int
    sql_validations_failed: int
    validation_failures: list[str]
    execution_time_ms: int
    total_steps: int
    successful_steps: int
    failed_steps: int
    retried_steps: int
    final_state: str

    @property
    def success_rate(self) -> float:
        """Of validations, in percent."""
        total = self.sql_validations_passed + self.sql_validations_failed
        return 100.0 * self.sql_validations_passed / total if total else 0.0


class Lifecycle:
    """Drives one run to its end."""

    def __init__(self, orchestrator: TestOrchestrator, task: Task, pattern: Pattern) -> None:
        self._orchestrator = orchestrator
        self._db = orchestrator.db
        self._task = task
        self._pattern = pattern
        self._configs = pattern.configs(get_task_steps(self._db, task))
        self._retried: set[str] = set()
        self.validations = Validations()

    def run(self, template: str = "") -> TemplateTestSummary:
        """Execute every step that becomes ready, until none is, and sum up."""
        begun = time.perf_counter()
        for _ in range(_TURNS):
            steps = get_task_steps(self._db, self._task)
            step = next((s for s in steps if s.state in ("ready", "waiting_for_retry")), None)
            if step is None:
                break
            self._execute(step)
        else:
            raise AssertionError(f"Task {self._task.task_uuid} never ends")
        self._check_blocked(steps)
        run = calls.get_run(self._db.conn, self._task.task_uuid)
        summary = TemplateTestSummary(
            template=template,
            error_pattern=str(self._pattern),
            task=self._task,
            sql_validations_passed=self.validations.passed,
            sql_validations_failed=self.validations.failed,
            validation_failures=self.validations.failures,
            execution_time_ms=round(1000 * (time.perf_counter() - begun)),
            total_steps=len(steps),
            successful_steps=sum(s.state == "complete" for s in steps),
            failed_steps=sum(s.state == "error" for s in steps),
            retried_steps=len(self._retried),
            final_state=_WORDS.get(run.state, pascal(run.state)),
        )
        log.info(
            "lifecycle ended",
            extra={
                "lifecycle_action": "run_template",
                "template": template,
                "task_uuid": str(self._task.task_uuid),
                "error_pattern": summary.error_pattern,
                "sql_result": summary.final_state,
                "validations_passed": summary.sql_validations_passed,
                "validations_failed": summary.sql_validations_failed,
                "execution_time_ms": summary.execution_time_ms,
            },
        )
        return summary

    def _execute(self, step: Step) -> None:
        check = self.validations.check
        check(StepAssertions.assert_step_ready, self._db, step)
        check(StepAssertions.assert_step_dependencies_satisfied, self._db, step, True)
        config = self._configs.get(step.name)
        if config is not None and not self._fail(step, config):
            return
        self._orchestrator.execute_step(step)
        check(StepAssertions.assert_step_complete, self._db, step)

    def _fail(self, step: Step, config: StepErrorConfig) -> bool:
        """Make a step fail as often as it shall; say whether it may go on."""
        check, db = self.validations.check, self._db
        is_final = config.permanently_fails or not config.retryable
        wanted = 1 if config.attempts_before_success is None else config.attempts_before_success
        times = 1 if is_final else min(wanted, step.retry_limit)
        is_final = is_final or times == step.retry_limit
        for _ in range(times):
            StepErrorSimulator.simulate(db, step, config)
        failed = get_step(db, step)
        backoff = config.custom_backoff_seconds
        check(
            StepAssertions.assert_step_retry_behavior, db, step, failed.attempts, backoff,
            not is_final,
        )  # fmt: skip
        if is_final:
            check(StepAssertions.assert_step_failed_permanently, db, step)
            check(TaskAssertions.assert_task_error, db, self._task, self._errors())
            self._orchestrator.evaluate(step)
            return False
        self._retried.add(step.name)
        check(StepAssertions.assert_step_state_sequence, db, step, ["in_progress", "error"])
        check(StepAssertions.assert_step_waiting, db, step, failed.next_retry_at)
        return True

    def _errors(self) -> int:
        return sum(s.state == "error" for s in get_task_steps(self._db, self._task))

    def _check_blocked(self, steps: Sequence[Step]) -> None:
        if self._pattern.blocked is not None:
            [blocked] = [step for step in steps if step.name == self._pattern.blocked]
            self.validations.check(StepAssertions.assert_step_blocked, self._db, blocked)


class TemplateTestRunner:
    """Runs templates under error patterns; every run of one is a new run of its task.

    Args:
        pool: a Database, a DSN, a connection or a pool of them.
        templates: where templates are; None: tests/fixtures/task_templates.
    """

    __test__ = False

    def __init__(self, pool: Pool, templates: Path | str | None = None) -> None:
        self._orchestrator = TestOrchestrator(pool, templates)

    def run_template_with_errors(
        self,
        template_file: str | Path,
        pattern: Pattern | type[AllSuccess],
        context: calls.Json = None,
    ) -> TemplateTestSummary:
        """Run a template to its end while its steps fail as `pattern` says.

        Raises:
            TemplateNotFound: there is no such file.
            ValueError: the pattern names a step that the template has not.
        """
        task = self._orchestrator.create_task_from_template(template_file, context)
        chosen = pattern() if isinstance(pattern, type) else pattern
        return Lifecycle(self._orchestrator, task, chosen).run(str(template_file))

    def run_template_with_all_patterns(
        self, template_file: str | Path, context: calls.Json = None
    ) -> list[TemplateTestSummary]:
        """Run a template once per pattern that it can show, and return a summary of each."""
        task = self._orchestrator.create_task_from_template(template_file, context)
        patterns = ErrorPattern.all_for(self._orchestrator.get_task_steps(task))
        first = Lifecycle(self._orchestrator, task, patterns[0]).run(str(template_file))
        return [
            first,
            *(self.run_template_with_errors(template_file, p, context) for p in patterns[1:]),
        ]


class TestScenarioBuilder:
    """A workflow, what goes wrong in it, and what shall have become of it.

    scenario = (
        TestScenarioBuilder(ordinaut_db, "shop", "checkout")
        .with_step("reserve")
        .with_step("pay", needs=["reserve"], retry_count=5)
        .with_error("pay", StepErrorConfig("ExternalServiceError", 2, 30))
        .expect_complete("pay")
    )
    scenario.run()
    """

    __test__ = False

    def __init__(self, pool: Pool, namespace: str = "test", name: str = "scenario") -> None:
        self._orchestrator = TestOrchestrator(pool)
        self._name = (namespace, name)
        self._pipeline: list[dict[str, Any]] = []
        self._configs: dict[str, StepErrorConfig] = {}
        self._expected: list[tuple[str, Callable[..., None], tuple[Any, ...]]] = []
        self._context: calls.Json = None

    @property
    def db(self) -> Database:
        return self._orchestrator.db

    def with_context(self, context: calls.Json) -> TestScenarioBuilder:
        """Give the run its parameters."""
        self._context = context
        return self

    def with_step(self, name: str, uses: str = "echo", **definition: Any) -> TestScenarioBuilder:
        """Add a step; `definition` is what a manifest would say of it."""
        self._pipeline.append({"id": name, "uses": uses, **definition})
        return self

    def with_error(self, step: str, config: StepErrorConfig) -> TestScenarioBuilder:
        """Make a step fail."""
        self._configs[step] = config
        return self

    def with_errors(self, configs: Mapping[str, StepErrorConfig]) -> TestScenarioBuilder:
        """Make several steps fail."""
        self._configs |= configs
        return self

    def expect(self, step: str, state: ExpectedStepState) -> TestScenarioBuilder:
        """Assert at the end that a step is in every respect as expected."""
        self._expected.append((step, SqlLifecycleAssertion.assert_step_scenario, (state,)))
        return self

    def expect_complete(self, *steps: str) -> TestScenarioBuilder:
        """Assert at the end that these steps have succeeded."""
        self._expected += [(step, StepAssertions.assert_step_complete, ()) for step in steps]
        return self

    def expect_failed(self, *steps: str) -> TestScenarioBuilder:
        """Assert at the end that these steps have failed for good."""
        self._expected += [
            (step, StepAssertions.assert_step_failed_permanently, ()) for step in steps
        ]
        return self

    def expect_blocked(self, *steps: str) -> TestScenarioBuilder:
        """Assert at the end that these steps never started, because others failed."""
        self._expected += [(step, StepAssertions.assert_step_blocked, ()) for step in steps]
        return self

    def run(self) -> TemplateTestSummary:
        """Start the workflow, drive it to its end, and assert what was expected.

        Raises:
            AssertionError: something is not as expected; the first such thing.
        """
        task = self._orchestrator.create_task(*self._name, self._pipeline, self._context)
        summary = Lifecycle(self._orchestrator, task, Custom(self._configs)).run(self._name[1])
        if summary.validation_failures:
            raise AssertionError(summary.validation_failures[0])
        for name, assertion, args in self._expected:
            step = self._orchestrator.step(task, name)
            if assertion is SqlLifecycleAssertion.assert_step_scenario:
                assertion(self.db, task, step, *args)
            else:
                assertion(self.db, step, *args)
        return summary
