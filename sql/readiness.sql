/*
 * How far a run of steps is: one row per step, and one per run.  Each function takes one id, of a
 * step, a run or a task (its newest run), and answers for a run of any kind: of a run that has not
 * started the steps are those of its pipeline, and a run of one tool is one step, itself.
 *
 * completed_parents are counted over all steps of the run, whichever steps are asked for.
 */

create or replace function ordinaut._run_of(p_id uuid)
returns uuid
language plpgsql
stable
as $fn$
declare
  v_run_id uuid;
begin
  select s.run_id into v_run_id from ordinaut.step as s where s.step_id = p_id;
  if v_run_id is null then
    select c.id into v_run_id
    from (
      select r.run_id as id from ordinaut.task_run as r where r.run_id = p_id
      union all
      select w.work_id from ordinaut.due_work as w where w.work_id = p_id
      union all
      select k.work_id from ordinaut.parked as k where k.work_id = p_id
      union all
      select u.run_id
      from ordinaut.lease as l
      cross join unnest(l.work) as u
      where u.run_id = p_id and u.work_id <> all (l.settled)
    ) as c
    limit 1;
  end if;
  if v_run_id is null then
    select c.id into v_run_id
    from (
      (select r.run_id as id from ordinaut.task_run as r
       where r.task_id = p_id order by r.run_id desc limit 1)
      union all
      select r.run_id from ordinaut._live_runs(p_id) as r
    ) as c
    order by c.id desc
    limit 1;
  end if;
  if v_run_id is null then
    raise exception using
      errcode = 'OR020',
      message = format('%s is no step, no run, and no task that has one', p_id),
      hint = 'list_runs() shows runs; old ones may have been pruned.';
  end if;
  return v_run_id;
end
$fn$;

comment on function ordinaut._run_of(uuid) is
  'The run that the id of a step, a run or a task (its newest) means. Errors: OR020.';

create or replace function ordinaut.find_step(p_tail text)
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
    perform ordinaut._refuse(format('%L is not the end of a step''s id', left(p_tail, 60)),
      'At least four hexadecimal digits.');
  end if;
  if length(v_tail) = 32 then
    return query select s.step_id from ordinaut.step as s where s.step_id = v_tail::uuid;
    return;
  end if;
  return query
  select s.step_id
  from ordinaut.step as s
  where right(replace(s.step_id::text, '-', ''), length(v_tail)) = v_tail
  order by s.step_id desc
  limit 10;
end
$fn$;

comment on function ordinaut.find_step(text) is
  'The steps whose id ends so, newest first, ten at most: one row means that the tail is unique. '
  'Errors: invalid_parameter_value.';

create or replace function ordinaut._satisfies(p_state text, p_continue_on_error boolean)
returns boolean
language sql
immutable
as $fn$
  select p_state in ('complete', 'skipped', 'resolved_manually')
    or (p_state = 'error' and p_continue_on_error);
$fn$;

comment on function ordinaut._satisfies(text, boolean) is
  'Whether a step that ended so lets the steps go on that need it.';

create or replace function ordinaut._readiness(p_run_id uuid, p_step_ids uuid[])
returns table (
  workflow_step_uuid      uuid,
  task_uuid               uuid,
  name                    text,
  "position"              integer,
  level                   integer,
  current_state           text,
  dependencies_satisfied  boolean,
  retry_eligible          boolean,
  ready_for_execution     boolean,
  total_parents           integer,
  completed_parents       integer,
  attempts                integer,
  retry_limit             integer,
  backoff_request_seconds double precision,
  next_retry_at           timestamptz,
  last_attempted_at       timestamptz,
  last_failure_at         timestamptz,
  is_blocked              boolean
)
language plpgsql
stable
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $fn$
declare
  v_pipeline_id uuid;
  v_started boolean;
begin
  select r.pipeline_id, true into v_pipeline_id, v_started
  from ordinaut.task_run as r
  where r.run_id = p_run_id;
  if v_pipeline_id is not null then
    return query
    select s.step_id, s.run_id, s.name, s.position, d.level, s.state,
      n.done = n.total,
      x.eligible,
      n.done = n.total and (
        s.state in ('pending', 'ready')
        or (s.state = 'waiting_for_retry' and s.next_retry_at <= ordinaut.now())),
      n.total::integer, n.done::integer, s.attempt::integer, d.max_attempts::integer,
      extract(epoch from s.retry_after)::float8, s.next_retry_at, s.started_at,
      case when s.error is not null then coalesce(s.finished_at, (
        select max(g.at) from ordinaut.run_log as g
        where g.run_id = s.run_id and g.step = s.name
          and g.event in ('failed', 'timed_out', 'crashed'))) end,
      s.state in ('pending', 'cancelled') and n.stuck > 0
    from ordinaut.step as s
    cross join lateral (
      select q.* from ordinaut.pipeline_step as q
      where q.pipeline_id = v_pipeline_id and q.position = s.defined_by
      offset 0
    ) as d
    cross join lateral (
      select
        count(*) as total,
        count(*) filter (where ordinaut._satisfies(p.state, pd.continue_on_error)) as done,
        count(*) filter (where p.state in ('error', 'cancelled') and not pd.continue_on_error
          and not (p.state = 'error' and p.next_retry_at is not null)) as stuck
      from unnest(case when s.kind is null then d.needs else '{}' end) as need (at)
      cross join lateral (
        select t.state, t.next_retry_at from ordinaut.step as t
        where t.run_id = s.run_id and t.position = need.at
        offset 0
      ) as p
      cross join lateral (
        select q.continue_on_error from ordinaut.pipeline_step as q
        where q.pipeline_id = v_pipeline_id and q.position = need.at
        offset 0
      ) as pd
    ) as n
    cross join lateral (
      select s.attempt > 0 and s.failures < d.max_attempts
        and coalesce((s.error ->> 'retryable')::boolean, true)
        and s.state not in ('complete', 'skipped', 'cancelled', 'resolved_manually') as eligible
    ) as x
    where s.run_id = p_run_id and (p_step_ids is null or s.step_id = any (p_step_ids))
    order by s.position;
    return;
  end if;

  select c.pipeline_id into v_pipeline_id
  from (
    select w.pipeline_id from ordinaut.due_work as w where w.work_id = p_run_id
    union all
    select k.pipeline_id from ordinaut.parked as k where k.work_id = p_run_id
  ) as c
  where v_started is null;
  if v_pipeline_id is not null then
    return query
    select null::uuid, p_run_id, d.name, d.position, d.level, 'pending', d.needs = '{}', false,
      d.needs = '{}', cardinality(d.needs), 0, 0, d.max_attempts::integer, null::float8,
      null::timestamptz, null::timestamptz, null::timestamptz, false
    from ordinaut.pipeline_step as d
    where d.pipeline_id = v_pipeline_id and p_step_ids is null
    order by d.position;
    return;
  end if;
  return query
  select r.run_id, r.run_id, r.tool, 1, 0,
    case r.state
      when 'success' then 'complete' when 'running' then 'in_progress'
      when 'cancelled' then 'cancelled' when 'pending' then
        case when r.failures > 0 then 'waiting_for_retry' else 'ready' end
      when 'waiting' then 'pending' else 'error'
    end,
    true, r.attempt > 0 and r.failures < r.max_attempts and r.finished_at is null,
    r.state = 'pending' and r.run_at <= ordinaut.now(), 0, 0, r.attempt, r.max_attempts,
    null::float8, case when r.failures > 0 and r.finished_at is null then r.run_at end,
    r.started_at, case when r.state in ('failed', 'timed_out', 'abandoned') then r.finished_at end,
    false
  from ordinaut.run as r
  where r.run_id = p_run_id;
end
$fn$;

comment on function ordinaut._readiness(uuid, uuid[]) is 'The steps of a run, and how far each is.';

create or replace function ordinaut.get_step_readiness_status(
  p_id       uuid,
  p_step_ids uuid[] default null
)
returns table (
  workflow_step_uuid      uuid,
  task_uuid               uuid,
  name                    text,
  "position"              integer,
  level                   integer,
  current_state           text,
  dependencies_satisfied  boolean,
  retry_eligible          boolean,
  ready_for_execution     boolean,
  total_parents           integer,
  completed_parents       integer,
  attempts                integer,
  retry_limit             integer,
  backoff_request_seconds double precision,
  next_retry_at           timestamptz,
  last_attempted_at       timestamptz,
  last_failure_at         timestamptz,
  is_blocked              boolean
)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $fn$
  select r.*
  from ordinaut._run_of(p_id) as o (run_id)
  cross join lateral ordinaut._readiness(o.run_id, case
    when p_step_ids is not null then p_step_ids
    when p_id <> o.run_id and exists (
      select from ordinaut.step as s where s.step_id = p_id) then array[p_id]
  end) as r;
$fn$;

comment on function ordinaut.get_step_readiness_status(uuid, uuid[]) is
  'Whether steps can run, and why not: one row for the id of a step; all steps of a run for its id '
  'or that of its task (the newest run), or those in p_step_ids. task_uuid is the run. '
  'retry_eligible: it failed and may be tried again; ready_for_execution: now. '
  'backoff_request_seconds: the delay that its last failure asked for, null when the backoff of '
  'its retry policy was drawn. Before a run starts its steps have no id yet. Errors: OR020.';

create or replace function ordinaut.get_step_readiness_status_batch(p_ids uuid[])
returns table (
  workflow_step_uuid      uuid,
  task_uuid               uuid,
  name                    text,
  "position"              integer,
  level                   integer,
  current_state           text,
  dependencies_satisfied  boolean,
  retry_eligible          boolean,
  ready_for_execution     boolean,
  total_parents           integer,
  completed_parents       integer,
  attempts                integer,
  retry_limit             integer,
  backoff_request_seconds double precision,
  next_retry_at           timestamptz,
  last_attempted_at       timestamptz,
  last_failure_at         timestamptz,
  is_blocked              boolean
)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $fn$
  select r.*
  from unnest(p_ids) as i (id)
  cross join lateral ordinaut.get_step_readiness_status(i.id) as r;
$fn$;

comment on function ordinaut.get_step_readiness_status_batch(uuid[]) is
  'get_step_readiness_status() of several ids. Errors: OR020.';

create or replace function ordinaut.get_task_execution_context(p_id uuid)
returns table (
  task_uuid             uuid,
  task_id               uuid,
  namespace             text,
  name                  text,
  status                text,
  total_steps           integer,
  pending_steps         integer,
  in_progress_steps     integer,
  completed_steps       integer,
  failed_steps          integer,
  ready_steps           integer,
  error_steps           integer,
  waiting_steps         integer,
  skipped_steps         integer,
  cancelled_steps       integer,
  blocked_steps         integer,
  blocked_by_errors     boolean,
  completion_percentage numeric,
  execution_status      text,
  recommended_action    text,
  health_status         text
)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_run_id uuid := ordinaut._run_of(p_id);
  v_task_id uuid;
  v_tool text;
  v_state text;
begin
  -- The view of all runs reads every lease: only for those that have no row of their own.
  select r.task_id, r.tool, r.state into v_task_id, v_tool, v_state
  from ordinaut.task_run as r
  where r.run_id = v_run_id;
  if not found then
    select r.task_id, r.tool, r.state into v_task_id, v_tool, v_state
    from ordinaut.run as r
    where r.run_id = v_run_id;
  end if;

  return query
  with step as (
    select
      count(*) as total,
      count(*) filter (where s.current_state = 'pending') as pending,
      count(*) filter (where s.current_state = 'in_progress') as in_progress,
      count(*) filter (
        where s.current_state in ('complete', 'skipped', 'resolved_manually')) as completed,
      count(*) filter (where s.current_state = 'error' and not s.retry_eligible) as failed,
      count(*) filter (where s.ready_for_execution) as ready,
      count(*) filter (where s.current_state = 'error') as error,
      count(*) filter (
        where s.current_state = 'waiting_for_retry' and not s.ready_for_execution
          or s.current_state = 'error' and s.retry_eligible) as waiting,
      count(*) filter (where s.current_state = 'skipped') as skipped,
      count(*) filter (where s.current_state = 'cancelled') as cancelled,
      count(*) filter (where s.is_blocked) as blocked
    from ordinaut._readiness(v_run_id, null) as s
  ),
  judged as (
    select s.*,
      case
        when v_state = 'success' then 'all_complete'
        when v_state = 'cancelled' then 'cancelled'
        when s.failed > 0 or v_state in ('failed', 'timed_out', 'abandoned')
          then 'blocked_by_failures'
        when s.ready > 0 then 'has_ready_steps'
        when s.in_progress > 0 then 'processing'
        when s.completed = s.total then 'all_complete'
        when s.waiting > 0 then 'waiting_for_retry'
        else 'waiting_for_dependencies'
      end as execution
    from step as s
  )
  select
    v_run_id, v_task_id, coalesce(t.namespace, 'default'), coalesce(t.name, v_tool), v_state,
    j.total::integer, j.pending::integer, j.in_progress::integer, j.completed::integer,
    j.failed::integer, j.ready::integer, j.error::integer, j.waiting::integer, j.skipped::integer,
    j.cancelled::integer, j.blocked::integer,
    j.execution = 'blocked_by_failures',
    case
      when v_state = 'success' then 100
      when j.total = 0 then 0
      else round(100.0 * j.completed / j.total, 2)
    end,
    j.execution,
    case j.execution
      when 'blocked_by_failures' then 'handle_failures'
      when 'has_ready_steps' then 'execute_ready_steps'
      when 'processing' then 'wait_for_completion'
      when 'all_complete' then 'finalize_task'
      when 'waiting_for_retry' then 'wait_for_retry'
      when 'waiting_for_dependencies' then 'wait_for_dependencies'
    end,
    case
      when j.execution = 'blocked_by_failures' then 'blocked'
      when j.execution = 'cancelled' then 'unknown'
      when j.error > 0 or j.waiting > 0 then 'recovering'
      else 'healthy'
    end
  from judged as j
  left join ordinaut.task as t on t.task_id = v_task_id;
end
$fn$;

comment on function ordinaut.get_task_execution_context(uuid) is
  'A run as a whole, by the id of a step, a run or a task (its newest run): counts of its steps by '
  'state (completed: also skipped and resolved; error: in that state; failed: those of them that '
  'will not be tried again), and what follows. execution_status: blocked_by_failures, '
  'has_ready_steps, processing, all_complete, waiting_for_retry, waiting_for_dependencies, '
  'cancelled. Errors: OR020.';

create or replace function ordinaut.get_task_execution_contexts_batch(p_ids uuid[])
returns table (
  task_uuid             uuid,
  task_id               uuid,
  namespace             text,
  name                  text,
  status                text,
  total_steps           integer,
  pending_steps         integer,
  in_progress_steps     integer,
  completed_steps       integer,
  failed_steps          integer,
  ready_steps           integer,
  error_steps           integer,
  waiting_steps         integer,
  skipped_steps         integer,
  cancelled_steps       integer,
  blocked_steps         integer,
  blocked_by_errors     boolean,
  completion_percentage numeric,
  execution_status      text,
  recommended_action    text,
  health_status         text
)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $fn$
  select c.*
  from unnest(p_ids) as i (id)
  cross join lateral ordinaut.get_task_execution_context(i.id) as c;
$fn$;

comment on function ordinaut.get_task_execution_contexts_batch(uuid[]) is
  'get_task_execution_context() of several ids. Errors: OR020.';

create or replace function ordinaut.calculate_dependency_levels(p_id uuid)
returns table (workflow_step_uuid uuid, name text, dependency_level integer)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $fn$
  select r.workflow_step_uuid, r.name, r.level
  from ordinaut._readiness(ordinaut._run_of(p_id), null) as r
  order by r.level, r.position;
$fn$;

comment on function ordinaut.calculate_dependency_levels(uuid) is
  'How deep each step of a run lies: 0 needs nothing, else one more than the deepest that it '
  'needs. Errors: OR020.';

create or replace function ordinaut.get_step_transitive_dependencies(p_step_id uuid)
returns table (workflow_step_uuid uuid, name text, distance integer, state text, results jsonb)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $fn$
  with recursive up as (
    select s.run_id, r.pipeline_id, s.defined_by as at, 0 as distance
    from ordinaut.step as s
    join ordinaut.task_run as r on r.run_id = s.run_id
    where s.step_id = p_step_id
    union
    select u.run_id, u.pipeline_id, n.at, u.distance + 1
    from up as u
    join ordinaut.pipeline_step as d on d.pipeline_id = u.pipeline_id and d.position = u.at
    cross join unnest(d.needs) as n (at)
  )
  select s.step_id, s.name, min(u.distance), s.state, s.output
  from up as u
  join ordinaut.step as s on s.run_id = u.run_id and s.position = u.at
  where u.distance > 0
  group by s.step_id, s.name, s.state, s.output, s.position
  order by min(u.distance), s.position;
$fn$;

comment on function ordinaut.get_step_transitive_dependencies(uuid) is
  'Every step that a step needs, directly (distance 1) or through others, with its output. No rows '
  'for one that needs nothing.';
