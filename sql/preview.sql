/*
 * What is to come, as far as the database knows it: once and interval for good, other calendars as
 * far as they are planned.  `ordinaut task preview` asks a calendar itself, and goes further.
 */

-- How many more runs max_runs lets a task have; null: any number.
create or replace function ordinaut._runs_left(
  p_task ordinaut.task,
  p_plan ordinaut.task_schedule
)
returns bigint
language sql
immutable
as $fn$
  select case
    when p_task.max_runs is not null
      then greatest(p_task.max_runs - p_plan.fired_count - p_plan.buffered_count, 0)
  end;
$fn$;

comment on function ordinaut._runs_left(ordinaut.task, ordinaut.task_schedule) is
  'How many more runs max_runs lets a task have; null: any number.';

create or replace function ordinaut.preview(p_task text, p_n integer default 10)
returns table (scheduled_for timestamptz, local timestamp, note text)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_task ordinaut.task;
  v_plan ordinaut.task_schedule;
  v_every interval;
  v_left bigint;
  v_end text;  -- what is known of the time after the last row
begin
  perform ordinaut._check_count('n', p_n, 1, 10000);
  select t.* into v_task from ordinaut.task as t where t.task_id = ordinaut._task_id(p_task);
  select s.* into v_plan from ordinaut.task_schedule as s where s.task_id = v_task.task_id;
  v_left := ordinaut._runs_left(v_task, v_plan);
  if v_task.schedule_kind = 'interval'
    and not ordinaut._is_planned(v_task) and not ordinaut._is_told(v_task)
  then
    v_every := ordinaut._every(v_task.schedule_expr);
  end if;
  v_end := case
    when v_task.status <> 'active' then 'it is ' || v_task.status
    when v_task.schedule_kind = 'manual' then 'it has no schedule'
    when ordinaut._is_told(v_task) then 'what comes after is told when it happens'
    when ordinaut._is_planned(v_task) and not v_plan.is_exhausted
      then coalesce('planned until ' || v_plan.planned_until, 'not planned yet')
    else 'the last'
  end;

  return query
  with known as (
    select
      k.at, k.excluded_for, k.dst,
      count(*) filter (where k.excluded_for is null) over (order by k.at) as number
    from (
      select
        u.at, ordinaut._told(v_plan.excluded, u.at) as excluded_for,
        ordinaut._told(v_plan.dst, u.at) as dst
      from unnest(v_plan.upcoming) as u (at)
      where u.at >= v_plan.next_run
      union all
      select v_plan.next_run + n.n * v_every, null, null
      from generate_series(0, p_n) as n (n)
      where v_every is not null
      union all
      select v_plan.next_run, null, null
      where v_every is null and v_plan.upcoming is null
    ) as k
    where
      v_task.status = 'active'
      and (k.at <= v_task.end_at or v_task.end_at is null)
  ),
  listed as (
    select
      k.at, k.excluded_for, k.dst, row_number() over (order by k.at) as n, count(*) over () as of
    from known as k
    where k.at is not null and (k.number <= v_left or v_left is null)
    order by k.at
    limit p_n
  )
  select
    l.at, l.at at time zone v_task.timezone,
    nullif(concat_ws('; ', 'excluded: ' || l.excluded_for, l.dst,
      case when l.n = l.of and l.of < p_n then
        case when v_left <= l.of then 'the last: max_runs' else v_end end
      end), '')
  from listed as l
  order by l.at;
  if not found then
    return query select null::timestamptz, null::timestamp, v_end;
  end if;
end
$fn$;

comment on function ordinaut.preview(text, integer) is
  'The next p_n occurrences of a task as the database knows them, with wall time in its zone. '
  'note: what excludes one, what a change of the clocks did to it, and at the last one, if fewer '
  'than p_n are known, why: planned until when, or that there is no other. A task of which '
  'nothing is known is one row without a time. Errors: OR020, invalid_parameter_value.';

create or replace function ordinaut._microseconds(p_span interval)
returns bigint
language sql
immutable
as $fn$
  select (extract(epoch from p_span) * 1000000)::bigint;
$fn$;

comment on function ordinaut._microseconds(interval) is 'A duration in microseconds.';

create or replace function ordinaut.forecast(
  p_from   timestamptz default null,
  p_to     timestamptz default null,
  p_bucket interval    default '5 min'
)
returns table (at timestamptz, expected bigint, tasks bigint, is_complete boolean)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
set jit = off
as $fn$
declare
  v_from timestamptz := coalesce(p_from, ordinaut.now());
  v_to timestamptz := coalesce(p_to, v_from + interval '1 hour');
  -- Integers from here on: exact, and quick where 10 000 tasks meet 1000 buckets.
  v_step bigint;
  v_length bigint;
  v_buckets bigint;
  v_known timestamptz;  -- up to here every calendar is
begin
  perform ordinaut._check_at('from', v_from);
  perform ordinaut._check_at('to', v_to);
  perform ordinaut._check_span('bucket', coalesce(p_bucket, '-1 s'), '1 s', '366 days');
  if v_to <= v_from then
    perform ordinaut._refuse('to must be after from');
  end if;
  v_step := ordinaut._microseconds(p_bucket);
  v_length := ordinaut._microseconds(v_to - v_from);
  v_buckets := (v_length - 1) / v_step + 1;
  if v_buckets > 1000 then
    perform ordinaut._refuse(format('from %s to %s are %s buckets, at most 1000 can be', v_from,
      v_to, v_buckets), 'Take wider buckets, or a shorter time.');
  end if;

  select min(case
    when ordinaut._is_told(t) then coalesce(s.next_run, '-infinity')
    else coalesce(s.planned_until, '-infinity')
  end) into v_known
  from ordinaut.task as t
  join ordinaut.task_schedule as s on s.task_id = t.task_id
  where
    t.status = 'active'
    and (ordinaut._is_told(t) or (ordinaut._is_planned(t) and not s.is_exhausted));

  return query
  with live as materialized (
    select
      t.task_id, s.next_run, s.upcoming, s.excluded, t.end_at,
      ordinaut._runs_left(t, s) as runs_left,
      ordinaut._microseconds(s.next_run - v_from) as first,
      ordinaut._microseconds(t.end_at - s.next_run) as lasting,
      case
        when t.schedule_kind = 'interval' and not ordinaut._is_planned(t)
          and not ordinaut._is_told(t)
          then ordinaut._microseconds(ordinaut._every(t.schedule_expr))
      end as every
    from ordinaut.task as t
    join ordinaut.task_schedule as s on s.task_id = t.task_id
    where t.status = 'active' and s.next_run < v_to
  ),
  -- Of an interval not each occurrence: the number of the first in a bucket, and of the last.
  spans as (
    select
      l.task_id, b.n,
      (greatest(b.n * v_step - l.first, 0) + l.every - 1) / l.every as low,
      least((least((b.n + 1) * v_step, v_length) - l.first - 1) / l.every, l.lasting / l.every,
        l.runs_left - 1) as high
    from live as l
    cross join lateral generate_series(greatest(l.first, 0) / v_step, v_buckets - 1) as b (n)
    where l.every is not null
  ),
  hits as (
    select s.task_id, s.n, s.high - s.low + 1 as expected from spans as s where s.high >= s.low
    union all
    select p.task_id, p.n, count(*)
    from (
      select l.task_id, ordinaut._microseconds(u.at - v_from) / v_step as n
      from live as l
      cross join lateral (
        select x.at
        from unnest(coalesce(l.upcoming, array[l.next_run])) as x (at)
        where
          x.at >= l.next_run
          and (x.at <= l.end_at or l.end_at is null)
          and ordinaut._told(l.excluded, x.at) is null
        order by x.at
        limit l.runs_left
      ) as u
      where l.every is null and u.at >= v_from and u.at < v_to
    ) as p
    group by p.task_id, p.n
  ),
  summed as (
    select h.n, sum(h.expected)::bigint as expected, count(*) as tasks from hits as h group by h.n
  )
  select
    v_from + g.n * v_step * interval '1 us', coalesce(s.expected, 0), coalesce(s.tasks, 0),
    v_known is null or v_from + least((g.n + 1) * v_step, v_length) * interval '1 us' <= v_known
  from generate_series(0, v_buckets - 1) as g (n)
  left join summed as s on s.n = g.n
  order by g.n;
end
$fn$;

comment on function ordinaut.forecast(timestamptz, timestamptz, interval) is
  'How many occurrences of how many active tasks lie in each p_bucket from p_from (null: now) to '
  'before p_to (null: an hour later), as far as the database knows; overlap and catchup may let '
  'fewer run. is_complete: every calendar is planned up to the end of the bucket. Errors: '
  'invalid_parameter_value.';
