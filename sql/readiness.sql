/*
 * How far the steps of a run are.  Each function takes one id, of a step, a run or a task (its
 * newest run), and answers for a run of any kind: of a run that has not started the steps are those
 * of its pipeline, and a run of one tool is one step, itself.  The run as a whole: context.sql.
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

-- Whoever is to decide about an error has not yet, as long as it waits for something.
create or replace function ordinaut._may_retry(
  p_state    text,
  p_attempt  integer,
  p_failures integer,
  p_limit    integer,
  p_error    jsonb,
  p_wait     jsonb
)
returns boolean
language sql
immutable
as $fn$
  select p_attempt > 0 and p_failures < p_limit
    and coalesce((p_error ->> 'retryable')::boolean, true)
    and (p_state = 'waiting_for_retry' or (p_state = 'error' and p_wait is not null));
$fn$;

comment on function ordinaut._may_retry(text, integer, integer, integer, jsonb, jsonb) is
  'Whether a step failed, and will be tried again.';

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
  is_blocked              boolean,
  kind                    text
)
language plpgsql
stable
-- Many partitions make the estimate of a plan large, and its compilation cost a second.
set jit = off
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $fn$
declare
  v_low constant uuid := ordinaut._step_floor(p_run_id);
  v_high constant uuid := ordinaut._step_ceiling(p_run_id);
  v_pipeline_id uuid;
  v_started boolean;
  v_blocked integer[] := array[]::integer[];
begin
  select r.pipeline_id, true into v_pipeline_id, v_started
  from ordinaut.task_run as r
  where r.run_id = p_run_id;
  if v_pipeline_id is not null then
    -- All that lies behind a failure for good, if there is one.
    if exists (
      select from ordinaut.step as s
      where s.run_id = p_run_id and s.step_id between v_low and v_high and s.state = 'error'
    ) then
      v_blocked := array(
        with recursive behind as (
          select f.at
          from ordinaut.step as s
          join ordinaut.pipeline_step as d
            on d.pipeline_id = v_pipeline_id and d.position = s.position
          cross join unnest(d.followers) as f (at)
          where
            s.run_id = p_run_id and s.step_id between v_low and v_high
            and s.state = 'error' and not d.continue_on_error
            and not ordinaut._may_retry(
              s.state, s.attempt, s.failures, d.max_attempts, s.error, s.wait)
          union
          select f.at
          from behind as b
          join ordinaut.pipeline_step as d
            on d.pipeline_id = v_pipeline_id and d.position = b.at
          cross join unnest(d.followers) as f (at)
        )
        select b.at from behind as b);
    end if;
    return query
    select s.step_id, s.run_id, s.name, s.position, d.level, s.state,
      n.done = n.total,
      ordinaut._may_retry(s.state, s.attempt, s.failures, d.max_attempts, s.error, s.wait),
      n.done = n.total and (
        s.state = 'ready'
        -- Items and rollbacks take turns: who is pending is not yet next.
        or (s.state = 'pending' and s.kind is null)
        or (s.state = 'waiting_for_retry' and s.next_retry_at <= ordinaut.now())),
      n.total::integer, n.done::integer, s.attempt::integer, d.max_attempts::integer,
      extract(epoch from s.retry_after)::float8, s.next_retry_at, s.started_at,
      case when s.error is not null then coalesce(s.finished_at, (
        select max(g.at) from ordinaut.run_log as g
        where g.run_id = s.run_id and g.step = s.name
          and g.event in ('failed', 'timed_out', 'crashed'))) end,
      s.kind is null and s.state in ('pending', 'cancelled') and s.position = any (v_blocked),
      s.kind
    from ordinaut.step as s
    cross join lateral (
      select q.level, q.needs, case s.kind
          when 'rollback' then coalesce((q.on_rollback ->> 'retry_count')::integer, 3)
          else q.max_attempts
        end as max_attempts
      from ordinaut.pipeline_step as q
      where q.pipeline_id = v_pipeline_id and q.position = s.defined_by
      offset 0
    ) as d
    cross join lateral (
      select
        count(*) as total,
        count(*) filter (where ordinaut._satisfies(p.state, pd.continue_on_error)) as done
      from unnest(case when s.kind is null then d.needs else '{}' end) as need (at)
      cross join lateral (
        select t.state from ordinaut.step as t
        where
          t.run_id = p_run_id and t.step_id between v_low and v_high and t.position = need.at
        offset 0
      ) as p
      cross join lateral (
        select q.continue_on_error from ordinaut.pipeline_step as q
        where q.pipeline_id = v_pipeline_id and q.position = need.at
        offset 0
      ) as pd
    ) as n
    where
      s.run_id = p_run_id and s.step_id between v_low and v_high
      and (p_step_ids is null or s.step_id = any (p_step_ids))
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
      null::timestamptz, null::timestamptz, null::timestamptz, false, null::text
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
    false, null
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
  is_blocked              boolean,
  kind                    text,
  run_id                  uuid,
  max_attempts            integer
)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $fn$
  select r.*, r.task_uuid, r.retry_limit
  from ordinaut._run_of(p_id) as o (run_id)
  cross join lateral ordinaut._readiness(o.run_id, case
    when p_step_ids is not null then p_step_ids
    when p_id <> o.run_id and exists (
      select from ordinaut.step as s where s.step_id = p_id) then array[p_id]
  end) as r;
$fn$;

comment on function ordinaut.get_step_readiness_status(uuid, uuid[]) is
  'Whether steps can run, and why not: one row for the id of a step; all steps of a run for its '
  'id or that of its task (the newest run), or those in p_step_ids. task_uuid is the run '
  '(run_id, too), retry_limit the attempts in all (max_attempts, too). is_blocked: what it '
  'needs, or that in turn, failed for good. kind: item (of a map), rollback, or null. '
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
  is_blocked              boolean,
  kind                    text,
  run_id                  uuid,
  max_attempts            integer
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

create or replace function ordinaut.calculate_dependency_levels(p_id uuid)
returns table (workflow_step_uuid uuid, name text, dependency_level integer)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $fn$
begin
  if exists (select from ordinaut.pipeline as p where p.pipeline_id = p_id) then
    return query
    select null::uuid, d.name, d.level
    from ordinaut.pipeline_step as d
    where d.pipeline_id = p_id
    order by d.level, d.position;
  else
    return query
    select r.workflow_step_uuid, r.name, r.level
    from ordinaut._readiness(ordinaut._run_of(p_id), null) as r
    where r.kind is null
    order by r.level, r.position;
  end if;
end
$fn$;

comment on function ordinaut.calculate_dependency_levels(uuid) is
  'How deep each step of a run, a task''s newest run or a pipeline lies: 0 needs nothing, else '
  'one more than the deepest that it needs. Errors: OR020.';

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
  'Every step that a step needs, directly (distance 1) or through others, with its output. No '
  'rows for one that needs nothing.';
