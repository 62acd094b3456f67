/*
 * What fails, how often, and what to do about it: statistics, recovery, and the verbs for many
 * runs at once.
 */

-- Failed for a reason that may pass, and nobody has run it again.
create or replace function ordinaut._recoverable(p_run ordinaut.task_run)
returns boolean
language sql
stable
as $fn$
  select
    p_run.state in ('failed', 'timed_out', 'abandoned')
    and (select c.recoverable from ordinaut._class_of(p_run.error) as c)
    and not exists (
      select from ordinaut.hold as h where h.key = 'retry:' || p_run.run_id and h.slot = 0
    );
$fn$;

comment on function ordinaut._recoverable(ordinaut.task_run) is
  'Whether a run may be worth recovering.';

create or replace function ordinaut.get_error_statistics(
  p_since timestamptz default null,
  p_task  text        default null
)
returns table (
  total_failures      bigint,
  by_category         jsonb,
  by_severity         jsonb,
  by_error_code       jsonb,
  recovery_candidates bigint
)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_since timestamptz := coalesce(p_since, ordinaut.now() - interval '1 day');
  v_task_id uuid;
begin
  perform ordinaut._check_at('since', p_since);
  if p_task is not null then
    v_task_id := ordinaut._task_id(p_task);
  end if;
  return query
  with failed as materialized (
    select c.category, c.severity, c.code, ordinaut._recoverable(r) as recoverable
    from ordinaut.task_run as r
    cross join lateral ordinaut._class_of(r.error) as c
    where
      r.state in ('failed', 'timed_out', 'abandoned')
      and r.finished_at >= v_since
      and (v_task_id is null or r.task_id = v_task_id)
  )
  select
    (select count(*) from failed),
    coalesce((
      select jsonb_object_agg(g.what, g.n)
      from (select f.category as what, count(*) as n from failed as f group by 1) as g
    ), '{}'),
    coalesce((
      select jsonb_object_agg(g.what, g.n)
      from (select f.severity as what, count(*) as n from failed as f group by 1) as g
    ), '{}'),
    coalesce((
      select jsonb_object_agg(g.what, g.n)
      from (select f.code as what, count(*) as n from failed as f group by 1) as g
    ), '{}'),
    (select count(*) from failed as f where f.recoverable);
end
$fn$;

comment on function ordinaut.get_error_statistics(timestamptz, text) is
  'Runs that failed, timed out or were abandoned since p_since (null: a day ago), of all tasks '
  'or one: how many, of which categories, severities and codes, and how many of them may be '
  'worth recovering (get_failed_runs_for_recovery). Errors: OR020, invalid_parameter_value.';

create or replace function ordinaut.get_execution_statistics(
  p_since timestamptz default null,
  p_task  text        default null
)
returns table (total bigint, by_status jsonb, avg_duration float8, success_rate float8)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_since uuid := ordinaut._v7_floor(coalesce(p_since, ordinaut.now() - interval '1 day'));
  v_task_id uuid;
begin
  perform ordinaut._check_at('since', p_since);
  if p_task is not null then
    v_task_id := ordinaut._task_id(p_task);
  end if;
  return query
  with counted as (
    select r.state, count(*) as n,
      sum(extract(epoch from r.finished_at - r.started_at)) filter (where r.state = 'success')
        as seconds
    from ordinaut.run as r
    where r.run_id >= v_since and (v_task_id is null or r.task_id = v_task_id)
    group by r.state
  )
  select
    coalesce(sum(c.n), 0)::bigint,
    coalesce(jsonb_object_agg(c.state, c.n), '{}'),
    (max(c.seconds) / nullif(sum(c.n) filter (where c.state = 'success'), 0))::float8,
    (coalesce(sum(c.n) filter (where c.state = 'success'), 0) / nullif(sum(c.n) filter (where
      c.state in ('success', 'failed', 'timed_out', 'abandoned', 'cancelled')), 0))::float8
  from counted as c;
end
$fn$;

comment on function ordinaut.get_execution_statistics(timestamptz, text) is
  'Runs enqueued since p_since (null: a day ago), of all tasks or one: how many, in which '
  'states, how many seconds the successful ones took on average (null: there are none), and '
  'which share of those that have ended succeeded (null: none has). Errors: OR020, '
  'invalid_parameter_value.';

create or replace function ordinaut.get_failed_runs_for_recovery(
  p_limit   integer  default 50,
  p_min_age interval default '5 min'
)
returns table (
  run_id      uuid,
  task_id     uuid,
  tool        text,
  queue       text,
  state       text,
  category    text,
  code        text,
  message     text,
  attempt     integer,
  finished_at timestamptz
)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $fn$
begin
  perform ordinaut._check_count('limit', p_limit, 1, 100000);
  perform ordinaut._check_span('min_age', coalesce(p_min_age, '-1 s'), '0 s', '10 years');
  return query
  select r.run_id, r.task_id, r.tool, r.queue, r.state, c.category, c.code,
    r.error ->> 'message', r.attempt::integer, r.finished_at
  from ordinaut.task_run as r
  cross join lateral ordinaut._class_of(r.error) as c
  where
    r.state in ('failed', 'timed_out', 'abandoned')
    and r.finished_at <= ordinaut.now() - p_min_age
    and ordinaut._recoverable(r)
  order by r.finished_at, r.run_id
  limit p_limit;
end
$fn$;

comment on function ordinaut.get_failed_runs_for_recovery(integer, interval) is
  'Runs that failed p_min_age ago or earlier for a reason that may have passed (not validation, '
  'configuration, permission) and that nobody has run again, oldest first: for recover_run(). '
  'Errors: invalid_parameter_value.';

create or replace function ordinaut.recover_run(p_run_id uuid, p_note text default null)
returns uuid
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_state text;
begin
  select r.state into v_state from ordinaut.run as r where r.run_id = p_run_id;
  if not found then
    raise exception using
      errcode = 'OR020',
      message = format('run %s not found', p_run_id),
      hint = 'list_runs() shows runs; old ones may have been pruned.';
  elsif v_state not in ('failed', 'timed_out', 'abandoned') then
    raise exception using
      errcode = 'OR031',
      message = format('run %s is not in failed state, but %s', p_run_id, v_state),
      hint = case
        when v_state = 'cancelled' then 'retry_run() runs a cancelled run again.'
        else 'Only what failed, timed out or was abandoned can be recovered.'
      end;
  end if;
  return (select r.retried_as from ordinaut.retry_run(p_run_id, p_note => p_note) as r);
end
$fn$;

comment on function ordinaut.recover_run(uuid, text) is
  'Run again what failed, as a new run, whose id it returns; called twice, it returns the same '
  'one. Errors: OR020 (not found), OR031 (it is not in failed state).';

create or replace function ordinaut.cancel_runs(p_run_ids uuid[], p_note text default null)
returns table (run_id uuid, outcome text, detail text)
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
begin
  -- Ids ascending: two callers with the same ids must not wait for each other.
  for run_id in select distinct u.id from unnest(p_run_ids) as u (id) order by 1 loop
    begin
      detail := ordinaut.cancel_run(run_id, p_note);
      outcome := case detail when 'too_late' then 'skipped' else 'updated' end;
    exception
      when sqlstate 'OR020' then
        outcome := 'failed';
        detail := sqlerrm;
    end;
    return next;
  end loop;
end
$fn$;

comment on function ordinaut.cancel_runs(uuid[], text) is
  'Cancel many runs; one row for each. outcome: updated (detail: cancelled or requested), '
  'skipped (it had ended: too_late), failed (detail: why).';

create or replace function ordinaut.retry_runs(p_run_ids uuid[], p_note text default null)
returns table (run_id uuid, outcome text, detail text)
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
begin
  for run_id in select distinct u.id from unnest(p_run_ids) as u (id) order by 1 loop
    begin
      select case r.outcome when 'new' then 'updated' else 'skipped' end, r.retried_as::text
      into outcome, detail
      from ordinaut.retry_run(run_id, p_note => p_note) as r;
    exception
      when sqlstate 'OR020' then
        outcome := 'failed';
        detail := sqlerrm;
      when sqlstate 'OR031' then
        outcome := 'skipped';
        detail := sqlerrm;
    end;
    return next;
  end loop;
end
$fn$;

comment on function ordinaut.retry_runs(uuid[], text) is
  'Run many runs again; one row for each. outcome: updated (detail: the new run), skipped (it '
  'was retried before, or has not failed), failed (detail: why).';
