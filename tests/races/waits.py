"""What the races of waiting steps share: runs of steps, and steps that wait."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from tests.places import assert_steps
from tests.races import Session


def started(session: Session, pipeline: list[dict[str, Any]]) -> UUID:
    """Start a run of these steps, and commit."""
    run_id: UUID = session.one(
        "select run_id from ordinaut.enqueue(p_pipeline => %s)", json.dumps(pipeline)
    )
    session.run("select ordinaut.start_run(%s)", run_id)
    session.commit()
    return run_id


def step(session: Session, run_id: UUID, name: str) -> Any:
    """One step as it stands, in a transaction of its own."""
    [found] = session.run(
        "select * from ordinaut.step where run_id = %s and name = %s", run_id, name
    )
    session.commit()
    return found


def state(session: Session, run_id: UUID) -> str:
    found: str = session.one("select state from ordinaut.run where run_id = %s", run_id)
    session.commit()
    return found


def lease(session: Session, run_id: UUID, name: str) -> tuple[UUID, UUID]:
    """Lease a step, and commit; return lease and step."""
    step_id = step(session, run_id, name).step_id
    lease_id = session.one("select ordinaut._lease_step(%s, 'w')", step_id)
    session.commit()
    return lease_id, step_id


def due(session: Session) -> list[str]:
    """The steps that are in line."""
    names = [r.step for r in session.run("select step from ordinaut.due_work order by step")]
    session.commit()
    return names


def states(session: Session, run_id: UUID) -> tuple[str, ...]:
    """The states of the run and of its steps, all of them where they belong."""
    assert_steps(session)
    found = session.run(
        "select state from ordinaut.step where run_id = %s order by position", run_id
    )
    return state(session, run_id), *(row.state for row in found)


PAIR = [{"id": "a", "uses": "echo", "needs": []}, {"id": "b", "uses": "echo", "needs": []}]
JOIN = [*PAIR, {"id": "j", "uses": "echo", "needs": ["a", "b"]}]
LEASE = "select * from ordinaut.lease_work('w2', p_limit => 5)"
CANCEL = "select ordinaut.cancel_run(%s)"
WAIT = "select outcome from ordinaut.wait_work(%s, %s, %s)"
DONE = "select outcome from ordinaut.complete_work(%s, %s)"


def parked(session: Session, run_id: UUID, name: str, wait: dict[str, Any]) -> UUID:
    """Let a step wait, and commit; return its id."""
    lease_id, step_id = lease(session, run_id, name)
    assert session.one(WAIT, lease_id, step_id, json.dumps(wait)) == "waiting"
    session.commit()
    return step_id


def swept(session: Session) -> None:
    session.run("select ordinaut.reap()")
    session.commit()
