/*
 * Named calendars: times at which the tasks that exclude them do not fire.  Holidays are dates, a
 * freeze is a range, quiet hours are weekly windows.
 *
 *   {"dates":  ["2026-12-25", "2026-12-26"],                           whole days
 *    "ranges": [["2026-12-24T14:00", "2027-01-02"]],                   the end is not in it
 *    "weekly": [{"days": "MON-FRI", "from": "22:00", "to": "06:00"},   over midnight
 *               {"days": "SAT,SUN"}]}                                  the whole day
 *
 * A calendar is a part of the definition of each task that excludes it: a change raises their
 * revisions and drops their plans, in its own transaction.  Neither can tick fire an old plan
 * then, nor a planner hand one in that it made of the old calendar.
 *
 * Lock order: calendar, then task_schedule by task_id, then task.  A task that begins to exclude a
 * calendar holds its row for key share, against which a change and a drop lock for update: one of
 * the two sees the other.
 */

create or replace function ordinaut._check_exclude(p_task ordinaut.task)
returns void
language plpgsql
stable
as $fn$
declare
  v_name text;
begin
  if p_task.exclude is null then
    return;
  elsif ordinaut._is_told(p_task) or not ordinaut._is_planned(p_task) then
    perform ordinaut._refuse(
      format('exclude is for planned times, and kind %s has none here', p_task.schedule_kind),
      'Leave it out; or give the task a once, interval, cron, rrule or union.');
  elsif array_ndims(p_task.exclude) > 1 or cardinality(p_task.exclude) > 20 then
    perform ordinaut._refuse('exclude must be a list of at most 20 calendars');
  end if;
  foreach v_name in array p_task.exclude loop
    perform ordinaut._check_label('exclude', v_name);
  end loop;
end
$fn$;

comment on function ordinaut._check_exclude(ordinaut.task) is
  'Refuse what is no list of calendars. Errors: invalid_parameter_value.';

create or replace function ordinaut._hold_calendars(p_task ordinaut.task)
returns void
language plpgsql
volatile
as $fn$
declare
  v_missing text;
begin
  if p_task.exclude is null then
    return;
  end if;
  perform
  from ordinaut.calendar as c
  where c.namespace = p_task.namespace and c.name = any (p_task.exclude)
  order by c.name
  for key share;
  select e.name into v_missing
  from unnest(p_task.exclude) as e (name)
  where not exists (
    select from ordinaut.calendar as c where c.namespace = p_task.namespace and c.name = e.name)
  limit 1;
  if v_missing is not null then
    perform ordinaut._refuse(
      format('exclude %L is no calendar of namespace %s', v_missing, p_task.namespace),
      'set_calendar() makes one; list_calendars() shows those that exist.');
  end if;
end
$fn$;

comment on function ordinaut._hold_calendars(ordinaut.task) is
  'Keep the calendars that a task excludes as they are until the transaction ends. Errors: '
  'invalid_parameter_value (there is no such calendar in its namespace).';

create or replace function ordinaut._calendars_of(p_task ordinaut.task)
returns jsonb
language sql
stable
as $fn$
  select jsonb_agg(
    c.data || jsonb_build_object('name', c.name, 'timezone', c.timezone)
    order by array_position(p_task.exclude, c.name))
  from ordinaut.calendar as c
  where c.namespace = p_task.namespace and c.name = any (p_task.exclude);
$fn$;

comment on function ordinaut._calendars_of(ordinaut.task) is
  'The calendars that a task excludes, in its order; null: none.';

create or replace function ordinaut._outdate_excluded(
  p_namespace text,
  p_name      text,
  p_now       timestamptz
)
returns bigint
language plpgsql
volatile
as $fn$
declare
  v_n bigint;
begin
  -- Locked in one statement, read in the next: what we waited for is seen there.
  perform
  from ordinaut.task_schedule as s
  join ordinaut.task as t on t.task_id = s.task_id
  where t.namespace = p_namespace and p_name = any (t.exclude) and t.status <> 'cancelled'
  order by s.task_id
  for update of s;

  update ordinaut.task as t
  set
    revision = t.revision + 1,
    updated_at = p_now,
    -- Perhaps the calendar was what made it invalid: the planner tells.
    status = case t.status when 'invalid' then 'active' else t.status end,
    status_note = case when t.status <> 'invalid' then t.status_note end,
    status_by = case t.status when 'invalid' then ordinaut._actor() else t.status_by end,
    status_at = case t.status when 'invalid' then p_now else t.status_at end
  where t.namespace = p_namespace and p_name = any (t.exclude) and t.status <> 'cancelled';
  get diagnostics v_n = row_count;

  update ordinaut.task_schedule as s
  set
    revision = t.revision,
    next_run = null,
    upcoming = null,
    dst = null,
    excluded = null,
    planned_until = null,
    planned_at = null,
    tzdata = null,
    is_exhausted = false,
    replan_at = case t.status when 'active' then '-infinity'::timestamptz end
  from ordinaut.task as t
  where
    t.task_id = s.task_id
    and t.namespace = p_namespace
    and p_name = any (t.exclude)
    and t.status <> 'cancelled';
  return v_n;
end
$fn$;

comment on function ordinaut._outdate_excluded(text, text, timestamptz) is
  'Drop the plans of the tasks that exclude a calendar, and call for new ones. Returns how many.';

create or replace function ordinaut.set_calendar(
  p_name      text,
  p_data      jsonb,
  p_namespace text default 'default',
  p_timezone  text default 'UTC',
  p_note      text default null
)
returns text
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_now timestamptz := ordinaut.now();
  v_old ordinaut.calendar;
  v_outcome text := 'unchanged';
  v_n bigint := 0;
begin
  perform ordinaut._check_label('name', p_name);
  perform ordinaut._check_label('namespace', p_namespace);
  perform ordinaut._check_timezone(coalesce(p_timezone, ''));
  perform ordinaut._check_calendar(p_data, p_timezone);
  if octet_length(p_note) > 8000 then
    perform ordinaut._refuse('note is over 8000 bytes');
  end if;

  -- Again if somebody dropped it between the two statements.
  loop
    insert into ordinaut.calendar (namespace, name, data, timezone, note, updated_at, updated_by)
    values (p_namespace, p_name, p_data, p_timezone, p_note, v_now, ordinaut._actor())
    on conflict on constraint calendar_pk do nothing;
    if found then
      v_outcome := 'created';
      exit;
    end if;
    select c.* into v_old
    from ordinaut.calendar as c
    where c.namespace = p_namespace and c.name = p_name
    for update;
    exit when found;
  end loop;

  if v_outcome <> 'created'
    and (v_old.data, v_old.timezone, v_old.note) is distinct from (p_data, p_timezone, p_note)
  then
    v_outcome := 'updated';
    update ordinaut.calendar as c
    set
      data = p_data,
      timezone = p_timezone,
      note = p_note,
      updated_at = v_now,
      updated_by = ordinaut._actor()
    where c.namespace = p_namespace and c.name = p_name;
    if (v_old.data, v_old.timezone) is distinct from (p_data, p_timezone) then
      v_n := ordinaut._outdate_excluded(p_namespace, p_name, v_now);
    end if;
  end if;
  if v_outcome <> 'unchanged' then
    perform ordinaut._journal('calendar_set', p_detail => jsonb_build_object(
      'name', p_namespace || '/' || p_name, 'replanned', v_n));
  end if;
  return v_outcome;
end
$fn$;

comment on function ordinaut.set_calendar(text, jsonb, text, text, text) is
  'Make a calendar, or replace what it holds: dates (whole days), ranges (pairs of times, the '
  'second not in it) and weekly windows ({"days": "MON-FRI", "from": "22:00", "to": "06:00"}), '
  'wall time in p_timezone; at those times the tasks of the namespace that exclude it do not '
  'fire. They are planned anew at once, and the old plan fires no more; what was decided stays. '
  'Returns created, updated or unchanged. Errors: invalid_parameter_value.';

create or replace function ordinaut.list_calendars(p_namespace text default null)
returns table (
  namespace  text,
  name       text,
  timezone   text,
  data       jsonb,
  note       text,
  updated_at timestamptz,
  updated_by text,
  tasks      integer
)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $fn$
  select
    c.namespace, c.name, c.timezone, c.data, c.note, c.updated_at, c.updated_by,
    (
      select count(*)::integer
      from ordinaut.task as t
      where t.namespace = c.namespace and c.name = any (t.exclude) and t.status <> 'cancelled'
    )
  from ordinaut.calendar as c
  where p_namespace is null or c.namespace = p_namespace
  order by c.namespace, c.name;
$fn$;

comment on function ordinaut.list_calendars(text) is
  'Calendars by name, and how many tasks exclude each.';

create or replace function ordinaut.get_calendar(p_name text, p_namespace text default 'default')
returns table (
  namespace  text,
  name       text,
  timezone   text,
  data       jsonb,
  note       text,
  updated_at timestamptz,
  updated_by text,
  tasks      integer
)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $fn$
begin
  return query
  select l.* from ordinaut.list_calendars(p_namespace) as l where l.name = p_name;
  if not found then
    perform ordinaut._no_calendar(p_name, p_namespace);
  end if;
end
$fn$;

comment on function ordinaut.get_calendar(text, text) is
  'One calendar, as list_calendars() has it. Errors: OR020.';

create or replace function ordinaut._no_calendar(p_name text, p_namespace text)
returns void
language plpgsql
stable
as $fn$
begin
  raise exception using
    errcode = 'OR020',
    message = format('namespace %s has no calendar %L', p_namespace, p_name),
    hint = 'list_calendars() shows those that exist.';
end
$fn$;

comment on function ordinaut._no_calendar(text, text) is 'Raise OR020.';

create or replace function ordinaut.drop_calendar(p_name text, p_namespace text default 'default')
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_tasks text[];
begin
  perform
  from ordinaut.calendar as c
  where c.namespace = p_namespace and c.name = p_name
  for update;
  if not found then
    perform ordinaut._no_calendar(p_name, p_namespace);
  end if;

  select array_agg(t.name order by t.name) into v_tasks
  from ordinaut.task as t
  where t.namespace = p_namespace and p_name = any (t.exclude) and t.status <> 'cancelled';
  if v_tasks is not null then
    raise exception using
      errcode = 'OR031',
      message = format('calendar %s/%s is excluded by %s%s', p_namespace, p_name,
        array_to_string(v_tasks[:10], ', '),
        case when cardinality(v_tasks) > 10 then
          format(' and %s other tasks', cardinality(v_tasks) - 10) else '' end),
      hint = 'Take it out of their exclude with update_task() first, or empty it: '
        'set_calendar(name, ''{}'').';
  end if;
  delete from ordinaut.calendar as c where c.namespace = p_namespace and c.name = p_name;
  perform ordinaut._journal('calendar_dropped', p_detail => jsonb_build_object(
    'name', p_namespace || '/' || p_name));
end
$fn$;

comment on function ordinaut.drop_calendar(text, text) is
  'Drop a calendar that no task excludes. Errors: OR020, OR031 (tasks exclude it; the message '
  'names them).';
