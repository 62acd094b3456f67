/*
 * What a calendar may hold.  Whatever passes here and is none to a planner makes the tasks that
 * exclude it invalid, so this refuses as much as SQL can tell, and accepts one form of each part.
 */

create or replace function ordinaut._check_day_range(p_days text)
returns boolean
language sql
immutable
as $fn$
  -- Of each part the first and the last day, a last Sunday being 7: none runs backwards.
  select bool_and(coalesce(
    d.words[1] = '*'
    or array_position(n.names, d.words[2]) <= case
      when d.words[3] in ('SUN', '7') then 8
      else array_position(n.names, coalesce(d.words[3], d.words[2]))
    end, false))
  from unnest(
    string_to_array(regexp_replace(upper(p_days), $re$\s$re$, '', 'g'), ',')) as p (part)
  cross join lateral (
    select regexp_match(p.part, $re$^(?:(\*)|([A-Z]{3}|[0-7])(?:-([A-Z]{3}|[0-7]))?)(?:/[1-7])?$$re$)
  ) as d (words)
  cross join lateral (
    select case
      when d.words[2] ~ '[0-7]' and coalesce(d.words[3], '0') ~ '[0-7]'
        then array['0', '1', '2', '3', '4', '5', '6', '7']
      else array['SUN', 'MON', 'TUE', 'WED', 'THU', 'FRI', 'SAT']
    end
  ) as n (names);
$fn$;

comment on function ordinaut._check_day_range(text) is
  'Are these days of every week, as the last field of a cron expression has them?';

create or replace function ordinaut._wall_moment(p_text text, p_timezone text)
returns timestamptz
language sql
stable
as $fn$
  select case
    when p_text !~ $re$^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2})?(Z|[+-]\d{2}(:?\d{2})?)?)?$$re$
      then null
    when p_text ~ $re$:.*(Z|[+-]\d{2}(:?\d{2})?)$$re$ then p_text::timestamptz
    else ordinaut._local_instant(p_text::timestamp, p_timezone)
  end;
$fn$;

comment on function ordinaut._wall_moment(text, text) is
  'The instant of a date or time of a calendar; null: its form is none. Errors: data_exception.';

create or replace function ordinaut._check_calendar_part(
  p_part     text,
  p_value    jsonb,
  p_timezone text
)
returns boolean
language plpgsql
stable
as $fn$
declare
  v_text text := p_value #>> '{}';
begin
  case p_part
    when 'dates' then
      return jsonb_typeof(p_value) = 'string' and v_text ~ $re$^\d{4}-\d{2}-\d{2}$$re$
        and v_text::date between '1970-01-01' and '2199-12-31';
    when 'ranges' then
      if jsonb_typeof(p_value) <> 'array' or jsonb_array_length(p_value) <> 2 then
        return false;
      end if;
      perform ordinaut._check_at('ranges', ordinaut._wall_moment(p_value ->> 0, p_timezone));
      perform ordinaut._check_at('ranges', ordinaut._wall_moment(p_value ->> 1, p_timezone));
      return ordinaut._wall_moment(p_value ->> 0, p_timezone)
        < ordinaut._wall_moment(p_value ->> 1, p_timezone);
    else
      return jsonb_typeof(p_value) = 'object'
        and p_value - array['days', 'from', 'to'] = '{}'
        and not exists (
          select from jsonb_each(p_value) as e where jsonb_typeof(e.value) <> 'string')
        and ordinaut._check_day_range(coalesce(p_value ->> 'days', '*'))
        and coalesce(p_value ->> 'from', '00:00') ~ $re$^([01]\d|2[0-3]):[0-5]\d(:[0-5]\d)?$$re$
        and coalesce(p_value ->> 'to', '00:00') ~ $re$^([01]\d|2[0-3]):[0-5]\d(:[0-5]\d)?$$re$;
  end case;
end
$fn$;

comment on function ordinaut._check_calendar_part(text, jsonb, text) is
  'Is this one of the dates, ranges or weekly windows of a calendar? Errors: data_exception.';

create or replace function ordinaut._check_calendar(p_data jsonb, p_timezone text)
returns void
language plpgsql
stable
as $fn$
declare
  v_part record;
  v_item record;
  v_most integer;
  v_is_fine boolean;
begin
  if jsonb_typeof(p_data) is distinct from 'object' then
    perform ordinaut._refuse('data must be an object', 'For example {"dates": ["2026-12-25"]}.');
  elsif pg_column_size(p_data) > 200000 then
    perform ordinaut._refuse(
      format('data of %s bytes is over 200 kB', pg_column_size(p_data)),
      'Leave out what is past, or make several calendars of it.');
  end if;

  for v_part in select e.key, e.value from jsonb_each(p_data) as e loop
    v_most := case v_part.key when 'weekly' then 50 else 2000 end;
    if v_part.key not in ('dates', 'ranges', 'weekly') then
      perform ordinaut._refuse(format('data has an unknown key %L', left(v_part.key, 80)),
        'A calendar has dates, ranges and weekly; its time zone is an argument of its own.');
    elsif jsonb_typeof(v_part.value) <> 'array' or jsonb_array_length(v_part.value) > v_most then
      perform ordinaut._refuse(
        format('data.%s must be an array of at most %s', v_part.key, v_most));
    end if;
    for v_item in
      select a.value, a.n from jsonb_array_elements(v_part.value) with ordinality as a (value, n)
    loop
      begin
        v_is_fine := ordinaut._check_calendar_part(v_part.key, v_item.value, p_timezone);
      exception
        when data_exception then v_is_fine := false;
      end;
      if v_is_fine is not true then
        perform ordinaut._refuse(
          format('data.%s: number %s, %s, is none', v_part.key, v_item.n,
            left(v_item.value::text, 80)),
          case v_part.key
            when 'dates' then 'A date is written as 2026-12-25.'
            when 'ranges'
              then 'A range is a pair of times, the later one last: ["2026-12-24T14:00", '
                '"2027-01-02"].'
            else 'A window is {"days": "MON-FRI", "from": "22:00", "to": "06:00"}, its days as in '
              'cron and without # and L; without times it is the whole day.'
          end);
      end if;
    end loop;
  end loop;
end
$fn$;

comment on function ordinaut._check_calendar(jsonb, text) is
  'Refuse what is no calendar, naming the part. Errors: invalid_parameter_value.';
