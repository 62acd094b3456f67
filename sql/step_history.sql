/*
 * The complete history of a step.  What goes well leaves its instants in the step's row, what does
 * not leaves a line in the journal; this tells them as one sequence of states.
 */

create or replace function ordinaut.step_history(p_step_id uuid)
returns table (
  at         timestamptz,
  from_state text,
  to_state   text,
  attempt    integer,
  worker_id  uuid,
  actor      text,
  detail     jsonb,
  is_current boolean
)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
set jit = off
as $fn$
  with told as (
    select s.created_at as at, 0 as rank, 'pending' as state, 0 as attempt,
      null::uuid as worker_id, null::text as actor, null::jsonb as detail
    from ordinaut.step as s
    where s.step_id = p_step_id
    union all
    -- An attempt that did not simply succeed: when it began, what it came to, what followed.
    select e.at, e.rank, e.state, g.attempt, g.worker_id, g.actor, e.detail
    from ordinaut.step as s
    join ordinaut.run_log as g on g.run_id = s.run_id and g.step = s.name
    cross join lateral (
      select
        g.detail ->> 'run_at' is not null as is_tried_again,
        g.event in ('failed', 'timed_out', 'crashed') as is_failure
    ) as k
    cross join lateral (
      values
        -- A retry is ready when its time has come, and that shows when it is leased.
        ((g.detail ->> 'started_at')::timestamptz, 3,
          case when g.attempt > 1 and exists (
            select from ordinaut.run_log as b
            where b.run_id = g.run_id and b.step = g.step and b.attempt < g.attempt
              and b.event in ('failed', 'timed_out', 'crashed')
          ) then 'ready' end, null::jsonb),
        ((g.detail ->> 'started_at')::timestamptz, 4, 'in_progress', null),
        (g.at, 5, case when k.is_failure then 'error' end, g.detail),
        (g.at, 6, case when k.is_failure and k.is_tried_again then 'waiting_for_retry' end, null),
        (g.at, 6, case g.event
          when 'released' then 'ready' when 'snoozed' then 'ready' when 'declined' then 'ready'
          when 'step_reset' then 'ready' when 'step_retried' then 'ready'
          when 'step_reopened' then 'pending' end, g.detail),
        ((g.detail ->> 'cancelled_at')::timestamptz, 7,
          case g.event when 'step_reopened' then 'cancelled' end, null)
    ) as e (at, rank, state, detail)
    where
      s.step_id = p_step_id
      and e.state is not null
      and e.at is not null
      and (g.event in ('failed', 'timed_out', 'crashed', 'released', 'snoozed', 'declined',
        'step_reset', 'step_retried', 'step_reopened'))
    union all
    -- The last attempt, unless the journal has told it.
    select e.at, e.rank, e.state, s.attempt, s.worker_id, null, null
    from ordinaut.step as s
    cross join lateral (
      values
        (s.started_at, 3, case when s.failures > 0 or s.crashes > 0 then 'ready' end),
        (s.started_at, 4, 'in_progress')
    ) as e (at, rank, state)
    where
      s.step_id = p_step_id and e.state is not null and s.attempt > 0 and s.started_at is not null
      and s.state in ('in_progress', 'complete', 'skipped', 'cancelled', 'resolved_manually')
      and not exists (
        select from ordinaut.run_log as g
        where g.run_id = s.run_id and g.step = s.name and g.attempt = s.attempt
          -- Reset, a step counts its attempts anew.
          and g.at >= s.started_at
          and g.event in ('failed', 'timed_out', 'crashed', 'released', 'snoozed', 'declined'))
    union all
    select coalesce(s.finished_at, s.started_at), 7, s.state, s.attempt, s.worker_id, o.actor,
      coalesce(o.detail - 'from' - 'started_at', '{}')
        || jsonb_strip_nulls(jsonb_build_object('output', s.output))
    from ordinaut.step as s
    left join lateral (
      select
        -- Of an attempt the worker is told; of what else ended it, who that was.
        case when g.event like $re$step\_%$re$ then g.actor end as actor, g.detail
      from ordinaut.run_log as g
      where g.run_id = s.run_id and g.step = s.name
        and g.event in ('step_completed', 'step_resolved', 'step_skipped', 'skipped')
      order by g.log_id desc
      limit 1
    ) as o on true
    where
      s.step_id = p_step_id
      and s.state in ('complete', 'skipped', 'cancelled', 'resolved_manually')
    union all
    -- Left in error, to be evaluated, it is told above; ready now, only here.
    select s.created_at, 1, 'ready', 0, null, null, null
    from ordinaut.step as s
    where s.step_id = p_step_id and s.state = 'ready' and s.attempt = 0
  )
  select t.at, lag(t.state) over line, t.state, t.attempt, t.worker_id, t.actor, t.detail,
    row_number() over back = 1
  from told as t
  join ordinaut.step as s on s.step_id = p_step_id
  where
    t.at is not null
    -- Left in error, nothing has followed yet.
    and not (t.state = 'waiting_for_retry' and s.state = 'error' and t.attempt = s.attempt)
  window
    line as (order by t.at, t.attempt, t.rank),
    back as (order by t.at desc, t.attempt desc, t.rank desc)
  order by t.at, t.attempt, t.rank;
$fn$;

comment on function ordinaut.step_history(uuid) is
  'Every state that a step was in, in order, with who moved it and why. No rows when there is no '
  'such step.';

create or replace view ordinaut.step_status as
select
  s.step_id, s.run_id, r.task_id, s.position, s.name, s.kind, d.level,
  case s.kind when 'rollback' then d.on_rollback ->> 'uses' else d.tool end as tool, s.state,
  array(
    select n.name
    from unnest(case when s.kind is null then d.needs end) as e (at)
    join ordinaut.pipeline_step as n on n.pipeline_id = d.pipeline_id and n.position = e.at
    order by e.at
  ) as needs,
  s.attempt::integer as attempts, s.failures::integer as failures,
  case s.kind
    when 'rollback' then coalesce((d.on_rollback ->> 'retry_count')::integer, 3)
    else d.max_attempts::integer
  end as retry_limit, s.map_step_id, s.item, s.wait, s.output, s.error,
  s.next_retry_at, s.created_at, s.started_at, s.finished_at, d.save_as, s.worker_id,
  case when s.state = 'in_progress' then (
    select g.detail
    from ordinaut.run_log as g
    where g.run_id = s.run_id and g.step = s.name and g.event = 'progress'
    order by g.log_id desc
    limit 1
  ) end as progress
from ordinaut.step as s
join ordinaut.task_run as r on r.run_id = s.run_id
join ordinaut.pipeline_step as d
  on d.pipeline_id = r.pipeline_id and d.position = s.defined_by;

comment on view ordinaut.step_status is
  'Every step of every run of steps, with what its definition says of it. kind: item (of the map '
  'in map_step_id), rollback, or null. wait: what a step in progress waits for without a worker. '
  'progress: what its tool said last.';

create or replace view ordinaut.step_edge as
select s.run_id, n.step_id as from_step_id, s.step_id as to_step_id
from ordinaut.step as s
join ordinaut.task_run as r on r.run_id = s.run_id
join ordinaut.pipeline_step as d
  on d.pipeline_id = r.pipeline_id and d.position = s.defined_by
cross join unnest(d.needs) as e (at)
join ordinaut.step as n on n.run_id = s.run_id and n.position = e.at
where s.kind is null;

create or replace function ordinaut.list_steps(p_run_id uuid)
returns setof ordinaut.step_status
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
set jit = off
as $fn$
  (select s.* from ordinaut.step_status as s where s.run_id = p_run_id order by s.position)
  union all
  -- It has not started: what its pipeline says.
  (
    select null, p_run_id, w.task_id, d.position, d.name, null, d.level, d.tool, 'pending',
      array(
        select n.name
        from unnest(d.needs) as e (at)
        join ordinaut.pipeline_step as n on n.pipeline_id = d.pipeline_id and n.position = e.at
        order by e.at
      ),
      0, 0, d.max_attempts, null, null, null, null, null, null, w.enqueued_at, null, null,
      d.save_as, null, null
    from (
      select u.task_id, u.pipeline_id, u.enqueued_at
      from ordinaut.due_work as u where u.work_id = p_run_id and u.step is null
      union all
      select u.task_id, u.pipeline_id, u.enqueued_at
      from ordinaut.parked as u where u.work_id = p_run_id and u.step is null
    ) as w
    join ordinaut.pipeline_step as d on d.pipeline_id = w.pipeline_id
    order by d.position
  );
$fn$;

comment on function ordinaut.list_steps(uuid) is
  'The steps of a run as rows of ordinaut.step_status, items of maps and rollbacks last; before '
  'it starts those of its pipeline, without ids. No rows for a run of one tool.';

comment on view ordinaut.step_edge is
  'Which step of a run needs which: to_step_id needs from_step_id.';
