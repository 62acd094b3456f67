"""
The oracle of every race: a unit of work is in exactly one of four places, and ends once.

    due_work    it may start now or at run_at
    parked      something other than time holds it back
    lease       it is on loan, and not among the `settled` of its lease
    task_run    it is done

This holds at every instant, whatever transactions are open, so it is asked of committed data.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from tests.races import Session

_PLACES = """
select w.work_id, 'due_work' as place from ordinaut.due_work as w
union all
select p.work_id, 'parked' from ordinaut.parked as p
union all
select u.work_id, 'lease'
from ordinaut.lease as l
cross join unnest(l.work) as u
where u.work_id <> all (l.settled)
union all
select r.run_id, 'task_run' from ordinaut.task_run as r
"""


def places(session: Session) -> dict[UUID, str]:
    """Say where each unit is; fail when one is in two places."""
    rows = session.run(_PLACES)
    twice = [work_id for work_id, n in Counter(row.work_id for row in rows).items() if n > 1]
    assert not twice, f"in more than one place: {[row for row in rows if row.work_id in twice]}"
    return {row.work_id: row.place for row in rows}


def assert_conserved(session: Session, n: int) -> None:
    """All n units are somewhere, none is in two places, and exactly the done ones ended, once."""
    found = places(session)
    assert len(found) == n, f"{len(found)} of {n} units are left: {found}"
    for work_id, place in found.items():
        ends = [e.state for e in history(session, work_id) if e.event == "finished"]
        assert len(ends) == (place == "task_run"), f"{work_id} is in {place} and ended {ends}"


def history(session: Session, run_id: UUID) -> list[Any]:
    return session.run("select * from ordinaut.run_history(%s)", run_id)


def events(session: Session, run_id: UUID) -> list[str]:
    """Name what happened to a run, in order."""
    return [row.event for row in history(session, run_id)]


def run(session: Session, run_id: UUID) -> Any:
    [row] = session.run("select * from ordinaut.get_run(%s)", run_id)
    return row


def unit(session: Session, work_id: UUID) -> Any:
    [row] = session.run("select * from ordinaut.work where work_id = %s", work_id)
    return row


Settled = tuple[UUID, UUID, str] | tuple[UUID, UUID, str, str]


def exchange(
    worker_id: UUID,
    lease_id: UUID | None,
    limit: int,
    done: Sequence[Settled] = (),
    *,
    careful: bool = False,
    notes: Sequence[dict[str, Any]] | None = None,
) -> tuple[Any, ...]:
    """Return an exchange for Session.run(*…).

    `done` lists (lease, unit, outcome, JSON text); the text is the output of a success and the
    error of anything else.
    """
    good = [d[2] == "success" for d in done]
    text = [d[3] if len(d) == 4 else None for d in done]
    return (
        "select * from ordinaut.exchange(%s, 'default', %s, %s, %s::uuid[], %s::uuid[], %s::text[],"
        " %s::text[], %s::text[], %s::bigint[], p_notes => %s, p_careful => %s)",
        worker_id,
        lease_id,
        limit,
        [d[0] for d in done],
        [d[1] for d in done],
        [d[2] for d in done],
        [t if ok else None for t, ok in zip(text, good, strict=True)],
        [None if ok else t for t, ok in zip(text, good, strict=True)],
        [1000] * len(done),
        None if notes is None else json.dumps(notes),
        careful,
    )


def kinds(rows: list[Any]) -> list[tuple[str, UUID | None]]:
    """Shorten an exchange's answer to (kind, unit), in order of kind."""
    return sorted(((row.kind, row.work_id) for row in rows), key=lambda k: (k[0], str(k[1])))
