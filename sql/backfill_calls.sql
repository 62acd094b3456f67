/*
 * The verbs of a backfill: ask for one, list, cancel; and what a planner asks and answers.
 */

create or replace function ordinaut.backfill(
  p_task  text,
  p_from  timestamptz,
  p_to    timestamptz,
  p_limit integer default 1000,
  p_rate  integer default null,
  p_note  text    default null
)
returns uuid
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_now timestamptz := ordinaut.now();
  v_task_id uuid := ordinaut._task_id(p_task);
  v_task ordinaut.task;
  v_backfill ordinaut.backfill;
begin
  perform ordinaut._check_count('limit', p_limit, 1, 10000);
  perform ordinaut._check_count('rate', coalesce(p_rate, 1), 1, 1000000);
  perform ordinaut._check_at('from', p_from);
  perform ordinaut._check_at('to', p_to);
  if octet_length(p_note) > 8000 then
    perform ordinaut._refuse('note is over 8000 bytes');
  elsif p_from is null or p_to is null or p_from >= p_to then
    perform ordinaut._refuse('a backfill needs a from, and a to after it');
  elsif p_to > v_now then
    perform ordinaut._refuse(format('to %s lies ahead', p_to),
      'A backfill is for the past; what is to come fires by itself.');
  end if;

  perform from ordinaut.task_schedule as s where s.task_id = v_task_id for update;
  select t.* into v_task from ordinaut.task as t where t.task_id = v_task_id;
  perform ordinaut._check_backfilled(v_task);
  insert into ordinaut.backfill as b (backfill_id, task_id, revision, from_at, to_at, at_most, rate,
    state, note, created_at, created_by)
  values (ordinaut.uuid_generate_v7(v_now), v_task_id, v_task.revision, p_from, p_to, p_limit,
    p_rate, 'pending', p_note, v_now, ordinaut._actor())
  returning b.* into v_backfill;
  if not ordinaut._is_planned(v_task) then
    perform ordinaut._fill(v_backfill, v_task,
      ordinaut._backfill_instants(v_task, p_from, p_to, p_limit), null);
  end if;
  return v_backfill.backfill_id;
end
$fn$;

comment on function ordinaut.backfill(text, timestamptz, timestamptz, integer, integer, text) is
  'Run a task once for each occurrence that its calendar has from p_from to before p_to (at most '
  'now), and return the id of the request. What fired is left alone; what was missed, skipped, '
  'dropped or excluded, and what was never decided, fires; what a calendar excludes does not. '
  'once and interval are done at once; else a planner does it, within a second where a scheduler '
  'runs: list_backfills() tells. It goes by the task as it is now, calendar, payload and queue, '
  'not as it was then; an edit before the planner came fails it. All or nothing: more than '
  'p_limit (at most 10000) occurrences, more than max_runs or the queue leave room for, and none '
  'fires. The runs start at once, oldest first, or p_rate a minute; they are live runs to '
  'overlap: skip skips what is due while one of them waits. A paused or completed task may be '
  'backfilled. Occurrences that prune() forgot count as never decided. Errors: OR020, OR031 '
  '(cancelled or invalid), invalid_parameter_value, configuration_limit_exceeded (queue full).';

create or replace function ordinaut.unplanned_backfills(
  p_limit       integer default 1,
  p_backfill_id uuid    default null
)
returns table (
  backfill_id   uuid,
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
begin
  perform ordinaut._check_count('limit', p_limit, 1, 10000);
  return query
  select
    b.backfill_id, t.task_id, t.revision, t.schedule_kind, ordinaut._expr_to_plan(t), t.timezone,
    t.dst_gap, t.dst_overlap, ordinaut._anchor(t), t.start_at,
    ordinaut._backfill_after(t, b.from_at), ordinaut._backfill_until(t, b.to_at), ordinaut.now(),
    case when t.exclude is not null then ordinaut._calendars_of(t) end
  from ordinaut.backfill as b
  join ordinaut.task_schedule as s on s.task_id = b.task_id
  join ordinaut.task as t on t.task_id = b.task_id
  where b.state = 'pending' and (p_backfill_id is null or b.backfill_id = p_backfill_id)
  order by b.backfill_id
  limit p_limit
  for key share of s skip locked;
end
$fn$;

comment on function ordinaut.unplanned_backfills(integer, uuid) is
  'What a planner needs to know of backfills that wait for it, or of one of them: it passes the '
  'occurrences after plan_after and up to end_at that no calendar excludes to plan_backfill(). '
  'Those whose task somebody changes just now are left for the next call. Errors: '
  'invalid_parameter_value.';

create or replace function ordinaut._hold_backfill(p_backfill_id uuid)
returns ordinaut.backfill
language plpgsql
volatile
as $fn$
declare
  v_backfill ordinaut.backfill;
begin
  perform
  from ordinaut.task_schedule as s
  where s.task_id = (
    select b.task_id from ordinaut.backfill as b where b.backfill_id = p_backfill_id
  )
  for update skip locked;
  if found then
    select b.* into v_backfill
    from ordinaut.backfill as b
    where b.backfill_id = p_backfill_id and b.state = 'pending';
  end if;
  return v_backfill;
end
$fn$;

comment on function ordinaut._hold_backfill(uuid) is
  'Lock the task of a pending backfill and return the backfill; null: it does not wait any more, '
  'or somebody else has the task.';

create or replace function ordinaut.plan_backfill(
  p_backfill_id uuid,
  p_at          timestamptz[],
  p_notes       jsonb default null
)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_backfill ordinaut.backfill := ordinaut._hold_backfill(p_backfill_id);
  v_task ordinaut.task;
begin
  if v_backfill.backfill_id is null then
    return false;
  end if;
  select t.* into v_task from ordinaut.task as t where t.task_id = v_backfill.task_id;
  begin
    if v_task.revision <> v_backfill.revision then
      raise exception using
        errcode = 'OR031',
        message = format('task %s/%s was edited after this was asked for (revision %s, now %s)',
          v_task.namespace, v_task.name, v_backfill.revision, v_task.revision),
        hint = 'Ask again, for the task as it is now.';
    end if;
    perform ordinaut._fill(v_backfill, v_task, p_at, p_notes);
  exception
    when data_exception or integrity_constraint_violation or program_limit_exceeded
      or configuration_limit_exceeded or sqlstate 'OR031' then
      perform ordinaut._end_backfill(v_backfill, 'failed', sqlerrm);
  end;
  return true;
end
$fn$;

comment on function ordinaut.plan_backfill(uuid, timestamptz[], jsonb) is
  'Fire the occurrences that a planner found for a pending backfill, or fail it with the reason: '
  'too many, or its task was edited meanwhile. p_notes: what a change of the clocks did, by '
  'instant. False, and nothing is stored: it is not pending any more, or somebody changes the '
  'task just now.';

create or replace function ordinaut.fail_backfill(p_backfill_id uuid, p_reason text)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_backfill ordinaut.backfill := ordinaut._hold_backfill(p_backfill_id);
begin
  if v_backfill.backfill_id is null then
    return false;
  end if;
  perform ordinaut._end_backfill(v_backfill, 'failed', p_reason);
  return true;
end
$fn$;

comment on function ordinaut.fail_backfill(uuid, text) is
  'End a pending backfill whose calendar is none, for this reason. False: it is not pending any '
  'more, or somebody changes the task just now.';

create or replace function ordinaut.list_backfills(
  p_task  text    default null,
  p_limit integer default 100
)
returns table (
  backfill_id uuid,
  task        text,
  state       text,
  from_at     timestamptz,
  to_at       timestamptz,
  fired       integer,
  left_alone  integer,
  first_at    timestamptz,
  last_at     timestamptz,
  at_most     integer,
  rate        integer,
  revision    integer,
  reason      text,
  note        text,
  created_at  timestamptz,
  created_by  text,
  ended_at    timestamptz
)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $fn$
declare
  v_task_id uuid;
begin
  if p_task is not null then
    v_task_id := ordinaut._task_id(p_task);
  end if;
  return query
  select
    b.backfill_id, t.namespace || '/' || t.name, b.state, b.from_at, b.to_at, b.fired,
    b.left_alone, b.first_at, b.last_at, b.at_most, b.rate, b.revision, b.reason, b.note,
    b.created_at, b.created_by, b.ended_at
  from ordinaut.backfill as b
  join ordinaut.task as t on t.task_id = b.task_id
  where v_task_id is null or b.task_id = v_task_id
  order by b.backfill_id desc
  limit p_limit;
end
$fn$;

comment on function ordinaut.list_backfills(text, integer) is
  'Backfills, of a task or of all, the latest first. state: pending (a planner is waited for), '
  'done, failed (reason), cancelled; fired: from first_at to last_at; left_alone: had a run. '
  'prune() forgets those that ended. Errors: OR020.';

create or replace function ordinaut.cancel_backfill(p_backfill_id uuid, p_note text default null)
returns integer
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
-- Each cancel leaves a dead request behind: scanned, they make 10 000 of them cost 15 s.
set jit = off
set enable_seqscan = off
as $fn$
declare
  v_backfill ordinaut.backfill;
  v_reason text;
  v_run_id uuid;
  v_n integer := 0;
begin
  select b.* into v_backfill from ordinaut.backfill as b where b.backfill_id = p_backfill_id;
  if not found then
    raise exception using
      errcode = 'OR020',
      message = format('there is no backfill %s', p_backfill_id),
      hint = 'list_backfills() shows them; old ones may have been pruned.';
  end if;
  perform from ordinaut.task_schedule as s where s.task_id = v_backfill.task_id for update;
  select b.* into v_backfill from ordinaut.backfill as b where b.backfill_id = p_backfill_id;
  if v_backfill.state = 'pending' then
    v_reason := 'cancelled before it began';
  elsif v_backfill.state = 'done' then
    -- One by one: cancel_run() is what knows where a run may have gone meanwhile.
    for v_run_id in
      select o.run_id
      from ordinaut.occurrence as o
      where
        o.task_id = v_backfill.task_id
        and o.scheduled_for >= v_backfill.from_at
        and o.scheduled_for < v_backfill.to_at
        and o.backfill_id = p_backfill_id
        and (
          exists (select from ordinaut.due_work as w where w.work_id = o.run_id and w.attempt = 0)
          or exists (select from ordinaut.parked as p where p.work_id = o.run_id and p.attempt = 0)
        )
      order by o.run_id
    loop
      begin
        perform ordinaut.cancel_run(v_run_id, coalesce(p_note, 'its backfill was cancelled'));
        v_n := v_n + 1;
      exception
        when sqlstate 'OR020' then null;  -- Gone meanwhile.
      end;
    end loop;
    v_reason := format('%s of %s runs had not started', v_n, v_backfill.fired);
  else
    return 0;
  end if;
  perform ordinaut._end_backfill(v_backfill, 'cancelled', v_reason || coalesce(': ' || p_note, ''));
  return v_n;
end
$fn$;

comment on function ordinaut.cancel_backfill(uuid, text) is
  'Cancel a backfill: one that is pending does nothing, of one that is done the runs that have '
  'not started are cancelled; their occurrences stay fired, and retry_run() can run them after '
  'all. Returns how many runs. Cancelling twice is fine. Errors: OR020.';
