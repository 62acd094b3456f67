"""Steps of runs: how far they are, what they were, and what a person does to them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from psycopg.rows import scalar_row
from psycopg.types.json import Jsonb

from ordinaut.calls.base import Conn, Json, rows, scalar
from ordinaut.errors import NotFound


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a run, and what its definition says of it.

    `kind` is item (of the map in `map_step_id`), rollback or None; `wait` what a step in progress
    waits for without a worker.  Before its run starts a step has no id.
    """

    step_id: UUID | None
    run_id: UUID
    task_id: UUID | None
    position: int
    name: str
    kind: str | None
    level: int
    tool: str
    state: str
    needs: list[str]
    attempts: int
    failures: int
    retry_limit: int
    map_step_id: UUID | None
    item: Any
    wait: Any
    output: Any
    error: Any
    next_retry_at: datetime | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    save_as: str | None
    worker_id: UUID | None
    progress: Any


@dataclass(frozen=True, slots=True)
class StepEvent:
    """One state that a step was in, and what moved it there."""

    at: datetime
    from_state: str | None
    to_state: str
    attempt: int
    worker_id: UUID | None
    actor: str | None
    detail: Any
    is_current: bool


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether a step can run."""

    workflow_step_uuid: UUID | None
    run_id: UUID
    name: str
    current_state: str
    dependencies_satisfied: bool
    retry_eligible: bool
    ready_for_execution: bool
    total_parents: int
    completed_parents: int
    attempts: int
    retry_limit: int
    backoff_request_seconds: float | None
    next_retry_at: datetime | None
    last_attempted_at: datetime | None
    last_failure_at: datetime | None
    is_blocked: bool


@dataclass(frozen=True, slots=True)
class Context:
    """A run as a whole: its steps by state, and what that comes to."""

    task_uuid: UUID
    task_id: UUID | None
    namespace: str
    name: str
    status: str
    total_steps: int
    pending_steps: int
    in_progress_steps: int
    completed_steps: int
    failed_steps: int
    ready_steps: int
    error_steps: int
    waiting_steps: int
    skipped_steps: int
    cancelled_steps: int
    blocked_steps: int
    blocked_by_errors: bool
    completion_percentage: Decimal
    execution_status: str
    recommended_action: str | None
    health_status: str


@dataclass(frozen=True, slots=True)
class Branch:
    """A run in a tree of runs, and the step of its parent that started it."""

    run_id: UUID
    parent_run_id: UUID | None
    step: str | None
    depth: int
    task: str | None
    tool: str
    state: str
    started_at: datetime | None
    finished_at: datetime | None
    error_message: str | None


def list_steps(conn: Conn, run_id: UUID | str) -> list[Step]:
    """Return the steps of a run, items of maps and rollbacks last; none of a run of one tool.

    Source: sql/step_history.sql, ordinaut.list_steps
    """
    return rows(conn, Step, "list_steps", run_id=run_id)


def find_step(conn: Conn, tail: str) -> UUID:
    """Return the only step whose id ends in `tail`.

    Raises:
        NotFound: none does, or several do.

    Source: sql/readiness.sql, ordinaut.find_step
    """
    cur = conn.cursor(row_factory=scalar_row)
    found = cur.execute("select * from ordinaut.find_step(p_tail => %s)", [tail]).fetchall()
    if len(found) != 1:
        raise NotFound(
            f"{len(found) or 'no'} step{'s have' if found else ' has'} an id that ends in {tail!r}"
        )
    return UUID(str(found[0]))


def step_history(conn: Conn, step_id: UUID | str) -> list[StepEvent]:
    """Return every state that a step was in, in order.

    Source: sql/step_history.sql, ordinaut.step_history
    """
    return rows(conn, StepEvent, "step_history", step_id=step_id)


def get_step_readiness_status(
    conn: Conn, id: UUID | str, step_ids: list[UUID] | None = None
) -> list[Readiness]:
    """Say of a step, or of each step of a run or of a task's newest run, whether it can run.

    Source: sql/readiness.sql, ordinaut.get_step_readiness_status
    """
    return rows(conn, Readiness, "get_step_readiness_status", id=id, step_ids=step_ids)


def get_task_execution_context(conn: Conn, id: UUID | str) -> Context:
    """Count the steps of a run by state, and say what follows; `id` as for readiness.

    Source: sql/context.sql, ordinaut.get_task_execution_context
    """
    return rows(conn, Context, "get_task_execution_context", id=id)[0]


def run_tree(conn: Conn, run_id: UUID | str, limit: int | None = None) -> list[Branch]:
    """Return the tree of runs that a run belongs to, the topmost first.

    Source: sql/run_tree.sql, ordinaut.run_tree
    """
    return rows(conn, Branch, "run_tree", run_id=run_id, limit=limit)


def retry_failed_steps(conn: Conn, run_id: UUID | str, note: str | None = None) -> int:
    """Let a run that failed go on in place, and return how many steps are tried again.

    Raises:
        NotFound, WrongState: no run of steps; it has not failed, or was rolled back.

    Source: sql/reopen.sql, ordinaut.retry_failed_steps
    """
    return int(scalar(conn, "retry_failed_steps", run_id=run_id, note=note))


def replay_run(conn: Conn, run_id: UUID | str, from_step: str, note: str | None = None) -> UUID:
    """Run a run that has ended again from a step, as a new run, and return its id.

    Raises:
        NotFound, WrongState: no such run or step; it has not ended, or has a key.

    Source: sql/reopen.sql, ordinaut.replay_run
    """
    new: UUID = scalar(conn, "replay_run", run_id=run_id, from_step=from_step, note=note)
    return new


def resolve_step(conn: Conn, step_id: UUID | str, note: str | None = None) -> str:
    """Declare a step resolved by other means than its tool; what needs it goes on.

    Returns:
        Its state.

    Raises:
        NotFound, WrongState: no such step; it runs, waits for another, or has succeeded.

    Source: sql/step_verbs.sql, ordinaut.resolve_step
    """
    return str(scalar(conn, "resolve_step", step_id=step_id, note=note))


def skip_step(conn: Conn, step_id: UUID | str, note: str | None = None) -> str:
    """Skip a step: what needs it goes on without its output.  As `resolve_step`.

    Source: sql/step_verbs.sql, ordinaut.skip_step
    """
    return str(scalar(conn, "skip_step", step_id=step_id, note=note))


def complete_step(
    conn: Conn, step_id: UUID | str, output: Json = None, note: str | None = None
) -> str:
    """Complete a step with the output that its tool should have given.  As `resolve_step`.

    Source: sql/step_verbs.sql, ordinaut.complete_step
    """
    return str(scalar(conn, "complete_step", step_id=step_id, output=Jsonb(output), note=note))


def reset_step(conn: Conn, step_id: UUID | str, note: str | None = None) -> str:
    """Start a failed step over at once, its attempts counted from 0.

    Raises:
        NotFound, WrongState: no such step; it has not failed, or its run was rolled back.

    Source: sql/step_verbs.sql, ordinaut.reset_step
    """
    return str(scalar(conn, "reset_step", step_id=step_id, note=note))
