"""
Drive workflows step by step, without workers: each step ends when the test says so, and how.

    task = orchestrator.create_simple_task("shop", "checkout")
    step = get_first_step(ordinaut_db, task.task_uuid)
    orchestrator.execute_step(step, True, 1000)
    StepAssertions.assert_step_complete(ordinaut_db, step)

State moves only through the engine's functions, and each of them is committed when it returns:
the next query sees it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ordinaut import calls, manifest
from ordinaut.apply import apply
from ordinaut.errors import NotFound
from ordinaut.testing import steps
from ordinaut.testing.database import Database, Pool, dsn_of
from ordinaut.testing.environment import require_test
from ordinaut.testing.simulator import StepErrorConfig, evaluate, fail_leased, lease_step
from ordinaut.testing.steps import Step, StepLike, Task, TaskLike

log = logging.getLogger(__name__)

TEMPLATES = Path("tests/fixtures/task_templates")
DIAMOND = [
    {"id": "start", "uses": "echo", "needs": []},
    {"id": "branch_a", "uses": "echo", "needs": ["start"]},
    {"id": "branch_b", "uses": "echo", "needs": ["start"]},
    {"id": "convergence", "uses": "echo", "needs": ["branch_a", "branch_b"]},
]


class TemplateNotFound(FileNotFoundError):
    """There is no file of this name where templates are."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """What became of an executed step."""

    success: bool
    step: Step
    duration_ms: int


@dataclass(frozen=True, slots=True)
class TaskRequest:
    """A task that is asked for by namespace, name and version."""

    namespace: str
    name: str
    version: str = "1.0.0"
    context: Any = None
    reason: str = ""


class TestOrchestrator:
    """Creates workflows and executes their steps.

    Args:
        pool: a Database, a DSN, a connection or a pool of them.
        templates: where templates are; None: tests/fixtures/task_templates.
    """

    __test__ = False

    def __init__(self, pool: Pool, templates: Path | str | None = None) -> None:
        require_test()
        self.db = pool if isinstance(pool, Database) else Database(dsn_of(pool))
        self.templates = TEMPLATES if templates is None else Path(templates)
        self._versions: dict[str, str] = {}

    def close(self) -> None:
        """Close what was opened here.  Idempotent."""
        self.db.close()

    # Tasks

    def create_simple_task(self, namespace: str, name: str) -> Task:
        """Start a workflow of one step."""
        return self.create_task(namespace, name, [{"id": "step_1", "uses": "echo"}])

    def create_diamond_workflow_task(
        self, namespace: str = "test", name: str = "diamond_workflow"
    ) -> Task:
        """Start a workflow of four: start, then branch_a and branch_b, then convergence."""
        return self.create_task(namespace, name, DIAMOND)

    def create_task(
        self,
        namespace: str,
        name: str,
        pipeline: Sequence[dict[str, Any]],
        context: calls.Json = None,
        **arguments: Any,
    ) -> Task:
        """Create a task with these steps, and start a run of it.

        Args:
            arguments: further ones of `ordinaut.calls.create_task`.
        """
        task_id = calls.create_task(
            self.db.conn, name, pipeline=list(pipeline), namespace=namespace, **arguments
        )
        return self._run(Task(task_id, task_id, namespace, name), context)

    def create_task_from_template(
        self, template_file: str | Path, context: calls.Json = None, name: str | None = None
    ) -> Task:
        """Apply a template, which is a manifest, and start a run of its only or named task.

        Raises:
            TemplateNotFound: there is no such file.
        """
        definitions = self.apply_template(template_file)
        found = [d for d in definitions if name in (None, d.name)]
        if not found:
            raise NotFound(f"template {template_file} defines no task {name}")
        wanted = found[0]
        return self.create_task_from_request(
            TaskRequest(wanted.namespace, wanted.name, self._versions[wanted.full_name], context)
        )

    def create_task_from_request(self, request: TaskRequest, *, start: bool = True) -> Task:
        """Ask for a run of a task that exists, and start it.

        Args:
            start: False leaves that to a worker.

        Raises:
            NotFound: there is none of this name, or its template has another version.
        """
        full_name = f"{request.namespace}/{request.name}"
        known = self._versions.get(full_name, request.version)
        if known != request.version:
            raise NotFound(f"task {full_name} has no version {request.version}, only {known}")
        found = calls.get_task(self.db.conn, full_name)
        task = Task(found.task_id, found.task_id, request.namespace, request.name, request.version)
        return self._run(task, request.context, request.reason, start)

    def apply_template(self, template_file: str | Path) -> list[manifest.Definition]:
        """Make the tasks of a template exist, and return what it defines.

        Raises:
            TemplateNotFound: there is no such file.
        """
        path = self.find_template(template_file)
        definitions = [d for d in manifest.read(path) if d.what == "task"]
        apply(self.db.conn, definitions)
        version = _version(path)
        self._versions |= {d.full_name: version for d in definitions}
        return definitions

    def find_template(self, template_file: str | Path) -> Path:
        """Return the path of a template.

        Raises:
            TemplateNotFound: there is no such file.
        """
        for path in (self.templates / template_file, Path(template_file)):
            if path.is_file():
                return path
        raise TemplateNotFound(f"Template '{template_file}' not found")

    def _run(self, task: Task, context: calls.Json, reason: str = "", start: bool = True) -> Task:
        run_id = calls.run_now(self.db.conn, task.task_id, context).run_id
        assert run_id is not None
        if start:
            self.db.conn.execute("select ordinaut.start_run(%s)", [run_id])
        log.info(
            "task created",
            extra={
                "lifecycle_action": "create_task",
                "task_uuid": str(run_id),
                "task": f"{task.namespace}/{task.name}",
                "reason": reason,
            },
        )
        return Task(run_id, task.task_id, task.namespace, task.name, task.version)

    # Steps

    def get_task_steps(self, task: TaskLike) -> list[Step]:
        """Return the steps of a run, in order."""
        return steps.get_task_steps(self.db, task)

    def get_first_step(self, task: TaskLike) -> Step:
        """Return the first step of a run."""
        return steps.get_first_step(self.db, task)

    def step(self, task: TaskLike, name: str) -> Step:
        """Return a step of a run by its name."""
        return steps.step_named(self.db, task, name)

    def execute_step(
        self, step: StepLike, success: bool = True, duration_ms: int = 0, output: Any = None
    ) -> StepResult:
        """Execute one step, now, to success or to a retryable failure.

        A failure is left unevaluated, as by StepErrorSimulator.

        Args:
            duration_ms: how far a clock that stands still moves on meanwhile.
            output: of a success; None: the step's name.

        Raises:
            AssertionError: the step is neither ready nor waiting for a retry.
        """
        lease_id = lease_step(self.db, step)
        if self.db.frozen_at is not None:
            self.db.travel(self.db.one("select ordinaut.now() + %s * interval '1 ms'", duration_ms))
        if not success:
            fail_leased(self.db, lease_id, step, StepErrorConfig(), "the step was told to fail")
            return StepResult(False, steps.get_step(self.db, step), duration_ms)
        ended = steps.get_step(self.db, step)
        given = {"step": ended.name} if output is None else output
        calls.complete_work(self.db.conn, lease_id, ended.workflow_step_uuid, given)
        ended = steps.get_step(self.db, step)
        log.info(
            "step executed",
            extra={
                "lifecycle_action": "complete_step",
                "step_uuid": str(ended.workflow_step_uuid),
                "step": ended.name,
                "attempts": ended.attempts,
                "sql_result": ended.state,
            },
        )
        return StepResult(ended.state == "complete", ended, duration_ms)

    def evaluate(self, step: StepLike) -> str:
        """Decide what follows from a failure: retry, or failed."""
        return evaluate(self.db, step)


def create_diamond_workflow_task(orchestrator: TestOrchestrator) -> Task:
    """Start a workflow of four: start, then branch_a and branch_b, then convergence."""
    return orchestrator.create_diamond_workflow_task()


def create_test_task_request(
    namespace: str, name: str, version: str = "1.0.0", context: Any = None, reason: str = ""
) -> TaskRequest:
    """Return a request for a task, as a client sends it."""
    return TaskRequest(namespace, name, version, context, reason)


def create_mathematical_test_context(even_number: int) -> dict[str, int]:
    """Return the context of the mathematical templates.

    Raises:
        ValueError: the number is odd.
    """
    if even_number % 2:
        raise ValueError(f"the mathematical templates take an even number, not {even_number}")
    return {"even_number": even_number}


def _version(path: Path) -> str:
    from ordinaut.document import load

    value = load(path.read_text(encoding="utf-8"), str(path)).value
    return str(value.get("version", "1.0.0")) if isinstance(value, dict) else "1.0.0"
