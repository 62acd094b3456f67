"""
The oracle of every race: a unit of work is in exactly one of four places, and ends once.

    due_work    it may start now or at run_at
    parked      something other than time holds it back
    lease       it is on loan, and not among the `settled` of its lease
    task_run    it is done

A run of steps is such a unit until it starts.  From then on task_run has it, and each of its steps
that is live and waits for no other step has a unit of its own, in one of the first three.

This holds at every instant, whatever transactions are open, so it is asked of committed data.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from tests.races import Session

_UNITS = """
select w.work_id, w.run_id, w.step, 'due_work' as place from ordinaut.due_work as w
union all
select p.work_id, p.run_id, p.step, 'parked' from ordinaut.parked as p
union all
select u.work_id, u.run_id, u.step, 'lease'
from ordinaut.lease as l
cross join unnest(l.work) as u
where u.work_id <> all (l.settled)
"""
_PLACES = f"""
select u.work_id, u.place from ({_UNITS}) as u where u.step is null
union all
select r.run_id, case when r.finished_at is null then 'steps' else 'task_run' end
from ordinaut.task_run as r
"""

# What a state says of where the unit is; and of what a pending step waits for.
WRONG_STEPS = f"""
with unit as (
  select u.work_id, array_agg(distinct u.run_id) as run_ids,
    string_agg(u.place, ' + ' order by u.place) as places
  from ({_UNITS}) as u
  where u.step is not null
  group by u.work_id
),
told as (
  select coalesce(s.run_id, u.run_ids[1]) as run_id, s.name, s.state, s.wait, u.work_id, u.places,
    r.finished_at, s.waits_for,
    case
      when s.step_id is null or u.run_ids <> array[s.run_id] then 'none'
      when s.state in ('ready', 'waiting_for_retry') then 'due_work|parked'
      when s.state = 'in_progress' and s.wait is null then 'lease'
      when s.state = 'in_progress' and s.wait ->> 'kind' = 'sleep' then 'due_work'
      when s.state in ('in_progress', 'error') and s.wait is not null then 'parked'
    end as expected,
    case when s.state = 'pending' and s.kind is null then (
      select count(*)
      from ordinaut.pipeline_step as d
      cross join unnest(d.needs) as need (at)
      join ordinaut.step as n on n.run_id = s.run_id and n.position = need.at
      join ordinaut.pipeline_step as nd
        on nd.pipeline_id = d.pipeline_id and nd.position = need.at
      where
        d.pipeline_id = r.pipeline_id and d.position = s.position
        and n.state not in ('complete', 'skipped', 'resolved_manually')
        and not (n.state = 'error' and nd.continue_on_error and n.wait is null)
    ) else s.waits_for end as needed
  from ordinaut.step as s
  join ordinaut.task_run as r on r.run_id = s.run_id
  full join unit as u on u.work_id = s.step_id
)
select 'not where its state says, or not once' as what, t.*
from told as t
where coalesce(t.places, '') !~ ('^(' || coalesce(t.expected, '') || ')$')
union all
select 'waits for a number of steps that is not so', t.*
from told as t
where t.waits_for <> t.needed
union all
select 'live in a run that has ended', t.*
from told as t
where t.finished_at is not null and (t.state = 'pending' or t.expected is not null)
union all
select 'of a run in which nothing can go on', t.*
from told as t
where t.finished_at is null and not exists (
  select from told as o where o.run_id = t.run_id and o.places is not null)
"""


def places(session: Session) -> dict[UUID, str]:
    """Say where each unit is; fail when one is in two places."""
    rows = session.run(_PLACES)
    twice = [work_id for work_id, n in Counter(row.work_id for row in rows).items() if n > 1]
    assert not twice, f"in more than one place: {[row for row in rows if row.work_id in twice]}"
    return {row.work_id: row.place for row in rows}


def assert_steps(session: Session) -> None:
    """Each step is where its state says, joins count right, and every run goes on or has ended."""
    wrong = session.run(WRONG_STEPS)
    assert not wrong, "\n".join(map(str, wrong))


def assert_conserved(session: Session, n: int) -> None:
    """All n units are somewhere, none is in two places, and exactly the done ones ended, once."""
    found = places(session)
    assert len(found) == n, f"{len(found)} of {n} units are left: {found}"
    for work_id, place in found.items():
        ends = [e.state for e in history(session, work_id) if e.event == "finished"]
        assert len(ends) == (place == "task_run"), f"{work_id} is in {place} and ended {ends}"
    assert_steps(session)


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
