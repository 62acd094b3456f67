/*
 * What a task must be to be accepted: refused here is what could never fire, or never run.
 *
 * A calendar that SQL does not expand is refused where its syntax tells; what this lets pass, a
 * planner finds out, and makes the task invalid with the reason.
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

create or replace function ordinaut._check_interval(p_expr text)
returns void
language plpgsql
immutable
as $fn$
begin
  perform ordinaut._every(p_expr);
  perform ordinaut._phase(p_expr);
end
$fn$;

comment on function ordinaut._check_interval(text) is
  'Refuse what is no interval schedule. Errors: invalid_parameter_value.';

-- What no planner could read.  What this lets pass and a planner refuses makes the task invalid.
create or replace function ordinaut._check_cron(p_expr text)
returns void
language plpgsql
immutable
as $fn$
declare
  v_words text[] := regexp_split_to_array(btrim(p_expr), $re$\s+$re$);
begin
  if p_expr is null or length(p_expr) > 1000 then
    perform ordinaut._refuse('schedule_expr is missing, or longer than 1000 characters',
      'For kind cron: 30 9 * * MON-FRI.');
  elsif v_words[1] like '@%' then
    if cardinality(v_words) > 1 or lower(v_words[1]) not in ('@yearly', '@annually', '@monthly',
      '@weekly', '@daily', '@midnight', '@hourly')
    then
      perform ordinaut._refuse(format('schedule_expr %L is no alias', left(p_expr, 80)),
        '@yearly, @monthly, @weekly, @daily, @hourly; @every is kind interval.');
    end if;
  elsif cardinality(v_words) not in (5, 6) then
    perform ordinaut._refuse(
      format('schedule_expr %L has %s fields', left(p_expr, 80), cardinality(v_words)),
      'Five (minute, hour, day of month, month, day of week), or six with the second first.');
  elsif p_expr !~ $re$^[0-9A-Za-z*/,?#\s-]*$$re$ then
    perform ordinaut._refuse(format('schedule_expr %L has characters that no cron knows',
      left(p_expr, 80)), 'Digits, names, and * / , - ? # only.');
  end if;
end
$fn$;

comment on function ordinaut._check_cron(text) is
  'Refuse what is visibly no cron expression. Errors: invalid_parameter_value.';

create or replace function ordinaut._check_rrule(p_expr text)
returns void
language plpgsql
immutable
as $fn$
begin
  if p_expr is null or p_expr !~* $re$\m(FREQ=|RDATE\M)$re$ then
    perform ordinaut._refuse(format('schedule_expr %L is no rule', left(p_expr, 80)),
      'For kind rrule: FREQ=WEEKLY;BYDAY=MO,TH;BYHOUR=9;BYMINUTE=0;BYSECOND=0.');
  elsif length(p_expr) > 100000 then
    perform ordinaut._refuse('schedule_expr is longer than 100000 characters');
  end if;
end
$fn$;

comment on function ordinaut._check_rrule(text) is
  'Refuse what is visibly no rule of RFC 5545. Errors: invalid_parameter_value.';

create or replace function ordinaut._check_dst(p_kind text, p_gap text, p_overlap text)
returns void
language plpgsql
immutable
as $fn$
begin
  if p_gap not in ('shift', 'skip') then
    perform ordinaut._refuse(format('dst_gap %L must be shift or skip', left(p_gap, 80)));
  elsif p_overlap not in ('first', 'second', 'both') then
    perform ordinaut._refuse(
      format('dst_overlap %L must be first, second or both', left(p_overlap, 80)));
  elsif p_kind not in ('cron', 'rrule', 'union') and coalesce(p_gap, p_overlap) is not null then
    perform ordinaut._refuse(
      format('%s was given, but schedule_kind is %s',
        case when p_gap is not null then 'dst_gap' else 'dst_overlap' end, p_kind),
      'It is for cron, rrule and union; a once may have an offset: 2027-11-07T01:30-05:00.');
  end if;
end
$fn$;

comment on function ordinaut._check_dst(text, text, text) is
  'Refuse unknown DST policies, and any for a kind that has none. Errors: '
  'invalid_parameter_value.';

create or replace function ordinaut._check_union(p_expr text, p_timezone text)
returns void
language plpgsql
stable
as $fn$
declare
  v_members jsonb;
  v_member jsonb;
  v_n integer := 0;
begin
  begin
    v_members := case when length(p_expr) <= 100000 then p_expr::jsonb end;
  exception
    when data_exception or program_limit_exceeded then v_members := null;
  end;
  if jsonb_typeof(v_members) is distinct from 'array'
    or jsonb_array_length(v_members) not between 1 and 20
  then
    perform ordinaut._refuse(
      format('schedule_expr %L is no JSON array of 1 to 20 schedules', left(p_expr, 80)),
      'For kind union: [{"kind": "cron", "expr": "0 9 * * 1-5"}, '
      '{"kind": "interval", "expr": "4 h"}].');
  end if;

  for v_member in select m.value from jsonb_array_elements(v_members) as m loop
    v_n := v_n + 1;
    if jsonb_typeof(v_member) <> 'object'
      or v_member - array['kind', 'expr'] <> '{}'
      or jsonb_typeof(v_member -> 'kind') is distinct from 'string'
      or jsonb_typeof(v_member -> 'expr') is distinct from 'string'
      or v_member ->> 'kind' not in ('once', 'interval', 'cron', 'rrule')
    then
      perform ordinaut._refuse(
        format('schedule_expr: member %s, %s, is no schedule', v_n, left(v_member::text, 80)),
        'A member has a kind (once, interval, cron or rrule) and its expr, and nothing else.');
    end if;
    begin
      if v_member ->> 'expr' like '% after end' then
        perform ordinaut._refuse('the end of a run is in no calendar',
          'Make it a task of kind interval of its own.');
      end if;
      perform ordinaut._check_schedule(v_member ->> 'kind', v_member ->> 'expr', p_timezone);
    exception
      when invalid_parameter_value then
        perform ordinaut._refuse(format('schedule_expr: member %s (%s): %s', v_n,
          v_member ->> 'kind', replace(sqlerrm, 'schedule_expr ', '')));
    end;
  end loop;
end
$fn$;

comment on function ordinaut._check_union(text, text) is
  'Refuse a union whose members are visibly none, naming the first. Errors: '
  'invalid_parameter_value.';

create or replace function ordinaut._check_schedule(p_kind text, p_expr text, p_timezone text)
returns void
language plpgsql
stable
as $fn$
begin
  case coalesce(p_kind, '')
    when 'manual' then
      if p_expr is not null then
        perform ordinaut._refuse('schedule_expr was given, but schedule_kind is manual',
          'Name the kind: once, interval, cron, rrule, union, condition or event.');
      end if;
    when 'once' then
      perform ordinaut._once_at(p_expr, p_timezone);
    when 'interval' then
      perform ordinaut._check_interval(p_expr);
    when 'cron' then
      perform ordinaut._check_cron(p_expr);
    when 'rrule' then
      perform ordinaut._check_rrule(p_expr);
    when 'condition' then
      perform ordinaut._check_condition(p_expr);
    when 'event' then
      perform ordinaut._check_topic_pattern(p_expr);
    when 'union' then
      perform ordinaut._check_union(p_expr, p_timezone);
    else
      perform ordinaut._refuse(
        format('schedule_kind %L must be once, interval, cron, rrule, union, condition, event or '
          'manual', p_kind));
  end case;
end
$fn$;

comment on function ordinaut._check_schedule(text, text, text) is
  'Refuse an expression that is visibly none of its kind. Errors: invalid_parameter_value.';

create or replace function ordinaut._check_task(p_task ordinaut.task, p_allow_past boolean)
returns void
language plpgsql
stable
as $fn$
begin
  if p_task.name is null or length(p_task.name) > 100
    or p_task.name !~ '^[A-Za-z0-9][A-Za-z0-9_.-]*$'
  then
    perform ordinaut._refuse(format('name %L is not a task name', left(p_task.name, 120)),
      'Letters, digits, _ . - only, a letter or digit first, at most 100.');
  end if;
  perform ordinaut._check_label('namespace', p_task.namespace);
  perform ordinaut._check_tool(p_task.tool);
  perform ordinaut._check_payload(p_task.payload);
  if (p_task.tool = 'pipeline') <> (p_task.pipeline_id is not null) then
    perform ordinaut._refuse('tool is pipeline, but there is no pipeline',
      'Give its steps as pipeline: [{"id": "a", "uses": "echo"}].');
  elsif p_task.pipeline_id is not null then
    perform ordinaut._check_params(p_task.payload);
  end if;
  perform ordinaut._check_label('queue', p_task.queue);
  perform ordinaut._check_count('priority', p_task.priority, 1, 9);
  perform ordinaut._check_count('max_attempts', p_task.max_attempts, 1, 1000);
  perform ordinaut._check_key('key', p_task.key);
  perform ordinaut._check_count('key_limit', p_task.key_limit, 1, 10000);
  perform ordinaut._check_retry(p_task.retry);
  perform ordinaut._check_span('timeout', p_task.timeout, '1 ms', '30 days');
  perform ordinaut._check_span('grace', coalesce(p_task.grace, '-1 s'), '0 s', '365 days');
  perform ordinaut._check_timezone(coalesce(p_task.timezone, ''));
  perform ordinaut._check_at('start_at', p_task.start_at);
  perform ordinaut._check_at('end_at', p_task.end_at);
  if p_task.end_at < p_task.start_at then
    perform ordinaut._refuse(
      format('end_at %s lies before start_at %s', p_task.end_at, p_task.start_at));
  end if;
  if octet_length(p_task.description) > 8000 then
    perform ordinaut._refuse('description is over 8000 bytes');
  end if;
  if p_task.catchup not in ('all', 'latest', 'none') or p_task.catchup is null then
    perform ordinaut._refuse(format('catchup %L must be all, latest or none', p_task.catchup));
  end if;
  perform ordinaut._check_span('catchup_window', p_task.catchup_window, '1 s', '3650 days');
  perform ordinaut._check_count('catchup_rate', coalesce(p_task.catchup_rate, 1), 1, 1000000);
  perform ordinaut._check_span('jitter', p_task.jitter, '0 s', '30 days');
  perform ordinaut._check_count('max_runs', coalesce(p_task.max_runs, 1), 1, 2147483647);
  perform ordinaut._check_count(
    'pause_on_failure', coalesce(p_task.pause_on_failure, 1), 1, 1000);
  if p_task.overlap is null
    or p_task.overlap not in ('allow', 'skip', 'buffer_one', 'buffer_all', 'cancel_other')
  then
    perform ordinaut._refuse(
      format('overlap %L must be allow, skip, buffer_one, buffer_all or cancel_other',
        p_task.overlap));
  elsif p_task.overlap <> 'allow' and p_task.key is not null and p_task.key_limit > 1 then
    perform ordinaut._refuse(
      format('key_limit %s lets runs of the task overlap, overlap %s does not', p_task.key_limit,
        p_task.overlap), 'Make key_limit 1, or leave the key out.');
  end if;

  perform ordinaut._check_schedule(
    p_task.schedule_kind, p_task.schedule_expr, p_task.timezone);
  if p_task.schedule_kind = 'once' and not p_allow_past
    and ordinaut._once_at(p_task.schedule_expr, p_task.timezone) < ordinaut.now() - p_task.grace
  then
    perform ordinaut._refuse(
      format('schedule_expr %s is past by more than the grace of %s',
        p_task.schedule_expr, p_task.grace),
      'Give a later time, or allow_past to run it now.');
  end if;
  if p_task.schedule_kind = 'event' and jsonb_typeof(p_task.payload) <> 'object' then
    perform ordinaut._refuse('the payload of a task of kind event must be an object',
      'The event is added to it, under the name event.');
  end if;
  perform ordinaut._check_exclude(p_task);
  perform ordinaut._check_dst(p_task.schedule_kind, p_task.dst_gap, p_task.dst_overlap);
end
$fn$;

comment on function ordinaut._check_task(ordinaut.task, boolean) is
  'Refuse a task that could not fire. Errors: invalid_parameter_value, program_limit_exceeded.';
