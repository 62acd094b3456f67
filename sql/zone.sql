/*
 * Time zones as this server knows them.  Plans are made with the tzdata package of whoever plans;
 * `once`, and what a statement asks of `at time zone`, is the server's.  doctor compares the two.
 */

create or replace function ordinaut._zone_offset(p_timezone text, p_at timestamptz)
returns interval
language sql
stable
as $fn$
  select (p_at at time zone p_timezone) - (p_at at time zone 'UTC');
$fn$;

comment on function ordinaut._zone_offset(text, timestamptz) is 'A zone''s offset from UTC.';

create or replace function ordinaut.zone_changes(
  p_timezone text,
  p_from     timestamptz,
  p_to       timestamptz
)
returns table (at timestamptz, utc_offset interval)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_step record;
  v_middle timestamptz;
begin
  perform ordinaut._check_timezone(coalesce(p_timezone, ''));
  perform ordinaut._check_at('from', p_from);
  perform ordinaut._check_at('to', p_to);
  if p_from is null or p_to is null or p_to < p_from or p_to - p_from > interval '7310 days' then
    perform ordinaut._refuse('to must be from, or up to 20 years after it');
  end if;

  at := p_from;
  utc_offset := ordinaut._zone_offset(p_timezone, p_from);
  return next;
  -- A loop over the few days on which something changes, and in it 17 halvings down to a second.
  for v_step in
    select d.low, d.high, d.before, d.after
    from (
      select
        lag(g.at) over step as low, g.at as high,
        lag(o.utc_offset) over step as before, o.utc_offset as after
      from (
        select s.at from generate_series(p_from, p_to, interval '24 hours') as s (at)
        union
        select p_to
      ) as g
      cross join lateral ordinaut._zone_offset(p_timezone, g.at) as o (utc_offset)
      window step as (order by g.at)
    ) as d
    where d.before <> d.after
    order by d.low
  loop
    while v_step.high - v_step.low > interval '1 s' loop
      v_middle := v_step.low
        + ceil(extract(epoch from v_step.high - v_step.low) / 2) * interval '1 s';
      exit when v_middle >= v_step.high;
      if ordinaut._zone_offset(p_timezone, v_middle) = v_step.before then
        v_step.low := v_middle;
      else
        v_step.high := v_middle;
      end if;
    end loop;
    at := v_step.high;
    utc_offset := v_step.after;
    return next;
  end loop;
end
$fn$;

comment on function ordinaut.zone_changes(text, timestamptz, timestamptz) is
  'What this server knows of a zone: its offset from UTC at p_from, and each instant up to p_to '
  'at which it changes, to the second if p_from is whole seconds; two changes that undo each '
  'other within a day are not seen. Errors: invalid_parameter_value.';

create or replace function ordinaut.zones_in_use()
returns table (timezone text, uses bigint, example text, releases text[])
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $fn$
  select
    u.timezone, count(*), min(u.example),
    array_agg(distinct u.tzdata order by u.tzdata) filter (where u.tzdata is not null)
  from (
    select t.timezone, t.namespace || '/' || t.name as example, s.tzdata
    from ordinaut.task as t
    join ordinaut.task_schedule as s on s.task_id = t.task_id
    where t.status in ('active', 'paused')
    union all
    select c.timezone, 'calendar ' || c.namespace || '/' || c.name, null
    from ordinaut.calendar as c
  ) as u
  group by u.timezone
  order by u.timezone;
$fn$;

comment on function ordinaut.zones_in_use() is
  'The time zones of active and paused tasks, and of calendars: how many use each, one of them, '
  'and the releases of the IANA data that plans were made with.';
