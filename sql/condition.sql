/*
 * Conditions: a task fires when a query becomes true.
 *
 *   every 30 s: select exists (select from invoice where paid_at is null)
 *
 *   look_at --> unpolled_conditions() --> a scheduler asks the query (ordinaut/conditions.py)
 *           --> report_condition(): false -> true sets next_run = now, and tick fires it
 *
 * The query is never run in here: a security definer would lend its rights to whoever may create
 * a task.  The scheduler asks it in a read-only transaction of its own login, or below it as the
 * role of its setting condition_role.
 *
 * Any number of schedulers may ask at once.  The first answer to a poll counts, and moves look_at,
 * which is the poll's name; so do a pause, an edit and a snooze, and what was asked before is void.
 */

create or replace function ordinaut._condition_every(p_expr text)
returns interval
language sql
immutable
as $fn$
  select ordinaut._every(substring(p_expr from $re$^every (.*?):\s$re$));
$fn$;

comment on function ordinaut._condition_every(text) is 'How often a condition is looked at.';

create or replace function ordinaut._condition_query(p_expr text)
returns text
language sql
immutable
as $fn$
  select substring(p_expr from $re$^every .*?:\s+(.*)$$re$);
$fn$;

comment on function ordinaut._condition_query(text) is 'The query of a condition.';

create or replace function ordinaut._check_condition(p_expr text)
returns void
language plpgsql
immutable
as $fn$
declare
  v_hint constant text := 'For kind condition, one query with one boolean, and how often to ask: '
    'every 30 s: select exists (select from invoice where paid_at is null).';
  v_query constant text := ordinaut._condition_query(p_expr);
  v_every constant text := substring(p_expr from $re$^every (.*?):\s$re$);
begin
  if v_query is null then
    perform ordinaut._refuse(
      format('schedule_expr %L does not begin with how often to ask', left(p_expr, 80)), v_hint);
  elsif v_query !~* $re$^[\s(]*(select|with|values|table)\M$re$ then
    perform ordinaut._refuse(
      format('schedule_expr %L is no query', left(btrim(v_query), 80)), v_hint);
  elsif length(p_expr) > 20000 then
    perform ordinaut._refuse('schedule_expr is longer than 20000 characters',
      'Make the query a view, and ask that.');
  elsif v_every like '% phase %' or v_every like '% after end' then
    perform ordinaut._refuse(
      format('schedule_expr: a condition is asked every %L', left(v_every, 80)), v_hint);
  end if;
  perform ordinaut._condition_every(p_expr);
end
$fn$;

comment on function ordinaut._check_condition(text) is
  'Refuse what is visibly no condition; what is no query, the first look finds. Errors: '
  'invalid_parameter_value.';

create or replace function ordinaut.unpolled_conditions(p_limit integer default 20)
returns table (task_id uuid, revision integer, query text, polled_for timestamptz)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $fn$
begin
  perform ordinaut._check_count('limit', p_limit, 1, 100000);
  return query
  select t.task_id, t.revision, ordinaut._condition_query(t.schedule_expr), s.look_at
  from ordinaut.task_schedule as s
  join ordinaut.task as t on t.task_id = s.task_id
  where s.look_at <= ordinaut.now() and t.status = 'active' and t.schedule_kind = 'condition'
  order by s.look_failures, s.is_met is null, s.look_at, s.task_id
  limit p_limit;
end
$fn$;

comment on function ordinaut.unpolled_conditions(integer) is
  'The conditions to be asked now, those that failed before last: a query that hangs must not '
  'delay one that does not. The answer goes to report_condition(), with revision and polled_for. '
  'Errors: invalid_parameter_value.';

create or replace function ordinaut.report_condition(
  p_task_id    uuid,
  p_revision   integer,
  p_polled_for timestamptz,
  p_is_true    boolean,
  p_error      text    default null,
  p_is_defect  boolean default false
)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_now timestamptz := ordinaut.now();
  v_is_true constant boolean := coalesce(p_is_true, false);
  v_plan ordinaut.task_schedule;
  v_task ordinaut.task;
  v_every interval;
begin
  select s.* into v_plan
  from ordinaut.task_schedule as s
  where s.task_id = p_task_id
  for update;
  select t.* into v_task from ordinaut.task as t where t.task_id = p_task_id;
  if v_task.revision is distinct from p_revision
    or v_task.status <> 'active'
    or v_task.schedule_kind <> 'condition'
    or v_plan.look_at is distinct from p_polled_for
    or p_polled_for is null
  then
    return false;
  end if;

  v_every := ordinaut._condition_every(v_task.schedule_expr);
  if v_now > v_task.end_at then
    perform ordinaut._stop_task(p_task_id, 'completed', 'its end_at has come', ordinaut._actor());
  elsif p_error is not null and p_is_defect and v_plan.is_met is null then
    -- It never worked: a typo.  What worked before is an outage, and may come back.
    perform ordinaut._stop_task(p_task_id, 'invalid', p_error, ordinaut._actor());
  elsif p_error is not null then
    update ordinaut.task_schedule as s
    set
      look_error = left(p_error, 1000),
      look_failures = s.look_failures + 1,
      look_at = v_now + least(
        v_every * power(2, least(s.look_failures, 20)), greatest(v_every, interval '1 min'))
    where s.task_id = p_task_id;
  else
    update ordinaut.task_schedule as s
    set
      is_met = v_is_true,
      met_at = case when s.is_met is distinct from v_is_true then v_now else s.met_at end,
      look_error = null,
      look_failures = 0,
      look_at = v_now + v_every,
      next_run = case
        when v_is_true and s.is_met is not true
          then coalesce(s.next_run, greatest(v_now, s.fired_until + interval '1 us'))
        else s.next_run
      end
    where s.task_id = p_task_id;
  end if;
  return true;
end
$fn$;

comment on function ordinaut.report_condition(uuid, integer, timestamptz, boolean, text, boolean) is
  'Report what a condition was: the task fires if it became true, or is true at the first look; '
  'null is false. p_error: why it could not be asked; what it was before stands, and it is asked '
  'again, later and later up to a minute; p_is_defect: it is the query''s own fault, and a query '
  'that never worked makes its task invalid. False: another scheduler reported this poll, or the '
  'task was edited, paused or snoozed meanwhile, and nothing was stored.';
