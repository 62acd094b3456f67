"""What tests read of runs and their steps, and the words for it: all of it through SQL."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.rows import dict_row

from ordinaut.testing.database import Pool, opened

_STEPS = """
select
  s.step_id as workflow_step_uuid, s.run_id as task_uuid, s.position, s.name, s.kind, s.state,
  s.attempt as attempts, p.max_attempts as retry_limit, s.next_retry_at, s.started_at,
  s.finished_at, s.output, s.error, s.wait,
  array(
    select o.name
    from ordinaut.pipeline_step as o
    where o.pipeline_id = p.pipeline_id and o.position = any (p.needs)
    order by o.position
  ) as needs
from ordinaut.step as s
join ordinaut.task_run as r on r.run_id = s.run_id
join ordinaut.pipeline_step as p
  on p.pipeline_id = r.pipeline_id and p.position = s.defined_by
where s.run_id = %(run)s or s.step_id = %(step)s
order by s.position
"""


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a run, as it was when it was read; `get_step` reads it again."""

    workflow_step_uuid: UUID
    task_uuid: UUID
    position: int
    name: str
    kind: str | None
    state: str
    attempts: int
    retry_limit: int
    next_retry_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    output: Any
    error: Any
    wait: Any
    needs: list[str]


@dataclass(frozen=True, slots=True)
class Task:
    """A run of a workflow: `task_uuid` is the run's id, `task_id` the definition's."""

    task_uuid: UUID
    task_id: UUID
    namespace: str
    name: str
    version: str = "1.0.0"


StepLike = Step | UUID | str
TaskLike = Task | UUID | str


def step_id(step: StepLike) -> UUID:
    """Return the id of a step, however it is given."""
    return step.workflow_step_uuid if isinstance(step, Step) else UUID(str(step))


def task_id(task: TaskLike) -> UUID:
    """Return the id of a run, however it is given."""
    return task.task_uuid if isinstance(task, Task) else UUID(str(task))


def _steps(pool: Pool, run: UUID | None, step: UUID | None) -> list[Step]:
    with opened(pool) as database:
        cur = database.conn.cursor(row_factory=dict_row)
        return [Step(**row) for row in cur.execute(_STEPS, {"run": run, "step": step})]


def get_task_steps(pool: Pool, task_uuid: TaskLike) -> list[Step]:
    """Return the steps of a run in the order in which they were written."""
    return _steps(pool, task_id(task_uuid), None)


def get_first_step(pool: Pool, task_uuid: TaskLike) -> Step:
    """Return the first step of a run.

    Raises:
        AssertionError: it has none, or has not started.
    """
    steps = get_task_steps(pool, task_uuid)
    assert steps, f"Task {task_id(task_uuid)} has no steps"
    return steps[0]


def get_step(pool: Pool, step: StepLike) -> Step:
    """Read a step again.

    Raises:
        AssertionError: there is none.
    """
    found = _steps(pool, None, step_id(step))
    assert found, f"Step {step_id(step)} does not exist"
    return found[0]


def step_named(pool: Pool, task_uuid: TaskLike, name: str) -> Step:
    """Return the step of a run that has this name.

    Raises:
        AssertionError: there is none, and which there are.
    """
    steps = get_task_steps(pool, task_uuid)
    for step in steps:
        if step.name == name:
            return step
    raise AssertionError(
        f"Task {task_id(task_uuid)} has no step {name}, only {', '.join(s.name for s in steps)}"
    )


def readiness(pool: Pool, step: StepLike) -> dict[str, Any]:
    """Return the row of ordinaut.get_step_readiness_status for one step."""
    with opened(pool) as database:
        cur = database.conn.cursor(row_factory=dict_row)
        rows = cur.execute(
            "select * from ordinaut.get_step_readiness_status(%s)", [step_id(step)]
        ).fetchall()
    assert len(rows) == 1, f"Step {step_id(step)} does not exist"
    return rows[0]


def execution_context(pool: Pool, task: TaskLike) -> dict[str, Any]:
    """Return the row of ordinaut.get_task_execution_context for one run."""
    with opened(pool) as database:
        cur = database.conn.cursor(row_factory=dict_row)
        rows = cur.execute(
            "select * from ordinaut.get_task_execution_context(%s)", [task_id(task)]
        ).fetchall()
    assert len(rows) == 1, f"Task {task_id(task)} does not exist"
    return rows[0]


def state_sequence(pool: Pool, step: StepLike) -> list[str]:
    """Return the states that a step went through, in order, as ordinaut.step_history has them."""
    with opened(pool) as database:
        rows = database.rows("select h.to_state from ordinaut.step_history(%s) as h", step_id(step))
    return [snake(row.to_state) for row in rows]


def snake(word: str) -> str:
    """Return a state as the database writes it: InProgress is in_progress."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", str(word)).lower()


def pascal(word: str | None) -> str:
    """Return a state as people read it: in_progress is InProgress."""
    return "".join(part.capitalize() for part in snake(str(word)).split("_"))
