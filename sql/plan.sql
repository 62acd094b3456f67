/*
 * Plans: what a planner expanded of the calendars that SQL cannot compute: cron, rrule, unions, and
 * all that exclude named calendars.  What is excluded is in the plan too, with the reason: tick
 * records it, so that no occurrence is lost without a row.
 *
 *   create_task, update_task, resume_task, set_calendar --> replan_at = now
 *   unplanned_tasks() --> the planner (Python, pure) --> plan_task() | invalidate_task()
 *   tick() fires upcoming; replan_at comes before it runs short
 *
 * A planner begins where the last decision was made (fired_until, plan_after), never now: what
 * passed while no scheduler ran reaches tick and its catchup policy.  A plan replaces the one
 * before, so any number of planners may race; one that read an older revision is ignored, and
 * what was decided meanwhile is left out.
 *
 * A planner waits for nobody: whose row an edit, a tick or another planner holds is left for the
 * next call.  An edit in a transaction that somebody leaves open would else stop all planning.
 *
 * Nothing but upcoming occurs up to planned_until.  That is why tick may call an occurrence the
 * latest of those that are due: a plan that ends in the past cannot tell.
 */

create or replace function ordinaut._planned_from(
  p_task ordinaut.task,
  p_plan ordinaut.task_schedule
)
returns timestamptz
language sql
stable
as $fn$
  -- A once has no start, and is completed when it is decided; -infinity is none to Python.
  select case
    when p_task.schedule_kind = 'once'
      then greatest(p_plan.plan_after, '1969-12-31 23:59:59+00')
    else greatest(p_plan.plan_after, p_plan.fired_until, p_task.start_at - interval '1 us')
  end;
$fn$;

comment on function ordinaut._planned_from(ordinaut.task, ordinaut.task_schedule) is
  'The instant after which the occurrences of a task are to be planned.';

-- What SQL computes by itself, it reads by itself: a planner must not read it otherwise.
create or replace function ordinaut._expr_to_plan(p_task ordinaut.task)
returns text
language plpgsql
stable
as $fn$
begin
  return case p_task.schedule_kind
    when 'interval' then extract(epoch from ordinaut._every(p_task.schedule_expr))::text
    when 'once' then to_char(
      ordinaut._once_at(p_task.schedule_expr, p_task.timezone) at time zone 'UTC',
      'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"')
    else p_task.schedule_expr
  end;
exception
  -- A zone that this server lost, say: one task must not keep the others from being planned.
  when data_exception then
    return p_task.schedule_expr;
end
$fn$;

comment on function ordinaut._expr_to_plan(ordinaut.task) is
  'The expression of a task for a planner: an interval in seconds, a once as an instant. What '
  'cannot be read it gets as it is, to refuse it.';

create or replace function ordinaut.unplanned_tasks(p_limit integer default 100)
returns table (
  task_id       uuid,
  revision      integer,
  schedule_kind text,
  schedule_expr text,
  timezone      text,
  dst_gap       text,
  dst_overlap   text,
  dtstart       timestamptz,
  start_at      timestamptz,
  plan_after    timestamptz,
  end_at        timestamptz,
  now           timestamptz,
  calendars     jsonb
)
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_now timestamptz := ordinaut.now();
begin
  perform ordinaut._check_count('limit', p_limit, 1, 100000);
  return query
  select
    t.task_id, t.revision, t.schedule_kind, ordinaut._expr_to_plan(t), t.timezone, t.dst_gap,
    t.dst_overlap, ordinaut._anchor(t), t.start_at,
    ordinaut._planned_from(t, s), t.end_at, v_now,
    case when t.exclude is not null then ordinaut._calendars_of(t) end
  from ordinaut.task_schedule as s
  join ordinaut.task as t on t.task_id = s.task_id
  where s.replan_at <= v_now and t.status = 'active'
  order by s.replan_at, s.task_id
  limit p_limit
  for key share of s skip locked;
end
$fn$;

comment on function ordinaut.unplanned_tasks(integer) is
  'What a planner needs to know of the active tasks whose plan is missing or runs short: it '
  'passes the occurrences after plan_after and up to end_at to plan_task(), those that one of '
  'calendars (set_calendar()''s data, with name and timezone) excludes too. Tasks that somebody '
  'changes just now are left for the next call. Errors: invalid_parameter_value.';

create or replace function ordinaut.outdate_plans(p_tzdata text)
returns bigint
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_n bigint;
begin
  with old as (
    select s.task_id
    from ordinaut.task_schedule as s
    join ordinaut.task as t on t.task_id = s.task_id
    where
      t.status = 'active'
      and s.tzdata collate "C" < p_tzdata collate "C"
      and s.replan_at is distinct from '-infinity'
    for no key update of s skip locked
  )
  update ordinaut.task_schedule as s
  set replan_at = '-infinity'
  from old as o
  where s.task_id = o.task_id;
  get diagnostics v_n = row_count;
  return v_n;
end
$fn$;

comment on function ordinaut.outdate_plans(text) is
  'Call for new plans where the IANA data of the old one is older than this release (2026a). '
  'What was decided stays decided. Returns how many; call it again for those that somebody '
  'changes just now.';

create or replace function ordinaut.plan_task(
  p_task_id       uuid,
  p_revision      integer,
  p_upcoming      timestamptz[],
  p_planned_until timestamptz,
  p_tzdata        text,
  p_exhausted     boolean default false,
  p_notes         jsonb   default null,
  p_excluded      jsonb   default null
)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_now timestamptz := ordinaut.now();
  v_plan ordinaut.task_schedule;
  v_task ordinaut.task;
  v_upcoming timestamptz[];
  v_n integer;
begin
  select s.* into v_plan
  from ordinaut.task_schedule as s
  where s.task_id = p_task_id
  for update skip locked;
  if not found then
    return false;
  end if;
  select t.* into v_task from ordinaut.task as t where t.task_id = p_task_id;
  if v_task.revision is distinct from p_revision
    or v_plan.revision <> p_revision
    or v_task.status <> 'active'
  then
    return false;
  end if;

  if p_upcoming is null or cardinality(p_upcoming) > 10000 then
    perform ordinaut._refuse('upcoming must be at most 10000 instants');
  elsif exists (
    select
    from generate_series(2, cardinality(p_upcoming)) as i
    where not coalesce(p_upcoming[i - 1] < p_upcoming[i], false)
  ) then
    perform ordinaut._refuse('upcoming must be strictly increasing');
  elsif jsonb_typeof(p_notes) <> 'object' then
    perform ordinaut._refuse('notes must be an object',
      'For example {"2027-03-14T07:00:00Z": "gap"}.');
  elsif jsonb_typeof(p_excluded) <> 'object' then
    perform ordinaut._refuse('excluded must be an object',
      'For example {"2027-12-25T08:00:00Z": "calendar holidays"}.');
  end if;
  perform ordinaut._check_at('upcoming', p_upcoming[1]);
  perform ordinaut._check_at('upcoming', p_upcoming[cardinality(p_upcoming)]);
  if not coalesce(p_exhausted, false) and (
    p_planned_until is null or p_planned_until < p_upcoming[cardinality(p_upcoming)]
  ) then
    perform ordinaut._refuse('planned_until must not lie before the last of upcoming');
  end if;

  -- What was decided, or snoozed, since the planner read.
  v_upcoming := array(
    select u.at
    from unnest(p_upcoming) as u (at)
    where u.at > ordinaut._planned_from(v_task, v_plan)
    order by u.at
  );
  v_n := cardinality(v_upcoming);
  update ordinaut.task_schedule as s
  set
    next_run = v_upcoming[1],
    upcoming = v_upcoming,
    dst = p_notes,
    excluded = nullif(p_excluded, '{}'),
    planned_until = p_planned_until,
    planned_at = v_now,
    tzdata = p_tzdata,
    is_exhausted = coalesce(p_exhausted, false),
    -- A plan that ends in the past is continued by tick, when it used it; or after a second.
    replan_at = case when not coalesce(p_exhausted, false) then greatest(
      v_now + interval '1 s',
      least(p_planned_until - interval '5 min', v_upcoming[greatest(v_n - 7, 1)])
    ) end
  where s.task_id = p_task_id;
  if p_exhausted and v_n = 0 then
    update ordinaut.task as t
    set
      status = 'completed',
      status_note = 'its schedule has no occurrence left',
      status_by = ordinaut._actor(),
      status_at = v_now
    where t.task_id = p_task_id;
  end if;
  return true;
end
$fn$;

comment on function ordinaut.plan_task(
  uuid, integer, timestamptz[], timestamptz, text, boolean, jsonb, jsonb
) is
  'Store what a planner expanded: the occurrences after plan_after, all of them up to '
  'p_planned_until; p_exhausted: there are no others at all, and a task without any is '
  'completed. p_tzdata: the release of the IANA data. p_notes: what a change of the clocks did, '
  'by instant. p_excluded: which of them do not fire, and why, by instant. False, and nothing is '
  'stored: the task was edited or paused meanwhile, or is just being changed. Errors: '
  'invalid_parameter_value.';

create or replace function ordinaut.invalidate_task(
  p_task_id  uuid,
  p_revision integer,
  p_reason   text
)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
begin
  perform from ordinaut.task_schedule as s where s.task_id = p_task_id for update skip locked;
  if not found then
    return false;
  end if;
  perform
  from ordinaut.task as t
  where t.task_id = p_task_id and t.revision = p_revision and t.status = 'active';
  if not found then
    return false;
  end if;
  perform ordinaut._stop_task(p_task_id, 'invalid', p_reason, ordinaut._actor());
  return true;
end
$fn$;

comment on function ordinaut.invalidate_task(uuid, integer, text) is
  'Make an active task invalid: its calendar is none, for this reason. False: it was edited or '
  'paused meanwhile, or is just being changed, and is left alone.';
