/*
 * Schedules.  SQL computes once and interval itself: pure functions of the task, strictly
 * increasing, that never run out of planning.  cron, rrule, a union of several, and whatever has
 * calendars to exclude, are expanded by a planner (plan.sql).
 *
 * interval: anchor + n x duration, in elapsed time: a day is 24 hours, whatever the zone does.
 *   5 min                  counted from start_at, or from its creation
 *   15 min phase 2 min     counted from 1970, or from start_at, plus the phase: :02 :17 :32 :47
 *   10 min after end       counted from the end of its last run (after.sql)
 * once: an instant; a naive one is wall time in the task's zone.  In a spring gap it is the first
 * instant after the gap, in the repeated hour of autumn the first of the two (Debian cron's rule).
 * `at time zone` alone would pick the second, and an hour after the wish.
 */

create or replace function ordinaut._local_instant(p_local timestamp, p_timezone text)
returns timestamptz
language plpgsql
stable
as $fn$
declare
  v_utc timestamptz := p_local at time zone 'UTC';
  v_day constant interval := interval '1 day';
  -- The offsets from UTC a day before and a day after.
  v_before interval := v_utc - v_day - ((p_local - v_day) at time zone p_timezone);
  v_after interval := v_utc + v_day - ((p_local + v_day) at time zone p_timezone);
  v_first timestamptz := v_utc - greatest(v_before, v_after);
  v_second timestamptz := v_utc - least(v_before, v_after);
  v_middle timestamptz;
begin
  if v_first at time zone p_timezone = p_local then
    return v_first;
  elsif v_second at time zone p_timezone = p_local then
    return v_second;
  end if;

  -- A gap: find the instant at which the wall clock jumps over p_local.
  while v_second - v_first > interval '1 us' loop
    v_middle := v_first + (v_second - v_first) / 2;
    exit when v_middle in (v_first, v_second);
    if v_middle at time zone p_timezone < p_local then
      v_first := v_middle;
    else
      v_second := v_middle;
    end if;
  end loop;
  return v_second;
end
$fn$;

comment on function ordinaut._local_instant(timestamp, text) is
  'Wall time in a zone as an instant: the first of two in a repeated hour, the end of the gap in '
  'a skipped one.';

create or replace function ordinaut._once_at(p_expr text, p_timezone text)
returns timestamptz
language plpgsql
stable
as $fn$
declare
  v_at timestamptz;
begin
  if p_expr is null or p_expr !~ $re$^\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}$re$ then
    perform ordinaut._refuse(format('schedule_expr %L is not a timestamp', left(p_expr, 80)),
      'For kind once: 2027-03-28T09:30, in the task''s zone, or with an offset: '
      '2027-03-28T09:30+02:00.');
  end if;
  begin
    if p_expr ~* $re$(z|[+-]\d{2}(:?\d{2})?(:\d{2})?)$$re$ then
      v_at := p_expr::timestamptz;
    else
      v_at := ordinaut._local_instant(p_expr::timestamp, p_timezone);
    end if;
  exception
    when data_exception then
      perform ordinaut._refuse(
        format('schedule_expr %L is not a timestamp: %s', left(p_expr, 80), sqlerrm));
  end;
  perform ordinaut._check_at('schedule_expr', v_at);
  return v_at;
end
$fn$;

comment on function ordinaut._once_at(text, text) is
  'The instant of a once schedule. Errors: invalid_parameter_value.';

-- Called at every firing: what it reads was checked by _check_interval, but is cast all the same.
create or replace function ordinaut._every(p_expr text)
returns interval
language plpgsql
immutable
as $fn$
declare
  v_every interval;
begin
  begin
    v_every := case
      when p_expr like '% after end' then left(p_expr, -length(' after end'))::interval
      else split_part(p_expr, ' phase ', 1)::interval
    end;
  exception
    when data_exception then
      perform ordinaut._refuse(format('schedule_expr %L is not a duration', left(p_expr, 80)),
        'For kind interval: 90 s, 12 hours, 15 min phase 2 min, 10 min after end.');
  end;
  if v_every is null or extract(year from v_every) <> 0 or extract(month from v_every) <> 0 then
    perform ordinaut._refuse(format('schedule_expr %L has months or years', left(p_expr, 80)),
      'An interval is elapsed time; months differ in length.');
  end if;
  v_every := make_interval(secs => extract(epoch from v_every));
  perform ordinaut._check_span('schedule_expr', v_every, '1 s', '3650 days');
  return v_every;
end
$fn$;

comment on function ordinaut._every(text) is
  'The duration of an interval schedule, days counted as 24 hours. Errors: '
  'invalid_parameter_value.';

create or replace function ordinaut._phase(p_expr text)
returns interval
language plpgsql
immutable
as $fn$
declare
  v_at constant integer := strpos(p_expr, ' phase ');
  v_phase interval;
begin
  if v_at = 0 then
    return null;
  end if;
  begin
    v_phase := substr(p_expr, v_at + length(' phase '))::interval;
  exception
    when data_exception then
      perform ordinaut._refuse(
        format('schedule_expr %L: its phase is not a duration', left(p_expr, 80)),
        'For kind interval: 15 min phase 2 min.');
  end;
  if extract(year from v_phase) <> 0 or extract(month from v_phase) <> 0
    or not (v_phase >= interval '0 s' and v_phase < ordinaut._every(p_expr))
  then
    perform ordinaut._refuse(
      format('schedule_expr %L: its phase must be less than its duration', left(p_expr, 80)),
      'For kind interval: 15 min phase 2 min.');
  end if;
  return make_interval(secs => extract(epoch from v_phase));
end
$fn$;

comment on function ordinaut._phase(text) is
  'The phase of an interval schedule; null: it has none. Errors: invalid_parameter_value.';

create or replace function ordinaut._anchor(p_task ordinaut.task)
returns timestamptz
language sql
stable
as $fn$
  select case
    when p_task.schedule_kind = 'interval' and p_task.schedule_expr like '% phase %'
      then coalesce(p_task.start_at, '1970-01-01 00:00:00+00')
        + ordinaut._phase(p_task.schedule_expr)
    else coalesce(p_task.start_at, p_task.created_at)
  end;
$fn$;

comment on function ordinaut._anchor(ordinaut.task) is
  'What an interval is counted from; the DTSTART of a rule that has none.';

-- The first occurrence after an instant; null when there is none.
create or replace function ordinaut._next_occurrence(p_task ordinaut.task, p_after timestamptz)
returns timestamptz
language plpgsql
stable
as $fn$
declare
  v_next timestamptz;
  v_every interval;
  v_anchor timestamptz;
begin
  case p_task.schedule_kind
    when 'once' then
      v_next := ordinaut._once_at(p_task.schedule_expr, p_task.timezone);
      if v_next <= p_after then
        v_next := null;
      end if;
    when 'interval' then
      v_every := ordinaut._every(p_task.schedule_expr);
      v_anchor := ordinaut._anchor(p_task);
      v_next := case
        when ordinaut._is_told(p_task) then null
        -- With a start of its own it is the start; else one duration after creation.
        when p_after < v_anchor then v_anchor
        else v_anchor + v_every * (
          floor(extract(epoch from p_after - v_anchor) / extract(epoch from v_every)) + 1)
      end;
    else
      v_next := null;
  end case;
  return case when p_task.end_at is null or v_next <= p_task.end_at then v_next end;
end
$fn$;

comment on function ordinaut._next_occurrence(ordinaut.task, timestamptz) is
  'The first occurrence of a task''s schedule after an instant, up to its end_at; null when '
  'there is none, or an end of a run or a condition will tell.';

create or replace function ordinaut._next_planned(
  p_plan  ordinaut.task_schedule,
  p_after timestamptz
)
returns timestamptz
language sql
immutable
as $fn$
  select min(u.at) from unnest(p_plan.upcoming) as u (at) where u.at > p_after;
$fn$;

comment on function ordinaut._next_planned(ordinaut.task_schedule, timestamptz) is
  'The first occurrence in a plan after an instant; null when the plan has none.';

create or replace function ordinaut._is_planned(p_task ordinaut.task)
returns boolean
language sql
immutable
as $fn$
  select
    p_task.schedule_kind in ('cron', 'rrule', 'union')
    or (p_task.exclude is not null and p_task.schedule_kind in ('once', 'interval'));
$fn$;

comment on function ordinaut._is_planned(ordinaut.task) is
  'Is a planner needed to say when this task occurs?';

create or replace function ordinaut._is_told(p_task ordinaut.task)
returns boolean
language sql
immutable
as $fn$
  select
    p_task.schedule_kind in ('condition', 'event')
    or (p_task.schedule_kind = 'interval' and p_task.schedule_expr like '% after end');
$fn$;

comment on function ordinaut._is_told(ordinaut.task) is
  'Whether the next occurrence of a task is not known when it fires: the end of its run tells '
  'it, a condition that becomes true, or an event.';

-- A plan tells by instant what a change of the clocks, or a calendar, does to an occurrence.
create or replace function ordinaut._told(p_by_instant jsonb, p_at timestamptz)
returns text
language sql
stable
as $fn$
  select case
    when p_by_instant is not null
      then p_by_instant ->> to_char(p_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
  end;
$fn$;

comment on function ordinaut._told(jsonb, timestamptz) is
  'What an object such as {"2027-03-14T07:00:00Z": "gap"} says of an instant; null: nothing.';
