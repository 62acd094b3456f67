/*
 * Reading runs: one, many, and the complete story of one.
 */

create or replace function ordinaut._live_runs(p_task_id uuid)
returns table (run_id uuid, state text, enqueued_at timestamptz, run_at timestamptz)
language sql
stable
as $fn$
  select w.run_id, 'pending', w.enqueued_at, w.run_at
  from ordinaut.due_work as w
  where w.task_id = p_task_id and w.step is null
  union all
  select p.run_id, 'waiting', p.enqueued_at, p.run_at
  from ordinaut.parked as p
  where p.task_id = p_task_id and p.step is null
  union all
  select r.run_id, 'running', r.enqueued_at, r.started_at
  from ordinaut.task_run as r
  where r.task_id = p_task_id and r.finished_at is null
  union all
  select u.run_id, 'running', u.enqueued_at, u.run_at
  from ordinaut.lease as l
  cross join unnest(l.work) as u
  where u.task_id = p_task_id and u.step is null and u.work_id <> all (l.settled);
$fn$;

comment on function ordinaut._live_runs(uuid) is 'The runs of a task that have not ended.';

create or replace function ordinaut.get_run(p_run_id uuid)
returns setof ordinaut.run
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
set jit = off
as $fn$
  select r.* from ordinaut.run as r where r.run_id = p_run_id;
$fn$;

comment on function ordinaut.get_run(uuid) is
  'One run, live or finished, as a row of ordinaut.run; no row when there is none.';

create or replace function ordinaut.list_runs(
  p_task  text        default null,
  p_queue text        default null,
  p_state text        default null,
  p_tool  text        default null,
  p_since timestamptz default null,
  p_limit integer     default 50
)
returns setof ordinaut.run
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
set jit = off
as $fn$
declare
  v_task_id uuid;
  v_since uuid := ordinaut._v7_floor(coalesce(p_since, '1970-01-01 00:00:00+00'));
  v_ids uuid[];
begin
  perform ordinaut._check_count('limit', p_limit, 1, 100000);
  perform ordinaut._check_at('since', p_since);
  if p_task is not null then
    v_task_id := ordinaut._task_id(p_task);
  end if;

  -- Newest first from each place by its own index, then the view for those few.
  select array_agg(c.id) into v_ids
  from (
    (
      select w.work_id as id
      from ordinaut.due_work as w
      where
        coalesce(p_state, 'pending') = 'pending' and w.work_id >= v_since and w.step is null
        and (v_task_id is null or w.task_id = v_task_id)
        and (p_queue is null or w.queue = p_queue) and (p_tool is null or w.tool = p_tool)
      order by w.work_id desc
      limit p_limit
    )
    union all
    (
      select p.work_id
      from ordinaut.parked as p
      where
        coalesce(p_state, 'waiting') = 'waiting' and p.work_id >= v_since and p.step is null
        and (v_task_id is null or p.task_id = v_task_id)
        and (p_queue is null or p.queue = p_queue) and (p_tool is null or p.tool = p_tool)
      order by p.work_id desc
      limit p_limit
    )
    union all
    (
      select u.run_id
      from ordinaut.lease as l
      cross join unnest(l.work) as u
      where
        coalesce(p_state, 'running') = 'running' and u.run_id >= v_since
        and u.work_id <> all (l.settled) and u.step is null
        and (v_task_id is null or u.task_id = v_task_id)
        and (p_queue is null or u.queue = p_queue) and (p_tool is null or u.tool = p_tool)
      order by u.run_id desc
      limit p_limit
    )
    union all
    (
      select r.run_id
      from ordinaut.task_run as r
      where
        (p_state is null or r.state = p_state) and r.run_id >= v_since
        and (v_task_id is null or r.task_id = v_task_id)
        and (p_queue is null or r.queue = p_queue) and (p_tool is null or r.tool = p_tool)
      order by r.run_id desc
      limit p_limit
    )
    order by 1 desc
    limit p_limit
  ) as c;

  return query
  select r.* from ordinaut.run as r where r.run_id = any (v_ids) order by r.run_id desc;
end
$fn$;

comment on function ordinaut.list_runs(text, text, text, text, timestamptz, integer) is
  'The newest runs, by task, queue, state, tool or since when they were enqueued. Errors: OR020 '
  '(no such task), invalid_parameter_value.';

create or replace function ordinaut.find_run(p_tail text)
returns setof uuid
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_tail text := lower(replace(p_tail, '-', ''));
begin
  if v_tail !~ '^[0-9a-f]{4,32}$' then
    perform ordinaut._refuse(format('%L is not the end of a run''s id', left(p_tail, 60)),
      'At least four hexadecimal digits.');
  end if;
  if length(v_tail) = 32 then
    return query select r.run_id from ordinaut.run as r where r.run_id = v_tail::uuid;
    return;
  end if;
  return query
  select c.id
  from (
    select w.work_id as id from ordinaut.due_work as w where w.step is null
    union all
    select p.work_id from ordinaut.parked as p where p.step is null
    union all
    select u.run_id from ordinaut.lease as l cross join unnest(l.work) as u
    where u.step is null and u.work_id <> all (l.settled)
    union all
    select r.run_id from ordinaut.task_run as r
  ) as c
  where right(replace(c.id::text, '-', ''), length(v_tail)) = v_tail
  order by c.id desc
  limit 10;
end
$fn$;

comment on function ordinaut.find_run(text) is
  'The runs whose id ends so, newest first, ten at most: one row means that the tail is unique. '
  'Errors: invalid_parameter_value.';

/* What a line of the journal says of the state that followed.  Null: of none, or, of a run of one
   tool, its last attempt, which its end tells. */
create or replace function ordinaut._state_after(p_event text, p_is_step boolean, p_is_again boolean)
returns text
language sql
immutable
as $fn$
  select case
    when p_event in ('released', 'snoozed', 'declined')
      then case when p_is_step then 'ready' else 'pending' end
    when p_is_step then
      case p_event
        when 'step_reset' then 'ready'
        when 'step_retried' then 'ready'
        when 'step_reopened' then 'pending'
        when 'skipped' then 'skipped'
        when 'step_skipped' then 'skipped'
        when 'step_completed' then 'complete'
        when 'step_resolved' then 'resolved_manually'
        else case when p_event in ('failed', 'timed_out', 'crashed')
          then case when p_is_again then 'waiting_for_retry' else 'error' end end
      end
    when p_event = 'crashed' or p_event in ('failed', 'timed_out') and p_is_again then 'pending'
    when p_event = 'steps_retried' then 'running'
  end;
$fn$;

comment on function ordinaut._state_after(text, boolean, boolean) is
  'The state of a run, or of a step, after this event of the journal; null: as before.';

create or replace function ordinaut.run_history(p_run_id uuid)
returns table (
  at        timestamptz,
  event     text,
  state     text,
  attempt   integer,
  worker_id uuid,
  actor     text,
  detail    jsonb,
  step      text
)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
set jit = off
as $fn$
  with run as (
    select r.* from ordinaut.run as r where r.run_id = p_run_id
  ),
  step as (
    select s.*, d.level
    from run as r
    join ordinaut.step as s on s.run_id = r.run_id
    join ordinaut.pipeline_step as d
      on d.pipeline_id = r.pipeline_id and d.position = s.defined_by
  ),
  line as (
    select g.*,
      -- What tools say themselves may be anything.
      case when g.step is not null and g.event not in ('log', 'progress')
        then (g.detail ->> 'started_at')::timestamptz end as started_at,
      case
        -- A run of steps forgets an end when it goes on after it.  Timed out, it may roll back first.
        when g.step is null and r.pipeline_id is not null
          and (g.event in ('failed', 'cancelled') or g.event = 'timed_out' and not exists (
            select from step as s where s.kind = 'rollback')) then g.event
        else ordinaut._state_after(g.event, g.step is not null, g.detail ? 'run_at')
      end as state
    from run as r
    join ordinaut.run_log as g on g.run_id = r.run_id
    where
      g.event not in ('cancelled', 'complete') or g.step is null and r.pipeline_id is not null
  ),
  -- Ranks order what happened at one instant: the run begins, is acted on, its steps, it ends.
  told as (
    select r.enqueued_at as at, 0 as rank, 'enqueued' as event, 'pending' as state, 0 as attempt,
      null::uuid as worker_id, null::text as actor,
      jsonb_strip_nulls(jsonb_build_object(
        'scheduled_for', r.scheduled_for, 'retry_of', r.retry_of,
        'backfill_id', r.backfill_id)) as detail,
      null::text as step, null::uuid as log_id
    from run as r
    union all
    select l.at,
      case
        when l.step is not null then 4
        when l.state in ('failed', 'timed_out', 'cancelled') then 5
        when r.pipeline_id is null then 1
        else 3
      end,
      l.event, l.state, l.attempt, l.worker_id, l.actor, l.detail, l.step, l.log_id
    from run as r
    cross join line as l
    where
      l.step is not null or r.pipeline_id is null or r.finished_at is distinct from l.at
      or l.event not in ('failed', 'timed_out', 'cancelled')
    union all
    select r.started_at, 2, 'started', 'running', r.attempt, r.worker_id, null, null, null, null
    from run as r
    where r.started_at is not null
    union all
    -- Attempts that the journal tells of, and the last one.
    select l.started_at, 4, 'step_started', 'in_progress', l.attempt, l.worker_id, null, null,
      l.step, null
    from line as l
    where l.step is not null and l.started_at is not null
    union all
    select s.started_at, 4, 'step_started', 'in_progress', s.attempt, s.worker_id, null, null,
      s.name, null
    from step as s
    where
      s.attempt > 0 and s.started_at is not null
      and not exists (
        select from line as l where l.step = s.name and l.started_at = s.started_at)
    union all
    select (l.detail ->> 'cancelled_at')::timestamptz, 4, 'step_finished', 'cancelled', l.attempt,
      null, null, null, l.step, null
    from line as l
    where l.event = 'step_reopened'
    union all
    select s.finished_at, 4, 'step_finished', s.state, s.attempt, s.worker_id, null,
      case when s.state = 'error' then s.error end, s.name, null
    from step as s
    where
      s.finished_at is not null
      and not exists (
        select from line as l
        where l.step = s.name and l.at = s.finished_at and l.state = s.state)
    union all
    select r.finished_at, 6, 'finished', r.state, r.attempt, r.worker_id, null,
      coalesce(r.error, jsonb_build_object('output', r.output)), null, null
    from run as r
    where r.finished_at is not null
  )
  select t.at, t.event, t.state, t.attempt, t.worker_id, t.actor, t.detail, t.step
  from told as t
  left join step as s on s.name = t.step
  order by t.at, t.rank,
    -- Steps as they need each other; a map ends after its items.
    s.kind is not distinct from 'rollback', s.level,
    s.step_id is not null and s.kind is null and coalesce(
      t.state in ('complete', 'error', 'skipped', 'cancelled', 'resolved_manually'), false),
    s.position, t.attempt, t.event <> 'step_started', t.log_id;
$fn$;

comment on function ordinaut.run_history(uuid) is
  'Every transition of a run in order: enqueued, each attempt that did not succeed, what its '
  'tool logged, what operators did, started (the last attempt) and finished. Of a run of steps '
  'also each attempt of each step (step), what came of it, and ends of the run that it went on '
  'after (step_history() tells more of one step). No rows when there is no such run.';
