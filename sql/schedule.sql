/*
 * Schedules that SQL computes itself: once and interval.  Both are pure functions of the task,
 * strictly increasing, and never run out of planning.
 *
 * interval: anchor + n x duration, in elapsed time: a day is 24 hours, whatever the zone does.
 * once: an instant; a naive one is wall time in the task's zone.  In a spring gap it is the first
 * instant after the gap, in the repeated hour of autumn the first of the two (Debian cron's rule).
 * `at time zone` alone would pick the second, and an hour after the wish.
 */

create or replace function ordinaut._check_timezone(p_timezone text)
returns void
language plpgsql
stable
as $fn$
begin
  -- pg_timezone_names reads every file of the zone database: only for a zone new to us.  The list
  -- and not a trial cast: POSIX lets any Foo5 pass as a zone, with the sign reversed.
  if p_timezone in ('UTC', 'Etc/UTC')
    or exists (select from ordinaut.task as t where t.timezone = p_timezone)
    or exists (
      select from pg_timezone_names as z
      where z.name = p_timezone and (z.name ~ '/' or z.name in ('UTC', 'GMT'))
    )
  then
    return;
  end if;
  perform ordinaut._refuse(format('timezone %L is not known', left(p_timezone, 80)),
    'Use an IANA name such as Europe/Berlin; abbreviations and offsets are refused.');
end
$fn$;

comment on function ordinaut._check_timezone(text) is
  'Refuse what is not an IANA zone of this server. Errors: invalid_parameter_value.';

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
  if p_expr is null or p_expr !~ '^\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}' then
    perform ordinaut._refuse(format('schedule_expr %L is not a timestamp', left(p_expr, 80)),
      'For kind once: 2027-03-28T09:30, in the task''s zone, or with an offset: '
      '2027-03-28T09:30+02:00.');
  end if;
  begin
    if p_expr ~* '(z|[+-]\d{2}(:?\d{2})?(:\d{2})?)$' then
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

create or replace function ordinaut._every(p_expr text)
returns interval
language plpgsql
immutable
as $fn$
declare
  v_every interval;
begin
  begin
    v_every := p_expr::interval;
  exception
    when data_exception then
      perform ordinaut._refuse(format('schedule_expr %L is not a duration', left(p_expr, 80)),
        'For kind interval: 90 s, 5 min, 12 hours.');
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

-- The first occurrence after an instant; null when there is none.
create or replace function ordinaut._next_occurrence(p_task ordinaut.task, p_after timestamptz)
returns timestamptz
language plpgsql
stable
as $fn$
declare
  v_next timestamptz;
  v_every interval;
  v_anchor timestamptz := coalesce(p_task.start_at, p_task.created_at);
begin
  case p_task.schedule_kind
    when 'once' then
      v_next := ordinaut._once_at(p_task.schedule_expr, p_task.timezone);
      if v_next <= p_after then
        v_next := null;
      end if;
    when 'interval' then
      v_every := ordinaut._every(p_task.schedule_expr);
      v_next := case
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
  'there is none.';
