"""What steps wait for: events that are emitted, and people who answer."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.rows import scalar_row
from psycopg.types.json import Jsonb

from ordinaut.calls.base import Conn, Json, jsonb, rows, scalar


@dataclass(frozen=True, slots=True)
class Emitted:
    """The answer to an emitted event.

    Attributes:
        outcome: new, or existing: its idempotency key was used before, by `event_id`.
        waiters: how many waiting steps it completed.
        task_ids: the tasks that it starts; `run_ids`: their runs, as far as they could start.
    """

    event_id: UUID
    outcome: str
    waiters: int
    task_ids: list[UUID]
    run_ids: list[UUID]


@dataclass(frozen=True, slots=True)
class Approval:
    """What people are asked by a step, and what they said.

    Attributes:
        state: open, answered, cancelled, expired, or void: its step ended without an answer.
        responders: roles whose members may answer; None: whoever may call respond().
        may_answer: whether we may.
    """

    approval_id: UUID
    run_id: UUID
    step_id: UUID
    task: str | None
    step: str | None
    state: str
    prompt: str
    data: Any
    schema: Any
    responders: list[str] | None
    may_answer: bool
    created_at: datetime
    expires_at: datetime | None
    response: Any
    note: str | None
    decided_at: datetime | None
    decided_by: str | None


def emit_event(
    conn: Conn,
    topic: str,
    payload: Json = None,
    *,
    key: str | None = None,
    idempotency_key: str | None = None,
) -> Emitted:
    """Say that something happened: steps that wait for it go on, tasks that name it start.

    Args:
        topic: dotted, as order.paid; tasks may name order.* too.
        payload: None: {}.
        key: whom it concerns; steps that wait for a key get only events with it.
        idempotency_key: a second call with it within a day does nothing.

    Source: sql/event.sql, ordinaut.emit_event
    """
    return rows(
        conn, Emitted, "emit_event", topic=topic, payload=jsonb(payload), key=key,
        idempotency_key=idempotency_key,
    )[0]  # fmt: skip


def list_approvals(
    conn: Conn,
    state: str | None = "open",
    *,
    run_id: UUID | str | None = None,
    limit: int | None = None,
) -> list[Approval]:
    """Return what people are asked, oldest first.

    Args:
        state: open, answered, cancelled, expired or void; None: all.
        run_id: only by this run.

    Source: sql/approval.sql, ordinaut.list_approvals
    """
    return rows(conn, Approval, "list_approvals", state=state or "any", run_id=run_id, limit=limit)


def find_approval(conn: Conn, tail: str, step: str | None = None) -> list[UUID]:
    """Return the approvals whose id, or whose step's, ends so, newest first.

    Args:
        step: then `tail` is the end of a run's id, and this the name of its step.

    Source: sql/approval.sql, ordinaut.find_approval
    """
    cur = conn.cursor(row_factory=scalar_row)
    return cur.execute(
        "select * from ordinaut.find_approval(p_tail => %s, p_step => %s)", [tail, step]
    ).fetchall()


def respond(conn: Conn, id: UUID | str, response: Json, note: str | None = None) -> UUID:
    """Answer what a step asks, and return the approval's id.

    Args:
        id: of the approval, or of its step.

    Raises:
        NotFound: there is no such approval.
        WrongState: it was decided before, has expired, or nothing waits for it any more.
        psycopg.errors.InsufficientPrivilege: others are asked.
        psycopg.errors.InvalidParameterValue: the response breaks its schema; it stays open.

    Source: sql/approval.sql, ordinaut.respond
    """
    found: UUID = scalar(conn, "respond", id=id, response=Jsonb(response), note=note)
    return found


def cancel_approval(conn: Conn, id: UUID | str, note: str | None = None) -> UUID:
    """Withdraw what a step asks: the step fails.  Raises as `respond`.

    Source: sql/approval.sql, ordinaut.cancel_approval
    """
    found: UUID = scalar(conn, "cancel_approval", id=id, note=note)
    return found
