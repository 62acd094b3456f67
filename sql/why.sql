/*
 * Why has it not run?  Every condition of the engine is a row somewhere; this reads them all.
 * Runs and steps are in why_run.sql.
 */

-- Whether the next occurrence is excluded, and what comes after, as far as it is planned.
create or replace function ordinaut._why_excluded(p_plan ordinaut.task_schedule)
returns table (reason text, detail text, since timestamptz, until timestamptz, subject text)
language sql
stable
as $fn$
  select
    'excluded',
    format('its occurrence of %s does not fire: %s; %s', p_plan.next_run, e.why,
      case
        when n.at is not null then 'the next that does lies ahead'
        when p_plan.is_exhausted then 'and none that does is left'
        else format('nor does any other that is planned, up to %s', p_plan.planned_until)
      end),
    p_plan.planned_at, n.at, e.why
  from (select ordinaut._told(p_plan.excluded, p_plan.next_run)) as e (why)
  cross join lateral (
    select min(u.at)
    from unnest(p_plan.upcoming) as u (at)
    where u.at > p_plan.next_run and ordinaut._told(p_plan.excluded, u.at) is null
  ) as n (at)
  where e.why is not null;
$fn$;

comment on function ordinaut._why_excluded(ordinaut.task_schedule) is
  'Why the next occurrence of a task does not fire; no rows if no calendar excludes it.';

create or replace function ordinaut._why_condition(p_plan ordinaut.task_schedule)
returns table (reason text, detail text, since timestamptz, until timestamptz, subject text)
language sql
stable
as $fn$
  select
    case
      when p_plan.is_met then 'condition_met'
      when p_plan.is_met is null then 'condition_unknown'
      else 'condition_unmet'
    end,
    case
      when p_plan.is_met
        then 'its condition is true and it fired when that began: it must be false in between'
      when p_plan.is_met is null then 'its condition has never been known'
      else 'its condition was false when it was asked last'
    end,
    p_plan.met_at, p_plan.look_at, p_plan.task_id::text
  union all
  select
    'condition_error',
    format('its condition could not be asked, %s times in a row: %s', p_plan.look_failures,
      p_plan.look_error),
    null, p_plan.look_at, p_plan.task_id::text
  where p_plan.look_error is not null
  union all
  select
    'not_polled', 'its condition is to be asked and nobody does: no scheduler runs, or it is late',
    p_plan.look_at, null, p_plan.task_id::text
  where p_plan.look_at < ordinaut.now() - interval '10 s';
$fn$;

comment on function ordinaut._why_condition(ordinaut.task_schedule) is
  'Why a condition does not fire now.';

create or replace function ordinaut._why_after_end(
  p_task ordinaut.task,
  p_plan ordinaut.task_schedule
)
returns table (reason text, detail text, since timestamptz, until timestamptz, subject text)
language sql
stable
as $fn$
  select
    case when l.ended_at is null then 'waits_end' else 'not_due' end,
    case
      when l.ended_at is null then format('it waits for the end of run %s', l.run_id)
      else 'its last run has ended, and its next occurrence lies ahead'
    end,
    coalesce(l.ended_at, p_plan.last_run),
    greatest(l.ended_at + ordinaut._every(p_task.schedule_expr), p_plan.plan_after),
    coalesce(l.run_id, p_task.task_id)::text
  from ordinaut._last_ends(array[p_task.task_id], ordinaut.now()) as l;
$fn$;

comment on function ordinaut._why_after_end(ordinaut.task, ordinaut.task_schedule) is
  'Why a task that follows the end of its runs has no next run.';

create or replace function ordinaut._why_task(p_task_id uuid)
returns table (reason text, detail text, since timestamptz, until timestamptz, subject text)
language plpgsql
stable
as $fn$
declare
  v_task ordinaut.task;
  v_plan ordinaut.task_schedule;
begin
  select t.* into v_task from ordinaut.task as t where t.task_id = p_task_id;
  select s.* into v_plan from ordinaut.task_schedule as s where s.task_id = p_task_id;

  if v_task.status <> 'active' then
    return query
    select
      case v_task.status when 'completed' then 'exhausted' else 'task_' || v_task.status end,
      format('it was made %s by %s%s', v_task.status, v_task.status_by,
        coalesce(': ' || v_task.status_note, '')),
      v_task.status_at, null::timestamptz, p_task_id::text;
  elsif v_task.schedule_kind = 'manual' then
    return query
    select
      'manual', 'it has no schedule: run_now() starts it', null::timestamptz, null::timestamptz,
      p_task_id::text;
  elsif v_task.schedule_kind = 'event' then
    return query
    select
      'waits_event',
      format('it waits for event %s: emit_event() starts it', v_task.schedule_expr),
      v_plan.last_run, null::timestamptz, v_task.schedule_expr;
  elsif v_plan.next_run is null and ordinaut._is_planned(v_task) then
    return query
    select
      'not_planned',
      format('its calendar is not planned: %s',
        coalesce('no scheduler has planned anything since ' || max(s.planned_at),
          'no scheduler has ever planned anything')),
      coalesce(max(s.planned_at) filter (where s.task_id = p_task_id), v_task.updated_at),
      null::timestamptz, p_task_id::text
    from ordinaut.task_schedule as s;
  elsif v_plan.next_run is null and v_plan.look_at is not null then
    if v_task.schedule_kind = 'condition' then
      return query select c.* from ordinaut._why_condition(v_plan) as c;
    else
      return query select a.* from ordinaut._why_after_end(v_task, v_plan) as a;
    end if;
  elsif v_plan.next_run is null then
    return query
    select
      'exhausted', 'its schedule has no occurrence left: update_task() can give it another',
      v_plan.last_run, null::timestamptz, p_task_id::text;
  elsif v_plan.next_run > ordinaut.now() then
    return query select e.* from ordinaut._why_excluded(v_plan) as e;
    if not found then
      return query
      select
        'not_due', 'its next occurrence lies ahead', v_plan.last_run, v_plan.next_run,
        p_task_id::text;
    end if;
  else
    return query
    select
      'not_ticked',
      'its occurrence is due and nobody has called tick() since: no scheduler runs, or it is late',
      v_plan.next_run, null::timestamptz, p_task_id::text;
  end if;
  return query
  select
    'not_backfilled',
    format('backfill %s waits for a planner: no scheduler runs, or it is late', b.backfill_id),
    b.created_at, null::timestamptz, b.backfill_id::text
  from ordinaut.backfill as b
  where b.task_id = p_task_id and b.state = 'pending'
  order by b.backfill_id
  limit 3;
  return query
  select
    'live_run', format('run %s is %s', r.run_id, r.state), r.enqueued_at, r.run_at, r.run_id::text
  from ordinaut._live_runs(p_task_id) as r
  order by r.run_id
  limit 20;
  return query
  select
    o.decision, format('the occurrence of %s did not run: %s', o.scheduled_for, o.reason),
    o.decided_at, null::timestamptz, p_task_id::text
  from ordinaut.occurrence as o
  where
    o.task_id = p_task_id
    and o.run_id is null
    and v_task.status in ('active', 'completed')
  order by o.scheduled_for desc
  limit 3;
  -- A queue that leases nothing matters to what is to come, and to what waits.
  return query
  select q.*
  from ordinaut._why_queue(v_task.queue) as q
  where v_task.status = 'active' or exists (select from ordinaut._live_runs(p_task_id));
end
$fn$;

comment on function ordinaut._why_task(uuid) is 'Every reason why a task has not run.';

create or replace function ordinaut.why(p_id text)
returns table (reason text, detail text, since timestamptz, until timestamptz, subject text)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
set jit = off
as $fn$
declare
  v_id uuid;
  v_ids uuid[];
begin
  begin
    v_id := ordinaut._task_id(p_id);
    return query select w.* from ordinaut._why_task(v_id) as w;
  exception
    when sqlstate 'OR020' then
      if lower(replace(p_id, '-', '')) ~ '^[0-9a-f]{4,32}$' then
        v_ids := array(
          select f.id from ordinaut.find_run(p_id) as f (id)
          union all
          select f.id from ordinaut.find_step(p_id) as f (id));
      end if;
      if cardinality(v_ids) is distinct from 1 then
        raise exception using
          errcode = 'OR020',
          message = format('there is no one task, run or step %L', p_id),
          hint = 'Name a task, or give the id of a run or a step, or a longer end of it.';
      end if;
      if exists (select from ordinaut.step as s where s.step_id = v_ids[1]) then
        return query select w.* from ordinaut._why_step(v_ids[1]) as w;
      else
        return query select w.* from ordinaut._why_run(v_ids[1]) as w;
      end if;
      if not found then
        return query
        select
          'ready', 'nothing holds it back: the next lease of its queue may take it',
          null::timestamptz, null::timestamptz, v_ids[1]::text;
      end if;
  end;
end
$fn$;

comment on function ordinaut.why(text) is
  'Every reason why a task, run or step (its id, a unique end of it, or a task''s name) has not '
  'run, since and until when, and what it hangs on; one row ready if there is none. Errors: '
  'OR020.';
