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
  )
  select h.at, h.event, h.state, h.attempt, h.worker_id, h.actor, h.detail, h.step
  from (
    select r.enqueued_at as at, 0 as rank, 'enqueued' as event, 'pending' as state, 0 as attempt,
      null::uuid as worker_id, null::text as actor,
      jsonb_strip_nulls(jsonb_build_object(
        'scheduled_for', r.scheduled_for, 'retry_of', r.retry_of,
        'backfill_id', r.backfill_id)) as detail,
      null::text as step
    from run as r
    union all
    select g.at, 1, g.event,
      -- The last attempt's line and the end of the run, or of a step, are one: told below.
      case
        when g.event in ('released', 'snoozed', 'declined', 'crashed')
          then case when g.step is null then 'pending' else 'ready' end
        when g.event in ('failed', 'timed_out') and g.detail ? 'run_at'
          then case when g.step is null then 'pending' else 'waiting_for_retry' end
      end,
      g.attempt, g.worker_id, g.actor, g.detail, g.step
    from ordinaut.run_log as g
    where g.run_id = p_run_id and g.event not in ('cancelled', 'complete')
    union all
    select r.started_at, 2, 'started', 'running', r.attempt, r.worker_id, null, null, null
    from run as r
    where r.started_at is not null
    union all
    select s.started_at, 2, 'step_started', 'in_progress', s.attempt, s.worker_id, null, null,
      s.name
    from ordinaut.step as s
    where s.run_id = p_run_id and s.attempt > 0 and s.started_at is not null
    union all
    select s.finished_at, 3, 'step_finished', s.state, s.attempt, s.worker_id, null,
      case when s.state = 'error' then s.error end, s.name
    from ordinaut.step as s
    where s.run_id = p_run_id and s.finished_at is not null
    union all
    select r.finished_at, 4, 'finished', r.state, r.attempt, r.worker_id, null,
      coalesce(r.error, jsonb_build_object('output', r.output)), null
    from run as r
    where r.finished_at is not null
  ) as h
  order by h.at, h.rank;
$fn$;

comment on function ordinaut.run_history(uuid) is
  'Every transition of a run in order: enqueued, each attempt that did not succeed, what its '
  'tool logged, what operators did, started (the last attempt) and finished; of a run of steps '
  'the same of each step (step_history() tells more of one). No rows when there is no such run.';
